import { type ChildProcess, spawn } from 'node:child_process';
import type { Rule } from '../../src/topology/chains.js';
import type { Port } from '../../src/topology/devices.js';
import { idFromName } from '../../src/topology/id.js';
import { positionsAfter } from '../../src/topology/position.js';
import { cleanUp } from './clean-up.js';
import { Lab, type LabNode, type LabOptions, must, type Outcome, ping, run, until } from './lab.js';

/** The router of the lab. */
export const ROUTER = idFromName('router', 'edge');

type WithoutPlace<R> = R extends Rule ? Omit<R, 'id' | 'chainId' | 'position' | 'condition'> : never;
/** A rule without its place in a chain. */
export type PlainRule = WithoutPlace<Rule> & Partial<Pick<Rule, 'condition'>>;

/** A bridge, linked to the router. Its addresses are 10.50.N.0/24 and fd00:50:N::/64. */
export interface Network {
  readonly number: number;
  readonly bridgeId: string;
}

/** A namespace that is plugged in at a node. */
export class Machine {
  readonly namespace: string;

  constructor(
    readonly node: LabNode,
    /** Also of the node's end of its cable. */
    readonly name: string,
    readonly mac: string,
    /** Of each family the first is the one that it sends from. */
    readonly addresses: readonly string[],
    private readonly gateways: readonly string[],
  ) {
    this.namespace = `${name}-${node.name}`;
  }

  get ipv4(): string {
    return this.addresses.find((address) => !address.includes(':'))!;
  }

  get ipv6(): string {
    return this.addresses.find((address) => address.includes(':'))!;
  }

  /** Makes the namespace, with `eth0` that has the addresses and leads to an interface of the node's. */
  async plugIn(): Promise<void> {
    const { node, name, namespace } = this;
    await must('ip', 'netns', 'add', namespace);
    const peer = ['peer', 'name', 'eth0', 'address', this.mac, 'netns', namespace];
    await must('ip', '-n', node.name, 'link', 'add', name, 'type', 'veth', ...peer);
    await must('ip', '-n', node.name, 'link', 'set', name, 'up');
    await must('ip', '-n', namespace, 'link', 'set', 'lo', 'up');
    await must('ip', '-n', namespace, 'link', 'set', 'eth0', 'mtu', '1450', 'up');
    for (const address of this.addresses) {
      const more = address.includes(':') ? ['nodad'] : [];
      const network = `${address}/${address.includes(':') ? 64 : 24}`;
      await must('ip', '-n', namespace, 'addr', 'add', network, 'dev', 'eth0', ...more);
    }
    for (const gateway of this.gateways) await must('ip', '-n', namespace, 'route', 'add', 'default', 'via', gateway);
  }

  async remove(): Promise<void> {
    await run('ip', 'netns', 'delete', this.namespace);
  }

  /** Run a program in the machine. */
  run(...command: string[]): Promise<Outcome> {
    return run('ip', 'netns', 'exec', this.namespace, ...command);
  }

