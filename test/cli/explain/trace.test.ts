import test from 'ava';
import type { TraceAnswer } from '../../../src/api/explain/trace-routes.js';
import { drawTrace, trace } from '../../../src/cli/explain/trace.js';
import type { Terminal } from '../../../src/cli/terminal/terminal.js';
import { PacketTextError } from '../../../src/flow/packet-text.js';
import { runMidonet } from '../cli-test.js';

const step = (depth: number, text: string, type = 'rule') => ({ type, depth, text });

const CHAIN = '0d8e2c3a-6f1b-4a7d-9c55-3e2f1a0b4c5d';
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
      flow: { match: 'in_port=1 tp_dst=22', actions: 'drop', tags: [`chain ${CHAIN}`] },
    },
  ],
  names: { [CHAIN]: 'firewall' },
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

test('any hash that the API takes can be asked about', async (t) => {
  const from = '7c1f0e52-8a4e-4c53-9f43-2b1b0a6f3c11';
  const words = ['trace', '--from', from, '--packet', 'tcp 10.0.0.1 > 10.0.0.2', '--hash'];
  const server = 'http://127.0.0.1:1';
  for (const hash of ['0', '4294967295']) {
    // So far that it is asked for.
    t.regex((await runMidonet([...words, hash], { server })).error!, /127\.0\.0\.1:1/);
  }
  t.regex((await runMidonet([...words, 'x'], { server })).error!, /a whole number from 0 on/);
});
