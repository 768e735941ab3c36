import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MAX_STREAMS } from '../../apps/api/routes/events.ts';
import { ProgressReporter } from '../../lib/jobs/progress.ts';
import { Queue } from '../../lib/jobs/queue.ts';
import { Ledger } from '../../lib/ledger/ledger.ts';
import { createLog } from '../../lib/log.ts';
import { errorOf } from './api.ts';
import { type SentEvent, Service, sentEvents, viewIn } from './service.ts';

let service: Service;
const stop = new Set<AbortController>();
beforeEach(async () => {
  service = await Service.start();
});
afterEach(async () => {
  for (const controller of stop) controller.abort();
  stop.clear();
  await service.close();
});

const upload = async (path: string): Promise<string> => (await viewIn(await service.put(path, 'x'), 202)).id;
const statesOf = (events: readonly SentEvent[]): string[] =>
  events.filter(({ name }) => name === 'state').map(({ data }) => data.state);
const DONE = ['accepted', 'running', 'publishing', 'succeeded'];

async function collect(path: string, headers: Record<string, string> = {}): Promise<SentEvent[]> {
  const events: SentEvent[] = [];
  for await (const event of service.events(path, AbortSignal.timeout(20_000), headers)) events.push(event);
  return events;
}

/** Follows in the background; `until` resolves with all events once `done` holds for the last one. */
function follow(path: string, headers: Record<string, string> = {}) {
  const controller = new AbortController();
  stop.add(controller);
  const events: SentEvent[] = [];
  const waiting: { done: (event: SentEvent) => boolean; resolve: (events: SentEvent[]) => void }[] = [];
  const opened = service.fetch(path, { headers, signal: controller.signal });
  const ended = (async () => {
    for await (const event of sentEvents(await opened)) {
      events.push(event);
      for (const one of waiting) if (one.done(event)) one.resolve([...events]);
    }
  })().catch((error: unknown) => {
    if (!controller.signal.aborted) throw error;
  });
  return {
    opened,
    ended,
    until: (done: (event: SentEvent) => boolean) =>
      new Promise<SentEvent[]>((resolve) => {
        if (events.some(done)) resolve([...events]);
        else waiting.push({ done, resolve });
      }),
    stop: () => controller.abort(),
  };
}

describe('the stream of one transfer', () => {
  test('tells every state in order and ends with the transfer', async () => {
    const id = await upload('story.txt');
    const events = await collect(`/api/v1/transfers/${id}/events`);
    expect(statesOf(events)).toEqual(DONE);
    const ids = events.flatMap((event) => event.id ?? []);
    expect(ids).toEqual([...ids].sort((a, b) => a - b));
    expect(events[0]!.data).toMatchObject({
      transfer: id,
      kind: 'upload',
      to: { store: 'artifacts', path: 'story.txt' },
    });
  });

  test('resumes after Last-Event-ID, in a header or a parameter, also after the API was restarted', async () => {
    const id = await upload('resumed.txt');
    const all = await collect(`/api/v1/transfers/${id}/events`);
    const seen = String(all[1]!.id);
    await service.stopApi();
    await service.startApi();
    const path = `/api/v1/transfers/${id}/events`;
    expect(statesOf(await collect(path, { 'last-event-id': seen }))).toEqual(DONE.slice(2));
    expect(statesOf(await collect(`${path}?last-event-id=${seen}`))).toEqual(DONE.slice(2));
  });

  test('answers 204 to whoever has seen the end', async () => {
    const id = await upload('over.txt');
    const last = (await collect(`/api/v1/transfers/${id}/events`)).at(-1)!;
    const answer = await service.fetch(`/api/v1/transfers/${id}/events`, {
      headers: { 'last-event-id': String(last.id) },
    });
    expect(answer.status).toBe(204);
  });

  test('of a transfer that is not there is a 404', async () => {
    expect((await service.fetch('/api/v1/transfers/t-nothing/events')).status).toBe(404);
  });
});

