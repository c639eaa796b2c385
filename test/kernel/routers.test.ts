import test from 'ava';
import type { Rule } from '../../src/topology/chains.js';
import { idFromName } from '../../src/topology/id.js';
import { positionsAfter } from '../../src/topology/position.js';
import { cleanUp } from './clean-up.js';
import { Lab, type LabNode, must, type Outcome, ping, received, run, until } from './lab.js';

/**
 * Machines with Linux in them behind a router: two networks on two nodes, and a network outside that both reach through an
 * uplink of the second node. One lab serves all tests, one after the other.
 */
let lab: Lab;
let red: Machine;
let green: Machine;
let blue: Machine;
let world: Machine;

const ROUTER = idFromName('router', 'edge');

/** A namespace that is plugged in at a node. */
class Machine {
  readonly namespace: string;

  constructor(
    readonly node: LabNode,
    readonly name: string,
    readonly ipv4: string,
    readonly ipv6: string,
  ) {
    this.namespace = `${name}-${lab.tag}`;
  }

  /** Makes the namespace, with `eth0` that has the addresses and leads to an interface of the node's with its name. */
  async plugIn(mac: string, gateway4: string, gateway6: string): Promise<void> {
    const { node, name, namespace } = this;
    await must('ip', 'netns', 'add', namespace);
    const peer = ['peer', 'name', 'eth0', 'address', mac, 'netns', namespace];
    await must('ip', '-n', node.name, 'link', 'add', name, 'type', 'veth', ...peer);
    await must('ip', '-n', node.name, 'link', 'set', name, 'up');
    await must('ip', '-n', namespace, 'link', 'set', 'lo', 'up');
    await must('ip', '-n', namespace, 'link', 'set', 'eth0', 'mtu', '1450', 'up');
    await must('ip', '-n', namespace, 'addr', 'add', `${this.ipv4}/24`, 'dev', 'eth0');
    await must('ip', '-n', namespace, 'addr', 'add', `${this.ipv6}/64`, 'dev', 'eth0', 'nodad');
    await must('ip', '-n', namespace, 'route', 'add', 'default', 'via', gateway4);
    await must('ip', '-n', namespace, '-6', 'route', 'add', 'default', 'via', gateway6);
  }

  run(...command: string[]): Promise<Outcome> {
    return run('ip', 'netns', 'exec', this.namespace, ...command);
  }

  /** How many of `count` pings were answered. */
  ping(address: string, count = 2): Promise<number> {
    return ping(this, address, count, 0.2);
  }
}

interface Network {
  readonly name: string;
  readonly bridgeId: string;
}

/** A bridge, linked to the router, which has the given addresses there. */
async function createNetwork(name: string, ipv4: string, ipv6: string): Promise<Network> {
  const repository = lab.repository();
  const bridgeId = idFromName('bridge', name);
  const atRouter = idFromName('port', `router to ${name}`);
  await repository.create('bridge', { id: bridgeId, name });
  await repository.create('port', { id: atRouter, routerId: ROUTER, subnets: [`${ipv4}/24`, `${ipv6}/64`] });
  await repository.create('port', { id: idFromName('port', `${name} to router`), bridgeId, peerId: atRouter });
  for (const destination of [`${ipv4}/24`, `${ipv6}/64`]) await addRoute(destination, atRouter);
  return { name, bridgeId };
}

async function addRoute(destination: string, nextHopPortId: string, gateway?: string): Promise<string> {
  const id = idFromName('route', destination);
  const route = { id, routerId: ROUTER, type: 'normal', destination, nextHopPortId, gateway } as const;
  return (await lab.repository().create('route', route)).id;
}

async function hostId(node: LabNode): Promise<string> {
  const repository = lab.repository();
  for (const id of await repository.list('host')) {
    if ((await repository.get('host', id))?.object.name === node.name) return id;
  }
  throw new Error(`${node.name} is not in the NSDB`);
}

