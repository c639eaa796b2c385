import { type FlowKey, Frag } from '../flow/key.js';
import type { SimulationContext } from './context.js';
import type { LoadBalancerFact } from './fact.js';
import { outputToHost } from './tunnel.js';

/**
 * The ports that members are asked from whether they work, at an address of one of their VIPs. IANA has given these to nothing;
 * so many that what is left over of one question does not disturb the next.
 */
export const HEALTH_PORT = 864;
export const HEALTH_PORTS = 8;

/**
 * A packet to the address of a VIP answers what the host asked that checks the load balancer's members: it goes to that host's
 * agent. Returns whether it does; undefined when that is not known yet.
 */
export function takeHealthAnswer(context: SimulationContext, balancer: LoadBalancerFact): boolean | undefined {
  const checker = balancer.checker === undefined ? null : context.read(balancer.checker);
  if (checker === null) return false;
  if (checker === undefined) return undefined;
  if (checker.type === 'local') context.hear({ type: 'health' });
  else if (!outputToHost(context, checker.tunnel, checker.tunnelKey)) context.drop('no-tunnel');
  return true;
}

/**
 * Whether a packet goes to a port that members are asked from: of TCP, UDP or SCTP, as codes of ICMP are smaller. What is read of it
 * the look-up of VIPs has seen.
 */
export function isToHealthPort({ nwFrag, tpDst }: FlowKey): boolean {
  return nwFrag === Frag.NONE && isHealthPort(tpDst);
}

export function isHealthPort(port: number): boolean {
  return port >= HEALTH_PORT && port < HEALTH_PORT + HEALTH_PORTS;
}
