/** What kill tests have in common: a service with its client, and how they wait for it to come to rest. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from './client.ts';
import { hasEnded, jobKeysIn, type LedgerRow, rowsIn } from './oracle.ts';
import type { Service } from './service.ts';

export interface Scene {
  readonly service: Service;
  readonly client: Client;
}

/** Ends the service after `act`, and tells what it was at where that failed. */
export async function onStage(service: Service, act: (scene: Scene) => Promise<void>): Promise<void> {
  const client = new Client(() => service.url);
  try {
    await act({ service, client });
  } catch (error) {
    console.log(JSON.stringify(rowsIn(service.ledger)), service.log.slice(-4000));
    throw error;
  } finally {
    await client.close();
    await service.close();
  }
}

/** Looks until there is something; `waitMs` at most. */
export async function until<T>(
  what: string,
  waitMs: number,
  look: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  for (const untilMs = Date.now() + waitMs; ; await sleep(20)) {
    const found = await look();
    if (found !== undefined) return found;
    if (Date.now() > untilMs) throw new Error(`${what} did not happen`);
  }
}

export const ended = ({ service }: Scene, id: string, waitMs: number): Promise<LedgerRow> =>
  until(`the end of ${id}`, waitMs, () =>
    rowsIn(service.ledger).find((row) => row.id === id && hasEnded(row)),
  );

export const jobsEnded = ({ service }: Pick<Scene, 'service'>, waitMs: number): Promise<true> =>
  until('the end of all jobs', waitMs, async () =>
    (await jobKeysIn(service.redis.url)).length === 0 ? true : undefined,
  );

/** A run of sending, reading and killing. */
export interface Fray {
  readonly service: Service;
  readonly reader: { start(look: () => Promise<string | undefined>): void; stop(): Promise<void> };
  /** Whether there still is somebody to kill: so long is something sent. */
  killing: boolean;
  send(): Promise<void>;
  kill(): Promise<void>;
  look(): Promise<string | undefined>;
}

/** Until nobody is to be killed any more and all that was accepted has ended. */
export async function carryOn(
  run: Fray,
  {
    clients,
    killers,
    settleMs,
  }: { readonly clients: number; readonly killers: number; readonly settleMs: number },
): Promise<void> {
  const { service } = run;
  run.reader.start(() => run.look());
  const sending = Promise.all(Array.from({ length: clients }, () => run.send()));
  const killing = Promise.all(Array.from({ length: killers }, () => run.kill()));
  await Promise.race([killing, sending.then(() => killing)]);
  run.killing = false;
  await sending;
  const unended = () => rowsIn(service.ledger).filter((row) => !hasEnded(row));
  await until('the end of all transfers', settleMs, () => (unended().length === 0 ? true : undefined)).catch(
    (error: unknown) => {
      throw new Error(`${String(error)}: ${JSON.stringify(unended())}`);
    },
  );
  await jobsEnded(run, settleMs);
  await run.reader.stop();
}
