import type { Datapath } from '../../src/datapath/datapath.js';
import type { MemoryInterface } from '../../src/datapath/memory/interface.js';
import { MemoryNetwork } from '../../src/datapath/memory/network.js';
import { IPV6_UNSPECIFIED, type Ipv6, parseIpv4, parseIpv6 } from '../../src/packet/address.js';
import { parseCidr, parseIp } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import type {
  BalancedMember,
  BridgePortFact,
  ChainFact,
  Fact,
  LoadBalancerFact,
  MirrorFact,
  PortFact,
  QosFact,
  RouteFact,
  SourceNatFact,
  TunnelPath,
  TunnelTarget,
  VipAnswer,
  VipFact,
} from '../../src/simulation/fact.js';
import { MemberTable } from '../../src/simulation/member-table.js';
import { mirrorFact } from '../../src/simulation/mirror.js';
import { type VipCell, VipIndex } from '../../src/simulation/vip-index.js';
import { Filters } from './filters.js';
import { leasedSourceNat } from './leased-ports.js';
import {
  ADDRESS_GROUP,
  bridgeName,
  bridgesOf,
  chainName,
  chainsOf,
  deviceOf,
  GROUP_MEMBERS,
  type MachinePlan,
  MEMBER_PORT,
  machineAddresses,
  machineName,
  membersOf,
  type NetworkPlan,
  networkOf,
  nextOf,
  PORT_GROUPS,
  type RouterPlan,
  routerAddresses,
  routerName,
  routerPortName,
  VIP,
  VIP_PORT,
  type VipPlan,
} from './network-plan.js';
import { joinToBridge, TestRouter } from './routers.js';
import { SimulatedHost, type SimulatedHostOptions } from './simulated-host.js';
import { fact, TestBridge, type TestFact } from './world.js';

/** Tunnel keys, by what they stand for. */
const MACHINE_KEY = 100;
const FLOOD_KEY = 200;
const OPEN_FLOOD_KEY = 300;
const ROUTER_KEY = 400;
/** Connection tracking zones. */
const MACHINE_ZONE = 1;
const ROUTER_ZONE = 100;
const BRIDGE_ZONE = 200;

export const HOST_COUNT = 2;
/** Protocols that have VIPs. */
const BALANCED = [IpProtocol.TCP, IpProtocol.UDP];

/** A machine as others see it. */
export interface Machine {
  readonly name: string;
  readonly index: number;
  readonly plan: MachinePlan;
  readonly bridge: number;
  readonly mac: number;
  readonly ipv4: number;
  readonly ipv6: Ipv6;
}

export function machinesOf(plan: NetworkPlan): Machine[] {
  return plan.machines.map((one, index) => {
    const bridge = one.bridge % plan.bridges.length;
    const { ipv4, ipv6 } = machineAddresses(index, bridge);
    return {
      name: machineName(index),
      index,
      plan: one,
      bridge,
      mac: 0x0200_0000_0001 + index,
      ipv4: parseIpv4(ipv4)!,
      ipv6: parseIpv6(ipv6)!,
    };
  });
}

/** Of a router at a bridge. */
export function routerMac(router: number, bridge: number): number {
  return 0x0200_0000_aa00 + 0x10 * router + bridge;
}

/** What a host of the network runs on, for as long as the network is there. */
export interface HostSetting {
  readonly datapath: Datapath;
  /** Its addresses on the underlay, and the other host's. */
  readonly underlay: readonly [own: number, other: number];
  readonly tunnelPort: number;
  /** Datapath ports of the machines that are on this host, by their number. */
  readonly machinePorts: ReadonlyMap<number, number>;
}

/** A host of a planned network: all that it knows is as the plan says from the beginning. */
export class PlannedHost extends SimulatedHost {
  readonly filters = new Filters();
  private readonly bridges: readonly TestBridge[];
  private readonly machines: readonly Machine[];
  private readonly tunnel: TestFact<TunnelPath>;

