/** A line to an S3 server that keeps the books of whole objects: how often each was put there, and how often lists were asked for. */
import { httpLine } from './http-line.ts';
import type { Line } from './lines.ts';

export interface PutsLine extends Line {
  /** By path, bucket included, decoded: how often the server said yes. */
  readonly puts: ReadonlyMap<string, number>;
  /** Pages of lists of objects. */
  readonly lists: { readonly pages: number };
}

export async function putsLine(port: number): Promise<PutsLine> {
  const puts = new Map<string, number>();
  const lists = { pages: 0 };
  const line = await httpLine(port, ({ method, url = '/' }) => {
    const { pathname, searchParams } = new URL(url, 'http://line');
    if (method === 'GET' && searchParams.has('list-type')) lists.pages++;
    const isPut = method === 'PUT' && !searchParams.has('partNumber');
    const path = decodeURIComponent(pathname);
    return {
      down(answer) {
        if (isPut && answer.statusCode === 200) puts.set(path, (puts.get(path) ?? 0) + 1);
        return undefined;
      },
    };
  });
  return {
    ...line,
    puts,
    lists,
  };
}
