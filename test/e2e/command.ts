/** The command line as people use it: a process of its own, what it writes, how it ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { cleanEnvironment, watch } from '../servers/process.ts';

const MAIN = fileURLToPath(new URL('../../apps/cli/main.ts', import.meta.url));
/** Longest that anything here may take to happen. */
const PATIENCE_MS = 60_000;

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class Command {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';
  readonly ended: Promise<Ended>;
  readonly #written = new EventTarget();

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.child = spawn(process.execPath, [MAIN, ...args], {
      env: { ...cleanEnvironment(), ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    });
    watch(this.child);
    for (const name of ['stdout', 'stderr'] as const)
      this.child[name]?.setEncoding('utf8').on('data', (text: string) => {
        this[name] += text;
        this.#written.dispatchEvent(new Event('written'));
      });
    // `exit`, not `close`: a Redis or child that it left behind may hold the pipes
    this.ended = once(this.child, 'exit').then(([code]) => {
      this.#written.dispatchEvent(new Event('written'));
      return { code, stdout: this.stdout, stderr: this.stderr };
    });
  }

  /** Resolves with the first match in what it wrote, from `from` on. Rejects when it ended without. */
  async said(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    const deadline = AbortSignal.timeout(PATIENCE_MS);
    for (;;) {
      const found = pattern.exec((this.stdout + this.stderr).slice(from));
      if (found) return found;
      if (this.child.exitCode !== null || deadline.aborted)
        throw new Error(`it never said ${pattern}: ${this.stdout}${this.stderr}`);
      await once(this.#written, 'written', { signal: deadline });
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Orderly. */
  async stop(): Promise<Ended> {
    this.signal('SIGTERM');
    return this.ended;
  }
}

/** Runs one to its end, with `input` on its standard input. */
export async function run(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  input = '',
): Promise<Ended> {
  const command = new Command(args, env);
  command.child.stdin?.end(input);
  return command.ended;
}

/** Living processes by a look at each: command line (spaces between arguments), working directory, parent. */
export interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
  readonly cwd: string;
}

export function processes(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        if (state === 'Z') return [];
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
        return [
          { pid: Number(name), parent: Number(parent), command, cwd: readlinkSync(`/proc/${name}/cwd`) },
        ];
      } catch {
        return []; // it has ended meanwhile
      }
    });
}