  constructor(
    readonly index: number,
    private readonly plan: NetworkPlan,
    readonly setting: HostSetting,
    options: SimulatedHostOptions = {},
  ) {
    super(setting.datapath, options);
    const [src, dst] = setting.underlay;
    this.tunnel = fact<TunnelPath>('tunnel', { output: setting.tunnelPort, src, dst });
    this.machines = machinesOf(plan);
    this.bridges = plan.bridges.map((_, i) => new TestBridge(bridgeName(i)));
    this.world.tunnelDevice(setting.tunnelPort);
    this.filters.group(ADDRESS_GROUP, GROUP_MEMBERS);
    // They are named by rules, whether or not they are there.
    for (let i = 0; i < 8; i++) this.filters.ports.set(machineName(i), fact<PortFact>(`port ${machineName(i)}`, null));
    plan.chains.forEach((rules, i) => {
      this.filters.set(chainName(i), rules);
    });
    const routers = plan.routers.map((router, i) => this.buildRouter(router, i));
    this.bridges.forEach((bridge, i) => {
      this.buildBridge(bridge, i);
    });
    for (const machine of this.machines) this.buildPort(machine);
    plan.trunks.forEach(({ a, b, vlanA, vlanB }) => {
      const at = (index: number) => this.bridges[index % this.bridges.length];
      this.world.link(at(a), at(b), { a: vlanA ?? undefined, b: vlanB ?? undefined });
    });
    this.bridges.forEach((bridge, i) => {
      this.buildFlood(bridge, i);
    });
    plan.mirrors.forEach((mirror, i) => {
      const toPortId = machineName(mirror.to);
      const made = fact<MirrorFact>(
        `mirror ${i}`,
        mirrorFact({ id: `mirror-${i}`, toPortId, conditions: [mirror.condition] }, this.filters),
      );
      this.tap(mirror, made, routers);
    });
    this.balance(routers);
  }

  private chains(inbound: number | null, outbound: number | null) {
    const filters = (index: number | null): Fact<ChainFact>[] =>
      chainsOf(this.plan, index).map((name) => this.filters.chain(name));
    return { inboundFilters: filters(inbound), outboundFilters: filters(outbound) };
  }

  private sourceNat(zone: number, tunnelKey: number): SourceNatFact {
    return leasedSourceNat(zone, this.index, this.tunnel, tunnelKey);
  }

  private buildBridge(bridge: TestBridge, index: number): void {
    const { inbound, outbound, isServed } = this.plan.bridges[index];
    Object.assign(bridge, this.chains(inbound, outbound), { sourceNat: this.sourceNat(BRIDGE_ZONE + index, 0xffff) });
    bridge.served.value = isServed ? { dhcp: true, dhcpV6: true, advertisements: true } : null;
  }

  private buildRouter(plan: RouterPlan, index: number): TestRouter {
    const router = new TestRouter(routerName(index));
    Object.assign(router, this.chains(plan.inbound, plan.outbound), {
      adminStateUp: plan.isUp,
      sourceNat: this.sourceNat(ROUTER_ZONE + index, ROUTER_KEY + index),
    });
    this.world.targets.at(ROUTER_KEY + index).value = { outputs: [], ports: [], router: router.cell };
    const ports = new Map<number, TestFact<PortFact>>();
    for (const at of bridgesOf(this.plan, plan)) {
      const bridge = this.bridges[at];
      const { ipv4, ipv6 } = routerAddresses(index, at);
      const link = joinToBridge(router, bridge, routerMac(index, at), parseIpv4(ipv4)!);
      link.answer = null;
      const v6 = Uint32Array.from(parseIpv6(ipv6)!);
      const port = link.atRouter.value!;
      link.atRouter.value = {
        ...port,
        ...this.chains(plan.portInbound, plan.portOutbound),
        id: routerPortName(index, at),
        addresses: [
          { words: Uint32Array.of(parseIpv4(ipv4)!), prefix: 24 },
          { words: v6, prefix: 64 },
        ],
      } as PortFact;
      bridge.ipv6(v6, 0).value = { mac: routerMac(index, at), isRouter: true };
      ports.set(at, link.atRouter);
      for (const network of Object.values(networkOf(at)))
        addRoute(router, network, null, 0, { type: 'normal', port: link.atRouter });
      addRoute(router, `${ipv4}/32`, null, 0, { type: 'local' });
      addRoute(router, `${ipv6}/128`, null, 0, { type: 'local' });
    }
    for (const route of plan.routes) {
      const { at, gateway } = nextOf(this.plan, plan, route);
      const isIpv6 = route.destination.includes(':');
      const addresses = gateway === null ? undefined : routerAddresses(gateway, at);
      const next = addresses && Uint32Array.from(parseIp(isIpv6 ? addresses.ipv6 : addresses.ipv4)!.words);
      const to: WithoutId =
        route.type === 'port' ? { type: 'normal', port: ports.get(at)!, gateway: next } : { type: route.type };
      addRoute(router, route.destination, route.source, route.weight, to);
    }
    return router;
  }

