import type { Logger } from 'pino';
import { tunnelZoneMemberPath } from '../../nsdb/layout.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Watch } from '../../nsdb/store.js';
import { parseIpv4 } from '../../packet/address.js';
import type { Fact, TunnelPath } from '../../simulation/fact.js';
import { type Host, type TunnelZone, type TunnelZoneMember, tunnelZoneMemberSchema } from '../../topology/types.js';
import { Cell } from '../facts/cell.js';

/** Hosts have no tunnels in zones of hardware VTEPs. */
export type TunnelType = Exclude<TunnelZone['type'], 'vtep'>;

/**
 * Bytes that each encapsulation puts in front of a packet's IP header over IPv4: outer IP 20; VXLAN: UDP 8, VXLAN 8;
 * GRE: 4 and the key 4; inner Ethernet 14 (RFC 7348 section 5, RFC 2890 section 2).
 */
const OVERHEAD: Readonly<Record<TunnelType, number>> = { vxlan: 50, gre: 42 };
/** Of an interface whose traffic meets no tunnel. */
const DEFAULT_MTU = 1500;
const RETRY_MS = 1000;

/** The tunnel devices of this host. */
export interface TunnelDevices {
  /** Make the device and attach it to the datapath, unless it is there; returns its datapath port number. */
  ensure(type: TunnelType, signal?: AbortSignal): Promise<number>;
  /** MTU of the interface that has the IPv4 address; undefined when none has. */
  underlayMtu(address: string, signal?: AbortSignal): Promise<number | undefined>;
  /** Whether what `ensure` and `underlayMtu` said may be otherwise after a change of this interface. */
  concerns(interfaceName: string): boolean;
}

/** Where packets from other hosts come in: at a tunnel device's datapath port, to an underlay address of this host. */
export interface TunnelEndpoint {
  readonly port: number;
  readonly address: number;
}

interface Zone {
  readonly id: string;
  readonly watches: readonly Watch[];
  /** undefined: not known yet; null: does not exist. */
  zone: TunnelZone | null | undefined;
  /** This host's membership. */
  member: TunnelZoneMember | null | undefined;
}

export interface TunnelsOptions {
  readonly hostId: string;
  readonly repository: TopologyRepository;
  readonly devices: TunnelDevices;
  /** Zones that this host is going to join, if it is not in them yet: they are read ahead. */
  readonly configuredZoneIds?: readonly string[];
  /** The endpoints or the MTU are others now. */
  readonly onEndpoints: () => void;
  readonly onChange: (cell: Cell<unknown>) => void;
  readonly log: Logger;
}

/** The tunnel zones that this host is in, the devices they need, and the way to each other host. */
export class Tunnels {
  private readonly zones = new Map<string, Zone>();
  private readonly hosts = new Map<string, RemoteHostPath>();
  private readonly ports = new Map<TunnelType, number>();
  /** Settles when the endpoints that follow from the NSDB are there for the first time. */
  readonly ready: Promise<void>;
  private markReady = () => {};
  private hostWatch: Watch | undefined;
  private zonesKnown = false;
  private mtuValue = DEFAULT_MTU;
  private faultText: string | undefined;
  private refreshing = false;
  private again = false;
  private retry: NodeJS.Timeout | undefined;
  private readonly abort = new AbortController();

  constructor(private readonly options: TunnelsOptions) {
    this.ready = new Promise((resolve) => {
      this.markReady = resolve;
    });
  }

  start(): void {
    const { repository, hostId, configuredZoneIds = [] } = this.options;
    for (const id of configuredZoneIds) this.watchZone(id);
    this.hostWatch = repository.watch('host', hostId, (host) => this.setZones(zoneIds(host)), this.invalid);
  }

  /** The way to another host. */
  path(hostId: string): Cell<TunnelPath> {
    let host = this.hosts.get(hostId);
    if (host === undefined) {
      host = new RemoteHostPath(hostId, this, this.options.onChange);
      this.hosts.set(hostId, host);
    }
    return host.cell;
  }

