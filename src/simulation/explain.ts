import type { Action, NatSpec } from '../flow/action.js';
import { describeActions, describeMatch, describePacket } from '../flow/describe.js';
import { CtState, type FlowKey, Word } from '../flow/key.js';
import { formatIpv4 } from '../packet/address.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import type { Recirculation, Recirculations } from './connection.js';
import type { Limits } from './context.js';
import type { Decision } from './decision.js';
import type { Fact, Ingress } from './fact.js';
import { simulate } from './simulate.js';
import { formatTrace, type TraceStep } from './trace.js';

/** A packet that might come in, and what is taken for granted where only the datapath could tell. */
export interface Question {
  readonly key: FlowKey;
  readonly ingress: Fact<Ingress>;
  readonly limits: Limits;
  /** Absent when the datapath cannot track connections. */
  readonly recirculations?: Recirculations;
  readonly bytes?: Uint8Array;
  /** What the packet is to its connection, in whatever zone that is asked. */
  readonly connection: 'new' | 'established' | 'reply';
  /** What is chosen from several targets by, 32 bits. */
  readonly hash: number;
}

/** One simulation: of the packet as it comes in, or as it comes back from the datapath with what that was asked for. */
export interface Pass {
  readonly key: FlowKey;
  /** Which of the passes before it sent the packet back; undefined where it comes in. */
  readonly from: number | undefined;
  readonly steps: readonly TraceStep[];
  readonly decision: Decision;
}

/** A packet that comes back more often than this goes in a circle. */
const MAX_PASSES = 16;

/**
 * What would become of a packet, and why, without sending anything: the simulations that it would go through. It waits
 * for no fact: the last decision says which are not in hand.
 */
export function explain({ key, ingress, limits, recirculations, bytes, connection, hash }: Question): Pass[] {
  const found = new Map<number, Recirculation>();
  const known: Recirculations | undefined = recirculations && {
    get: (id) => {
      const recirculation = found.get(id);
      return recirculation === undefined
        ? recirculations.get(id)
        : { tag: `recirculation ${id}`, value: recirculation };
    },
    idOf: (recirculation) => recirculations.idOf(recirculation),
  };
  const passes: Pass[] = [];
  const waiting: Pick<Pass, 'key' | 'from'>[] = [{ key, from: undefined }];
  for (let next = waiting.shift(); next !== undefined && passes.length < MAX_PASSES; next = waiting.shift()) {
    const steps: TraceStep[] = [];
    const decision = simulate(next.key, ingress, limits, known, bytes, steps);
    const from = passes.push({ ...next, steps, decision }) - 1;
    if (decision.type === 'wait') continue;
    for (const { id, recirculation } of decision.recirculations) found.set(id, recirculation);
    const returns: FlowKey[] = [];
    collectReturns(next.key.clone(), decision.actions, connection, hash, returns);
    waiting.push(...returns.map((back) => ({ key: back, from })));
  }
  return passes;
}

/** Do to the key what the actions do to the packet, as far as later flows can see it, and add what comes back to `returns`. */
function collectReturns(
  key: FlowKey,
  actions: readonly Action[],
  connection: Question['connection'],
  hash: number,
  returns: FlowKey[],
): void {
  for (const action of actions) {
    switch (action.type) {
      case 'set':
        key.words.forEach((word, i) => {
          key.words[i] = (word & ~action.mask.words[i]) | (action.key.words[i] & action.mask.words[i]);
        });
        break;
      case 'push-vlan':
        key.vlanTci = action.tci;
        key.vlanTpid = action.tpid;
        break;
      case 'pop-vlan':
        key.vlanTci = 0;
        key.vlanTpid = 0;
        break;
      case 'ct':
        key.ctZone = action.zone;
        key.ctState = CONNECTION_STATES[connection];
        if (action.nat !== undefined && connection !== 'reply') translate(key, action.nat);
        break;
      case 'hash':
        key.dpHash = hash;
        break;
      case 'clone':
        collectReturns(key.clone(), action.actions, connection, hash, returns);
        break;
      case 'recirc': {
        const back = key.clone();
        back.recircId = action.id;
        returns.push(back);
        break;
      }
    }
  }
}

