import test from 'ava';
import type { TraceAnswer } from '../../../src/api/explain/trace-routes.js';
import { drawTrace, trace } from '../../../src/cli/explain/trace.js';
import type { Terminal } from '../../../src/cli/terminal/terminal.js';
import { PacketTextError } from '../../../src/flow/packet-text.js';

const step = (depth: number, text: string, type = 'rule') => ({ type, depth, text });

const ANSWER: TraceAnswer = {
  outcome: { verdict: 'dropped', text: 'Dropped by rule 1 of chain firewall.', portIds: [], ruleIds: ['r'] },
  port: { id: 'p', name: 'web' },
  host: { id: 'h', name: 'node-1' },
  packet: 'tcp 10.0.0.1:1 > 10.0.0.2:22 from 02:00:00:00:00:01 to 02:00:00:00:00:02',
  assumed: ["from MAC 02:00:00:00:00:01: the port's own"],
  passes: [
    {
      packet: 'tcp 10.0.0.1:1 > 10.0.0.2:22',
      steps: [step(0, 'in at port web of bridge near', 'in')],
      flow: { match: 'in_port=1', actions: 'ct(zone 7), recirc(1)', tags: ['port p'] },
    },
    {
      packet: 'tcp 10.0.0.1:1 > 10.0.0.2:22',
      from: 0,
      steps: [
        step(0, 'in at port web of bridge near', 'in'),
        step(1, 'chain outer', 'chain'),
        step(2, 'rule 1 — any packet: jump to chain firewall'),
        step(2, 'chain firewall', 'chain'),
        step(3, 'rule 1 — tcp, to port 22: drop'),
        step(0, 'bridge near', 'device'),
        step(1, 'dropped: filtered', 'drop'),
      ],
      flow: { match: 'in_port=1 tp_dst=22', actions: 'drop', tags: ['chain firewall'] },
    },
  ],
};

test('what becomes of a packet is drawn with the outcome first', (t) => {
  t.is(
    drawTrace(ANSWER, false),
    `✘ Dropped by rule 1 of chain firewall.

packet  tcp 10.0.0.1:1 > 10.0.0.2:22 from 02:00:00:00:00:01 to 02:00:00:00:00:02
        from MAC 02:00:00:00:00:01: the port's own
agent   node-1

comes back once from the datapath
in at port web of bridge near
├─ chain outer
│  ├─ rule 1 — any packet: jump to chain firewall
│  └─ chain firewall
│     └─ rule 1 — tcp, to port 22: drop
└─ dropped: filtered

flow    in_port=1
        ct(zone 7), recirc(1)
flow    in_port=1 tp_dst=22
        drop`,
  );
  t.true(drawTrace(ANSWER, true).endsWith('drop\n        depends on chain firewall'));
});

test('the word of a packet that is at fault is underlined', async (t) => {
  const notes: string[] = [];
  const terminal = { note: (text: string) => notes.push(text) } as unknown as Terminal;
  await t.throwsAsync(trace({ from: 'web', packet: 'tcp 10.0.0 > 10.0.0.2' }, terminal), {
    instanceOf: PacketTextError,
  });
  t.deepEqual(notes, ['  tcp 10.0.0 > 10.0.0.2', '      ^^^^^^']);
});
