/** What `points-child.ts` wraps of a worker so that it can be killed while something goes in parts, at places that only those pass. */
import { appendFileSync } from 'node:fs';
import type { Uploads } from '../../lib/ledger/contract.ts';
import type { Body, Call, FileEntry, PartPlace, Receipt, Upload } from '../../lib/stores/driver.ts';
import type { Point } from './points.ts';

export interface Passing {
  /** `what`: how often it may be hit is counted for each. */
  pass(point: Point, what: string): void;
  /** Bytes that were taken for a target. */
  sent(bytes: number): void;
  /** Where a line is written for each part that a store has taken. */
  readonly partsFile: string;
}

/** A vendor's, below all layers. */
interface MultipartClass {
  readonly prototype: {
    part(upload: Upload, part: PartPlace, body: Body, call: Call): Promise<Receipt>;
    finish(upload: Upload, ...rest: never[]): Promise<FileEntry>;
  };
}

/** The transfers that uploads belong to, by the store's own id; others than parted ones are in none of the points. */
export class PartedUploads {
  readonly #passing: Passing;
  readonly #transfers = new Map<string, string>();
  /** By the ledger's id. */
  readonly #rows = new Map<string, string>();

  constructor(passing: Passing) {
    this.#passing = passing;
  }

  /** What the ledger hears of uploads, which says when each has begun. */
  around(uploads: Uploads): void {
    const { ensureParted, parted, intend, begun } = uploads;
    const { pass } = this.#passing;
    const know = (row: Awaited<ReturnType<typeof parted>>): void => {
      if (!row) return;
      this.#rows.set(row.id, row.transfer);
      if (row.uploadId !== undefined) this.#transfers.set(row.uploadId, row.transfer);
    };
    Object.assign(uploads, {
      ensureParted: async (...args: Parameters<typeof ensureParted>) => {
        const row = await ensureParted(...args);
        know(row);
        return row;
      },
      parted: async (...args: Parameters<typeof parted>) => {
        const row = await parted(...args);
        know(row);
        return row;
      },
      intend: async (...args: Parameters<typeof intend>) => {
        const id = await intend(...args);
        const [transfer = ''] = args[1].split('-');
        if ([...this.#rows.values()].includes(transfer)) pass('intended', transfer);
        return id;
      },
      begun: async (...args: Parameters<typeof begun>) => {
        const transfer = this.#rows.get(args[0]);
        if (transfer !== undefined) pass('begun', transfer);
        const won = await begun(...args);
        if (transfer !== undefined && won) {
          this.#transfers.set(args[1], transfer);
          pass('recorded', transfer);
        }
        return won;
      },
    } satisfies Partial<Uploads>);
  }

  aroundStore({ prototype }: MultipartClass): void {
    const { part, finish } = prototype;
    const { pass, sent, partsFile } = this.#passing;
    const transfers = this.#transfers;
    prototype.part = async function (upload, place, body, call) {
      const transfer = transfers.get(upload.id);
      if (transfer === undefined) return part.call(this, upload, place, body, call);
      const what = `${transfer}-p${place.number}`;
      const receipt = await part.call(this, upload, place, told(body), call);
      appendFileSync(partsFile, `${upload.id} ${place.number}\n`);
      pass('part-sent', what);
      return receipt;

      function told(given: Body): Body {
        // anywhere in it, so that the store has been given any share of it
        const from = Math.random() * given.size;
        async function* counted() {
          let passed = 0;
          for await (const chunk of given.open()) {
            yield chunk;
            sent(chunk.length);
            passed += chunk.length;
            if (passed >= from) pass('part-sending', what);
          }
        }
        return { ...given, open: counted };
      }
    };
    prototype.finish = async function (upload, ...rest) {
      const transfer = transfers.get(upload.id);
      if (transfer !== undefined) pass('all-sent', transfer);
      const entry = await finish.call(this, upload, ...rest);
      if (transfer !== undefined) pass('completed', transfer);
      return entry;
    };
  }
}
