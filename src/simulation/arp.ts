import { Word } from '../flow/key.js';
import { isMachineMac } from '../packet/address.js';
import { ArpOp, buildArpReply } from '../packet/arp.js';
import type { SimulationContext } from './context.js';
import type { BridgeFact } from './fact.js';

/**
 * Answer a broadcast ARP request for an address that the bridge knows (RFC 826). Requests that announce or probe the
 * sender's own address (RFC 5227) go on to the others.
 * @returns whether the packet needs no forwarding: it was answered, or the facts for that are not in hand
 */
export function answerArp(context: SimulationContext, bridge: BridgeFact): boolean {
  const { packet, mask } = context;
  mask.seeNwProto();
  // A tagged request would need a tagged answer from a table of that VLAN.
  if (packet.nwProto !== ArpOp.REQUEST || packet.vlanTci !== 0) return false;
  mask.seeIpv4Src();
  mask.seeIpv4Dst();
  if (packet.ipv4Src === packet.ipv4Dst) return false;
  const neighbor = context.read(bridge.ipv4(packet.ipv4Dst));
  if (neighbor === undefined) return true;
  if (neighbor === null) return false;
  mask.seeArpSha();
  if (neighbor.mac === packet.arpSha) return false;
  context.answer(buildArpReply(neighbor.mac, packet.ipv4Dst, packet.arpSha, packet.ipv4Src));
  return true;
}

/**
 * Have the bridge know the address that a machine announces to everybody (gratuitous ARP, RFC 5227 section 3), in a
 * request or a reply. What is known of a router is better than what anybody says.
 */
export function hearArpAnnouncement(context: SimulationContext, bridge: BridgeFact): void {
  const { packet, mask } = context;
  mask.seeNwProto();
  const isArp = packet.nwProto === ArpOp.REQUEST || packet.nwProto === ArpOp.REPLY;
  if (!isArp || packet.vlanTci !== 0) return;
  mask.seeIpv4Src();
  mask.seeIpv4Dst();
  if (packet.ipv4Src !== packet.ipv4Dst || packet.ipv4Src === 0) return;
  const known = context.read(bridge.ipv4(packet.ipv4Src));
  if (known === undefined || known?.isRouter) return;
  mask.seeArpSha();
  if (!isMachineMac(packet.arpSha)) return;
  const address = packet.words.slice(Word.NW_SRC, Word.NW_SRC + 1);
  context.hear({ type: 'announce', bridge, address, mac: packet.arpSha });
}
