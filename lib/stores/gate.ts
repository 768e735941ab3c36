/** Where a request to a store waits for its turn; what limits them, and across how many processes, is another's business. */

export interface Pass {
  /** `false`: this process slept meanwhile, and the turn is another's by now. Ask where the first byte leaves. */
  mayBegin(): boolean;
  /** `cut`: it was given up or broke, so the server may not have noticed yet that it is over. Leaving twice is fine. */
  leave(how: 'answered' | 'cut'): void;
}

export interface Gate {
  /** Most requests in flight to this store, of all processes together; undefined: no limit. */
  readonly connections: number | undefined;
  /**
   * Resolves when one request may begin, at once. Leave when its answer, body included, has ended.
   * `reading`: whoever waits for its bytes may be busy writing to this very store, so readings never take the last turn.
   * @throws Failure the signal's reason
   */
  enter(signal: AbortSignal, what: 'reading' | 'other'): Promise<Pass>;
}
