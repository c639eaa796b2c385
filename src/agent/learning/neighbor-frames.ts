import { IPV6_UNSPECIFIED, isLinkLocalIpv6, linkLocalAddress, MAC_BROADCAST, parseMac } from '../../packet/address.js';
import { ArpOp, buildArp, buildGratuitousArp } from '../../packet/arp.js';
import { buildEthernet, EtherType } from '../../packet/ethernet.js';
import { type Ip, parseIp } from '../../packet/ip.js';
import { buildNeighborAdvertisement, buildNeighborSolicitation } from '../../packet/nd.js';
import { prefixContains, type RouterPortFact } from '../../simulation/fact.js';
import { type Port, routerPortMac } from '../../topology/types.js';

/**
 * The frame by which a router asks for the MAC address of a neighbour at a port: all machines there, or (`mac`) only the
 * one that had it. Undefined when the address is in no network of the port's, so nobody there would answer.
 */
export function neighborQuestion(port: RouterPortFact, target: Ip, mac?: number): Uint8Array | undefined {
  const words = Uint32Array.from(target.words);
  const own = port.addresses.find((one) => one.words.length === words.length && prefixContains(one, words, 0));
  if (target.family === 4) {
    if (own === undefined) return undefined;
    const question = {
      op: ArpOp.REQUEST,
      senderMac: port.mac,
      senderIp: own.words[0],
      targetMac: 0,
      targetIp: words[0],
    };
    return buildEthernet({ dst: mac ?? MAC_BROADCAST, src: port.mac, type: EtherType.ARP }, buildArp(question));
  }
  if (own === undefined && !isLinkLocalIpv6(words)) return undefined;
  const src = own === undefined || isLinkLocalIpv6(words) ? linkLocalAddress(port.mac) : own.words;
  const question = { src, srcMac: port.mac, target: words };
  return buildNeighborSolicitation(mac === undefined ? question : { ...question, dst: words, dstMac: mac });
}

/** The frames that tell machines at a router's port which addresses are the router's (RFC 5227 section 2.3, RFC 4861 section 7.2.6). */
export function announcements(port: Port): Uint8Array[] {
  const mac = parseMac(routerPortMac(port))!;
  return (port.subnets ?? []).map((subnet) => {
    const { family, words } = parseIp(subnet.slice(0, subnet.indexOf('/')))!;
    if (family === 4) return buildGratuitousArp(mac, words[0]);
    const advertisement = { target: words, targetMac: mac, dst: IPV6_UNSPECIFIED, dstMac: 0, router: true };
    return buildNeighborAdvertisement(advertisement);
  });
}
