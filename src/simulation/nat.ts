import type { NatSpec } from '../flow/action.js';
import { Frag, Word } from '../flow/key.js';
import { EtherType } from '../packet/ethernet.js';
import { IcmpType, isIcmpError } from '../packet/icmp.js';
import { Icmpv6Type, isIcmpv6Error } from '../packet/icmpv6.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import type { SimulationContext } from './context.js';
import { NAT_BLOCK_BITS, type NatRuleFact, type NatTarget, type PortRange, type SourceNatFact } from './fact.js';
import { outputToHost } from './tunnel.js';

/** Bits of a hash for each of the choices that can be made for a packet: none may depend on another. */
const CHOICE = { target: 0, address: 8, ports: 16 } as const;
const CHOICE_BITS = 8;

/** How many lower bits of a port may differ within a block. */
const SAME_BLOCK = 16 - NAT_BLOCK_BITS;

/** What the datapath did to the connection before, and nothing if it knows of none. */
export const RESTORE: NatSpec = { kind: 'restore' };

/**
 * What a rule does to the addresses of a packet that it matches. `pass`: it does not apply. `wait`: the packet does not go on
 * here, because something is not in hand, it has to come back translated first, or it has been dropped or sent elsewhere.
 */
export type Outcome = 'done' | 'pass' | 'wait';

/** Apply a rule that translates addresses to a packet that it matches. */
export function translate(context: SimulationContext, rule: NatRuleFact): Outcome {
  context.mask.seeEthType();
  const { ethType } = context.packet;
  if (ethType !== EtherType.IPV4 && ethType !== EtherType.IPV6) return 'pass';
  switch (rule.type) {
    case 'dnat':
      return isStatic(rule) ? setAddress(context, 'destination', rule.targets[0]) : translateByRule(context, rule);
    case 'snat':
      return isStatic(rule) ? setAddress(context, 'source', rule.targets[0]) : translateSource(context, rule);
    case 'reverse-dnat':
      return passReply(context);
    case 'reverse-snat':
      return reverseSource(context);
  }
}

/** A single address without ports: a substitution that needs no memory. */
function isStatic({ targets }: NatRuleFact): boolean {
  return targets[0].ports === undefined;
}

function setAddress(context: SimulationContext, side: 'source' | 'destination', { start }: NatTarget): Outcome {
  if (!isOfFamily(context, start)) return 'pass';
  context.headers.setAddress(side, start);
  if (side === 'destination') context.isDestinationRewritten = true;
  return 'done';
}

function isOfFamily({ packet }: SimulationContext, address: Uint32Array): boolean {
  return (address.length === 1) === (packet.ethType === EtherType.IPV4);
}

function translateByRule(context: SimulationContext, { targets }: NatRuleFact): Outcome {
  if (!hasConnection(context)) return 'pass';
  const outcome = translateDestination(context, () => {
    const target = chooseOne(
      context,
      CHOICE.target,
      targets.filter(({ start }) => isOfFamily(context, start)),
    );
    if (target === undefined || target === 'pass') return target;
    // Pings keep their identifier: all of one machine at the one port of a target would be one connection.
    return rangeOf('dst', isIcmp(context) ? { ...target, ports: undefined } : target);
  });
  return outcome === 'unmade' ? 'done' : outcome;
}

/**
 * Translate the destination of a new connection's packets to what `choose` says, and of others as their connection was. Not of
 * copies that mirrors make: the connection is that of the packet itself.
 * @param choose `pass`: to nothing. Undefined: it could not choose, and the context knows why
 * @returns `unmade`: the datapath had nothing to translate it to
 */
export function translateDestination(
  context: SimulationContext,
  choose: () => NatSpec | 'pass' | undefined,
): Outcome | 'unmade' {
  if (context.isMirrorCopy) return 'pass';
  const zone = context.tracking.entryZone();
  if (zone === undefined) return 'wait';
  // Nobody could translate the replies to what came in nowhere.
  if (zone === null) return 'pass';
  const outcome = context.tracking.translated('destination', zone);
  if (outcome === undefined) {
    const nat = choose();
    if (nat === 'pass') return 'pass';
    if (nat !== undefined) context.tracking.translate('destination', zone, nat);
    return 'wait';
  }
  if (outcome === 'unmade') return 'unmade';
  context.isDestinationRewritten = true;
  return 'done';
}

