import type { SimulationContext } from './context.js';
import type { BridgeFact, BridgePortFact, PortFact } from './fact.js';

/** Mark a packet that comes in at a bridge as the port's policy says, or else the bridge's. Only machines' packets are. */
export function markPacket(context: SimulationContext, bridge: BridgeFact, port: BridgePortFact): void {
  const policy = port.qos ?? bridge.qos;
  if (policy === undefined || port.peer !== undefined) return;
  const dscp = context.read(policy)?.dscp;
  if (dscp !== undefined) context.headers.setDscp(dscp);
}

/** What comes in at the port from a machine has a limit where its policy says so. What comes back has passed it before. */
export function limitRate(context: SimulationContext, port: PortFact): void {
  if (port.type !== 'bridge' || context.key.recircId !== 0) return;
  const policy = port.qos ?? context.read(port.bridge)?.qos;
  const fact = policy === undefined ? undefined : context.read(policy)?.meter?.(port.id);
  const meter = fact === undefined ? undefined : context.read(fact);
  if (meter !== undefined && meter !== null) context.limitBy(meter);
}
