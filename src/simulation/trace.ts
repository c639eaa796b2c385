import type { Action, NatSpec } from '../flow/action.js';
import { describeActions, describeNat } from '../flow/describe.js';
import { type FlowKey, Word } from '../flow/key.js';
import { formatIpv4, formatIpv6, formatMac } from '../packet/address.js';
import { EtherType } from '../packet/ethernet.js';
import type { Condition } from '../topology/chains.js';
import { describeCondition } from '../topology/rule-text.js';
import type { Direction, TranslationKind } from './connection.js';
import type { ConfigurationRequest, DropReason, Reply } from './decision.js';
import type { ChainFact, Fact, NeighborFact, PortFact, RouteFact, RuleFact } from './fact.js';

/**
 * One step of a packet's way, with what was found there. Devices, ports, chains, rules and routes are given by their identifiers,
 * addresses as text. A simulation that is given an array adds its steps to it.
 */
export type TraceStep =
  /** It comes in at a port of a device; `isCopy`: what does is a copy that a mirror made. */
  | { readonly type: 'in'; readonly port: string; readonly device: 'bridge' | 'router'; readonly isCopy?: true }
  | { readonly type: 'device'; readonly device: 'bridge' | 'router'; readonly id: string }
  | { readonly type: 'chain'; readonly id: string }
  /** A rule whose condition it matches, and what that rule does, in words. */
  | {
      readonly type: 'rule';
      readonly chain: string;
      readonly rule: string;
      readonly condition: Condition;
      readonly action: string;
    }
  /** A jump back to a chain that led to it is not followed. */
  | { readonly type: 'circle'; readonly chain: string }
  /** No rule, or no further one, matches. */
  | { readonly type: 'chain-end'; readonly chain: string }
  /** Where a bridge looks for the destination; null: nobody knows. */
  | { readonly type: 'mac'; readonly mac: string; readonly port: string | null }
  /** Copies to all ports of the bridge's VLAN (0: none), and to so many other hosts. */
  | { readonly type: 'flood'; readonly vlan: number; readonly hosts: number }
  /** The route that was chosen, of so many that are as good. */
  | { readonly type: 'route'; readonly route: string; readonly kind: RouteFact['type']; readonly of: number }
  /** Who takes the packet behind a router's port; null: nobody answers for the address. */
  | { readonly type: 'next-hop'; readonly address: string; readonly mac: string | null }
  /** A header was changed. */
  | { readonly type: 'set'; readonly field: string; readonly value: string }
  /** It goes out of a device at a port. */
  | { readonly type: 'out'; readonly port: string }
  /** A mirror copies it: the steps of the copy to where it leaves follow. */
  | { readonly type: 'mirror'; readonly id: string }
  /** Behind the steps of the copy: the packet itself goes on. */
  | { readonly type: 'mirrored'; readonly id: string }
  /** The same for whoever captures what crosses the port. */
  | { readonly type: 'capture'; readonly id: string }
  | { readonly type: 'captured'; readonly id: string }
  /** The meter drops it if such packets come too fast. */
  | { readonly type: 'meter'; readonly id: number }
  /** It has to come back with what its connection is in a zone. */
  | { readonly type: 'ask'; readonly zone: number }
  /** It goes the way of the packet that opened its connection, or the other. */
  | { readonly type: 'connection'; readonly way: Direction['way'] }
  /** It has to come back translated, and that is what it did. */
  | { readonly type: 'translate'; readonly kind: TranslationKind; readonly zone: number; readonly nat: NatSpec }
  | { readonly type: 'translated'; readonly kind: TranslationKind; readonly isMade: boolean }
  /** A load balancer looks at it: what it goes to there. */
  | {
      readonly type: 'vip';
      readonly loadBalancer: string;
      /** Null: to the address of a VIP, but to none of its ports, or by a fragment or ICMP error, which show no port. */
      readonly vip: string | null;
      readonly isOn: boolean;
    }
  /** The load balancer of the device is switched off. */
  | { readonly type: 'load-balancer-off'; readonly loadBalancer: string }
  /** The member that takes the connection, if it is new; null when none does. */
  | { readonly type: 'member'; readonly pool: string; readonly member: ChosenMember | null }
  /** It has to come back with a hash, and that is what it did. */
  | { readonly type: 'hash' }
  | { readonly type: 'bucket'; readonly bucket: number }
  /** A copy leaves this host's part of the virtual network. */
  | { readonly type: 'output'; readonly actions: readonly Action[] }
  /** A copy is left out, as the datapath takes no more actions. */
  | { readonly type: 'cut' }
  /** It was answered, out of a port of the device; `frame` in hexadecimal. */
  | { readonly type: 'answer'; readonly port?: string; readonly frame: string }
  | { readonly type: 'reply'; readonly port: string; readonly reply: Reply }
  | { readonly type: 'configure'; readonly request: ConfigurationRequest }
  /** It answers what this host asked a member of a load balancer. */
  | { readonly type: 'health-answer' }
  | { readonly type: 'learn'; readonly mac: string; readonly port: string }
  | { readonly type: 'drop'; readonly reason: DropReason }
  /** Something is not in hand that it goes by. */
  | { readonly type: 'wait'; readonly fact: string };

