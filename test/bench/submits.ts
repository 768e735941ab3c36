/**
 * `npm run bench -- --only submits`: how many small transfers a second are accepted from 8 clients, and how many are
 * carried (from the first submit to the last ending), next to what `mlflow server` takes by PUT; and what of it is the
 * queue's, by what BullMQ alone takes for as many jobs.
 */
import { join } from 'node:path';
import { ApiClient } from './api.ts';
import { reportQueueShare } from './bare-queue.ts';
import { costOf, writeBack } from './processes.ts';
import { type Destination, type Service, startLongshore, startMlflow } from './services.ts';
import { alternated, median, mib, ratioTo } from './statistics.ts';
import { wrk } from './wrk.ts';

interface Sample {
  readonly accepted: number;
  /** Per second. */
  readonly carried: number;
  readonly p99Ms: number;
  readonly transfers: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakBytes: number;
}

interface Peer {
  readonly name: string;
  run(round: number): Promise<Sample>;
}

export interface SubmitsOptions {
  readonly folder: string;
  readonly rounds: number;
  readonly seconds: number;
  readonly profiles?: string | undefined;
}

const SEED = 'seed/0';
/** Enough for each process of a service to have had some. */
const WARMING_PUTS = 40;

export async function benchSubmits(destination: Destination, options: SubmitsOptions): Promise<void> {
  const { folder, rounds, seconds, profiles } = options;
  const mlflow = await startMlflow(join(folder, `submits-mlflow-${destination.name}`), destination);
  const longshore = await startLongshore(join(folder, `submits-${destination.name}`), destination, {
    profiles,
  });
  const api = new ApiClient(longshore.origin);
  try {
    await warm(mlflow);
    await warm(longshore);
    const peers: Peer[] = [
      {
        name: 'mlflow server, PUT of 64 KiB',
        run: (round) => direct(mlflow, `small/${round}`, seconds),
      },
      {
        name: 'longshore, PUT /api/v1/uploads of 64 KiB',
        run: (round) =>
          carried(longshore, api, { seconds, method: 'PUT', prefix: `/api/v1/uploads/small/${round}` }),
      },
      {
        name: 'longshore, POST /api/v1/transfers (copy of 64 KiB)',
        run: (round) =>
          carried(longshore, api, { seconds, method: 'POST', prefix: `copies/${round}`, from: SEED }),
      },
    ];
    const samples = await alternated(peers, rounds, (peer, round) => {
      writeBack(folder);
      return peer.run(round);
    });
    report(destination, samples, peers);
    const uploads = samples.get(peers[1]!)!;
    const of = (pick: (sample: Sample) => number) => median(uploads.map(pick));
    await reportQueueShare(`${destination.name}, uploads of 64 KiB`, folder, {
      seconds: of((one) => one.seconds / one.transfers),
      cpuSeconds: of((one) => one.cpuSeconds / one.transfers),
    });
  } finally {
    await api.close();
    await longshore.stop();
    await mlflow.stop();
  }
}

/** What is imported or connected at the first request is no part of a rate. Puts what is copied later. */
async function warm({ name, artifacts }: Service): Promise<void> {
  const body = Buffer.alloc(64 * 1024);
  const put = (n: number) => fetch(`${artifacts}/seed/${n}`, { method: 'PUT', body });
  // a process of mlflow's that is starting may drop a connection
  const one = (n: number) => put(n).catch(() => put(n));
  const replies = await Promise.all(Array.from({ length: WARMING_PUTS }, (_, n) => one(n)));
  const refused = replies.find((reply) => !reply.ok);
  if (refused) throw new Error(`${name} refused a PUT: ${refused.status} ${await refused.text()}`);
}

async function direct(service: Service, prefix: string, seconds: number): Promise<Sample> {
  let sent = { perSecond: 0, p99Ms: 0, requests: 0 };
  const path = `${new URL(service.artifacts).pathname}/${prefix}`;
  const cost = await costOf(service.pid, async () => {
    sent = await wrk(service.origin, { seconds, method: 'PUT', prefix: path });
  });
  return {
    ...cost,
    accepted: sent.perSecond,
    carried: sent.perSecond,
    p99Ms: sent.p99Ms,
    transfers: sent.requests,
  };
}

async function carried(service: Service, api: ApiClient, load: Parameters<typeof wrk>[1]): Promise<Sample> {
  let sent = { perSecond: 0, p99Ms: 0, requests: 0 };
  const cost = await costOf(service.pid, async () => {
    sent = await wrk(service.origin, load);
    await api.allSucceeded();
  });
  const { perSecond: accepted, p99Ms, requests: transfers } = sent;
  return { ...cost, accepted, p99Ms, transfers, carried: transfers / cost.seconds };
}

function report(
  destination: Destination,
  samples: ReadonlyMap<Peer, readonly Sample[]>,
  peers: readonly Peer[],
) {
  console.log(
    `\n| ${destination.name} | accepted | p99 | carried | CPU for 1,000 | peak memory | accepted ÷ mlflow | carried ÷ mlflow |\n|---|---|---|---|---|---|---|---|`,
  );
  const base = samples.get(peers[0]!)!;
  for (const peer of peers) {
    const all = samples.get(peer)!;
    const of = (pick: (sample: Sample) => number, digits = 0) => median(all.map(pick)).toFixed(digits);
    console.log(
      `| ${peer.name} | ${of((s) => s.accepted)} /s | ${of((s) => s.p99Ms, 1)} ms | ${of((s) => s.carried)} /s ` +
        `| ${of((s) => (s.cpuSeconds / s.transfers) * 1000, 2)} s | ${mib(Math.max(...all.map((s) => s.peakBytes)))} ` +
        `| ${ratioTo(all, base, (s) => s.accepted)} | ${ratioTo(all, base, (s) => s.carried)} |`,
    );
  }
}
