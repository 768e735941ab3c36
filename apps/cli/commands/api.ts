/** `longshore api`: the API alone; workers and Redis run elsewhere. */
import { type Config, refuseExposed } from '../../../lib/config.ts';
import { runAlone, runAsChild, type StartRole } from '../role.ts';

// loaded only when it runs: `up` itself stays small
const start: StartRole = async (config) => (await import('../../api/main.ts')).runApi(config);

export async function api(config: Config): Promise<number> {
  refuseExposed(config);
  return runAlone(start, config);
}

export const apiChild = (): Promise<number> => runAsChild(start);
