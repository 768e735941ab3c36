/** Imports go one way, and files stay small enough to hold in one's head. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const LONGEST_FILE_LINES = 450;

interface Source {
  /** From the root, with slashes. */
  readonly file: string;
  readonly text: string;
  readonly lines: number;
  /** Files of ours from the root; packages and `node:` modules as they are written. */
  readonly imports: readonly { readonly what: string; readonly typeOnly: boolean; readonly line: number }[];
}

/** Anyone may speak these words; `config-values.ts` and the like belong to their word. */
const VOCABULARY =
  /^lib\/(coalesced|errors|path|digests|deadline|log|metrics|config|version)(-[a-z-]+)?\.ts$/;

/** Who may import what of ours, by the first prefix that fits; its own folder always, and the vocabulary. */
const MAY_IMPORT: readonly (readonly [importer: string, allowed: readonly string[]])[] = [
  // the command line starts the other processes
  ['apps/cli/', ['lib/', 'apps/listen.ts', 'apps/api/', 'workers/main.ts']],
  ['apps/', ['lib/']],
  ['workers/', ['lib/']],
  ['lib/transfer/', ['lib/stores/', 'lib/ledger/']],
  [
    'lib/stores/drivers/',
    [
      'lib/stores/attributes.ts',
      'lib/stores/driver.ts',
      'lib/stores/gate.ts',
      'lib/stores/bytes.ts',
      'lib/stores/hidden.ts',
    ],
  ],
  ['lib/stores/layers/', ['lib/stores/driver.ts', 'lib/stores/gate.ts', 'lib/stores/health.ts']],
  ['lib/stores/', []],
  ['lib/ledger/', []],
  ['lib/jobs/', []],
  // a store's settings are described beside its driver, in files that load no SDK
  ['lib/config.ts', ['lib/stores/drivers/s3-config.ts']],
  // what wires them together for the processes above
  ['lib/deps.ts', ['lib/']],
];

/** A driver's own packages; nobody else's. */
const DRIVER_PACKAGES: Readonly<Record<string, RegExp>> = {
  s3: /^(@aws-sdk\/|@smithy\/|undici$)/,
  file: /^$/,
  memory: /^$/,
};

const IMPORT =
  /(?:^|\n)[ \t]*(?:import|export)\b(?<type>\s+type\b)?[^'"`;]*?\bfrom\s*['"](?<from>[^'"]+)['"]|(?:^|\n)[ \t]*import\s*['"](?<bare>[^'"]+)['"]|\bimport\(\s*['"](?<dynamic>[^'"]+)['"]\s*\)/g;

function sourcesOf(folder: string): Source[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => {
      const file = relative(ROOT, join(entry.parentPath, entry.name)).split(sep).join('/');
      const text = readFileSync(join(ROOT, file), 'utf8');
      return { file, text, lines: text.split('\n').length - 1, imports: [...importsOf(file, text)] };
    });
}

function* importsOf(file: string, text: string): Iterable<Source['imports'][number]> {
  for (const found of withoutComments(text).matchAll(IMPORT)) {
    const { from, bare, dynamic, type } = found.groups!;
    const written = (from ?? bare ?? dynamic)!;
    const what = written.startsWith('.') ? posix.normalize(posix.join(dirname(file), written)) : written;
    const line = text.slice(0, found.index).split('\n').length + (found[0].startsWith('\n') ? 1 : 0);
    yield { what, typeOnly: type !== undefined, line };
  }
}

/** Blanks, so that positions stay. */
function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, (comment) => comment.replace(/[^\n]/g, ' '));
}

const SOURCES = ['apps', 'workers', 'lib'].flatMap(sourcesOf);
const isOurs = (what: string): boolean => /^(apps|workers|lib|test|deploy)\//.test(what);

function complaints(
  wrong: (source: Source, what: Source['imports'][number]) => string | undefined,
): string[] {
  return SOURCES.flatMap((source) =>
    source.imports.flatMap((found) => {
      const reason = wrong(source, found);
      return reason === undefined ? [] : [`${source.file}:${found.line} imports ${found.what}: ${reason}`];
    }),
  );
}

