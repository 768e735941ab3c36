import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { TAR_END, tarHeader, tarPadding } from '../../lib/transfer/tar.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-tar-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** An archive of files whose content is given, on disk. */
function archiveOf(files: readonly (readonly [name: string, content: string])[]): string {
  const pieces = files.flatMap(([name, content]) => {
    const bytes = Buffer.from(content);
    return [
      tarHeader({ name, size: bytes.length, modifiedMs: 1_700_000_000_000 }),
      bytes,
      tarPadding(bytes.length),
    ];
  });
  const path = join(folder, 'archive.tar');
  writeFileSync(path, Buffer.concat([...pieces, TAR_END]));
  return path;
}

const tar = (...args: readonly string[]): string =>
  execFileSync('tar', args, { encoding: 'utf8', env: { ...process.env, TZ: 'UTC', LC_ALL: 'C.UTF-8' } });

describe('an archive, as the tar of the system reads it', () => {
  test.each([
    ['a short name', 'models/w.bin'],
    ['exactly a hundred characters', 'n'.repeat(100)],
    ['a name that ustar splits', `${'d'.repeat(80)}/${'e'.repeat(60)}/${'f'.repeat(90)}`],
    ['a prefix of exactly 155 characters', `${'d'.repeat(155)}/${'f'.repeat(100)}`],
    ['a name that no slash splits', `${'d'.repeat(30)}/${'f'.repeat(180)}`],
    ['a path that is longer than ustar has room for', `${'deep/'.repeat(120)}f`],
    ['other scripts', 'modèles/重み/веса-🚢.bin'],
    ['spaces and quotes', `it's "here" $(now) *?`],
  ])('holds a file with %s', (_what, name) => {
    const path = archiveOf([
      ['first', '1'],
      [name, 'the content'],
      ['last', '3'],
    ]);
    expect(tar('--quoting-style=literal', '-tf', path).split('\n').slice(0, -1)).toEqual([
      'first',
      name,
      'last',
    ]);
    tar('-xf', path, '-C', folder);
    expect(readFileSync(join(folder, name), 'utf8')).toBe('the content');
  });

  test('keeps empty files, whole blocks, and when a file was changed', () => {
    const path = archiveOf([
      ['empty', ''],
      ['block', 'x'.repeat(512)],
      ['over', 'y'.repeat(513)],
    ]);
    const lines = tar('--full-time', '-tvf', path).split('\n').slice(0, -1);
    expect(lines).toHaveLength(3);
    for (const line of lines) expect(line).toContain('2023-11-14 22:13:20');
    tar('-xf', path, '-C', folder);
    expect(readFileSync(join(folder, 'over'), 'utf8')).toBe('y'.repeat(513));
  });

  test('says sizes that eleven octal digits cannot', () => {
    const size = 200 * 1024 ** 3;
    writeFileSync(join(folder, 'head'), tarHeader({ name: 'huge', size, modifiedMs: 0 }));
    // the bytes themselves do not follow: the listing is all that counts
    const listed = execFileSync('sh', ['-c', `tar -tvf ${folder}/head 2>/dev/null || true`], {
      encoding: 'utf8',
    });
    expect(listed).toContain(String(size));
  });
});
