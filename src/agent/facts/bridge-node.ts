import { decodeJson } from '../../nsdb/json.js';
import { bridgeHostsPath, bridgeLinksPath, bridgeVlanLinksPath } from '../../nsdb/layout.js';
import { nodeName, parentPath } from '../../nsdb/path.js';
import { type BridgeHost, bridgeHostSchema } from '../../nsdb/repository/topology-repository.js';
import type { StoreNode, Watch } from '../../nsdb/store.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { IP_TABLE, macTable } from '../../nsdb/tables/tables.js';
import { formatMac, parseMac } from '../../packet/address.js';
import type {
  BridgeFact,
  ChainFact,
  DhcpSubnetFact,
  DhcpV6SubnetFact,
  Fact,
  LoadBalancerFact,
  MacFact,
  MirrorFact,
  NeighborFact,
  PortFact,
  QosFact,
  RemoteHost,
  ServedFact,
  SourceNatFact,
  TunnelTarget,
} from '../../simulation/fact.js';
import type { Bridge } from '../../topology/types.js';
import { AddressCells } from './address-cells.js';
import { BridgeSubnets } from './bridge-subnets.js';
import { type Cell, isIdle } from './cell.js';
import { sameFilters } from './chain-cells.js';
import type { DeviceSource } from './device-source.js';
import { sameTaps } from './mirror-cells.js';
import { UnknownFilters } from './unknown-filters.js';

/** A bridge's facts: the bridge itself and the entries of its tables that packets asked for. */
export class BridgeNode implements BridgeFact {
  readonly cell: Cell<BridgeFact>;
  readonly sourceNat: SourceNatFact | undefined;
  loadBalancerId: string | undefined;
  loadBalancer: Fact<LoadBalancerFact> | undefined;
  readonly localPorts: Cell<TunnelTarget>;
  readonly remoteHosts: Cell<readonly RemoteHost[]>;
  readonly isVlanAware: Cell<boolean>;
  adminStateUp = true;
  inboundFilters: readonly Fact<ChainFact>[] = [];
  outboundFilters: readonly Fact<ChainFact>[] = [];
  inboundMirrors: readonly Fact<MirrorFact>[] = [];
  outboundMirrors: readonly Fact<MirrorFact>[] = [];
  qos: Fact<QosFact> | undefined;
  /** Whether the NSDB has told of the bridge. */
  private isTold = false;
  private unknown: UnknownFilters | undefined;
  /** By VLAN. */
  private readonly interior = new Map<number, Cell<readonly Fact<PortFact>[]>>();
  /** By VLAN, then by address. */
  private readonly macs = new Map<number, Map<number, Cell<MacFact>>>();
  private readonly neighbors: AddressCells<NeighborFact>;
  private readonly subnets: BridgeSubnets;

  constructor(
    readonly id: string,
    private readonly source: DeviceSource,
  ) {
    this.sourceNat = source.sourceNat(id);
    this.cell = source.cell<BridgeFact>(`bridge ${id}`, {
      subscribe: (self) =>
        source.repository.watch(
          'bridge',
          id,
          (bridge) => {
            const changed = bridge !== undefined && this.change(bridge);
            this.unknown?.settle();
            self.set(bridge === undefined ? null : this);
            if (changed) self.touch();
          },
          source.invalid,
        ),
    });
    this.localPorts = source.cell<TunnelTarget>(`local ports of bridge ${id}`, { same: sameTarget });
    this.remoteHosts = source.cell<readonly RemoteHost[]>(`hosts of bridge ${id}`, {
      subscribe: (self) => this.watchRemoteHosts(self),
      same: sameHosts,
    });
    this.subnets = new BridgeSubnets(id, source, (address) => this.ipv4(address));
    this.isVlanAware = source.cell<boolean>(`VLANs of bridge ${id}`, { subscribe: (self) => this.watchVlans(self) });
    this.neighbors = new AddressCells((address, forget) =>
      source.cell<NeighborFact>(`address ${address} on bridge ${id}`, {
        subscribe: (self) => this.watchIp(address, self),
        same: (a, b) => a.mac === b.mac,
        forget,
        namedByPackets: true,
      }),
    );
  }

  get served(): Cell<ServedFact> {
    return this.subnets.served;
  }

  get dhcpSubnets(): Cell<readonly DhcpSubnetFact[]> {
    return this.subnets.dhcpSubnets;
  }

