import { type FlowKey, Word } from '../flow/key.js';
import { EtherType } from '../packet/ethernet.js';
import { parseIp } from '../packet/ip.js';
import type { Condition, Rule } from '../topology/chains.js';
import type { Side, Surroundings } from './condition.js';
import type { SimulationContext } from './context.js';
import type {
  AddressGroupFact,
  ChainFact,
  Fact,
  JumpRuleFact,
  NatRuleFact,
  PortFact,
  RedirectRuleFact,
  RuleFact,
  TagRuleFact,
} from './fact.js';
import { RuleIndex } from './rule-index.js';
import type { PlacedRule } from './rule-order.js';
import { ruleStep } from './trace.js';

/** Chains of rules: how they are made of what the topology says, and what they say of a packet. */

/** What rules lead to, by name. */
export interface RuleReferences {
  chain(id: string): Fact<ChainFact>;
  port(id: string): Fact<PortFact>;
  addressGroup(id: string): AddressGroupFact;
}

/**
 * What becomes of a packet. `wait`: that depends on something that is not in hand, and the context knows of it. A rule:
 * it goes where that one says. `unreadable`: it has come to a rule that cannot be read.
 */
export type Verdict = 'accept' | 'drop' | 'reject' | 'unreadable' | 'wait' | RedirectRuleFact;

/**
 * Translates the addresses of the packet by a rule that it matches. `pass`: the rule does not apply to it. `wait`: what
 * that takes is not in hand, or the packet has to come back first, and the context knows of it.
 */
export type Translate = (context: SimulationContext, rule: NatRuleFact) => 'done' | 'pass' | 'wait';

/** In front of all positions. */
const FIRST = '';

/** A chain whose rules come, change and go one by one. */
export class Chain implements ChainFact {
  readonly rules = new RuleIndex<RuleFact>();
  readonly jumps = new Map<Fact<ChainFact>, number>();
  readonly targets = new Map<Fact<PortFact>, number>();
  private statefulRules = 0;

  constructor(
    readonly id: string,
    private readonly references: RuleReferences,
    rules: Iterable<Rule> = [],
  ) {
    for (const rule of rules) this.set(rule);
  }

  get isStateful(): boolean {
    return this.statefulRules > 0;
  }

  addressGroup(id: string): AddressGroupFact {
    return this.references.addressGroup(id);
  }

  /** Takes the place of any rule with the same id. */
  set(rule: Rule): void {
    this.remove(rule.id);
    const fact = ruleFact(rule, this.references);
    this.rules.insert(fact);
    this.count(fact, 1);
  }

  /**
   * There is a rule that cannot be read: what it would let pass is not known, so whatever comes to it does not.
   * @param position where it stands; undefined: perhaps before all others
   * @returns whether that was not known before
   */
  setUnreadable(id: string, position: string | undefined): boolean {
    const before = this.rules.get(id);
    if (before?.type === 'unreadable' && before.position === (position ?? FIRST)) return false;
    this.remove(id);
    this.rules.insert({ id, position: position ?? FIRST, condition: {}, type: 'unreadable' });
    return true;
  }

  /** False if there is no such rule. */
  remove(id: string): boolean {
    const fact = this.rules.get(id);
    if (fact === undefined) return false;
    this.count(fact, -1);
    return this.rules.remove(id);
  }

  private count(fact: RuleFact, change: 1 | -1): void {
    if (needsConnection(fact)) this.statefulRules += change;
    if (fact.type === 'jump') addTo(this.jumps, fact.chain, change);
    else if (fact.type === 'redirect') addTo(this.targets, fact.target, change);
  }
}

function addTo<T>(counts: Map<T, number>, key: T, change: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + change;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}

