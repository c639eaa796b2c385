import type { Logger } from 'pino';
import { decodeJson } from '../nsdb/json.js';
import { bridgeHostsPath } from '../nsdb/layout.js';
import { nodeName } from '../nsdb/path.js';
import { type BridgeHost, bridgeHostSchema, type TopologyRepository } from '../nsdb/repository/topology-repository.js';
import type { StoreNode, Watch } from '../nsdb/store.js';
import { SharedTable } from '../nsdb/tables/shared-table.js';
import { IP_TABLE, MAC_TABLE } from '../nsdb/tables/tables.js';
import { formatIpv4, formatIpv6, formatMac, parseMac } from '../packet/address.js';
import { parseIp } from '../packet/ip.js';
import type { BridgeFact, Fact, MacFact, NeighborFact, PortFact, RemoteHost, TunnelPath } from '../simulation/fact.js';
import { type Bridge, type BridgePort, isBridgePort } from '../topology/types.js';
import { Cell, type CellOptions } from './cell.js';

/** How long a fact that no flow needs is still watched. */
const RELEASE_AFTER_MS = 60_000;

/**
 * The part of the topology that this host's packets need, as facts. A fact is read from the NSDB and watched from the
 * first packet that needs it until a minute after the last flow that did. What belongs to this host's own ports is set
 * here and needs no NSDB.
 */
export class TopologyCache {
  private readonly ports = new Map<string, Cell<PortFact>>();
  private readonly bridges = new Map<string, BridgeNode>();
  /** Facts to be given up and when they were last found to be needed, oldest first. */
  private readonly watched = new Map<Cell<unknown>, number>();