  get dhcpV6Subnets(): Cell<readonly DhcpV6SubnetFact[]> {
    return this.subnets.dhcpV6Subnets;
  }

  /** Returns whether it is another than before. */
  private change(bridge: Bridge): boolean {
    const { adminStateUp, inboundFilterId, outboundFilterId, loadBalancerId } = bridge;
    const inbound = this.source.chains.filters(inboundFilterId);
    const outbound = this.source.chains.filters(outboundFilterId);
    const { inboundMirrors, outboundMirrors } = this.source.mirrors.taps(bridge);
    const balancer = loadBalancerId === undefined ? undefined : this.source.loadBalancers.loadBalancer(loadBalancerId);
    const qos = this.source.qos.policy(bridge.qosPolicyId);
    const isSame =
      qos === this.qos &&
      sameTaps({ inboundMirrors, outboundMirrors }, this) &&
      adminStateUp === this.adminStateUp &&
      balancer === this.loadBalancer &&
      sameFilters(inbound, this.inboundFilters) &&
      sameFilters(outbound, this.outboundFilters);
    this.adminStateUp = adminStateUp;
    this.inboundFilters = inbound;
    this.outboundFilters = outbound;
    this.inboundMirrors = inboundMirrors;
    this.outboundMirrors = outboundMirrors;
    this.loadBalancerId = loadBalancerId;
    this.loadBalancer = balancer;
    this.qos = qos;
    this.isTold = true;
    return !isSame;
  }

  interiorPorts(vlan: number): Cell<readonly Fact<PortFact>[]> {
    let cell = this.interior.get(vlan);
    if (cell === undefined) {
      cell = this.source.cell<readonly Fact<PortFact>[]>(`interior ports of bridge ${this.id} in VLAN ${vlan}`, {
        subscribe: (self) => this.watchInteriorPorts(vlan, self),
        same: sameElements,
        forget: (self) => {
          if (this.interior.get(vlan) === self) this.interior.delete(vlan);
        },
      });
      this.interior.set(vlan, cell);
    }
    return cell;
  }

  mac(mac: number, vlan = 0): Cell<MacFact> {
    let macs = this.macs.get(vlan);
    if (macs === undefined) {
      macs = new Map();
      this.macs.set(vlan, macs);
    }
    let cell = macs.get(mac);
    if (cell === undefined) {
      const name = `mac ${formatMac(mac)} on bridge ${this.id}`;
      cell = this.source.cell<MacFact>(vlan === 0 ? name : `${name} in VLAN ${vlan}`, {
        subscribe: (self) => this.watchMac(mac, vlan, self),
        same: (a, b) => a.port === b.port,
        forget: (self) => this.forgetMac(mac, vlan, self),
        namedByPackets: true,
      });
      macs.set(mac, cell);
    }
    return cell;
  }

  /** How many MAC addresses are kept that packets asked for, or that this host knows. */
  get macCount(): number {
    return [...this.macs.values()].reduce((count, macs) => count + macs.size, 0);
  }

  private forgetMac(mac: number, vlan: number, cell: Cell<MacFact>): void {
    const macs = this.macs.get(vlan);
    if (macs?.get(mac) !== cell) return;
    macs.delete(mac);
    if (macs.size === 0) this.macs.delete(vlan);
  }

  ipv4(address: number): Cell<NeighborFact> {
    return this.neighbors.ipv4(address);
  }

  ipv6(words: Uint32Array, offset: number): Cell<NeighborFact> {
    return this.neighbors.ipv6(words, offset);
  }

  /** The MAC address of `address` in text, of either family. */
  neighbor(address: string): Cell<NeighborFact> {
    return this.neighbors.at(address);
  }

  /** Whether nothing of it is watched, set on this host or carried by a flow. */
  get isIdle(): boolean {
    const local = this.localPorts.value;
    const localPorts = local ? local.outputs.length + local.ports.length : 0;
    return (
      this.interior.size + this.macs.size + localPorts === 0 &&
      this.neighbors.isEmpty &&
      isIdle(this.cell) &&
      isIdle(this.localPorts) &&
      isIdle(this.remoteHosts) &&
      isIdle(this.isVlanAware)
    );
  }

  /** The ports that MAC addresses lead to, and those that floods go to. */
  *portsInUse(): Generator<Fact<PortFact>> {
    for (const macs of this.macs.values()) for (const { value } of macs.values()) if (value) yield value.port;
    for (const { value } of this.interior.values()) yield* value ?? [];
    yield* this.localPorts.value?.ports ?? [];
  }

