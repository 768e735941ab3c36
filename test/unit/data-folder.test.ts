import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ownDataFolder } from '../../apps/cli/data-folder.ts';
import { failureOf } from '../../lib/errors.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-data-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const refusal = (): Promise<string> =>
  ownDataFolder(folder).then(
    () => 'taken',
    (error: unknown) => `${failureOf(error).kind}: ${failureOf(error).message}`,
  );

describe('a data folder', () => {
  test('says who has it, forgets that when it is let go of, and tells a run that did not let go', async () => {
    const first = await ownDataFolder(folder);
    expect(first.recovered).toBe(false);
    expect(JSON.parse(readFileSync(join(folder, 'owner.json'), 'utf8'))).toMatchObject({ pid: process.pid });
    expect(await refusal()).toMatch(/^busy: .*another longshore \(process \d+/);
    const said = readFileSync(join(folder, 'owner.json'));
    await first.release();
    expect(readdirSync(folder)).toEqual(['owner.lock']);
    writeFileSync(join(folder, 'owner.json'), said); // as one that was killed leaves it
    const second = await ownDataFolder(folder);
    expect(second.recovered).toBe(true);
    await second.release();
    expect(readdirSync(folder)).toEqual(['owner.lock']);
  });

  test.each(['mine', '', '{"pid":1,"host":"here","since":"today"}', '{"mark":"x"}', 'null'])(
    'in which somebody else keeps an owner.json with %j is refused, and the file stays as it is',
    async (text) => {
      const file = join(folder, 'owner.json');
      for (const wasOurs of [false, true]) {
        if (wasOurs) await (await ownDataFolder(folder)).release();
        writeFileSync(file, text);
        expect(await refusal()).toMatch(/^invalid: .*owner\.json/);
        expect(readFileSync(file, 'utf8')).toBe(text);
        rmSync(file);
      }
    },
  );

  test("keeps an owner.json that somebody put into one's place", async () => {
    const owned = await ownDataFolder(folder);
    writeFileSync(join(folder, 'owner.json'), 'mine');
    await owned.release();
    expect(readFileSync(join(folder, 'owner.json'), 'utf8')).toBe('mine');
  });

  test('in which the lock is a file of somebody else is refused, and nothing of it changes', async () => {
    const file = join(folder, 'owner.lock');
    writeFileSync(file, 'notes about who locks what'.repeat(100));
    const text = readFileSync(file);
    expect(await refusal()).toMatch(/^invalid: .*owner\.lock/);
    expect(readFileSync(file).equals(text)).toBe(true);
    rmSync(file);
    const db = new DatabaseSync(file);
    db.exec('CREATE TABLE folder (mark TEXT NOT NULL)');
    db.close();
    const database = readFileSync(file);
    expect(await refusal()).toMatch(/^invalid: .*owner\.lock/);
    expect(readFileSync(file).equals(database)).toBe(true);
    expect(existsSync(join(folder, 'owner.json'))).toBe(false);
  });
});
