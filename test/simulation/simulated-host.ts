import type { Datapath, FlowOperation, Upcall } from '../../src/datapath/datapath.js';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { Classifier } from '../../src/flow/classifier.js';
import { describeActions, describeMatch, describePacket } from '../../src/flow/describe.js';
import { extractKey } from '../../src/flow/extract.js';
import { FLOW_KEY_WORDS, FlowKey } from '../../src/flow/key.js';
import type { FlowMask } from '../../src/flow/mask.js';
import {
  type Recirculation,
  type Recirculations,
  recirculationHash,
  recirculationsEqual,
} from '../../src/simulation/connection.js';
import type { Limits } from '../../src/simulation/context.js';
import type { Decision } from '../../src/simulation/decision.js';
import type { Fact, PortFact } from '../../src/simulation/fact.js';
import { buildReply } from '../../src/simulation/reply.js';
import { simulate, simulateSent } from '../../src/simulation/simulate.js';
import { fact, type TestFact, World } from './world.js';

export type Done = Extract<Decision, { type: 'done' }>;

/** A flow as it was decided on. */
export interface DecidedFlow {
  readonly id: number;
  readonly key: FlowKey;
  readonly decision: Done;
}

export interface SimulatedHostOptions {
  /** False: every packet is simulated, none is left to a flow. */
  readonly installs?: boolean;
  /** That of the datapath when absent. */
  readonly maxActionsLength?: number;
}

/**
 * A datapath with what its host knows of the virtual network. What no flow matches is simulated, its decision carried out and made a
 * flow, as an agent does it; but nothing is learned, so what the host knows stays as it is.
 */
export class SimulatedHost {
  upcalls = 0;
  /** Decisions, whether they became flows or not. */
  readonly made: Done[] = [];
  readonly drops: string[] = [];
  /** The flows that were installed, oldest first. */
  readonly decisions: DecidedFlow[] = [];
  /** What the datapath refused, and other faults. */
  readonly faults: string[] = [];
  readonly world = new World();
  private readonly records = new Map<number, TestFact<Recirculation>>();
  private readonly flows = new Classifier<DecidedFlow>();
  private readonly installs: boolean;
  private readonly limits: Limits;
  private nextFlowId = 1;
  private readonly recirculations: Recirculations = {
    get: (id) => this.records.get(id) ?? fact<Recirculation>(`recirculation ${id}`, null),
    idOf: (recirculation) => {
      let id = recirculationHash(recirculation);
      for (let known = this.records.get(id); known !== undefined; known = this.records.get(++id)) {
        if (known.value && recirculationsEqual(known.value, recirculation)) break;
      }
      return id;
    },
  };

  constructor(
    protected readonly datapath: Datapath,
    options: SimulatedHostOptions = {},
  ) {
    this.installs = options.installs ?? true;
    this.limits = {
      maxActionsLength: options.maxActionsLength ?? datapath.maxActionsLength,
      actionsLength: (actions) => datapath.actionsLength(actions),
    };
  }

  /** Installed flows. */
  get flowCount(): number {
    return this.nextFlowId - 1;
  }

  /** What is decided of packets with this key. */
  simulate(key: FlowKey, packet?: Uint8Array): Done {
    const decision = this.run(key, packet);
    if (decision.type !== 'done') throw new Error(`it waits for ${decision.missing.map(({ tag }) => tag)}`);
    return decision;
  }

  /** As {@link simulate}, where facts may be missing. */
  run(key: FlowKey, packet?: Uint8Array): Decision {
    return simulate(key, this.world.ingress(key.inPort), this.limits, this.recirculations, packet);
  }

  /** Packets that no flow matched. */
  receive(batch: readonly Upcall[]): void {
    for (const upcall of batch) this.upcall(upcall);
  }

  /** As an agent does when a fact has changed: each flow is what is decided of its packets by now. */
  revisit(): void {
    this.decisions.forEach((known, i) => {
      const decision = this.simulate(known.key);
      this.keep(decision);
      const { key } = known;
      this.submit({ type: 'put', id: known.id, key, mask: known.decision.mask, actions: decision.actions });
      this.decisions[i] = { ...known, decision };
    });
  }

  private upcall({ key, packet, origin, complete }: Upcall): void {
    this.upcalls++;
    const kept = key.clone();
    const decision = this.simulate(kept, packet);
    this.made.push(decision);
    if (decision.drop !== undefined) this.drops.push(decision.drop);
    this.keep(decision);
    if (decision.install && complete && this.installs) this.install(kept, decision);
    for (const effect of decision.effects) {
      if (effect.type === 'send') this.send(effect.port, effect.frame);
      if (effect.type !== 'reply') continue;
      const bytes = buildReply(effect, packet);
      if (bytes !== undefined) this.send(effect.port, bytes);
    }
    if (decision.actions.length > 0) {
      this.submit({ type: 'execute', key: kept, packet: packet.slice(), actions: decision.actions, origin });
    }
  }

