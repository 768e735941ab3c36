/** One logger a process, passed on; JSON lines, or for a person at a terminal one readable line each. */
import { type DestinationStream, pino } from 'pino';
import pretty from 'pino-pretty';

export type Log = pino.Logger;

export interface LogOptions {
  readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent';
  /** `auto`: readable where standard error is a terminal, else JSON. */
  readonly format: 'auto' | 'json' | 'pretty';
  /** Who speaks: `up`, `api`, `worker-1` … */
  readonly process: string;
  /** Standard error where it is left out. */
  readonly to?: DestinationStream;
}

/**
 * Writes to standard error, so that standard output stays a command's answer. What is named like a secret is blanked
 * wherever a caller forgot; callers don't log secrets in the first place.
 */
export function createLog(options: LogOptions): Log {
  const readable =
    options.format === 'pretty' || (options.format === 'auto' && process.stderr.isTTY === true);
  const target = options.to ?? pino.destination({ fd: 2, sync: true });
  const stream = readable
    ? pretty({
        destination: target,
        ignore: 'pid,hostname,process',
        messageFormat: '[{process}] {msg}',
        singleLine: true,
        colorize: false,
      })
    : target;
  return pino(
    {
      level: options.level,
      base: { process: options.process, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: ['authorization', 'password', 'token', 'secret', '*.authorization', '*.password', '*.secret'],
        censor: '***',
      },
    },
    stream,
  );
}
