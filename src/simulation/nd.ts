import { Frag, Word } from '../flow/key.js';
import { IPV6_UNSPECIFIED, ipv6Equal, isMachineMac } from '../packet/address.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { buildNeighborAdvertisement, ND_HOP_LIMIT, NdType } from '../packet/nd.js';
import type { SimulationContext } from './context.js';
import type { BridgeFact } from './fact.js';

/**
 * Answer a multicast neighbour solicitation for an address that the bridge knows (RFC 4861 section 7.2.4). A probe for
 * the sender's own address (RFC 4862 section 5.4.3) goes on to the others.
 * @returns whether the packet needs no forwarding: it was answered, or the facts for that are not in hand
 */
export function answerNeighborSolicitation(context: SimulationContext, bridge: BridgeFact): boolean {
  if (!isNeighborSolicitation(context)) return false;
  const { packet, mask } = context;
  mask.seeNdTarget();
  const neighbor = context.read(bridge.ipv6(packet.words, Word.ND_TARGET));
  if (neighbor === undefined) return true;
  if (neighbor === null || neighbor.mac === packet.ethSrc) return false;
  const src = packet.words.subarray(Word.NW_SRC, Word.NW_SRC + 4);
  context.answer(
    buildNeighborAdvertisement({
      target: packet.words.subarray(Word.ND_TARGET, Word.ND_TARGET + 4),
      targetMac: neighbor.mac,
      dst: src,
      dstMac: packet.ethSrc,
      router: neighbor.isRouter,
      // The address is in use, but what a duplicate prober has cached is not ours to replace.
      override: !ipv6Equal(src, IPV6_UNSPECIFIED),
    }),
  );
  return true;
}

/**
 * Have the bridge know the address that a machine announces to everybody in a neighbour advertisement that nobody asked for
 * (RFC 4861 section 7.2.6).
 */
export function hearAdvertisement(context: SimulationContext, bridge: BridgeFact): void {
  if (!isNeighborMessage(context, NdType.NEIGHBOR_ADVERTISEMENT)) return;
  const { packet, mask } = context;
  mask.seeNdTargetMac();
  const known = context.read(bridge.ipv6(packet.words, Word.ND_TARGET));
  if (known === undefined || known?.isRouter || !isMachineMac(packet.arpTha)) return;
  const address = packet.words.slice(Word.ND_TARGET, Word.ND_TARGET + 4);
  context.hear({ type: 'announce', bridge, address, mac: packet.arpTha });
}

/** Whether the packet, which is IPv6, is a neighbour solicitation without a VLAN tag from a machine of this link. */
export function isNeighborSolicitation(context: SimulationContext): boolean {
  return isNeighborMessage(context, NdType.NEIGHBOR_SOLICITATION);
}

/** Whether the packet, which is IPv6, is a message of neighbour discovery of this type, without a VLAN tag, from this link. */
export function isNeighborMessage({ packet, mask }: SimulationContext, type: number): boolean {
  mask.seeNwProto();
  if (packet.nwProto !== IpProtocol.ICMPV6 || packet.vlanTci !== 0) return false;
  mask.seeNwFrag();
  if (packet.nwFrag !== Frag.NONE) return false;
  mask.seeTpSrc();
  mask.seeTpDst();
  mask.seeNwTtl();
  // A hop limit below 255 means that a router forwarded it: RFC 4861 section 7.1.1 says to ignore those.
  return packet.tpSrc === type && packet.tpDst === 0 && packet.nwTtl === ND_HOP_LIMIT;
}
