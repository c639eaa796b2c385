import type { MemoryInterface } from '../../src/datapath/memory/interface.js';
import { MemoryNetwork } from '../../src/datapath/memory/network.js';
import type { MemoryNode } from '../../src/datapath/memory/node.js';
import { formatIpv4, type Ipv6 } from '../../src/packet/address.js';
import type { BridgePortFact, Fact, LoadBalancerFact, SourceNatFact, TunnelPath } from '../../src/simulation/fact.js';
import { Filters, type RuleSpec } from './filters.js';
import { leasedSourceNat } from './leased-ports.js';
import { joinToBridge, TestRouter } from './routers.js';
import { SimulatedHost } from './simulated-host.js';
import { fact, TestBridge, type TestFact } from './world.js';

/** Bridges on both sides of the router, with the machines' networks: 10.0.1.0/24 and 10.0.2.0/24. */
const BRIDGES = ['inside', 'outside'] as const;
export type Side = (typeof BRIDGES)[number];

const NETWORKS = { inside: 0x0a00_0100, outside: 0x0a00_0200 } as const;
/** Of the router at each bridge. */
export const ROUTER_MACS = { inside: 0x0200_0000_aa01, outside: 0x0200_0000_aa02 } as const;

const TUNNEL_PORT = 1;
const ROUTER_ZONE = 1000;
const BRIDGE_ZONE = 1001;
/** By which other hosts know the router. */
const ROUTER_KEY = 500;

export interface MachineSpec {
  readonly name: string;
  readonly side: Side;
  readonly host: number;
}

export interface Rules {
  readonly inbound?: readonly RuleSpec[];
  readonly outbound?: readonly RuleSpec[];
}

export interface NetworkSpec {
  readonly machines: readonly MachineSpec[];
  readonly router?: Rules;
  /** Of both. */
  readonly bridges?: Rules;
  /** Of the router, or of both bridges. */
  readonly loadBalancer?: LoadBalancerFact;
  readonly balancedDevice?: 'router' | 'bridges';
  /** By the machine's name. */
  readonly ports?: Readonly<Record<string, Rules>>;
}

export interface Machine extends MachineSpec {
  readonly mac: number;
  readonly ip: number;
  /** fd00:0:0:1::/64 inside, fd00:0:0:2::/64 outside. */
  readonly ipv6: Ipv6;
  readonly zone: number;
  readonly tunnelKey: number;
  /** Frames that have come to it, oldest first. */
  readonly received: Uint8Array[];
}

/**
 * Two hosts with memory datapaths, a tunnel between them and machines at their ports; what no flow matches is simulated,
 * each host by what it knows. A router joins two bridges.
 */
export class Hosts {
  readonly machines = new Map<string, Machine>();
  readonly hosts: readonly Host[];
  private readonly network: MemoryNetwork;
  now = 1000;

  constructor(spec: NetworkSpec) {
    this.network = new MemoryNetwork({ now: () => this.now });
    spec.machines.forEach((machine, i) => {
      const mac = 0x0200_0000_0001 + i;
      const ip = NETWORKS[machine.side] + 2 + i;
      const numbers = { zone: i + 1, tunnelKey: 100 + i };
      const ipv6: Ipv6 = [0xfd00_0000, BRIDGES.indexOf(machine.side) + 1, 0, 2 + i];
      this.machines.set(machine.name, { ...machine, ...numbers, mac, ip, ipv6, received: [] });
    });
    this.hosts = [0, 1].map((index) => new Host(index, this.network.node(underlay(index)), this, spec));
  }

  machine(name: string): Machine {
    const machine = this.machines.get(name);
    if (machine === undefined) throw new Error(`there is no machine ${name}`);
    return machine;
  }

  /** The machine sends a frame; returns what comes to any machine because of it, by name. */
  send(from: string, frame: Uint8Array): [name: string, frame: Uint8Array][] {
    const before = new Map([...this.machines.values()].map((machine) => [machine.name, machine.received.length]));
    const { host } = this.machine(from);
    this.hosts[host].interfaceOf(from).send(frame);
    this.network.pump();
    for (const { faults } of this.hosts) if (faults.length > 0) throw new Error(faults.join('; '));
    return [...this.machines.values()].flatMap(({ name, received }) =>
      received.slice(before.get(name)).map((bytes): [string, Uint8Array] => [name, bytes]),
    );
  }

  /** What the router is to who sends from one machine to an address. */
  gatewayFor(from: Machine, destination: number): number {
    const neighbor = [...this.machines.values()].find(({ ip }) => ip === destination);
    return neighbor?.side === from.side ? neighbor.mac : ROUTER_MACS[from.side];
  }

  get upcalls(): number {
    return this.hosts.reduce((sum, host) => sum + host.upcalls, 0);
  }
}

function underlay(host: number): number {
  return 0xc0a8_0001 + host;
}

/** What a host knows, and its datapath. */
export class Host extends SimulatedHost {
  private readonly ports = new Map<string, TestFact<BridgePortFact>>();
  private readonly interfaces = new Map<string, MemoryInterface>();

