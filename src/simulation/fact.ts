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
  | { readonly type: 'port'; readonly port: Fact<PortFact> }
  /** `target` gives what a tunnel key of this host stands for. */
  | { readonly type: 'tunnel'; target(tunnelKey: number): Fact<TunnelTarget> };

/** The datapath ports that a packet with a tunnel key goes out at. */
export interface TunnelTarget {
  readonly outputs: readonly number[];
}

export interface PortFact {
  readonly id: string;
  readonly adminStateUp: boolean;
  /** The only MAC address behind the port, if that is known. */
  readonly mac: number | undefined;
  readonly bridge: Fact<BridgeFact>;
  /** Where packets leave through this port; null while that is nowhere (unbound, or its host is not ready). */
  readonly location: PortLocation | null;
}

export type PortLocation =
  | { readonly type: 'local'; readonly output: Fact<number> }
  | { readonly type: 'remote'; readonly tunnel: Fact<TunnelPath>; readonly tunnelKey: number };

/** The way to another host: datapath port of the tunnel device, outer IPv4 addresses. */
export interface TunnelPath {
  readonly output: number;
  readonly src: number;
  readonly dst: number;
}

export interface BridgeFact {
  readonly id: string;
  readonly adminStateUp: boolean;
  /** Which port a MAC address is behind. */
  mac(mac: number): Fact<MacFact>;
  /** The MAC address of an IPv4 address. */
  ipv4(address: number): Fact<NeighborFact>;
  /** The MAC address of the IPv6 address in `words[offset..offset+3]`. */
  ipv6(words: Uint32Array, offset: number): Fact<NeighborFact>;
  /** Datapath ports of the bridge's ports on this host. */
  readonly localOutputs: Fact<readonly number[]>;
  /** The other hosts that have ports of the bridge. */
  readonly remoteHosts: Fact<readonly RemoteHost[]>;
}

export interface MacFact {
  readonly port: Fact<PortFact>;
}

export interface NeighborFact {
  readonly mac: number;
}

export interface RemoteHost {
  readonly tunnel: Fact<TunnelPath>;
  /** Stands for all ports of the bridge on that host. */
  readonly floodKey: number;
}