  private buildPort(machine: Machine): void {
    const { name, index, plan, mac, ipv4, ipv6 } = machine;
    const bridge = this.bridges[machine.bridge];
    const number = this.setting.machinePorts.get(index);
    const location =
      number === undefined
        ? ({ type: 'remote', tunnel: this.tunnel, tunnelKey: MACHINE_KEY + index } as const)
        : ({
            type: 'local',
            output: fact(`output of ${name}`, number),
            zone: fact(`zone of ${name}`, MACHINE_ZONE + index),
          } as const);
    const port = this.filters.port(name) as TestFact<BridgePortFact>;
    port.value = {
      type: 'bridge',
      id: name,
      adminStateUp: plan.isUp,
      isIsolated: plan.isIsolated,
      mac: plan.isKnown ? mac : undefined,
      bridge: bridge.cell,
      location,
      groupIds: new Set([PORT_GROUPS[index % 2]]),
      qos: plan.dscp === null ? undefined : fact<QosFact>(`qos of ${name}`, { dscp: plan.dscp }),
      ...this.chains(plan.inbound, plan.outbound),
    };
    if (plan.isKnown) {
      bridge.mac(mac).value = { port };
      bridge.ipv4(ipv4).value = { mac };
      bridge.ipv6(Uint32Array.from(ipv6), 0).value = { mac };
    }
    if (number === undefined) return;
    this.world.ingress(number).value = { type: 'port', port };
    this.world.targets.at(MACHINE_KEY + index).value = { outputs: [number], zones: [MACHINE_ZONE + index], ports: [] };
  }

  /** What is flooded on a bridge goes to the ports of this host that are up, and to the other host if that has any. */
  private buildFlood(bridge: TestBridge, index: number): void {
    const here = (machine: Machine) => machine.plan.host === this.index;
    const ports = this.machines.filter(({ bridge: at, plan }) => at === index && plan.isUp);
    const local = this.target(ports.filter(here));
    bridge.localPorts.value = local;
    this.world.targets.at(FLOOD_KEY + index).value = local;
    this.world.targets.at(OPEN_FLOOD_KEY + index).value = this.target(
      ports.filter((machine) => here(machine) && !machine.plan.isIsolated),
    );
    const remote = ports.filter((machine) => !here(machine));
    if (remote.length === 0) return;
    const openFloodKey = remote.some(({ plan }) => plan.isIsolated) ? OPEN_FLOOD_KEY + index : undefined;
    bridge.remoteHosts.value = [{ tunnel: this.tunnel, floodKey: FLOOD_KEY + index, openFloodKey }];
  }

  private target(machines: readonly Machine[]): TunnelTarget {
    const depends = ({ plan, index }: Machine) =>
      plan.isIsolated ||
      chainsOf(this.plan, plan.outbound).length > 0 ||
      this.plan.mirrors.some(
        ({ of, index: at, tap }) =>
          of === 'machine' &&
          at % this.machines.length === index &&
          (tap === 'outboundMirrors' || tap === 'preOutFilterMirrors'),
      );
    const plain = machines.filter((machine) => !depends(machine));
    return {
      outputs: plain.map(({ index }) => this.setting.machinePorts.get(index)!),
      zones: plain.map(({ index }) => MACHINE_ZONE + index),
      ports: machines.filter(depends).map(({ name }) => this.filters.port(name)),
    };
  }

  private tap(
    { of, index, tap }: NetworkPlan['mirrors'][number],
    mirror: Fact<MirrorFact>,
    routers: readonly TestRouter[],
  ): void {
    if (of === 'machine') {
      const port = this.filters.port(machineName(index % this.machines.length));
      if (port.value) port.value = { ...port.value, [tap]: [...(port.value[tap] ?? []), mirror] };
    } else if (tap === 'inboundMirrors' || tap === 'outboundMirrors') {
      const at = deviceOf(this.plan, of, index);
      const device = at === undefined ? undefined : (of === 'bridge' ? this.bridges : routers)[at];
      if (device !== undefined) device[tap] = [...device[tap], mirror];
    }
  }

  private balance(routers: readonly TestRouter[]): void {
    for (const of of ['bridge', 'router'] as const) {
      (of === 'bridge' ? this.bridges : routers).forEach((device, index) => {
        const vips = this.plan.vips.filter((vip) => vip.of === of && deviceOf(this.plan, of, vip.index) === index);
        if (vips.length === 0) return;
        const id = `load balancer of ${device.id}`;
        Object.assign(device, { loadBalancer: fact<LoadBalancerFact>(id, this.loadBalancer(id, vips)) });
      });
    }
  }

