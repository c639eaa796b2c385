import type { FlowKey } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { type Ipv6, ipv4Broadcast } from '../packet/address.js';
import type { Condition } from '../topology/chains.js';
import type { CompiledCondition } from './condition.js';
import type { MemberTable, TableMember } from './member-table.js';
import type { RuleIndex } from './rule-index.js';

/**
 * What a simulation reads. A fact is a cell that holds one thing known of the topology or of this host; devices refer to
 * each other through facts, so that a walk through the network is a walk through references, without a look-up by name.
 * Every fact that a simulation reads becomes a tag of its decision: when the fact changes, the flows that carry it are
 * revisited.
 */
export interface Fact<T> {
  /** Names the fact in traces and logs, such as `mac 02:00:00:00:00:01 on bridge 7c1f…`. */
  readonly tag: string;
  /** `undefined`: not in hand yet. `null`: there is no such thing. */
  readonly value: T | null | undefined;
}

/** How packets that come in at a datapath port enter the virtual network. */
export type Ingress =
  /** `zone`: where its connections would be tracked, when packets are traced as if the port were on this host. */
  | { readonly type: 'port'; readonly port: Fact<PortFact>; readonly zone?: number }
  /** `target` gives what a tunnel key of this host stands for. */
  | { readonly type: 'tunnel'; target(tunnelKey: number): Fact<TunnelTarget> };

/** The ports of this host that a packet with a tunnel key goes out at. */
export interface TunnelTarget {
  /** Datapath ports of those that take whatever comes. */
  readonly outputs: readonly number[];
  /** Connection tracking zones of their ports, in the same order; absent when the datapath cannot track. */
  readonly zones?: readonly number[];
  /** Ports at which it depends on the packet, such as those with filters. */
  readonly ports: readonly Fact<PortFact>[];
  /** The key is of a router that translates sources here: a reply goes on there. */
  readonly router?: Fact<RouterFact>;
  /** The key is for what answers the health checks of this host. */
  readonly takesHealthAnswers?: boolean;
  /** The key is for what is captured on this host. */
  readonly capture?: CaptureTarget;
}

export type PortFact = BridgePortFact | RouterPortFact;

/** Where mirrors copy packets that pass a device: as they come in, and as they go out. */
export interface Taps {
  readonly inboundMirrors?: readonly Fact<MirrorFact>[];
  readonly outboundMirrors?: readonly Fact<MirrorFact>[];
}

/** Ports have two more: what is left behind the inbound filters, and what comes before the outbound ones. */
export interface PortTaps extends Taps {
  readonly postInFilterMirrors?: readonly Fact<MirrorFact>[];
  readonly preOutFilterMirrors?: readonly Fact<MirrorFact>[];
}

/** Somebody captures packets, as they come in at a port or as they go out. */
export interface CaptureFact {
  readonly id: string;
  /** What one of them matches; they ask for nothing but headers. */
  readonly conditions: readonly CompiledCondition[];
  readonly target: CaptureTarget;
}

/** Where captured packets go: to the agent of this host, as `userdata` says, or of another. */
export type CaptureTarget =
  | {
      readonly type: 'local';
      readonly userdata: Uint8Array;
      /** Limits how many come; null when the datapath cannot. */
      readonly meter: Fact<number>;
    }
  | { readonly type: 'remote'; readonly tunnel: Fact<TunnelPath>; readonly tunnelKey: number };

interface AnyPortFact extends PortTaps {
  readonly id: string;
  readonly adminStateUp: boolean;
  /** Interior: the port that it is linked to, where its packets come in. */
  readonly peer?: Fact<PortFact>;
  /** Exterior: where packets leave through this port; null while that is nowhere (unbound, or its host is not ready). */
  readonly location: PortLocation | null;
  /** What packets pass that come in, and that go out, in order. */
  readonly inboundFilters?: readonly Fact<ChainFact>[];
  readonly outboundFilters?: readonly Fact<ChainFact>[];
  /** Captures of what comes in, before its filters, and of what goes out, behind them. */
  readonly inboundCaptures?: readonly Fact<CaptureFact>[];
  readonly outboundCaptures?: readonly Fact<CaptureFact>[];
  /** Port groups that it is in. */
  readonly groupIds?: ReadonlySet<string>;
}

