import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { JOBS, QUEUES, transferJobId } from '../../lib/jobs/jobs.ts';
import { newTransferId } from '../../lib/ledger/ids.ts';

const FOLDER = new URL('../payloads/', import.meta.url);
const written = z.array(
  z.object({ name: z.enum(Object.keys(JOBS) as [keyof typeof JOBS]), note: z.unknown() }),
);

test('notes that any release wrote can still be read', () => {
  const releases = readdirSync(FOLDER);
  expect(releases.length).toBeGreaterThan(0);
  for (const release of releases)
    for (const { name, note } of written.parse(JSON.parse(readFileSync(new URL(release, FOLDER), 'utf8'))))
      expect(JOBS[name].note.safeParse(note).success, `${name} of ${release}`).toBe(true);
});

test('every job has a note of this release among them', () => {
  const all = readdirSync(FOLDER).map((file) =>
    written.parse(JSON.parse(readFileSync(new URL(file, FOLDER), 'utf8'))),
  );
  expect(new Set(all.flat().map(({ name }) => name))).toEqual(new Set(Object.keys(JOBS)));
  for (const { queue } of Object.values(JOBS)) expect(QUEUES).toContain(queue);
});

test('job ids are made of what BullMQ takes', () => {
  expect(transferJobId(newTransferId(), 12)).toMatch(/^[a-z0-9]+-12$/);
});