describe('progress', () => {
  test('of a running transfer is told without a number, and is in its answer with rate and rest', async () => {
    await service.stopWorker();
    const id = await upload('slow.bin');
    const log = createLog({ level: 'silent', format: 'json', process: 'test' });
    const ledger = await Ledger.open({ path: join(service.folder, 'ledger.db'), log });
    const queue = new Queue({ url: service.redis.url, prefix: '{longshore}' }, log);
    try {
      await ledger.transfers.start(id, 1, 'a-worker');
      const streams = [follow(`/api/v1/transfers/${id}/events`), follow('/api/v1/events')];
      for (const stream of streams) await stream.opened;
      const reporter = new ProgressReporter(queue, id, 1);
      const reporting = setInterval(() => reporter.report(250, 1000), 50);
      for (const stream of streams) {
        const told = (await stream.until(({ name }) => name === 'progress')).find(
          ({ name }) => name === 'progress',
        );
        expect(told?.id).toBeUndefined();
        expect(told?.data).toMatchObject({ transfer: id, bytesDone: 250, bytesTotal: 1000 });
      }
      const view = await service.transfer(id);
      clearInterval(reporting);
      expect(view).toMatchObject({
        state: 'running',
        bytesDone: 250,
        attempts: [{ number: 1, worker: 'a-worker' }],
      });
      expect(view.bytesPerSecond).toBeGreaterThan(0);
      expect(view.etaSeconds).toBeGreaterThanOrEqual(0);
    } finally {
      await queue.close();
      await ledger.close();
    }
  });
});

describe('the stream of all transfers', () => {
  test('begins with what happens next, and tells everybody the same', async () => {
    await service.ended(await upload('before.txt'));
    const [first, second] = [follow('/api/v1/events'), follow('/api/v1/events')];
    expect((await first.opened).headers.get('content-type')).toMatch(/^text\/event-stream/);
    await second.opened;
    const id = await upload('after.txt');
    const ended = ({ data }: SentEvent): boolean => data.transfer === id && data.state === 'succeeded';
    for (const stream of [first, second]) expect(statesOf(await stream.until(ended))).toEqual(DONE);
  });

  test('tells a client that comes back exactly what it missed', async () => {
    const first = follow('/api/v1/events');
    await first.opened;
    const one = await upload('one.txt');
    const seen = await first.until(({ data }) => data.transfer === one && data.state === 'running');
    first.stop();
    const cursor = seen.at(-1)!.id!;
    await service.ended(one);
    const two = await upload('two.txt');
    await service.ended(two);
    const again = follow('/api/v1/events', { 'last-event-id': String(cursor) });
    const missed = await again.until(({ data }) => data.transfer === two && data.state === 'succeeded');
    expect(missed.map(({ data }) => `${data.transfer} ${data.state}`)).toEqual([
      ...DONE.slice(2).map((state) => `${one} ${state}`),
      ...DONE.map((state) => `${two} ${state}`),
    ]);
    expect(missed.every(({ id }) => id! > cursor)).toBe(true);
  });

  test('goes on without Redis', async () => {
    const stream = follow('/api/v1/events');
    await stream.opened;
    await service.stopWorker();
    await service.redis.kill();
    const id = await upload('no-redis.txt');
    await stream.until(({ data }) => data.transfer === id && data.state === 'accepted');
    await service.fetch(`/api/v1/transfers/${id}`, { method: 'DELETE' });
    await stream.until(({ data }) => data.transfer === id && data.state === 'cancelled');
  });

  test('ends when the API shuts down, which it does not hold up', async () => {
    const stream = follow('/api/v1/events');
    await stream.opened;
    const begunMs = performance.now();
    await service.stopApi();
    await stream.ended;
    expect(performance.now() - begunMs).toBeLessThan(2500);
  });

  test('one more than a process may have open is refused for now, and taken once another has ended', async () => {
    const { port } = new URL(service.url);
    const sockets: Socket[] = [];
    const statusOf = async (): Promise<string> => {
      const socket = connect(Number(port), '127.0.0.1').setEncoding('latin1');
      sockets.push(socket);
      socket.write('GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n');
      const [head] = (await once(socket, 'data')) as [string];
      return head.slice(9, 12);
    };
    try {
      for (let n = 0; n < MAX_STREAMS; n += 50)
        expect(new Set(await Promise.all(Array.from({ length: 50 }, statusOf)))).toEqual(new Set(['200']));
      const refused = await service.fetch('/api/v1/events');
      expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '5']);
      expect((await errorOf(refused)).code).toBe('TEMPORARILY_UNAVAILABLE');
      expect((await service.fetch('/api/v1/transfers')).status).toBe(200);
      sockets[0]!.destroy();
      await expect.poll(statusOf, { timeout: 20_000 }).toBe('200');
    } finally {
      for (const socket of sockets) socket.destroy();
    }
  });

  test('a client that went away without a word is forgotten', async () => {
    const socket = connect(Number(new URL(service.url).port), '127.0.0.1');
    socket.write('GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await new Promise((resolve) => socket.once('data', resolve));
    const streams = async (): Promise<string | undefined> =>
      /^longshore_event_streams (\d+)$/m.exec(await (await service.fetch('/metrics')).text())?.[1];
    expect(await streams()).toBe('1');
    socket.resetAndDestroy();
    await expect.poll(streams).toBe('0');
  });
});