export interface BridgePortFact extends AnyPortFact {
  readonly type: 'bridge';
  /** The only MAC address behind the port, if that is known. */
  readonly mac: number | undefined;
  /** The addresses of the machine with that MAC address, so far as they are known: one word of IPv4, four of IPv6. */
  readonly addresses?: readonly Uint32Array[];
  readonly bridge: Fact<BridgeFact>;
  /** Interior: the VLAN of the bridge that goes through this port, without its tag; undefined for whatever comes. */
  readonly vlanId?: number;
  /** Exterior: what becomes of traffic from there; absent for the bridge's. */
  readonly qos?: Fact<QosFact>;
  /** Whether it exchanges packets only with ports of the bridge that are not isolated. */
  readonly isIsolated?: boolean;
  /** Inserted services that its traffic goes through: the chains that send it there, on the way in and out. */
  readonly services?: { readonly inbound: Fact<ChainFact>; readonly outbound: Fact<ChainFact> };
  /** It has such services behind it: what a service sends back goes by this chain. Only what is redirected leaves there. */
  readonly service?: Fact<ChainFact>;
}

export interface RouterPortFact extends AnyPortFact {
  readonly type: 'router';
  /** The router's own, at this port. */
  readonly mac: number;
  readonly router: Fact<RouterFact>;
  /** The router's addresses at this port. */
  readonly addresses: readonly InterfaceAddress[];
  /** The MAC address of an IPv4 neighbour at this port; null when nobody answers for the address. */
  ipv4(address: number): Fact<NeighborFact>;
  /** Of the IPv6 neighbour in `words[offset..offset+3]`. */
  ipv6(words: Uint32Array, offset: number): Fact<NeighborFact>;
}

/** An address of an interface: one word of IPv4, four of IPv6. */
export interface InterfaceAddress {
  readonly words: Uint32Array;
  /** Length of the prefix of the network that the interface is in. */
  readonly prefix: number;
}

/** Whether the address in `words[offset…]`, of the same family, is in the network of the interface. */
export function prefixContains(network: InterfaceAddress, words: Uint32Array, offset: number): boolean {
  for (let i = 0; 32 * i < network.prefix; i++) {
    const bits = network.prefix - 32 * i;
    const mask = bits >= 32 ? 0xffff_ffff : (0xffff_ffff << (32 - bits)) >>> 0;
    if (((network.words[i] ^ words[offset + i]) & mask) !== 0) return false;
  }
  return true;
}

/** Whether the IPv4 address stands for all machines of a network at the router's port (RFC 1812 section 4.2.2.11 (d)). */
export function isBroadcastOf(port: RouterPortFact, address: number): boolean {
  return port.addresses.some(
    // A network of two addresses has none (RFC 3021).
    ({ words, prefix }) => words.length === 1 && prefix < 31 && ipv4Broadcast(words[0], prefix) === address,
  );
}

export type PortLocation =
  /** `zone`: in which connections are tracked (see connection.ts), 1 to 65535; absent when the datapath cannot. */
  | { readonly type: 'local'; readonly output: Fact<number>; readonly zone?: Fact<number> }
  | { readonly type: 'remote'; readonly tunnel: Fact<TunnelPath>; readonly tunnelKey: number };

/** The way to another host: datapath port of the tunnel device, outer IPv4 addresses. */
export interface TunnelPath {
  readonly output: number;
  readonly src: number;
  readonly dst: number;
}

