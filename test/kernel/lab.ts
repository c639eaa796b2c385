import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdir, mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Flow, MeterCounters } from '../../src/datapath/datapath.js';
import { Namespace } from '../../src/datapath/link/namespace.js';
import type { OvsStatistics } from '../../src/datapath/ovs/kernel-datapath.js';
import { OvsDatapath } from '../../src/datapath/ovs/ovs-datapath.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { ApacheEnsemble } from '../nsdb/apache-ensemble.js';
import { cleanUp, removeFolder } from './clean-up.js';

/** The program with the commands agent, nsdb and standalone. */
export const PROGRAM = fileURLToPath(new URL('../../bundle/midonet.js', import.meta.url));
/** The CNI program that runtimes call. */
export const CNI_PROGRAM = fileURLToPath(new URL('../../cni/midonet', import.meta.url));
/** The network of the lab, as runtimes know it. */
export const NETWORK = 'pods';
export const SUBNET_V4 = '10.88.0.0/16';
export const SUBNET_V6 = 'fd00:88::/64';

export const DATAPATH = 'midonet';
/** On a machine that emulates the VM and does other things, too. */
const READY_MS = 120_000;

export interface LabOptions {
  /** Number of nodes; 2 if absent. */
  readonly nodes?: number;
  /** Encapsulation between the nodes; vxlan if absent. */
  readonly zone?: 'vxlan' | 'gre';
  /** Fields of the network configuration beyond name, type, socket and subnets. */
  readonly network?: Readonly<Record<string, unknown>>;
  /** More of each agent's configuration. */
  readonly agent?: Readonly<Record<string, unknown>>;
  /** Three Apache ZooKeeper servers in place of the embedded one, each on a machine of its own in the underlay. */
  readonly ensemble?: boolean;
}

/** What a program left. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * A cluster on one kernel: every node is a network namespace with a datapath of its own and an agent process, joined by an
 * underlay bridge; one more process serves the NSDB. Everything is gone when the lab is closed.
 */
export class Lab {
  readonly nodes: LabNode[] = [];
  private nsdb: ChildProcess | undefined;
  private api: ChildProcess | undefined;
  private zookeeper: ApacheEnsemble | undefined;
  private store: ZookeeperStore | undefined;

  private constructor(
    readonly folder: string,
    /** In the names of what the lab makes, so that labs do not meet. */
    readonly tag: string,
    readonly options: LabOptions,
  ) {}

  static async start(options: LabOptions = {}): Promise<Lab> {
    const folder = await mkdtemp(join(tmpdir(), 'lab-'));
    const lab = new Lab(
      folder,
      folder
        .slice(-4)
        .toLowerCase()
        .replaceAll(/[^a-z0-9]/g, 'x'),
      options,
    );
    try {
      await lab.makeUnderlay();
      const starting = options.ensemble === true ? lab.startEnsemble() : lab.startNsdb();
      for (let index = 1; index <= (options.nodes ?? 2); index++) {
        const node = new LabNode(lab, index);
        lab.nodes.push(node);
        await must('ip', 'netns', 'add', node.name);
        await lab.plugIn(node.name, `ul${index}`, node.address);
      }
      await starting;
      await Promise.all(lab.nodes.map((node) => node.startAgent()));
      return lab;
    } catch (error) {
      // What cannot be taken down then says less than why it did not come up.
      await lab.close().catch((left: Error) => console.error('after a failed start:', left));
      throw error;
    }
  }

  get nsdbSocket(): string {
    return join(this.folder, 'nsdb.sock');
  }

  /** What clients of the NSDB connect to. */
  get nsdbConnect(): string {
    return this.zookeeper?.address ?? `unix:${this.nsdbSocket}`;
  }

  /** Of a lab that was started with one. Member `n` is cut off by {@link setLink} of the interface `zk<n>`. */
  get ensemble(): ApacheEnsemble {
    if (this.zookeeper === undefined) throw new Error('this lab has no ensemble');
    return this.zookeeper;
  }

  /** A client of the lab's NSDB, the same at every call. */
  repository(): TopologyRepository {
    this.store ??= new ZookeeperStore({ connect: this.nsdbConnect, operationTimeout: 30_000 });
    return new TopologyRepository(this.store);
  }