const CONNECTION_STATES = {
  new: CtState.TRACKED | CtState.NEW,
  established: CtState.TRACKED | CtState.ESTABLISHED,
  reply: CtState.TRACKED | CtState.ESTABLISHED | CtState.REPLY,
} as const;

/** To the first address and port of the range. What a connection was committed with is not known here. */
function translate(key: FlowKey, { kind, ipMin, portMin }: NatSpec): void {
  if (kind === 'restore') return;
  const isSource = kind === 'src';
  ipMin?.forEach((word, i) => {
    key.words[(isSource ? Word.NW_SRC : Word.NW_DST) + i] = word;
  });
  // Of ICMP it is the identifier, which keys do not have.
  const hasPorts = key.nwProto !== IpProtocol.ICMP && key.nwProto !== IpProtocol.ICMPV6;
  if (portMin !== undefined && hasPorts) key.words[isSource ? Word.TP_SRC : Word.TP_DST] = portMin;
  key.ctState |= isSource ? CtState.SNAT : CtState.DNAT;
}

/** What came of a simulation, in words. */
export interface Outcome {
  /** What is done to the packet; undefined where it has to wait. */
  readonly actions?: string;
  /** What other packets have to be like for the same, in one flow; undefined where each is looked at by itself. */
  readonly match?: string;
  readonly drop?: string;
  /** What is not in hand. */
  readonly missing?: readonly string[];
}

export function outcomeOf({ key, decision }: Pass): Outcome {
  if (decision.type === 'wait') return { missing: decision.missing.map(({ tag }) => tag) };
  return {
    actions: describeActions(decision.actions),
    match: decision.install ? describeMatch(key, decision.mask) : undefined,
    drop: decision.drop,
  };
}

/** A step as an object for programs: what the datapath does is in words, and to which host a copy goes. */
export type PlainStep =
  | Exclude<TraceStep, { type: 'output' }>
  | { readonly type: 'output'; readonly actions: string; readonly tunnelTo?: string };

/** A pass as an object for programs. */
export interface PlainPass extends Outcome {
  /** The packet as it is at the beginning, in words. */
  readonly packet: string;
  readonly from?: number;
  readonly steps: readonly PlainStep[];
  /** What the decision depends on. */
  readonly tags?: readonly string[];
}

export function plainPass(pass: Pass): PlainPass {
  const { key, from, steps, decision } = pass;
  return {
    packet: describePacket(key),
    from,
    steps: steps.map(plainStep),
    ...outcomeOf(pass),
    tags: decision.type === 'done' ? decision.tags.map(({ tag }) => tag) : undefined,
  };
}

function plainStep(step: TraceStep): PlainStep {
  if (step.type !== 'output') return step;
  const tunnel = step.actions.find((action) => action.type === 'set-tunnel')?.tunnel;
  return {
    type: 'output',
    actions: describeActions(step.actions),
    ...(tunnel !== undefined && { tunnelTo: formatIpv4(tunnel.dst) }),
  };
}

/** For people to read: each pass with its packet, one line a step, and what came of it. */
export function formatPasses(passes: readonly Pass[]): string {
  return passes
    .map((pass) => {
      const { actions, match, drop, missing } = outcomeOf(pass);
      const lines = [
        `${describePacket(pass.key)}${pass.key.recircId === 0 ? '' : ', come back'}\n`,
        formatTrace(pass.steps),
      ];
      if (missing !== undefined) lines.push(`waits for: ${missing.join(', ')}\n`);
      else {
        lines.push(`actions: ${actions}${drop === undefined ? '' : ` (${drop})`}\n`);
        lines.push(match === undefined ? 'no flow: each such packet is looked at\n' : `flow: ${match}\n`);
      }
      return lines.join('');
    })
    .join('\n');
}