export interface BridgeFact extends Taps {
  readonly id: string;
  readonly adminStateUp: boolean;
  /** Absent when the datapath cannot translate. */
  readonly sourceNat?: SourceNatFact;
  readonly loadBalancer?: Fact<LoadBalancerFact>;
  /** What becomes of traffic from machines at ports that have none of their own. */
  readonly qos?: Fact<QosFact>;
  /** What packets without a VLAN tag pass before the bridge looks for their way, and behind that. */
  readonly inboundFilters?: readonly Fact<ChainFact>[];
  readonly outboundFilters?: readonly Fact<ChainFact>[];
  /** Which port a MAC address is behind in a VLAN; 0 for packets without a tag. */
  mac(mac: number, vlan?: number): Fact<MacFact>;
  /** The MAC address of an IPv4 address. */
  ipv4(address: number): Fact<NeighborFact>;
  /** The MAC address of the IPv6 address in `words[offset..offset+3]`. */
  ipv6(words: Uint32Array, offset: number): Fact<NeighborFact>;
  /** The bridge's ports on this host: what its flood key stands for. */
  readonly localPorts: Fact<TunnelTarget>;
  /** The other hosts that have ports of the bridge. */
  readonly remoteHosts: Fact<readonly RemoteHost[]>;
  /** The interior ports of a VLAN; 0 for those without one, which take part in all of them. */
  interiorPorts(vlan: number): Fact<readonly Fact<PortFact>[]>;
  /** Whether some interior port is for a VLAN, so that others are trunks of several. */
  readonly isVlanAware: Fact<boolean>;
  /** What its machines may ask for; null when nothing. */
  readonly served: Fact<ServedFact>;
  /** Its subnets, in the order in which they are searched for a machine. */
  readonly dhcpSubnets: Fact<readonly DhcpSubnetFact[]>;
  readonly dhcpV6Subnets: Fact<readonly DhcpV6SubnetFact[]>;
}

/** Which requests for configuration are answered on a bridge. */
export interface ServedFact {
  readonly dhcp: boolean;
  readonly dhcpV6: boolean;
  /** Router solicitations. */
  readonly advertisements: boolean;
}

/** What a bridge with these subnets answers; null if nothing. */
export function servedBy(
  subnets: readonly DhcpSubnetFact[],
  v6Subnets: readonly DhcpV6SubnetFact[],
): ServedFact | null {
  const enabled = v6Subnets.filter((subnet) => subnet.enabled);
  const served = {
    dhcp: subnets.some((subnet) => subnet.enabled),
    dhcpV6: enabled.some(({ addressing }) => addressing !== 'slaac'),
    advertisements: enabled.some(({ advertisement }) => advertisement !== undefined),
  };
  return served.dhcp || served.dhcpV6 || served.advertisements ? served : null;
}

export interface RouterFact extends Taps {
  readonly id: string;
  readonly adminStateUp: boolean;
  /** Absent when the datapath cannot translate. */
  readonly sourceNat?: SourceNatFact;
  readonly loadBalancer?: Fact<LoadBalancerFact>;
  /** What packets pass before they are routed, the chain of local redirection first. */
  readonly inboundFilters?: readonly Fact<ChainFact>[];
  /** What packets pass when their way is known, the forward chain first. */
  readonly outboundFilters?: readonly Fact<ChainFact>[];
  /**
   * The best routes for the packet, of equal weight; none when its destination is not reachable. What was read of the packet to find
   * them is added to `seen`.
   */
  routes(packet: FlowKey, seen: FlowMask): Fact<readonly RouteFact[]>;
}

export interface LoadBalancerFact {
  readonly id: string;
  readonly adminStateUp: boolean;
  /** The VIP that the packet goes to: see vip-index.ts. What was read of the packet to find it is added to `seen`. */
  vip(packet: FlowKey, seen: FlowMask): Fact<VipAnswer<VipFact>> | undefined;
  /** Which host tries whether the members work; null when none does. */
  readonly checker?: Fact<HealthCheckerFact>;
}

/** Of another host: the way to it, with the tunnel key under which it takes the answers of members. */
export type HealthCheckerFact =
  | { readonly type: 'local' }
  | { readonly type: 'remote'; readonly tunnel: Fact<TunnelPath>; readonly tunnelKey: number };

/**
 * The value of a fact about VIPs: what is known of the VIP; null for none; or `tracked`: the address is a VIP's, but only the
 * connection can tell whether the packet is the VIP's business, because it is a fragment, or an ICMP error, which is about
 * another packet, or goes to another port, as answers do to what was sent from the VIP's address.
 */
export type VipAnswer<V> = V | 'tracked';

export interface VipFact {
  readonly id: string;
  readonly adminStateUp: boolean;
  /** Whether the connections of one client all go to one member. */
  readonly isSticky: boolean;
  readonly pool: Fact<PoolFact>;
}

export interface PoolFact {
  readonly id: string;
  readonly adminStateUp: boolean;
  readonly members: MemberTable<BalancedMember>;
}

export interface BalancedMember extends TableMember {
  /** One word of IPv4, four of IPv6. */
  readonly address: Uint32Array;
  readonly port: number;
}

