import { type Ipv6, ipv6Equal, isLinkLocalIpv6, linkLocalAddress } from '../packet/address.js';
import { buildRouterAdvertisement } from '../packet/router-advertisement.js';
import { type Answer, CONFIGURATION_SERVER_MAC, FOR_EVER, nameService, noAnswer } from './answer.js';
import type { BridgeFact, DhcpV6SubnetFact, Fact, NeighborFact } from './fact.js';

const HOP_LIMIT = 64;
/** Addresses are made of a prefix and 64 bits of the machine's (RFC 4862 section 5.5.3, RFC 2464 section 4). */
const AUTONOMOUS_PREFIX = 64;

/** A subnet of the bridge that says what is advertised. */
export type AdvertisedSubnet = DhcpV6SubnetFact & {
  readonly advertisement: NonNullable<DhcpV6SubnetFact['advertisement']>;
};

/** Who is advertised as default router: its MAC address, and the address by which a subnet knows it. */
export interface AdvertisedGateway {
  readonly mac: number;
  readonly subnet: AdvertisedSubnet;
  readonly address: ArrayLike<number>;
}

/** A machine to which is advertised; all of the link if it has no address. */
export interface AdvertisementReader {
  readonly mac: number;
  readonly address: ArrayLike<number>;
}

/** What is advertised on a bridge. */
export interface Advertised {
  readonly subnets: readonly AdvertisedSubnet[];
  readonly gateway: AdvertisedGateway | undefined;
}

/** Nothing. */
export const NOT_ADVERTISED: Advertised = { subnets: [], gateway: undefined };

/**
 * What is advertised on a bridge, or the facts that are not in hand for that. The default router is the first that a subnet
 * names and of which the bridge knows the MAC address.
 */
export function advertisedOn(
  bridge: BridgeFact,
): Advertised | { readonly type: 'wait'; readonly missing: readonly Fact<unknown>[] } {
  const { value } = bridge.dhcpV6Subnets;
  if (value === undefined) return { type: 'wait', missing: [bridge.dhcpV6Subnets] };
  const subnets = (value ?? []).filter(isAdvertised);
  for (const subnet of subnets) {
    const { gateway } = subnet;
    if (gateway === undefined) continue;
    const neighbor = gatewayFact(bridge, gateway);
    if (neighbor.value === undefined) return { type: 'wait', missing: [neighbor] };
    if (neighbor.value !== null) {
      return { subnets, gateway: { mac: neighbor.value.mac, subnet, address: gateway } };
    }
  }
  return { subnets, gateway: undefined };
}

/** The MAC address of a gateway. */
export function gatewayFact(bridge: BridgeFact, address: Ipv6): Fact<NeighborFact> {
  return bridge.ipv6(Uint32Array.from(address), 0);
}

/** Answer a router solicitation. */
export function answerSolicitation(bridge: BridgeFact, reader: AdvertisementReader, mtu: number): Answer {
  const advertised = advertisedOn(bridge);
  if ('missing' in advertised) return advertised;
  if (advertised.subnets.length === 0) return noAnswer('not-advertised');
  return { type: 'frame', frame: advertise(advertised, reader, mtu) };
}

/**
 * What takes back that which was advertised `before` and is not any more: all of it ends at once (RFC 4861 section 6.2.5).
 * Undefined if there is nothing such.
 */
export function withdrawal(before: Advertised, now: Advertised): Advertised | undefined {
  const ended = before.subnets.filter((subnet) => !now.subnets.some((other) => isSameRange(subnet, other)));
  const { gateway } = before;
  const isGatewayKept = gateway === undefined || gateway.mac === now.gateway?.mac;
  if (ended.length === 0 && isGatewayKept) return undefined;
  const routerLifetime = isGatewayKept ? (now.gateway?.subnet.advertisement.routerLifetime ?? 0) : 0;
  const end = (subnet: AdvertisedSubnet): AdvertisedSubnet => ({
    ...subnet,
    advertisement: { ...subnet.advertisement, routerLifetime, preferredLifetime: 0, validLifetime: 0 },
  });
  return { subnets: ended.map(end), gateway: gateway && { ...gateway, subnet: end(gateway.subnet) } };
}

function isSameRange(a: DhcpV6SubnetFact, b: DhcpV6SubnetFact): boolean {
  return a.prefix === b.prefix && ipv6Equal(a.address, b.address);
}

function isAdvertised(subnet: DhcpV6SubnetFact): subnet is AdvertisedSubnet {
  return subnet.enabled && subnet.advertisement !== undefined;
}

/**
 * The frame with one advertisement for all subnets of a bridge. Without a gateway it comes from the server itself, which is
 * then no default router.
 * @param mtu of the largest packet that fits the underlay, encapsulated
 */
export function advertise({ subnets, gateway }: Advertised, reader: AdvertisementReader, mtu: number): Uint8Array {
  const mac = gateway?.mac ?? CONFIGURATION_SERVER_MAC;
  // A router is known by its link-local address (RFC 4861 section 4.2).
  const src = gateway !== undefined && isLinkLocalIpv6(gateway.address) ? gateway.address : linkLocalAddress(mac);
  return buildRouterAdvertisement(
    {
      hopLimit: HOP_LIMIT,
      managed: subnets.some(({ addressing }) => addressing === 'stateful'),
      other: subnets.some(({ addressing }) => addressing !== 'slaac'),
      lifetime: gateway?.subnet.advertisement.routerLifetime ?? 0,
      mac,
      mtu: Math.min(mtu, ...subnets.map((subnet) => subnet.mtu ?? mtu)),
      prefixes: subnets.map((subnet) => ({
        address: subnet.address,
        prefix: subnet.prefix,
        onLink: subnet.advertisement.onLink,
        autonomous: subnet.addressing !== 'stateful' && subnet.prefix === AUTONOMOUS_PREFIX,
        valid: subnet.advertisement.validLifetime,
        preferred: subnet.advertisement.preferredLifetime,
      })),
      ...nameService(subnets),
      // Names are looked up by these while the agent is away, too.
      dnsLifetime: subnets.every(({ advertisement }) => advertisement.validLifetime === 0) ? 0 : FOR_EVER,
    },
    { src, dst: reader.address, dstMac: reader.mac },
  );
}
