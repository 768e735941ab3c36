import { randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { errorOf } from './api.ts';
import { Service, viewIn } from './service.ts';

let service: Service;
beforeAll(async () => {
  service = await Service.start();
});
afterAll(() => service.close());

const keyed = (key: string): Record<string, string> => ({ 'idempotency-key': key });

describe('an Idempotency-Key', () => {
  test('makes one transfer of 64 uploads at once', async () => {
    const key = randomUUID();
    const body = randomBytes(70_000);
    const answers = await Promise.all(
      Array.from({ length: 64 }, () => service.put('once.bin', body, keyed(key))),
    );
    const locations = new Set(answers.map((answer) => answer.headers.get('location')));
    const replayed = answers.filter((answer) => answer.headers.get('idempotency-replayed') === 'true');
    const views = await Promise.all(answers.map((answer) => viewIn(answer, 202)));
    expect(new Set(views.map(({ id }) => id)).size).toBe(1);
    expect(locations.size).toBe(1);
    expect(replayed).toHaveLength(63);
    const ended = await service.ended(views[0]!.id);
    expect(ended.state).toBe('succeeded');
    expect(readFileSync(join(service.root, 'once.bin')).equals(body)).toBe(true);
    await expect.poll(() => service.staged()).toEqual([]);
    const list = (await (await service.fetch('/api/v1/transfers')).json()) as { transfers: unknown[] };
    expect(list.transfers).toHaveLength(1);
  });

  test('makes one transfer of 64 submissions at once', async () => {
    const key = randomUUID();
    const body = { kind: 'delete', to: 'nothing/here' };
    const answers = await Promise.all(Array.from({ length: 64 }, () => service.submit(body, keyed(key))));
    const views = await Promise.all(answers.map((answer) => viewIn(answer, 202)));
    expect(new Set(views.map(({ id }) => id)).size).toBe(1);
    await service.ended(views[0]!.id);
  });

  test('answers the first transfer also after the API was restarted', async () => {
    const key = randomUUID();
    const first = await viewIn(await service.put('again.txt', 'same', keyed(key)), 202);
    await service.ended(first.id);
    await service.stopApi();
    await service.startApi();
    const answer = await service.put('again.txt', 'same', keyed(key));
    expect(answer.headers.get('idempotency-replayed')).toBe('true');
    expect(answer.headers.get('location')).toBe(`/api/v1/transfers/${first.id}`);
    expect(await viewIn(answer, 202)).toMatchObject({ id: first.id, state: 'succeeded' });
    await expect.poll(() => service.staged()).toEqual([]);
  });

  test('with another request is refused: other bytes, path, options or route', async () => {
    const key = randomUUID();
    const { id } = await viewIn(await service.put('mine.txt', 'bytes', keyed(key)), 202);
    for (const other of [
      service.put('mine.txt', 'other', keyed(key)),
      service.put('yours.txt', 'bytes', keyed(key)),
      service.put('mine.txt', 'bytes', keyed(key), '?priority=1'),
      service.put('mine.txt', 'bytes', keyed(key), '?label=a=b'),
      service.submit({ kind: 'delete', to: 'mine.txt' }, keyed(key)),
    ]) {
      const answer = await other;
      expect(answer.status).toBe(422);
      expect((await errorOf(answer)).code).toBe('INVALID_PARAMETER_VALUE');
    }
    await service.ended(id);
    await expect.poll(() => service.staged()).toEqual([]);
  });

  test('does not mind in which order fields and labels are written', async () => {
    const key = randomUUID();
    const first = await viewIn(
      await service.submit(
        '{"kind":"delete","to":"order","labels":{"a":"1","b":"2"},"deadline":60}',
        keyed(key),
      ),
      202,
    );
    const second = await viewIn(
      await service.submit(
        '{"deadline":60,"labels":{"b":"2","a":"1"},"to":"order","kind":"delete"}',
        keyed(key),
      ),
      202,
    );
    expect(second.id).toBe(first.id);
    await service.ended(first.id);
  });

  test('still answers when the deadline of the first request has passed', async () => {
    const key = randomUUID();
    const body = { kind: 'delete', to: 'late', deadline: new Date(Date.now() + 1000).toISOString() };
    const first = await viewIn(await service.submit(body, keyed(key)), 202);
    await service.ended(first.id);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    expect((await viewIn(await service.submit(body, keyed(key)), 202)).id).toBe(first.id);
    expect((await service.submit(body)).status).toBe(400);
  });

  test('that is no key is refused', async () => {
    for (const key of ['x'.repeat(256), 'caf\u00e9'])
      expect((await service.submit({ kind: 'delete', to: 'x' }, keyed(key))).status).toBe(400);
  });
});
