import { Word } from '../flow/key.js';
import { IPV6_UNSPECIFIED, ipv6Equal, linkLocalAddress } from '../packet/address.js';
import { ArpOp, buildArpReply } from '../packet/arp.js';
import { buildNeighborAdvertisement } from '../packet/nd.js';
import type { SimulationContext } from './context.js';
import { type Fact, type PortFact, prefixContains, type RouterPortFact } from './fact.js';
import { isNeighborSolicitation } from './nd.js';

/**
 * Answer an ARP request for an address of the router's at this port, from a sender in its network (RFC 826). Nothing of
 * ARP goes through a router.
 */
export function answerRouterArp(context: SimulationContext, fact: Fact<PortFact>, port: RouterPortFact): void {
  const { packet, mask } = context;
  mask.seeNwProto();
  if (packet.nwProto !== ArpOp.REQUEST) return context.drop('not-routable');
  mask.seeIpv4Src();
  mask.seeIpv4Dst();
  const own = port.addresses.find(({ words }) => words.length === 1 && words[0] === packet.ipv4Dst);
  if (own === undefined || !prefixContains(own, packet.words, Word.NW_SRC)) return context.drop('not-for-router');
  mask.seeArpSha();
  context.send(fact, buildArpReply(port.mac, packet.ipv4Dst, packet.arpSha, packet.ipv4Src));
}

/**
 * Answer a neighbour solicitation for an address of the router's at this port (RFC 4861 section 7.2.4), its link-local
 * one included.
 * @returns whether it was one, so that nothing else is to be done
 */
export function answerRouterSolicitation(
  context: SimulationContext,
  fact: Fact<PortFact>,
  port: RouterPortFact,
): boolean {
  if (!isNeighborSolicitation(context)) return false;
  const { packet, mask } = context;
  mask.seeNdTarget();
  const target = packet.words.subarray(Word.ND_TARGET, Word.ND_TARGET + 4);
  const isOwn =
    ipv6Equal(target, linkLocalAddress(port.mac)) ||
    port.addresses.some(({ words }) => words.length === 4 && ipv6Equal(words, target));
  if (!isOwn) {
    context.drop('not-for-router');
    return true;
  }
  mask.seeEthSrc();
  mask.seeIpv6Src();
  const src = packet.words.subarray(Word.NW_SRC, Word.NW_SRC + 4);
  const override = !ipv6Equal(src, IPV6_UNSPECIFIED);
  const answer = { target, targetMac: port.mac, dst: src, dstMac: packet.ethSrc, override, router: true };
  context.send(fact, buildNeighborAdvertisement(answer));
  return true;
}
