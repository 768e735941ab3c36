/** Who may do what to places and transfers. Scopes by path are about artifact paths; another store needs them for all. */
import { Failure } from '../../lib/errors.ts';
import type { Place, Transfer } from '../../lib/ledger/transfer.ts';
import { ROOT, type StorePath } from '../../lib/path.ts';
import { demand, type Principal, type Scope } from './auth.ts';

export const ARTIFACTS_STORE = 'artifacts';

type Sides = Pick<Transfer, 'id' | 'owner' | 'from' | 'to'>;

const scopedPath = (place: Place): StorePath => (place.store === ARTIFACTS_STORE ? place.path : ROOT);

/** @throws Failure `denied` */
export function demandAt(principal: Principal, scope: Scope, place: Place): void {
  demand(principal, scope, scopedPath(place));
}

/** What carrying it out needs. @throws Failure `denied` */
export function demandPlaces(principal: Principal, { from, to }: Pick<Sides, 'from' | 'to'>): void {
  if (from) demandAt(principal, 'read', from);
  if (to) demandAt(principal, 'write', to);
}

/** Its owner, an operator, and whoever may read all that it reads and writes. */
export function maySee(principal: Principal, { owner, from, to }: Omit<Sides, 'id'>): boolean {
  if (owner === principal.name || principal.can('operate')) return true;
  return [from, to].every((place) => place === undefined || principal.can('read', scopedPath(place)));
}

/** @throws Failure `not-found` also for one that may not be seen, so that ids can't be probed */
export function demandSight<T extends Sides>(principal: Principal, id: string, transfer: T | undefined): T {
  if (transfer && maySee(principal, transfer)) return transfer;
  throw new Failure('not-found', `No transfer with the id '${id}'`);
}

/** @throws Failure `denied` for whoever is neither its owner nor an operator */
export function demandControl(principal: Principal, transfer: Sides): void {
  if (transfer.owner === principal.name) return;
  demand(principal, 'operate');
}
