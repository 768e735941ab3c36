/** versitygw over a POSIX folder (its file system needs user xattrs): `a` and `a/b` can't both be keys there. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Certificates, certificatesIn } from './certs.ts';
import { serverFile } from './installed.ts';
import { launch } from './process.ts';
import { healthy, ROOT, type S3Options, type S3Server, s3Server } from './s3.ts';

export async function startVersitygw(options: S3Options = {}): Promise<S3Server> {
  let certificates: Certificates | undefined;
  const tls = options.tls ?? options.again?.caFile !== undefined;
  const running = await launch({
    name: 'versitygw',
    dir: options.again?.dir,
    ports: options.again ? [options.again.port] : 1,
    command([port], dir) {
      for (const name of ['data', 'iam']) mkdirSync(join(dir, name), { recursive: true });
      const args = ['--port', `127.0.0.1:${port}`, '--iam-dir', join(dir, 'iam'), '--health', '/health'];
      if (tls) {
        certificates = certificatesIn(join(dir, 'certs'));
        args.push('--cert', certificates.certFile, '--key', certificates.keyFile);
      }
      const env = { ROOT_ACCESS_KEY: ROOT.accessKey, ROOT_SECRET_KEY: ROOT.secretKey };
      return { file: serverFile('versitygw'), args: [...args, 'posix', join(dir, 'data')], env };
    },
    ready: ([port]) => healthy(`${tls ? 'https' : 'http'}://127.0.0.1:${port}/health`, certificates?.ca),
  });
  return s3Server('versitygw', running, certificates);
}
