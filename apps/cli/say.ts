/** What a command tells the person who runs it: on standard error, so that standard output is its answer. */
import type { Failure } from '../../lib/errors.ts';

export type Say = (line: string) => void;

/** A terminal that went away must not take the process with it. */
export const say: Say = (line) => void process.stderr.write(`longshore: ${line}\n`, () => {});

/** One line, whatever the message. */
export const oneLine = (failure: Failure): string => failure.message.replaceAll(/\s*\n\s*/g, ' ');