function ruleFact(rule: Rule, references: RuleReferences): RuleFact {
  const { id, position, condition } = rule;
  const fields = { id, position, condition };
  switch (rule.type) {
    case 'jump':
      return { ...fields, type: 'jump', chain: references.chain(rule.jumpChainId) };
    case 'trace':
      return { ...fields, type: 'trace', traceRequestId: rule.traceRequestId, limit: rule.limit };
    case 'dnat':
    case 'snat': {
      const targets = rule.targets.map(({ start, end, ports }) => ({
        start: addressWords(start),
        end: addressWords(end),
        ports,
      }));
      return { ...fields, type: rule.type, action: rule.action, targets };
    }
    case 'reverse-dnat':
    case 'reverse-snat':
      return { ...fields, type: rule.type, action: rule.action, targets: [] };
    case 'l2-transform': {
      const { action, pushVlanId, pushVlanPriority = 0, popVlan = false, ingress = false, failOpen = false } = rule;
      const pushTag = pushVlanId === undefined ? undefined : (pushVlanPriority << 13) | pushVlanId;
      if (action !== 'redirect') return { ...fields, type: 'tag', action, popVlan, pushTag };
      const target = references.port(rule.targetPortId!);
      return { ...fields, type: 'redirect', popVlan, pushTag, target, ingress, failOpen };
    }
    default:
      return { ...fields, type: rule.type };
  }
}

function addressWords(text: string): Uint32Array {
  return Uint32Array.from(parseIp(text)!.words);
}

function needsConnection({ type, condition }: RuleFact): boolean {
  return (
    asksConnection(condition) ||
    type === 'dnat' ||
    type === 'snat' ||
    type === 'reverse-dnat' ||
    type === 'reverse-snat'
  );
}

/** Whether what the condition says depends on the state of the connection. */
export function asksConnection({ matchForwardFlow, matchReturnFlow }: Condition): boolean {
  return matchForwardFlow === true || matchReturnFlow === true;
}

/**
 * Whether a packet that passes the filters may come to a rule that asks for the state of its connection or translates
 * it, behind jumps too; undefined while that depends on a chain that is not in hand.
 */
export function areStateful(
  context: SimulationContext,
  filters: readonly Fact<ChainFact>[] | undefined,
): boolean | undefined {
  if (filters === undefined || filters.length === 0) return false;
  let isKnown = true;
  let isJump = false;
  for (let i = 0; i < filters.length; i++) {
    const chain = context.read(filters[i]);
    if (chain === undefined) isKnown = false;
    else if (chain?.isStateful) return true;
    else if (chain !== null && chain.jumps.size > 0) isJump = true;
  }
  if (isJump) {
    // A set goes on with what is added to it meanwhile.
    const reached = new Set(filters);
    for (const fact of reached) {
      const chain = context.read(fact);
      if (chain === undefined) isKnown = false;
      else if (chain?.isStateful) return true;
      else if (chain !== null) for (const jump of chain.jumps.keys()) reached.add(jump);
    }
  }
  return isKnown ? false : undefined;
}

/**
 * What the filters say of the packet where it is: each is asked in turn, until one does not accept it. What falls off
 * the end of a chain is accepted, and a chain that does not exist has no rules.
 */
export function evaluate(
  context: SimulationContext,
  filters: readonly Fact<ChainFact>[],
  translate: Translate,
): Verdict {
  const surroundings = new PacketSurroundings(context);
  for (let i = 0; i < filters.length; i++) {
    const verdict = evaluateChain(context, filters[i], surroundings, translate);
    if (verdict !== 'accept') return verdict;
  }
  return 'accept';
}

/** Where to go on when a chain that was jumped to ends. */
interface Return {
  readonly chain: ChainFact;
  readonly after: PlacedRule<RuleFact>;
  readonly before: Return | undefined;
}

/**
 * A chain that was entered before is not entered again, as in MidoNet: nothing that it says of the packet could be new
 * unless a rule has changed it in between. So a packet comes to each chain once at most, however they jump.
 */
