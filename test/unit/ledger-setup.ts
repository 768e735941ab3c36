import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { onTestFinished } from 'vitest';
import { newTransferId } from '../../lib/ledger/ids.ts';
import { Ledger } from '../../lib/ledger/ledger.ts';
import type { NewTransfer, Place, Transfer, TransferResult } from '../../lib/ledger/transfer.ts';
import { parsePath } from '../../lib/path.ts';

export const SILENT = pino({ level: 'silent' });
export const HOUR_MS = 3600 * 1000;
export const DAY_MS = 24 * HOUR_MS;
export const PUBLISHED: TransferResult = { outcome: 'published', verified: [] };
export const BROKEN = { kind: 'unavailable', message: 'the store was away' } as const;

/** A path for a ledger in a folder of its own, which goes with the test. */
export function ledgerPath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'longshore-ledger-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'ledger.db');
}

export interface Clock {
  nowMs: number;
}
export const clockAt = (nowMs: number): Clock => ({ nowMs });

export async function openLedger(path = ledgerPath(), clock?: Clock): Promise<Ledger> {
  const ledger = await Ledger.open({ path, log: SILENT, ...(clock && { clock: () => clock.nowMs }) });
  onTestFinished(() => ledger.close());
  return ledger;
}

export const at = (path: string, store = 'artifacts'): Place => ({ store, path: parsePath(path) });

export const anUpload = (path = 'run/model.bin', more: Partial<NewTransfer> = {}): NewTransfer => ({
  id: newTransferId(),
  kind: 'upload',
  to: at(path),
  onExists: 'replace',
  tree: false,
  priority: 100,
  labels: {},
  owner: 'anonymous',
  ...more,
});

export const staged = (size: number): Pick<NewTransfer, 'digests'> => ({
  digests: { size, sha256: 'ab'.repeat(32), blockCrcs: Uint32Array.of(7) },
});

export async function accepted(
  ledger: Ledger,
  path?: string,
  more?: Partial<NewTransfer>,
): Promise<Transfer> {
  return (await ledger.transfers.accept(anUpload(path, more))).transfer;
}

export async function running(ledger: Ledger, path?: string, more?: Partial<NewTransfer>): Promise<Transfer> {
  const { id } = await accepted(ledger, path, more);
  return (await ledger.transfers.start(id, 1, 'worker'))!;
}

/** Published and ended, whatever stands in its way. */
export async function succeed(ledger: Ledger, { id, epoch }: Pick<Transfer, 'id' | 'epoch'>): Promise<void> {
  const turn = await ledger.transfers.publishing(id, epoch);
  if (turn !== 'ok') throw new Error(`no turn: ${turn}`);
  await ledger.transfers.end(id, epoch, { state: 'succeeded', result: PUBLISHED });
}

export const stateOf = async (ledger: Ledger, id: string): Promise<string | undefined> =>
  (await ledger.transfers.get(id))?.state;

export const eventsOf = async (ledger: Ledger, id: string): Promise<string[]> =>
  (await ledger.events.after(0, 100, id)).map((event) => event.state);
