/**
 * One role (API or worker) in this process: alone, or as a child of `up`. A child gets its settings from its parent over
 * the channel between them, never through its arguments, which every user of the machine can read. It ignores
 * Ctrl-C (its parent decides), obeys SIGTERM, and ends when the channel closes, which the kernel does for the dead.
 */
import { once } from 'node:events';
import { CONFIG_KEYS, type Config, configOf } from '../../lib/config.ts';
import { Failure, type FailureKind, failureOf } from '../../lib/errors.ts';
import { oneLine, say } from './say.ts';
import { listenForSignals } from './signals.ts';

export interface Running {
  readonly url: string;
  /** Orderly, and within the grace period. */
  close(): Promise<void>;
}
export type StartRole = (config: Config) => Promise<Running>;

/** From the child, once: it is ready, or why it is not. */
export type Report =
  | { readonly ready: true; readonly url: string }
  | { readonly ready: false; readonly kind: FailureKind; readonly message: string };

/** What is left to a child whose parent died: nobody waits for it, and the next `up` wants its port. */
const ORPHAN_MS = 2000;
/** Beyond the grace period, before a close that hangs is given up. */
const CLOSE_MARGIN_MS = 5000;

/** Until a signal; a second one ends it at once. Resolves with the exit code. */
export async function runAlone(start: StartRole, config: Config): Promise<number> {
  using presses = listenForSignals();
  const running = await start(config);
  say(`listening on ${running.url}`);
  await presses.first;
  say('stopping: finishing what is in flight (Ctrl-C again to stop at once)');
  return Promise.race([
    closed(running, config).then(() => 0),
    presses.second.then(() => new Failure('interrupted', '').rule.exit),
  ]);
}

/** Until the parent asks, or is gone. Resolves with the exit code. */
export async function runAsChild(start: StartRole): Promise<number> {
  if (!process.connected)
    throw new Failure('invalid', '--supervised is how `up` starts its children; leave it out');
  process.on('SIGINT', () => {});
  process.on('SIGHUP', () => {});
  const orphaned = once(process, 'disconnect').then(() => 'orphaned' as const);
  const told = once(process, 'SIGTERM').then(() => 'told' as const);
  const asked = Promise.race([orphaned, told]);
  const [settings] = await once(process, 'message');
  const config = configOf(settings);
  let running: Running;
  try {
    running = await start(config);
  } catch (error) {
    const failure = failureOf(error);
    await report({ ready: false, kind: failure.kind, message: oneLine(failure) });
    return failure.rule.exit;
  }
  await report({ ready: true, url: running.url });
  if ((await asked) === 'orphaned') {
    say(`process ${process.pid}: its parent is gone; ending`);
    await Promise.race([closed(running, config), delay(ORPHAN_MS)]);
    return new Failure('interrupted', '').rule.exit;
  }
  await Promise.race([closed(running, config), orphaned.then(() => delay(ORPHAN_MS))]);
  return 0;
}

/** Nobody may be listening any more; then nobody needs to know. */
const report = (message: Report): Promise<void> =>
  new Promise((resolve) => {
    if (process.connected) process.send?.(message, () => resolve());
    else resolve();
  });

const closed = (running: Running, config: Config): Promise<void> =>
  Promise.race([running.close(), delay(config.graceMs + CLOSE_MARGIN_MS)]);

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms).unref());

/** What a child is sent. */
export const settingsOf = (config: Config): Record<string, unknown> =>
  Object.fromEntries(CONFIG_KEYS.map((key) => [key, config[key]]));
