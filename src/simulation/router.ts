import { type FlowKey, Frag, Word } from '../flow/key.js';
import { isLinkLocalIpv6, isMulticastMac } from '../packet/address.js';
import { EtherType } from '../packet/ethernet.js';
import { IcmpType, UnreachableCode } from '../packet/icmp.js';
import { Icmpv6Type, Unreachable6Code } from '../packet/icmpv6.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { takeRenewal } from './configuration.js';
import type { SimulationContext } from './context.js';
import type { DropReason, Reply } from './decision.js';
import { chooseRoute } from './ecmp.js';
import {
  type Fact,
  isBroadcastOf,
  type NeighborFact,
  type PortFact,
  type RouteFact,
  type RouterFact,
  type RouterPortFact,
} from './fact.js';
import { balance } from './load-balancer.js';
import { egressPort, filter, mirror, trackBy } from './port.js';
import { prohibited } from './reply.js';
import { routerArp, routerNeighborDiscovery } from './router-neighbors.js';
import { nextHopStep } from './trace.js';

type NormalRoute = Extract<RouteFact, { type: 'normal' }>;

/** A packet arrives at a router from one of its ports. */
export function routerInput(context: SimulationContext, fact: Fact<PortFact>, port: RouterPortFact): void {
  const router = context.read(port.router);
  if (router === undefined) return;
  if (router === null) return context.drop('no-router');
  context.trace?.push({ type: 'device', device: 'router', id: router.id });
  context.pass(router.id);
  trackBy(context, router);

  const { packet, mask } = context;
  mask.seeEthDst();
  if (packet.vlanTci !== 0) return context.drop('not-routable');
  const isForMany = isMulticastMac(packet.ethDst);
  // What others should have, and was flooded, is not its business.
  if (!isForMany && packet.ethDst !== port.mac) return context.drop('not-for-router');
  if (router.adminStateUp) mirror(context, router.inboundMirrors);
  mask.seeEthType();
  if (packet.ethType === EtherType.ARP) return routerArp(context, fact, port);
  if (packet.ethType !== EtherType.IPV4 && packet.ethType !== EtherType.IPV6) return context.drop('not-routable');
  if (packet.ethType === EtherType.IPV6 && routerNeighborDiscovery(context, fact, port)) return;
  // A router takes no part in groups.
  if (isForMany) return context.drop('not-routable');
  if (!isRoutable(context)) return context.drop('not-routable');
  if (!router.adminStateUp) return refuse(context, 'router-down', prohibited(packet));

  const balanced = balance(context, router);
  if (balanced === 'wait') return;
  if (balanced === 'pass' && !passesRouter(context, router.inboundFilters)) return;
  route(context, router);
}

/**
 * A reply to what this host translated for the router came to the router on another host, which sent it here, and has
 * its destination back. Where it goes in at the router is not known, so nobody can be told of errors.
 */
export function routeReply(context: SimulationContext, router: RouterFact): void {
  context.pass(router.id);
  trackBy(context, router);
  route(context, router);
}

/** Drop the packet, and tell its sender out of the port of the router where it came in, if it came in at one. */
function refuse(context: SimulationContext, reason: DropReason, reply: Reply): void {
  answer(context, reply);
  context.drop(reason);
}

/** @returns whether it is known where the packet came in, and so where to answer */
function answer(context: SimulationContext, reply: Reply): boolean {
  const { inPort } = context;
  const port = inPort?.value;
  if (inPort === undefined || port?.type !== 'router') return false;
  context.reply(inPort, port, reply);
  return true;
}

