import type { Watch } from '../../nsdb/store.js';
import { Chain, type RuleReferences } from '../../simulation/chain.js';
import type { BridgePortFact, ChainFact, Fact, PortFact } from '../../simulation/fact.js';
import {
  inboundServiceRules,
  outboundServiceRules,
  returnRules,
  type ServiceChainKind,
  serviceChainId,
} from '../../simulation/service-chain.js';
import type { Port } from '../../topology/devices.js';
import type { L2Insertion } from '../../topology/observation.js';
import type { Cell } from './cell.js';
import type { ChainCells } from './chain-cells.js';
import type { TopologySource } from './topology-source.js';

/** What makes the rules of each kind of chain, and by which field its insertions name its port. */
const KINDS = {
  inbound: { field: 'portId', rulesOf: inboundServiceRules },
  outbound: { field: 'portId', rulesOf: outboundServiceRules },
  service: { field: 'servicePortId', rulesOf: returnRules },
} as const;

/** Chains that send traffic of ports through inserted services, as facts that are read when packets come to them. */
export class InsertionCells {
  private readonly chains = new Map<string, Cell<ChainFact>>();

  /** @param others know what rules lead to besides these chains */
  constructor(
    private readonly source: TopologySource,
    private readonly others: ChainCells,
  ) {}

  /** How many chains are kept. */
  get size(): number {
    return this.chains.size;
  }

  /** What follows for the port from the insertions that it takes part in. */
  ofPort({ id, insertionIds, serviceInsertionIds }: Port): Pick<BridgePortFact, 'services' | 'service'> {
    const isProtected = insertionIds !== undefined && insertionIds.length > 0;
    const isService = serviceInsertionIds !== undefined && serviceInsertionIds.length > 0;
    return {
      services: isProtected ? { inbound: this.chain('inbound', id), outbound: this.chain('outbound', id) } : undefined,
      service: isService ? this.chain('service', id) : undefined,
    };
  }

  /** The ports that packets are sent to. */
  *portsInUse(): Generator<Fact<PortFact>> {
    for (const { value } of this.chains.values()) if (value) yield* value.targets.keys();
  }

  private chain(kind: ServiceChainKind, portId: string): Cell<ChainFact> {
    const id = serviceChainId(kind, portId);
    let cell = this.chains.get(id);
    if (cell === undefined) {
      cell = this.source.cell<ChainFact>(`chain ${id}`, {
        subscribe: (self) => this.watch(kind, portId, self),
        forget: (self) => {
          if (this.chains.get(id) === self) this.chains.delete(id);
        },
      });
      this.chains.set(id, cell);
    }
    return cell;
  }

  private watch(kind: ServiceChainKind, portId: string, cell: Cell<ChainFact>): Watch {
    const { field, rulesOf } = KINDS[kind];
    const insertions = new Map<string, L2Insertion>();
    const unreadable = new Set<string>();
    let areAllKnown = false;
    let updating: NodeJS.Immediate | undefined;
    // Insertions that change together make one chain.
    const update = () => {
      if (!areAllKnown) return;
      updating ??= setImmediate(() => {
        updating = undefined;
        const rules = rulesOf(portId, [...insertions.values()]);
        const chain = new Chain(serviceChainId(kind, portId), this.referencesOf(insertions), rules);
        for (const id of unreadable) chain.setUnreadable(id, undefined);
        cell.set(chain);
      });
    };
    const follow = (id: string, insertion: L2Insertion | undefined) => {
      unreadable.delete(id);
      if (insertion === undefined) insertions.delete(id);
      else insertions.set(id, insertion);
      update();
    };
    const block = (error: Error, id: string) => {
      this.source.unreadableRule(serviceChainId(kind, portId), id, error);
      insertions.delete(id);
      unreadable.add(id);
      update();
    };
    const watch = this.source.repository.watchHolders('l2-insertion', field, portId, follow, block, () => {
      areAllKnown = true;
      update();
    });
    const close = () => {
      watch.close();
      clearImmediate(updating);
    };
    return { ready: watch.ready, close };
  }

  /** Chains of services jump to those of the ports that are protected. */
  private referencesOf(insertions: ReadonlyMap<string, L2Insertion>): RuleReferences {
    const chains = new Map<string, () => Cell<ChainFact>>();
    for (const { portId } of insertions.values()) {
      for (const kind of ['inbound', 'outbound'] as const) {
        chains.set(serviceChainId(kind, portId), () => this.chain(kind, portId));
      }
    }
    return {
      chain: (id) => chains.get(id)?.() ?? this.others.chain(id),
      port: (id) => this.source.port(id),
      addressGroup: (id) => this.others.addressGroup(id),
    };
  }
}

export function sameInsertions(a: BridgePortFact, b: BridgePortFact): boolean {
  return (
    a.service === b.service &&
    a.services?.inbound === b.services?.inbound &&
    a.services?.outbound === b.services?.outbound
  );
}