/** A member of a pool and why it was chosen. */
export interface ChosenMember {
  readonly id: string;
  readonly address: string;
  readonly port: number;
  /** `alone`: no other takes connections. `bucket`: it has the packet's bucket. `stand-in`: the member that has it takes no connections. `client`: it has the client. */
  readonly by: 'alone' | 'bucket' | 'stand-in' | 'client';
}

export function macStep(mac: number, port: Fact<PortFact> | null): TraceStep {
  return { type: 'mac', mac: formatMac(mac), port: port === null ? null : (port.value?.id ?? port.tag) };
}

/** @param gateway the destination of the packet itself when undefined */
export function nextHopStep(
  packet: FlowKey,
  gateway: Uint32Array | undefined,
  neighbor: NeighborFact | null,
): TraceStep {
  const isIpv6 = packet.ethType === EtherType.IPV6;
  const words = gateway ?? packet.words.subarray(Word.NW_DST, Word.NW_DST + 4);
  const address = isIpv6 ? formatIpv6(words) : formatIpv4(words[0]);
  return { type: 'next-hop', address, mac: neighbor === null ? null : formatMac(neighbor.mac) };
}

export function ruleStep(chain: ChainFact, rule: RuleFact): TraceStep {
  return { type: 'rule', chain: chain.id, rule: rule.id, condition: rule.condition, action: ruleAction(rule) };
}

function ruleAction(rule: RuleFact): string {
  switch (rule.type) {
    case 'jump':
      return `jump to ${rule.chain.value?.id ?? rule.chain.tag}`;
    case 'redirect':
      return `redirect to port ${rule.target.value?.id ?? rule.target.tag}`;
    case 'tag':
    case 'dnat':
    case 'snat':
    case 'reverse-dnat':
    case 'reverse-snat':
      return `${rule.type}, then ${rule.action}`;
    default:
      return rule.type;
  }
}

/** Steps of these kinds begin at the left, and others are below them. */
const OUTER: ReadonlySet<TraceStep['type']> = new Set(['in', 'device']);
const IN_CHAIN: ReadonlySet<TraceStep['type']> = new Set(['rule', 'chain-end']);

/** One line a step, for people to read. */
export function formatTrace(steps: readonly TraceStep[]): string {
  return steps.map((step) => `${indentation(step)}${describeTraceStep(step)}\n`).join('');
}

function indentation({ type }: TraceStep): string {
  if (OUTER.has(type)) return '';
  return IN_CHAIN.has(type) ? '    ' : '  ';
}

