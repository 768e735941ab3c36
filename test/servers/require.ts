/** Tests that need a real server say so here. */
import { describe } from 'vitest';
import { howToGet, isInstalled, type ServerName } from './installed.ts';

type Suite = (name: string, body: () => void) => void;

/**
 * `requireServer('minio')('S3 on MinIO', () => { … })` is a `describe` that needs a server. Without it, on a laptop the
 * suite is skipped under a name that says how to get it; with `CI=true` the file fails.
 */
export function requireServer(...names: readonly ServerName[]): Suite {
  const missing = names.filter((name) => !isInstalled(name));
  if (missing.length === 0) return describe;
  const reason = missing.map((name) => `${name} is missing: ${howToGet(name)}`).join('; ');
  if (process.env.CI === 'true') throw new Error(`these tests must run here, but ${reason}`);
  return (name, body) => describe.skip(`${name} [${reason}]`, body);
}
