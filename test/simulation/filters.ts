import { formatIpv4, formatIpv6 } from '../../src/packet/address.js';
import { Chain, type RuleReferences } from '../../src/simulation/chain.js';
import type { AddressGroupFact, ChainFact, PortFact } from '../../src/simulation/fact.js';
import type { Condition, Rule } from '../../src/topology/chains.js';
import { fact, type TestFact } from './world.js';

type Stored = 'id' | 'chainId' | 'position' | 'condition';
type WithoutStorage<R> = R extends Rule ? Omit<R, Stored> : never;

/** A rule without what only its storage needs, under a shorter name for its condition. */
export type RuleSpec = WithoutStorage<Rule> & { readonly if?: Condition };

/** An address group, each of its addresses a fact of its own. */
export class TestAddressGroup implements AddressGroupFact {
  readonly facts = new Map<string, TestFact<true>>();

  constructor(
    readonly id: string,
    members: readonly string[],
    /** What is known of other addresses that nobody has asked for yet. */
    public rest: null | undefined = null,
  ) {
    for (const address of members) this.member(address).value = true;
  }

  ipv4(address: number): TestFact<true> {
    return this.member(formatIpv4(address));
  }

  ipv6(words: Uint32Array, offset: number): TestFact<true> {
    const [a, b, c, d] = words.subarray(offset, offset + 4);
    return this.member(formatIpv6([a, b, c, d]));
  }

  member(address: string): TestFact<true> {
    let found = this.facts.get(address);
    if (found === undefined) {
      found = fact<true>(`${address} in group ${this.id}`, this.rest);
      this.facts.set(address, found);
    }
    return found;
  }
}

/** Chains and what their rules name, all by name. */
export class Filters implements RuleReferences {
  readonly chains = new Map<string, TestFact<ChainFact>>();
  readonly groups = new Map<string, TestAddressGroup>();
  readonly ports = new Map<string, TestFact<PortFact>>();

  /** A chain that is not set does not exist. */
  chain(id: string): TestFact<ChainFact> {
    let chain = this.chains.get(id);
    if (chain === undefined) {
      chain = fact<ChainFact>(`chain ${id}`, null);
      this.chains.set(id, chain);
    }
    return chain;
  }

  port(id: string): TestFact<PortFact> {
    const port = this.ports.get(id);
    if (port === undefined) throw new Error(`there is no port ${id}`);
    return port;
  }

  addressGroup(id: string): TestAddressGroup {
    const group = this.groups.get(id);
    if (group === undefined) throw new Error(`there is no group ${id}`);
    return group;
  }

  group(id: string, members: readonly string[]): TestAddressGroup {
    const group = new TestAddressGroup(id, members);
    this.groups.set(id, group);
    return group;
  }

  /** Gives the chain these rules. */
  set(id: string, rules: readonly RuleSpec[]): TestFact<ChainFact> {
    return this.setAll(
      id,
      rules.map((rule, i) => ruleOf(`${id}-${i}`, String(i).padStart(8, '0'), rule)),
    );
  }

  /** The same, with rules as they are stored. */
  setAll(id: string, rules: readonly Rule[]): TestFact<ChainFact> {
    const chain = this.chain(id);
    chain.value = new Chain(id, this, rules);
    return chain;
  }
}

function ruleOf(id: string, position: string, { if: condition = {}, ...action }: RuleSpec): Rule {
  return { id, chainId: 'chain', position, condition, ...action } as Rule;
}
