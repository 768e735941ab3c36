/**
 * The contract of `lib/stores/driver.ts` as tests: every driver runs them on its real server, every layer over the
 * memory driver. What a store declares in its traits is proved both ways; what it cannot do is named in `known.ts`.
 */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { joinPath, parsePath, type StorePath } from '../../lib/path.ts';
import type { Driver } from '../../lib/stores/driver.ts';
import type { Store } from '../../lib/stores/store.ts';
import { attributeCases } from './attributes.ts';
import { bodyCases } from './bodies.ts';
import { copyCases } from './copies.ts';
import type { KnownException } from './known.ts';
import { listingCases } from './listing.ts';
import { objectCases } from './objects.ts';
import { raceCases } from './races.ts';
import { replyCases } from './replies.ts';
import { streamCases } from './streams.ts';
import { traitCases } from './traits.ts';
import { uploadCases } from './uploads.ts';

export interface Opened {
  /** Over the same place as `driver`; its own layers may lie between. */
  readonly store: Store;
  readonly driver: Driver;
  /** Another place of the same server, where such can copy from each other. */
  readonly neighbour?: Driver;
  /** Makes an empty directory where the store has such things, as another program would. */
  readonly makeDir?: (path: StorePath) => Promise<void>;
  cleanup(): Promise<void>;
}

/** What a case works on; each has a directory of its own. */
export interface Ground extends Opened {
  readonly dir: StorePath;
  /** `name` (of one or more segments) in the case's directory. */
  at(name: string): StorePath;
  /** Aborted when the case ends. */
  readonly signal: AbortSignal;
}

/** Declares a case. */
export type Case = (name: string, work: (on: Ground) => Promise<void>) => void;

export interface ContractOptions {
  readonly name: string;
  readonly open: () => Promise<Opened>;
  readonly known?: readonly KnownException[];
}

const CASE_MS = 60_000;

export function storeContract({ name, open, known = [] }: ContractOptions): void {
  describe(`the store contract on ${name}`, () => {
    let opened: Opened | undefined;
    beforeAll(async () => {
      opened = await open();
    });
    afterAll(() => opened?.cleanup());

    const declared = new Set<string>();
    const declare: Case = (title, work) => {
      declared.add(title);
      const run = async (): Promise<void> => {
        const over = new AbortController();
        const dir = parsePath(`case-${randomBytes(6).toString('hex')}`);
        try {
          await work({
            ...opened!,
            dir,
            at: (below) => joinPath(dir, parsePath(below)),
            signal: over.signal,
          });
        } finally {
          over.abort();
          await opened!.store.removeTree(dir, AbortSignal.timeout(CASE_MS)).catch(() => {});
        }
      };
      const exception = known.find((one) => one.test === title);
      if (exception?.sometimes) test.skip(`${title} (known: ${exception.reason})`, run, CASE_MS);
      else if (exception) test.fails(`${title} (known: ${exception.reason})`, run, CASE_MS);
      else test(title, run, CASE_MS);
    };
    objectCases(declare);
    listingCases(declare);
    uploadCases(declare);
    bodyCases(declare);
    replyCases(declare);
    raceCases(declare);
    traitCases(declare);
    copyCases(declare);
    attributeCases(declare);
    streamCases(declare);

    for (const { test: title } of known)
      if (!declared.has(title)) throw new Error(`known.ts names a case that is not there: ${title}`);
  });
}
