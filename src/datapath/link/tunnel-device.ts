import { UnsupportedError } from '../../errors.js';
import { NetlinkError } from '../netlink/errors.js';
import type { Link } from './link.js';
import { InterfaceExistsError, type Links } from './links.js';
import { LinkRequests } from './requests.js';
import { EADDRINUSE, EEXIST, EINVAL, ENODEV } from './rtnetlink.js';

/** A tunnel interface in external mode: the datapath gives each packet its tunnel header fields. */
export type TunnelDevice =
  /** `port`: UDP port. */
  | { readonly kind: 'vxlan'; readonly name: string; readonly port: number }
  | { readonly kind: 'gretap'; readonly name: string };

/**
 * MTU of tunnel interfaces. What fits into the physical network is decided where packets come from, so these must not
 * be a second limit; OVS takes the same number.
 */
export const TUNNEL_MTU = 65000;
/** Where the kernel refuses {@link TUNNEL_MTU}: what fits into an Ethernet frame with any tunnel header. */
const FALLBACK_MTU = 1450;

function isAsWanted(link: Link, device: TunnelDevice): boolean {
  const { kind, tunnel } = link;
  if (kind !== device.kind || !tunnel?.external) {
    return false;
  }
  return (
    device.kind === 'gretap' ||
    (tunnel.port === device.port && tunnel.learning === false && tunnel.zeroChecksum6Receive === true)
  );
}

function add(device: TunnelDevice): LinkRequests {
  const requests = new LinkRequests();
  const link = { name: device.name, mtu: TUNNEL_MTU, up: true };
  return device.kind === 'vxlan' ? requests.addVxlan(link, device.port) : requests.addGretap(link);
}

/**
 * See to it that the tunnel interface is there and up, as wanted. One of its name that is different is replaced.
 * @throws NetlinkError EEXIST or EADDRINUSE, naming the interface in the way where another one has the same tunnel
 * @throws UnsupportedError if the kernel cannot make such interfaces
 */
export async function ensureTunnelDevice(links: Links, device: TunnelDevice, signal?: AbortSignal): Promise<Link> {
  const before = await links.get(device.name, signal);
  if (before !== undefined) {
    if (isAsWanted(before, device)) {
      return finish(links, before, signal);
    }
    await links.delete(before.index, signal);
  }
  try {
    await links.apply(add(device), signal);
  } catch (error) {
    throw await explain(links, device, error, signal);
  }
  const made = await links.get(device.name, signal);
  if (made === undefined || !isAsWanted(made, device)) {
    await links.delete(device.name, signal);
    throw new UnsupportedError(`${device.kind} interface in external mode`, 'the kernel ignored what was asked for');
  }
  return finish(links, made, signal);
}

/** Up, and with the largest MTU: the GRE driver takes none while the interface is being made. */
async function finish(links: Links, link: Link, signal: AbortSignal | undefined): Promise<Link> {
  if (link.mtu !== TUNNEL_MTU) {
    try {
      await links.set(link.index, { mtu: TUNNEL_MTU }, signal);
    } catch (error) {
      if (!(error instanceof NetlinkError && error.errno === EINVAL)) {
        throw error;
      }
      await links.set(link.index, { mtu: FALLBACK_MTU }, signal);
    }
  }
  if (!link.up) {
    await links.set(link.index, { up: true }, signal);
  }
  const finished = await links.get(link.index, signal);
  if (finished === undefined) {
    throw new NetlinkError(`set up link ${link.name}`, ENODEV, { message: 'somebody deleted it' });
  }
  return finished;
}

/** Who is in the way? */
async function explain(
  links: Links,
  device: TunnelDevice,
  error: unknown,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  const refused = error instanceof InterfaceExistsError ? error.cause : error;
  if (!(refused instanceof NetlinkError && (refused.errno === EEXIST || refused.errno === EADDRINUSE))) {
    return error;
  }
  const port = device.kind === 'vxlan' ? device.port : undefined;
  const others = (await links.list(signal)).filter(
    (link) => link.kind === device.kind && link.tunnel?.port === port && (port !== undefined || link.tunnel?.external),
  );
  const what = port === undefined ? 'GRE' : `UDP port ${port}`;
  const who = others.length > 0 ? `interface ${others.map((link) => link.name).join(', ')}` : 'another program';
  return new NetlinkError(refused.asked, refused.errno, { ...refused.detail, message: `${what} is taken by ${who}` });
}
