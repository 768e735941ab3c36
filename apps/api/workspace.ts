/** MLflow's workspaces, which are not served: to pass over the header would mix the files of teams. */
import type { IncomingHttpHeaders } from 'node:http';
import { printable } from '../../lib/path-bytes.ts';

const HEADER = 'x-mlflow-workspace';
/** What MLflow calls the workspace of who names none. Names are told apart by their case. */
const DEFAULT = 'default';
const TOLD_CHARACTERS = 64;

/**
 * Why a request for a workspace is refused; `undefined` where it is meant for the default one. An empty header names
 * none, as for MLflow's server. One that comes twice is refused: two readers may take another one of them.
 */
export function refusedWorkspace(headers: IncomingHttpHeaders): string | undefined {
  const name = String(headers[HEADER] ?? '').trim();
  if (name === '' || name === DEFAULT) return undefined;
  return (
    `X-MLFLOW-WORKSPACE: the workspace '${printable(name.slice(0, TOLD_CHARACTERS))}' cannot be served, because this ` +
    `server has no workspaces: send the request without the header, or with '${DEFAULT}'`
  );
}