  private install(key: FlowKey, decision: Done): void {
    // Several packets may have come up before the flow that the first one led to was there.
    const before = this.flows.lookup(key);
    if (before !== undefined) {
      if (!actionsEqual(before.decision.actions, decision.actions)) {
        this.faults.push(`${describePacket(key)} matches a flow with other actions: ${describeFlow(before)}`);
      }
      return;
    }
    const flow = { id: this.nextFlowId++, key, decision };
    this.decisions.push(flow);
    this.flows.insert(key, decision.mask, flow);
    this.submit({ type: 'put', id: flow.id, key, mask: decision.mask, actions: decision.actions });
  }

  private keep({ recirculations }: Done): void {
    for (const { id, recirculation } of recirculations) {
      if (!this.records.has(id)) this.records.set(id, fact(`recirculation ${id}`, recirculation));
    }
  }

  /** A frame of a device's own leaves it at a port. */
  private send(port: Fact<PortFact>, frame: Uint8Array): void {
    const key = new FlowKey();
    extractKey(frame, key);
    const decision = simulateSent(key, port, this.limits, this.recirculations);
    if (decision.type !== 'done') throw new Error(`what a device sends waits for ${decision.missing[0].tag}`);
    this.keep(decision);
    if (decision.actions.length > 0) {
      this.submit({ type: 'execute', key, packet: frame, actions: decision.actions });
    }
  }

  private submit(operation: FlowOperation): void {
    this.datapath.submit([operation], ([error]) => {
      // A connection that clashes with another is not committed, and its packet dropped.
      if (error === undefined || (operation.type === 'execute' && commits(operation.actions))) return;
      this.faults.push(`${operation.type}: ${error.message}`);
    });
  }
}

function commits(actions: readonly Action[]): boolean {
  return actions.some((action) =>
    action.type === 'clone' ? commits(action.actions) : action.type === 'ct' && action.commit,
  );
}

/** Key `a` in the bits of the mask, `b` in all others. */
export function merged(a: FlowKey, b: FlowKey, mask: FlowMask): FlowKey {
  const out = new FlowKey();
  for (let i = 0; i < FLOW_KEY_WORDS; i++) {
    out.words[i] = (a.words[i] & mask.words[i]) | (b.words[i] & ~mask.words[i]);
  }
  return out;
}

export function describeFlow({ key, decision }: Pick<DecidedFlow, 'key' | 'decision'>): string {
  return `${describeMatch(key, decision.mask)} -> ${describeActions(decision.actions)}`;
}

/**
 * A packet that a flow takes, although a simulation of that packet alone comes to something else; undefined if there is
 * none. Such packets are made of a flow's and of the others' wherever the flow does not look, and of `others`.
 */
export function unsoundFlow(host: SimulatedHost, others: readonly FlowKey[] = []): string | undefined {
  const keys = [...host.decisions.map(({ key }) => key), ...others];
  for (const flow of host.decisions) {
    for (const other of keys) {
      const packet = merged(flow.key, other, flow.decision.mask);
      const again = host.simulate(packet);
      const difference = differenceOf(flow.decision, again);
      if (difference === undefined) continue;
      const instead = describeFlow({ key: packet, decision: again });
      return `${difference}\n  flow: ${describeFlow(flow)}\n  but ${describePacket(packet)}\n  has: ${instead}`;
    }
  }
  return undefined;
}

/** In what the decisions differ that one flow cannot be both of; undefined if in nothing. */
export function differenceOf(a: Done, b: Done): string | undefined {
  if (!actionsEqual(a.actions, b.actions)) return 'other actions';
  if (!a.mask.equals(b.mask)) return 'other bits are matched';
  if (a.install !== b.install) return 'one is installed';
  if (a.drop !== b.drop) return `dropped for ${a.drop} and ${b.drop}`;
  if (a.tags.length !== b.tags.length || a.tags.some((tag, i) => tag !== b.tags[i])) return 'other facts were read';
  if (learned(a).join() !== learned(b).join()) return `learned ${learned(a)} and ${learned(b)}`;
  return undefined;
}

function learned({ effects }: Done): string[] {
  return effects.flatMap((effect) =>
    effect.type === 'learn' ? [`${effect.mac.toString(16)} in ${effect.vlan} at ${effect.port.id}`] : [effect.type],
  );
}
