/** The API process: dependencies, listen, drain. */
import { randomBytes } from 'node:crypto';
import { type Config, refuseExposed } from '../../lib/config.ts';
import { openDeps } from '../../lib/deps.ts';
import { Outbox } from '../../lib/transfer/outbox.ts';
import { cannotListen } from '../listen.ts';
import { noAuth, openAuth } from './auth.ts';
import { buildServer } from './server.ts';

const IDLE_CHECK_MS = 50;

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
    return {
      url,
      async close(graceMs = config.graceMs) {
        const cut = setTimeout(() => app.server.closeAllConnections(), graceMs);
        // connections that become idle while others still work would else be kept alive
        const idle = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS);
        await app.close();
        clearTimeout(cut);
        clearInterval(idle);
        await outbox.close();
        await deps.close();
      },
    };
  } catch (error) {
    await deps.close();
    throw error;
  }
}
