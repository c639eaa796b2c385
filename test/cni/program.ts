import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';

/** The C program, as native/build.mjs makes it. */
export const PROGRAM = 'build/cni/midonet';

export interface ProgramResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly milliseconds: number;
}

/** Runs the CNI program with exactly these variables. `stdin` undefined leaves standard input open and silent. */
export function runProgram(
  environment: Record<string, string>,
  stdin: string | Buffer | undefined,
  command: readonly string[] = [PROGRAM],
): Promise<ProgramResult> {
  if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is missing: node native/build.mjs makes it`);
  const started = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn(command[0], command.slice(1), { env: environment, stdio: ['pipe', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (status) => {
      child.stdin.destroy();
      resolve({ status, stdout, stderr, milliseconds: performance.now() - started });
    });
    // The program may end before it has read all.
    child.stdin.on('error', () => undefined);
    if (stdin !== undefined) child.stdin.end(stdin);
  });
}
