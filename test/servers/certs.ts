/** Throw-away certificates for servers on loopback. Node looks at the SAN, not at the CN. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Certificates {
  /** PEM files, absolute paths. */
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
  /** What `caFile` holds. */
  readonly ca: string;
}

const CURVE = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
const EXTENSIONS =
  'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n';

/** A CA of its own and a certificate for localhost, 127.0.0.1 and ::1 signed by it, made once in `dir`. Needs `openssl`. */
export function certificatesIn(dir: string): Certificates {
  const caFile = join(dir, 'ca.crt');
  const certFile = join(dir, 'server.crt');
  if (!existsSync(certFile)) make(dir);
  return { caFile, certFile, keyFile: join(dir, 'server.key'), ca: readFileSync(caFile, 'utf8') };
}

function make(dir: string): void {
  mkdirSync(dir, { recursive: true });
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' });
  const ca = [
    '-addext',
    'basicConstraints=critical,CA:TRUE',
    '-addext',
    'keyUsage=critical,keyCertSign,cRLSign',
  ];
  openssl(
    'req',
    '-x509',
    ...CURVE,
    '-days',
    '30',
    '-subj',
    '/CN=test CA',
    ...ca,
    '-keyout',
    'ca.key',
    '-out',
    'ca.crt',
  );
  openssl('req', ...CURVE, '-subj', '/CN=localhost', '-keyout', 'server.key', '-out', 'server.csr');
  writeFileSync(join(dir, 'extensions'), EXTENSIONS);
  const signed = [
    '-CA',
    'ca.crt',
    '-CAkey',
    'ca.key',
    '-CAcreateserial',
    '-days',
    '30',
    '-extfile',
    'extensions',
  ];
  openssl('x509', '-req', '-in', 'server.csr', ...signed, '-out', 'server.crt');
}
