import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Command, type Process, processes } from '../e2e/command.ts';
import { scaled } from '../scale.ts';
import { freePort } from '../servers/process.ts';
import { requireServer } from '../servers/require.ts';
import { Client, Reader } from './client.ts';
import { filesIn, folderShelf, hasEnded, rowsIn } from './oracle.ts';
import { Points } from './points.ts';
import { randomOf, seedOf } from './seed.ts';
import { Source } from './sources.ts';

const MIB = 1024 * 1024;
const TEST_MS = 1800_000;
const WAIT_MS = 150_000;

requireServer('redis')('longshore up', () => {
  test(
    'killed with -9 in mid-transfer, again and again, ends its children, starts one Redis, and goes on',
    async () => {
      const seed = seedOf('up');
      const random = randomOf(seed);
      const data = mkdtempSync(join(tmpdir(), 'longshore-up-killed-'));
      const port = await freePort();
      const points = new Points();
      const client = new Client(() => `http://127.0.0.1:${port}`);
      const shelf = folderShelf(join(data, 'artifacts'));
      const accepted = new Map<string, Source>();
      const stored: Source[] = [];
      const start = async (): Promise<Command> => {
        const args = [
          'up',
          '--data',
          data,
          '--port',
          String(port),
          '--log-level',
          'warn',
          '--gc-every',
          '1d',
        ];
        const command = new Command(args, points.env);
        await command.said(/Ctrl-C stops it/);
        return command;
      };
      const redises = (): Process[] =>
        processes().filter(
          ({ cwd, command }) => cwd === join(data, 'redis') && command.includes('redis-server'),
        );
      const reader = new Reader();
      reader.start(async () => {
        const source = [...accepted.values(), ...stored].at(
          Math.floor(random() * (accepted.size + stored.length)),
        );
        if (!source || source.size > MIB) return undefined;
        const found = await shelf.read(source.path);
        if (!found) return stored.includes(source) ? `${source.path} is gone` : undefined;
        return found.sha256 === source.sha256
          ? undefined
          : `${source.path} has ${found.size} bytes, or others`;
      });
      let up = await start();
      try {
        for (let round = 0; round < scaled(20); round++) {
          const atWork = points.next('tell', 'worker', 'parts', AbortSignal.timeout(WAIT_MS));
          const small = Array.from(
            { length: 6 },
            (_, n) => new Source(`${round}/${n}.bin`, Math.floor(2 ** (random() * 20)) - 1, seed),
          );
          const sending = [
            ...small.map(async (source, n) => {
              if (n % 2 === 0) {
                await client.put(source);
                stored.push(source);
              } else accepted.set(await client.upload(source, source.path), source);
            }),
            (async () => {
              const large = new Source(`${round}/large.bin`, 48 * MIB, seed);
              accepted.set(await client.upload(large, large.path), large);
            })(),
          ];
          expect(await atWork).toBeDefined();
          const children = processes().filter(({ parent }) => parent === up.child.pid);
          up.signal('SIGKILL');
          await up.ended;
          up = await start();
          await Promise.all(sending);
          expect(up.stderr).toContain('did not stop in order');
          expect(redises()).toHaveLength(1);
          const old = new Set(children.map(({ pid }) => pid));
          for (
            const untilMs = Date.now() + 20_000;
            processes().some(({ pid }) => old.has(pid));
            await sleep(50)
          )
            if (Date.now() > untilMs) throw new Error('children of a killed one are still there');
        }
        const ledger = join(data, 'ledger.db');
        const unended = () => rowsIn(ledger).filter((row) => !hasEnded(row));
        for (const untilMs = Date.now() + WAIT_MS; unended().length > 0; await sleep(100))
          if (Date.now() > untilMs) throw new Error(`not ended: ${JSON.stringify(unended())} ${up.stderr}`);
        await reader.stop();
        expect(reader.seen).toEqual([]);
        for (const source of [...accepted.values(), ...stored])
          expect(await shelf.read(source.path), source.path).toEqual({
            size: source.size,
            sha256: source.sha256,
          });
        const rows = new Map(rowsIn(ledger).map((row) => [row.id, row]));
        for (const id of accepted.keys())
          expect(rows.get(id)).toMatchObject({ state: 'succeeded', endings: 1 });
        expect(await up.stop()).toMatchObject({ code: 0 });
        expect(redises()).toEqual([]);
        const hidden = [...(await shelf.hidden([])), ...filesIn(join(data, 'staging'))];
        console.log(`up: ${accepted.size + stored.length} files, for gc: ${hidden.length} files`);
      } catch (error) {
        console.log(up.stderr);
        throw error;
      } finally {
        await reader.stop();
        await client.close();
        if (up.child.exitCode === null && up.child.signalCode === null) await up.stop();
        for (const { pid } of redises()) process.kill(pid, 'SIGKILL');
        points.close();
        rmSync(data, { recursive: true, force: true });
      }
    },
    TEST_MS,
  );
});
