import { linkLocalAddress } from '../packet/address.js';
import { buildRouterAdvertisement } from '../packet/router-advertisement.js';
import { CONFIGURATION_SERVER_MAC, FOR_EVER, nameService } from './answer.js';
import type { DhcpV6SubnetFact } from './fact.js';

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

/**
 * The frame that answers a router solicitation: one advertisement for all subnets of a bridge. Without a gateway it comes
 * from the server itself, which is then no default router.
 * @param mtu of the largest packet that fits the underlay, encapsulated
 */
export function advertise(
  subnets: readonly AdvertisedSubnet[],
  gateway: AdvertisedGateway | undefined,
  machine: { readonly mac: number; readonly address: ArrayLike<number> },
  mtu: number,
): Uint8Array {
  const mac = gateway?.mac ?? CONFIGURATION_SERVER_MAC;
  // A router is known by its link-local address (RFC 4861 section 4.2).
  const src = gateway !== undefined && isLinkLocal(gateway.address) ? gateway.address : linkLocalAddress(mac);
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
      // Nothing is advertised unasked, so what is said must hold until the machine asks again.
      dnsLifetime: FOR_EVER,
    },
    { src, dst: machine.address, dstMac: machine.mac },
  );
}

/** fe80::/10. */
function isLinkLocal(address: ArrayLike<number>): boolean {
  return address[0] >>> 22 === 0x3fa;
}
