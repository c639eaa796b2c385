import type { FlowKey } from '../flow/key.js';
import { EtherType } from '../packet/ethernet.js';
import { NdType } from '../packet/nd.js';
import { bridgeInput } from './bridge.js';
import { handOver } from './capture.js';
import { takeConfigurationRequest } from './configuration.js';
import { type Recirculations, TRACKED_TUNNEL_KEY, TRANSLATED_TUNNEL_KEY } from './connection.js';
import { type Limits, SimulationContext } from './context.js';
import type { Decision } from './decision.js';
import type { Fact, Ingress, PortFact, RouterFact } from './fact.js';
import { reverseHere } from './nat.js';
import { isNeighborMessage, isNeighborSolicitation } from './nd.js';
import { egressPort, ingressPort, outputHereToAll, passes } from './port.js';
import { routeReply, routerInput } from './router.js';
import type { TraceStep } from './trace.js';

/**
 * Work out what happens to a packet that came in with `key` at the datapath port that `ingress` describes. A pure
 * function: the same key and facts give the same decision, and so does every key that agrees in the bits of its mask.
 *
 * @param recirculations absent when the datapath cannot track connections: packets that need that are dropped
 * @param bytes the packet, where there is one: only decisions for it alone (`install` is false) go by more than the key
 * @param trace gets the steps of the packet's way; nothing else depends on it
 */
export function simulate(
  key: FlowKey,
  ingress: Fact<Ingress>,
  limits: Limits,
  recirculations?: Recirculations,
  bytes?: Uint8Array,
  trace?: TraceStep[],
): Decision {
  const sentFrom = key.recircId === 0 ? undefined : recirculations?.get(key.recircId).value?.sentFrom;
  if (sentFrom !== undefined) return simulateSent(key, sentFrom, limits, recirculations, bytes, trace);
  const way = ingress.value;
  const port = way?.type === 'port' ? way.port : undefined;
  const elsewhereZone = way?.type === 'port' ? way.zone : undefined;
  const context = new SimulationContext(key, limits, { ingress: port, elsewhereZone, recirculations, bytes, trace });
  context.read(ingress);
  if (way === null) context.drop('no-port');
  else if (way?.type === 'tunnel') leaveTunnel(context, way);
  else if (way !== undefined && !takeConfigurationRequest(context, way.port)) context.enter(way.port);
  walk(context);
  return context.decision();
}

/**
 * Work out what happens to a packet of a device's own that leaves it at `port`. `key` is that of the packet, with no datapath port:
 * nothing of it may be put in a flow.
 */
export function simulateSent(
  key: FlowKey,
  port: Fact<PortFact>,
  limits: Limits,
  recirculations?: Recirculations,
  bytes?: Uint8Array,
  trace?: TraceStep[],
): Decision {
  const context = new SimulationContext(key, limits, { sentFrom: port, recirculations, bytes, trace });
  // It may speak of a connection whose addresses are translated, as ICMP errors do.
  context.tracking.track();
  if (passesDevice(context, port)) egressPort(context, port);
  walk(context);
  return context.decision();
}

/** Whether a packet of a router's own passes what filters the router has behind its routes. What finds neighbours takes none. */
function passesDevice(context: SimulationContext, fact: Fact<PortFact>): boolean {
  const port = context.read(fact);
  if (port?.type !== 'router' || findsNeighbors(context)) return true;
  const router = context.read(port.router);
  if (router === undefined) return false;
  context.outPort = fact;
  return passes(context, router?.outboundFilters);
}

/** Whether the packet, which a router has sent, is ARP or neighbour discovery. */
function findsNeighbors(context: SimulationContext): boolean {
  const { ethType } = context.packet;
  if (ethType !== EtherType.IPV6) return ethType === EtherType.ARP;
  return isNeighborSolicitation(context) || isNeighborMessage(context, NdType.NEIGHBOR_ADVERTISEMENT);
}

/** The host that sent the packet has simulated it up to the ports that its tunnel key names. */
function leaveTunnel(context: SimulationContext, tunnel: Extract<Ingress, { type: 'tunnel' }>): void {
  const { key, mask } = context;
  mask.seeTunDst();
  mask.seeTunId();
  const target = context.read(tunnel.target(key.tunId & ~(TRACKED_TUNNEL_KEY | TRANSLATED_TUNNEL_KEY)));
  if (target === null) return context.drop('unknown-tunnel-key');
  if (target === undefined) return;
  if (target.takesHealthAnswers) return context.hear({ type: 'health' });
  if (target.capture !== undefined) return handOver(context, target.capture);
  if ((key.tunId & TRACKED_TUNNEL_KEY) !== 0) context.tracking.track();
  if (target.router !== undefined) translateReply(context, target.router);
  outputHereToAll(context, target);
  context.isFlooded = target.ports.length > 0;
  for (const port of target.ports) context.branch(() => egressPort(context, port));
}

/** Another host has sent here what came to the router, because this one has translated its connection for it. */
function translateReply(context: SimulationContext, fact: Fact<RouterFact>): void {
  const router = context.read(fact);
  if (router === undefined) return;
  if (router === null) return context.drop('no-router');
  if (router.sourceNat === undefined) return context.drop('no-connection-state');
  const outcome = reverseHere(context, router.sourceNat);
  if (outcome === 'unmade') context.drop('no-nat-connection');
  else if (outcome === 'done') routeReply(context, router);
}

/** From device to device, until no copy of the packet is left in one. */
function walk(context: SimulationContext): void {
  for (let visit = context.nextVisit(); visit !== undefined; visit = context.nextVisit()) {
    const port = ingressPort(context, visit);
    if (port?.type === 'bridge') bridgeInput(context, port);
    else if (port?.type === 'router') routerInput(context, visit, port);
  }
}
