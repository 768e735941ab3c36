/** Reads what `strace -f -yy -s 96` wrote: each system call with the moments it was entered and had returned. */

export interface SystemCall {
  readonly name: string;
  /** Everything between the brackets, file descriptors with their paths (`18</data/staging/x>`). */
  readonly args: string;
  readonly result: string;
  /** Line numbers of the trace: the order in which the kernel was seen to do things. */
  readonly entered: number;
  readonly returned: number;
}

const WHOLE = /^(\d+)\s+(\w+)\((.*)\)\s+= (.*)$/;
const BEGUN = /^(\d+)\s+(\w+)\((.*) <unfinished \.\.\.>$/;
const RESUMED = /^(\d+)\s+<\.\.\. (\w+) resumed>(.*)\)\s+= (.*)$/;

export function parseTrace(text: string): readonly SystemCall[] {
  const calls: SystemCall[] = [];
  const open = new Map<string, { name: string; args: string; entered: number }>();
  text.split('\n').forEach((line, at) => {
    const whole = WHOLE.exec(line);
    if (whole) {
      calls.push({ name: whole[2]!, args: whole[3]!, result: whole[4]!, entered: at, returned: at });
      return;
    }
    const begun = BEGUN.exec(line);
    if (begun) {
      open.set(begun[1]!, { name: begun[2]!, args: begun[3]!, entered: at });
      return;
    }
    const resumed = RESUMED.exec(line);
    const start = resumed ? open.get(resumed[1]!) : undefined;
    if (resumed && start && start.name === resumed[2]) {
      open.delete(resumed[1]!);
      calls.push({ ...start, args: start.args + resumed[3]!, result: resumed[4]!, returned: at });
    }
  });
  return calls.toSorted((a, b) => a.entered - b.entered);
}
