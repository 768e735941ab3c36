/** toxiproxy: TCP proxies on loopback that a test makes slow, deaf or broken, and whole again. */
import { serverFile } from './installed.ts';
import { freePort, launch, type Running } from './process.ts';

/** Its own names and units: `latency`, `bandwidth` (KB/s), `timeout` (ms, 0: deaf until removed), `reset_peer`, `limit_data`, `slicer`. */
export interface Toxic {
  readonly type: 'latency' | 'bandwidth' | 'timeout' | 'reset_peer' | 'limit_data' | 'slicer';
  /** `upstream`: what the client sends. */
  readonly stream: 'upstream' | 'downstream';
  /** Share of the connections that have it, decided for each when it begins; default all. */
  readonly toxicity?: number;
  readonly attributes: Readonly<Record<string, number>>;
}

export interface TroubledLine {
  /** Where to connect instead. */
  readonly port: number;
  /** For all connections, open ones included, beside what it has already. */
  add(toxic: Toxic): Promise<void>;
  /** Takes all toxics away; bytes that they swallowed stay lost. */
  heal(): Promise<void>;
  /** `false`: cuts every connection and takes no new ones. */
  enable(on: boolean): Promise<void>;
}

export interface Toxiproxy extends Running {
  /** A proxy to a port of this machine. */
  line(name: string, port: number): Promise<TroubledLine>;
}

export async function startToxiproxy(): Promise<Toxiproxy> {
  const running = await launch({
    name: 'toxiproxy',
    ports: 1,
    command: ([port]) => ({
      file: serverFile('toxiproxy'),
      args: ['-host', '127.0.0.1', '-port', String(port)],
      env: { LOG_LEVEL: 'error' },
    }),
    ready: async ([port]) => (await fetch(`http://127.0.0.1:${port}/version`)).ok,
  });
  const ask = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const answer = await fetch(`http://127.0.0.1:${running.ports[0]}${path}`, {
      method,
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`toxiproxy: ${method} ${path} answered ${answer.status}: ${text}`);
    return text === '' ? undefined : JSON.parse(text);
  };
  return {
    ...running,
    async line(name, upstreamPort) {
      const port = await freePort();
      const proxy = { name, listen: `127.0.0.1:${port}`, upstream: `127.0.0.1:${upstreamPort}` };
      await ask('POST', '/proxies', { ...proxy, enabled: true });
      let made = 0;
      return {
        port,
        add: async ({ type, stream, toxicity = 1, attributes }) => {
          const toxic = { name: `${type}-${++made}`, type, stream, toxicity, attributes };
          await ask('POST', `/proxies/${name}/toxics`, toxic);
        },
        heal: async () => {
          const toxics = (await ask('GET', `/proxies/${name}/toxics`)) as { name: string }[];
          for (const toxic of toxics) await ask('DELETE', `/proxies/${name}/toxics/${toxic.name}`);
        },
        enable: async (enabled) => void (await ask('POST', `/proxies/${name}`, { ...proxy, enabled })),
      };
    },
  };
}
