import type { PlainPass, PlainStep } from '../../simulation/explain.js';
import { namedIn, type TraceNames } from './trace-names.js';

/**
 * A step as a tenant may see it: of its own objects as it is, of what is somebody else's only that the packet comes there, or
 * what becomes of it there. Where rules or load balancers of somebody else decide at a device of its own it sees that they do, and
 * whether the packet is dropped, as its sender would, but not what they look at or change.
 */
export type ShownStep = PlainStep | HiddenStep;

export interface HiddenStep {
  readonly type: 'hidden';
  readonly what: 'passage' | 'rule' | 'drop' | 'output' | 'answer';
}

type Type = PlainStep['type'];

/** What a device asks what to do with a packet. */
const DECIDES: ReadonlySet<Type> = new Set<Type>([
  'chain',
  'rule',
  'circle',
  'chain-end',
  'vip',
  'load-balancer-off',
  'member',
]);
/** What comes of that, without a name of who decided it. */
const DECIDED: ReadonlySet<Type> = new Set<Type>([
  'set',
  'ask',
  'connection',
  'translate',
  'translated',
  'hash',
  'bucket',
]);

export interface ShownPass extends Omit<PlainPass, 'steps'> {
  readonly steps: readonly ShownStep[];
}

/**
 * The passes without what tells of others: their devices, what these make of the packet, the flow, and the hosts.
 * @param names of what the tenant may know of
 */
export function forTenant(passes: readonly PlainPass[], names: TraceNames): ShownPass[] {
  return passes.map(({ from, steps, drop, missing }) => ({
    packet: passes[0].packet,
    from,
    steps: shownSteps(steps, names),
    drop,
    missing: missing && ['what it has yet to read'],
  }));
}

function shownSteps(steps: readonly PlainStep[], names: TraceNames): ShownStep[] {
  const shown: ShownStep[] = [];
  const hide = (what: HiddenStep['what']) => shown.push({ type: 'hidden', what });
  let isTheirs = false;
  let isDecidedByThem = false;
  let copies = 0;
  for (const step of steps) {
    // Captures are an admin's.
    const isCopy = step.type === 'capture' || (step.type === 'mirror' && (copies > 0 || isUnknown(step, names)));
    if (isCopy) copies++;
    if (copies > 0) {
      if (step.type === 'mirrored' || step.type === 'captured') copies--;
      continue;
    }
    if (step.type === 'in' || step.type === 'device') {
      const was = isTheirs;
      isTheirs = isUnknown(step, names);
      if (isTheirs && !(was && step.type === 'device')) hide('passage');
    }
    if (isTheirs) {
      const what = endOf(step);
      if (what !== undefined) hide(what);
    } else if (step.type === 'output') shown.push({ type: 'output', actions: '' });
    else if (step.type === 'wait') shown.push({ type: 'wait', fact: 'what the agent has yet to read' });
    else if (isUnknown(step, names)) {
      if (DECIDES.has(step.type) && !isDecidedByThem) hide('rule');
      isDecidedByThem ||= DECIDES.has(step.type);
    } else {
      if (!DECIDED.has(step.type)) isDecidedByThem = false;
      if (!isDecidedByThem) shown.push(step);
    }
  }
  return shown;
}

function isUnknown(step: PlainStep, names: TraceNames): boolean {
  return namedIn(step).some(({ kind, id }) => names.get(kind, id) === undefined);
}

/** What becomes of the packet in a step, if something does. */
function endOf({ type }: PlainStep): HiddenStep['what'] | undefined {
  switch (type) {
    case 'drop':
    case 'output':
      return type;
    case 'answer':
    case 'reply':
    case 'configure':
    case 'health-answer':
      return 'answer';
    default:
      return undefined;
  }
}
