import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { pino } from 'pino';
import { startAgentControl } from '../../../src/agent/control/agent-control.js';
import { capture, describeCaptured } from '../../../src/cli/explain/capture.js';
import { drawFlows, showFlows } from '../../../src/cli/explain/flows.js';
import type { Terminal } from '../../../src/cli/terminal/terminal.js';
import { PcapngReader } from '../../../src/packet/pcap.js';
import type { Cluster } from '../../agent/cluster.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { until } from '../../agent/until.js';
import { TestApi } from '../../api/api-test.js';
import { udpFrame } from '../../simulation/world.js';

const PORT = '7c1f0e52-8a4e-4c53-9f43-2b1b0a6f3c11';
const CHAIN = '0d8e2c3a-6f1b-4a7d-9c55-3e2f1a0b4c5d';

test('flows are drawn by port, with names in place of identifiers', (t) => {
  const flow = {
    from: PORT,
    to: ['tunnel'],
    match: 'in_port=3',
    actions: 'output(2)',
    packets: 12,
    bytes: 1176,
    idleMs: 350,
    pinned: false,
    tags: [`port ${PORT}`, `chain ${CHAIN}`],
  };
  const answer = {
    hosts: [{ id: CHAIN, name: 'node-1', flows: [flow], more: false }],
    hostsLeft: 0,
    names: { [PORT]: 'web' },
  };
  t.is(
    drawFlows(answer, false),
    `node-1, from port web
  in_port=3
    output(2) (to tunnel)
    12 packets, 1176 bytes, used 0.3 s ago
    depends on port web, chain 0d8e2c3a`,
  );
  t.true(drawFlows(answer, true).includes(`chain ${CHAIN}`));
  t.is(drawFlows({ hosts: [], hostsLeft: 0, names: {} }, false), 'no flows');
});

test('a captured packet is a line', (t) => {
  const bytes = udpFrame({ srcMac: 0x0200_0000_0001, dstMac: 0x0200_0000_0002 });
  t.is(
    describeCaptured({ time: Date.UTC(2026, 0, 2, 3, 4, 5, 678), direction: 'in', bytes }),
    `03:04:05.678 in  udp 10.1.0.1:1000 > 10.1.0.2:2000, ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:02, ${bytes.length} bytes`,
  );
  t.regex(describeCaptured({ time: 0, direction: undefined, bytes: new Uint8Array(3) }), /not a whole .* 3 bytes$/);
});

function terminal(): Terminal & { lines: string[]; notes: string[] } {
  const lines: string[] = [];
  const notes: string[] = [];
  return {
    lines,
    notes,
    env: {},
    isInteractive: false,
    signal: new AbortController().signal,
    print: (text) => lines.push(text),
    note: (text) => notes.push(text),
    confirm: async () => false,
    input: async () => '',
    setExitCode: () => {},
  };
}

async function serve(c: Cluster): Promise<{ server: string; close: () => Promise<void> }> {
  const log = pino({ level: 'silent' });
  const controls = c.hosts.map((host) => startAgentControl({ agent: host.agent, host: '127.0.0.1', port: 0, log }));
  const api = await TestApi.start(c.repository.store);
  const close = async () => {
    await api.close();
    await Promise.all(controls.map((one) => one.close()));
  };
  return { server: api.address, close };
}

clusterTest('packets are printed, or written to a file, until there are enough', { hosts: 1 }, async (t, c) => {
  const { server, close } = await serve(c);
  const folder = await mkdtemp(join(tmpdir(), 'capture-'));
  try {
    const [a, b] = await c.populate(await c.createBridge(), 2);
    await c.repository.modify('port', a.id, (port) => ({ ...port, name: 'web' }));
    await c.connects(a, b);
    await until('the agent can be asked', async () => {
      const { hosts } = JSON.parse(await shown({ server, json: true }));
      return hosts.every(({ error }: { error?: string }) => error === undefined);
    });
    t.regex(await shown({ server, port: 'web' }), /^host-1, from port blue\/web$/m);

    const screen = terminal();
    const file = join(folder, 'web.pcapng');
    let running = 2;
    const done = () => {
      running--;
    };
    const printed = capture('web', { server, count: 2, direction: 'in' }, screen).finally(done);
    const written = capture('web', { server, count: 1, write: file }, terminal()).finally(done);
    await until('both have enough', async () => {
      c.sendTo(a, b);
      await c.quiet();
      return running === 0;
    });
    await Promise.all([printed, written]);
    t.is(screen.lines.length, 2);
    t.regex(screen.lines[0], / in {2}udp /);
    const items = new PcapngReader().read(await readFile(file));
    t.is(items.filter((item) => 'bytes' in item).length, 1);
  } finally {
    await rm(folder, { recursive: true });
    await close();
  }
});

async function shown(flags: Parameters<typeof showFlows>[0]): Promise<string> {
  const screen = terminal();
  await showFlows(flags, screen);
  return screen.lines.join('\n');
}
