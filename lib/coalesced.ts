/** Work that one run can do for many, such as a sync: those who ask while it runs share the next run. */
export class Coalesced {
  readonly #work: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(work: () => Promise<void>) {
    this.#work = work;
  }

  /** Resolves, or rejects, as a run does that starts after this was called: it serves only what was there before. */
  run(): Promise<void> {
    this.#next ??= (this.#running ?? Promise.resolve())
      .catch(() => undefined) // told to those who waited for it
      .then(() => {
        this.#running = this.#next;
        this.#next = undefined;
        return this.#work();
      });
    return this.#next;
  }

  /** Resolves when the run that goes on now has ended, however that was. */
  async settled(): Promise<void> {
    await this.#running?.catch(() => undefined);
  }
}
