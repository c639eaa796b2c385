import type { Action } from '../flow/action.js';
import type { FlowKey } from '../flow/key.js';
import { FlowMask } from '../flow/mask.js';
import type { Decision, DropReason, Effect } from './decision.js';
import type { Fact } from './fact.js';

/** What bounds a decision. */
export interface Limits {
  /** Longest action list in bytes, and how long one is. */
  readonly maxActionsLength: number;
  actionsLength(actions: readonly Action[]): number;
}

/** One packet on its way through the virtual network. Made for one simulation and thrown away with it. */
export class SimulationContext {
  readonly mask = new FlowMask();
  readonly actions: Action[] = [];
  private readonly tags = new Set<Fact<unknown>>();
  private readonly missing = new Set<Fact<unknown>>();
  private readonly effects: Effect[] = [];
  private install = true;
  private dropReason: DropReason | undefined;
  private copiesLength = 0;
  private cutCopies = 0;

  constructor(
    readonly key: FlowKey,
    readonly limits: Limits,
  ) {
    // A flow that did not match the recirculation identifier would catch packets in the middle of another's path, and
    // the kernel matches the VLAN tag whether asked to or not.
    this.mask.seeInPort();
    this.mask.seeRecircId();
    this.mask.seeVlan();
  }

  /** Read a fact: undefined when it is not in hand, and then the decision will be to wait for it. */
  read<T>(fact: Fact<T>): T | null | undefined {
    this.tags.add(fact);
    if (fact.value === undefined) this.missing.add(fact);
    return fact.value;
  }

  drop(reason: DropReason): void {
    this.dropReason = reason;
  }

  learn(effect: Extract<Effect, { type: 'learn' }>): void {
    this.effects.push(effect);
  }

  /** Answer with `packet` out of the port that the packet came in at. Later packets must be seen again. */
  answer(packet: Uint8Array): void {
    this.effects.push({ type: 'emit', output: this.key.inPort, packet });
    this.install = false;
  }

  /** Send one of several copies by these actions, unless the list would get longer than the datapath takes. */
  copy(actions: readonly Action[]): void {
    const length = this.copiesLength + this.limits.actionsLength(actions);
    if (length > this.limits.maxActionsLength) {
      this.cutCopies++;
      return;
    }
    this.copiesLength = length;
    this.actions.push(...actions);
  }

  decision(): Decision {
    if (this.missing.size > 0) return { type: 'wait', missing: [...this.missing] };
    return {
      type: 'done',
      actions: this.actions,
      mask: this.mask,
      tags: [...this.tags],
      effects: this.effects,
      install: this.install,
      drop: this.dropReason,
      cut: this.cutCopies,
    };
  }
}
