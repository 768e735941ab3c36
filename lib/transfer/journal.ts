import { Failure } from '../errors.ts';
import type { Uploads } from '../ledger/contract.ts';
import type { UploadJournal } from '../stores/driver.ts';

/** Multipart uploads of one store, written down in the ledger for `owner` (a token) before they begin. */
export function uploadJournal(uploads: Uploads, store: string, owner: string): UploadJournal {
  return {
    intend: (path) => uploads.intend({ store, path }, owner),
    async begun(journalId, upload) {
      if (await uploads.begun(journalId, upload.id)) return;
      throw new Failure(
        'unavailable',
        `could not begin an upload to ${store}:${upload.path}: it was collected as abandoned before it had begun; try again`,
        { op: 'begin', store, path: upload.path },
      );
    },
    ended: (journalId) => uploads.ended(journalId),
  };
}
