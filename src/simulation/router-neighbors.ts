import { Word } from '../flow/key.js';
import { IPV6_UNSPECIFIED, ipv6Equal, isLinkLocalIpv6, isMachineMac, linkLocalAddress } from '../packet/address.js';
import { ArpOp, buildArpReply } from '../packet/arp.js';
import { EtherType } from '../packet/ethernet.js';
import { buildNeighborAdvertisement, NdType } from '../packet/nd.js';
import type { SimulationContext } from './context.js';
import { type Fact, type InterfaceAddress, type PortFact, prefixContains, type RouterPortFact } from './fact.js';
import { isNeighborMessage, isNeighborSolicitation } from './nd.js';

/**
 * ARP at a router's port (RFC 826): requests for an address of the router's there are answered, and senders in the
 * network of the port are heard. Nothing of ARP goes through a router.
 */
export function routerArp(context: SimulationContext, fact: Fact<PortFact>, port: RouterPortFact): void {
  const { packet, mask } = context;
  mask.seeNwProto();
  const isRequest = packet.nwProto === ArpOp.REQUEST;
  if (!isRequest && packet.nwProto !== ArpOp.REPLY) return context.drop('not-routable');
  mask.seeIpv4Src();
  mask.seeIpv4Dst();
  mask.seeArpSha();
  const own = ownAddress(port, packet.words, Word.NW_DST, 1);
  // Who asks without an address of its own wants to know whether this one is in use (RFC 5227 section 2.1.1).
  if (isRequest && own !== undefined && packet.ipv4Src === 0) return reply(context, fact, port);
  const isNeighbor =
    port.addresses.some((one) => one.words.length === 1 && prefixContains(one, packet.words, Word.NW_SRC)) &&
    ownAddress(port, packet.words, Word.NW_SRC, 1) === undefined &&
    isMachineMac(packet.arpSha);
  const isForRouter = own !== undefined && (isRequest || packet.ethDst === port.mac);
  if (!isNeighbor || (!isForRouter && packet.ipv4Src !== packet.ipv4Dst)) return context.drop('not-for-router');
  hear(context, port, Word.NW_SRC, packet.arpSha, isForRouter);
  if (isRequest && isForRouter) reply(context, fact, port);
}

function reply(context: SimulationContext, fact: Fact<PortFact>, port: RouterPortFact): void {
  const { packet } = context;
  context.send(fact, buildArpReply(port.mac, packet.ipv4Dst, packet.arpSha, packet.ipv4Src));
}

/**
 * Neighbour discovery at a router's port (RFC 4861 section 7.2): solicitations for an address of the router's there, its
 * link-local one included, are answered; senders of these, and of advertisements, are heard.
 * @returns whether it was one, so that nothing else is to be done
 */
export function routerNeighborDiscovery(
  context: SimulationContext,
  fact: Fact<PortFact>,
  port: RouterPortFact,
): boolean {
  if (isNeighborSolicitation(context)) solicited(context, fact, port);
  else if (isNeighborMessage(context, NdType.NEIGHBOR_ADVERTISEMENT)) advertised(context, port);
  else return false;
  return true;
}

function solicited(context: SimulationContext, fact: Fact<PortFact>, port: RouterPortFact): void {
  const { packet, mask } = context;
  mask.seeNdTarget();
  const target = packet.words.subarray(Word.ND_TARGET, Word.ND_TARGET + 4);
  if (ownAddress(port, packet.words, Word.ND_TARGET, 4) === undefined) return context.drop('not-for-router');
  mask.seeEthSrc();
  mask.seeIpv6Src();
  mask.seeNdSource();
  const src = packet.words.subarray(Word.NW_SRC, Word.NW_SRC + 4);
  const isProbe = ipv6Equal(src, IPV6_UNSPECIFIED);
  if (!isProbe && isNeighborIpv6(port, packet.words, Word.NW_SRC) && isMachineMac(packet.arpSha)) {
    hear(context, port, Word.NW_SRC, packet.arpSha, true);
  }
  const answer = { target, targetMac: port.mac, dst: src, dstMac: packet.ethSrc, override: !isProbe, router: true };
  context.send(fact, buildNeighborAdvertisement(answer));
}

function advertised(context: SimulationContext, port: RouterPortFact): void {
  const { packet, mask } = context;
  mask.seeEthSrc();
  mask.seeNdTargetMac();
  // An answer to who knows the address already may leave it out (RFC 4861 section 4.4).
  const mac = packet.arpTha === 0 ? packet.ethSrc : packet.arpTha;
  if (!isNeighborIpv6(port, packet.words, Word.ND_TARGET) || !isMachineMac(mac)) return context.drop('not-for-router');
  hear(context, port, Word.ND_TARGET, mac, packet.ethDst === port.mac);
}

/** What the bridge behind the port knows of the address is better than what anybody says. */
function hear(
  context: SimulationContext,
  port: RouterPortFact,
  offset: number,
  mac: number,
  isForRouter: boolean,
): void {
  const { words, ethType } = context.packet;
  const isIpv4 = ethType === EtherType.ARP;
  if (port.peer !== undefined) {
    const peer = context.read(port.peer);
    if (peer?.type !== 'bridge') return;
    const bridge = context.read(peer.bridge);
    if (!bridge) return;
    if (context.read(isIpv4 ? bridge.ipv4(words[offset]) : bridge.ipv6(words, offset)) !== null) return;
  }
  const address = words.slice(offset, offset + (isIpv4 ? 1 : 4));
  context.hear({ type: 'neighbor', port, source: context.ingress?.value?.id, address, mac, isForRouter });
}

/** The router's address at the port that is in `words[offset…]`, if it is one. */
function ownAddress(
  port: RouterPortFact,
  words: Uint32Array,
  offset: number,
  length: 1 | 4,
): ArrayLike<number> | undefined {
  const given = words.subarray(offset, offset + length);
  const isGiven = (own: ArrayLike<number>) => own.length === length && given.every((word, i) => word === own[i]);
  if (length === 4 && isGiven(linkLocalAddress(port.mac))) return given;
  return port.addresses.find((one) => isGiven(one.words))?.words;
}

/** Whether a machine on the link may have the address: it is of a network there or link-local, and not the router's own. */
function isNeighborIpv6(port: RouterPortFact, words: Uint32Array, offset: number): boolean {
  if (ownAddress(port, words, offset, 4) !== undefined) return false;
  const isInNetwork = (one: InterfaceAddress) => one.words.length === 4 && prefixContains(one, words, offset);
  return isLinkLocalIpv6(words, offset) || port.addresses.some(isInNetwork);
}
