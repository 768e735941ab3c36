/** Large objects on their way between the artifact root, a folder beside it and staging, and what has become of them. */
import { createHash } from 'node:crypto';
import { request } from 'undici';
import type { Client } from './client.ts';
import type { Found } from './oracle.ts';
import type { Service } from './service.ts';
import type { Source } from './sources.ts';

/** From the client, from the attic to the artifacts, from there to the attic, from the artifacts into staging. */
export const WAYS = ['upload', 'send', 'bring', 'fetch'] as const;
export type Way = (typeof WAYS)[number];

export interface Haul {
  readonly way: Way;
  readonly source: Source;
  /** Of the transfer. */
  readonly id: string;
}

/** Where the bytes are before, in the store that they come from. */
export const originOf = ({ path }: Source): string => `from/${path}`;

/** Lays out what is to be carried, and resolves when it was accepted. */
export async function haul(service: Service, client: Client, way: Way, source: Source): Promise<Haul> {
  const { path } = source;
  const key = `${way} ${path}`;
  if (way === 'upload') return { way, source, id: await client.upload(source, key) };
  const origin = way === 'send' ? service.attic : service.shelf;
  await origin.put(originOf(source), Buffer.concat([...source.chunks()], source.size));
  const attic = (name: string): string => `file://${service.folder}/attic/${name}`;
  const bodies = {
    send: { kind: 'copy', from: attic(originOf(source)), to: path },
    bring: { kind: 'copy', from: originOf(source), to: attic(path) },
    fetch: { kind: 'download', from: originOf(source) },
  };
  return { way, source, id: await client.submit(bodies[way], key) };
}

/** What lies where it was to go; of a download, what the API gives out. */
export async function foundAt(service: Service, { way, source, id }: Haul): Promise<Found | undefined> {
  if (way === 'bring') return service.attic.read(source.path);
  if (way !== 'fetch') return service.shelf.read(source.path);
  const { statusCode, body } = await request(`${service.url}/api/v1/transfers/${id}/content`);
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    hash.update(chunk);
    size += chunk.length;
  }
  return statusCode === 200 ? { size, sha256: hash.digest('hex') } : undefined;
}

/** Looks at the target of one that may be on its way: it must be absent or whole. */
export async function lookAtTarget(
  service: Service,
  { way, source }: Pick<Haul, 'way' | 'source'>,
  wholly: boolean,
): Promise<string | undefined> {
  if (way === 'fetch') return undefined;
  const shelf = way === 'bring' ? service.attic : service.shelf;
  const size = await shelf.sizeOf(source.path);
  if (size === undefined) return undefined;
  if (size !== source.size) return `${source.path} is ${size} of ${source.size} bytes long`;
  if (!wholly) return undefined;
  const found = await shelf.read(source.path);
  return found?.sha256 === source.sha256 ? undefined : `${source.path} holds others than its bytes`;
}

/** Keys that stay in Redis when all work is done: what queues know of themselves, and counts that go by themselves. */
const STAYING = [
  /:(upload|download|multipart-part|gc):(meta|events|id|marker|pc|stalled-check|de|repeat.*)$/,
  /:gc:(delayed|repeat.*)$/,
  /:pace:/,
  /:turns:/,
  /:(throttled|limits):/,
];
export const staysInRedis = (key: string): boolean => STAYING.some((pattern) => pattern.test(key));
