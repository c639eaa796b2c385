import type { FlowKey } from '../flow/key.js';
import { bridgeInput } from './bridge.js';
import { type Limits, SimulationContext } from './context.js';
import type { Decision } from './decision.js';
import type { Fact, Ingress } from './fact.js';
import { ingressPort } from './port.js';

/**
 * Work out what happens to a packet that came in with `key` at the datapath port that `ingress` describes. A pure
 * function: the same key and facts give the same decision, and so does every key that agrees in the bits of its mask.
 */
export function simulate(key: FlowKey, ingress: Fact<Ingress>, limits: Limits): Decision {
  const context = new SimulationContext(key, limits);
  const entry = context.read(ingress);
  if (entry === null) context.drop('no-port');
  else if (entry?.type === 'port') {
    const port = ingressPort(context, entry.port);
    if (port !== undefined) bridgeInput(context, port);
  }
  if (entry?.type === 'tunnel') {
    // The host that sent it has simulated it up to the port that the key names.
    context.mask.seeTunDst();
    context.mask.seeTunId();
    const target = context.read(entry.target(key.tunId));
    if (target === null) context.drop('unknown-tunnel-key');
    else if (target !== undefined) for (const port of target.outputs) context.copy([{ type: 'output', port }]);
  }
  return context.decision();
}
