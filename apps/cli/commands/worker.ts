/** `longshore worker`: one worker process; the API and Redis run elsewhere. */
import type { Config } from '../../../lib/config.ts';
import { runAlone, runAsChild, type StartRole } from '../role.ts';

const start: StartRole = async (config) => (await import('../../../workers/main.ts')).runWorker(config);

export const worker = (config: Config): Promise<number> => runAlone(start, config);

export const workerChild = (): Promise<number> => runAsChild(start);
