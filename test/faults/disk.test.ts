import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { eventually } from '../e2e/quay.ts';
import { Service, viewIn } from '../e2e/service.ts';
import { scaled } from '../scale.ts';
import { isInstalled } from '../servers/installed.ts';
import { filesIn } from './oracle.ts';

const MIB = 1024 * 1024;

/** A disk of its own, as small as is asked for. */
class Disk {
  readonly folder = mkdtempSync(join(tmpdir(), 'longshore-disk-'));

  constructor(mib: number) {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m,mode=700`, 'tmpfs', this.folder]);
  }

  resize(mib: number): void {
    execFileSync('mount', ['-o', `remount,size=${mib}m`, this.folder]);
  }

  /** Not a byte is left afterwards. */
  fill(): void {
    for (const bytes of [Buffer.alloc(256 * 1024), Buffer.alloc(4096), Buffer.alloc(1)])
      try {
        for (;;) appendFileSync(join(this.folder, 'filler'), bytes);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      }
  }

  makeRoom(): void {
    rmSync(join(this.folder, 'filler'), { force: true });
  }

  close(): void {
    execFileSync('umount', ['--lazy', this.folder]);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function whyNot(): string | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'needs root on Linux, for small disks';
  if (!isInstalled('redis')) return 'redis-server is missing';
  try {
    new Disk(1).close();
    return undefined;
  } catch {
    return 'this machine lets nobody mount';
  }
}

const reason = whyNot();
const suite = reason === undefined ? describe : describe.skip;
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

suite(`a full disk${reason === undefined ? '' : ` [${reason}]`}`, () => {
  let disk: Disk;
  let service: Service;
  afterEach(async () => {
    await service.close();
    disk.close();
  });

  test('under the ledger: nothing is accepted that is not written down, and it goes on when there is room', async () => {
    disk = new Disk(4);
    service = await Service.start({ ledgerPath: join(disk.folder, 'ledger.db') }, { worker: false });
    const before = await viewIn(await service.put('before', 'b'), 202);
    disk.fill();
    await service.startWorker();
    const accepted: string[] = [];
    const refused: number[] = [];
    // what the log has room for already is still accepted
    for (let n = 0; n < 2000 && refused.length < scaled(50); n++) {
      const answer = await service.put(`while/${n}`, `w${n}`);
      const text = await answer.text();
      if (answer.status === 202) accepted.push((JSON.parse(text) as { id: string }).id);
      else refused.push(answer.status);
      if (answer.status !== 202) expect(text).toMatch(/no-space|unavailable/);
    }
    expect(refused.length).toBe(scaled(50));
    expect([...new Set(refused)].filter((status) => status !== 503 && status !== 507)).toEqual([]);
    const artifact = '/api/2.0/mlflow-artifacts/artifacts/sync';
    expect((await service.fetch(artifact, { method: 'PUT', body: 'sync' })).status).toBe(200);
    expect(await (await service.fetch(artifact)).text()).toBe('sync');
    disk.makeRoom();
    for (const id of [before.id, ...accepted]) expect((await service.ended(id)).state).toBe('succeeded');
    const after = await viewIn(await service.put('after', 'a'), 202);
    expect((await service.ended(after.id)).state).toBe('succeeded');
    await expect.poll(() => service.staged()).toEqual([]);
  });

  test('under staging: 507, nothing is left behind, and smaller ones go on', async () => {
    disk = new Disk(8);
    service = await Service.start({ stagingUri: disk.folder });
    for (let n = 0; n < 3; n++) {
      const answer = await service.put('large', Buffer.alloc(12 * MIB));
      expect(answer.status).toBe(507);
      expect(await answer.json()).toMatchObject({ kind: 'no-space' });
      expect(readdirSync(disk.folder)).toEqual([]);
    }
    const bytes = randomBytes(3 * MIB);
    const { id } = await viewIn(await service.put('small', bytes), 202);
    expect((await service.ended(id)).state).toBe('succeeded');
    expect(sha256(readFileSync(join(service.root, 'small')))).toBe(sha256(bytes));
  });

  test('under the target: no-space, nothing half-visible, and it goes on by itself once there is room', async () => {
    disk = new Disk(8);
    const root = join(disk.folder, 'artifacts');
    mkdirSync(root);
    service = await Service.start({ artifactsDestination: root });
    const bytes = randomBytes(12 * MIB);
    const { id } = await viewIn(await service.put('models/w.bin', bytes), 202);
    await eventually(async () => ((await service.transfer(id)).attempts?.length ?? 0) > 2, 30_000);
    const { attempts, failedAttempts } = await service.transfer(id);
    expect(attempts?.[0]?.failure).toMatchObject({ kind: 'no-space' });
    expect(attempts?.[0]?.failure?.message).toContain('artifacts:models/w.bin');
    expect(failedAttempts).toBe(0);
    const visible = (): string[] => filesIn(root).filter((path) => !/(^|\/)\./.test(path));
    expect(visible()).toEqual([]);
    const artifact = '/api/2.0/mlflow-artifacts/artifacts/models/w.bin';
    expect((await service.fetch(artifact)).status).toBe(404);
    expect((await service.fetch(artifact, { method: 'PUT', body: bytes })).status).toBe(507);
    expect(visible()).toEqual([]);
    const small = await viewIn(await service.put('small', 'fits'), 202);
    expect((await service.ended(small.id)).state).toBe('succeeded');
    disk.resize(32);
    expect((await service.ended(id)).state).toBe('succeeded');
    expect(sha256(readFileSync(join(root, 'models/w.bin')))).toBe(sha256(bytes));
    expect(filesIn(root).toSorted()).toEqual(['models/w.bin', 'small']);
  });
});
