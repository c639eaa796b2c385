import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { removeFolder } from './clean-up.js';
import { CNI_PROGRAM } from './lab.js';

const run = promisify(execFile);

/** How long a daemon may take to stop before it is killed. */
const STOP_MS = 20_000;

/**
 * Runs podman and gives its stdout. cgroupfs because the VM has no systemd; a network of its own only where `args` ask for one.
 *
 * @throws Error with podman's stderr when it ends with another status than 0
 */
export async function podman(args: string[], signal?: AbortSignal): Promise<string> {
  return (await run('podman', ['--cgroup-manager=cgroupfs', ...args], { signal })).stdout;
}

/** What makes a runtime attach its containers to one node of a lab. */
export interface RuntimeHost {
  /** Path of the network namespace that the runtime runs in. */
  readonly namespace: string;
  /** Holds the network configuration. */
  readonly configFolder: string;
  /** Holds the CNI program. */
  readonly pluginFolder: string;
}

/** Writes to `folder` what a runtime in `namespace` needs to attach containers with `plugin`, the one plugin of `network`. */
export async function prepareRuntimeHost(
  folder: string,
  namespace: string,
  network: string,
  plugin: Readonly<Record<string, unknown>>,
): Promise<RuntimeHost> {
  const host = { namespace, configFolder: join(folder, 'net.d'), pluginFolder: join(folder, 'plugins') };
  await mkdir(host.configFolder, { recursive: true });
  await mkdir(host.pluginFolder, { recursive: true });
  await copyFile(CNI_PROGRAM, join(host.pluginFolder, 'midonet'));
  // The newest version that Debian 12's runtimes know.
  const list = { cniVersion: '1.0.0', name: network, plugins: [plugin] };
  await writeFile(join(host.configFolder, '10-midonet.conflist'), JSON.stringify(list));
  return host;
}

/**
 * A podman with a store of its own, whose containers are attached through CNI. Podman has that network backend up to version
 * 4, and builds of version 5 may lack it.
 */
export class CniPodman {
  readonly #host: RuntimeHost;
  readonly #folder: string;

  private constructor(host: RuntimeHost, folder: string) {
    this.#host = host;
    this.#folder = folder;
  }

