import { EtherType } from '../packet/ethernet.js';
import { copyByCaptures } from './capture.js';
import { areStateful, evaluate, type Verdict } from './chain.js';
import type { SimulationContext } from './context.js';
import type { ChainFact, Fact, MirrorFact, PortFact, PortTaps, RedirectRuleFact, TunnelTarget } from './fact.js';
import { askConnection, copyByMirrors } from './mirror.js';
import { translate } from './nat.js';
import { limitRate } from './qos.js';
import { prohibited } from './reply.js';
import { outputToHost } from './tunnel.js';

/** The port at which a packet enters a device; undefined if it does not get in, or that is not known yet. */
export function ingressPort(context: SimulationContext, fact: Fact<PortFact>): PortFact | undefined {
  const port = context.read(fact);
  if (port === undefined) return undefined;
  if (port === null) context.drop('no-port');
  else if (comesIn(context, fact, port)) return port;
  return undefined;
}

function comesIn(context: SimulationContext, fact: Fact<PortFact>, port: PortFact): boolean {
  context.trace?.push({ type: 'in', port: port.id, device: port.type, ...(context.isMirrorCopy && { isCopy: true }) });
  if (port.peer === undefined) context.entry = fact;
  mirror(context, port.inboundMirrors);
  copyByCaptures(context, port.inboundCaptures);
  if (!port.adminStateUp && context.entrance !== 'returned') {
    context.drop('port-down');
    return false;
  }
  if (fact === context.ingress) limitRate(context, port);
  trackBy(context, port);
  if (!passesServices(context, port) || !passes(context, port.inboundFilters)) return false;
  mirror(context, port.postInFilterMirrors);
  return true;
}

/** Whether the packet goes on into the device: not if it takes the way through an inserted service, or comes back from one. */
function passesServices(context: SimulationContext, port: PortFact): boolean {
  if (port.type !== 'bridge') return true;
  if (port.service !== undefined && filter(context, [port.service]) !== 'accept') return false;
  // What a rule has sent here was there.
  if (port.services === undefined || context.entrance !== 'plain') return true;
  return filter(context, [port.services.inbound]) === 'accept';
}

/** A packet leaves a device at a port: into the device behind it, or out of the virtual network. */
export function egressPort(context: SimulationContext, fact: Fact<PortFact>): void {
  const port = context.read(fact);
  if (port === undefined) return;
  if (port === null) return context.drop('no-port');
  context.trace?.push({ type: 'out', port: port.id });
  context.outPort = fact;
  mirror(context, port.preOutFilterMirrors);
  if (!port.adminStateUp) return context.drop('port-down');
  if (port.type === 'bridge' && port.service !== undefined) return context.drop('service-port');
  trackBy(context, port);
  if (!passes(context, port.outboundFilters)) return;
  if (port.type === 'bridge' && port.services !== undefined && !passes(context, [port.services.outbound])) return;
  emit(context, port);
}

/** Mirrors copy the packet as it is here. */
export function mirror(context: SimulationContext, mirrors: readonly Fact<MirrorFact>[] | undefined): void {
  if (mirrors !== undefined && mirrors.length > 0) copyByMirrors(context, mirrors, outputCopy);
}

/** A mirror's copy leaves at the mirror's port, whose filters are for others. */
function outputCopy(context: SimulationContext, fact: Fact<PortFact>): void {
  const port = context.read(fact);
  if (port === undefined) return;
  if (port === null) return context.drop('no-port');
  // Flooded from there it might come to the same mirror on the host before, which cannot know that it has.
  if (port.peer !== undefined && context.isFromOtherHost) return context.drop('loop');
  context.trace?.push({ type: 'out', port: port.id });
  context.outPort = fact;
  mirror(context, port.preOutFilterMirrors);
  if (port.adminStateUp) emit(context, port);
  else context.drop('port-down');
}

/**
 * A packet has passed the port's filters.
 * @param isRedirected a rule has sent it there, perhaps back to where it came from
 */
function emit(context: SimulationContext, port: PortFact, isRedirected = false): void {
  mirror(context, port.outboundMirrors);
  copyByCaptures(context, port.outboundCaptures);
  if (port.peer !== undefined) return context.enter(port.peer);
  if (port.location === null) return context.drop('unbound-port');
  if (port.location.type === 'local') {
    const output = context.read(port.location.output);
    if (output === null) context.drop('unbound-port');
    // Bridges never send a packet back; a router may, to another machine behind the same port.
    else if (output === context.key.inPort && !context.headers.isRouted && !isRedirected) context.drop('same-port');
    else if (output !== undefined) outputHere(context, output, port.location.zone);
    return;
  }
  if (!outputToHost(context, port.location.tunnel, port.location.tunnelKey)) context.drop('no-tunnel');
}

