import test from 'ava';
import { TraceNames } from '../../../src/api/explain/trace-names.js';
import { traceOutcome } from '../../../src/api/explain/trace-outcome.js';
import { forTenant } from '../../../src/api/explain/trace-privacy.js';
import { stepTexts } from '../../../src/api/explain/trace-text.js';
import type { Scope } from '../../../src/api/tenancy/tenancy.js';
import type { DropReason } from '../../../src/simulation/decision.js';
import type { PlainStep } from '../../../src/simulation/explain.js';

/** Nothing is known of the objects but their identifiers. */
const names = new TraceNames({} as Scope, new AbortController().signal);

const IN: PlainStep = { type: 'in', port: 'a', device: 'bridge' };
const DEVICE: PlainStep = { type: 'device', device: 'bridge', id: 'near' };
const OUT: PlainStep = { type: 'out', port: 'b' };
const HERE: PlainStep = { type: 'output', actions: 'output(2)' };
const THERE: PlainStep = { type: 'output', actions: 'set-tunnel(…), output(1)', tunnelTo: '192.0.2.2' };
const COPY: PlainStep[] = [{ type: 'capture', id: 'c' }, THERE, { type: 'captured', id: 'c' }];

const outcomeOf = (...steps: PlainStep[]) => traceOutcome([{ packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2', steps }], names);

test('an outcome is about the packet, and not about copies of it', (t) => {
  t.like(outcomeOf(IN, DEVICE, ...COPY, OUT, HERE), { verdict: 'delivered', portIds: ['b'] });
  t.like(outcomeOf(IN, DEVICE, ...COPY, { type: 'drop', reason: 'filtered' }), {
    verdict: 'dropped',
    reason: 'filtered',
  });
  const mirrored: PlainStep[] = [{ type: 'mirror', id: 'm' }, OUT, HERE, { type: 'mirrored', id: 'm' }];
  const copyComesIn: PlainStep = { type: 'in', port: 'c', device: 'bridge', isCopy: true };
  t.like(outcomeOf(IN, ...mirrored, { type: 'drop', reason: 'port-down' }, copyComesIn, OUT, HERE), {
    verdict: 'dropped',
    portIds: [],
  });
});

test('what is sent to another host is flooded, delivered or forwarded there', (t) => {
  t.is(outcomeOf(IN, DEVICE, OUT, THERE).verdict, 'delivered');
  t.is(outcomeOf(IN, DEVICE, { type: 'flood', vlan: 0, hosts: 1 }, THERE).verdict, 'flooded');
  t.is(outcomeOf(IN, DEVICE, THERE).verdict, 'forwarded');
  const waiting = { packet: 'tcp', steps: [IN], missing: ['chain c'] };
  t.like(traceOutcome([waiting], names), { verdict: 'undecided', text: 'Undecided: the agent does not know chain c.' });
});

test('why a packet is dropped is said in words', (t) => {
  const steps = (reason: 'loop' | 'no-tunnel' | 'unbound-port') => outcomeOf(IN, DEVICE, OUT, { type: 'drop', reason });
  t.is(
    steps('loop').text,
    'Dropped at bridge near: another copy has been here before: devices are linked in a circle.',
  );
  t.regex(steps('no-tunnel').text, /there is no tunnel to the host of port b/);
  t.regex(steps('unbound-port').text, /port b is on no interface/);
});

test('what an agent of a later version says is told as it is', (t) => {
  const reason = 'struck-by-lightning' as DropReason;
  t.is(outcomeOf(IN, DEVICE, { type: 'drop', reason }).text, 'Dropped at bridge near: struck-by-lightning.');
  const step = { type: 'teleport', port: 'b' } as unknown as PlainStep;
  t.deepEqual(stepTexts([IN, step], names)[1], { depth: 1, text: 'teleport' });
});

test('a tenant is told of a capture by nobody', (t) => {
  const id = '00000000-0000-4000-8000-000000000001';
  const [shown] = forTenant(
    [{ packet: 'tcp', steps: [{ type: 'in', port: id, device: 'bridge' }, ...COPY, HERE] }],
    names,
  );
  t.deepEqual(shown.steps, [
    { type: 'hidden', what: 'passage' },
    { type: 'hidden', what: 'output' },
  ]);
});

test('a tenant is told that rules of somebody else decide at its own device, and nothing that these look at or change', (t) => {
  const id = '00000000-0000-4000-8000-000000000001';
  const theirs: PlainStep[] = [
    { type: 'chain', id },
    { type: 'connection', way: 'forward' },
    { type: 'rule', chain: id, rule: id, condition: {}, action: 'dnat to 10.9.9.9' },
    { type: 'set', field: 'destination', value: '10.9.9.9' },
  ] as PlainStep[];
  const own: PlainStep[] = [
    { type: 'chain', id: 'own' },
    { type: 'rule', chain: 'own', rule: 'r', condition: {}, action: 'continue' } as PlainStep,
    { type: 'set', field: 'ttl', value: '63' },
  ];
  const hidden = { type: 'hidden', what: 'rule' } as const;
  const shown = (...steps: PlainStep[]) => forTenant([{ packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2', steps }], names);
  t.deepEqual(shown(IN, DEVICE, ...theirs, ...own, OUT, HERE)[0].steps, [
    ...[IN, DEVICE, hidden, ...own, OUT],
    { type: 'output', actions: '' },
  ]);
  // That it is dropped is seen anyway; it is not a rule of the tenant's that does.
  const dropped = traceOutcome(shown(IN, DEVICE, ...own, ...theirs, { type: 'drop', reason: 'filtered' }), names);
  t.like(dropped, { text: 'Dropped at bridge near: a filter drops it.', ruleIds: [] });
});
