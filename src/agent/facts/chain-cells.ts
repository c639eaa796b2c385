import { memberPath } from '../../nsdb/layout.js';
import type { UnreadableRule } from '../../nsdb/repository/topology-repository.js';
import type { Watch } from '../../nsdb/store.js';
import { Chain, type RuleReferences } from '../../simulation/chain.js';
import type { AddressGroupFact, ChainFact, Fact, PortFact } from '../../simulation/fact.js';
import { ipAddressGroupMemberSchema } from '../../topology/groups.js';
import type { Rule } from '../../topology/types.js';
import { AddressCells } from './address-cells.js';
import type { Cell } from './cell.js';
import type { TopologySource } from './topology-source.js';

/** Chains and the groups of addresses that their rules compare with, as facts that are read when packets come to them. */
export class ChainCells implements RuleReferences {
  private readonly chains = new Map<string, Cell<ChainFact>>();
  private readonly groups = new Map<string, AddressGroupCells>();

  constructor(private readonly source: TopologySource) {}

  /** How many chains and groups are kept. */
  get size(): number {
    return this.chains.size + this.groups.size;
  }

  /** The ports that rules redirect to. */
  *portsInUse(): Generator<Fact<PortFact>> {
    for (const { value } of this.chains.values()) if (value) yield* value.targets.keys();
  }

  chain(id: string): Cell<ChainFact> {
    let cell = this.chains.get(id);
    if (cell === undefined) {
      cell = this.source.cell<ChainFact>(`chain ${id}`, {
        subscribe: (self) => this.watchChain(id, self),
        forget: (self) => {
          if (this.chains.get(id) === self) this.chains.delete(id);
          // Its rules may have named groups of which no address was ever asked for.
          for (const [groupId, group] of this.groups) if (group.isEmpty) this.groups.delete(groupId);
        },
      });
      this.chains.set(id, cell);
    }
    return cell;
  }

  port(id: string): Fact<PortFact> {
    return this.source.port(id);
  }

  addressGroup(id: string): AddressGroupFact {
    let group = this.groups.get(id);
    if (group === undefined) {
      group = new AddressGroupCells(id, this.source, () => this.groups.delete(id));
      this.groups.set(id, group);
    }
    return group;
  }

  /** The chains of those places that have one, in order. */
  filters(...ids: (string | undefined)[]): readonly Fact<ChainFact>[] {
    return ids.flatMap((id) => (id === undefined ? [] : [this.chain(id)]));
  }

  /** A chain is known when all its rules are. A rule that changes is told by itself, so a change costs what changed. */
  private watchChain(id: string, cell: Cell<ChainFact>): Watch {
    const { repository, invalid } = this.source;
    const chain = new Chain(id, this);
    let exists: boolean | undefined;
    let areRulesKnown = false;
    let touching: NodeJS.Immediate | undefined;
    const update = () => {
      if (exists === false) cell.set(null);
      else if (exists && areRulesKnown) cell.set(chain);
    };
    // Rules that change together revisit flows once.
    const touch = () => {
      touching ??= setImmediate(() => {
        touching = undefined;
        if (cell.value === chain) cell.touch();
      });
    };
    const follow = (ruleId: string, rule: Rule | undefined) => {
      if (rule !== undefined) chain.set(rule);
      else if (!chain.remove(ruleId)) return;
      touch();
    };
    const block = ({ id: ruleId, position, error }: UnreadableRule) => {
      if (!chain.setUnreadable(ruleId, position)) return;
      this.source.unreadableRule(id, ruleId, error);
      touch();
    };
    const watches = [
      repository.watch(
        'chain',
        id,
        (found) => {
          exists = found !== undefined;
          update();
        },
        invalid,
      ),
      repository.watchRules(id, follow, block, () => {
        areRulesKnown = true;
        update();
      }),
    ];
    return {
      ready: Promise.all(watches.map(({ ready }) => ready)).then(() => undefined),
      close: () => {
        for (const one of watches) one.close();
        clearImmediate(touching);
      },
    };
  }
}

export function sameFilters(a: readonly Fact<ChainFact>[] = [], b: readonly Fact<ChainFact>[] = []): boolean {
  return a.length === b.length && a.every((chain, i) => chain === b[i]);
}

/** A group of addresses: whether one is a member is read and watched by itself, however many there are. */
class AddressGroupCells implements AddressGroupFact {
  private readonly cells: AddressCells<true>;

  /** @param unused is told when no address of the group is asked for any more */
  constructor(id: string, source: TopologySource, unused: () => void) {
    this.cells = new AddressCells((address, forget) =>
      source.cell<true>(`${address} in address group ${id}`, {
        subscribe: (self) =>
          source.repository.watchEntry(
            memberPath('ip-address-group', id, address),
            ipAddressGroupMemberSchema,
            (member) => self.set(member === undefined ? null : true),
            source.invalid,
          ),
        forget: (self) => {
          forget(self);
          if (this.cells.isEmpty) unused();
        },
        namedByPackets: true,
      }),
    );
  }

  get isEmpty(): boolean {
    return this.cells.isEmpty;
  }

  ipv4(address: number): Fact<true> {
    return this.cells.ipv4(address);
  }

  ipv6(words: Uint32Array, offset: number): Fact<true> {
    return this.cells.ipv6(words, offset);
  }
}
