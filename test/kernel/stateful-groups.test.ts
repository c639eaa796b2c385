import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import type { Rule } from '../../src/topology/chains.js';
import { idFromName } from '../../src/topology/id.js';
import { positionsAfter } from '../../src/topology/position.js';
import { cleanUp } from './clean-up.js';
import { Lab, type LabNode, must, run, until } from './lab.js';

/**
 * A router with an uplink on each of two nodes to one machine outside, which answers through the second one whatever comes through
 * the first. Both uplinks let in answers only, and a service that is published. One lab serves all tests, one after the other.
 */
const SOURCE = fileURLToPath(new URL('../../../test/kernel/connections.c', import.meta.url));
const ROUTER = idFromName('router', 'edge');
const GROUP = idFromName('port-group', 'uplinks');
const MACHINE = '10.50.1.1';
const MACHINE_MAC = '02:00:00:50:01:01';
const WORLD = '203.0.113.1';
/** Answered through the second uplink by the router. */
const FAR_WORLD = '203.0.113.2';
const MASKED = '198.51.100.5';
const VIP = '198.51.100.80';
const PORT = 5000;

let lab: Lab;
let program: string;
let inside: string;
let outside: string;
const servers: ChildProcess[] = [];

function addRouterPort(name: string, fields: object): Promise<unknown> {
  return lab.repository().create('port', { ...fields, id: idFromName('port', name), routerId: ROUTER });
}

function addRoute(destination: string, portName: string, gateway?: string): Promise<unknown> {
  const route = {
    id: idFromName('route', destination),
    routerId: ROUTER,
    type: 'normal',
    destination,
    gateway,
  } as const;
  return lab.repository().create('route', { ...route, nextHopPortId: idFromName('port', portName) });
}

function ip(namespace: string, ...parameters: string[]): Promise<string> {
  return must('ip', '-n', namespace, ...parameters);
}

async function hostId({ name }: LabNode): Promise<string> {
  const repository = lab.repository();
  for (const id of await repository.list('host')) {
    if ((await repository.get('host', id))?.object.name === name) return id;
  }
  throw new Error(`${name} is not in the NSDB`);
}

async function createChain(name: string, rules: readonly object[]): Promise<string> {
  const chainId = idFromName('chain', name);
  const repository = lab.repository();
  await repository.create('chain', { id: chainId, name });
  for (const [i, position] of positionsAfter(undefined, rules.length).entries()) {
    const id = idFromName('rule', `${name} ${i}`);
    await repository.create('rule', { ...(rules[i] as Rule), id, chainId, position });
  }
  return chainId;
}

/** A cable from a namespace to a node's interface, with an address and the router's behind it. */
async function plugIn(node: LabNode, name: string, namespace: string, device: string, address: string, mac: string) {
  const peer = ['peer', 'name', device, 'address', mac, 'netns', namespace];
  await ip(node.name, 'link', 'add', name, 'type', 'veth', ...peer);
  await ip(node.name, 'link', 'set', name, 'up');
  await ip(namespace, 'link', 'set', device, 'mtu', '1450', 'up');
  await ip(namespace, 'addr', 'add', `${address}/24`, 'dev', device);
}

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start();
  program = join(lab.folder, 'connections');
  await must('cc', '-O2', '-o', program, SOURCE);
  [inside, outside] = [`inside-${lab.tag}`, `outside-${lab.tag}`];
  for (const namespace of [inside, outside]) {
    await must('ip', 'netns', 'add', namespace);
    await ip(namespace, 'link', 'set', 'lo', 'up');
  }
  const [node1, node2] = lab.nodes;
  await plugIn(node1, 'inside', inside, 'eth0', MACHINE, MACHINE_MAC);
  await ip(inside, 'route', 'add', 'default', 'via', '10.50.1.254');
  await plugIn(node1, 'up1', outside, 'eth1', '192.168.71.9', '02:00:00:00:71:09');
  await plugIn(node2, 'up2', outside, 'eth2', '192.168.72.9', '02:00:00:00:72:09');
  for (const address of [WORLD, FAR_WORLD]) await ip(outside, 'addr', 'add', `${address}/32`, 'dev', 'lo');
  // Ask for neighbours with an address of the link: routers answer no others.
  const settings = ['net.ipv4.conf.all.rp_filter=0', 'net.ipv4.conf.all.arp_announce=2'];
  await must('ip', 'netns', 'exec', outside, 'sysctl', '-q', ...settings);
  // Answers go through the second uplink, and what asks for the service comes in at the first.
  for (const to of ['10.50.1.0/24', `${MASKED}/32`]) await ip(outside, 'route', 'add', to, 'via', '192.168.72.1');
  await ip(outside, 'route', 'add', `${VIP}/32`, 'via', '192.168.71.1', 'src', FAR_WORLD);

  const repository = lab.repository();
  await repository.create('port-group', { id: GROUP, name: 'uplinks', stateful: false });
  await repository.create('router', { id: ROUTER, name: 'edge' });
  const bridgeId = idFromName('bridge', 'near');
  await repository.create('bridge', { id: bridgeId, name: 'near' });
  await addRouterPort('to near', { subnets: ['10.50.1.254/24'] });
  await repository.create('port', {
    id: idFromName('port', 'near to router'),
    bridgeId,
    peerId: idFromName('port', 'to near'),
  });
  await addRoute('10.50.1.0/24', 'to near');
  for (const [i, destination] of ['0.0.0.0/0', `${FAR_WORLD}/32`].entries()) {
    const name = `up${i + 1}`;
    await addRouterPort(name, {
      subnets: [`192.168.7${i + 1}.1/24`],
      portGroupIds: [GROUP],
      binding: { hostId: await hostId(lab.nodes[i]), interfaceName: name },
    });
    await addRoute(destination, name, `192.168.7${i + 1}.9`);
  }
  await repository.create('port', {
    id: idFromName('port', 'inside'),
    bridgeId,
    mac: MACHINE_MAC,
    addresses: [MACHINE],
    binding: { hostId: await hostId(node1), interfaceName: 'inside' },
  });
  for (const namespace of [inside, outside]) {
    servers.push(
      spawn('ip', ['netns', 'exec', namespace, program, 'serve', `${PORT}`, `${PORT}`], { stdio: 'ignore' }),
    );
    const listening = () => run('ip', 'netns', 'exec', namespace, 'ss', '-Hltn', `sport = :${PORT}`);
    await until('the server to listen', async () => (await listening()).stdout !== '');
  }
  await until('the ports to be bound', async () => {
    const ports = [...(await node1.ports()), ...(await node2.ports())];
    return ['inside', 'up1', 'up2'].every((name) => ports.includes(name));
  });
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await lab.logs());
});

