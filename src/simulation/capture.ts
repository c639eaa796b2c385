import type { Action } from '../flow/action.js';
import { PacketSurroundings } from './chain.js';
import { matches } from './condition.js';
import type { SimulationContext } from './context.js';
import type { CaptureFact, CaptureTarget, Fact } from './fact.js';
import { outputToHost } from './tunnel.js';

/** Captures: copies of what crosses a port go to an agent, which tells whoever wants to see them. */

/** Send a copy of the packet, as it is here, to whoever captures it. Behind that the packet is what it was before. */
export function copyByCaptures(context: SimulationContext, captures: readonly Fact<CaptureFact>[] | undefined): void {
  if (captures === undefined) return;
  for (const fact of captures) {
    const capture = context.read(fact);
    if (capture === undefined || capture === null || context.isCopiedBy(capture.id)) continue;
    if (!isWanted(context, capture)) continue;
    context.trace?.push({ type: 'capture', id: capture.id });
    context.copyBy(capture.id, () => handOver(context, capture.target));
    context.trace?.push({ type: 'captured', id: capture.id });
  }
}

/** Give the packet to the agent that captures it, on this host or another. */
export function handOver(context: SimulationContext, target: CaptureTarget): void {
  if (target.type === 'remote') {
    if (!outputToHost(context, target.tunnel, target.tunnelKey)) context.drop('no-tunnel');
    return;
  }
  const meter = context.read(target.meter);
  if (meter === undefined) return;
  const limit: Action[] = meter === null ? [] : [{ type: 'meter', id: meter }];
  context.output([...limit, { type: 'userspace', userdata: target.userdata }]);
}

function isWanted(context: SimulationContext, { conditions }: CaptureFact): boolean {
  const surroundings = new PacketSurroundings(context);
  return conditions.some((condition) => matches(condition, context.packet, context.mask, surroundings) === true);
}
