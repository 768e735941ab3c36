/** `longshore api`: the API alone; workers and Redis run elsewhere. */
import { type Config, refuseExposed } from '../../../lib/config.ts';
import { Failure } from '../../../lib/errors.ts';
import { runAlone, runAsChild, type StartRole } from '../role.ts';

// loaded only when it runs: `up` itself stays small
const start: StartRole = async (config) => (await import('../../api/main.ts')).runApi(config);

export async function api(config: Config): Promise<number> {
  refuseExposed(config);
  needRedis(config);
  return runAlone(start, config);
}

export const apiChild = (): Promise<number> => runAsChild(start);

/** Only `up` runs a Redis of its own. @throws Failure `invalid` */
export function needRedis(config: Config): void {
  if (config.redisUrl === undefined)
    throw new Failure(
      'invalid',
      'a role on its own needs a Redis to share with the others: give --redis-url or REDIS_URL',
    );
}