  /** Ports of this host are on the bridge, so there is one, whether or not the NSDB can be asked. */
  presume(present: boolean): void {
    this.unknown?.close();
    this.unknown = undefined;
    if (present && !this.isTold) {
      this.unknown = new UnknownFilters(`bridge ${this.id}`, this.source, () => {
        if (!this.isTold) this.inboundFilters = [];
        this.cell.touch();
      });
      this.inboundFilters = this.unknown.filters;
    }
    this.cell.setLocal(present ? this : undefined);
    if (present) this.source.load(this.cell as Cell<unknown>);
    this.subnets.presume(present);
  }

  close(): void {
    this.unknown?.close();
  }

  private watchInteriorPorts(vlan: number, cell: Cell<readonly Fact<PortFact>[]>): Watch {
    const { repository } = this.source;
    return repository.store.watchChildren(bridgeVlanLinksPath(this.id, vlan), (ids = []) =>
      cell.set(ids.map((id) => this.source.port(id))),
    );
  }

  private watchVlans(cell: Cell<boolean>): Watch {
    const folder = bridgeLinksPath(this.id);
    const depth = folder.split('/').length + 2;
    const ports = new Set<string>();
    let current = false;
    const update = () => {
      if (current) cell.set(ports.size > 0);
    };
    const follow = (path: string, node: StoreNode | undefined) => {
      if (path.split('/').length !== depth || parentPath(path) === bridgeVlanLinksPath(this.id, 0)) return;
      if (node === undefined) ports.delete(path);
      else ports.add(path);
      update();
    };
    const onCurrent = () => {
      current = true;
      update();
    };
    return this.source.repository.store.watchTree(folder, follow, { onCurrent });
  }

  private watchMac(mac: number, vlan: number, cell: Cell<MacFact>): Watch {
    const { repository, invalid } = this.source;
    return new SharedTable(repository.store, macTable(vlan), this.id).watchEntry(
      mac,
      (entry) => cell.set(entry === undefined ? null : { port: this.source.port(entry.portId) }),
      invalid,
    );
  }

  private watchIp(address: string, cell: Cell<NeighborFact>): Watch {
    const { repository, invalid } = this.source;
    return new SharedTable(repository.store, IP_TABLE, this.id).watchEntry(
      address,
      (entry) => cell.set(entry === undefined ? null : { mac: parseMac(entry.mac)! }),
      invalid,
    );
  }

  /**
   * Watches which other hosts have ports of the bridge; the value is set once all of them are known. A host that joins
   * costs its own entry, not the list: there may be a thousand, and as many agents that watch.
   */
  private watchRemoteHosts(cell: Cell<readonly RemoteHost[]>): Watch {
    const folder = bridgeHostsPath(this.id);
    const members = new Map<string, BridgeHost>();
    let current = false;
    const update = () => {
      if (!current) return;
      // In one order on every host and after every restart, so that flows come out the same.
      const sorted = [...members].sort(([a], [b]) => (a < b ? -1 : 1));
      cell.set(sorted.map(([hostId, keys]) => ({ tunnel: this.source.tunnel(hostId), ...keys })));
    };
    const follow = (path: string, node: StoreNode | undefined) => {
      const hostId = nodeName(path);
      if (path === folder || hostId === this.source.hostId) return;
      try {
        if (node === undefined) members.delete(hostId);
        else members.set(hostId, decodeJson(bridgeHostSchema, node.data, path));
      } catch (error) {
        this.source.invalid(error as Error);
      }
      update();
    };
    const onCurrent = () => {
      current = true;
      update();
    };
    return this.source.repository.store.watchTree(folder, follow, { onCurrent });
  }
}

function sameTarget(a: TunnelTarget, b: TunnelTarget): boolean {
  return (
    sameElements(a.outputs, b.outputs) && sameElements(a.zones ?? [], b.zones ?? []) && sameElements(a.ports, b.ports)
  );
}

function sameElements<T>(a: readonly T[], b: readonly T[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

function sameHosts(a: readonly RemoteHost[], b: readonly RemoteHost[]): boolean {
  const same = (host: RemoteHost, other: RemoteHost) =>
    host.tunnel === other.tunnel && host.floodKey === other.floodKey && host.openFloodKey === other.openFloodKey;
  return a.length === b.length && a.every((host, i) => same(host, b[i]));
}