function route(context: SimulationContext, router: RouterFact): void {
  const { packet, mask } = context;
  const routes = context.read(router.routes(packet, mask));
  if (routes === undefined) return;
  if (routes === null || routes.length === 0) return refuse(context, 'no-route', noRoute(packet));
  const chosen = chooseRoute(routes, packet, mask);
  context.trace?.push({ type: 'route', route: chosen.id, kind: chosen.type, of: routes.length });
  switch (chosen.type) {
    case 'blackhole':
      return context.drop('blackhole');
    case 'reject':
      return refuse(context, 'rejected', prohibited(packet));
    case 'local':
      if (isEchoRequest(context) ? answer(context, { type: 'echo' }) : takeRenewal(context)) return;
      return context.drop('for-router');
    case 'normal':
      return forward(context, router, chosen);
  }
}

function forward(context: SimulationContext, router: RouterFact, route: NormalRoute): void {
  const { packet, mask } = context;
  mask.seeNwTtl();
  const ttl = packet.nwTtl;
  if (ttl <= 1) return refuse(context, 'ttl-exceeded', timeExceeded(packet));
  const out = context.read(route.port);
  if (out === undefined) return;
  if (out === null || out.type !== 'router') return context.drop('no-port');
  if (!out.adminStateUp) return refuse(context, 'port-down', prohibited(packet));
  if (route.gateway === undefined && isToAll(context, out)) return context.drop('not-routable');
  context.outPort = route.port;
  if (!passesRouter(context, router.outboundFilters)) return;
  const neighbor = nextHop(context, out, route.gateway);
  if (neighbor === undefined) return;
  context.trace?.push(nextHopStep(packet, route.gateway, neighbor));
  if (neighbor === null) return refuse(context, 'no-neighbor', unreachable(packet, route.gateway !== undefined));
  context.setEthernet(out.mac, neighbor.mac);
  context.headers.setTtl(ttl - 1);
  mirror(context, router.outboundMirrors);
  egressPort(context, route.port);
}

/**
 * Whether the packet passes the router's own filters. What is dropped as a first fragment may be so because it is one: as
 * in MidoNet, the sender is asked to send smaller ones.
 */
function passesRouter(context: SimulationContext, filters: RouterFact['inboundFilters']): boolean {
  if (filters === undefined || filters.length === 0) return true;
  const verdict = filter(context, filters);
  if (verdict === 'drop' && context.packet.ethType === EtherType.IPV4) {
    context.mask.seeNwFrag();
    if (context.packet.nwFrag === Frag.FIRST) {
      refuse(context, 'filtered', error(IcmpType.UNREACHABLE, UnreachableCode.FRAGMENTATION_NEEDED));
    }
  }
  return verdict === 'accept';
}

/** Whether the packet is for all machines of a network at the port, which a router does not forward (RFC 2644). */
function isToAll({ packet, mask }: SimulationContext, out: RouterPortFact): boolean {
  if (packet.ethType !== EtherType.IPV4) return false;
  mask.seeIpv4Dst();
  return isBroadcastOf(out, packet.ipv4Dst);
}

/** Who takes the packet at the port: the gateway, or the destination itself. */
export function nextHop(
  context: SimulationContext,
  out: RouterPortFact,
  gateway: Uint32Array | undefined,
): NeighborFact | null | undefined {
  const { packet, mask } = context;
  const isIpv4 = packet.ethType === EtherType.IPV4;
  let words = packet.words;
  let offset: number = Word.NW_DST;
  if (gateway !== undefined) {
    words = gateway;
    offset = 0;
  } else if (isIpv4) mask.seeIpv4Dst();
  else mask.seeIpv6Dst();
  if (out.peer !== undefined) {
    const peer = context.read(out.peer);
    if (peer === undefined) return undefined;
    if (peer === null) return null;
    if (peer.type === 'router') return hasAddress(peer, words, offset, isIpv4) ? { mac: peer.mac } : null;
    const bridge = context.read(peer.bridge);
    if (bridge === undefined) return undefined;
    if (bridge === null) return null;
    const known = context.read(isIpv4 ? bridge.ipv4(words[offset]) : bridge.ipv6(words, offset));
    if (known !== null) return known;
  }
  return context.read(isIpv4 ? out.ipv4(words[offset]) : out.ipv6(words, offset));
}