  /**
   * @param tunnel gives the way to a host
   * @param forgotten is told of ports that no packet has needed for a while
   * @param onChange is told of every fact that changes
   */
  constructor(
    private readonly repository: TopologyRepository,
    private readonly hostId: string,
    private readonly tunnel: (hostId: string) => Fact<TunnelPath>,
    private readonly output: (portId: string) => Fact<number>,
    private readonly forgotten: (portId: string) => void,
    private readonly onChange: (cell: Cell<unknown>) => void,
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {}

  /** How many facts are watched in the NSDB, or were needed a short while ago. */
  get size(): number {
    return this.watched.size;
  }

  bridge(id: string): BridgeNode {
    let node = this.bridges.get(id);
    if (node === undefined) {
      node = new BridgeNode(id, this);
      this.bridges.set(id, node);
    }
    return node;
  }

  port(id: string): Cell<PortFact> {
    let cell = this.ports.get(id);
    if (cell === undefined) {
      cell = this.cell<PortFact>(`port ${id}`, {
        subscribe: (self) =>
          this.repository.watch(
            'port',
            id,
            // Ports of routers are not simulated.
            (port) => self.set(port !== undefined && isBridgePort(port) ? this.portFact(port) : null),
            this.invalid,
          ),
        same: samePort,
        forget: (self) => {
          if (this.ports.get(id) === self) this.ports.delete(id);
          this.forgotten(id);
        },
      });
      this.ports.set(id, cell);
    }
    return cell;
  }

  /** Begin to read and watch a fact that a simulation waits for. */
  load(cell: Cell<unknown>): void {
    if (cell.started) return;
    cell.start();
    if (cell.started) this.watched.set(cell, this.clock());
  }

  /** Stop watching what no flow has needed for a minute, and forget what nothing leads to. Tells whether there was any. */
  releaseUnused(): boolean {
    const horizon = this.clock() - RELEASE_AFTER_MS;
    let isAnyReleased = false;
    for (const [cell, since] of this.watched) {
      if (since > horizon) break;
      this.watched.delete(cell);
      // What is set on this host packets do not wait for, so nothing would start the watch again.
      if (!cell.isLocal && cell.flows.size === 0 && (cell.idleSince ?? since) <= horizon) {
        cell.stop();
        isAnyReleased = true;
      } else this.watched.set(cell, this.clock());
    }
    if (isAnyReleased) this.forgetUnused();
    return isAnyReleased;
  }

  /** The ways to other hosts that some fact leads to. */
  tunnelsInUse(): Set<Fact<TunnelPath>> {
    const tunnels = new Set<Fact<TunnelPath>>();
    for (const { value } of this.ports.values()) {
      if (value?.location?.type === 'remote') tunnels.add(value.location.tunnel);
    }
    for (const bridge of this.bridges.values()) {
      for (const { tunnel } of bridge.remoteHosts.value ?? []) tunnels.add(tunnel);
    }
    return tunnels;
  }

  /**
   * Forget ports that no MAC address leads to any more, and bridges that no port does. They are not watched; what still led
   * to one would have a fact of its own beside that of whoever asks by name.
   */
  private forgetUnused(): void {
    const ports = new Set<Fact<PortFact>>();
    for (const bridge of this.bridges.values()) for (const port of bridge.portsInUse()) ports.add(port);
    for (const port of this.ports.values()) {
      if (isIdle(port) && !this.watched.has(port as Cell<unknown>) && !ports.has(port)) port.stop();
    }
    const bridges = new Set<Fact<BridgeFact>>();
    for (const { value } of this.ports.values()) if (value?.type === 'bridge') bridges.add(value.bridge);
    for (const [id, bridge] of this.bridges) if (bridge.isIdle && !bridges.has(bridge.cell)) this.bridges.delete(id);
  }

  /** A port of this host, with the entries of its bridge's tables that follow from it. */
  setLocalPort(port: BridgePort): void {
    this.port(port.id).setLocal(this.portFact(port));
    this.seed(port, true);
  }

  clearLocalPort(port: BridgePort): void {
    this.seed(port, false);
    this.clearLocal(this.port(port.id));
  }

  close(): void {
    for (const cell of this.watched.keys()) cell.stop();
    this.watched.clear();
  }

  /** For {@link BridgeNode}. */
  cell<T>(tag: string, options: Omit<CellOptions<T>, 'onChange'>): Cell<T> {
    return new Cell<T>(tag, { ...options, onChange: this.onChange });
  }

  watchBridge(id: string, listener: (bridge: Bridge | undefined) => void): Watch {
    return this.repository.watch('bridge', id, listener, this.invalid);
  }

  watchMac(bridgeId: string, mac: number, cell: Cell<MacFact>): Watch {
    return new SharedTable(this.repository.store, MAC_TABLE, bridgeId).watchEntry(
      mac,
      (entry) => cell.set(entry === undefined ? null : { port: this.port(entry.portId) }),
      this.invalid,
    );
  }

  watchIp(bridgeId: string, address: string, cell: Cell<NeighborFact>): Watch {
    return new SharedTable(this.repository.store, IP_TABLE, bridgeId).watchEntry(
      address,
      (entry) => cell.set(entry === undefined ? null : { mac: parseMac(entry.mac)! }),
      this.invalid,
    );
  }

  /**
   * Watches which other hosts have ports of the bridge; the value is set once all of them are known. A host that joins
   * costs its own entry, not the list: there may be a thousand, and as many agents that watch.
   */
  watchRemoteHosts(bridgeId: string, cell: Cell<readonly RemoteHost[]>): Watch {
    const folder = bridgeHostsPath(bridgeId);
    const members = new Map<string, BridgeHost>();
    let current = false;
    const update = () => {
      if (!current) return;
      // In one order on every host and after every restart, so that flows come out the same.
      const sorted = [...members].sort(([a], [b]) => (a < b ? -1 : 1));
      cell.set(sorted.map(([hostId, { floodKey }]) => ({ tunnel: this.tunnel(hostId), floodKey })));
    };
    const follow = (path: string, node: StoreNode | undefined) => {
      const hostId = nodeName(path);
      if (path === folder || hostId === this.hostId) return;
      try {
        if (node === undefined) members.delete(hostId);
        else members.set(hostId, decodeJson(bridgeHostSchema, node.data, path));
      } catch (error) {
        this.invalid(error as Error);
      }
      update();
    };
    const onCurrent = () => {
      current = true;
      update();
    };
    return this.repository.store.watchTree(folder, follow, { onCurrent });
  }

  private portFact(port: BridgePort): PortFact {
    return {
      type: 'bridge',
      id: port.id,
      adminStateUp: port.adminStateUp,
      mac: port.mac === undefined ? undefined : parseMac(port.mac),
      bridge: this.bridge(port.bridgeId).cell,
      location: this.location(port),
    };
  }

  private location(port: BridgePort): PortFact['location'] {
    const binding = port.binding;
    if (binding === undefined) return null;
    if (binding.hostId === this.hostId) return { type: 'local', output: this.output(port.id) };
    if (binding.tunnelKey === undefined) return null;
    return { type: 'remote', tunnel: this.tunnel(binding.hostId), tunnelKey: binding.tunnelKey };
  }

  private seed(port: BridgePort, present: boolean): void {
    if (port.mac === undefined) return;
    const bridge = this.bridge(port.bridgeId);
    const mac = parseMac(port.mac)!;
    const neighbors = port.addresses.map((address) => bridge.neighbor(address));
    if (present) {
      bridge.mac(mac).setLocal({ port: this.port(port.id) });
      for (const neighbor of neighbors) neighbor.setLocal({ mac });
    } else {
      this.clearLocal(bridge.mac(mac));
      for (const neighbor of neighbors) this.clearLocal(neighbor);
    }
  }

  /** Flows that need the fact load it when they are revisited; it is given up when none does. */
  private clearLocal<T>(cell: Cell<T>): void {
    cell.setLocal(undefined);
    this.watched.delete(cell as Cell<unknown>);
    this.watched.set(cell as Cell<unknown>, this.clock());
  }

  private readonly invalid = (error: Error): void => {
    this.log.error({ error: error.message }, 'the NSDB holds a value that is not valid; the last valid one stays');
  };
}

/** A bridge's facts: the bridge itself and the entries of its tables that packets asked for. */
export class BridgeNode implements BridgeFact {
  readonly cell: Cell<BridgeFact>;
  readonly localOutputs: Cell<readonly number[]>;
  readonly remoteHosts: Cell<readonly RemoteHost[]>;
  adminStateUp = true;
  private readonly macs = new Map<number, Cell<MacFact>>();
  private readonly ipv4s = new Map<number, Cell<NeighborFact>>();
  /** By a hash of the address; collisions share a bucket. */
  private readonly ipv6s = new Map<number, { words: Uint32Array; cell: Cell<NeighborFact> }[]>();

