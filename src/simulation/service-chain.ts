import type { Condition, Rule } from '../topology/chains.js';
import type { L2Insertion } from '../topology/observation.js';
import { positionsAfter } from '../topology/position.js';

/**
 * Inserted services as chains of rules. A packet goes from a protected port to the first service with a VLAN tag that says of
 * which insertion it is and which way it goes, comes back in at the service's port, goes to the next one, and in the end on as
 * if it had not been away. Services come in the same order both ways.
 */

/** The priority in the tag says whether a packet comes from the protected port or goes there. */
const FROM_PORT = 1;
const TO_PORT = 2;

/** The tag of insertions without a VLAN. */
const NO_VLAN = 0;

export type ServiceChainKind = 'inbound' | 'outbound' | 'service';

/** Names the chain of a protected port for what comes in there or goes out, or that of a service's port. */
export function serviceChainId(kind: ServiceChainKind, portId: string): string {
  return `${kind === 'service' ? 'returns-from' : `${kind}-services-of`}-${portId}`;
}

type Action<R = Rule> = R extends Rule ? Omit<R, 'id' | 'chainId' | 'position' | 'condition'> : never;
type Draft = Action & { readonly condition?: Condition };

const TAGGED: Condition = { noVlan: true, conjunctionInverted: true };

/** What comes in at a protected port, or back at the port of one of its services. */
export function inboundServiceRules(portId: string, insertions: readonly L2Insertion[]): Rule[] {
  const drafts: Draft[] = [];
  for (const services of inOrder(insertions)) {
    const condition = { sourceMac: services[0].mac };
    const last = {
      type: 'l2-transform',
      action: 'redirect',
      popVlan: true,
      targetPortId: portId,
      ingress: true,
    } as const;
    drafts.push(...legs(services, FROM_PORT, condition, last));
  }
  drafts.push({ type: 'drop', condition: TAGGED });
  for (const [first] of inOrder(insertions)) {
    drafts.push({ ...toService(first, FROM_PORT), condition: { inPortIds: [portId], sourceMac: first.mac } });
  }
  // No service could tell whose it is, and it shall not get round them.
  drafts.push({ type: 'drop', condition: { inPortIds: [portId] } });
  return rules(serviceChainId('inbound', portId), drafts);
}

/** What goes out at a protected port, or comes back at the port of one of its services. */
export function outboundServiceRules(portId: string, insertions: readonly L2Insertion[]): Rule[] {
  const drafts: Draft[] = [];
  for (const services of inOrder(insertions)) {
    const { mac } = services[0];
    const last = { type: 'l2-transform', action: 'redirect', popVlan: true, targetPortId: portId } as const;
    drafts.push(...legs(services, TO_PORT, { destinationMac: mac }, last));
  }
  for (const [first] of inOrder(insertions)) {
    const condition = { destinationMac: first.mac };
    drafts.push({ ...toService(first, TO_PORT), condition: { ...condition, noVlan: true } });
    drafts.push({ type: 'drop', condition });
  }
  return rules(serviceChainId('outbound', portId), drafts);
}

/** What comes back at the port of a service goes on by the chains of the port that it was on its way from or to. */
export function returnRules(servicePortId: string, insertions: readonly L2Insertion[]): Rule[] {
  const drafts: Draft[] = [];
  for (const { portId, mac, vlanId = NO_VLAN } of insertions) {
    drafts.push({
      type: 'jump',
      jumpChainId: serviceChainId('inbound', portId),
      condition: { vlanId, vlanPriority: FROM_PORT, sourceMac: mac },
    });
    drafts.push({
      type: 'jump',
      jumpChainId: serviceChainId('outbound', portId),
      condition: { vlanId, vlanPriority: TO_PORT, destinationMac: mac },
    });
  }
  drafts.push({ type: 'drop', condition: TAGGED });
  return rules(serviceChainId('service', servicePortId), drafts);
}

/** From each service, where the packet comes back in, to the next one, and from the last one to where `last` says. */
function legs(services: readonly L2Insertion[], priority: number, address: Condition, last: Action): Draft[] {
  return services.map(({ servicePortId, vlanId = NO_VLAN }, i) => ({
    ...(i + 1 < services.length ? { ...toService(services[i + 1], priority), popVlan: true } : last),
    condition: { ...address, inPortIds: [servicePortId], vlanId, vlanPriority: priority },
  }));
}

function toService({ servicePortId, vlanId = NO_VLAN, failOpen }: L2Insertion, pushVlanPriority: number): Action {
  const tag = { pushVlanId: vlanId, pushVlanPriority };
  return { type: 'l2-transform', action: 'redirect', targetPortId: servicePortId, failOpen, ...tag };
}

/** Those of each machine, in the order in which its packets come to them. */
function inOrder(insertions: readonly L2Insertion[]): L2Insertion[][] {
  const byMac = new Map<string, L2Insertion[]>();
  const sorted = insertions.toSorted((a, b) => a.position - b.position || (a.servicePortId < b.servicePortId ? -1 : 1));
  for (const insertion of sorted) byMac.set(insertion.mac, [...(byMac.get(insertion.mac) ?? []), insertion]);
  return [...byMac.values()];
}

function rules(chainId: string, drafts: readonly Draft[]): Rule[] {
  const positions = positionsAfter(undefined, drafts.length);
  return drafts.map(({ condition = {}, ...action }, i) => ({
    ...action,
    id: `${chainId}-${i + 1}`,
    chainId,
    position: positions[i],
    condition,
  }));
}