  /** Forget the ways to hosts that are not watched, no flow takes and `used` does not have. */
  forgetUnused(used: ReadonlySet<Fact<TunnelPath>>): void {
    for (const [id, { cell }] of this.hosts) {
      if (!cell.started && cell.flows.size === 0 && !used.has(cell)) this.hosts.delete(id);
    }
  }

  /** Where packets from other hosts come in. */
  endpoints(): TunnelEndpoint[] {
    const found: TunnelEndpoint[] = [];
    for (const { zone, member } of this.zones.values()) {
      const port = zone && zone.type !== 'vtep' ? this.ports.get(zone.type) : undefined;
      if (port !== undefined && member) found.push({ port, address: parseIpv4(member.address)! });
    }
    return found;
  }

  /** Datapath ports of the tunnel devices. */
  devicePorts(): number[] {
    return [...this.ports.values()];
  }

  /** The largest IP packet that a port of this host may send so that it fits the underlay, encapsulated. */
  get mtu(): number {
    return this.mtuValue;
  }

  /** Why this host cannot take part in one of its tunnel zones, or undefined if it can. */
  get fault(): string | undefined {
    return this.faultText;
  }

  /** An interface changed: a device may be gone, an MTU another. */
  refresh(): void {
    if (this.abort.signal.aborted) return;
    if (this.refreshing) {
      this.again = true;
      return;
    }
    this.refreshing = true;
    clearTimeout(this.retry);
    this.refreshNow()
      .catch((error: Error) => {
        if (this.abort.signal.aborted) return;
        this.faultText = `a tunnel device cannot be set up: ${error.message}`;
        this.options.log.error({ error: error.message }, 'could not set up a tunnel device; trying again');
        this.retry = setTimeout(() => this.refresh(), RETRY_MS);
      })
      .finally(() => {
        this.refreshing = false;
        if (!this.again) return;
        this.again = false;
        this.refresh();
      });
  }

  close(): void {
    this.abort.abort();
    clearTimeout(this.retry);
    this.hostWatch?.close();
    for (const zone of this.zones.values()) for (const watch of zone.watches) watch.close();
    for (const host of this.hosts.values()) host.cell.stop();
  }

  /** For {@link RemoteHostPath}: watch a host's membership of each of our zones. */
  watchMember(zoneId: string, hostId: string, listener: (member: TunnelZoneMember | undefined) => void): Watch {
    return this.options.repository.watchEntry(
      tunnelZoneMemberPath(zoneId, hostId),
      tunnelZoneMemberSchema,
      listener,
      this.invalid,
    );
  }

  zoneIds(): string[] {
    return [...this.zones.keys()];
  }

  /**
   * The way to a host that has these addresses in our zones: through the first zone, by name, that both are in.
   * Undefined while that is not known.
   */
  choose(addresses: ReadonlyMap<string, TunnelZoneMember | null | undefined>): TunnelPath | null | undefined {
    if (!this.zonesKnown) return undefined;
    let chosen: { name: string; path: TunnelPath } | undefined;
    for (const { id, zone, member } of this.zones.values()) {
      const remote = addresses.get(id);
      // The host is in the zone, so what is not there was not told yet.
      if (!zone || !member || remote === undefined) return undefined;
      if (remote === null || zone.type === 'vtep') continue;
      const output = this.ports.get(zone.type);
      if (output === undefined) return undefined;
      if (chosen !== undefined && chosen.name <= zone.name) continue;
      const path = { output, src: parseIpv4(member.address)!, dst: parseIpv4(remote.address)! };
      chosen = { name: zone.name, path };
    }
    return chosen?.path ?? null;
  }

  private setZones(ids: readonly string[]): void {
    // On its very first start the host is not in its zones before it has joined them.
    if (!this.zonesKnown && ids.length === 0 && this.zones.size > 0) return;
    for (const [id, zone] of this.zones) {
      if (ids.includes(id)) continue;
      for (const watch of zone.watches) watch.close();
      this.zones.delete(id);
    }
    for (const id of ids) if (!this.zones.has(id)) this.watchZone(id);
    this.zonesKnown = true;
    this.zonesChanged();
  }

