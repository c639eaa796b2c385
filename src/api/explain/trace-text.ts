import { describeTraceStep, type TraceStep } from '../../simulation/trace.js';
import type { TraceNames } from './trace-names.js';
import type { HiddenStep, ShownStep } from './trace-privacy.js';

/** A step in words, and how deep it is in the tree of them: devices are at 0, what they do at 1, and what is below that deeper. */
export interface StepText {
  readonly depth: number;
  readonly text: string;
}

/** One for each step. A device is named where the packet comes in; the step of the device itself then says nothing more. */
export function stepTexts(steps: readonly ShownStep[], names: TraceNames): StepText[] {
  const chains: string[] = [];
  let device: string | undefined;
  return steps.map((step) => {
    switch (step.type) {
      case 'in': {
        chains.length = 0;
        const port = names.get('port', step.port);
        device = (port && names.deviceOf(port)) ?? step.device;
        const copy = step.isCopy ? 'copy ' : '';
        return { depth: 0, text: `${copy}in at ${names.port(step.port)} of ${device}` };
      }
      case 'hidden':
        if (step.what !== 'rule') chains.length = 0;
        return { depth: step.what === 'passage' ? 0 : 1, text: HIDDEN[step.what] };
      case 'device': {
        chains.length = 0;
        return { depth: 0, text: names.device(step.device, step.id) };
      }
      case 'chain':
        // A chain that none of those jumped to is one of the device's or port's own.
        if (chains.length > 0 && !isJump(steps, step)) chains.length = 0;
        chains.push(step.id);
        return { depth: chains.length, text: `chain ${names.of('chain', step.id)}` };
      case 'rule':
      case 'chain-end': {
        while (chains.length > 1 && chains.at(-1) !== step.chain) chains.pop();
        return { depth: chains.length + 1, text: describeStep(step, names) };
      }
      case 'set':
      case 'connection':
      case 'circle':
      case 'wait':
      case 'translated':
      case 'translate':
      case 'ask':
      case 'hash':
      case 'bucket':
        return { depth: Math.max(1, chains.length), text: describeStep(step, names) };
      default:
        chains.length = 0;
        return { depth: 1, text: describeStep(step, names) };
    }
  });
}

const HIDDEN: Readonly<Record<HiddenStep['what'], string>> = {
  rule: 'rules of somebody else decide',
  passage: 'through a device of somebody else',
  drop: 'dropped there',
  output: 'sent from there',
  answer: 'answered from there',
};

/** Whether the step before, but for those that say more of it, is a rule that jumps. */
function isJump(steps: readonly ShownStep[], chain: ShownStep): boolean {
  const before = steps[steps.indexOf(chain) - 1];
  return before?.type === 'rule' && before.action.startsWith('jump');
}

function describeStep(step: ShownStep, names: TraceNames): string {
  switch (step.type) {
    case 'rule': {
      const rule = names.rule(step.rule);
      return `${rule} — ${names.ruleText(step.rule) ?? step.action}`;
    }
    case 'circle':
      return `not followed, as chain ${names.of('chain', step.chain)} led here`;
    case 'mac':
      return step.port === null ? `nobody knows ${step.mac}` : `${step.mac} is behind ${names.port(step.port)}`;
    case 'route':
      return `route ${names.route(step.route)}: ${routeKind(step.kind)}${step.of === 1 ? '' : `, one of ${step.of} as good`}`;
    case 'out':
      return `out at ${names.port(step.port)}`;
    case 'mirror':
      return `copied by mirror ${names.of('mirror', step.id)}`;
    case 'vip': {
      const of = `of load balancer ${names.of('load-balancer', step.loadBalancer)}`;
      if (step.vip === null) return `to the address of a VIP ${of}: only the connection tells more`;
      const vip = names.get('vip', step.vip);
      const address = vip === undefined ? '' : ` ${vip.address} port ${vip.protocolPort}`;
      return `to VIP ${names.of('vip', step.vip)}${address} ${of}${step.isOn ? '' : ', which is switched off'}`;
    }
    case 'load-balancer-off':
      return `load balancer ${names.of('load-balancer', step.loadBalancer)} is switched off`;
    case 'member':
      if (step.member === null) return `no member of pool ${names.of('pool', step.pool)} takes a new connection`;
      return describeTraceStep({ ...step, member: { ...step.member, id: names.of('pool-member', step.member.id) } });
    case 'learn':
      return `learned: ${step.mac} is behind ${names.port(step.port)}`;
    case 'answer':
      return `answered${step.port === undefined ? '' : ` out of ${names.port(step.port)}`}`;
    case 'reply':
      return describeTraceStep({ ...step, port: names.of('port', step.port) });
    case 'output':
      if (step.actions === '') return 'sent';
      return step.tunnelTo === undefined
        ? `sent: ${step.actions}`
        : `sent through a tunnel to ${step.tunnelTo}: ${step.actions}`;
    default:
      // Of an agent of a later version it may be one that nobody here has words for.
      return (describeTraceStep(step as TraceStep) as string | undefined) ?? step.type;
  }
}

function routeKind(kind: string): string {
  return kind === 'normal' ? 'sent on' : kind === 'local' ? "the router's own address" : kind;
}