/** A machine with these addresses on a network, which the topology is told of. */
async function addMachine(node: LabNode, network: Network, name: string, number: number): Promise<Machine> {
  const net = network.name === 'near' ? 1 : 2;
  const machine = new Machine(node, name, `10.50.${net}.${number}`, `fd00:50:${net}::${number}`);
  const mac = `02:00:00:50:0${net}:0${number}`;
  await machine.plugIn(mac, `10.50.${net}.254`, `fd00:50:${net}::fe`);
  await lab.repository().create('port', {
    id: idFromName('port', name),
    bridgeId: network.bridgeId,
    mac,
    addresses: [machine.ipv4, machine.ipv6],
    binding: { hostId: await hostId(node), interfaceName: name },
  });
  await until(`${name} to be bound`, async () => (await node.ports()).includes(name));
  return machine;
}

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start();
  const [node1, node2] = lab.nodes;
  const repository = lab.repository();
  await repository.create('router', { id: ROUTER, name: 'edge' });
  const near = await createNetwork('near', '10.50.1.254', 'fd00:50:1::fe');
  const far = await createNetwork('far', '10.50.2.254', 'fd00:50:2::fe');
  red = await addMachine(node1, near, 'red', 1);
  green = await addMachine(node1, far, 'green', 2);
  blue = await addMachine(node2, far, 'blue', 3);

  world = new Machine(node2, 'world', '192.168.77.9', 'fd00:77::9');
  await world.plugIn('02:00:00:77:00:09', '192.168.77.1', 'fd00:77::1');
  for (const address of ['203.0.113.1/32', '2001:db8:113::1/128']) {
    await must('ip', '-n', world.namespace, 'addr', 'add', address, 'dev', 'lo');
  }
  const uplink = idFromName('port', 'uplink');
  await repository.create('port', {
    id: uplink,
    routerId: ROUTER,
    subnets: ['192.168.77.1/24', 'fd00:77::1/64'],
    binding: { hostId: await hostId(node2), interfaceName: 'world' },
  });
  await addRoute('0.0.0.0/0', uplink, world.ipv4);
  await addRoute('::/0', uplink, world.ipv6);
  await until('the uplink to be bound', async () => (await node2.ports()).includes('world'));
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await lab.logs());
});

test.after.always(() =>
  cleanUp(
    ...[red, green, blue, world].map((machine) => () => machine && run('ip', 'netns', 'delete', machine.namespace)),
    () => lab?.close(),
  ),
);

test.serial('machines of two networks reach each other and the router, on one node and across', async (t) => {
  t.timeout(180_000);
  await until('the first way to be known', async () => (await red.ping(blue.ipv4, 1)) === 1);
  for (const [from, to] of [
    [red, green],
    [red, blue],
    [green, red],
    [blue, red],
    [green, blue],
  ]) {
    t.is(await from.ping(to.ipv4), 2, `${from.name} to ${to.name}`);
    t.is(await from.ping(to.ipv6), 2, `${from.name} to ${to.name} by IPv6`);
  }
  for (const gateway of ['10.50.1.254', 'fd00:50:1::fe', '10.50.2.254']) t.is(await red.ping(gateway), 2, gateway);
  const hops = await red.run('ping', '-n', '-c', '1', '-W', '10', blue.ipv4);
  t.regex(hops.stdout, /ttl=63/);
});

test.serial('packets go out at the uplink and come back, and the world reaches the machines', async (t) => {
  t.timeout(180_000);
  for (const machine of [red, blue]) {
    t.is(await machine.ping('203.0.113.1'), 2, machine.name);
    t.is(await machine.ping('2001:db8:113::1'), 2, `${machine.name} by IPv6`);
  }
  for (const to of [red.ipv4, blue.ipv4, red.ipv6, blue.ipv6]) t.is(await world.ping(to), 2, to);
  t.true((await lab.nodes[1].metric('midonet_neighbors_learned')) >= 2);
});

test.serial('the router says what is wrong', async (t) => {
  t.timeout(180_000);
  const say = async (machine: Machine, ...parameters: string[]) =>
    (await machine.run('ping', '-n', '-c', '1', '-W', '10', ...parameters)).stdout;
  t.regex(await say(red, '-t', '1', blue.ipv4), /From 10\.50\.1\.254 .*Time to live exceeded/);
  t.regex(await say(red, '-t', '1', blue.ipv6), /From fd00:50:1::fe:? .*Hop limit/);
  t.regex(await say(red, '10.50.2.77'), /From 10\.50\.1\.254 .*Destination Host Unreachable/);
  const repository = lab.repository();
  const reject = idFromName('route', 'reject');
  await repository.create('route', { id: reject, routerId: ROUTER, type: 'reject', destination: '203.0.113.128/25' });
  await until('the route to count', async () => /prohibited|filtered/i.test(await say(red, '203.0.113.200')));
  t.is(await red.ping('203.0.113.1'), 2);
});

test.serial('routes change under traffic, of which nothing else is lost', async (t) => {
  t.timeout(180_000);
  const pinging = red.run('ping', '-n', '-i', '0.1', '-c', '60', '-W', '2', blue.ipv4);
  const repository = lab.repository();
  const route = idFromName('route', '0.0.0.0/0');
  const { object } = (await repository.get('route', route))!;
  await repository.delete('route', route);
  await until('the world to be out of reach', async () => (await red.ping('203.0.113.1', 1)) === 0);
  await repository.create('route', object);
  await until('the world to be back', async () => (await red.ping('203.0.113.1', 1)) === 1);
  t.is(received((await pinging).stdout), 60);
});

test.serial('TCP runs through the router without an upcall for each connection', async (t) => {
  t.timeout(180_000);
  const server = blue.run('timeout', '100', process.execPath, '-e', SERVER);
  await until('the server to listen', async () => (await blue.run('ss', '-Hltn', 'sport = :5000')).stdout !== '');
  const connect = (count: number) => red.run(process.execPath, '-e', CLIENT, blue.ipv4, `${count}`);
  t.is((await connect(5)).status, 0);
  const before = await lab.nodes[0].metric('midonet_upcalls_total');
  const outcome = await connect(300);
  t.is(outcome.status, 0, outcome.stderr);
  t.true((await lab.nodes[0].metric('midonet_upcalls_total')) - before < 60);
  await blue.run(process.execPath, '-e', "require('net').connect(5000, '127.0.0.1').end('stop')");
  await server;
});

