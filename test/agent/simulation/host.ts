import { type Logger, pino } from 'pino';
import { Agent } from '../../../src/agent/agent.js';
import type { MemoryDatapath } from '../../../src/datapath/memory/datapath.js';
import type { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import type { MemoryNode } from '../../../src/datapath/memory/node.js';
import type { MemorySwitch } from '../../../src/datapath/memory/switch.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { formatIpv4 } from '../../../src/packet/address.js';
import { MemoryTunnelDevices } from '../memory-tunnel-devices.js';
import { type Ignores, virtualDatapath } from './datapath.js';
import { VirtualProcess } from './events.js';
import type { Machine } from './machine.js';
import type { World } from './world.js';

/** Milliseconds that it takes to make a tunnel device. */
const DEVICE_MS = 5;

interface Run {
  readonly process: VirtualProcess;
  readonly driver: MemoryDatapath;
  agent: Agent | undefined;
  store: ZookeeperStore | undefined;
}

/** A host: what survives its agent, and the agent. */
export class VirtualHost {
  readonly node: MemoryNode;
  readonly switch: MemorySwitch;
  /** The machines that its container runtime has attached here. */
  readonly journal = new Set<Machine>();
  /** What agents of this host warned of. */
  readonly warnings: string[] = [];
  /** What should never happen to them. */
  readonly errors: string[] = [];
  private readonly log: Logger;
  private run: Run | undefined;
  private runs = 0;

  constructor(
    private readonly world: World,
    network: MemoryNetwork,
    readonly name: string,
    readonly id: string,
    readonly address: number,
    /** Milliseconds. */
    private readonly sessionTimeout: number,
    private readonly ignores: Ignores,
  ) {
    this.node = network.node(address);
    this.switch = this.node.switch('dp');
    const write = (text: string) => {
      const { level, time, msg, ...fields } = JSON.parse(text) as { level: number; time: number; msg: string };
      world.events.trace(`${name}: ${msg}`);
      const line = `${world.events.now.toFixed(0)} ${msg} ${JSON.stringify(fields)}`;
      if (level >= pino.levels.values.warn) this.warnings.push(line);
      if (level >= pino.levels.values.error) this.errors.push(line);
    };
    this.log = pino({ level: 'info', base: null }, { write });
  }

  /** Where its agent finds the NSDB. */
  get way(): string {
    return formatIpv4(this.address);
  }

  get folder(): string {
    return `/${this.name}`;
  }

  get isUp(): boolean {
    return this.run?.agent !== undefined;
  }

  /** Whether its process is there, even if the agent does not run yet or not any more. */
  get isStarted(): boolean {
    return this.run !== undefined;
  }

  get agent(): Agent {
    if (this.run?.agent === undefined) throw new Error(`the agent of ${this.name} does not run`);
    return this.run.agent;
  }

  get store(): ZookeeperStore {
    if (this.run?.store === undefined) throw new Error(`the agent of ${this.name} does not run`);
    return this.run.store;
  }

  get process(): VirtualProcess {
    if (this.run === undefined) throw new Error(`${this.name} has no process`);
    return this.run.process;
  }

  /** Start the process, and in it the agent and its attachments. */
  start(): void {
    const { world } = this;
    const process = new VirtualProcess(`${this.name}.${++this.runs}`);
    const run: Run = { process, driver: this.node.datapath('dp'), agent: undefined, store: undefined };
    this.run = run;
    world.events.schedule(process, 0, () => {
      this.startAgent(run).catch((error: Error) => this.log.error({ error: error.stack }, 'the agent did not start'));
    });
  }

  private async startAgent(run: Run): Promise<void> {
    const datapath = virtualDatapath(this.world.events, run.process, run.driver, this.ignores);
    const store = new ZookeeperStore({ connect: `${this.way}:2181`, sessionTimeout: this.sessionTimeout });
    run.store = store;
    this.world.files.mkdir(this.folder);
    const agent = await Agent.start({
      hostId: this.id,
      hostName: this.name,
      stateFolder: this.folder,
      store,
      datapath,
      devices: new MemoryTunnelDevices(this.node, datapath, DEVICE_MS),
      tunnelZones: [{ name: 'underlay', type: 'vxlan', address: formatIpv4(this.address) }],
      flows: { idleTimeout: 10, maxFlows: 10_000 },
      // No port of these networks is in a stateful group.
      openStateTransport: () => ({ send: () => {}, retain: () => {}, close: () => {} }),
      log: this.log,
    });
    for (const machine of this.journal) {
      await agent.bindings.attach({ ...machine.port, owner: 'cni' }, machine.interfaceName);
    }
    agent.portsKnown();
    run.agent = agent;
  }

  /** The process is killed. */
  kill(): void {
    const { run } = this;
    if (run === undefined) return;
    this.run = undefined;
    this.world.kill(run.process);
    void run.driver.close();
  }

  /** The agent ends in good order. */
  async stop(): Promise<void> {
    const { agent, store } = this;
    await this.world.call(`${this.name} stops`, this.process, async () => {
      await agent.close();
      await store.close();
    });
    this.kill();
  }

  /** The container runtime has plugged the machine in, and says so. */
  attach(machine: Machine): void {
    const { agent } = this;
    const { port, interfaceName } = machine;
    this.world.attempt(`${interfaceName} is attached`, this.process, () =>
      agent.bindings.attach({ ...port, owner: 'cni' }, interfaceName),
    );
  }

  /** The kernel says that an interface is there. */
  interfaceChanged(name: string): void {
    const { agent } = this;
    this.world.attempt(`${name} is there`, this.process, async () => agent.interfaceChanged(name));
  }

  detach(machine: Machine): void {
    const { agent } = this;
    this.world.attempt(`${machine.interfaceName} is detached`, this.process, () => agent.bindings.detach(machine.id));
  }
}