/** A copy out of a port of this host. */
function outputHere(context: SimulationContext, output: number, fact: Fact<number> | undefined): void {
  const zone = fact === undefined ? null : context.read(fact);
  if (zone === undefined) return;
  const tracking = zone === null ? [] : context.tracking.actionsAtEgress(zone);
  context.output([...tracking, { type: 'output', port: output }]);
}

/**
 * The packet comes to a port or device. If packets of either direction may be asked there what they are to their
 * connection, that is to be known of the connection of this one.
 */
export function trackBy(
  context: SimulationContext,
  at: Pick<PortFact, 'inboundFilters' | 'outboundFilters'> & PortTaps,
): void {
  if (
    areStateful(context, at.inboundFilters) ||
    areStateful(context, at.outboundFilters) ||
    askConnection(context, at.inboundMirrors) ||
    askConnection(context, at.outboundMirrors) ||
    askConnection(context, at.postInFilterMirrors) ||
    askConnection(context, at.preOutFilterMirrors)
  ) {
    context.tracking.track();
  }
}

/** Whether the packet passes all filters. If not it has been dropped or sent another way, or that is not known yet. */
export function passes(context: SimulationContext, filters: readonly Fact<ChainFact>[] | undefined): boolean {
  return filters === undefined || filters.length === 0 || filter(context, filters) === 'accept';
}

/** Does what the filters say but for accepting: the packet goes on then. */
export function filter(context: SimulationContext, filters: readonly Fact<ChainFact>[]): Verdict {
  const verdict = evaluate(context, filters, translate);
  if (verdict === 'drop') context.drop('filtered');
  else if (verdict === 'unreadable') context.drop('unreadable-rule');
  else if (verdict === 'reject') reject(context);
  else if (typeof verdict === 'object') redirect(context, verdict);
  return verdict;
}

/** Bridges have no address to say so from, so only routers tell the sender: who sent what was for the router, untagged. */
function reject(context: SimulationContext): void {
  context.drop('rejected');
  const { packet, mask, inPort, outPort } = context;
  const port = inPort?.value;
  if (inPort === undefined || port?.type !== 'router') return;
  mask.seeEthType();
  if (packet.vlanTci !== 0 || (packet.ethType !== EtherType.IPV4 && packet.ethType !== EtherType.IPV6)) return;
  if (outPort === undefined) {
    mask.seeEthDst();
    if (packet.ethDst !== port.mac) return;
  }
  context.reply(inPort, port, prohibited(packet));
}

/** Out of the target its filters count as passed. */
function redirect(context: SimulationContext, { target, ingress, failOpen }: RedirectRuleFact): void {
  if (ingress) return context.enter(target, 'redirected');
  const port = context.read(target);
  if (port === undefined) return;
  const isUp = port === null ? false : isReady(context, port);
  if (isUp === undefined) return;
  if (isUp) {
    context.trace?.push({ type: 'out', port: port!.id });
    context.outPort = target;
    trackBy(context, port!);
    emit(context, port!, true);
  } else if (failOpen && port !== null) context.enter(target, 'returned');
  else context.drop('port-down');
}

/** Whether packets can leave at the port; undefined while that is not known. */
function isReady(context: SimulationContext, { adminStateUp, peer, location }: PortFact): boolean | undefined {
  if (!adminStateUp) return false;
  if (peer !== undefined) return true;
  if (location === null) return false;
  const output = context.read<unknown>(location.type === 'local' ? location.output : location.tunnel);
  return output === undefined ? undefined : output !== null;
}

/**
 * A copy out of every port of this host that takes whatever comes, but for the one that it came in at; there, too, if a
 * router has sent it on.
 */
export function outputHereToAll(context: SimulationContext, { outputs, zones }: TunnelTarget): void {
  for (let i = 0; i < outputs.length; i++) {
    const port = outputs[i];
    if (port === context.key.inPort && !context.headers.isRouted) continue;
    const tracking = zones === undefined ? [] : context.tracking.actionsAtEgress(zones[i]);
    context.output([...tracking, { type: 'output', port }]);
  }
}
