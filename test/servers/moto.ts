/** moto: S3 in memory. It holds any key, and checks neither checksums nor who asks: for names and contents only. */
import { serverFile } from './installed.ts';
import { launch } from './process.ts';
import { healthy, type S3Server, s3Server } from './s3.ts';

/** Importing it takes seconds on a busy machine. */
const READY_MS = 60_000;

export async function startMoto(): Promise<S3Server> {
  const running = await launch({
    name: 'moto',
    ports: 1,
    readyMs: READY_MS,
    command: ([port]) => ({
      file: serverFile('moto'),
      args: ['-H', '127.0.0.1', '-p', String(port)],
      env: {},
    }),
    ready: ([port]) => healthy(`http://127.0.0.1:${port}/moto-api/`, undefined),
  });
  return s3Server('moto', running, undefined);
}
