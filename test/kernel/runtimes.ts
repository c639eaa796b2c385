import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * Runs podman and gives its stdout. cgroupfs because the VM has no systemd; a network of its own only where `args` ask for one.
 *
 * @throws Error with podman's stderr when it ends with another status than 0
 */
export async function podman(args: string[], signal?: AbortSignal): Promise<string> {
  return (await run('podman', ['--cgroup-manager=cgroupfs', ...args], { signal })).stdout;
}

/** A containerd with state of its own, so that several tests may each have one. */
export class Containerd {
  private constructor(
    private readonly folder: string,
    private readonly daemon: ChildProcess,
    readonly address: string,
  ) {}

  /** Starts the daemon and waits until it answers; about 3 s under emulation. */
  static async start(signal?: AbortSignal): Promise<Containerd> {
    const folder = await mkdtemp(join(tmpdir(), 'containerd-'));
    const address = join(folder, 'containerd.sock');
    const places = ['--root', join(folder, 'root'), '--state', join(folder, 'state')];
    const daemon = spawn(
      'containerd',
      ['--config', '/dev/null', ...places, '--address', address, '--log-level', 'error'],
      {
        stdio: ['ignore', 'ignore', 'inherit'],
      },
    );
    const containerd = new Containerd(folder, daemon, address);
    try {
      await once(daemon, 'spawn');
      while (!(await containerd.answers(signal))) {
        if (daemon.exitCode !== null) throw new Error(`containerd ended with status ${daemon.exitCode}`);
        await sleep(100, undefined, { signal });
      }
      return containerd;
    } catch (error) {
      await containerd.stop();
      throw error;
    }
  }

  /**
   * Runs ctr on this daemon and gives its stdout.
   *
   * @throws Error with ctr's stderr when it ends with another status than 0
   */
  async ctr(args: string[], signal?: AbortSignal): Promise<string> {
    return (await run('ctr', ['--address', this.address, ...args], { signal })).stdout;
  }

  /** Ends the daemon and removes its state. Containers must be gone. */
  async stop(): Promise<void> {
    if (this.daemon.pid !== undefined && this.daemon.exitCode === null && this.daemon.signalCode === null) {
      this.daemon.kill('SIGTERM');
      await once(this.daemon, 'exit');
    }
    await rm(this.folder, { recursive: true, force: true });
  }

  private async answers(signal?: AbortSignal): Promise<boolean> {
    try {
      await this.ctr(['version'], signal);
      return true;
    } catch {
      return false;
    }
  }
}
