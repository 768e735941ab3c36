/** The media type of an object, from its name alone and as MLflow's server says it. */
import { types } from 'mime-types';

const TEXT_EXTENSIONS = new Set(
  (
    'txt log err cfg conf cnf cf ini properties prop hocon toml yaml yml xml json js ' +
    'py py3 csv tsv md rst ipynb MLmodel mlproject'
  ).split(' '),
);
const UNKNOWN = 'application/octet-stream';

/** Where Python's table, which the reference uses, says something else than ours. */
const PYTHON_TYPES: Readonly<Record<string, string>> = {
  ...same('application/javascript', 'mjs'),
  ...same('application/msword', 'wiz'),
  ...same(UNKNOWN, 'a dll exe o obj'),
  ...same('application/vnd.apple.mpegurl', 'm3u'),
  ...same('application/vnd.ms-excel', 'xlb'),
  ...same('application/vnd.ms-powerpoint', 'ppa pwz'),
  ...same('application/x-hdf5', 'h5'),
  ...same('application/x-mif', 'mif'),
  ...same('application/x-pn-realaudio', 'ram'),
  ...same('application/x-python-code', 'pyc pyo'),
  ...same('application/x-troff', 'roff t tr'),
  ...same('application/x-troff-man', 'man'),
  ...same('application/x-troff-me', 'me'),
  ...same('application/x-troff-ms', 'ms'),
  ...same('application/xml', 'rdf wsdl xpdl'),
  ...same('audio/3gpp', '3gp 3gpp'),
  ...same('audio/3gpp2', '3g2 3gpp2'),
  ...same('audio/aac', 'loas ass'),
  ...same('audio/opus', 'opus'),
  ...same('audio/x-wav', 'wav'),
  ...same('message/rfc822', 'nws'),
  ...same('text/plain', 'bat c h ksh pl srt'),
  ...same('text/x-sgml', 'sgm sgml'),
  ...same('video/mpeg', 'mpa'),
};

/** Suffixes that say how something is packed; what is told is the type of what is inside, or nothing. */
const PACKINGS = new Set(['gz', 'Z', 'bz2', 'xz', 'br']);
const SHORT_PACKINGS: Readonly<Record<string, string>> = {
  svgz: '.svg.gz',
  tgz: '.tar.gz',
  taz: '.tar.gz',
  tz: '.tar.gz',
  tbz2: '.tar.bz2',
  txz: '.tar.xz',
};

function same(type: string, extensions: string): Record<string, string> {
  return Object.fromEntries(extensions.split(' ').map((extension) => [extension, type]));
}

/** `['model.tar', 'gz']`; a leading dot starts no extension. */
function splitExtension(name: string): [stem: string, extension: string] {
  const at = name.lastIndexOf('.');
  const started = /[^.]/.test(name.slice(0, Math.max(0, at)));
  return started ? [name.slice(0, at), name.slice(at + 1)] : [name, ''];
}

/** The media type of a file called `name`, without a charset. */
export function contentTypeOf(name: string): string {
  let [stem, extension] = splitExtension(name);
  if (TEXT_EXTENSIONS.has(extension === '' ? name : extension)) return 'text/plain';
  const long = SHORT_PACKINGS[extension.toLowerCase()];
  if (long !== undefined) [stem, extension] = splitExtension(stem + long);
  if (PACKINGS.has(extension)) extension = splitExtension(stem)[1];
  extension = extension.toLowerCase();
  if (!/^[a-z0-9.+-]+$/.test(extension)) return UNKNOWN; // also keeps names such as `constructor` away from the tables
  return own(PYTHON_TYPES, extension) ?? own(types, extension) ?? UNKNOWN;
}

const own = (table: Readonly<Record<string, string>>, key: string): string | undefined =>
  Object.hasOwn(table, key) ? table[key] : undefined;