describe('imports', () => {
  test('are found in every way they can be written', () => {
    const text = [
      "import a from './a.ts';",
      "import type { B } from '../b.ts';",
      "import {\n  c,\n  type D,\n} from 'c';",
      "import 'node:d';",
      "export { e } from './e.ts';",
      "const f = await import('./f.ts');",
      "// import g from './g.ts';",
      "/* import h from './h.ts'; */",
    ].join('\n');
    expect([...importsOf('lib/x/y.ts', text)].map(({ what, line }) => `${line} ${what}`)).toEqual([
      '1 lib/x/a.ts',
      '2 lib/b.ts',
      '3 c',
      '7 node:d',
      '8 lib/x/e.ts',
      '9 lib/x/f.ts',
    ]);
  });

  test('go one way: apps and workers, then jobs, ledger and transfer, then stores', () => {
    expect(
      complaints(({ file }, { what }) => {
        if (!isOurs(what) || VOCABULARY.test(what)) return undefined;
        const rule = MAY_IMPORT.find(([importer]) => file.startsWith(importer));
        if (rule === undefined) return 'vocabulary imports vocabulary only';
        const [importer, allowed] = rule;
        if (what.startsWith(importer) || allowed.some((prefix) => what.startsWith(prefix))) return undefined;
        return `below ${importer} only ${[importer, ...allowed, 'the vocabulary'].join(', ')} may be imported`;
      }),
    ).toEqual([]);
  });

  test('of the settings are of their types only, below apps and workers', () => {
    expect(
      complaints(({ file }, { what, typeOnly }) => {
        const below = file.startsWith('lib/') && !file.startsWith('lib/config');
        return below && what === 'lib/config.ts' && !typeOnly
          ? 'be handed what you need, or `import type`'
          : undefined;
      }),
    ).toEqual([]);
  });

  test('never reach apps or workers from elsewhere', () => {
    expect(
      complaints(({ file }, { what }) => {
        const process = /^(apps\/\w+|workers)\//.exec(what)?.[1];
        if (process === undefined || file.startsWith(`${process}/`) || file.startsWith('apps/cli/'))
          return undefined;
        return `nothing imports ${process}`;
      }),
    ).toEqual([]);
  });

  test('of product code never reach tests or deploy', () => {
    expect(
      complaints((_, { what }) => (/^(test|deploy)\//.test(what) ? 'not part of the product' : undefined)),
    ).toEqual([]);
  });

  test('of a driver are its SDK, the contract and the vocabulary, not another driver', () => {
    expect(
      complaints(({ file }, { what }) => {
        const name = /^lib\/stores\/drivers\/([a-z0-9]+)/.exec(file)?.[1];
        if (name === undefined || what.startsWith('node:')) return undefined;
        if (!isOurs(what)) return DRIVER_PACKAGES[name]?.test(what) ? undefined : `not an SDK of ${name}`;
        const other = /^lib\/stores\/drivers\/([a-z0-9]+)/.exec(what)?.[1];
        return other === undefined || other === name ? undefined : `${other} is another driver`;
      }),
    ).toEqual([]);
  });

  test('bring in an SDK only when a store of its kind is opened', () => {
    expect(
      complaints(({ file, text }, { what, typeOnly, line }) => {
        const eager = !typeOnly && !text.split('\n')[line - 1]!.includes('import(');
        const isDriver = /^lib\/stores\/drivers\//.test(file);
        const isSdk = /^@(aws-sdk|smithy)\//.test(what);
        if (isSdk && !isDriver) return 'SDKs belong to drivers';
        if (isSdk && file.endsWith('-config.ts') && !typeOnly)
          return 'settings are read before a store is opened';
        if (/^lib\/stores\/drivers\/s3(?!-config)/.test(what) && !isDriver && eager)
          return 'load it with import()';
        return undefined;
      }),
    ).toEqual([]);
  });
});

describe('product code', () => {
  test('reads process.env in lib/config.ts only', () => {
    const readers = SOURCES.filter(({ text }) =>
      /\bprocess\s*\.\s*env\b|\benv\b[^;\n]*from 'node:process'/.test(withoutComments(text)),
    );
    expect(readers.map(({ file }) => file).filter((file) => file !== 'lib/config.ts')).toEqual([]);
  });

  test(`has no file over ${LONGEST_FILE_LINES} lines`, () => {
    const long = SOURCES.filter(({ lines }) => lines > LONGEST_FILE_LINES);
    expect(long.map(({ file, lines }) => `${file}: ${lines} lines`)).toEqual([]);
  });
});
