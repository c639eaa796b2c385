import type { Ip } from '../../packet/ip.js';
import { ipEqual } from './address.js';
import type { Link } from './link.js';
import type { Links } from './links.js';

/**
 * The interface that carries a local address: the one that tunnel packets from this address leave through, as far as
 * this host's own addresses tell. Its MTU limits them.
 * @returns undefined if the address is not this host's
 */
export async function findUnderlay(links: Links, local: Ip, signal?: AbortSignal): Promise<Link | undefined> {
  const addresses = await links.addresses(undefined, signal);
  const address = addresses.find((one) => ipEqual(one, local));
  return address && links.get(address.index, signal);
}
