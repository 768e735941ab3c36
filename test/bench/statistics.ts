export const median = (numbers: readonly number[]): number => {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

/** One sample a peer and round, peers one after the other, every other round in reverse order. */
export async function alternated<P, S>(
  peers: readonly P[],
  rounds: number,
  run: (peer: P, round: number) => Promise<S>,
): Promise<Map<P, S[]>> {
  const samples = new Map(peers.map((peer) => [peer, [] as S[]]));
  for (let round = 0; round < rounds; round++)
    for (const peer of round % 2 === 0 ? peers : peers.toReversed())
      samples.get(peer)!.push(await run(peer, round));
  return samples;
}

/** Median of the rounds' ratios, and the smallest and largest of them. */
export function ratioTo<S>(samples: readonly S[], base: readonly S[], of: (sample: S) => number): string {
  const ratios = samples.map((sample, round) => of(sample) / of(base[round]!));
  const spread = `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`;
  return `${median(ratios).toFixed(2)}× (${spread})`;
}

export const seconds = <S>(samples: readonly S[], of: (sample: S) => number): string =>
  `${median(samples.map(of)).toFixed(2)} s`;

export const mib = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;
