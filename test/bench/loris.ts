/** What 500 clients that never get on do to those that do. */
import { join } from 'node:path';
import { compare } from '../faults/loris.ts';
import { type Destination, startLongshore } from './services.ts';
import { median } from './statistics.ts';

const COUNT = 500;

export async function benchLoris(
  destination: Destination,
  { folder, rounds, seconds }: { readonly folder: string; readonly rounds: number; readonly seconds: number },
): Promise<void> {
  const service = await startLongshore(join(folder, `loris-${destination.name}`), destination);
  try {
    const { aloneMs, amidMs, ratios } = await compare(service.artifacts, {
      rounds,
      phaseMs: seconds * 1000,
      count: COUNT,
    });
    const spread = `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`;
    console.log(
      `| 256 KiB PUT + GET, 4 clients, ${destination.name} | alone ${aloneMs.toFixed(1)} ms | amid ${COUNT} slow ones ${amidMs.toFixed(1)} ms | ${median(ratios).toFixed(2)}× (${spread}) |`,
    );
  } finally {
    await service.stop();
  }
}