  static async open(host: RuntimeHost): Promise<CniPodman> {
    const podman = new CniPodman(host, await mkdtemp(join(tmpdir(), 'podman-')));
    // Locks in files: those in shared memory are the same for every podman of the machine.
    const config = `
      [engine]
      cgroup_manager = "cgroupfs"
      events_logger = "file"
      lock_type = "file"
      [network]
      network_backend = "cni"
      cni_plugin_dirs = [${JSON.stringify(host.pluginFolder)}]
      network_config_dir = ${JSON.stringify(host.configFolder)}
    `;
    await writeFile(podman.#config, config);
    return podman;
  }

  /** Why this podman cannot use CNI, or undefined if it can. */
  static async lacksCni(): Promise<string | undefined> {
    const folder = await mkdtemp(join(tmpdir(), 'podman-'));
    const podman = await CniPodman.open({ namespace: '/proc/self/ns/net', configFolder: folder, pluginFolder: folder });
    try {
      await podman.run('network', 'ls');
      return undefined;
    } catch (error) {
      return ((error as { stderr?: string }).stderr ?? String(error)).trim();
    } finally {
      await podman.close();
      await removeFolder(folder);
    }
  }

  /** Runs podman and gives its stdout. @throws Error with podman's stderr when it ends with another status than 0 */
  async run(...args: string[]): Promise<string> {
    const places = ['root', 'runroot', 'tmpdir'].map((place) => `--${place}=${join(this.#folder, place)}`);
    const env = { ...process.env, CONTAINERS_CONF: this.#config };
    const command = [`--net=${this.#host.namespace}`, 'podman', '--storage-driver=vfs', ...places, ...args];
    return (await run('nsenter', command, { env })).stdout;
  }

  /** Starts a container in the background and gives the id of its process. `options` are podman's. */
  async start(name: string, options: readonly string[], image: string, ...command: string[]): Promise<number> {
    await this.run('run', '-d', '--name', name, '--pidfile', this.#pidFile(name), ...options, image, ...command);
    return this.pid(name);
  }

  /** Id of a container's process. */
  async pid(name: string): Promise<number> {
    return Number(await readFile(this.#pidFile(name), 'utf8'));
  }

  #pidFile(name: string): string {
    return join(this.#folder, `${name}.pid`);
  }

  /** Removes its state. Containers must be gone. */
  async close(): Promise<void> {
    await removeFolder(this.#folder);
  }

  get #config(): string {
    return join(this.#folder, 'containers.conf');
  }
}

/** A container that runs until it is killed. */
export interface CtrContainer {
  /** As CNI plugins get it. */
  readonly id: string;
  readonly pid: number;
  /** Resolves when ctr has removed the container, with what it printed to stderr. */
  readonly removed: Promise<string>;
}

/** A containerd with state of its own, so that several tests may each have one. */
export class Containerd {
  /** What the daemon and its shims wrote. */
  log = '';

  private constructor(
    private readonly folder: string,
    private readonly daemon: ChildProcess,
    readonly address: string,
    private readonly host: RuntimeHost | undefined,
  ) {}

  /** Starts the daemon, in the namespace of `host`, and waits until it answers; about 3 s under emulation. */
  static async start(options: { signal?: AbortSignal; host?: RuntimeHost } = {}): Promise<Containerd> {
    const { signal, host } = options;
    const folder = await mkdtemp(join(tmpdir(), 'containerd-'));
    const address = join(folder, 'containerd.sock');
    const places = ['--root', join(folder, 'root'), '--state', join(folder, 'state')];
    const command = ['containerd', '--config', '/dev/null', ...places, '--address', address, '--log-level', 'error'];
    if (host !== undefined) command.unshift('nsenter', `--net=${host.namespace}`);
    const daemon = spawn(command[0], command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
    const containerd = new Containerd(folder, daemon, address, host);
    daemon.stderr.on('data', (data: Buffer) => {
      containerd.log += data.toString();
    });
    try {
      await once(daemon, 'spawn');
      while (!(await containerd.answers(signal))) {
        if (daemon.exitCode !== null)
          throw new Error(`containerd ended with status ${daemon.exitCode}: ${containerd.log}`);
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

  /**
   * Runs a container that is attached through CNI, and waits until it runs. ctr itself calls the plugins, and is there as
   * long as the container: a detached one would never be removed from the network.
   *
   * @throws Error with ctr's stderr when it ends before
   */
  async runAttached(name: string, image: string): Promise<CtrContainer> {
    const { host } = this;
    if (host === undefined) throw new Error('this containerd belongs to no node');
    const pidFile = join(this.folder, `${name}.pid`);
    const task = ['run', '--rm', '--cni', '--pid-file', pidFile, image, name];
    const command = ['ctr', '--address', this.address, ...task, 'sh', '-c', 'echo runs; exec sleep 86400'];
    // ctr looks for networks and plugins at these places and nowhere else.
    const script = `
      mkdir -p /etc/cni/net.d && mount --bind "$0" /etc/cni/net.d &&
      mount -t tmpfs cni /opt && mkdir /opt/cni && ln -s "$1" /opt/cni/bin && shift && exec "$@"`;
    const shell = ['sh', '-c', script, host.configFolder, host.pluginFolder, ...command];
    const ctr = spawn('nsenter', [`--net=${host.namespace}`, 'unshare', '--mount', ...shell], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let errors = '';
    ctr.stderr.on('data', (data: Buffer) => {
      errors += data.toString();
    });
    const removed = once(ctr, 'close').then(() => errors);
    const runs = await Promise.race([once(ctr.stdout, 'data').then(() => true), removed.then(() => false)]);
    if (!runs) throw new Error(`ctr run ${name}: ${errors}`);
    return { id: `default-${name}`, pid: Number(await readFile(pidFile, 'utf8')), removed };
  }

  /** Kills what runs in the containers. Each ctr that waits for one then removes it. */
  async killTasks(): Promise<void> {
    for (const name of (await this.ctr(['task', 'list', '-q'])).split('\n').filter((line) => line !== '')) {
      try {
        await this.ctr(['task', 'kill', '-s', 'SIGKILL', name]);
      } catch (error) {
        // It ended by itself meanwhile.
        if (!String((error as { stderr?: string }).stderr).includes('not found')) throw error;
      }
    }
  }

  /** Ends the daemon and removes its state. Containers must be gone. */
  async stop(): Promise<void> {
    if (this.daemon.pid !== undefined && this.daemon.exitCode === null && this.daemon.signalCode === null) {
      const exited = once(this.daemon, 'exit');
      this.daemon.kill('SIGTERM');
      const impatience = setTimeout(() => this.daemon.kill('SIGKILL'), STOP_MS);
      await exited;
      clearTimeout(impatience);
    }
    await removeFolder(this.folder);
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
