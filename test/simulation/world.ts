import { extractKey } from '../../src/flow/extract.js';
import { FlowKey, TunnelFlag } from '../../src/flow/key.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildTcp } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import type { Limits } from '../../src/simulation/context.js';
import type { Decision } from '../../src/simulation/decision.js';
import type {
  BridgeFact,
  ChainFact,
  DhcpSubnetFact,
  DhcpV6SubnetFact,
  Fact,
  Ingress,
  MacFact,
  MirrorFact,
  NeighborFact,
  PortFact,
  QosFact,
  RemoteHost,
  ServedFact,
  TunnelPath,
  TunnelTarget,
} from '../../src/simulation/fact.js';
import { simulate } from '../../src/simulation/simulate.js';

/** A fact whose value a test sets. */
export interface TestFact<T> extends Fact<T> {
  value: T | null | undefined;
}

export function fact<T>(tag: string, value: T | null | undefined): TestFact<T> {
  return { tag, value };
}

/** Each action counts 10 bytes, so that limits are easy to reach. */
export function limits(maxActionsLength = 32768): Limits {
  return { maxActionsLength, actionsLength: (actions) => 10 * actions.length };
}

/** A table whose missing entries are what `rest` says: null (known to be absent) or undefined (not in hand). */
class Table<K, T> {
  readonly entries = new Map<K, TestFact<T>>();

  constructor(
    private readonly name: string,
    public rest: null | undefined = null,
  ) {}

  at(key: K): TestFact<T> {
    let entry = this.entries.get(key);
    if (entry === undefined) {
      entry = fact<T>(`${this.name} ${key}`, this.rest);
      this.entries.set(key, entry);
    }
    return entry;
  }
}

/** A bridge with tables in memory. */
export class TestBridge implements BridgeFact {
  readonly cell: TestFact<BridgeFact>;
  readonly macs = new Table<number, MacFact>('mac');
  private readonly taggedMacs = new Map<number, Table<number, MacFact>>();
  readonly neighbors = new Table<string, NeighborFact>('address');
  readonly localPorts = fact<TunnelTarget>('local ports', { outputs: [], ports: [] });
  readonly remoteHosts = fact<readonly RemoteHost[]>('hosts', []);
  readonly served = fact<ServedFact>('served', null);
  readonly dhcpSubnets = fact<readonly DhcpSubnetFact[]>('DHCP subnets', []);
  readonly dhcpV6Subnets = fact<readonly DhcpV6SubnetFact[]>('DHCPv6 subnets', []);
  readonly isVlanAware = fact<boolean>('VLANs', false);
  readonly links = new Table<number, readonly Fact<PortFact>[]>('interior ports of VLAN');
  adminStateUp = true;
  inboundFilters: readonly Fact<ChainFact>[] = [];
  outboundFilters: readonly Fact<ChainFact>[] = [];
  inboundMirrors: readonly Fact<MirrorFact>[] = [];
  outboundMirrors: readonly Fact<MirrorFact>[] = [];
  qos: Fact<QosFact> | undefined;

  constructor(readonly id: string) {
    this.cell = fact<BridgeFact>(`bridge ${id}`, this);
  }

  mac(mac: number, vlan = 0): TestFact<MacFact> {
    if (vlan === 0) return this.macs.at(mac);
    const table = this.taggedMacs.get(vlan) ?? new Table<number, MacFact>(`mac in VLAN ${vlan}`, this.macs.rest);
    this.taggedMacs.set(vlan, table);
    return table.at(mac);
  }

  interiorPorts(vlan: number): TestFact<readonly Fact<PortFact>[]> {
    return this.links.at(vlan);
  }

  addInteriorPort(port: Fact<PortFact>, vlan = 0): void {
    const links = this.links.at(vlan);
    links.value = [...(links.value ?? []), port];
    if (vlan !== 0) this.isVlanAware.value = true;
  }

  ipv4(address: number): TestFact<NeighborFact> {
    return this.neighbors.at(String(address));
  }

  ipv6(words: Uint32Array, offset: number): TestFact<NeighborFact> {
    return this.neighbors.at(words.slice(offset, offset + 4).join(':'));
  }
}

/** A host's view of a virtual network. */
export class World {
  readonly ingresses = new Map<number, TestFact<Ingress>>();
  readonly targets = new Table<number, TunnelTarget>('key');

  ingress(port: number): TestFact<Ingress> {
    let entry = this.ingresses.get(port);
    if (entry === undefined) {
      entry = fact<Ingress>(`datapath port ${port}`, null);
      this.ingresses.set(port, entry);
    }
    return entry;
  }

