import { formatIpv6, linkLocalAddress } from '../packet/address.js';
import { buildRouterAdvertisement } from '../packet/router-advertisement.js';
import { type Answer, CONFIGURATION_SERVER_MAC, noAnswer } from './answer.js';
import type { BridgeFact, DhcpV6SubnetFact } from './fact.js';

const HOP_LIMIT = 64;
const FOR_EVER = 0xffff_ffff;
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

/**
 * What a bridge says of its IPv6 subnets. The default router is the first that a subnet names and of which the bridge
 * knows the MAC address.
 * @param mtu of the largest packet that fits the underlay, encapsulated
 */
export function advertiseSubnets(bridge: BridgeFact, reader: AdvertisementReader, mtu: number): Answer {
  const { value: subnets } = bridge.dhcpV6Subnets;
  if (subnets === undefined) return { type: 'wait', missing: [bridge.dhcpV6Subnets] };
  const advertised = (subnets ?? []).filter(isAdvertised);
  if (advertised.length === 0) return noAnswer('not-advertised');
  for (const subnet of advertised) {
    const { gateway } = subnet;
    if (gateway === undefined) continue;
    const neighbor = bridge.ipv6(Uint32Array.from(gateway), 0);
    if (neighbor.value === undefined) return { type: 'wait', missing: [neighbor] };
    if (neighbor.value === null) continue;
    const router = { mac: neighbor.value.mac, subnet, address: gateway };
    return { type: 'frame', frame: advertise(advertised, router, reader, mtu) };
  }
  return { type: 'frame', frame: advertise(advertised, undefined, reader, mtu) };
}

function isAdvertised(subnet: DhcpV6SubnetFact): subnet is AdvertisedSubnet {
  return subnet.enabled && subnet.advertisement !== undefined;
}

/**
 * The frame that answers a router solicitation: one advertisement for all subnets of a bridge. Without a gateway it comes
 * from the server itself, which is then no default router.
 * @param mtu of the largest packet that fits the underlay, encapsulated
 */
export function advertise(
  subnets: readonly AdvertisedSubnet[],
  gateway: AdvertisedGateway | undefined,
  reader: AdvertisementReader,
  mtu: number,
): Uint8Array {
  const mac = gateway?.mac ?? CONFIGURATION_SERVER_MAC;
  // A router is known by its link-local address (RFC 4861 section 4.2).
  const src = gateway !== undefined && isLinkLocal(gateway.address) ? gateway.address : linkLocalAddress(mac);
  const servers = new Map(subnets.flatMap(({ dnsServers }) => dnsServers.map((one) => [formatIpv6(one), one])));
  const domainSearch = [...new Set(subnets.flatMap((subnet) => subnet.domainSearch))];
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
      dnsServers: [...servers.values()],
      domainSearch,
      // Nothing is advertised unasked, so what is said must hold until the machine asks again.
      dnsLifetime: FOR_EVER,
    },
    { src, dst: reader.address, dstMac: reader.mac },
  );
}

/** fe80::/10. */
function isLinkLocal(address: ArrayLike<number>): boolean {
  return address[0] >>> 22 === 0x3fa;
}
