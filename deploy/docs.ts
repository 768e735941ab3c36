/** Writes the pages of `docs/` that are made from the code. `test/unit/docs.test.ts` fails when they drift. */
import { writeFile } from 'node:fs/promises';
import { FAILURES } from '../lib/errors.ts';
import { SERIES, type SeriesSpec } from '../lib/metrics.ts';

const MADE = '<!-- Made by `npm run docs` from the code; edit the code instead. -->';

/** File name below `docs/` → its text. */
export const PAGES: Readonly<Record<string, () => string>> = {
  'metrics.md': metricsPage,
  'failures.md': failuresPage,
};

const cell = (text: string): string => text.replaceAll('|', '\\|');
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.map(cell).join(' | ')} |`).join('\n');

function metricsPage(): string {
  const rows = Object.values<SeriesSpec>(SERIES).map((spec) => [
    `\`${spec.name}\``,
    spec.type,
    Object.keys(spec.labels)
      .map((label) => `\`${label}\``)
      .join(', ') || '–',
    spec.by.join(', '),
    spec.help,
  ]);
  const values = Object.values<SeriesSpec>(SERIES).flatMap((spec) => Object.entries(spec.labels));
  const sets = new Map(values.map(([label, set]) => [`${label}: ${set}`, { label, set }]));
  const labels = [...sets.values()].map(({ label, set }) => [
    `\`${label}\``,
    set === 'store'
      ? 'the names of the configured stores'
      : set.length === 0
        ? 'one value a process'
        : set.join(', '),
  ]);
  return `# Metrics

${MADE}

\`GET /metrics\` on the API and on each worker, in Prometheus' text format. Each process has its own registry. Units
are seconds and bytes. No path, object, id or user is ever a label; series whose labels are known are there from
the start with the value 0.

${table(['series', 'type', 'labels', 'from', 'what it says'], rows)}

## Values of labels

${table(['label', 'values'], labels)}

\`status\` is the class of the HTTP status; \`failure\`, and \`outcome\` of a store's request, are the kinds of [failures.md](failures.md).
`;
}

function failuresPage(): string {
  const rows = Object.entries(FAILURES).map(([kind, rule]) => [
    `\`${kind}\``,
    rule.means,
    rule.retry,
    String(rule.http),
    `\`${rule.mlflow}\``,
    String(rule.exit),
  ]);
  return `# Failures

${MADE}

Every failure has one kind, and the kind decides what it means: to a job (is it tried again?), to HTTP (the status,
and MLflow's \`error_code\` in the answer's JSON beside \`kind\` and \`message\`) and to the shell (the exit code).

${table(['kind', 'means', 'retry', 'HTTP', 'error_code', 'exit'], rows)}

Retry: \`never\` ends the transfer. \`backoff\` spends an attempt and tries again after a delay that doubles, is capped,
and is drawn at random from its whole width. \`later\` puts the job back without spending an attempt, after the time
the store asked for where it did. \`now\` hands the job back at once: a worker that shuts down spends nothing.
`;
}

if (import.meta.main)
  for (const [name, page] of Object.entries(PAGES))
    await writeFile(new URL(`../docs/${name}`, import.meta.url), page());