test.after.always(() =>
  cleanUp(
    () => {
      for (const server of servers) server.kill('SIGKILL');
    },
    ...[inside, outside].map((namespace) => () => namespace && run('ip', 'netns', 'delete', namespace)),
    () => lab?.close(),
  ),
);

/** How many of `count` TCP connections, one after the other, were answered. */
async function connect(namespace: string, address: string, count: number): Promise<number> {
  const what = ['tcp', address, `${PORT}`, `${PORT}`, `${count}`, '1', '0'];
  const { status, stdout, stderr } = await run('ip', 'netns', 'exec', namespace, program, 'open', ...what);
  if (status !== 0) throw new Error(stderr);
  return [...stdout.matchAll(/^(\d+) answers/gm)].reduce((sum, [, answers]) => sum + Number(answers), 0);
}

test.serial(
  'answers that come in at another node than requests leave are let in when the group is stateful',
  async (t) => {
    t.timeout(240_000);
    await until('packets to go round', async () => (await connect(inside, WORLD, 1)) === 1);
    const inboundFilterId = await createChain('answers', [
      { type: 'accept', condition: { matchReturnFlow: true } },
      { type: 'accept', condition: { destination: `${VIP}/32` } },
      { type: 'drop', condition: { etherType: 0x0800 } },
    ]);
    for (const name of ['up1', 'up2']) {
      await lab.repository().modify('port', idFromName('port', name), (port) => ({ ...port, inboundFilterId }));
    }
    await until('answers to be kept out', async () => (await connect(inside, WORLD, 1)) === 0);
    await lab.repository().modify('port-group', GROUP, (group) => ({ ...group, stateful: true }));
    await until('answers to get in', async () => (await connect(inside, WORLD, 1)) === 1);
    const before = await Promise.all(lab.nodes.map((node) => node.metric('midonet_upcalls_total')));
    t.is(await connect(inside, WORLD, 20), 20);
    const after = await Promise.all(lab.nodes.map((node) => node.metric('midonet_upcalls_total')));
    t.log(`upcalls for 20 connections: ${after.map((value, i) => value - before[i]).join(' and ')}`);
    t.true(after[1] - before[1] < 10);
    const ping = await run('ip', 'netns', 'exec', inside, 'ping', '-n', '-c', '4', '-i', '0.3', '-W', '5', WORLD);
    t.regex(ping.stdout, / [34] received/, 'the first answer may come before the news');
    t.true((await lab.nodes[1].metric('midonet_flow_state_installed_total')) >= 20);
  },
);

test.serial('translated connections go out at one node and back at the other', async (t) => {
  t.timeout(240_000);
  const action = 'accept';
  const target = (address: string, start: number, end: number) => [
    { start: address, end: address, ports: { start, end } },
  ];
  const inboundFilterId = await createChain('prerouting', [
    { type: 'dnat', targets: target(MACHINE, PORT, PORT), action, condition: { destination: `${VIP}/32` } },
    { type: 'reverse-snat', action, condition: { destination: `${MASKED}/32` } },
  ]);
  const outboundFilterId = await createChain('postrouting', [
    {
      type: 'snat',
      targets: target(MASKED, 1024, 65535),
      action,
      condition: { source: '10.50.1.0/24', destination: `${WORLD}/32` },
    },
  ]);
  await lab.repository().modify('router', ROUTER, (router) => ({ ...router, inboundFilterId, outboundFilterId }));
  // Of the three ways only this one translates sources.
  await ip(outside, 'route', 'delete', '10.50.1.0/24');
  await until('answers to masked requests', async () => (await connect(inside, WORLD, 1)) === 1);
  t.is(await connect(inside, WORLD, 5), 5);
  await until('the service to answer', async () => (await connect(outside, VIP, 1)) === 1);
  t.is(await connect(outside, VIP, 5), 5, 'answers are translated back at the other node');
});