  private loadBalancer(id: string, vips: readonly VipPlan[]): LoadBalancerFact {
    const index = new VipIndex<VipFact>((tag): VipCell<VipAnswer<VipFact>> => {
      const cell = fact<VipAnswer<VipFact>>(tag, null);
      const set = (value: VipAnswer<VipFact> | null) => {
        cell.value = value;
      };
      return Object.assign(cell, { set, touch: () => {} });
    });
    vips.forEach(({ isSticky, members }, i) => {
      for (const family of [4, 6] as const) {
        const table = membersOf(this.plan, members).map((member, place): BalancedMember => {
          const { ipv4, ipv6 } = this.machines[member];
          const address = family === 4 ? Uint32Array.of(ipv4) : Uint32Array.from(ipv6);
          return { id: `member ${place}`, weight: 1, isAvailable: true, address, port: MEMBER_PORT };
        });
        const name = `vip ${i} of ${id} over IPv${family}`;
        const pool = fact(`pool of ${name}`, { id: name, adminStateUp: true, members: new MemberTable(table) });
        const address = parseIp(family === 4 ? VIP.ipv4 : VIP.ipv6)!;
        const vip = { id: name, adminStateUp: true, isSticky, pool };
        for (const protocol of BALANCED) index.set(name, { address, protocol, port: VIP_PORT }, vip);
      }
    });
    return { id, adminStateUp: true, vip: (packet, seen) => index.lookup(packet, seen) };
  }
}

type WithoutId = RouteFact extends infer R ? (R extends RouteFact ? Omit<R, 'id'> : never) : never;

function addRoute(router: TestRouter, to: string, from: string | null, weight: number, target: WithoutId): void {
  const { family, words, prefix } = parseCidr(to)!;
  const source = from === null ? undefined : parseCidr(from)!;
  if (source !== undefined && source.family !== family) return;
  const id = `${router.id} route ${router.table.size}`;
  router.table.insert({
    id,
    family,
    destination: { words, length: prefix },
    source: { words: source?.words ?? IPV6_UNSPECIFIED, length: source?.prefix ?? 0 },
    weight,
    fact: { id, ...target } as RouteFact,
  });
}

const UNDERLAY = 0xc0a8_0001;
/** How often the copies of one packet may go from one host to the other. */
const MAX_CROSSINGS = 100;

/** A planned network whose hosts run on memory datapaths. */
export class PlannedNetwork {
  readonly machines: readonly Machine[];
  readonly hosts: readonly PlannedHost[];
  private readonly network = new MemoryNetwork({ now: () => 1000 });
  private readonly devices: MemoryInterface[] = [];
  private crossings = 0;

  constructor(plan: NetworkPlan, options: SimulatedHostOptions = {}) {
    this.machines = machinesOf(plan);
    this.network.setUnderlay(() => ++this.crossings <= MAX_CROSSINGS);
    this.hosts = Array.from({ length: HOST_COUNT }, (_, index) => {
      const node = this.network.node(UNDERLAY + index);
      const datapath = node.datapath('dp');
      node.addInterface('tunnel', 'vxlan');
      const tunnelPort = node.switch('dp').addPort('tunnel', 'netdev').number;
      const machinePorts = new Map<number, number>();
      for (const machine of this.machines) {
        if (machine.plan.host !== index) continue;
        this.devices[machine.index] = node.addInterface(machine.name);
        machinePorts.set(machine.index, node.switch('dp').addPort(machine.name, 'netdev').number);
      }
      const underlay = [UNDERLAY + index, UNDERLAY + 1 - index] as const;
      const host = new PlannedHost(index, plan, { datapath, underlay, tunnelPort, machinePorts }, options);
      datapath.start({ upcalls: (batch) => host.receive(batch), portsChanged: () => {}, upcallsLost: () => {} });
      return host;
    });
  }

  /** The machine sends a frame; returns what comes to any machine because of it, by its number. */
  send(from: number, frame: Uint8Array): [machine: number, frame: Uint8Array][] {
    this.crossings = 0;
    this.devices[from].send(frame);
    this.network.pump();
    if (this.crossings > MAX_CROSSINGS) throw new Error('the packet goes from host to host and does not come to rest');
    return this.devices.flatMap((device, index) => {
      const frames = device.received().map((bytes): [number, Uint8Array] => [index, bytes]);
      device.clear();
      return frames;
    });
  }

  get faults(): string[] {
    return this.hosts.flatMap(({ faults, index }) => faults.map((fault) => `host ${index}: ${fault}`));
  }
}