  /** A port of this host at datapath port `number`; in the MAC table when its `mac` is given. */
  localPort(bridge: TestBridge, number: number, mac?: number): TestFact<PortFact> {
    const port = fact<PortFact>(`port ${number}`, {
      type: 'bridge',
      id: `port-${number}`,
      adminStateUp: true,
      mac,
      bridge: bridge.cell,
      location: { type: 'local', output: fact('output', number) },
    });
    this.ingress(number).value = { type: 'port', port };
    const { outputs, ports } = bridge.localPorts.value!;
    bridge.localPorts.value = { outputs: [...outputs, number], ports };
    if (mac !== undefined) bridge.mac(mac).value = { port };
    return port;
  }

  remotePort(bridge: TestBridge, mac: number, tunnel: Fact<TunnelPath>, tunnelKey: number): TestFact<PortFact> {
    const port = fact<PortFact>(`remote port ${tunnelKey}`, {
      type: 'bridge',
      id: `remote-${tunnelKey}`,
      adminStateUp: true,
      mac,
      bridge: bridge.cell,
      location: { type: 'remote', tunnel, tunnelKey },
    });
    bridge.mac(mac).value = { port };
    return port;
  }

  /** Links two bridges; `vlans` are those that the link is for on either side. */
  link(a: TestBridge, b: TestBridge, vlans: { a?: number; b?: number } = {}): [TestFact<PortFact>, TestFact<PortFact>] {
    const atA = fact<PortFact>(`port of ${a.id} to ${b.id}`, undefined);
    const atB = fact<PortFact>(`port of ${b.id} to ${a.id}`, undefined);
    const join = (bridge: TestBridge, port: TestFact<PortFact>, peer: TestFact<PortFact>, vlanId?: number) => {
      const id = port.tag;
      port.value = {
        type: 'bridge',
        id,
        adminStateUp: true,
        mac: undefined,
        bridge: bridge.cell,
        location: null,
        peer,
        vlanId,
      };
      bridge.addInteriorPort(port, vlanId);
    };
    join(a, atA, atB, vlans.a);
    join(b, atB, atA, vlans.b);
    return [atA, atB];
  }

  tunnelDevice(number: number): void {
    this.ingress(number).value = { type: 'tunnel', target: (key) => this.targets.at(key) };
  }

  run(key: FlowKey, maxActionsLength?: number): Decision {
    return simulate(key, this.ingress(key.inPort), limits(maxActionsLength));
  }

  /** Simulate and expect a decision. */
  done(key: FlowKey, maxActionsLength?: number): Extract<Decision, { type: 'done' }> {
    const decision = this.run(key, maxActionsLength);
    if (decision.type !== 'done') throw new Error(`it waits for ${decision.missing.map((one) => one.tag)}`);
    return decision;
  }
}

/** The key of a frame that comes in at a port. */
export function keyOf(frame: Uint8Array, inPort: number): FlowKey {
  const key = new FlowKey();
  extractKey(frame, key);
  key.inPort = inPort;
  return key;
}

/** The key of a frame out of a tunnel. */
export function tunnelKeyOf(frame: Uint8Array, inPort: number, id: number, dst: number): FlowKey {
  const key = keyOf(frame, inPort);
  key.tunId = id;
  key.tunSrc = 0x0a00_0002;
  key.tunDst = dst;
  key.tunTtl = 64;
  key.tunFlags = TunnelFlag.KEY;
  return key;
}

export interface Endpoints {
  readonly srcMac: number;
  readonly dstMac: number;
  readonly src?: number;
  readonly dst?: number;
}

/** An IPv4 frame with a TCP segment. */
export function tcpFrame(
  { srcMac, dstMac, src = 0x0a01_0001, dst = 0x0a01_0002 }: Endpoints,
  srcPort = 1000,
  dstPort = 80,
) {
  const segment = buildTcp({ srcPort, dstPort, flags: 2 });
  return buildEthernet(
    { dst: dstMac, src: srcMac, type: EtherType.IPV4 },
    buildIpv4({ src, dst, protocol: IpProtocol.TCP }, segment),
  );
}

/** An IPv4 frame with a UDP datagram. */
export function udpFrame(
  { srcMac, dstMac, src = 0x0a01_0001, dst = 0x0a01_0002 }: Endpoints,
  payload = new Uint8Array(8),
) {
  return buildEthernet(
    { dst: dstMac, src: srcMac, type: EtherType.IPV4 },
    buildIpv4({ src, dst, protocol: IpProtocol.UDP }, buildUdp(1000, 2000, payload)),
  );
}
