/** Queries that are built once and run with other values: building one costs more than running it. */
import type { Compilable, CompiledQuery } from 'kysely';
import type { Db } from './engine.ts';

/** Stands for a value until the query runs. */
class Hole {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

export interface Prepared<P, R> {
  all(db: Db, values: P): Promise<R[]>;
  first(db: Db, values: P): Promise<R | undefined>;
  /** How many rows it changed. */
  changes(db: Db, values: P): Promise<number>;
}

/**
 * `build` gets an object whose properties it uses where the values of `P` will be, each anywhere a parameter may
 * be.
 */
export function prepare<P extends object>(): <R>(build: (values: P) => Compilable<R>) => Prepared<P, R> {
  return <R>(build: (values: P) => Compilable<R>): Prepared<P, R> => {
    const holes = new Proxy({} as P, { get: (_, name) => new Hole(String(name)) });
    const compiled = build(holes).compile();
    const run = (db: Db, values: P) => db.executeQuery(filled(compiled, values));
    return {
      all: async (db, values) => (await run(db, values)).rows,
      first: async (db, values) => (await run(db, values)).rows[0],
      changes: async (db, values) => Number((await run(db, values)).numAffectedRows ?? 0),
    };
  };
}

function filled<P extends object, R>(compiled: CompiledQuery<R>, values: P): CompiledQuery<R> {
  const parameters = compiled.parameters.map((given) =>
    given instanceof Hole ? values[given.name as keyof P] : given,
  );
  return { ...compiled, parameters };
}