/** How this host translates sources for a device. */
export interface SourceNatFact {
  /** In which it tracks the connections that it has translated for the device (see connection.ts), 1 to 65535. */
  readonly zone: Fact<number>;
  /**
   * Ports of the address in `words` (one of IPv4, four of IPv6), of those from `first` to `last`, which this host may
   * translate to, in ranges; null when there is none to be had.
   */
  ports(words: Uint32Array, first: number, last: number): Fact<readonly PortRange[]>;
  /**
   * Which host translates to the address in `words[offset…]` and the ports of a block: those with the same upper
   * {@link NAT_BLOCK_BITS} bits. Null when nobody does. Without a block (of ICMP, which has no ports): whoever translates to
   * the address, this host first.
   */
  owner(words: Uint32Array, offset: number, length: number, block: number | undefined): Fact<NatOwner>;
}

/** How many upper bits of a port tell the block that it is in. */
export const NAT_BLOCK_BITS = 10;

export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** Of another host: the way to it, with the tunnel key by which it knows the device. */
export type NatOwner =
  | { readonly type: 'local' }
  | { readonly type: 'remote'; readonly tunnel: Fact<TunnelPath>; readonly tunnelKey: number };

/** `normal` leaves at a port; `local` is for the router itself; `reject` tells the sender, `blackhole` does not. */
export type RouteFact =
  | { readonly id: string; readonly type: 'blackhole' | 'reject' | 'local' }
  | {
      readonly id: string;
      readonly type: 'normal';
      readonly port: Fact<PortFact>;
      /** Words of the next hop's address; the destination is a neighbour itself where there is none. */
      readonly gateway?: Uint32Array;
    };

export interface MacFact {
  readonly port: Fact<PortFact>;
}

export interface NeighborFact {
  readonly mac: number;
  /** Whether it is known to be a router, which IPv6 hosts are told. */
  readonly isRouter?: boolean;
}

export interface RemoteHost {
  readonly tunnel: Fact<TunnelPath>;
  /** Stands for all ports of the bridge on that host. */
  readonly floodKey: number;
  /** Stands for those that are not isolated; absent when none is. */
  readonly openFloodKey?: number;
}

/** A list of rules, as packets are held against it. */
export interface ChainFact {
  readonly id: string;
  readonly rules: RuleIndex<RuleFact>;
  /** Whether a rule of its own asks for the state of the connection, or translates addresses. */
  readonly isStateful: boolean;
  /** The chains that its rules jump to, and how many rules do. */
  readonly jumps: ReadonlyMap<Fact<ChainFact>, number>;
  /** The ports that its rules redirect to, in the same way. */
  readonly targets: ReadonlyMap<Fact<PortFact>, number>;
  /** A group that one of its conditions compares with. */
  addressGroup(id: string): AddressGroupFact;
}

interface AnyRuleFact {
  readonly id: string;
  readonly position: string;
  readonly condition: Condition;
}

/** What a rule does with a packet that its condition matches: see ruleSchema. */
export type RuleFact =
  | SimpleRuleFact
  | UnreadableRuleFact
  | JumpRuleFact
  | TraceRuleFact
  | NatRuleFact
  | TagRuleFact
  | RedirectRuleFact;

export interface SimpleRuleFact extends AnyRuleFact {
  readonly type: 'accept' | 'drop' | 'reject' | 'return' | 'continue';
}

/** Nobody here knows what it does, or with which packets; nothing that comes to it passes. */
export interface UnreadableRuleFact extends AnyRuleFact {
  readonly type: 'unreadable';
}

export interface JumpRuleFact extends AnyRuleFact {
  readonly type: 'jump';
  readonly chain: Fact<ChainFact>;
}

export interface TraceRuleFact extends AnyRuleFact {
  readonly type: 'trace';
  readonly traceRequestId: string;
  /** At most so many packets; undefined: no limit. */
  readonly limit: number | undefined;
}

export interface NatRuleFact extends AnyRuleFact {
  readonly type: 'dnat' | 'snat' | 'reverse-dnat' | 'reverse-snat';
  readonly action: 'accept' | 'continue' | 'return';
  /** None of reverse rules. */
  readonly targets: readonly NatTarget[];
}