function translateSource(context: SimulationContext, { targets }: NatRuleFact): Outcome {
  if (!hasConnection(context)) return 'pass';
  const direction = context.tracking.direction();
  if (direction === undefined) return 'wait';
  // Replies keep the address that the other side knows.
  if (direction.way === 'return') return 'pass';
  const nat = sourceNatOf(context);
  if (nat === undefined) return 'wait';
  const zone = zoneOf(context, nat);
  if (zone === undefined) return 'wait';
  if (context.tracking.hasReversed(zone)) return 'pass';
  if (context.tracking.translated('source', zone) !== undefined) return 'done';

  const target = chooseOne(
    context,
    CHOICE.target,
    targets.filter(({ start }) => isOfFamily(context, start)),
  );
  if (target === 'pass') return 'pass';
  const address = target && chooseAddress(context, target);
  if (target === undefined || address === undefined) return 'wait';
  const { start, end } = target.ports!;
  const ranges = context.read(nat.ports(address, start, end));
  if (ranges === null) context.drop('no-nat-port');
  if (!ranges) return 'wait';
  const range = chooseOne(context, CHOICE.ports, ranges);
  if (range === undefined || range === 'pass') return 'wait';
  const ports: PortRange = { first: Math.max(range.first, start), last: Math.min(range.last, end) };
  const ip = Array.from(address);
  context.tracking.translate('source', zone, { kind: 'src', ipMin: ip, portMin: ports.first, portMax: ports.last });
  return 'wait';
}

/** Let the source be this address, at any port, as far as this host knows of connections to the destination. */
export function translateToAddress(context: SimulationContext, nat: SourceNatFact, address: Uint32Array): Outcome {
  const zone = zoneOf(context, nat);
  if (zone === undefined) return 'wait';
  if (context.tracking.translated('source', zone) !== undefined) return 'done';
  context.tracking.translate('source', zone, { kind: 'src', ipMin: Array.from(address) });
  return 'wait';
}

/** The datapath translates replies back where they leave. What is left to do is to let them pass. */
function passReply(context: SimulationContext): Outcome {
  const direction = context.tracking.direction();
  if (direction === undefined) return 'wait';
  return direction.isTranslated ? 'done' : 'pass';
}

function reverseSource(context: SimulationContext): Outcome {
  if (!hasConnection(context)) return 'pass';
  const nat = sourceNatOf(context);
  if (nat === undefined) return 'wait';
  const { packet, mask } = context;
  const isIpv4 = packet.ethType === EtherType.IPV4;
  if (isIpv4) mask.seeIpv4Dst();
  else mask.seeIpv6Dst();
  const ownerOf = (block: number | undefined) =>
    context.read(nat.owner(packet.words, Word.NW_DST, isIpv4 ? 1 : 4, block));
  let owner = ownerOf(blockOf(context));
  if (owner?.type === 'local') {
    const outcome = reverseHere(context, nat);
    if (outcome !== 'unmade') return outcome;
  }
  if (owner && answersWithoutPorts(context)) {
    const port = context.answeredPort();
    owner = port === null ? null : ownerOf(port >>> SAME_BLOCK);
  }
  if (owner === undefined) return 'wait';
  if (owner?.type !== 'remote') return 'pass';
  if (!outputToHost(context, owner.tunnel, owner.tunnelKey)) context.drop('no-tunnel');
  return 'wait';
}

/** An echo reply or an ICMP error: only the message itself tells which port it is for. */
function answersWithoutPorts({ packet, mask }: SimulationContext): boolean {
  const isIpv4 = packet.ethType === EtherType.IPV4;
  if (packet.nwProto !== (isIpv4 ? IpProtocol.ICMP : IpProtocol.ICMPV6)) return false;
  mask.seeNwFrag();
  if (packet.nwFrag === Frag.LATER) return false;
  mask.seeTpSrc();
  if (isIpv4) return packet.tpSrc === IcmpType.ECHO_REPLY || isIcmpError(packet.tpSrc);
  return packet.tpSrc === Icmpv6Type.ECHO_REPLY || isIcmpv6Error(packet.tpSrc);
}

