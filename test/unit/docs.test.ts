import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { PAGES } from '../../deploy/docs.ts';

describe('the pages that are made from the code', () => {
  for (const [name, page] of Object.entries(PAGES))
    test(`docs/${name} says what the code says (else: npm run docs)`, async () => {
      const written = await readFile(new URL(`../../docs/${name}`, import.meta.url), 'utf8');
      expect(written).toBe(page());
    });
});