  /** Start a program in the machine that goes on. */
  start(...command: string[]): ChildProcess {
    return spawn('ip', ['netns', 'exec', this.namespace, ...command], { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** How many of `count` pings were answered. */
  ping(address: string, count = 2): Promise<number> {
    return ping(this, address, count, 0.2);
  }
}

/** A lab whose machines are plugged in by hand, on networks that one router joins. */
export class RoutedLab {
  private readonly machines: Machine[] = [];

  private constructor(readonly lab: Lab) {}

  static async start(options: LabOptions = {}): Promise<RoutedLab> {
    const lab = await Lab.start(options);
    await lab.repository().create('router', { id: ROUTER, name: 'edge' });
    return new RoutedLab(lab);
  }

  async close(): Promise<void> {
    await cleanUp(...this.machines.map((machine) => () => machine.remove()), () => this.lab.close());
  }

  /** A bridge, linked to the router, which has the last addresses of the network there. */
  async addNetwork(number: number): Promise<Network> {
    const repository = this.lab.repository();
    const bridgeId = idFromName('bridge', `network ${number}`);
    const atRouter = idFromName('port', `router to network ${number}`);
    const [ipv4, ipv6] = gatewaysOf(number);
    const subnets = [`${ipv4}/24`, `${ipv6}/64`];
    await repository.create('bridge', { id: bridgeId, name: `network-${number}` });
    await repository.create('port', { id: atRouter, routerId: ROUTER, subnets });
    await repository.create('port', { id: idFromName('port', `network ${number}`), bridgeId, peerId: atRouter });
    for (const destination of subnets) await this.addRoute(destination, atRouter);
    return { number, bridgeId };
  }

  /** Returns the id of the route. */
  async addRoute(destination: string, nextHopPortId: string, gateway?: string): Promise<string> {
    const id = idFromName('route', destination);
    const route = { id, routerId: ROUTER, type: 'normal', destination, nextHopPortId, gateway } as const;
    return (await this.lab.repository().create('route', route)).id;
  }

  /** A machine with addresses of a network that end with these numbers, of which the topology is not told. */
  async plugIn(node: LabNode, network: number, name: string, ...numbers: number[]): Promise<Machine> {
    const addresses = numbers.flatMap((number) => [`10.50.${network}.${number}`, `fd00:50:${network}::${number}`]);
    const mac = `02:00:00:50:${hex(network)}:${hex(numbers[0])}`;
    const machine = new Machine(node, name, mac, addresses, gatewaysOf(network));
    this.machines.push(machine);
    await machine.plugIn();
    return machine;
  }

  /** A machine on a network; the id of its port follows from its name. */
  async addMachine(node: LabNode, network: Network, name: string, ...numbers: number[]): Promise<Machine> {
    const machine = await this.plugIn(node, network.number, name, ...numbers);
    const { mac, addresses } = machine;
    await this.bind(machine, { bridgeId: network.bridgeId, mac, addresses: [...addresses] });
    return machine;
  }

  /** A machine outside, at a port of the router that is named after it: 192.168.N.9, the router has 192.168.N.1. */
  async addNeighbor(node: LabNode, name: string, number: number): Promise<Machine> {
    const [ipv4, ipv6] = [`192.168.${number}`, `fd00:${number}:`];
    const addresses = [`${ipv4}.9`, `${ipv6}:9`];
    const gateways = [`${ipv4}.1`, `${ipv6}:1`];
    const machine = new Machine(node, name, `02:00:00:77:00:${hex(number)}`, addresses, gateways);
    this.machines.push(machine);
    await machine.plugIn();
    await this.bind(machine, { routerId: ROUTER, subnets: [`${gateways[0]}/24`, `${gateways[1]}/64`] });
    return machine;
  }

  /** Makes a chain with these rules, in this order, and returns its id. */
  async addChain(name: string, rules: readonly PlainRule[]): Promise<string> {
    const repository = this.lab.repository();
    const chainId = idFromName('chain', name);
    await repository.create('chain', { id: chainId, name });
    for (const [i, position] of positionsAfter(undefined, rules.length).entries()) {
      await repository.create('rule', { ...rules[i], id: ruleId(name, i), chainId, position });
    }
    return chainId;
  }

  async hostId(node: LabNode): Promise<string> {
    const repository = this.lab.repository();
    for (const id of await repository.list('host')) {
      if ((await repository.get('host', id))?.object.name === node.name) return id;
    }
    throw new Error(`${node.name} is not in the NSDB`);
  }

  private async bind({ node, name }: Machine, port: Omit<Partial<Port>, 'id' | 'binding'>): Promise<void> {
    const binding = { hostId: await this.hostId(node), interfaceName: name };
    await this.lab.repository().create('port', { ...port, id: idFromName('port', name), binding });
    await until(`${name} to be bound`, async () => (await node.ports()).includes(name));
  }
}

/** The id of a rule that {@link RoutedLab.addChain} has made. */
export function ruleId(chain: string, index: number): string {
  return idFromName('rule', `${chain} ${index}`);
}

/** The router's addresses in a network. */
function gatewaysOf(network: number): readonly [ipv4: string, ipv6: string] {
  return [`10.50.${network}.254`, `fd00:50:${network}::fe`];
}

/** Two digits. */
function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}
