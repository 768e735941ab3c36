/** Random sequences of what clients, operators and bad luck do, against a list that says what must come of them. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { viewIn } from '../e2e/service.ts';
import { scaled } from '../scale.ts';
import { requireServer } from '../servers/require.ts';
import { Model, type Op } from './model.ts';
import { Real, sha256Of } from './model-real.ts';
import { bytesOf, randomOf, seedOf } from './seed.ts';

const SEQUENCES = scaled(10) === 10 ? 2000 : 60;
const MAX_COMMANDS = 12;
const PATHS = ['a', 'b', 'c'] as const;
const SIZES = [0, 1, 5000, 400_000] as const;

type Command = fc.AsyncCommand<Model, Real>;
const command = (
  name: string,
  run: (model: Model, real: Real) => Promise<void>,
  check: (model: Readonly<Model>) => boolean = () => true,
): Command => ({ check, run, toString: () => name });

const path = fc.constantFrom(...PATHS);
const body = fc
  .record({ size: fc.constantFrom(...SIZES), salt: fc.nat() })
  .map(({ size, salt }) => bytesOf(size, randomOf(salt)));
const nth = fc.nat(20);

async function submit(model: Model, real: Real, at: string, bytes: Uint8Array<ArrayBuffer>, create = false) {
  const headers = { 'idempotency-key': `${real.at(at)}-${model.ops.length}` };
  const query = create ? '?on-exists=fail' : '';
  const { id } = await viewIn(await real.service.put(real.at(at), bytes, headers, query), 202);
  model.accept({ path: at, content: sha256Of(bytes), id, create });
  return { again: () => real.service.put(real.at(at), bytes, headers, query), id };
}

const uploads = fc.tuple(path, body, fc.boolean(), fc.boolean()).map(([at, bytes, create, twice]) =>
  command(
    `submit(${at}, ${bytes.length} bytes${create ? ', create' : ''}${twice ? ', twice' : ''})`,
    async (model, real) => {
      const { id, again } = await submit(model, real, at, bytes, create);
      if (twice) expect(await viewIn(await again(), 202)).toMatchObject({ id });
    },
  ),
);

const deletes = path.map((at) =>
  command(`submit delete(${at})`, async (model, real) => {
    const answer = await real.service.submit({ kind: 'delete', to: real.at(at) });
    model.accept({ path: at, content: undefined, id: (await viewIn(answer, 202)).id });
  }),
);

/** Refused only while something else is being published there. */
async function now(model: Model, real: Real, at: string, bytes?: Uint8Array<ArrayBuffer>): Promise<void> {
  const answer = await real.artifact(at, bytes ? { method: 'PUT', body: bytes } : { method: 'DELETE' });
  const isBusy = answer.status === 503 && model.at(at).some(({ state }) => state === 'open');
  if (!isBusy) {
    expect([answer.status, await answer.text()]).toEqual([200, '{}']);
    model.accept({ path: at, content: bytes && sha256Of(bytes), state: 'landed' });
    expect(model.visible(at)).toContain(real.content(at));
  }
}
/** What a killed worker was publishing keeps its target until another worker has seen to it. */
const hasTurns = (model: Readonly<Model>): boolean => model.worker || !model.shaken;
const puts = fc
  .tuple(path, body)
  .map(([at, bytes]) =>
    command(`PUT(${at}, ${bytes.length} bytes)`, (model, real) => now(model, real, at, bytes), hasTurns),
  );
const erasures = path.map((at) => command(`DELETE(${at})`, (model, real) => now(model, real, at), hasTurns));

/** Of those of the model; one that was never submitted can't be picked. */
const onTransfer = (
  name: string,
  act: (model: Model, real: Real, op: Op & { id: string }) => Promise<void>,
) =>
  nth.map((n) =>
    command(
      `${name}(${n})`,
      (model, real) => act(model, real, model.transfers[n % model.transfers.length]!),
      (model) => model.transfers.length > 0,
    ),
  );

const cancels = onTransfer('cancel', async (model, real, op) => {
  const { status } = await real.transfer(op.id, { method: 'DELETE' });
  const allowed = op.state === 'open' ? [200, 409] : op.state === 'cancelled' ? [200] : [409];
  expect(allowed).toContain(status);
  if (op.state !== 'open' || status !== 200) return;
  op.state = 'cancelled';
  op.kept = op.content !== undefined;
  expect(model.visible(op.path)).toContain(real.content(op.path));
});

const retries = onTransfer('retry', async (model, real, op) => {
  const { status } = await real.transfer(op.id, { method: 'POST' }, '/retry');
  const hasBytes = op.content === undefined || op.kept;
  const ended = op.state === 'failed' || op.state === 'cancelled';
  const allowed = op.state === 'open' && op.create ? [202, 409] : [ended && hasBytes ? 202 : 409];
  expect(allowed).toContain(status);
  if (status === 202) model.retry(op);
});

const looks = path.map((at) =>
  command(`GET(${at})`, async (model, real) => {
    const answer = await real.artifact(at);
    const found = new Uint8Array(await answer.arrayBuffer());
    expect([200, 404]).toContain(answer.status);
    expect(model.visible(at)).toContain(answer.status === 200 ? sha256Of(found) : undefined);
  }),
);

const troubles = fc.constantFrom(
  command('expire staging', async (model, real) => {
    await (model.worker ? real.settle(model) : real.resolve(model));
    await real.expire();
    for (const op of model.ops) op.kept = false;
  }),
  command('restart the API', async (_model, real) => {
    await real.service.stopApi();
    await real.service.startApi();
  }),
  command('stop the worker', (model, real) => real.stopWorker(model)),
  command('start the worker', (model, real) => real.startWorker(model)),
  command('wipe Redis', async (model, real) => {
    await real.wipeRedis();
    model.shaken = true;
  }),
);

const kills = fc.tuple(fc.array(fc.tuple(path, body), { maxLength: 4 }), fc.nat(60)).map(([some, ms]) =>
  command(`kill a worker ${ms} ms after ${some.length} submits`, async (model, real) => {
    await real.stopWorker(model);
    model.shaken = true;
    await real.killed(ms, async () => {
      for (const [at, bytes] of some) await submit(model, real, at, bytes);
    });
  }),
);

/** A kill takes seconds to be noticed and made good. */
const everyday = [uploads, uploads, deletes, puts, erasures, cancels, retries, looks, troubles];
const COMMANDS = [...Array.from({ length: 8 }, () => everyday).flat(), kills];

requireServer('redis')('random sequences of commands', () => {
  let real: Real;
  beforeAll(async () => {
    real = await Real.open();
  });
  afterAll(() => real?.close());

  test(
    'leave exactly what was accepted last and not cancelled',
    async () => {
      const run = fc.asyncProperty(fc.commands(COMMANDS, { maxCommands: MAX_COMMANDS }), async (commands) => {
        const model = new Model();
        real.fresh();
        await fc.asyncModelRun(() => ({ model, real }), commands);
        await real.settle(model);
        const objections = model.ops.map((op) => model.objection(op)).filter(Boolean);
        expect(objections).toEqual([]);
        for (const at of PATHS) expect([at, real.content(at)]).toEqual([at, model.landed(at)]);
        await real.collect();
        const kept = model.transfers.filter((op) => op.kept).map(({ id }) => id);
        expect(await real.staged(kept)).toEqual(kept.toSorted());
        await real.expire();
      });
      await fc.assert(run, { numRuns: SEQUENCES, seed: seedOf('model'), endOnFailure: true });
    },
    SEQUENCES * 5000,
  );
});