  async startNsdb(): Promise<void> {
    const config = join(this.folder, 'nsdb.json');
    const dataFolder = join(this.folder, 'nsdb');
    const nsdb = { listen: `unix:${this.nsdbSocket}`, dataFolder, http: { port: 0 } };
    await writeFile(config, JSON.stringify({ nsdb }));
    this.nsdb = await startService(['nsdb', 'serve', '--config', config], join(this.folder, 'nsdb.log'));
    await this.untilAnswers(this.nsdb, this.nsdbSocket);
  }

  /** Start the REST API in the namespace of the first node, from where it reaches all agents. Returns it as clients name it. */
  async startApi(): Promise<string> {
    const config = join(this.folder, 'api.json');
    const socket = join(this.folder, 'api.sock');
    const api = { listen: `unix:${socket}`, http: { port: 0 } };
    await writeFile(config, JSON.stringify({ nsdb: { connect: this.nsdbConnect }, api }));
    this.api = await startService(['cluster', '--config', config], join(this.folder, 'api.log'), this.nodes[0].name);
    await this.untilAnswers(this.api, socket);
    return `unix:${socket}`;
  }

  /** Wait until a service takes connections. @throws Error with its log if it ends or takes too long */
  async untilAnswers(service: ChildProcess, socket: string): Promise<void> {
    try {
      await until(`an answer at ${socket}`, () => {
        if (service.exitCode !== null) throw new Error(`a service ended with status ${service.exitCode}`);
        return answers(socket);
      });
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${await this.logs()}`);
    }
  }

  /** Returns its exit status. */
  async stopNsdb(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | undefined> {
    const status = await endProcess(this.nsdb, signal);
    this.nsdb = undefined;
    return status;
  }

  /** The log of a service, for messages of failing tests. */
  async logs(): Promise<string> {
    const files = (await readdir(this.folder)).filter((name) => name.endsWith('.log'));
    const texts = await Promise.all(
      files.map(async (name) => `--- ${name}\n${await readFile(join(this.folder, name), 'utf8')}`),
    );
    return texts.join('\n');
  }

  async close(): Promise<void> {
    await cleanUp(
      () => endProcess(this.api, 'SIGKILL'),
      ...this.nodes.map((node) => () => node.close()),
      () => this.store?.close(),
      () => this.stopNsdb('SIGKILL'),
      () => this.zookeeper?.close(),
      ...this.zookeeperNamespaces.map((name) => () => run('ip', 'netns', 'delete', name)),
      () => run('ip', 'link', 'delete', this.underlayBridge),
      () => removeFolder(this.folder),
    );
  }

  private get underlayBridge(): string {
    return `ul-${this.tag}`;
  }

  private get zookeeperNamespaces(): string[] {
    return this.options.ensemble === true ? [1, 2, 3].map((id) => `zk${id}-${this.tag}`) : [];
  }

  private async makeUnderlay(): Promise<void> {
    await must('ip', 'link', 'add', this.underlayBridge, 'mtu', '1500', 'type', 'bridge');
    await must('ip', 'link', 'set', this.underlayBridge, 'up');
  }

  private async startEnsemble(): Promise<void> {
    // The test is a client, too.
    await must('ip', 'addr', 'add', '172.31.0.254/24', 'dev', this.underlayBridge);
    const places = [];
    for (const [index, name] of this.zookeeperNamespaces.entries()) {
      const host = `172.31.0.${101 + index}`;
      await must('ip', 'netns', 'add', name);
      await this.plugIn(name, `zk${index + 1}`, host);
      places.push({ host, prefix: ['ip', 'netns', 'exec', name] });
    }
    // Java takes its time where the machine is emulated, and may stand still for seconds.
    this.zookeeper = await ApacheEnsemble.start({ places, patience: 240_000, silence: 8000 });
  }

  /** Joins a namespace to the underlay; `link` names the near end of its cable. */
  private async plugIn(namespace: string, link: string, address: string): Promise<void> {
    const outer = `${link}-${this.tag}`;
    await must('ip', 'link', 'add', outer, 'type', 'veth', 'peer', 'name', 'underlay', 'netns', namespace);
    await must('ip', 'link', 'set', outer, 'master', this.underlayBridge, 'up');
    await must('ip', '-n', namespace, 'addr', 'add', `${address}/24`, 'dev', 'underlay');
    await must('ip', '-n', namespace, 'link', 'set', 'underlay', 'up');
    await must('ip', '-n', namespace, 'link', 'set', 'lo', 'up');
  }

  /** Plugs a cable of the underlay in or out: `ul1` of the first node, `zk1` of the first ZooKeeper server. */
  async setLink(link: string, state: 'up' | 'down'): Promise<void> {
    await must('ip', 'link', 'set', `${link}-${this.tag}`, state);
  }
}

/** One node of a lab. */
export class LabNode {
  private agent: ChildProcess | undefined;
  readonly name: string;
  /** Its address in the underlay. */
  readonly address: string;
  readonly stateFolder: string;
  readonly cniSocket: string;
  readonly httpSocketPort: number;

  constructor(
    private readonly lab: Lab,
    readonly index: number,
  ) {
    this.name = `node${index}-${lab.tag}`;
    this.address = `172.31.0.${index}`;
    this.stateFolder = join(lab.folder, this.name);
    this.cniSocket = join(lab.folder, `cni-${index}.sock`);
    this.httpSocketPort = 7300;
  }

  get namespacePath(): string {
    return `/run/netns/${this.name}`;
  }

  /** The agent's configuration, there since its first start. */
  get configFile(): string {
    return join(this.lab.folder, `${this.name}.json`);
  }

  /** Process id of the agent. */
  get pid(): number {
    return this.agent?.pid ?? 0;
  }

  /** Exit status of the agent once it has ended by itself, else null. */
  get exitCode(): number | null {
    return this.agent?.exitCode ?? null;
  }

  /** Start the agent and wait until it takes CNI calls. */
  async startAgent(): Promise<void> {
    await mkdir(this.stateFolder, { recursive: true });
    const config = this.configFile;
    const zone = { name: 'lab', type: this.lab.options.zone ?? 'vxlan', address: this.address };
    await writeFile(
      config,
      JSON.stringify({
        host: { name: this.name },
        stateFolder: this.stateFolder,
        nsdb: { connect: this.lab.nsdbConnect },
        datapath: { name: DATAPATH },
        tunnels: { zones: [zone] },
        cni: { socket: this.cniSocket },
        http: { port: this.httpSocketPort },
        ...this.lab.options.agent,
      }),
    );
    this.agent = await startService(
      ['agent', '--config', config],
      join(this.lab.folder, `${this.name}.log`),
      this.name,
    );
    await this.lab.untilAnswers(this.agent, this.cniSocket);
  }

  /** End the agent; SIGKILL as a crash would. Returns its exit status. */
  async stopAgent(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | undefined> {
    const status = await endProcess(this.agent, signal);
    this.agent = undefined;
    return status;
  }

  /** The network configuration that a runtime of this node has. */
  networkConfig(more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
    return {
      cniVersion: '1.1.0',
      name: NETWORK,
      type: 'midonet',
      socket: this.cniSocket,
      subnets: [{ cidr: SUBNET_V4 }, { cidr: SUBNET_V6 }],
      ...this.lab.options.network,
      ...more,
    };
  }

  /** Call the CNI program the way a runtime does. */
  cni(command: string, call: CniCall): Promise<Outcome> {
    const environment: Record<string, string> = {
      PATH: process.env.PATH ?? '',
      CNI_COMMAND: command,
      CNI_PATH: '/opt/cni/bin',
    };
    if (call.containerId !== undefined) environment.CNI_CONTAINERID = call.containerId;
    if (call.netns !== undefined) environment.CNI_NETNS = call.netns;
    if (call.ifname !== undefined) environment.CNI_IFNAME = call.ifname;
    if (call.args !== undefined) environment.CNI_ARGS = call.args;
    return runWith({ input: JSON.stringify(call.config ?? this.networkConfig()), environment }, CNI_PROGRAM);
  }

  /** Make a namespace and attach it as a runtime would attach a pod. */
  async addPod(name: string, more: Readonly<Record<string, unknown>> = {}): Promise<Pod> {
    const pod = new Pod(this, `${name}-${this.lab.tag}`, name, this.networkConfig(more));
    await must('ip', 'netns', 'add', pod.namespace);
    await must('ip', '-n', pod.namespace, 'link', 'set', 'lo', 'up');
    await pod.attach();
    return pod;
  }

  /** Run a program in the node's namespace. */
  run(...command: string[]): Promise<Outcome> {
    return run('ip', 'netns', 'exec', this.name, ...command);
  }

  /** Start a program in the node's namespace that goes on. */
  start(...command: string[]): ChildProcess {
    return spawn('ip', ['netns', 'exec', this.name, ...command], { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** What the kernel's datapath of this node holds. */
  async flows(): Promise<Flow[]> {
    return this.withDatapath((datapath) => datapath.flows());
  }

  /** What the kernel has counted: look-ups of packets that found a flow, and that found none. */
  async statistics(): Promise<OvsStatistics> {
    return this.withDatapath((datapath) => datapath.statistics());
  }

  /** Counters of a meter of the kernel, if there is one. */
  async meter(id: number): Promise<MeterCounters | undefined> {
    return this.withDatapath((datapath) => datapath.meter(id));
  }

  /** Names of the interfaces attached to this node's datapath. */
  async ports(): Promise<string[]> {
    return this.withDatapath(async (datapath) => (await datapath.ports()).map((port) => port.name).sort());
  }

  /** Names of the node's interfaces. */
  async links(): Promise<string[]> {
    const { stdout } = await run('ip', '-n', this.name, '-json', 'link');
    return (JSON.parse(stdout) as { ifname: string }[]).map((link) => link.ifname).sort();
  }

  /** A metric of the agent, summed up over its labels. */
  async metric(name: string): Promise<number> {
    // An agent that has just started serves containers before it serves metrics.
    const patience = ['--retry', '30', '--retry-delay', '1', '--retry-connrefused'];
    const { stdout } = await this.run('curl', '-s', ...patience, `http://127.0.0.1:${this.httpSocketPort}/metrics`);
    if (!stdout.includes(`# TYPE ${name} `)) throw new Error(`no metric ${name} in: ${stdout.slice(0, 500)}`);
    let sum = 0;
    for (const [, value] of stdout.matchAll(new RegExp(`^${name}(?:\\{.*\\})? ([0-9.e+]+)$`, 'gm')))
      sum += Number(value);
    return sum;
  }

  async close(): Promise<void> {
    await this.stopAgent('SIGKILL');
    // The datapath, its ports and the underlay interface go with the namespace.
    await run('ip', 'netns', 'delete', this.name);
  }

  private async withDatapath<T>(use: (datapath: OvsDatapath) => Promise<T>): Promise<T> {
    const namespace = Namespace.open(this.namespacePath);
    try {
      const datapath = await OvsDatapath.open(DATAPATH, { namespace, create: false });
      try {
        return await use(datapath);
      } finally {
        await datapath.close();
      }
    } finally {
      namespace.close();
    }
  }
}

export interface CniCall {
  readonly containerId?: string;
  readonly netns?: string;
  readonly ifname?: string;
  readonly args?: string;
  readonly config?: unknown;
}

/** Where programs run. */
export type Place = Pick<Pod, 'run' | 'start'>;

/** A pod: a network namespace that the CNI program has attached. */
export class Pod {
  ipv4 = '';
  ipv6 = '';
  mac = '';
  /** What ADD printed. */
  result: unknown;

