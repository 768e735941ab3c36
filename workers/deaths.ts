/**
 * A transfer that kills its workers must not do so for ever, and what only ran beside it must not be blamed. Nobody can
 * tell the two apart from one death: both are counted, both come back at times of their own, and the one at hand at
 * every death is the first to reach the bound. An attempt that ended with a word of its worker (a shutdown, too) is none.
 */
import { Failure } from '../lib/errors.ts';
import type { Transfers } from '../lib/ledger/contract.ts';
import { type Transfer, WORKER_GONE } from '../lib/ledger/transfer.ts';

/** A transfer that was at hand when so many workers died is taken to be the reason. */
export const MOST_DEATHS = 20;
/** From so many on it is kept apart from what it ran with. */
export const SUSPECT_DEATHS = 5;
const APART_FIRST_MS = 250;
const APART_MAX_MS = 60_000;

/** Why a transfer that was just started shall not run: `bug` for good, `busy` for now; undefined: it shall. */
export async function deathsSpeakAgainst(
  transfers: Pick<Transfers, 'attemptsOf'>,
  { id, starts }: Pick<Transfer, 'id' | 'starts'>,
  mostDeaths: number,
): Promise<Failure | undefined> {
  if (starts === 1) return undefined;
  // those since it was accepted or retried, without the one that was just opened
  const attempts = (await transfers.attemptsOf(id)).slice(-starts, -1);
  const died = attempts.map(({ failure }) => failure?.message === WORKER_GONE);
  const deaths = died.filter(Boolean).length;
  if (deaths >= mostDeaths)
    return new Failure(
      'bug',
      `transfer ${id}: ${deaths} workers died while they had it, and none got to its end; look into their logs before it is retried`,
    );
  if (deaths < SUSPECT_DEATHS || died.at(-1) !== true) return undefined;
  return new Failure('busy', `transfer ${id}: ${deaths} workers died while they had it; it runs apart`, {
    retryAfterMs: apartMs(deaths),
  });
}

/** How long what was at hand at so many deaths is kept from what it ran with. */
export const apartMs = (deaths: number): number =>
  Math.ceil(Math.random() * Math.min(APART_MAX_MS, APART_FIRST_MS * 2 ** (deaths - SUSPECT_DEATHS)));
