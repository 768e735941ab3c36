/** Writes the pages of `docs/` that are made from the code. `test/unit/docs.test.ts` fails when they drift. */
import { writeFile } from 'node:fs/promises';
import { CONFIG_KEYS, defaultText, envNamesOf, optionOf } from '../lib/config.ts';
import { GROUPS } from '../lib/config-options.ts';
import { FAILURES } from '../lib/errors.ts';
import { SERIES, type SeriesSpec } from '../lib/metrics.ts';
import { S3_OPERATIONS, type S3Operation } from '../lib/stores/drivers/s3-rights.ts';
import { RETRY_DEFAULTS } from '../lib/stores/layers/retry.ts';

const MADE = '<!-- Made by `npm run docs` from the code; edit the code instead. -->';

/** File name below `docs/` → its text. */
export const PAGES: Readonly<Record<string, () => string>> = {
  'metrics.md': metricsPage,
  'failures.md': failuresPage,
  'settings.md': settingsPage,
  'stores.md': storesPage,
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

/** The longest delays of the retry layer, in seconds. */
const delays = (): string =>
  Array.from({ length: RETRY_DEFAULTS.tries - 1 }, (_, n) =>
    String(Math.min(RETRY_DEFAULTS.capMs, RETRY_DEFAULTS.firstMs * 2 ** n) / 1000),
  ).join(', ');

function failuresPage(): string {
  const attempts = Number(defaultText('attempts'));
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

## How often something is tried

One layer below the job tries a call of a store again: ${RETRY_DEFAULTS.tries} tries in all, with delays of at most ${delays()} s.
A transfer spends at most \`--attempts\` attempts (${attempts}, unless configured). So in the worst case one call of a
store is made ${RETRY_DEFAULTS.tries} × ${attempts} = ${RETRY_DEFAULTS.tries * attempts} times for one transfer; attempts that spend nothing (\`later\`, \`now\`) come on top and
end with the transfer's deadline or lifetime. No SDK and no other layer tries anything again.
`;
}

function settingsPage(): string {
  const sections = GROUPS.map((group) => {
    const keys = CONFIG_KEYS.filter((key) => optionOf(key).group === group);
    const rows = keys.map((key) => [
      `\`--${optionOf(key).flag}\``,
      envNamesOf(key)
        .map((name) => `\`${name}\``)
        .join(', '),
      `\`${defaultText(key)}\``,
      `${optionOf(key).help}${optionOf(key).secret ? ' (shown redacted)' : ''}`,
    ]);
    return `## ${group}\n\n${table(['option', 'environment', 'default', 'what it says'], rows)}`;
  });
  return `# Settings

${MADE}

A flag wins over the environment, the environment over the config file (\`--config <file>\` or \`LONGSHORE_CONFIG\`), that
over the default. Of several environment names the first that is set wins; one set to nothing counts as not set.
The config file is a JSON object; its names are the options without the dashes in front. Sizes are written as \`64MiB\`
or \`1.5GB\`, times as \`500ms\`, \`30s\`, \`10m\`, \`1h30m\` or \`7d\`; a plain number is bytes, or in the config file ms.
\`<data>\` stands for the data folder. \`longshore doctor\` prints what is set, and where it was set.

S3 is set up by the variables that MLflow and the AWS SDK use: see the [README](../README.md).

${sections.join('\n\n')}
`;
}

function storesPage(): string {
  const rows = Object.values<S3Operation>(S3_OPERATIONS).map(({ does, rights, note }) => [
    does,
    rights.map((right) => `\`${right}\``).join(', '),
    note,
  ]);
  return `# Stores

${MADE}

## Rights at S3

Each row has all that an operation needs. A refusal names the right that is missing. Rights whose name has \`Bucket\` are on the
bucket (\`arn:aws:s3:::bucket\`), the others on its objects (\`arn:aws:s3:::bucket/prefix/*\`). Encrypted objects need \`kms:Decrypt\`
and \`kms:GenerateDataKey\` too.

${table(['operation', 'rights', 'notes'], rows)}
`;
}

if (import.meta.main)
  for (const [name, page] of Object.entries(PAGES))
    await writeFile(new URL(`../docs/${name}`, import.meta.url), page());
