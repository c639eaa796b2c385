import { memberPath } from '../../nsdb/layout.js';
import { MEMBERS, type Member } from '../../nsdb/repository/members.js';
import { formatMac, requireIpv4, requireIpv4Cidr, requireIpv6, requireIpv6Cidr } from '../../packet/address.js';
import { parseDhcpOption } from '../../packet/dhcp-options.js';
import { CONFIGURATION_SERVER_MAC } from '../../simulation/answer.js';
import {
  type DhcpHostFact,
  type DhcpSubnetFact,
  type DhcpV6HostFact,
  type DhcpV6SubnetFact,
  type NeighborFact,
  type ServedFact,
  servedBy,
} from '../../simulation/fact.js';
import type { TopologyTypes } from '../../topology/types.js';
import type { Cell } from './cell.js';
import type { TopologySource } from './topology-source.js';

type SubnetKind = 'dhcp-subnet' | 'dhcp-v6-subnet';

/**
 * What a bridge answers to machines that ask for their configuration. The subnets are watched while the bridge has ports on
 * this host, so that they are in hand when the NSDB cannot be reached; what is set aside for a machine is read when it asks.
 */
export class BridgeSubnets {
  readonly served: Cell<ServedFact>;
  private readonly v4: SubnetList<'dhcp-subnet', DhcpHostFact, DhcpSubnetFact>;
  private readonly v6: SubnetList<'dhcp-v6-subnet', DhcpV6HostFact, DhcpV6SubnetFact>;

  /** The DHCP servers' own addresses, so far as no other machine has them too. */
  private servers: ReadonlySet<number> = new Set();

  /** @param neighbor the MAC address of an IPv4 address on the bridge */
  constructor(
    bridgeId: string,
    private readonly source: TopologySource,
    private readonly neighbor: (address: number) => Cell<NeighborFact>,
  ) {
    this.served = source.cell<ServedFact>(`what bridge ${bridgeId} answers`, { same: sameServed });
    const changed = () => this.subnetsChanged();
    this.v4 = new SubnetList('dhcp-subnet', dhcpSubnetFact, dhcpHostFact, bridgeId, source, changed);
    this.v6 = new SubnetList('dhcp-v6-subnet', dhcpV6SubnetFact, dhcpV6HostFact, bridgeId, source, changed);
  }

  get dhcpSubnets(): Cell<readonly DhcpSubnetFact[]> {
    return this.v4.cell;
  }

  get dhcpV6Subnets(): Cell<readonly DhcpV6SubnetFact[]> {
    return this.v6.cell;
  }

  /** Whether the bridge has ports on this host. */
  presume(present: boolean): void {
    for (const cell of [this.v4.cell, this.v6.cell] as Cell<unknown>[]) {
      cell.keptUntil = present ? Number.POSITIVE_INFINITY : undefined;
      if (present) this.source.load(cell);
    }
  }

  private subnetsChanged(): void {
    const { value: v4 } = this.v4.cell;
    const { value: v6 } = this.v6.cell;
    if (v4 && v6) this.served.set(servedBy(v4, v6));
    else this.served.stop();
    this.setServers(new Set((v4 ?? []).flatMap(ownAddress)));
  }

  /** Have ARP requests for the servers answered: machines that renew an address send to the server alone. */
  private setServers(servers: ReadonlySet<number>): void {
    for (const address of this.servers) if (!servers.has(address)) this.source.clearLocal(this.neighbor(address));
    for (const address of servers) this.neighbor(address).setLocal({ mac: CONFIGURATION_SERVER_MAC });
    this.servers = servers;
  }
}

/** The subnets of one kind that a bridge has. */
class SubnetList<K extends SubnetKind, H, F> {
  readonly cell: Cell<readonly F[]>;
  private readonly subnets = new Map<string, { readonly fact: F; readonly hosts: HostCells<K, H> }>();

  constructor(
    private readonly kind: K,
    private readonly subnetFact: (subnet: TopologyTypes[K], hosts: HostCells<K, H>) => F,
    private readonly hostFact: (host: Member<K>) => H,
    bridgeId: string,
    private readonly source: TopologySource,
    private readonly changed: () => void,
  ) {
    this.cell = source.cell<readonly F[]>(`${kind}s of bridge ${bridgeId}`, {
      subscribe: (self) => {
        let isCurrent = false;
        const update = () => {
          if (isCurrent) this.update(self);
        };
        return source.repository.watchHolders(
          kind,
          'bridgeId',
          bridgeId,
          (id, subnet) => this.follow(id, subnet, update),
          (error) => source.invalid(error),
          () => {
            isCurrent = true;
            update();
          },
        );
      },
      forget: () => {
        this.subnets.clear();
        this.changed();
      },
    });
  }

  private follow(id: string, subnet: TopologyTypes[K] | undefined, update: () => void): void {
    const before = this.subnets.get(id);
    if (subnet === undefined) {
      this.subnets.delete(id);
      update();
      before?.hosts.drop();
      return;
    }
    const hosts = before?.hosts ?? new HostCells(this.kind, id, this.hostFact, this.source);
    this.subnets.set(id, { fact: this.subnetFact(subnet, hosts), hosts });
    update();
  }

