/** `longshore doctor`: what is set and where, without secrets; then tries everything that a transfer needs. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import {
  CONFIG_KEYS,
  type Config,
  type LoadedConfig,
  optionOf,
  redactedConfig,
  usesS3,
} from '../../../lib/config.ts';
import { redactUri } from '../../../lib/config-values.ts';
import { Deadline } from '../../../lib/deadline.ts';
import { ARTIFACTS, STAGING } from '../../../lib/deps.ts';
import { Failure, failureOf } from '../../../lib/errors.ts';
import { startEmbeddedRedis } from '../../../lib/jobs/embedded-redis.ts';
import { connectRedis, redisHealth } from '../../../lib/jobs/redis.ts';
import { Ledger } from '../../../lib/ledger/ledger.ts';
import { createLog, type Log } from '../../../lib/log.ts';
import { createMetrics } from '../../../lib/metrics.ts';
import { parsePath } from '../../../lib/path.ts';
import { makeFolder } from '../../../lib/path-folder.ts';
import { BufferPool } from '../../../lib/stores/buffers.ts';
import { HiddenNames } from '../../../lib/stores/hidden.ts';
import { checkStore, openStore } from '../../../lib/stores/open.ts';
import { VERSION } from '../../../lib/version.ts';
import { openAuth } from '../../api/auth.ts';
import { prepareFolder } from '../data-folder.ts';
import { oneLine } from '../say.ts';

interface Finding {
  readonly name: string;
  /** What worked; for a failure what was tried, why it did not work and what to do. */
  readonly message: string;
  readonly failure?: Failure;
}
/** Resolves with what to say of it. @throws Failure */
type Probe = (signal: AbortSignal) => Promise<string>;

/** For each of the things tried: what needs longer for a few bytes is not fit for work. */
const PATIENCE_MS = 9000;

/** Resolves with the exit code: that of the first thing that failed. */
export async function doctor(loaded: LoadedConfig, json: boolean): Promise<number> {
  if (!json) process.stdout.write(settingsText(loaded));
  const findings: Finding[] = [];
  for (const [name, probe] of probes(loaded.config)) {
    const finding = await examine(name, probe);
    findings.push(finding);
    if (!json)
      process.stdout.write(
        `  ${finding.failure ? 'failed' : 'ok    '}  ${name.padEnd(18)} ${finding.message}\n`,
      );
  }
  if (json) process.stdout.write(`${JSON.stringify(asJson(loaded, findings), undefined, 2)}\n`);
  return findings.find(({ failure }) => failure)?.failure?.rule.exit ?? 0;
}

function settingsText({ config, sources }: LoadedConfig): string {
  const shown = redactedConfig(config);
  const lines = CONFIG_KEYS.map(
    (key) => `  --${optionOf(key).flag.padEnd(28)} ${shown[key].padEnd(32)} ${sources[key].name}`,
  );
  const s3 = Object.entries(s3Shown(config.s3)).map(([name, value]) => `  ${name.padEnd(30)} ${value}`);
  const sections = [
    [`Longshore ${VERSION}, Node ${process.version}`],
    ['Settings, and where each was set:', ...lines],
    ...(usesS3(config) ? [["S3, from MLflow's and the AWS SDK's variables:", ...s3]] : []),
    ['Tried:', ''],
  ];
  return sections.map((section) => section.join('\n')).join('\n\n');
}

/** Values of extra arguments may be keys: only their names are shown. */
const s3Shown = (s3: Config['s3']): Readonly<Record<string, string>> => ({
  endpoint: s3.endpoint ?? "Amazon's",
  region: s3.region ?? 'as the profile says, else us-east-1',
  addressing: s3.addressing,
  signature: s3.signature,
  'expected bucket owner': s3.expectedBucketOwner ?? 'none',
  'upload arguments': Object.keys(s3.extraArgs).join(',') || 'none',
  TLS: s3.tls.verify ? `checked against ${s3.tls.caFile ?? 'the usual authorities'}` : 'not checked',
  credentials: s3.credentials
    ? 'keys from the environment'
    : 'default chain (profile, web identity, container, instance)',
});

function asJson({ config, sources }: LoadedConfig, findings: readonly Finding[]): unknown {
  const shown = redactedConfig(config);
  return {
    version: VERSION,
    node: process.version,
    settings: Object.fromEntries(
      CONFIG_KEYS.map((key) => [
        optionOf(key).flag,
        { value: shown[key], from: sources[key].from, name: sources[key].name },
      ]),
    ),
    ...(usesS3(config) && { s3: s3Shown(config.s3) }),
    checks: findings.map(({ name, message, failure }) => ({
      name,
      ok: !failure,
      message,
      ...(failure && { kind: failure.kind }),
    })),
  };
}

