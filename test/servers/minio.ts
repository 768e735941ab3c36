/** MinIO, one node, one drive. Lists multipart uploads only by exact key; refuses keys with `//`. */
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Certificates, certificatesIn } from './certs.ts';
import { serverFile } from './installed.ts';
import { launch } from './process.ts';
import { healthy, ROOT, type S3Options, type S3Server, s3Server } from './s3.ts';

export async function startMinio(options: S3Options = {}): Promise<S3Server> {
  let certificates: Certificates | undefined;
  const tls = options.tls ?? options.again?.caFile !== undefined;
  const running = await launch({
    name: 'minio',
    dir: options.again?.dir,
    ports: options.again ? [options.again.port] : 1,
    command([port], dir) {
      const args = ['server', '--address', `127.0.0.1:${port}`];
      if (tls) {
        certificates = certificatesIn(join(dir, 'certs'));
        mkdirSync(join(dir, 'minio-certs'), { recursive: true });
        copyFileSync(certificates.certFile, join(dir, 'minio-certs', 'public.crt'));
        copyFileSync(certificates.keyFile, join(dir, 'minio-certs', 'private.key'));
        args.push('--certs-dir', join(dir, 'minio-certs'));
      }
      const env = {
        MINIO_ROOT_USER: ROOT.accessKey,
        MINIO_ROOT_PASSWORD: ROOT.secretKey,
        MINIO_BROWSER: 'off',
        MINIO_UPDATE: 'off',
      };
      return { file: serverFile('minio'), args: [...args, join(dir, 'data')], env };
    },
    ready: ([port]) =>
      healthy(`${tls ? 'https' : 'http'}://127.0.0.1:${port}/minio/health/ready`, certificates?.ca),
  });
  return s3Server('minio', running, certificates);
}