  private update(cell: Cell<readonly F[]>): void {
    // In one order on every host, so that all give a machine that two of them know the same.
    const sorted = [...this.subnets].sort(([a], [b]) => (a < b ? -1 : 1));
    cell.set(sorted.map(([, { fact }]) => fact));
    this.changed();
  }
}

/** What a subnet has set aside for those machines that asked. */
class HostCells<K extends SubnetKind, H> {
  private readonly cells = new Map<string, Cell<H>>();

  constructor(
    private readonly kind: K,
    private readonly subnetId: string,
    private readonly fact: (host: Member<K>) => H,
    private readonly source: TopologySource,
  ) {}

  /** @param name as it is stored: a MAC address, or a client identifier */
  at(name: string): Cell<H> {
    const { kind, subnetId, source } = this;
    let cell = this.cells.get(name);
    if (cell === undefined) {
      cell = source.cell<H>(`machine ${name} of ${kind} ${subnetId}`, {
        subscribe: (self) =>
          source.repository.watchEntry(
            memberPath(kind, subnetId, name),
            MEMBERS[kind].schema,
            (host) => self.set(host === undefined ? null : this.fact(host as Member<K>)),
            (error) => source.invalid(error),
          ),
        forget: (self) => {
          if (this.cells.get(name) === self) this.cells.delete(name);
        },
        namedByPackets: true,
      });
      this.cells.set(name, cell);
    }
    return cell;
  }

  /** The subnet is gone: who waits for what it says of a machine need not. */
  drop(): void {
    for (const cell of [...this.cells.values()]) {
      cell.set(null);
      cell.stop();
    }
  }
}

function dhcpSubnetFact(
  subnet: TopologyTypes['dhcp-subnet'],
  hosts: HostCells<'dhcp-subnet', DhcpHostFact>,
): DhcpSubnetFact {
  return {
    id: subnet.id,
    enabled: subnet.enabled,
    ...requireIpv4Cidr(subnet.cidr, 'cidr'),
    serverAddress: optional(subnet.serverAddress, (text) => requireIpv4(text, 'serverAddress')),
    gateway: optional(subnet.defaultGateway, (text) => requireIpv4(text, 'defaultGateway')),
    dnsServers: (subnet.dnsServers ?? []).map((text) => requireIpv4(text, 'dnsServers')),
    domainName: subnet.domainName,
    leaseSeconds: subnet.leaseSeconds,
    mtu: subnet.interfaceMtu,
    routes: (subnet.routes ?? []).map(({ destination, gateway }) => ({
      ...requireIpv4Cidr(destination, 'destination'),
      router: requireIpv4(gateway, 'gateway'),
    })),
    host: (mac) => hosts.at(formatMac(mac)),
  };
}

function dhcpHostFact({ address, name, extraOptions }: Member<'dhcp-subnet'>): DhcpHostFact {
  const options = new Map<number, Uint8Array>();
  for (const extra of extraOptions ?? []) {
    const option = parseDhcpOption(extra.name, extra.value);
    // The schema admits no others.
    if ('code' in option) options.set(option.code, option.value);
  }
  return { address: requireIpv4(address, 'address'), name, options };
}

function dhcpV6SubnetFact(
  subnet: TopologyTypes['dhcp-v6-subnet'],
  hosts: HostCells<'dhcp-v6-subnet', DhcpV6HostFact>,
): DhcpV6SubnetFact {
  return {
    id: subnet.id,
    enabled: subnet.enabled,
    ...requireIpv6Cidr(subnet.prefix, 'prefix'),
    addressing: subnet.addressing,
    dnsServers: (subnet.dnsServers ?? []).map((text) => requireIpv6(text, 'dnsServers')),
    domainSearch: subnet.domainSearch ?? [],
    preferredLifetime: subnet.preferredLifetime,
    validLifetime: subnet.validLifetime,
    gateway: optional(subnet.gateway, (text) => requireIpv6(text, 'gateway')),
    mtu: subnet.interfaceMtu,
    advertisement: subnet.advertisement,
    host: (duid) => hosts.at(duid),
  };
}

function dhcpV6HostFact({ address }: Member<'dhcp-v6-subnet'>): DhcpV6HostFact {
  return { address: requireIpv6(address, 'address') };
}

function optional<T>(text: string | undefined, parse: (text: string) => T): T | undefined {
  return text === undefined ? undefined : parse(text);
}

/** The address of the subnet's DHCP server; none if that is the gateway's. */
function ownAddress({ enabled, serverAddress, gateway }: DhcpSubnetFact): number[] {
  return enabled && serverAddress !== undefined && serverAddress !== gateway ? [serverAddress] : [];
}

function sameServed(a: ServedFact, b: ServedFact): boolean {
  return a.dhcp === b.dhcp && a.dhcpV6 === b.dhcpV6 && a.advertisements === b.advertisements;
}
