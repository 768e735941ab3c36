import type { S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fileList, type TransferView, transferView } from '../../apps/api/schemas.ts';
import { encodedPath, type StorePath, writtenPath } from '../../lib/path.ts';
import { percentEncoded, textOfBytes } from '../../lib/path-bytes.ts';
import { S3Driver } from '../../lib/stores/drivers/s3.ts';
import { clientOf, settingsFor } from '../contract/s3.ts';
import { scaled } from '../scale.ts';
import { startMinio } from '../servers/minio.ts';
import { startMoto } from '../servers/moto.ts';
import { requireServer } from '../servers/require.ts';
import type { S3Server } from '../servers/s3.ts';
import { redisForAll } from '../servers/shared.ts';
import { startVersitygw } from '../servers/versitygw.ts';
import { drawNames, pathOf } from './names.ts';
import { bucket, folder, type Native } from './native.ts';
import { openQuay, type Quay } from './quay.ts';

const SEED = Number(process.env.LONGSHORE_SEED ?? 20261130);
const COUNT = scaled(1000);
const NAMES = drawNames(SEED, COUNT).map(pathOf);
const STORES = ['other', 'minio', 'versitygw', 'moto'] as const;
type StoreName = (typeof STORES)[number];
const BUCKET = 'names';
/** Names that are also carried one by one, of each pair. */
const ONE_BY_ONE = scaled(400);