test.serial('the router translates addresses: machines behind one, a service behind another', async (t) => {
  t.timeout(240_000);
  const repository = lab.repository();
  const addChain = async (name: string, rules: readonly NatRule[]) => {
    const chainId = idFromName('chain', name);
    await repository.create('chain', { id: chainId, name });
    for (const [i, position] of positionsAfter(undefined, rules.length).entries()) {
      await repository.create('rule', { ...rules[i], id: idFromName('rule', `${name} ${i}`), chainId, position });
    }
    return chainId;
  };
  const target = (address: string, start: number, end: number) => [
    { start: address, end: address, ports: { start, end } },
  ];
  const action = 'accept';
  const inboundFilterId = await addChain('prerouting', [
    { type: 'dnat', targets: target(blue.ipv4, 5000, 5000), action, condition: { destination: '198.51.100.80/32' } },
    { type: 'reverse-snat', action, condition: { destination: '198.51.100.5/32' } },
  ]);
  const isPrivate = { source: '10.50.1.0/24', destination: '203.0.113.0/24' };
  const outboundFilterId = await addChain('postrouting', [
    { type: 'snat', targets: target('198.51.100.5', 1024, 65535), action, condition: isPrivate },
  ]);
  await repository.modify('router', ROUTER, (router) => ({ ...router, inboundFilterId, outboundFilterId }));
  await until('the service to be there', async () => (await red.ping('198.51.100.80', 1)) === 1);
  t.is(await red.ping('198.51.100.80'), 2);

  const servers = [blue, world].map((machine) => machine.run('timeout', '200', process.execPath, '-e', WHO_ARE_YOU));
  for (const machine of [blue, world]) {
    await until('the server to listen', async () => (await machine.run('ss', '-Hltn', 'sport = :5000')).stdout !== '');
  }
  const ask = (address: string) => red.run(process.execPath, '-e', ASK, address, '1');
  await until('ports to be leased', async () => /::ffff:198/.test((await ask('203.0.113.1')).stdout));
  t.regex((await ask('203.0.113.1')).stdout, /::ffff:198\.51\.100\.5/);
  t.regex((await ask('198.51.100.80')).stdout, new RegExp(red.ipv4));
  t.is(await red.ping('203.0.113.1'), 2, 'answers without ports find the node that has translated');
  const upcalls = () => Promise.all(lab.nodes.map((node) => node.metric('midonet_upcalls_total')));
  const before = await upcalls();
  for (const address of ['198.51.100.80', '203.0.113.1']) {
    const outcome = await red.run(process.execPath, '-e', ASK, address, '300');
    t.is(outcome.status, 0, outcome.stderr);
  }
  const after = await upcalls();
  const spent = after.map((value, i) => value - before[i]);
  t.log(`600 translated connections; upcalls on the nodes: ${spent.join(' and ')}`);
  for (const value of spent) t.true(value < 100);
  for (const machine of [blue, world]) {
    await machine.run(process.execPath, '-e', "require('net').connect(5000, '127.0.0.1').end('stop')");
  }
  await Promise.all(servers);
});

type WithoutPlace<R> = R extends Rule ? Omit<R, 'id' | 'chainId' | 'position'> : never;
type NatRule = WithoutPlace<Extract<Rule, { type: 'dnat' | 'snat' } | { type: 'reverse-dnat' | 'reverse-snat' }>>;

/** Tells everybody what address they have. Ends when it is told to. */
const WHO_ARE_YOU = `require('net').createServer((socket) => {
  socket.on('data', (data) => String(data) === 'stop' && process.exit()).end(socket.remoteAddress);
}).listen(5000);`;

/** Connects so many times, one after the other, and says what it was told. */
const ASK = `const [address, count] = process.argv.slice(1);
(async () => {
  for (let i = 0; i < Number(count); i++) await new Promise((resolve, reject) => {
    const socket = require('net').connect(5000, address);
    socket.setTimeout(10000, () => socket.destroy(new Error('no answer')));
    socket.on('data', (data) => console.log(String(data))).on('close', resolve).on('error', reject);
  });
})();`;

/** Ends when it is told to. */
const SERVER = `const server = require('net').createServer((socket) => {
  socket.on('data', (data) => String(data) === 'stop' && process.exit()).end('x');
}).listen(5000);`;

const CLIENT = `const [address, count] = process.argv.slice(1);
(async () => {
  for (let i = 0; i < Number(count); i++) await new Promise((resolve, reject) => {
    const socket = require('net').connect(5000, address, () => socket.end('x'));
    socket.on('close', resolve).on('error', reject).resume();
  });
})();`;
