/**
 * Names that prove whose a file is. A file that is on its way, or staged, has a name that only this installation can
 * have made: it ends in a MAC under a key that the ledger keeps. So what is left of it can be removed without a row that
 * names it, and a file of somebody else is never taken for ours, however its name begins.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { baseName, HIDDEN_NAME, MLFLOW_HIDDEN_NAME, parentOf, type StorePath } from '../path.ts';

/** Who we are, as opposed to other Longshores: one for each ledger. */
export interface Installation {
  /** 16 lowercase hexadecimal digits; no secret. */
  readonly id: string;
  /** Of the MACs; a secret that stays in the ledger and in memory. */
  readonly key: Uint8Array;
}

/**
 * `ours`: this installation made it here. `foreign`: another one did, or this one did elsewhere (another store, a copy).
 * `mlflow`: MLflow's own server may be writing it.
 */
export type Hidden = 'ours' | 'foreign' | 'mlflow';

/** Why nobody else touches a hidden file: a sentence without its subject. */
export const WHY_RESERVED: Readonly<Record<Exclude<Hidden, 'ours'>, string>> = {
  foreign:
    'its name is one under which a Longshore keeps a file that is on its way, and it was not this one, here',
  mlflow: 'its name is one under which MLflow keeps a file that is on its way',
};

/** Why an object cannot be called so; `undefined`: it can. The end of a sentence. */
export function refusedAsHidden(path: StorePath): string | undefined {
  const name = baseName(path);
  if (HIDDEN_NAME.test(name))
    return 'its name is one under which a Longshore keeps files that are on their way';
  return MLFLOW_HIDDEN_NAME.test(name) ? WHY_RESERVED.mlflow : undefined;
}

const MAC_BYTES = 16;
const STAGED_NAME = /^(.+)-([0-9a-f]{16})-([0-9a-f]{32})$/s;

export class HiddenNames {
  readonly #id: string;
  readonly #key: Uint8Array;

  constructor({ id, key }: Installation) {
    this.#id = id;
    this.#key = key;
  }

  /** What all names of ours in a directory begin with. */
  get prefix(): string {
    return `.longshore-${this.#id}-`;
  }

  /**
   * A name that nothing else has, for a file in `dir` and nowhere else.
   * @param dir from the store's root, as it really is: without links
   * @param token who writes, as `WriteCall.token`
   */
  nameIn(dir: string, token: string): string {
    const nonce = randomBytes(4).toString('hex');
    return `${this.prefix}${token}-${nonce}-${this.#mac('hidden', token, nonce, dir).toString('hex')}`;
  }

  /** Whose hidden file is at `path`, by its name; `undefined`: an ordinary file, whatever its name begins with. */
  kindOf(path: StorePath): Hidden | undefined {
    const name = baseName(path);
    if (MLFLOW_HIDDEN_NAME.test(name)) return 'mlflow';
    const found = HIDDEN_NAME.exec(name);
    if (!found) return undefined;
    const [, id, token, nonce, mac] = found;
    const isOurs = id === this.#id && same(mac!, this.#mac('hidden', token!, nonce!, parentOf(path)));
    return isOurs ? 'ours' : 'foreign';
  }

  /** What the staged file of this id is called; always the same. */
  stagedName(id: string): string {
    return `${id}-${this.#id}-${this.#mac('staged', id).toString('hex')}`;
  }

  /** The id whose staged file it is; `undefined`: it is not ours. */
  stagedId(name: string): string | undefined {
    const [, id, installation, mac] = STAGED_NAME.exec(name) ?? [];
    return id !== undefined && installation === this.#id && same(mac!, this.#mac('staged', id))
      ? id
      : undefined;
  }

  #mac(...what: readonly string[]): Buffer {
    // two bytes a unit: names that are no text stay apart
    const bytes = Buffer.from([this.#id, ...what].join('\0'), 'utf16le');
    return createHmac('sha256', this.#key).update(bytes).digest().subarray(0, MAC_BYTES);
  }
}

const same = (hex: string, mac: Buffer): boolean => timingSafeEqual(Buffer.from(hex, 'hex'), mac);
