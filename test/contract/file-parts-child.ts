/**
 * A process that sends parts: `file-parts-child.ts <root> <path> <upload id> <part bytes> <first> <last> [durable]`, each
 * filled with its number, first of all and then, in the other direction, all of them again.
 */
import { crc32 } from 'node:zlib';
import { parsePath } from '../../lib/path.ts';
import { openFileDriver } from '../../lib/stores/drivers/file.ts';
import { NAMES } from '../hidden.ts';

const [root = '', path = '', id = '', bytes = '', first = '', last = '', durable] = process.argv.slice(2);
const partBytes = Number(bytes);
const numbers = Array.from({ length: Number(last) - Number(first) + 1 }, (_, i) => Number(first) + i);
const driver = await openFileDriver(root, NAMES);
const { signal } = new AbortController();
for (const order of [numbers, numbers.toReversed()])
  await Promise.all(
    order.map((number) => {
      const part = Buffer.alloc(partBytes, number);
      const body = { size: partBytes, crc32: crc32(part), open: () => [part] };
      const place = { number, offset: (number - 1) * partBytes, durable: durable === 'durable' };
      return driver.multipart.part({ path: parsePath(path), id }, place, body, { signal });
    }),
  );
