/** Small bytes, to and from memory. */
import type { Bytes } from './driver.ts';

export async function* once(bytes: Uint8Array): Bytes {
  yield bytes;
}

/** All of them, copied: chunks are lent. */
export async function collected(bytes: Bytes): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of bytes) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}
