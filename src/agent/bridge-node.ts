import { decodeJson } from '../nsdb/json.js';
import { bridgeHostsPath } from '../nsdb/layout.js';
import { nodeName } from '../nsdb/path.js';
import { type BridgeHost, bridgeHostSchema } from '../nsdb/repository/topology-repository.js';
import type { StoreNode, Watch } from '../nsdb/store.js';
import { SharedTable } from '../nsdb/tables/shared-table.js';
import { IP_TABLE, MAC_TABLE } from '../nsdb/tables/tables.js';
import { formatMac, parseMac } from '../packet/address.js';
import type {
  BridgeFact,
  DhcpSubnetFact,
  DhcpV6SubnetFact,
  Fact,
  MacFact,
  NeighborFact,
  PortFact,
  RemoteHost,
  ServedFact,
} from '../simulation/fact.js';
import { AddressCells } from './address-cells.js';
import { BridgeSubnets } from './bridge-subnets.js';
import { type Cell, isIdle } from './cell.js';
import type { TopologySource } from './topology-source.js';

/** A bridge's facts: the bridge itself and the entries of its tables that packets asked for. */
export class BridgeNode implements BridgeFact {
  readonly cell: Cell<BridgeFact>;
  readonly localOutputs: Cell<readonly number[]>;
  readonly remoteHosts: Cell<readonly RemoteHost[]>;
  adminStateUp = true;
  private readonly macs = new Map<number, Cell<MacFact>>();
  private readonly neighbors: AddressCells<NeighborFact>;
  private readonly subnets: BridgeSubnets;

  constructor(
    readonly id: string,
    private readonly source: TopologySource,
  ) {
    this.cell = source.cell<BridgeFact>(`bridge ${id}`, {
      subscribe: (self) =>
        source.repository.watch(
          'bridge',
          id,
          (bridge) => {
            const changed = bridge !== undefined && bridge.adminStateUp !== this.adminStateUp;
            if (bridge !== undefined) this.adminStateUp = bridge.adminStateUp;
            self.set(bridge === undefined ? null : this);
            if (changed) self.touch();
          },
          source.invalid,
        ),
    });
    this.localOutputs = source.cell<readonly number[]>(`local ports of bridge ${id}`, { same: sameNumbers });
    this.remoteHosts = source.cell<readonly RemoteHost[]>(`hosts of bridge ${id}`, {
      subscribe: (self) => this.watchRemoteHosts(self),
      same: sameHosts,
    });
    this.subnets = new BridgeSubnets(id, source);
    this.neighbors = new AddressCells((address, forget) =>
      source.cell<NeighborFact>(`address ${address} on bridge ${id}`, {
        subscribe: (self) => this.watchIp(address, self),
        same: (a, b) => a.mac === b.mac,
        forget,
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

  mac(mac: number): Cell<MacFact> {
    let cell = this.macs.get(mac);
    if (cell === undefined) {
      cell = this.source.cell<MacFact>(`mac ${formatMac(mac)} on bridge ${this.id}`, {
        subscribe: (self) => this.watchMac(mac, self),
        same: (a, b) => a.port === b.port,
        forget: (self) => {
          if (this.macs.get(mac) === self) this.macs.delete(mac);
        },
      });
      this.macs.set(mac, cell);
    }
    return cell;
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
    const outputs = this.localOutputs.value?.length ?? 0;
    return (
      this.macs.size + outputs === 0 &&
      this.neighbors.isEmpty &&
      isIdle(this.cell) &&
      isIdle(this.localOutputs) &&
      isIdle(this.remoteHosts)
    );
  }

  /** The ports that MAC addresses lead to. */
  *portsInUse(): Generator<Fact<PortFact>> {
    for (const { value } of this.macs.values()) if (value) yield value.port;
  }

  /** Ports of this host are on the bridge, so there is one, whether or not the NSDB can be asked. */
  presume(present: boolean): void {
    this.cell.setLocal(present ? this : undefined);
    if (present) this.source.load(this.cell as Cell<unknown>);
    this.subnets.presume(present);
  }

  private watchMac(mac: number, cell: Cell<MacFact>): Watch {
    const { repository, invalid } = this.source;
    return new SharedTable(repository.store, MAC_TABLE, this.id).watchEntry(
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
      cell.set(sorted.map(([hostId, { floodKey }]) => ({ tunnel: this.source.tunnel(hostId), floodKey })));
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

function sameNumbers(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

function sameHosts(a: readonly RemoteHost[], b: readonly RemoteHost[]): boolean {
  return a.length === b.length && a.every((host, i) => host.tunnel === b[i].tunnel && host.floodKey === b[i].floodKey);
}
