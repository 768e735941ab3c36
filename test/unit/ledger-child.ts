/**
 * A process that writes to a ledger: `ledger-child.ts <file> <seconds> <concurrency> <scope>`. Says `ready`, begins
 * at the first line on its stdin, and says number and id of each transfer once its acceptance is promised; at the
 * end, as JSON, how long its writes took. Its idempotency keys are the numbers from 0 on, in the given scope.
 */
import { once } from 'node:events';
import { pino } from 'pino';
import { newTransferId } from '../../lib/ledger/ids.ts';
import { Ledger } from '../../lib/ledger/ledger.ts';
import type { Place } from '../../lib/ledger/transfer.ts';
import { parsePath } from '../../lib/path.ts';

const [path = '', seconds = '', concurrency = '', scope = ''] = process.argv.slice(2);
const ledger = await Ledger.open({ path, log: pino({ level: 'silent' }) });
const latencies: number[] = [];

async function submit(number: number): Promise<void> {
  const id = newTransferId();
  const to: Place = { store: 'artifacts', path: parsePath(`${process.pid}/${number}`) };
  const startedMs = performance.now();
  const { transfer } = await ledger.transfers.accept(
    { id, kind: 'upload', to, onExists: 'replace', tree: false, priority: 100, labels: {}, owner: 'child' },
    { scope, key: String(number), requestHash: 'same' },
  );
  latencies.push(performance.now() - startedMs);
  process.stdout.write(`${number} ${transfer.id}\n`);
}

process.stdout.write('ready\n');
await once(process.stdin, 'data');
process.stdin.pause();
const untilMs = performance.now() + Number(seconds) * 1000;
const writers = Array.from({ length: Number(concurrency) }, async (_, writer) => {
  for (let n = 0; performance.now() < untilMs; n++) await submit(n * Number(concurrency) + writer);
});
await Promise.all(writers);
latencies.sort((a, b) => a - b);
const { writes } = ledger;
await ledger.close();
process.stdout.write(
  `${JSON.stringify({ written: latencies.length, slowestMs: latencies.at(-1), writes })}\n`,
);