function evaluateChain(
  context: SimulationContext,
  first: Fact<ChainFact>,
  surroundings: PacketSurroundings,
  translate: Translate,
): Verdict {
  const root = context.read(first);
  if (root === undefined) return 'wait';
  if (root === null) return 'accept';
  const { packet, mask } = context;
  let chain = root;
  let after: PlacedRule<RuleFact> | undefined;
  let entered: Set<Fact<ChainFact>> | undefined;
  let back: Return | undefined;
  context.trace?.push({ type: 'chain', id: chain.id });
  for (;;) {
    surroundings.holder = chain;
    const match = chain.rules.nextMatch(after, packet, mask, surroundings);
    if (match === undefined) return 'wait';
    if (match !== null) context.trace?.push(ruleStep(chain, match.rule));
    if (match?.rule.type === 'jump') {
      after = match;
      const target = context.read(match.rule.chain);
      if (target === undefined) return 'wait';
      entered ??= new Set([first]);
      if (target === null) continue;
      if (entered.has(match.rule.chain)) {
        if (isUnderWay(target, chain, back)) context.countCircle(target.id);
        continue;
      }
      entered.add(match.rule.chain);
      back = { chain, after, before: back };
      chain = target;
      after = undefined;
      context.trace?.push({ type: 'chain', id: chain.id });
      continue;
    }
    const action = match === null ? 'return' : actionOf(context, match.rule, translate);
    if (match === null) context.trace?.push({ type: 'chain-end', chain: chain.id });
    if (action === 'continue') after = match!;
    else if (action !== 'return') return action;
    else if (back === undefined) return 'accept';
    else ({ chain, after, before: back } = back);
  }
}

/** Whether a jump to the chain leads back to where it came from. */
function isUnderWay(target: ChainFact, chain: ChainFact, back: Return | undefined): boolean {
  if (chain === target) return true;
  for (let outer = back; outer !== undefined; outer = outer.before) if (outer.chain === target) return true;
  return false;
}

/** What a rule that the packet matches leads to. One that cannot be applied to it lets it go on in the chain. */
function actionOf(
  context: SimulationContext,
  rule: Exclude<RuleFact, JumpRuleFact>,
  translate: Translate,
): Verdict | 'continue' | 'return' {
  switch (rule.type) {
    case 'trace':
      context.requestTrace(rule.traceRequestId, rule.limit);
      return 'continue';
    case 'tag':
      return changeTag(context, rule) ? rule.action : 'continue';
    case 'redirect':
      return changeTag(context, rule) ? rule : 'continue';
    case 'dnat':
    case 'snat':
    case 'reverse-dnat':
    case 'reverse-snat': {
      const outcome = translate(context, rule);
      if (outcome === 'wait') return 'wait';
      return outcome === 'done' ? rule.action : 'continue';
    }
    default:
      return rule.type;
  }
}

/** @returns whether there was a tag to take off */
function changeTag(context: SimulationContext, { popVlan, pushTag }: TagRuleFact | RedirectRuleFact): boolean {
  if (popVlan && !context.headers.popVlan()) return false;
  if (pushTag !== undefined) context.headers.pushVlan(pushTag);
  return true;
}

const NO_GROUPS: ReadonlySet<string> = new Set();

/** What conditions ask of a packet on its way, beside its headers. */
export class PacketSurroundings implements Surroundings {
  /** Whose conditions are evaluated: it knows their address groups. */
  holder: Pick<ChainFact, 'addressGroup'> | undefined;

  constructor(private readonly context: SimulationContext) {}

  get inPortId(): string | undefined {
    return this.context.inPort?.value?.id;
  }

  get outPortId(): string | undefined {
    return this.context.outPort?.value?.id;
  }

  get entryPortGroupIds(): ReadonlySet<string> {
    return this.context.entry?.value?.groupIds ?? NO_GROUPS;
  }

  get inPortGroupIds(): ReadonlySet<string> {
    return this.context.inPort?.value?.groupIds ?? NO_GROUPS;
  }

  get outPortGroupIds(): ReadonlySet<string> {
    return this.context.outPort?.value?.groupIds ?? NO_GROUPS;
  }

  get traversedDeviceIds(): ReadonlySet<string> {
    return this.context.passedDeviceIds();
  }

  get isDestinationRewritten(): boolean {
    return this.context.isDestinationRewritten;
  }

  connection(): 'forward' | 'return' | undefined {
    return this.context.tracking.connection();
  }

  isMember(groupId: string, packet: FlowKey, side: Side): boolean | undefined {
    const group = this.holder!.addressGroup(groupId);
    const at = side === 'source' ? Word.NW_SRC : Word.NW_DST;
    const isIpv6 = packet.ethType === EtherType.IPV6;
    const member = this.context.read(isIpv6 ? group.ipv6(packet.words, at) : group.ipv4(packet.words[at]));
    return member === undefined ? undefined : member !== null;
  }

  icmpData(side: Side): Uint32Array | null {
    return this.context.icmpData(side);
  }
}
