import type { FlowKey } from '../flow/key.js';
import { EtherType } from '../packet/ethernet.js';
import { bridgeInput } from './bridge.js';
import { takeConfigurationRequest } from './configuration.js';
import { type Limits, SimulationContext } from './context.js';
import type { Decision } from './decision.js';
import type { Fact, Ingress, PortFact } from './fact.js';
import { egressPort, ingressPort, passes } from './port.js';
import { routerInput } from './router.js';

/**
 * Work out what happens to a packet that came in with `key` at the datapath port that `ingress` describes. A pure
 * function: the same key and facts give the same decision, and so does every key that agrees in the bits of its mask.
 *
 * @param bytes the packet, where there is one: only decisions for it alone (`install` is false) go by more than the key
 */
export function simulate(key: FlowKey, ingress: Fact<Ingress>, limits: Limits, bytes?: Uint8Array): Decision {
  const context = new SimulationContext(key, limits, bytes);
  const entry = context.read(ingress);
  if (entry === null) context.drop('no-port');
  else if (entry?.type === 'port') {
    context.ingress = entry.port;
    if (!takeConfigurationRequest(context, entry.port)) {
      context.enter(entry.port);
      walk(context);
    }
  }
  if (entry?.type === 'tunnel') {
    // The host that sent it has simulated it up to the port that the key names.
    context.mask.seeTunDst();
    context.mask.seeTunId();
    const target = context.read(entry.target(key.tunId));
    if (target === null) context.drop('unknown-tunnel-key');
    else if (target !== undefined) for (const port of target.outputs) context.output([{ type: 'output', port }]);
  }
  return context.decision();
}

/**
 * Work out what happens to a packet of a device's own that leaves it at `port`. `key` is that of the packet, with no datapath port:
 * nothing of it may be put in a flow.
 */
export function simulateSent(key: FlowKey, port: Fact<PortFact>, limits: Limits): Decision {
  const context = new SimulationContext(key, limits);
  if (passesDevice(context, port)) egressPort(context, port);
  walk(context);
  return context.decision();
}

/** Whether a packet of a router's own passes what filters the router has behind its routes. ARP is not routed. */
function passesDevice(context: SimulationContext, fact: Fact<PortFact>): boolean {
  const port = context.read(fact);
  if (port?.type !== 'router' || context.packet.ethType === EtherType.ARP) return true;
  const router = context.read(port.router);
  if (router === undefined) return false;
  context.outPort = fact;
  return passes(context, router?.outboundFilters);
}

/** From device to device, until no copy of the packet is left in one. */
function walk(context: SimulationContext): void {
  for (let visit = context.nextVisit(); visit !== undefined; visit = context.nextVisit()) {
    const port = ingressPort(context, visit);
    if (port?.type === 'bridge') bridgeInput(context, port);
    else if (port?.type === 'router') routerInput(context, visit, port);
  }
}
