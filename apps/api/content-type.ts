/** What a download says of its name. */

/** `attachment; filename=a.txt`, quoted where it must be; a name beyond ASCII travels as `filename*` too. */
export function dispositionOf(name: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII is what this looks for
  if (/^[\x00-\x7f]*$/.test(name)) return `attachment; filename=${quoted(name)}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: see above
  const ascii = name.normalize('NFKD').replace(/[^\x00-\x7f]/g, '');
  const extended = encodeURIComponent(name).replace(/['()*]/g, (c) => `%${c.charCodeAt(0).toString(16)}`);
  return `attachment; filename=${quoted(ascii === '' ? 'download' : ascii)}; filename*=UTF-8''${extended}`;
}

const quoted = (name: string): string =>
  /^[\w!#$%&'*+.^`|~-]+$/.test(name) ? name : `"${name.replace(/["\\]/g, '\\$&')}"`;