async function examine(name: string, probe: Probe): Promise<Finding> {
  using patience = new Deadline().limit(
    Date.now() + PATIENCE_MS,
    () => new Failure('timeout', `no answer within ${PATIENCE_MS / 1000} s`),
  );
  try {
    return { name, message: await probe(patience.signal) };
  } catch (error) {
    const failure = failureOf(error);
    return { name, message: oneLine(failure), failure };
  }
}

function* probes(config: Config): Iterable<readonly [name: string, probe: Probe]> {
  const log = createLog({ level: 'silent', format: 'json', process: 'doctor' });
  yield [
    'data folder',
    () => prepareFolder(config.dataFolder).then(() => `${config.dataFolder} is ours and on a local disk`),
  ];
  if (config.redisUrl === undefined) yield ['Redis', ownRedis];
  else yield ['Redis', () => configuredRedis(config.redisUrl!, config.redisPrefix, log)];
  yield ['ledger', () => ledger(config, log)];
  yield [STAGING, (signal) => store(STAGING, config.stagingUri, config, log, signal)];
  for (const [name, uri] of Object.entries({ [ARTIFACTS]: config.artifactsDestination, ...config.stores }))
    yield [`store ${name}`, (signal) => store(name, uri, config, log, signal)];
  const { authFile } = config;
  if (authFile !== undefined)
    yield ['auth file', () => openAuth(authFile, log).then(() => `${authFile} can be read`)];
}

/** Whether one can be started here; a running one is not disturbed. */
async function ownRedis(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'longshore-doctor-'));
  try {
    await (await startEmbeddedRedis(folder)).stop();
    return 'none is configured; `up` can start one of its own';
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function configuredRedis(url: string, prefix: string, log: Log): Promise<string> {
  const redis = connectRedis(url, 'producer', { log, name: 'doctor' });
  try {
    const health = await redisHealth(redis);
    if (!health.up)
      throw new Failure(
        'unavailable',
        `could not reach Redis at ${redactUri(url)}: start it, or correct --redis-url`,
      );
    if (health.problem !== undefined) throw new Failure('unavailable', health.problem);
    const canary = `${prefix}:doctor:${process.pid}`;
    await redis.set(canary, VERSION, 'EX', 60);
    await redis.del(canary);
    const info = await redis.info();
    const version = /^redis_version:(\S+)/m.exec(info)?.[1] ?? 'of unknown version';
    const hint = /^aof_enabled:1/m.test(info)
      ? 'append-only file on'
      : 'append-only file off: after it restarts, what waits starts again from the ledger only (appendonly yes is better)';
    return `${version}, noeviction, ${hint}`;
  } finally {
    redis.disconnect();
  }
}

async function ledger(config: Config, log: Log): Promise<string> {
  await makeFolder(dirname(config.ledgerPath));
  const opened = await Ledger.open({ path: config.ledgerPath, log });
  try {
    const id = await opened.uploads.intend(
      { store: ARTIFACTS, path: parsePath('longshore-doctor') },
      'doctor',
    );
    await opened.uploads.ended(id);
    await opened.ping();
    return `${config.ledgerPath}: written, read`;
  } finally {
    await opened.close();
  }
}

async function store(
  name: string,
  uri: string,
  config: Config,
  log: Log,
  signal: AbortSignal,
): Promise<string> {
  const metrics = createMetrics('api', { stores: [name], version: VERSION });
  const buffers = new BufferPool({ budgetBytes: config.bufferBytes });
  try {
    const hidden = await hiddenNames(config, log);
    const opened = await openStore(name, uri, config, { buffers, hidden, log, metrics });
    const steps: string[] = [];
    try {
      await checkStore(opened, hidden, signal, (step, ms) => void steps.push(`${step} ${Math.round(ms)} ms`));
    } finally {
      await opened.close();
    }
    return `${opened.uri}: ${steps.join(', ')}`;
  } finally {
    metrics.close();
  }
}

/** As the service has them; where there is no ledger to ask, those of nobody: what is tried then leaves nothing. */
async function hiddenNames(config: Config, log: Log): Promise<HiddenNames> {
  const opened = await Ledger.open({ path: config.ledgerPath, log }).catch(() => undefined);
  try {
    const installation = await opened?.installation();
    return new HiddenNames(installation ?? { id: randomBytes(8).toString('hex'), key: randomBytes(32) });
  } finally {
    await opened?.close();
  }
}