const hexOf = (text: string): string =>
  Buffer.from(
    percentEncoded(text).replace(/%(..)/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  ).toString('hex');
const textOfHex = (hex: string): StorePath => textOfBytes(Buffer.from(hex, 'hex')) as StorePath;

/** Servers, clients and their proxies resolve these in a URL: whatever the server could hold, nobody asks it to. */
const hasDots = (hex: string): boolean =>
  Buffer.from(hex, 'hex')
    .toString('latin1')
    .split('/')
    .some((name) => name === '.' || name === '..');

const folded = (path: StorePath): StorePath => path.replace(/\/+/g, '/').replace(/\/$/, '') as StorePath;
const fitsFolder = (path: StorePath): boolean =>
  !hasDots(hexOf(path)) &&
  !path.includes('\0') &&
  path.split('/').every((name) => hexOf(name).length / 2 <= 255);

requireServer(
  'redis',
  'minio',
  'versitygw',
  'moto',
)(`${COUNT} names of seed ${SEED}`, () => {
  const redis = redisForAll();
  const servers: S3Server[] = [];
  const clients: S3Client[] = [];
  const natives = new Map<StoreName, Native>();
  /** What each store holds under exactly its name, as its own tools found. */
  const held = new Map<StoreName, ReadonlySet<string>>();
  let quay: Quay;
  let url: string;

  beforeAll(async () => {
    servers.push(...(await Promise.all([startMinio(), startVersitygw(), startMoto()])));
    await Promise.all(servers.map((server) => server.makeBucket(BUCKET)));
    const store = (server: S3Server) => ({
      uri: `s3://${server.name}`,
      driver: (hidden: ConstructorParameters<typeof S3Driver>[2]) =>
        new S3Driver({ bucket: BUCKET, prefix: '' }, settingsFor(server), hidden),
    });
    quay = await openQuay({
      redisUrl: redis.url,
      stores: Object.fromEntries(servers.map((server) => [server.name, store(server)])),
    });
    url = await quay.api();
    await quay.work();
    natives.set('other', folder(quay.fileOf('', 'other')));
    for (const server of servers) {
      const client = clientOf(server);
      clients.push(client);
      natives.set(server.name, bucket(client, BUCKET));
    }
    for (const [name, native] of natives) {
      for (const path of NAMES)
        await native.put(Buffer.concat([Buffer.from('src/'), path]), `content of ${path.toString('hex')}`);
      held.set(name, new Set((await native.under('src')).keys()));
    }
  }, 900_000);
  afterAll(async () => {
    await quay?.close();
    for (const client of clients) client.destroy();
    await Promise.all(servers.map((server) => server.stop()));
  });

  const post = (body: object): Promise<Response> =>
    fetch(`${url}/api/v1/transfers`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
  const get = async (path: string): Promise<unknown> =>
    (await fetch(`${url}/api/v1/transfers/${path}`)).json();
  async function ended(response: Response): Promise<TransferView> {
    const accepted = transferView.strict().parse(await response.json());
    await quay.ended(accepted.id, 120_000);
    const view = transferView.strict().parse(await get(accepted.id));
    expect([view.from, view.to]).toEqual([accepted.from, accepted.to]);
    return view;
  }
  /** Every file of a tree, by the bytes of its name. */
  async function filesOf(id: string): Promise<Map<string, { state: string; message: string | undefined }>> {
    const found = new Map<string, { state: string; message: string | undefined }>();
    for (let cursor: string | undefined = ''; cursor !== undefined; ) {
      const page = fileList
        .strict()
        .parse(await get(`${id}/files?limit=1000${cursor && `&cursor=${cursor}`}`));
      for (const { path, encoding, state, failure, directory } of page.files) {
        if (directory) continue;
        const hex = hexOf(encoding ? encodedPath(path) : path);
        expect(found.has(hex), `${path} is there twice`).toBe(false);
        found.set(hex, { state, message: failure?.message });
      }
      cursor = page.nextCursor;
    }
    return found;
  }

  test('each store holds some that another cannot', () => {
    const sizes = Object.fromEntries([...held].map(([name, names]) => [name, names.size]));
    console.log(`names held: ${JSON.stringify(sizes)}`);
    for (const names of held.values()) expect(names.size).toBeGreaterThan(COUNT / 4);
    expect(new Set(STORES.map((name) => [...held.get(name)!].sort().join())).size).toBeGreaterThan(2);
  });

  describe.each(STORES)('from %s', (from) => {
    test.each(STORES)(
      'to %s as a tree, and what cannot be held there is named',
      async (to) => {
        const [dir, target] = [`tree-${from}`, natives.get(to)!];
        const view = await ended(
          await post({
            kind: 'copy',
            tree: true,
            from: { store: from, path: 'src' },
            to: { store: to, path: dir },
          }),
        );
        const files = await filesOf(view.id);
        expect([...files.keys()].toSorted()).toEqual([...held.get(from)!].toSorted());
        const done = [...files].filter(([, { state }]) => state === 'done').map(([hex]) => hex);
        const there = await target.under(dir);
        expect([...there.keys()].toSorted()).toEqual(done.toSorted());
        for (const [hex, content] of there) expect(content).toBe(`content of ${hex}`);
        for (const [hex, { state, message }] of files) {
          if (state === 'done') continue;
          expect(message, hex).toBeTruthy();
          // nothing is refused that the target's own tools put there
          if (held.get(to)!.has(hex))
            expect(hasDots(hex) && to !== 'other', `${percentEncoded(textOfHex(hex))}: ${message}`).toBe(
              true,
            );
        }
        expect(view.state).toBe(done.length === files.size ? 'succeeded' : 'failed');

        const gone = await ended(await post({ kind: 'delete', tree: true, to: { store: to, path: dir } }));
        expect([...(await target.under(dir)).keys()], gone.failure?.message).toEqual([]);
        expect(gone.state).toBe('succeeded');
      },
      600_000,
    );

    test.each(STORES)(
      'to %s one by one, as places and as URIs',
      async (to) => {
        const [dir, target] = [`one-${from}`, natives.get(to)!];
        const some = [...held.get(from)!].slice(0, ONE_BY_ONE);
        const roots = {
          other: `file://${percentEncoded(quay.fileOf('', 'other'))}`,
          minio: 's3://minio',
          versitygw: 's3://versitygw',
          moto: 's3://moto',
        };
        const expected: string[] = [];
        const carry = async (hex: string, index: number): Promise<void> => {
          const path = textOfHex(hex);
          const place = (store: StoreName, above: string) =>
            index % 2 === 0
              ? { store, ...writtenPath(`${above}/${path}`) }
              : `${roots[store].replace(/\/$/, '')}/${above}/${percentEncoded(path)}`;
          const response = await post({ kind: 'copy', from: place(from, 'src'), to: place(to, dir) });
          // in a folder runs of slashes are as good as one, and so is one at the end
          const asHeld = to === 'other' ? folded(path) : path;
          const holds = (held.get(to)!.has(hex) && !hasDots(hex)) || (asHeld !== path && fitsFolder(asHeld));
          if (response.status === 400) {
            const { message } = (await response.json()) as { message: string };
            expect(holds, `${percentEncoded(path)}: ${message}`).toBe(false);
            return;
          }
          expect(response.status).toBe(202);
          const view = await ended(response);
          if (view.state === 'succeeded') expected.push(hexOf(asHeld));
          else expect(view.failure?.message, hex).toBeTruthy();
          expect(view.state === 'succeeded', `${percentEncoded(path)}: ${view.failure?.message}`).toBe(holds);
          expect(view.to).toEqual({ store: to, ...writtenPath(`${dir}/${asHeld}`) });
        };
        const queue = some.entries();
        await Promise.all(
          Array.from({ length: 8 }, async () => {
            for (const [index, hex] of queue) await carry(hex, index);
          }),
        );
        expect([...(await target.under(dir)).keys()].toSorted()).toEqual(expected.toSorted());
        // what was answered as the target is taken again, and names exactly that object
        const half = expected.filter((_, index) => index % 2 === 0);
        for (const hex of half)
          expect(
            (
              await ended(
                await post({ kind: 'delete', to: { store: to, ...writtenPath(`${dir}/${textOfHex(hex)}`) } }),
              )
            ).state,
          ).toBe('succeeded');
        expect([...(await target.under(dir)).keys()].toSorted()).toEqual(
          expected.filter((hex) => !half.includes(hex)).toSorted(),
        );
        await ended(await post({ kind: 'delete', tree: true, to: { store: to, path: dir } }));
      },
      600_000,
    );
  });
});