  constructor(
    readonly id: string,
    private readonly cache: TopologyCache,
  ) {
    this.cell = cache.cell<BridgeFact>(`bridge ${id}`, {
      subscribe: (self) =>
        cache.watchBridge(id, (bridge) => {
          const changed = bridge !== undefined && bridge.adminStateUp !== this.adminStateUp;
          if (bridge !== undefined) this.adminStateUp = bridge.adminStateUp;
          self.set(bridge === undefined ? null : this);
          if (changed) self.touch();
        }),
    });
    this.localOutputs = cache.cell<readonly number[]>(`local ports of bridge ${id}`, { same: sameNumbers });
    this.remoteHosts = cache.cell<readonly RemoteHost[]>(`hosts of bridge ${id}`, {
      subscribe: (self) => cache.watchRemoteHosts(id, self),
      same: sameHosts,
    });
  }

  mac(mac: number): Cell<MacFact> {
    let cell = this.macs.get(mac);
    if (cell === undefined) {
      cell = this.cache.cell<MacFact>(`mac ${formatMac(mac)} on bridge ${this.id}`, {
        subscribe: (self) => this.cache.watchMac(this.id, mac, self),
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
    let cell = this.ipv4s.get(address);
    if (cell === undefined) {
      cell = this.neighborCell(formatIpv4(address), (self) => {
        if (this.ipv4s.get(address) === self) this.ipv4s.delete(address);
      });
      this.ipv4s.set(address, cell);
    }
    return cell;
  }

  ipv6(words: Uint32Array, offset: number): Cell<NeighborFact> {
    const hash =
      Math.imul(Math.imul(words[offset], 31) ^ words[offset + 1], 31) ^ words[offset + 2] ^ words[offset + 3];
    const bucket = this.ipv6s.get(hash) ?? [];
    for (const entry of bucket) {
      let i = 0;
      while (i < 4 && entry.words[i] === words[offset + i]) i++;
      if (i === 4) return entry.cell;
    }
    const address = words.slice(offset, offset + 4);
    const cell = this.neighborCell(formatIpv6(address), (self) => {
      const rest = (this.ipv6s.get(hash) ?? []).filter((entry) => entry.cell !== self);
      if (rest.length === 0) this.ipv6s.delete(hash);
      else this.ipv6s.set(hash, rest);
    });
    bucket.push({ words: address, cell });
    this.ipv6s.set(hash, bucket);
    return cell;
  }

  /** The MAC address of `address` in text, of either family. */
  neighbor(address: string): Cell<NeighborFact> {
    const ip = parseIp(address)!;
    return ip.family === 4 ? this.ipv4(ip.words[0]) : this.ipv6(Uint32Array.from(ip.words), 0);
  }

  /** Whether nothing of it is watched, set on this host or carried by a flow. */
  get isIdle(): boolean {
    const tables = this.macs.size + this.ipv4s.size + this.ipv6s.size;
    const outputs = this.localOutputs.value?.length ?? 0;
    return (
      tables + outputs === 0 &&
      [this.cell, this.localOutputs, this.remoteHosts].every((cell) => isIdle(cell as Cell<unknown>))
    );
  }

  /** The ports that MAC addresses lead to. */
  *portsInUse(): Generator<Fact<PortFact>> {
    for (const { value } of this.macs.values()) if (value) yield value.port;
  }

  /** Ports of this host are on the bridge, so there is one, whether or not the NSDB can be asked. */
  presume(present: boolean): void {
    this.cell.setLocal(present ? this : undefined);
    if (present) this.cache.load(this.cell as Cell<unknown>);
  }

  private neighborCell(address: string, forget: (self: Cell<NeighborFact>) => void): Cell<NeighborFact> {
    return this.cache.cell<NeighborFact>(`address ${address} on bridge ${this.id}`, {
      subscribe: (self) => this.cache.watchIp(this.id, address, self),
      same: (a, b) => a.mac === b.mac,
      forget,
    });
  }
}

function isIdle<T>(cell: Cell<T>): boolean {
  return !cell.started && !cell.isLocal && cell.flows.size === 0;
}

function samePort(a: PortFact, b: PortFact): boolean {
  return (
    a.type === 'bridge' &&
    b.type === 'bridge' &&
    a.adminStateUp === b.adminStateUp &&
    a.mac === b.mac &&
    a.bridge === b.bridge &&
    sameLocation(a.location, b.location)
  );
}

function sameLocation(a: PortFact['location'], b: PortFact['location']): boolean {
  if (a === null || b === null) return a === b;
  if (a.type === 'local') return b.type === 'local' && a.output === b.output;
  return b.type === 'remote' && a.tunnel === b.tunnel && a.tunnelKey === b.tunnelKey;
}

function sameNumbers(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

function sameHosts(a: readonly RemoteHost[], b: readonly RemoteHost[]): boolean {
  return a.length === b.length && a.every((host, i) => host.tunnel === b[i].tunnel && host.floodKey === b[i].floodKey);
}
