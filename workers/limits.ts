/** How long jobs of a transfer may take. */
import type { Config } from '../lib/config.ts';
import type { Deadline } from '../lib/deadline.ts';
import { Failure } from '../lib/errors.ts';
import type { Transfer } from '../lib/ledger/transfer.ts';

type Limits = Pick<Config, 'lifetimeMs' | 'queueWaitMs' | 'attemptTimeoutMs' | 'stallMs'>;
interface Limited {
  readonly config: Limits;
}

/** When the transfer's time is over; unix time in ms. */
export const expiresMs = ({ config }: Limited, row: Transfer): number =>
  Math.min(row.deadlineMs ?? Number.POSITIVE_INFINITY, row.createdMs + config.lifetimeMs);

/** For a worker that took it up for the first time. */
export const waitedTooLong = ({ queueWaitMs }: Pick<Limits, 'queueWaitMs'>, row: Transfer): boolean =>
  queueWaitMs > 0 && row.starts === 1 && (row.startedMs ?? Date.now()) > row.createdMs + queueWaitMs;

export function stopIfWaitedTooLong({ config }: Limited, row: Transfer, deadline: Deadline): void {
  if (!waitedTooLong(config, row)) return;
  const message = 'it waited longer than the queue timeout for a worker; add workers';
  deadline.stop(new Failure('timeout', `transfer ${row.id}: ${message}`));
}

/** Of one job: of a transfer that is carried in parts, each part's try is an attempt of its own. */
export function setLimits({ config }: Limited, row: Transfer, deadline: Deadline): void {
  const timeout = (message: string) => () => new Failure('timeout', `transfer ${row.id}: ${message}`);
  if (row.deadlineMs !== undefined) deadline.limit(row.deadlineMs, timeout('its deadline passed'));
  deadline.limit(row.createdMs + config.lifetimeMs, timeout('it did not end within its lifetime'));
  if (config.attemptTimeoutMs > 0)
    deadline.limit(
      Date.now() + config.attemptTimeoutMs,
      timeout('the attempt took longer than the attempt timeout'),
    );
  deadline.watch(config.stallMs, timeout(`nothing moved for ${config.stallMs / 1000} s`));
}