  constructor(
    readonly node: LabNode,
    readonly namespace: string,
    readonly name: string,
    readonly config: Record<string, unknown>,
  ) {}

  get call(): CniCall {
    return {
      containerId: this.namespace,
      netns: `/run/netns/${this.namespace}`,
      ifname: 'eth0',
      config: this.config,
    };
  }

  async attach(): Promise<void> {
    const outcome = await this.node.cni('ADD', this.call);
    if (outcome.status !== 0)
      throw new Error(`ADD ${this.name} on ${this.node.name}: ${outcome.stdout}${outcome.stderr}`);
    this.take(outcome.stdout);
  }

  /** Note what ADD printed. */
  take(stdout: string): void {
    const result = JSON.parse(stdout) as {
      ips: { address: string }[];
      interfaces: { name: string; mac: string; sandbox?: string }[];
    };
    this.result = result;
    this.mac = result.interfaces.find((one) => one.sandbox !== undefined && one.sandbox !== '')?.mac ?? '';
    for (const { address } of result.ips) {
      const ip = address.slice(0, address.indexOf('/'));
      if (ip.includes(':')) this.ipv6 = ip;
      else this.ipv4 = ip;
    }
  }

  async detach(): Promise<void> {
    const outcome = await this.node.cni('DEL', this.call);
    if (outcome.status !== 0) throw new Error(`DEL ${this.name}: ${outcome.stdout}${outcome.stderr}`);
  }

