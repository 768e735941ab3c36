/** The API process: dependencies, listen, drain. */
import { randomBytes } from 'node:crypto';
import { type Config, refuseExposed } from '../../lib/config.ts';
import { Deadline } from '../../lib/deadline.ts';
import { type Deps, openDeps } from '../../lib/deps.ts';
import { Failure, failureOf } from '../../lib/errors.ts';
import { parsePath } from '../../lib/path.ts';
import type { Store } from '../../lib/stores/store.ts';
import { Outbox } from '../../lib/transfer/outbox.ts';
import { cannotListen } from '../listen.ts';
import { noAuth, openAuth } from './auth.ts';
import { buildServer } from './server.ts';

const IDLE_CHECK_MS = 50;
/** A store that says nothing for so long at the start is told of. */
const STORE_ANSWERS_MS = 8000;
/** Listed to see whether a store answers: nobody keeps anything there. */
const NOWHERE = parsePath('longshore-looks');

export interface RunningApi {
  /** Where it listens, without a trailing slash; the port is the real one where 0 was asked for. */
  readonly url: string;
  /** Stops accepting, lets requests in flight finish for `graceMs` at most, cuts what is left, and lets go of everything. */
  close(graceMs?: number): Promise<void>;
}

/** @throws Failure `invalid` for a setting that can't work, `unavailable` when something it needs does not answer */
export async function runApi(config: Config): Promise<RunningApi> {
  refuseExposed(config);
  const deps = await openDeps(config, 'api');
  try {
    const auth = config.authFile === undefined ? noAuth : await openAuth(config.authFile, deps.log);
    const artifacts = deps.stores.get('artifacts')!;
    const instance = `api-${process.pid}-${randomBytes(4).toString('hex')}`;
    const app = buildServer({ ...deps, auth, artifacts, instance });
    const url = await app.listen({ host: config.host, port: config.port }).catch((error: unknown) => {
      throw cannotListen(config.host, config.port, error);
    });
    const outbox = new Outbox(deps);
    outbox.start();
    const closing = new Deadline();
    const looked = Promise.all([...deps.stores.values()].map((store) => look(store, deps, closing.signal)));
    return {
      url,
      async close(graceMs = config.graceMs) {
        closing.stop(new Failure('interrupted', 'stopped: the API is shutting down'));
        const cut = setTimeout(() => app.server.closeAllConnections(), graceMs);
        // connections that become idle while others still work would else be kept alive
        const idle = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS);
        await app.close();
        clearTimeout(cut);
        clearInterval(idle);
        await Promise.all([outbox.close(), looked]);
        await deps.close();
      },
    };
  } catch (error) {
    await deps.close();
    throw error;
  }
}

/** Whether a store answers, said where it does not; no reason not to start, for it may answer later. Never throws. */
async function look(store: Store, { log }: Deps, closing: AbortSignal): Promise<void> {
  using patience = new Deadline([closing]).limit(
    Date.now() + STORE_ANSWERS_MS,
    () =>
      new Failure('timeout', `could not list ${store.name}: no answer within ${STORE_ANSWERS_MS / 1000} s`),
  );
  try {
    for await (const _ of store.list(NOWHERE, { deep: false, signal: patience.signal })) break;
  } catch (error) {
    const { kind, message } = failureOf(error);
    if (kind === 'denied')
      log.warn(
        { store: store.name, uri: store.uri, why: message },
        'a store may not be listed; what needs no listing can be tried',
      );
    else if (kind !== 'interrupted')
      log.error({ store: store.name, uri: store.uri, kind }, `a store cannot be used now: ${message}`);
  }
}