/** One step in a line, with objects by their identifiers. */
export function describeTraceStep(step: TraceStep): string {
  switch (step.type) {
    case 'in':
      return `in at port ${step.port} of a ${step.device}`;
    case 'device':
      return `${step.device} ${step.id}`;
    case 'chain':
      return `chain ${step.id}`;
    case 'rule':
      return `rule ${step.rule} where ${describeCondition(step.condition, (_, id) => id)}: ${step.action}`;
    case 'circle':
      return `not followed, as chain ${step.chain} led here`;
    case 'chain-end':
      return 'no further rule matches';
    case 'mac':
      return step.port === null ? `nobody knows ${step.mac}` : `${step.mac} is behind port ${step.port}`;
    case 'flood':
      return `flooded to all ports${step.vlan === 0 ? '' : ` of VLAN ${step.vlan}`}, and to ${step.hosts} other hosts`;
    case 'route':
      return `route ${step.route}, ${step.kind}${step.of === 1 ? '' : `, one of ${step.of} as good`}`;
    case 'next-hop':
      return step.mac === null ? `nobody answers for ${step.address}` : `${step.address} has ${step.mac}`;
    case 'set':
      return `set ${step.field} to ${step.value}`;
    case 'out':
      return `out at port ${step.port}`;
    case 'mirror':
      return `copied by mirror ${step.id}`;
    case 'mirrored':
    case 'captured':
      return 'the packet itself goes on';
    case 'capture':
      return `copied for capture ${step.id}`;
    case 'meter':
      return `limited by meter ${step.id}`;
    case 'ask':
      return `has to come back with the state of its connection in zone ${step.zone}`;
    case 'connection':
      return WAYS[step.way];
    case 'translate':
      return `has to come back with another ${side(step.kind)}: zone ${step.zone}, ${describeNat(step.nat)}`;
    case 'translated':
      return step.isMade ? `has another ${side(step.kind)} from here on` : 'was not to be translated';
    case 'vip':
      return describeVip(step);
    case 'load-balancer-off':
      return `load balancer ${step.loadBalancer} is switched off`;
    case 'member':
      return describeMember(step);
    case 'hash':
      return 'has to come back with a hash';
    case 'bucket':
      return `bucket ${step.bucket} of its hash`;
    case 'cut':
      return 'left out: one flow cannot have so many copies';
    case 'output':
      return `sent: ${describeActions(step.actions)}`;
    case 'answer':
      return `answered${step.port === undefined ? '' : ` out of port ${step.port}`} with ${step.frame}`;
    case 'reply':
      return `told the sender out of port ${step.port}: ${describeReply(step.reply)}`;
    case 'configure':
      return `answered: ${step.request}`;
    case 'health-answer':
      return 'taken as the answer to a health check';
    case 'learn':
      return `learned: ${step.mac} is behind port ${step.port}`;
    case 'drop':
      return `dropped: ${step.reason}`;
    case 'wait':
      return `waits for ${step.fact}`;
  }
}

const WAYS: Readonly<Record<Direction['way'], string>> = {
  forward: 'goes the way that its connection was opened',
  return: 'replies on its connection',
  related: 'is about a connection',
};

function side(kind: TranslationKind): string {
  return kind === 'source' ? 'source' : 'destination';
}

function describeVip({ loadBalancer, vip, isOn }: Extract<TraceStep, { type: 'vip' }>): string {
  const of = `of load balancer ${loadBalancer}`;
  if (vip === null) return `to the address of a VIP ${of}: only the connection tells more`;
  return `to VIP ${vip} ${of}${isOn ? '' : ', which is switched off'}`;
}

const MEMBER_REASONS: Readonly<Record<ChosenMember['by'], string>> = {
  bucket: 'it has this bucket',
  alone: 'no other member takes connections',
  'stand-in': 'the member that has this bucket takes no connections',
  client: 'it has this client',
};

function describeMember({ pool, member }: Extract<TraceStep, { type: 'member' }>): string {
  if (member === null) return `no member of pool ${pool} takes a new connection`;
  const { id, address, port, by } = member;
  return `a new connection goes to member ${id}, ${address} port ${port}: ${MEMBER_REASONS[by]}`;
}

function describeReply(reply: Reply): string {
  return reply.type === 'echo' ? 'echo reply' : `ICMP error type ${reply.icmpType} code ${reply.icmpCode}`;
}
