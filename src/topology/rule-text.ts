import { EtherType } from '../packet/ethernet.js';
import { IpProtocol, PROTOCOL_NAMES } from '../packet/ip-protocol.js';
import type { Condition, Rule } from './chains.js';
import type { Kind } from './types.js';

/** Rules for people to read. */

/** What people call an object. */
export type NameOf = (kind: Kind, id: string) => string;

/** A condition and what is done to packets that match it: `tcp, to port 22: drop`. */
export function describeRule(rule: Rule, nameOf: NameOf): string {
  return `${describeCondition(rule.condition, nameOf)}: ${describeRuleAction(rule, nameOf)}`;
}

export function describeRuleAction(rule: Rule, nameOf: NameOf): string {
  switch (rule.type) {
    case 'jump':
      return `jump to chain ${nameOf('chain', rule.jumpChainId)}`;
    case 'dnat':
    case 'snat': {
      const side = rule.type === 'dnat' ? 'destination' : 'source';
      const targets = rule.targets.map(({ start, end, ports }) => {
        const addresses = start === end ? start : `${start}-${end}`;
        return ports === undefined ? addresses : `${addresses} ${describePorts('port', ports)}`;
      });
      return `translate the ${side} to ${targets.join(' or ')}, then ${rule.action}`;
    }
    case 'reverse-dnat':
    case 'reverse-snat':
      return `translate back what ${rule.type === 'reverse-dnat' ? 'DNAT' : 'SNAT'} did, then ${rule.action}`;
    case 'l2-transform': {
      const parts: string[] = [];
      if (rule.popVlan) parts.push('take off the VLAN tag');
      if (rule.pushVlanId !== undefined) parts.push(`put on the tag of VLAN ${rule.pushVlanId}`);
      const isRedirect = rule.action === 'redirect' && rule.targetPortId !== undefined;
      if (!isRedirect) parts.push(rule.action);
      else parts.push(`redirect ${rule.ingress ? 'into' : 'out of'} port ${nameOf('port', rule.targetPortId!)}`);
      return parts.join(', ');
    }
    default:
      return rule.type;
  }
}

type Describe = (value: never, nameOf: NameOf, condition: Condition) => string;

const oneOf = (kind: Kind, ids: readonly string[], nameOf: NameOf) =>
  ids.length === 0 ? 'none' : ids.map((id) => nameOf(kind, id)).join(' or ');

/** What a field says, in the order in which people say it; what is missing here is no matter of its own. */
const FIELDS: readonly (readonly [field: keyof Condition, describe: Describe])[] = [
  ['etherType', (type: number) => ETHER_TYPES.get(type) ?? `Ethernet type 0x${type.toString(16).padStart(4, '0')}`],
  ['protocol', (protocol: number) => PROTOCOL_NAMES.get(protocol) ?? `protocol ${protocol}`],
  ['source', (range: string) => `from ${range}`],
  ['sourceAddressGroupId', (id: string, nameOf) => `from address group ${nameOf('ip-address-group', id)}`],
  ['sourcePorts', (ports: Ports, _, condition) => describePorts(isIcmp(condition) ? 'type' : 'from port', ports)],
  ['destination', (range: string) => `to ${range}`],
  ['destinationAddressGroupId', (id: string, nameOf) => `to address group ${nameOf('ip-address-group', id)}`],
  ['destinationPorts', (ports: Ports, _, condition) => describePorts(isIcmp(condition) ? 'code' : 'to port', ports)],
  ['sourceMac', (mac: string, _, { sourceMacMask }) => `from MAC ${masked(mac, sourceMacMask)}`],
  ['destinationMac', (mac: string, _, { destinationMacMask }) => `to MAC ${masked(mac, destinationMacMask)}`],
  ['inPortIds', (ids: string[], nameOf) => `in at port ${oneOf('port', ids, nameOf)}`],
  ['inPortGroupId', (id: string, nameOf) => `in at a port of group ${nameOf('port-group', id)}`],
  ['outPortIds', (ids: string[], nameOf) => `out at port ${oneOf('port', ids, nameOf)}`],
  ['outPortGroupId', (id: string, nameOf) => `out at a port of group ${nameOf('port-group', id)}`],
  ['portGroupId', (id: string, nameOf) => `sent by a port of group ${nameOf('port-group', id)}`],
  ['traversedBridgeIds', (ids: string[], nameOf) => `through bridge ${oneOf('bridge', ids, nameOf)}`],
  ['traversedRouterIds', (ids: string[], nameOf) => `through router ${oneOf('router', ids, nameOf)}`],
  ['noVlan', (is: boolean) => (is ? 'without a VLAN tag' : 'with or without a VLAN tag')],
  ['vlanId', (vlan: number) => `of VLAN ${vlan}`],
  ['vlanPriority', (priority: number) => `of VLAN priority ${priority}`],
  ['tos', (tos: number) => `with TOS ${tos}`],
  ['fragmentPolicy', (policy: keyof typeof FRAGMENTS) => FRAGMENTS[policy]],
  ['icmpDataSource', (range: string) => `about a packet from ${range}`],
  ['icmpDataDestination', (range: string) => `about a packet to ${range}`],
  ['matchForwardFlow', (is: boolean) => (is ? 'the way its connection was opened' : 'either way')],
  ['matchReturnFlow', (is: boolean) => (is ? 'replies' : 'replies or not')],
  ['matchDestinationRewritten', (is: boolean) => (is ? 'with its destination translated' : 'translated or not')],
];

const ETHER_TYPES: ReadonlyMap<number, string> = new Map([
  [EtherType.IPV4, 'IPv4'],
  [EtherType.IPV6, 'IPv6'],
  [EtherType.ARP, 'ARP'],
]);

const FRAGMENTS = {
  any: 'fragments or not',
  header: 'no later fragment',
  nonheader: 'later fragments',
  unfragmented: 'no fragment',
} as const;

interface Ports {
  readonly start: number;
  readonly end: number;
}

/** In the words of people: `tcp, from 10.0.0.0/8, to port 22`, `any packet`. */
export function describeCondition(condition: Condition, nameOf: NameOf): string {
  const parts = FIELDS.flatMap(([field, describe]) => {
    const value = condition[field];
    if (value === undefined) return [];
    const text = describe(value as never, nameOf, condition);
    return [condition.inverted?.some((inverted) => inverted === field) ? `not ${text}` : text];
  });
  const all = parts.length === 0 ? 'any packet' : parts.join(', ');
  return condition.conjunctionInverted ? `not (${all})` : all;
}

function describePorts(word: string, { start, end }: Ports): string {
  return start === end ? `${word} ${start}` : `${word}s ${start}-${end}`;
}

function isIcmp({ protocol, inverted }: Condition): boolean {
  return (protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6) && !inverted?.includes('protocol');
}

function masked(mac: string, mask: string | undefined): string {
  return mask === undefined ? mac : `${mac}/${mask}`;
}