  constructor(
    private readonly index: number,
    readonly node: MemoryNode,
    private readonly all: Hosts,
    spec: NetworkSpec,
  ) {
    super(node.datapath('dp'));
    node.addInterface('tunnel', 'vxlan');
    node.switch('dp').addPort('tunnel', 'netdev');
    this.world.tunnelDevice(TUNNEL_PORT);
    this.build(spec);
    this.datapath.start({
      upcalls: (batch) => this.receive(batch),
      portsChanged: () => {},
      upcallsLost: () => {},
    });
  }

  interfaceOf(machine: string): MemoryInterface {
    const found = this.interfaces.get(machine);
    if (found === undefined) throw new Error(`machine ${machine} is not on host ${this.index}`);
    return found;
  }

  /** The key of packets that another host floods to the machine, of which the filters of its port are to be asked here. */
  floodKey(machine: string): number {
    const { tunnelKey } = this.all.machine(machine);
    const port = this.ports.get(machine)!;
    this.world.targets.at(tunnelKey + 1000).value = { outputs: [], ports: [port] };
    return tunnelKey + 1000;
  }

  private build(spec: NetworkSpec): void {
    const filters = new Filters();
    const router = new TestRouter('router');
    const withNat = Object.assign(router, { sourceNat: this.sourceNat() });
    const chainsOf = (place: string, rules: Rules | undefined) => ({
      inboundFilters: rules?.inbound ? [filters.set(`${place} in`, rules.inbound)] : [],
      outboundFilters: rules?.outbound ? [filters.set(`${place} out`, rules.outbound)] : [],
    });
    Object.assign(router, chainsOf('router', spec.router));
    const loadBalancer = spec.loadBalancer && fact<LoadBalancerFact>('load balancer', spec.loadBalancer);
    if (spec.balancedDevice === 'router') Object.assign(router, { loadBalancer });
    for (const side of BRIDGES) {
      const bridge = new TestBridge(side);
      Object.assign(bridge, chainsOf(side, spec.bridges));
      if (spec.balancedDevice === 'bridges') {
        Object.assign(bridge, { loadBalancer, sourceNat: this.sourceNat(BRIDGE_ZONE + BRIDGES.indexOf(side)) });
      }
      const address = NETWORKS[side] + 1;
      const link = joinToBridge(router, bridge, ROUTER_MACS[side], address);
      link.answer = null;
      router.add(`to ${side}`, `${formatIpv4(NETWORKS[side])}/24`, { type: 'normal', port: link.atRouter });
      router.add(`to ${side} over IPv6`, `fd00:0:0:${BRIDGES.indexOf(side) + 1}::/64`, {
        type: 'normal',
        port: link.atRouter,
      });
      router.add(`at ${side}`, `${formatIpv4(address)}/32`, { type: 'local' });
      for (const machine of this.all.machines.values()) {
        if (machine.side !== side) continue;
        const port = this.port(machine, bridge);
        port.value = { ...port.value!, ...chainsOf(machine.name, spec.ports?.[machine.name]) };
        bridge.ipv4(machine.ip).value = { mac: machine.mac };
        bridge.ipv6(Uint32Array.from(machine.ipv6), 0).value = { mac: machine.mac };
        bridge.mac(machine.mac).value = { port };
      }
    }
    router.add('others', '0.0.0.0/0', { type: 'reject' });
    this.world.targets.at(ROUTER_KEY).value = { outputs: [], ports: [], router: withNat.cell };
  }

  private port(machine: Machine, bridge: TestBridge): TestFact<BridgePortFact> {
    const { name, mac, tunnelKey, zone } = machine;
    const anyPort = { type: 'bridge', id: name, adminStateUp: true, mac, bridge: bridge.cell } as const;
    if (machine.host !== this.index) {
      const tunnel = this.tunnelTo(machine.host);
      return fact<BridgePortFact>(name, { ...anyPort, location: { type: 'remote', tunnel, tunnelKey } });
    }
    const device = this.node.addInterface(name);
    device.listen((frame) => machine.received.push(frame));
    this.interfaces.set(name, device);
    const { number } = this.node.switch('dp').addPort(name, 'netdev');
    const location = { type: 'local', output: fact('output', number), zone: fact('zone', zone) } as const;
    const port = fact<BridgePortFact>(name, { ...anyPort, location });
    this.ports.set(name, port);
    this.world.ingress(number).value = { type: 'port', port };
    this.world.targets.at(tunnelKey).value = { outputs: [number], zones: [zone], ports: [] };
    return port;
  }

  private tunnelTo(host: number): Fact<TunnelPath> {
    return fact<TunnelPath>(`tunnel to ${host}`, {
      output: TUNNEL_PORT,
      src: underlay(this.index),
      dst: underlay(host),
    });
  }

  private sourceNat(zone = ROUTER_ZONE): SourceNatFact {
    return leasedSourceNat(zone, this.index, this.tunnelTo(1 - this.index), ROUTER_KEY);
  }
}