  /** Detach it and delete its namespace. */
  async remove(): Promise<void> {
    await this.detach();
    await must('ip', 'netns', 'delete', this.namespace);
  }

  /** Run a program in the pod. */
  run(...command: string[]): Promise<Outcome> {
    return run('ip', 'netns', 'exec', this.namespace, ...command);
  }

  /** Start a program in the pod that goes on. */
  start(...command: string[]): ChildProcess {
    return spawn('ip', ['netns', 'exec', this.namespace, ...command], { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** How many of `count` pings to `address` were answered. */
  ping(address: string, count = 1, interval = 0.2): Promise<number> {
    return ping(this, address, count, interval);
  }
}

/** Seconds that an answer may take which is expected: the first packets wait for what a slow machine has to read. */
const PATIENCE_S = 10;

/** How many of `count` pings were answered. A single one asks whether that is so by now, and waits for 2 s only. */
export async function ping(from: Pick<Pod, 'run'>, address: string, count: number, interval: number): Promise<number> {
  const patience = count > 1 ? PATIENCE_S : 2;
  const { stdout } = await from.run('ping', '-n', '-c', `${count}`, '-i', `${interval}`, '-W', `${patience}`, address);
  return received(stdout);
}

/** How many answers `ping` counted. */
export function received(pingOutput: string): number {
  const match = / (\d+) received/.exec(pingOutput);
  if (match === null) throw new Error(`ping said: ${pingOutput}`);
  return Number(match[1]);
}

/** Run a program to its end. */
export function run(command: string, ...parameters: string[]): Promise<Outcome> {
  return runWith({}, command, ...parameters);
}

/** Run a program that must succeed. */
export async function must(command: string, ...parameters: string[]): Promise<string> {
  const outcome = await run(command, ...parameters);
  if (outcome.status !== 0) throw new Error(`${command} ${parameters.join(' ')}: ${outcome.stderr}${outcome.stdout}`);
  return outcome.stdout;
}

/** Wait until `condition` holds. @throws Error that names what was waited for */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  milliseconds = READY_MS,
): Promise<void> {
  const deadline = Date.now() + milliseconds;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited ${milliseconds} ms for ${what}`);
    await sleep(50);
  }
}

function runWith(
  { input, environment }: { input?: string; environment?: NodeJS.ProcessEnv },
  command: string,
  ...parameters: string[]
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = execFile(
      command,
      parameters,
      { env: environment, maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        if (error !== null && typeof error.code !== 'number') reject(error);
        else resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
      },
    );
    child.stdin?.on('error', (error: NodeJS.ErrnoException) => {
      // The program did not read its input, which is its own affair.
      if (error.code !== 'EPIPE') reject(error);
    });
    child.stdin?.end(input ?? '');
  });
}

async function startService(parameters: string[], log: string, namespace?: string): Promise<ChildProcess> {
  const command = [process.execPath, PROGRAM, ...parameters];
  if (namespace !== undefined) command.unshift('ip', 'netns', 'exec', namespace);
  const child = spawn(command[0], command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data: Buffer) => {
      appendFile(log, data).catch(() => stream.destroy());
    });
  }
  await once(child, 'spawn');
  return child;
}

/** Returns the exit status, or undefined if a signal ended the process. */
async function endProcess(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<number | undefined> {
  if (child === undefined) return undefined;
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }
  return child.exitCode ?? undefined;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}
