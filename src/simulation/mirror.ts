import type { Mirror } from '../topology/observation.js';
import { asksConnection, PacketSurroundings, type RuleReferences } from './chain.js';
import { compileCondition, matches } from './condition.js';
import type { SimulationContext } from './context.js';
import type { Fact, MirrorFact, PortFact } from './fact.js';

/** Mirrors: how they are made of what the topology says, and which packets they copy. */

export function mirrorFact({ id, toPortId, conditions }: Mirror, references: RuleReferences): MirrorFact {
  return {
    id,
    port: references.port(toPortId),
    conditions: conditions.map(compileCondition),
    isStateful: conditions.some(asksConnection),
    addressGroup: (groupId) => references.addressGroup(groupId),
  };
}

/**
 * Send a copy of the packet, as it is here, to the port of each mirror that copies it. What one mirror has copied it does not
 * copy again, wherever the copy goes. Behind that the packet is what it was before.
 */
export function copyByMirrors(
  context: SimulationContext,
  mirrors: readonly Fact<MirrorFact>[],
  send: (context: SimulationContext, port: Fact<PortFact>) => void,
): void {
  for (const fact of mirrors) {
    const mirror = context.read(fact);
    if (mirror === undefined || mirror === null) continue;
    if (context.isCopiedBy(mirror.id) || !isCopied(context, mirror)) continue;
    context.trace?.push({ type: 'mirror', id: mirror.id });
    context.copyBy(mirror.id, () => send(context, mirror.port));
    context.trace?.push({ type: 'mirrored', id: mirror.id });
  }
}

/** Whether a condition matches the packet. If that is not known yet, nothing that follows from it counts. */
function isCopied(context: SimulationContext, mirror: MirrorFact): boolean {
  const surroundings = new PacketSurroundings(context);
  surroundings.holder = mirror;
  for (const condition of mirror.conditions) {
    const isMatch = matches(condition, context.packet, context.mask, surroundings);
    if (isMatch !== false) return isMatch ?? false;
  }
  return false;
}

/** Whether a mirror may ask of the packet what it is to its connection. */
export function askConnection(context: SimulationContext, mirrors: readonly Fact<MirrorFact>[] | undefined): boolean {
  return mirrors?.some((mirror) => context.read(mirror)?.isStateful) ?? false;
}
