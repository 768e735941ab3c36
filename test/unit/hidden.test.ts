/** Whose a hidden file is: a name that merely looks like one of ours proves nothing. */
import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { parsePath, type StorePath } from '../../lib/path.ts';
import { HiddenNames, refusedAsHidden } from '../../lib/stores/hidden.ts';
import { NAMES, OTHERS } from '../hidden.ts';

const at = (dir: string, name: string): StorePath => (dir === '' ? name : `${dir}/${name}`) as StorePath;
const hex = (bytes: number): string => randomBytes(bytes).toString('hex');
const flipped = (digit: string): string => (digit === '0' ? '1' : '0');

const DIRS = ['', 'd', 'a/b/c', 'd ', 'é', 'e\u0301', '\udcff', '\udcfe', 'x/.longshore-notes'];
const TOKENS = ['t', 'transfer-7-1', `canary-${'0'.repeat(36)}`, 'a'.repeat(64)];

test('a name is ours in the directory that it was made for, with what an upload keeps beside it, and nowhere else', () => {
  for (const dir of DIRS)
    for (const token of TOKENS)
      for (const suffix of ['', '.parts', '.joined']) {
        const name = NAMES.nameIn(dir, token) + suffix;
        expect(NAMES.kindOf(at(dir, name))).toBe('ours');
        expect(OTHERS.kindOf(at(dir, name))).toBe('foreign');
        for (const elsewhere of DIRS)
          if (elsewhere !== dir) expect(NAMES.kindOf(at(elsewhere, name))).toBe('foreign');
      }
});

test('the longest name has room for what is kept beside it', () => {
  expect(`${NAMES.nameIn('', 'a'.repeat(64))}.joined`.length).toBeLessThanOrEqual(255);
});

test('no two names of one token are the same', () => {
  const names = Array.from({ length: 1000 }, () => NAMES.nameIn('d', 't'));
  expect(new Set(names).size).toBe(1000);
});

test('no digit of a name can be another one', () => {
  const name = NAMES.nameIn('d', 'transfer-7-1');
  let tried = 0;
  for (let n = 0; n < name.length; n++) {
    if (!/[0-9a-f]/.test(name[n]!)) continue;
    const forged = name.slice(0, n) + flipped(name[n]!) + name.slice(n + 1);
    expect(NAMES.kindOf(at('d', forged))).not.toBe('ours');
    tried++;
  }
  expect(tried).toBeGreaterThan(56);
});

test('the same id with another key makes no name that is ours', () => {
  const impostor = new HiddenNames({ id: '00000000000000a1', key: randomBytes(32) });
  for (let n = 0; n < 100; n++) expect(NAMES.kindOf(at('d', impostor.nameIn('d', 't')))).toBe('foreign');
});

test('a thousand names that look like ours, and are not, are ordinary or somebody else’s', () => {
  const ours = NAMES.nameIn('d', 't-1');
  const makers: readonly (readonly [name: () => string, kind: 'foreign' | undefined])[] = [
    [() => `${NAMES.prefix}t-${hex(4)}-${hex(16)}`, 'foreign'],
    [() => `.longshore-${hex(8)}-t-${hex(4)}-${hex(16)}.parts`, 'foreign'],
    [() => ours.slice(0, 12 + Math.floor(Math.random() * (ours.length - 13))), undefined],
    [() => `${ours}${hex(1)}`, undefined],
    [() => `${ours}.bak`, undefined],
    [() => `${ours}~`, undefined],
    [() => ours.toUpperCase(), undefined],
    [() => `.longshore-${hex(4)}-${hex(2)}`, undefined],
    [() => `.longshore-notes-${hex(2)}.md`, undefined],
    [() => `.longshore-canary-${hex(16)}`, undefined],
    [() => `x${ours}`, undefined],
    [() => `.artifact.uploading.${hex(8)}`, undefined],
    [() => `.artifact.uploading.report-${hex(2)}.csv`, undefined],
  ];
  for (let n = 0; n < 1000; n++) {
    const [name, kind] = makers[n % makers.length]!;
    const made = name();
    expect([made, NAMES.kindOf(at('d', made))]).toEqual([made, kind]);
    expect(refusedAsHidden(at('d', made)) === undefined).toBe(kind === undefined);
    if (kind === undefined) expect(parsePath(`d/${made}`)).toBe(`d/${made}`);
    else expect(() => parsePath(`d/${made}`)).toThrow('reserved');
  }
});

test("MLflow's own hidden names are MLflow's, as Python completes them", () => {
  for (const name of ['.artifact.uploading.abcd_123', '.artifact.uploading.________'])
    expect(NAMES.kindOf(at('d', name))).toBe('mlflow');
  for (const name of [
    '.artifact.uploading.',
    '.artifact.uploading.ABCDEFGH',
    '.artifact.uploading.abcdefghi',
  ])
    expect(NAMES.kindOf(at('d', name))).toBeUndefined();
});

test('a staged file has one name, which says whose it is and of which id', () => {
  for (const id of ['t0123', 't0123-plan-7', 'ready-a-b', 'told-nobody']) {
    expect(NAMES.stagedName(id)).toBe(NAMES.stagedName(id));
    expect(NAMES.stagedId(NAMES.stagedName(id))).toBe(id);
    for (const name of [
      id,
      OTHERS.stagedName(id),
      `x${NAMES.stagedName(id)}`,
      `${NAMES.stagedName(id)}0`,
      NAMES.stagedName(id).slice(0, -1),
      `${id}-00000000000000a1-${hex(16)}`,
    ])
      expect(NAMES.stagedId(name)).toBeUndefined();
  }
});

test('the key is in nothing that is written of it', () => {
  const key = Buffer.from('this is a secret of 32 bytes, no');
  const names = new HiddenNames({ id: '00000000000000a1', key });
  const written = [JSON.stringify(names), String(names), names.nameIn('', 't'), names.stagedName('t')].join();
  for (const form of ['utf8', 'hex', 'base64'] as const) expect(written).not.toContain(key.toString(form));
});