/** Addresses of one family, one word of IPv4 or four of IPv6, and ports to translate to. */
export interface NatTarget {
  readonly start: Uint32Array;
  readonly end: Uint32Array;
  readonly ports: { readonly start: number; readonly end: number } | undefined;
}

/** Takes a VLAN tag off, puts one on, or both in that order. */
export interface TagRuleFact extends AnyRuleFact {
  readonly type: 'tag';
  readonly action: 'accept' | 'continue' | 'drop' | 'reject' | 'return';
  readonly popVlan: boolean;
  /** Priority and VLAN of the tag that is put on, as in tag control information. */
  readonly pushTag: number | undefined;
}

/** Sends the packet out of `target`, or into it as if it had come from there, with the VLAN tag changed before. */
export interface RedirectRuleFact extends AnyRuleFact {
  readonly type: 'redirect';
  readonly popVlan: boolean;
  /** Priority and VLAN of the tag that is put on, as in tag control information. */
  readonly pushTag: number | undefined;
  readonly target: Fact<PortFact>;
  readonly ingress: boolean;
  /** Whether a packet that cannot leave at the target goes on as if it had come back from there. */
  readonly failOpen: boolean;
}

/** A quality of service policy. */
export interface QosFact {
  /** What IP packets are marked with: the six bits above those of congestion notification (RFC 2474, RFC 3168). */
  readonly dscp: number | undefined;
  /** What limits the rate of a port of this host: the meter in the datapath, null if it has none. Absent without a limit. */
  meter?(portId: string): Fact<number>;
}

/** Copies packets, as they are where it is, out of a port. */
export interface MirrorFact {
  readonly id: string;
  readonly port: Fact<PortFact>;
  /** It copies what one of them matches. */
  readonly conditions: readonly CompiledCondition[];
  /** Whether a condition asks for the state of the connection. */
  readonly isStateful: boolean;
  /** A group that one of the conditions compares with. */
  addressGroup(id: string): AddressGroupFact;
}

/** A group of addresses: of each by itself, whether it is a member (null: it is not). */
export interface AddressGroupFact {
  ipv4(address: number): Fact<true>;
  /** Of the IPv6 address in `words[offset..offset+3]`. */
  ipv6(words: Uint32Array, offset: number): Fact<true>;
}

/** An IPv4 subnet of a bridge, as DHCP hands it out. Addresses are unsigned 32-bit numbers. */
export interface DhcpSubnetFact {
  readonly id: string;
  readonly enabled: boolean;
  /** Its range. */
  readonly address: number;
  readonly prefix: number;
  readonly serverAddress: number | undefined;
  readonly gateway: number | undefined;
  readonly dnsServers: readonly number[];
  readonly domainName: string | undefined;
  readonly leaseSeconds: number;
  readonly mtu: number | undefined;
  readonly routes: readonly { readonly address: number; readonly prefix: number; readonly router: number }[];
  /** What is set aside for a machine, by its MAC address. */
  host(mac: number): Fact<DhcpHostFact>;
}

export interface DhcpHostFact {
  readonly address: number;
  readonly name: string | undefined;
  /** Options to send besides, by code. */
  readonly options: ReadonlyMap<number, Uint8Array>;
}

/** An IPv6 subnet of a bridge. Lifetimes in seconds, 0xffffffff for ever. */
export interface DhcpV6SubnetFact {
  readonly id: string;
  readonly enabled: boolean;
  /** Its range. */
  readonly address: Ipv6;
  readonly prefix: number;
  /** See dhcpV6SubnetSchema. */
  readonly addressing: 'slaac' | 'stateless' | 'stateful';
  readonly dnsServers: readonly Ipv6[];
  readonly domainSearch: readonly string[];
  readonly preferredLifetime: number;
  readonly validLifetime: number;
  readonly gateway: Ipv6 | undefined;
  readonly mtu: number | undefined;
  /** Undefined: router solicitations are not answered. */
  readonly advertisement:
    | {
        readonly routerLifetime: number;
        readonly preferredLifetime: number;
        readonly validLifetime: number;
        readonly onLink: boolean;
      }
    | undefined;
  /** What is set aside for a machine, by its identifier (DUID) in hexadecimal. */
  host(duid: string): Fact<DhcpV6HostFact>;
}

export interface DhcpV6HostFact {
  readonly address: Ipv6;
}