  private watchZone(id: string): void {
    const { repository, hostId } = this.options;
    const zone: Zone = {
      id,
      zone: undefined,
      member: undefined,
      watches: [
        repository.watch(
          'tunnel-zone',
          id,
          (value) => {
            zone.zone = value ?? null;
            this.zonesChanged();
          },
          this.invalid,
        ),
        this.watchMember(id, hostId, (value) => {
          zone.member = value ?? null;
          this.zonesChanged();
        }),
      ],
    };
    this.zones.set(id, zone);
  }

  private zonesChanged(): void {
    this.refresh();
    for (const host of this.hosts.values()) host.zonesChanged();
  }

  private async refreshNow(): Promise<void> {
    const { devices, log } = this.options;
    const { signal } = this.abort;
    const types = new Set<TunnelType>();
    let mtu: number | undefined;
    let fault: string | undefined;
    const all = this.zonesKnown && [...this.zones.values()].every(isKnown);
    for (const { zone, member } of [...this.zones.values()]) {
      if (!zone || !member || zone.type === 'vtep') continue;
      types.add(zone.type);
      const underlay = await devices.underlayMtu(member.address, signal);
      if (underlay === undefined) {
        fault = `no interface of this host has ${member.address}, its address in tunnel zone ${zone.name}`;
        log.warn({ address: member.address, zone: zone.name }, 'no interface of this host has its tunnel zone address');
      } else {
        mtu = Math.min(mtu ?? Number.POSITIVE_INFINITY, underlay - OVERHEAD[zone.type]);
      }
    }
    const before = new Map(this.ports);
    for (const type of types) this.ports.set(type, await devices.ensure(type, signal));
    this.mtuValue = mtu ?? DEFAULT_MTU;
    this.faultText = fault;
    const changed = [...this.ports].some(([type, port]) => before.get(type) !== port);
    if (changed) for (const host of this.hosts.values()) host.update();
    this.options.onEndpoints();
    if (all) this.markReady();
  }

  private readonly invalid = (error: Error): void => {
    this.options.log.error({ error: error.message }, 'the NSDB holds a tunnel zone that is not valid');
  };
}

/** The way to one other host, and its memberships of our zones. */
class RemoteHostPath {
  readonly cell: Cell<TunnelPath>;
  private readonly members = new Map<string, { watch: Watch; value: TunnelZoneMember | null | undefined }>();
  private watching = false;

  constructor(
    private readonly hostId: string,
    private readonly tunnels: Tunnels,
    onChange: (cell: Cell<unknown>) => void,
  ) {
    this.cell = new Cell<TunnelPath>(`tunnel to host ${hostId}`, {
      onChange,
      subscribe: () => this.subscribe(),
      same: samePath,
    });
  }

  zonesChanged(): void {
    if (!this.watching) return;
    const ids = this.tunnels.zoneIds();
    for (const [id, member] of this.members) {
      if (ids.includes(id)) continue;
      member.watch.close();
      this.members.delete(id);
    }
    for (const id of ids) {
      if (this.members.has(id)) continue;
      const member: { watch: Watch; value: TunnelZoneMember | null | undefined } = {
        value: undefined,
        watch: this.tunnels.watchMember(id, this.hostId, (value) => {
          member.value = value ?? null;
          this.update();
        }),
      };
      this.members.set(id, member);
    }
    this.update();
  }

  update(): void {
    if (!this.watching) return;
    const path = this.tunnels.choose(new Map([...this.members].map(([id, member]) => [id, member.value])));
    // Not known for a moment, while a zone changes: what was known stays.
    if (path !== undefined) this.cell.set(path);
  }

  private subscribe(): Watch {
    this.watching = true;
    this.zonesChanged();
    return {
      ready: Promise.resolve(),
      close: () => {
        this.watching = false;
        for (const member of this.members.values()) member.watch.close();
        this.members.clear();
      },
    };
  }
}

function zoneIds(host: Host | undefined): string[] {
  return host?.tunnelZones.map(({ zoneId }) => zoneId) ?? [];
}

function isKnown({ zone, member }: Zone): boolean {
  return zone !== undefined && member !== undefined;
}

function samePath(a: TunnelPath, b: TunnelPath): boolean {
  return a.output === b.output && a.src === b.src && a.dst === b.dst;
}
