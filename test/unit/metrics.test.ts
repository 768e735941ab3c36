import { afterEach, describe, expect, test } from 'vitest';
import { GC_TASKS, QUEUES } from '../../lib/jobs/jobs.ts';
import { ENDED_STATES, TRANSFER_KINDS } from '../../lib/ledger/transfer.ts';
import {
  createMetrics,
  LABELS,
  type Metrics,
  ROLES,
  type Role,
  SERIES,
  type SeriesSpec,
} from '../../lib/metrics.ts';

const open: Metrics[] = [];
function metricsOf(role: Role): Metrics {
  const metrics = createMetrics(role, { stores: ['artifacts', 'staging'], version: '1.2.3' });
  open.push(metrics);
  return metrics;
}
afterEach(() => {
  for (const metrics of open.splice(0)) metrics.close();
});

const SPECS = Object.entries<SeriesSpec>(SERIES);

describe('the table of series', () => {
  test('its label values are those that the code uses', () => {
    expect(LABELS.queue).toEqual(QUEUES);
    expect(LABELS.kind).toEqual(TRANSFER_KINDS);
    expect(LABELS.outcome).toEqual(ENDED_STATES);
    expect(LABELS.task).toEqual(GC_TASKS);
  });

  test('names follow one form: prefix, base unit, _total for counters only', () => {
    for (const [, { name, type }] of SPECS) {
      expect(name).toMatch(/^(longshore|process)_[a-z_]+$/);
      expect(name.endsWith('_total'), name).toBe(type === 'counter');
      expect(name).not.toMatch(/_(count|sum|bucket|ms|milliseconds|kilobytes)$/);
    }
    expect(new Set(SPECS.map(([, { name }]) => name)).size).toBe(SPECS.length);
  });

  test('no label can hold a path, an id or a user', () => {
    for (const [key, { labels }] of SPECS)
      for (const [label, values] of Object.entries(labels))
        expect(values === 'store' || values.length > 0 || key === 'buildInfo', `${key}.${label}`).toBe(true);
  });
});

describe('what a process exports', () => {
  test.each(ROLES)('a process of role %s exports the series of its role and no other', async (role) => {
    const metrics = metricsOf(role);
    const text = await metrics.text();
    for (const [, { name, by }] of SPECS)
      expect(text.includes(`# TYPE ${name} `), name).toBe(by.includes(role));
  });

  test('series whose labels are known are there from the start with the value 0', async () => {
    const text = await metricsOf('worker').text();
    expect(text).toContain('longshore_transfer_retries_total{failure="corrupt"} 0');
    expect(text).toContain(
      'longshore_transfers_ended_total{kind="copy",store="artifacts",outcome="superseded"} 0',
    );
    expect(text).toContain('longshore_transfer_duration_seconds_bucket{le="7200",kind="upload"} 0');
    expect(text).toContain('longshore_reconciler_requeues_total 0');
  });

  test('two processes in one have nothing in common', async () => {
    const [first, second] = [metricsOf('worker'), metricsOf('worker')];
    first.requeues.inc({});
    expect(await first.text()).toContain('longshore_reconciler_requeues_total 1');
    expect(await second.text()).toContain('longshore_reconciler_requeues_total 0');
  });

  test('build, CPU, memory and event loop tell of this very process', async () => {
    const metrics = metricsOf('api');
    const first = sample(await metrics.text(), 'process_cpu_seconds_total');
    await new Promise((resolve) => setTimeout(resolve, 30)); // the monitor starts anew at each scrape
    const busyUntil = performance.now() + 60;
    while (performance.now() < busyUntil);
    await new Promise((resolve) => setTimeout(resolve, 30));
    const text = await metrics.text();
    expect(sample(text, 'process_cpu_seconds_total')).toBeGreaterThan(first + 0.03);
    expect(sample(text, 'longshore_event_loop_lag_seconds{stat="max"}')).toBeGreaterThan(0.02);
    expect(sample(text, 'process_resident_memory_bytes')).toBeGreaterThan(10e6);
    expect(text).toContain(`longshore_build_info{version="1.2.3",node="${process.versions.node}"} 1`);
  });
});

function sample(text: string, series: string): number {
  const line = text.split('\n').find((one) => one.startsWith(`${series} `));
  return Number(line?.slice(series.length + 1));
}
