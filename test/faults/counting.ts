/** A line to an HTTP server that keeps the books of a store's operator: when each request came, and how many were in flight. */
import { httpLine } from './http-line.ts';
import type { Line } from './lines.ts';

export interface CountingLine extends Line {
  /** When each request's head was there; ms, rising. */
  readonly arrivals: readonly number[];
  /** Requests whose answer is not all there; and the most of them that there were. */
  readonly inFlight: { readonly now: number; readonly most: number };
  /** Requests in flight on average between two times, and arrivals a second. */
  between(fromMs: number, toMs: number): { readonly inFlight: number; readonly rate: number };
  /** The most arrivals in any `ms`. */
  mostWithin(ms: number): number;
  /** From now on each request is answered with this status and `Retry-After`, or (undefined) by the server again. */
  refuse(answer: { readonly status: number; readonly retryAfterSeconds: number } | undefined): void;
}

export async function countingLine(port: number): Promise<CountingLine> {
  const arrivals: number[] = [];
  const inFlight = { now: 0, most: 0 };
  const endings: number[] = [];
  let refusal: { readonly status: number; readonly retryAfterSeconds: number } | undefined;
  const line = await httpLine(port, (req, res) => {
    arrivals.push(performance.now());
    inFlight.most = Math.max(inFlight.most, ++inFlight.now);
    let over = false;
    const end = (): void => {
      if (over) return;
      over = true;
      inFlight.now--;
      endings.push(performance.now());
    };
    res.on('close', end);
    if (refusal) {
      req.resume();
      req.once('end', () => {
        end();
        res
          .writeHead(refusal?.status ?? 503, { 'retry-after': String(refusal?.retryAfterSeconds ?? 1) })
          .end();
      });
      return undefined;
    }
    return {
      down(answer) {
        answer.on('end', end);
        return undefined;
      },
    };
  });
  return {
    ...line,
    arrivals,
    inFlight,
    between: (fromMs, toMs) => {
      const within = (time: number): number => Math.min(toMs, Math.max(fromMs, time)) - fromMs;
      const sum = (times: readonly number[]): number => times.reduce((all, time) => all + within(time), 0);
      const open = (arrivals.length - endings.length) * (toMs - fromMs);
      const arrived = arrivals.filter((time) => time >= fromMs && time < toMs).length;
      const ms = toMs - fromMs;
      return { inFlight: (sum(endings) + open - sum(arrivals)) / ms, rate: (arrived * 1000) / ms };
    },
    mostWithin: (ms) =>
      arrivals.reduce((most, from, at) => {
        const after = arrivals.findIndex((time, n) => n > at && time >= from + ms);
        return Math.max(most, (after < 0 ? arrivals.length : after) - at);
      }, 0),
    refuse: (answer) => {
      refusal = answer;
    },
  };
}