function hasAddress(port: RouterPortFact, words: Uint32Array, offset: number, isIpv4: boolean): boolean {
  const length = isIpv4 ? 1 : 4;
  return port.addresses.some((address) => {
    if (address.words.length !== length) return false;
    for (let i = 0; i < length; i++) if (address.words[i] !== words[offset + i]) return false;
    return true;
  });
}

/**
 * Whether routers may forward from this source and to this destination: not where either is a group, the host itself or
 * nobody, or the destination is one link only (RFC 1812 sections 5.3.7 and 4.2.2.11, RFC 4291 sections 2.5.2, 2.5.3 and
 * 2.5.6).
 */
function isRoutable({ packet, mask }: SimulationContext): boolean {
  if (packet.ethType === EtherType.IPV4) {
    mask.seeIpv4Src(8);
    mask.seeIpv4Dst(8);
    return isRoutableIpv4(packet.ipv4Src) && isRoutableIpv4(packet.ipv4Dst);
  }
  mask.seeIpv6Src(16);
  mask.seeIpv6Dst(16);
  const { words } = packet;
  if (!isRoutableIpv6(words, Word.NW_SRC) || !isRoutableIpv6(words, Word.NW_DST)) return false;
  if (words[Word.NW_SRC] >>> 16 !== 0 && words[Word.NW_DST] >>> 16 !== 0) return true;
  mask.seeIpv6Src(96);
  mask.seeIpv6Dst(96);
  return !isZero(words, Word.NW_SRC) && !isZero(words, Word.NW_DST);
}

function isRoutableIpv4(address: number): boolean {
  const first = address >>> 24;
  return first !== 0 && first !== 127 && first < 224;
}

/** Not groups (ff00::/8), nor what is of one link. */
function isRoutableIpv6(words: Uint32Array, offset: number): boolean {
  return words[offset] >>> 24 !== 0xff && !isLinkLocalIpv6(words, offset);
}

/** Whether the first 96 bits are zero: ::, ::1 and the addresses that RFC 4291 section 2.5.5.1 made obsolete. */
function isZero(words: Uint32Array, offset: number): boolean {
  return (words[offset] | words[offset + 1] | words[offset + 2]) === 0;
}

function isEchoRequest({ packet, mask }: SimulationContext): boolean {
  mask.seeNwProto();
  mask.seeNwFrag();
  if (packet.nwFrag !== Frag.NONE) return false;
  const isIpv4 = packet.ethType === EtherType.IPV4;
  if (packet.nwProto !== (isIpv4 ? IpProtocol.ICMP : IpProtocol.ICMPV6)) return false;
  mask.seeTpSrc();
  return packet.tpSrc === (isIpv4 ? IcmpType.ECHO_REQUEST : Icmpv6Type.ECHO_REQUEST);
}

function error(icmpType: number, icmpCode: number): Reply {
  return { type: 'error', icmpType, icmpCode };
}

function noRoute({ ethType }: FlowKey): Reply {
  return ethType === EtherType.IPV4
    ? error(IcmpType.UNREACHABLE, UnreachableCode.NETWORK)
    : error(Icmpv6Type.UNREACHABLE, Unreachable6Code.NO_ROUTE);
}

function unreachable(packet: FlowKey, isGateway: boolean): Reply {
  if (packet.ethType !== EtherType.IPV4) return error(Icmpv6Type.UNREACHABLE, Unreachable6Code.ADDRESS);
  return error(IcmpType.UNREACHABLE, isGateway ? UnreachableCode.NETWORK : UnreachableCode.HOST);
}

/** Codes 0: in transit (RFC 792 page 6, RFC 4443 section 3.3). */
function timeExceeded({ ethType }: FlowKey): Reply {
  return error(ethType === EtherType.IPV4 ? IcmpType.TIME_EXCEEDED : Icmpv6Type.TIME_EXCEEDED, 0);
}
