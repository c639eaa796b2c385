import { randomUUID } from 'node:crypto';
import test from 'ava';
import type { Condition } from '../../src/topology/chains.js';
import { idFromName } from '../../src/topology/id.js';
import { positionsAfter } from '../../src/topology/position.js';
import { cleanUp } from './clean-up.js';
import { ConnectionProgram } from './connections.js';
import { Lab, NETWORK, type Pod, until } from './lab.js';

/** A firewall that knows connections, between pods on two nodes. One lab serves all tests, one after the other. */
const CONNECTIONS = 2000;
const SERVED_PORT = 5000;
const OTHER_PORT = 5001;

let lab: Lab;
let red: Pod;
let blue: Pod;
let program: ConnectionProgram;

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start({ agent: { flows: { idleTimeout: 60 } } });
  red = await lab.nodes[0].addPod('red');
  blue = await lab.nodes[1].addPod('blue');
  program = await ConnectionProgram.compile(lab.folder);
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await lab.logs());
});

test.after.always(() => cleanUp(...[red, blue].map((pod) => () => pod?.remove()), () => lab?.close()));

/** How many of `count` connections, one after the other, were answered. */
async function connect(from: Pod, address: string, port: number, count: number): Promise<number> {
  return (await program.open(from, { protocol: 'tcp', address, ports: [port, port], count })).total;
}

async function upcalls(): Promise<number[]> {
  return Promise.all(lab.nodes.map((node) => node.metric('midonet_upcalls_total')));
}

test.serial('a firewall lets in what answers and what is served, and no connection costs an upcall', async (t) => {
  t.timeout(600_000);
  const repository = lab.repository();
  const chainId = (await repository.create('chain', { id: randomUUID(), name: 'served' })).id;
  const [answers, served, others] = positionsAfter(undefined, 3);
  const addRule = (position: string, type: 'accept' | 'drop', condition: Condition) =>
    repository.create('rule', { id: randomUUID(), chainId, position, type, condition });
  await addRule(answers, 'accept', { matchReturnFlow: true });
  await addRule(served, 'accept', { protocol: 6, destinationPorts: { start: SERVED_PORT, end: SERVED_PORT } });
  // What IPv6 needs to find its neighbours stays allowed.
  await addRule(others, 'drop', { protocol: 6 });
  const portId = idFromName('port', NETWORK, blue.namespace, 'eth0');
  const stops: (() => void)[] = [];
  try {
    for (const [pod, port] of [
      [blue, SERVED_PORT],
      [blue, OTHER_PORT],
      [red, OTHER_PORT],
    ] as const) {
      stops.push(await program.serve(pod, port));
    }
    const isOpen = async () => (await connect(red, blue.ipv4, OTHER_PORT, 1)) === 1;
    await until('the nodes to know each other, before there is a firewall', isOpen);
    await repository.modify('port', portId, (port) => ({ ...port, outboundFilterId: chainId }));
    for (const address of [blue.ipv4, blue.ipv6]) {
      await until('the firewall to keep others out', async () => (await connect(red, address, OTHER_PORT, 1)) === 0);
      t.is(await connect(red, address, SERVED_PORT, 20), 20);
    }
    for (const address of [red.ipv4, red.ipv6]) t.is(await connect(blue, address, OTHER_PORT, 20), 20, 'from inside');

    for (const [family, address, count] of [
      ['IPv4', blue.ipv4, CONNECTIONS],
      ['IPv6', blue.ipv6, CONNECTIONS / 2],
    ] as const) {
      const before = await upcalls();
      const began = performance.now();
      t.is(await connect(red, address, SERVED_PORT, count), count);
      const seconds = (performance.now() - began) / 1000;
      const after = await upcalls();
      const spent = after.map((value, i) => value - before[i]);
      t.log(
        `${count} connections over ${family} in ${seconds.toFixed(1)} s; upcalls on the nodes: ${spent.join(' and ')}`,
      );
      for (const value of spent) t.true(value < count / 20, 'new connections are none of the agents business');
    }
    for (const [i, node] of lab.nodes.entries()) {
      const flows = (await node.flows()).length;
      const port = idFromName('port', NETWORK, [red, blue][i].namespace, 'eth0');
      const page = await node.run(
        'curl',
        '-s',
        `http://127.0.0.1:${node.httpSocketPort}/connections?of=${port}&limit=20000`,
      );
      const tracked = page.stdout.split('\n').filter((line) => line.startsWith('  tcp'));
      t.log(`${node.name}: ${flows} flows, ${tracked.length} connections, such as`, tracked[0]);
      t.true(flows < 60);
      t.true(tracked.length > 100, page.stdout.slice(0, 500));
    }
    t.is(await connect(red, blue.ipv4, OTHER_PORT, 1), 0, 'still kept out');
  } finally {
    for (const stop of stops) stop();
  }
});

test.serial('connections go on while the agent is away and after it is back', async (t) => {
  t.timeout(300_000);
  const [node] = lab.nodes;
  const stop = await program.serve(blue, SERVED_PORT);
  try {
    t.is(await connect(red, blue.ipv4, SERVED_PORT, 20), 20);
    await node.stopAgent('SIGKILL');
    t.is(await connect(red, blue.ipv4, SERVED_PORT, 100), 100, 'without the agent');
    const connecting = connect(red, blue.ipv4, SERVED_PORT, 1000);
    await node.startAgent();
    t.is(await connecting, 1000, 'while it starts');
    t.is(await connect(red, blue.ipv4, SERVED_PORT, 100), 100, 'after it has');
    t.is(await connect(red, blue.ipv4, OTHER_PORT, 1), 0);
  } finally {
    stop();
  }
});
