/** Trees with something in them that no copy can carry, or that takes a decision: one case each. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { giveAway, Humble } from '../faults/humble.ts';
import { requireServer } from '../servers/require.ts';

requireServer('redis')('a tree with odd things in it', () => {
  let humble: Humble;
  let from: string;
  let to: string;
  let nth = 0;
  beforeAll(async () => {
    humble = await Humble.start();
  });
  afterAll(() => humble.close());
  beforeEach(() => {
    nth++;
    from = join(humble.folder, 'artifacts', `t${nth}`);
    to = join(humble.folder, 'attic', `t${nth}`);
    mkdirSync(from);
    giveAway(from);
  });

  const put = (path: string, content: string): void => {
    let dir = dirname(join(from, path));
    mkdirSync(dir, { recursive: true });
    for (; dir.length > from.length; dir = dirname(dir)) giveAway(dir);
    writeFileSync(join(from, path), content);
    giveAway(join(from, path));
  };
  const places = () => ({ from: `t${nth}`, to: { store: 'attic', path: `t${nth}` } });
  const copy = (more: object = {}) => humble.carry({ kind: 'copy', tree: true, ...places(), ...more });
  const pipe = (path: string) => execFileSync('mkfifo', [join(from, path)]);
  const textAt = (path: string): string => readFileSync(join(to, path), 'utf8');
  const counted = (done: number, skipped: number, failed: number, leftOut: number, directories = 0) => ({
    done: { files: done, directories },
    skipped: { files: skipped },
    failed: { files: failed },
    leftOut: { files: leftOut },
  });
  const linked = (): void => {
    put('d/file', 'bytes');
    symlinkSync('d/file', join(from, 'to file'));
    symlinkSync('d', join(from, 'to dir'));
    symlinkSync('..', join(from, 'd', 'up'));
    symlinkSync('/etc/hostname', join(from, 'out'));
    symlinkSync('nowhere', join(from, 'dangling'));
  };

  test('links are left out, each by name, where they are refused', async () => {
    linked();
    const view = await copy({ links: 'refuse' });
    expect(view).toMatchObject({ state: 'failed', files: counted(1, 0, 0, 5) });
    expect(view.failure?.message).toMatch(/^left out 5 of 6 files, the first: .*symbolic link/);
    const named = (await humble.files(view.id, 'left-out')).map(({ path }) => path);
    expect(named.sort()).toEqual(['d/up', 'dangling', 'out', 'to dir', 'to file']);
  });

  test('links are skipped and counted so where that is asked for', async () => {
    linked();
    const view = await copy({ links: 'skip' });
    expect(view).toMatchObject({ state: 'succeeded', files: counted(1, 5, 0, 0) });
    for (const { failure } of await humble.files(view.id, 'skipped'))
      expect(failure?.message).toMatch(/link/);
  });

  test('links are followed within the store, and what leads elsewhere or in a circle is left out', async () => {
    linked();
    const view = await copy({ links: 'follow', onUnsupported: 'skip' });
    expect(view).toMatchObject({ state: 'succeeded', files: counted(3, 0, 0, 4) });
    expect(textAt('to file')).toBe('bytes');
    expect(textAt('to dir/file')).toBe('bytes');
    const named = (await humble.files(view.id, 'left-out')).map(({ path }) => path);
    expect(named.sort()).toEqual(['d/up', 'dangling', 'out', 'to dir/up']);
  });

  test('a closed folder is one entry that failed, the rest is carried, and a retry carries what is in it', async () => {
    put('open/a', 'a');
    put('shut/b', 'b');
    put('shut/deep/c', 'c');
    chmodSync(join(from, 'shut'), 0);
    const view = await copy();
    expect(view).toMatchObject({ state: 'failed', failure: { kind: 'denied' }, files: counted(1, 0, 1, 0) });
    expect(view.failure?.message).toContain(`t${nth}/shut`);
    expect((await humble.files(view.id, 'failed')).map(({ path }) => path)).toEqual(['shut']);
    expect(textAt('open/a')).toBe('a');
    chmodSync(join(from, 'shut'), 0o755);
    expect(await humble.retry(view.id)).toMatchObject({ state: 'succeeded', files: counted(3, 0, 0, 0) });
    expect(textAt('shut/deep/c')).toBe('c');
  });

  test('an empty directory is carried, counted, archived and removed', async () => {
    put('a', 'a');
    mkdirSync(join(from, 'hollow/deep'), { recursive: true });
    for (const dir of ['hollow', 'hollow/deep']) giveAway(join(from, dir));
    const view = await copy();
    expect(view).toMatchObject({ state: 'succeeded', files: counted(1, 0, 0, 0, 1) });
    expect(existsSync(join(to, 'hollow/deep'))).toBe(true);
    const { id, content } = await humble.carry({ kind: 'download', tree: true, from: `t${nth}` });
    expect(await humble.files(id)).toEqual([]);
    const bytes = Buffer.from(await (await humble.fetch(content!)).arrayBuffer());
    const names = execFileSync('tar', ['-tf', '-'], { input: bytes, encoding: 'utf8' }).trim().split('\n');
    expect(names.sort()).toEqual([`t${nth}/a`, `t${nth}/hollow/deep/`]);
    expect(await humble.carry({ kind: 'delete', tree: true, to: places().to })).toMatchObject({
      state: 'succeeded',
      files: counted(1, 0, 0, 0, 1),
    });
    expect(existsSync(to)).toBe(false);
  });

  test('what cannot be carried fails the tree, or may be skipped, and one line of the log has the first ten', async () => {
    put('a', 'a');
    for (let n = 0; n < 12; n++) pipe(`pipe ${n}\nnext`);
    const view = await copy();
    expect(view).toMatchObject({
      state: 'failed',
      failure: { kind: 'unsupported' },
      files: counted(1, 0, 0, 12),
    });
    const lines = humble.log.split('\n').filter((line) => line.includes(view.id) && line.includes('leftOut'));
    expect(lines).toHaveLength(1);
    const said = JSON.parse(lines[0]!) as { leftOut: number; first: string[] };
    expect(said.leftOut).toBe(12);
    expect(said.first).toHaveLength(10);
    for (const name of said.first) expect(name).toMatch(/^pipe \d+\\x0anext: .*pipe/);
    const again = await copy({ onUnsupported: 'skip', onExists: 'skip-if-same' });
    expect(again).toMatchObject({ state: 'succeeded', files: counted(0, 1, 0, 12) });
  });

  test('a download names what its archive lacks, and is none where nobody said that it may lack it', async () => {
    put('a', 'a');
    pipe('pipe');
    const asked = { kind: 'download', tree: true, from: `t${nth}` };
    const failed = await humble.carry(asked);
    expect(failed).toMatchObject({ state: 'failed', failure: { kind: 'unsupported' } });
    expect(await humble.files(failed.id)).toMatchObject([{ path: 'pipe', state: 'left-out' }]);
    const view = await humble.carry({ ...asked, onUnsupported: 'skip' });
    expect(view).toMatchObject({ state: 'succeeded', files: counted(1, 0, 0, 1) });
    expect(await humble.files(view.id)).toMatchObject([{ path: 'pipe', state: 'left-out' }]);
  });

  test("MLflow's DELETE of a directory says what stays", async () => {
    put('a', 'a');
    put('shut/b', 'b');
    chmodSync(join(from, 'shut'), 0);
    const url = `/api/2.0/mlflow-artifacts/artifacts/t${nth}`;
    const answer = await humble.fetch(url, { method: 'DELETE' });
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect(((await answer.json()) as { message: string }).message).toContain(`t${nth}/shut`);
    expect(existsSync(join(from, 'a'))).toBe(false);
    chmodSync(join(from, 'shut'), 0o755);
    expect((await humble.fetch(url, { method: 'DELETE' })).status).toBe(200);
    expect(existsSync(from)).toBe(false);
  });

  test('a delete removes links and never what they lead to', async () => {
    linked();
    const view = await humble.carry({ kind: 'delete', tree: true, to: `t${nth}` });
    expect(view).toMatchObject({ state: 'succeeded', files: counted(6, 0, 0, 0) });
    expect(existsSync(from)).toBe(false);
    expect(existsSync('/etc/hostname')).toBe(true);
  });

  test('an empty directory whose name is one of a file on its way is a directory as any other', async () => {
    const names = [
      '.artifact.uploading.abcdefgh',
      `.longshore-${'0'.repeat(16)}-t1-00c0ffee-${'0'.repeat(32)}`,
    ];
    for (const name of names) {
      mkdirSync(join(from, name));
      giveAway(join(from, name));
    }
    expect(await copy()).toMatchObject({ state: 'succeeded', files: counted(0, 0, 0, 0, 2) });
    expect(readdirSync(to).sort()).toEqual(names.sort());
    const view = await humble.carry({ kind: 'delete', tree: true, to: places().to });
    expect(view).toMatchObject({ state: 'succeeded', files: counted(0, 0, 0, 0, 2) });
    expect(existsSync(to)).toBe(false);
  });

  test('a delete names the directory that it emptied and may not remove', async () => {
    put('fixed/emptied/b', 'b');
    chmodSync(join(from, 'fixed'), 0o555);
    const view = await humble.carry({ kind: 'delete', tree: true, to: `t${nth}` });
    expect(view).toMatchObject({ state: 'failed', files: counted(1, 0, 1, 0), failure: { kind: 'denied' } });
    expect(view.failure?.message).toContain(`t${nth}/fixed/emptied`);
    expect(readdirSync(join(from, 'fixed/emptied'))).toEqual([]);
    chmodSync(join(from, 'fixed'), 0o755);
    await humble.fetch(`/api/v1/transfers/${view.id}/retry`, { method: 'POST' });
    await expect.poll(() => existsSync(from), { timeout: 30_000 }).toBe(false);
  });

  test.each([
    ['onto itself', ''],
    ['into itself', '/deeper'],
  ])('a copy %s is refused', async (_, below) => {
    put('a', 'a');
    const answer = await humble.submit({ kind: 'copy', tree: true, from: `t${nth}`, to: `t${nth}${below}` });
    expect(answer.status).toBe(400);
    rmSync(from, { recursive: true });
  });
});
