/** What every route is given. Nothing in `apps/api` is global: two servers can run in one process, as tests do. */
import type { Deps } from '../../lib/deps.ts';
import type { Store } from '../../lib/stores/store.ts';
import type { Authenticator } from './auth.ts';

export interface ApiDeps extends Deps {
  readonly auth: Authenticator;
  /** The store that is the artifact root; also in `stores`, under the name `artifacts`. */
  readonly artifacts: Store;
  /** Names this API process in the ledger and in hidden file names. Letters, digits and dashes. */
  readonly instance: string;
}
