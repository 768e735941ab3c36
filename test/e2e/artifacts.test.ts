import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { OTHERS } from '../hidden.ts';
import { type Api, errorOf, startApi } from './api.ts';

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api.close());

const encoded = (path: string): string => path.split('/').map(encodeURIComponent).join('/');
const put = (
  path: string,
  body: RequestInit['body'],
  headers: Record<string, string> = {},
): Promise<Response> => fetch(api.artifacts + encoded(path), { method: 'PUT', body: body ?? null, headers });
const get = (path: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(api.artifacts + encoded(path), { headers });
const remove = (path: string): Promise<Response> =>
  fetch(api.artifacts + encoded(path), { method: 'DELETE' });
const list = async (query: string): Promise<unknown> =>
  (await fetch(`${api.artifacts.slice(0, -1)}${query}`)).json();
const sha256 = (body: string): string => createHash('sha256').update(body).digest('base64');

describe('put and get', () => {
  test('what was put is on disk and comes back, with all that is known of it', async () => {
    const answer = await put('one/a.txt', 'hello');
    expect([answer.status, await answer.text()]).toEqual([200, '{}']);
    expect(readFileSync(join(api.root, 'one/a.txt'), 'utf8')).toBe('hello');
    const got = await get('one/a.txt');
    expect(got.status).toBe(200);
    expect(await got.text()).toBe('hello');
    expect(Object.fromEntries(got.headers)).toMatchObject({
      'content-length': '5',
      etag: answer.headers.get('etag'),
      'last-modified': expect.stringMatching(/ GMT$/),
      'accept-ranges': 'bytes',
      'content-type': 'text/plain',
      'content-disposition': 'attachment; filename=a.txt',
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'SAMEORIGIN',
      'repr-digest': `sha-256=:${sha256('hello')}:`,
    });
  });

  test('HEAD answers what GET does, without the bytes', async () => {
    await put('head.bin', 'x'.repeat(1000));
    const [head, whole] = [
      await fetch(`${api.artifacts}head.bin`, { method: 'HEAD' }),
      await get('head.bin'),
    ];
    const told = (response: Response): object => {
      const { date: _, connection: __, 'keep-alive': ___, ...rest } = Object.fromEntries(response.headers);
      return rest;
    };
    expect(head.status).toBe(200);
    expect(await head.text()).toBe('');
    expect(told(head)).toEqual(told(whole));
    expect((await fetch(`${api.artifacts}nowhere`, { method: 'HEAD' })).status).toBe(404);
  });

  test('an empty file is put, got, and listed without a size', async () => {
    expect((await put('empty/none.txt', '')).status).toBe(200);
    const got = await get('empty/none.txt');
    expect([got.status, got.headers.get('content-length'), await got.text()]).toEqual([200, '0', '']);
    expect(await list('?path=empty')).toEqual({ files: [{ path: 'none.txt', is_dir: false }] });
  });

  test('a second put replaces the first, and its tag differs', async () => {
    const first = await put('again.txt', 'one');
    const second = await put('again.txt', 'two');
    expect(first.headers.get('etag')).not.toBe(second.headers.get('etag'));
    expect(await (await get('again.txt')).text()).toBe('two');
  });

  test('a chunked body of unknown length is stored whole', async () => {
    const body = new ReadableStream({
      start(controller) {
        for (const text of ['ab', 'cd', 'ef']) controller.enqueue(new TextEncoder().encode(text));
        controller.close();
      },
    });
    const init: RequestInit & { duplex: 'half' } = { method: 'PUT', body, duplex: 'half' };
    expect((await fetch(`${api.artifacts}chunked.txt`, init)).status).toBe(200);
    expect(await (await get('chunked.txt')).text()).toBe('abcdef');
  });

  test.each(['text/html', 'garbage', ';;;', 'application/json', 'multipart/form-data'])(
    'the request header Content-Type: %s changes nothing: types come from names',
    async (type) => {
      expect((await put('typed.txt', '{', { 'content-type': type })).status).toBe(200);
      expect((await get('typed.txt')).headers.get('content-type')).toBe('text/plain');
    },
  );

  test.each([
    'ünï/日本語 x%y.json',
    'q?m.txt',
    'a%20b/100%',
    'sp ace/é',
    "it's (1)!*~.txt",
    '%',
    'a;b=c,d@e:f&g$h+i',
  ])('the name %j round-trips', async (path) => {
    expect((await put(path, path)).status).toBe(200);
    expect(await (await get(path)).text()).toBe(path);
    expect(readFileSync(join(api.root, path), 'utf8')).toBe(path);
    expect((await remove(path)).status).toBe(200);
    expect((await get(path)).status).toBe(404);
  });

  test('a file that was changed behind our back loses its digest and nothing else', async () => {
    await put('changed.txt', 'before');
    writeFileSync(join(api.root, 'changed.txt'), 'after!');
    utimesSync(join(api.root, 'changed.txt'), 1, 1);
    const got = await get('changed.txt');
    expect(await got.text()).toBe('after!');
    expect(got.headers.has('repr-digest')).toBe(false);
    expect(got.headers.get('last-modified')).toBe(new Date(1000).toUTCString());
  });

  test('a missing artifact is a 404 in words of MLflow', async () => {
    const got = await get('no/such thing');
    expect(got.status).toBe(404);
    expect(await errorOf(got)).toEqual({
      code: 'RESOURCE_DOES_NOT_EXIST',
      message: "No such artifact: 'no/such thing'",
    });
  });

  test('a directory can not be got', async () => {
    await put('dir/inner/file', 'x');
    for (const path of ['dir', 'dir/', 'dir/inner', '']) {
      const got = await get(path);
      expect(got.status).toBe(400);
      expect((await errorOf(got)).message).toBe(
        `Artifact path refers to a directory, not a file: '${path.replace(/\/$/, '')}'`,
      );
    }
  });

  test('a path that ends in a slash can not be put', async () => {
    for (const path of ['some/', '', 'a%2F'])
      expect(await errorOf(await fetch(api.artifacts + path, { method: 'PUT', body: 'x' }))).toEqual({
        code: 'INVALID_PARAMETER_VALUE',
        message: "Artifact path must include a filename (cannot end with '/').",
      });
  });
});

describe('list', () => {
  test('names files and directories right below, sorted as Python sorts, with sizes', async () => {
    for (const name of ['b.txt', 'a.txt', 'dir/x', 'dir.txt', '\u{1f600}', '\uffee', 'Z'])
      await put(`listed/${name}`, name);
    expect(await list('?path=listed')).toEqual({
      files: [
        { path: 'Z', is_dir: false, file_size: 1 },
        { path: 'a.txt', is_dir: false, file_size: 5 },
        { path: 'b.txt', is_dir: false, file_size: 5 },
        { path: 'dir', is_dir: true },
        { path: 'dir.txt', is_dir: false, file_size: 7 },
        { path: '\uffee', is_dir: false, file_size: 3 },
        { path: '\u{1f600}', is_dir: false, file_size: 4 },
      ],
    });
    expect(await list('?path=listed/')).toEqual(await list('?path=listed'));
    expect(await list('?other=1&path=listed&path=elsewhere')).toEqual(await list('?path=listed'));
    expect(await list('?path=listed%2Fdir')).toEqual({ files: [{ path: 'x', is_dir: false, file_size: 5 }] });
  });

  test('a missing directory, an empty one and a file list as {}', async () => {
    await put('listed-file', 'x');
    mkdirSync(join(api.root, 'hollow'));
    for (const path of ['nowhere', 'listed-file', 'hollow']) expect(await list(`?path=${path}`)).toEqual({});
  });

  test('the root lists without a path, hidden files of others are only told of, and what begins like one is a file', async () => {
    const hidden = [OTHERS.nameIn('', 't-1'), '.artifact.uploading.abcd_123'];
    const ordinary = ['.longshore-notes.md', '.artifact.uploading.report.csv'];
    for (const name of [...hidden, ...ordinary]) writeFileSync(join(api.root, name), 'x');
    await put('top.txt', 'x');
    for (const query of ['', '?path=', '?x=1']) {
      const { files, left_out: leftOut } = (await list(query)) as Record<string, { path: string }[]>;
      const names = files!.map(({ path }) => path);
      expect(names).toContain('top.txt');
      expect(names.filter((name) => name.startsWith('.'))).toEqual(ordinary.toSorted());
      expect(leftOut!.map(({ path }) => path)).toEqual(hidden.toSorted());
    }
    for (const [names, status] of [
      [hidden, 400],
      [ordinary, 200],
    ] as const)
      for (const name of names) expect((await fetch(`${api.artifacts}${name}`)).status).toBe(status);
    for (const name of [...hidden, ...ordinary]) rmSync(join(api.root, name));
  });

  test('plus and percent in a query are decoded once', async () => {
    await put('a b+c%2F/x', 'x');
    expect(await list('?path=a+b%2Bc%252F')).toEqual({ files: [{ path: 'x', is_dir: false, file_size: 1 }] });
  });

  test('ten thousand files are all listed', async () => {
    const dir = join(api.root, 'many');
    mkdirSync(dir);
    for (let n = 0; n < 10_000; n++) writeFileSync(join(dir, `f${String(n).padStart(5, '0')}`), '');
    const { files } = (await list('?path=many')) as { files: { path: string }[] };
    expect(files.length).toBe(10_000);
    expect(files[9_999]).toEqual({ path: 'f09999', is_dir: false });
  });

  test.each([
    '../x',
    '/etc',
    'a/../b',
    '%2e%2e',
    'C:/x',
    'a\\b',
    'x#y',
    'a/./b',
    'nul\0',
    '.artifact.uploading.abcd_123',
  ])('the directory %j is refused', async (path) => {
    const answer = await fetch(`${api.artifacts.slice(0, -1)}?path=${encodeURIComponent(path)}`);
    expect(answer.status).toBe(400);
    expect((await errorOf(answer)).message).toMatch(/^Invalid path/);
  });
});

describe('delete', () => {
  test('removes a file, the parents that it leaves empty, and nothing else', async () => {
    await put('del/a/b/one', '1');
    await put('del/other', '2');
    const answer = await remove('del/a/b/one');
    expect([answer.status, await answer.text()]).toEqual([200, '{}']);
    expect(readdirSync(join(api.root, 'del'))).toEqual(['other']);
  });

  test('removes a directory with everything below, and its namesakes stay', async () => {
    for (const name of ['run/x', 'run/deep/er/y', 'run/z', 'runner/x', 'run.txt'])
      await put(`tree/${name}`, name);
    expect((await remove('tree/run/')).status).toBe(200);
    expect(readdirSync(join(api.root, 'tree')).sort()).toEqual(['run.txt', 'runner']);
  });

  test('what is missing is deleted already', async () => {
    const answer = await remove('never/was');
    expect([answer.status, await answer.text()]).toEqual([200, '{}']);
  });

  test('the root stays', async () => {
    await put('stays.txt', 'x');
    expect((await remove('')).status).toBe(404);
    const answer = await fetch(api.artifacts.slice(0, -1), { method: 'DELETE' });
    expect([answer.status, answer.headers.get('allow')]).toEqual([405, 'GET, HEAD, OPTIONS']);
    await errorOf(answer);
    expect(existsSync(join(api.root, 'stays.txt'))).toBe(true);
  });

  test('a digest does not outlive its object', async () => {
    await put('digest-gone', 'x');
    await remove('digest-gone');
    await put('digest-gone', 'y');
    expect((await get('digest-gone')).headers.get('repr-digest')).toBe(`sha-256=:${sha256('y')}:`);
  });
});
