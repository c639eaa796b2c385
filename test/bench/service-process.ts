import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** The installed program. */
export const PROGRAM = fileURLToPath(new URL('../../bundle/midonet.js', import.meta.url));

const START_LIMIT_MS = 120_000;
/** Clock ticks a second in /proc, on every Linux that Node.js runs on. */
const TICKS = 100;

/** A program that serves until it is ended. */
export class ServiceProcess {
  private child: ChildProcess | undefined;

  constructor(
    readonly name: string,
    private readonly command: readonly string[],
    /** Tells whether it serves by now; `waited` milliseconds have passed since it was started. */
    private readonly isReady: (waited: number) => Promise<boolean>,
  ) {}

  /** Starts the process; returns the milliseconds until it serves. */
  async start(): Promise<number> {
    const begin = performance.now();
    const [program, ...words] = this.command;
    const child = spawn(program, words, { stdio: 'ignore' });
    this.child = child;
    await once(child, 'spawn');
    while (performance.now() - begin < START_LIMIT_MS) {
      if (child.exitCode !== null) break;
      if (await this.isReady(performance.now() - begin)) return performance.now() - begin;
      await delay(5);
    }
    throw new Error(`${this.name} does not start: ${this.command.join(' ')}`);
  }

  async stop(): Promise<void> {
    const { child } = this;
    if (child === undefined) return;
    this.child = undefined;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill('SIGTERM');
    await exit;
  }

  kill(): void {
    this.child?.kill('SIGKILL');
  }

  /** Resident memory in MiB. */
  async memory(): Promise<number> {
    const status = await readFile(`/proc/${this.child?.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
  }

  /** Seconds of processor time so far. */
  async processorTime(): Promise<number> {
    const stat = await readFile(`/proc/${this.child?.pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
  }
}
