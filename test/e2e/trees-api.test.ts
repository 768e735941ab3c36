import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { fileList } from '../../apps/api/schemas.ts';
import { requireServer } from '../servers/require.ts';
import { Service, viewIn } from './service.ts';

const ARTIFACTS = '/api/2.0/mlflow-artifacts/artifacts';

requireServer('redis')('trees over HTTP', () => {
  let service: Service;
  afterEach(() => service.close());

  const write = (root: string, path: string, content: string | Uint8Array): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  };
  const digests = (root: string): Record<string, string> =>
    Object.fromEntries(
      readdirSync(root, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry): [string, string] => {
          const file = join(entry.parentPath, entry.name);
          return [file.slice(root.length + 1), createHash('sha256').update(readFileSync(file)).digest('hex')];
        })
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    );
  const filesOf = async (id: string, query = '') => {
    const answer = await service.fetch(`/api/v1/transfers/${id}/files${query}`);
    const text = await answer.text();
    if (answer.status !== 200) throw new Error(`answered ${answer.status}: ${text}`);
    return fileList.strict().parse(JSON.parse(text));
  };

  test('a copy says what becomes of its files, page by page', async () => {
    service = await Service.start();
    for (let n = 0; n < 25; n++) write(service.attic, `src/${n % 3}/${n}`, `file ${n}`);
    write(service.attic, 'src/a#b', 'a directory is in its way...');
    write(service.root, 'runs/7/a#b/in the way', '');
    const view = await service.carry({
      kind: 'upload',
      tree: true,
      from: `file://${service.attic}/src`,
      to: 'runs/7',
    });
    expect(view).toMatchObject({
      state: 'failed',
      tree: true,
      failure: { kind: 'invalid', message: expect.stringMatching(/^1 of 26 files failed, the first: /) },
      files: { planned: { files: 26 }, done: { files: 25 }, skipped: { files: 0 }, failed: { files: 1 } },
      bytesKeptUntil: expect.any(String),
    });
    const seen: string[] = [];
    for (let cursor = ''; ; ) {
      const page = await filesOf(view.id, `?limit=7${cursor}`);
      expect(page.files.length).toBeLessThanOrEqual(7);
      seen.push(...page.files.map(({ path }) => path));
      if (page.nextCursor === undefined) break;
      cursor = `&cursor=${page.nextCursor}`;
    }
    expect(seen.toSorted()).toEqual(Object.keys(digests(join(service.attic, 'src'))));
    expect(await filesOf(view.id, '?state=failed')).toEqual({
      files: [
        {
          path: 'a#b',
          size: 28,
          state: 'failed',
          failure: { kind: 'invalid', message: expect.stringContaining('a#b') },
        },
      ],
    });
    expect((await filesOf(view.id, '?state=done')).files).toHaveLength(25);
    expect(await filesOf(view.id, '?state=skipped')).toEqual({ files: [] });
    expect((await service.fetch(`/api/v1/transfers/${view.id}/files?cursor=7`)).status).toBe(400);

    const again = await service.fetch(`/api/v1/transfers/${view.id}/retry`, { method: 'POST' });
    expect((await viewIn(again, 202)).state).toBe('accepted');
    expect(await service.ended(view.id)).toMatchObject({
      state: 'failed',
      files: { done: { files: 25 }, failed: { files: 1 } },
    });
  });

  test('a download is a tar archive of all that is there', async () => {
    service = await Service.start();
    const tree = join(service.root, 'runs/7');
    for (const name of [
      'w.bin',
      'deep/er/ünïcode-重み',
      `long/${'n'.repeat(200)}`,
      `${'d/'.repeat(100)}f`,
      'empty',
    ])
      write(tree, name, name === 'empty' ? '' : randomBytes(10_000));
    write(tree, 'large', randomBytes(3_000_000));
    const view = await service.carry({ kind: 'download', tree: true, from: 'runs/7' });
    expect(view).toMatchObject({
      state: 'succeeded',
      result: { outcome: 'ready', files: { done: { files: 6 } } },
    });
    const answer = await service.fetch(view.content ?? '');
    expect(answer.headers.get('content-type')).toBe('application/x-tar');
    expect(answer.headers.get('content-disposition')).toContain('7.tar');
    const archive = join(service.folder, 'answer.tar');
    writeFileSync(archive, Buffer.from(await answer.arrayBuffer()));
    const unpacked = join(service.folder, 'unpacked');
    mkdirSync(unpacked);
    execFileSync('tar', ['-xf', archive, '-C', unpacked], { env: { ...process.env, LC_ALL: 'C.UTF-8' } });
    expect(digests(join(unpacked, '7'))).toEqual(digests(tree));
    expect(await filesOf(view.id)).toEqual({ files: [] });
    const none = await service.carry({ kind: 'download', tree: true, from: 'runs/8' });
    expect(none).toMatchObject({ state: 'failed', failure: { kind: 'not-found' } });
  });

  test('what makes no sense is refused, and names the field', async () => {
    service = await Service.start({}, { worker: false });
    const refusal = async (body: object) => {
      const answer = await service.submit(body);
      expect(answer.status).toBe(400);
      return ((await answer.json()) as { message: string }).message;
    };
    const copy = { kind: 'copy', tree: true, from: 'a', to: 'b' };
    expect(await refusal({ ...copy, checksum: `crc32:${'0'.repeat(8)}` })).toContain('checksum');
    expect(await refusal({ ...copy, to: 'a/b' })).toMatch(/^to: /);
    expect(await refusal({ ...copy, from: 'b/c' })).toMatch(/^to: /);
    expect(await refusal({ kind: 'delete', tree: true, to: `file://${service.root}` })).toMatch(
      /^to: .*root/,
    );
    const whole = await service.submit({ ...copy, from: `file://${service.attic}` });
    expect((await viewIn(whole, 202)).from).toEqual({ store: 'attic', path: '' });
  });

  test('what was accepted later is never replaced by what was accepted before', async () => {
    service = await Service.start({}, { worker: false });
    for (const name of ['kept', 'put', 'sent', 'removed/1'])
      write(service.attic, `src/${name}`, 'from the tree');
    await viewIn(await service.put('dst/before', 'sent before the tree'), 202);
    write(service.attic, 'src/before', 'from the tree');
    const submitted = await service.submit({
      kind: 'copy',
      tree: true,
      from: `file://${service.attic}/src`,
      to: 'dst',
    });
    const { id } = await viewIn(submitted, 202);
    expect((await service.fetch(`${ARTIFACTS}/dst/put`, { method: 'PUT', body: 'put later' })).status).toBe(
      200,
    );
    await viewIn(await service.put('dst/sent', 'sent later'), 202);
    await service.fetch(`${ARTIFACTS}/dst/removed`, { method: 'DELETE' });
    await service.startWorker();
    const ended = await service.ended(id);
    expect(ended).toMatchObject({ state: 'succeeded' });
    expect(ended).not.toHaveProperty('bytesKeptUntil');
    const { transfers } = (await (await service.fetch('/api/v1/transfers')).json()) as {
      transfers: { id: string }[];
    };
    for (const one of transfers) await service.ended(one.id);
    const content = Object.fromEntries(
      Object.keys(digests(join(service.root, 'dst'))).map((name) => [
        name,
        readFileSync(join(service.root, 'dst', name), 'utf8'),
      ]),
    );
    expect(content).toEqual({
      before: 'from the tree',
      kept: 'from the tree',
      put: 'put later',
      sent: 'sent later',
    });
    const skipped = (await filesOf(id, '?state=skipped')).files;
    expect(skipped.map(({ outcome }) => outcome)).toEqual(skipped.map(() => 'superseded'));
    expect(skipped.map(({ path }) => path)).toEqual(expect.arrayContaining(['put', 'removed/1']));
  });
});
