/** Ctrl-C, as one press each: a terminal sends it to the whole group and npm passes it on as well. */

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** The same press again, as far as a person can tell. */
const SAME_PRESS_MS = 400;

export interface Presses extends Disposable {
  /** Resolves at the first one. */
  readonly first: Promise<NodeJS.Signals>;
  /** Resolves at the second one: stop at once. */
  readonly second: Promise<NodeJS.Signals>;
}

export function listenForSignals(): Presses {
  const first = Promise.withResolvers<NodeJS.Signals>();
  const second = Promise.withResolvers<NodeJS.Signals>();
  let pressedMs: number | undefined;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (pressedMs === undefined) first.resolve(signal);
    else if (performance.now() - pressedMs > SAME_PRESS_MS) second.resolve(signal);
    pressedMs ??= performance.now();
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return {
    first: first.promise,
    second: second.promise,
    [Symbol.dispose]() {
      for (const signal of SIGNALS) process.off(signal, onSignal);
    },
  };
}