/** Translate the destination of a reply back to what was the source, if this host has translated its connection. */
export function reverseHere(context: SimulationContext, nat: SourceNatFact): 'done' | 'unmade' | 'wait' {
  const zone = zoneOf(context, nat);
  if (zone === undefined) return 'wait';
  const outcome = context.tracking.translated('reverse', zone);
  if (outcome === undefined) {
    context.tracking.translate('reverse', zone, RESTORE);
    return 'wait';
  }
  if (outcome === 'unmade') return 'unmade';
  context.isDestinationRewritten = true;
  return 'done';
}

/** The block of the destination port; undefined of packets that have none. */
function blockOf(context: SimulationContext): number | undefined {
  const { packet, mask } = context;
  mask.seeNwProto();
  mask.seeNwFrag();
  if (isIcmp(context) || packet.nwFrag === Frag.LATER) return undefined;
  mask.seeTpDst(0xffff & ~(0xffff >>> NAT_BLOCK_BITS));
  return packet.tpDst >>> SAME_BLOCK;
}

/** Of a packet of which the protocol has been seen. */
function isIcmp({ packet: { nwProto } }: SimulationContext): boolean {
  return nwProto === IpProtocol.ICMP || nwProto === IpProtocol.ICMPV6;
}

/** Whether the datapath tells its connections apart, so that each can be translated by itself. */
function hasConnection({ packet, mask }: SimulationContext): boolean {
  mask.seeNwProto();
  switch (packet.nwProto) {
    case IpProtocol.TCP:
    case IpProtocol.UDP:
    case IpProtocol.SCTP:
      return true;
    case IpProtocol.ICMP:
      return packet.ethType === EtherType.IPV4;
    case IpProtocol.ICMPV6:
      return packet.ethType === EtherType.IPV6;
    default:
      return false;
  }
}

/** Of the device that the packet is in; undefined when it is not in hand or the device cannot translate. */
function sourceNatOf(context: SimulationContext): SourceNatFact | undefined {
  const port = (context.inPort ?? context.outPort)?.value;
  if (!port) return undefined;
  const device = port.type === 'router' ? context.read(port.router) : context.read(port.bridge);
  if (device && device.sourceNat === undefined) context.drop('no-connection-state');
  return device?.sourceNat;
}

function zoneOf(context: SimulationContext, nat: SourceNatFact): number | undefined {
  const zone = context.read(nat.zone);
  if (zone === null) context.drop('no-connection-state');
  return zone ?? undefined;
}

/** One of the candidates, by a hash of the packet where there are several; `pass` when there is none. */
function chooseOne<T>(context: SimulationContext, choice: number, candidates: readonly T[]): T | 'pass' | undefined {
  if (candidates.length === 0) return 'pass';
  const index = chooseIndex(context, choice, candidates.length);
  return index === undefined ? undefined : candidates[index];
}

/**
 * One of `count` numbers from 0 on, of many the first 256. As few bits of the hash decide as keep shares within an eighth of each
 * other: each of their values is a flow of its own.
 */
function chooseIndex(context: SimulationContext, choice: number, count: number): number | undefined {
  if (count === 1) return 0;
  const least = 32 - Math.clz32(count - 1);
  const bits = Math.min(CHOICE_BITS, 2 ** least === count ? least : least + 3);
  const bucket = context.tracking.bucket(bits, choice);
  return bucket === undefined ? undefined : (bucket * Math.min(count, 2 ** CHOICE_BITS)) >>> bits;
}

/** One of the addresses of a target. */
function chooseAddress(context: SimulationContext, { start, end }: NatTarget): Uint32Array | undefined {
  const last = start.length - 1;
  const isWide = start.some((word, i) => i < last && word !== end[i]);
  const index = chooseIndex(context, CHOICE.address, isWide ? 2 ** 32 - start[last] : end[last] - start[last] + 1);
  if (index === undefined) return undefined;
  const address = start.slice();
  address[last] += index;
  return address;
}

function rangeOf(kind: 'src' | 'dst', { start, end, ports }: NatTarget): NatSpec {
  const addresses = { ipMin: Array.from(start), ipMax: Array.from(end) };
  return ports === undefined
    ? { kind, ...addresses }
    : { kind, ...addresses, portMin: ports.start, portMax: ports.end };
}
