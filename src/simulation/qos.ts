import type { SimulationContext } from './context.js';
import type { BridgeFact, BridgePortFact } from './fact.js';

/** Mark a packet that comes in at a bridge as the port's policy says, or else the bridge's. Only machines' packets are. */
export function markPacket(context: SimulationContext, bridge: BridgeFact, port: BridgePortFact): void {
  const policy = port.qos ?? bridge.qos;
  if (policy === undefined || port.peer !== undefined) return;
  const dscp = context.read(policy)?.dscp;
  if (dscp !== undefined) context.setDscp(dscp);
}
