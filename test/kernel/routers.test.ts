import { randomUUID } from 'node:crypto';
import test from 'ava';
import { idFromName } from '../../src/topology/id.js';
import { ConnectionProgram } from './connections.js';
import { must, received, until } from './lab.js';
import { type Machine, ROUTER, RoutedLab } from './routed-lab.js';

/**
 * Machines with Linux in them behind a router: two networks on two nodes, and a network outside that both reach through an
 * uplink of the second node. One lab serves all tests, one after the other.
 */
let routed: RoutedLab;
let red: Machine;
let green: Machine;
let blue: Machine;
let world: Machine;

test.before(async (t) => {
  t.timeout(300_000);
  routed = await RoutedLab.start();
  const [node1, node2] = routed.lab.nodes;
  const near = await routed.addNetwork(1);
  const far = await routed.addNetwork(2);
  red = await routed.addMachine(node1, near, 'red', 1);
  green = await routed.addMachine(node1, far, 'green', 2);
  blue = await routed.addMachine(node2, far, 'blue', 3);
  world = await routed.addNeighbor(node2, 'world', 77);
  for (const address of ['203.0.113.1/32', '2001:db8:113::1/128']) {
    await must('ip', '-n', world.namespace, 'addr', 'add', address, 'dev', 'lo');
  }
  const uplink = idFromName('port', 'world');
  await routed.addRoute('0.0.0.0/0', uplink, world.ipv4);
  await routed.addRoute('::/0', uplink, world.ipv6);
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await routed.lab.logs());
});

test.after.always(() => routed?.close());

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
  t.true((await routed.lab.nodes[1].metric('midonet_neighbors_learned')) >= 2);
});

test.serial('the router says what is wrong', async (t) => {
  t.timeout(180_000);
  const say = async (machine: Machine, ...parameters: string[]) =>
    (await machine.run('ping', '-n', '-c', '1', '-W', '10', ...parameters)).stdout;
  t.regex(await say(red, '-t', '1', blue.ipv4), /From 10\.50\.1\.254 .*Time to live exceeded/);
  t.regex(await say(red, '-t', '1', blue.ipv6), /From fd00:50:1::fe:? .*Hop limit/);
  t.regex(await say(red, '10.50.2.77'), /From 10\.50\.1\.254 .*Destination Host Unreachable/);
  const repository = routed.lab.repository();
  const reject = idFromName('route', 'reject');
  await repository.create('route', { id: reject, routerId: ROUTER, type: 'reject', destination: '203.0.113.128/25' });
  await until('the route to count', async () => /prohibited|filtered/i.test(await say(red, '203.0.113.200')));
  t.is(await red.ping('203.0.113.1'), 2);
});

test.serial('routes change under traffic, of which nothing else is lost', async (t) => {
  t.timeout(180_000);
  const pinging = red.run('ping', '-n', '-i', '0.1', '-c', '60', '-W', '2', blue.ipv4);
  const repository = routed.lab.repository();
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
  const before = await routed.lab.nodes[0].metric('midonet_upcalls_total');
  const outcome = await connect(300);
  t.is(outcome.status, 0, outcome.stderr);
  t.true((await routed.lab.nodes[0].metric('midonet_upcalls_total')) - before < 60);
  await blue.run(process.execPath, '-e', "require('net').connect(5000, '127.0.0.1').end('stop')");
  await server;
});

test.serial('the router translates addresses: machines behind one, a service behind another', async (t) => {
  t.timeout(240_000);
  const repository = routed.lab.repository();
  const target = (address: string, start: number, end: number) => [
    { start: address, end: address, ports: { start, end } },
  ];
  const action = 'accept';
  const inboundFilterId = await routed.addChain('prerouting', [
    { type: 'dnat', targets: target(blue.ipv4, 5000, 5000), action, condition: { destination: '198.51.100.80/32' } },
    { type: 'reverse-snat', action, condition: { destination: '198.51.100.5/32' } },
  ]);
  const isPrivate = { source: '10.50.1.0/24', destination: '203.0.113.0/24' };
  const outboundFilterId = await routed.addChain('postrouting', [
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
  const upcalls = () => Promise.all(routed.lab.nodes.map((node) => node.metric('midonet_upcalls_total')));
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

test.serial('a member of a VIP that stops serving gets no connections until it serves again', async (t) => {
  t.timeout(240_000);
  const repository = routed.lab.repository();
  const program = await ConnectionProgram.compile(routed.lab.folder);
  const [vipPort, memberPort] = [80, 5002];
  const { id: loadBalancerId } = await repository.create('load-balancer', { id: randomUUID() });
  // Machines that are emulated take their time.
  const monitor = { id: randomUUID(), delay: 1, timeout: 5, maxRetries: 2 };
  const { id: healthMonitorId } = await repository.create('health-monitor', monitor);
  const members = new Map<Machine, string[]>();
  const [ipv4, ipv6] = ['198.51.100.101', '2001:db8:198::101'];
  const vips = [
    { protocol: 'tcp', address: ipv4 },
    { protocol: 'tcp', address: ipv6 },
    { protocol: 'udp', address: ipv4 },
  ] as const;
  for (const { protocol, address } of vips) {
    const pool = { id: randomUUID(), loadBalancerId, healthMonitorId, protocol };
    const { id: poolId } = await repository.create('pool', pool);
    await repository.create('vip', { id: randomUUID(), poolId, address, protocolPort: vipPort });
    for (const machine of [green, blue]) {
      const member = {
        id: randomUUID(),
        poolId,
        address: address.includes(':') ? machine.ipv6 : machine.ipv4,
        protocolPort: memberPort,
      };
      members.set(machine, [...(members.get(machine) ?? []), member.id]);
      await repository.create('pool-member', member);
    }
  }
  const becomes = (machine: Machine, status: 'active' | 'inactive') =>
    until(`${machine.name} to be ${status}`, async () => {
      const found = await Promise.all(members.get(machine)!.map((id) => repository.get('pool-member', id)));
      return found.every((member) => member?.object.status === status);
    });
  /** The machines that answer, all connections together. */
  const answerers = async () => {
    const found = new Set<string>();
    for (const { protocol, address } of vips) {
      // Over UDP it is the same connections every time: who does not work must lose those that it has.
      const source = protocol === 'udp' ? 40_000 : 0;
      const ask = { protocol, address, ports: [vipPort, vipPort], count: 20, atOnce: 4, source } as const;
      const { total, counts } = await program.open(red, ask);
      if (total < ask.count) return `${total} of ${ask.count} of ${address} over ${protocol}`;
      for (const answer of counts.keys()) {
        for (const { name, ipv4, ipv6 } of [green, blue]) {
          if (answer.endsWith(` ${ipv4}`) || answer.endsWith(` ${ipv6}`)) found.add(name);
        }
      }
    }
    return [...found].sort().join(' and ');
  };
  const stops = new Map<Machine, () => void>();
  try {
    for (const machine of [green, blue]) stops.set(machine, await program.serve(machine, memberPort));
    await repository.modify('router', ROUTER, (router) => ({ ...router, loadBalancerId }));
    await until('both to take connections', async () => (await answerers()) === 'blue and green');
    for (const [machine, other] of [
      [blue, green],
      [green, blue],
    ]) {
      stops.get(machine)!();
      await becomes(machine, 'inactive');
      await until('the other to have all', async () => (await answerers()) === other.name);
      stops.set(machine, await program.serve(machine, memberPort));
      await becomes(machine, 'active');
      await until('it takes connections again', async () => (await answerers()) === 'blue and green');
    }
    const changes = await Promise.all(
      routed.lab.nodes.map((node) => node.metric('midonet_member_status_changes_total')),
    );
    t.log(`changes of the status of members, by node that checked: ${changes.join(' and ')}`);
    t.true(changes.reduce((sum, each) => sum + each, 0) >= 2 * 2 * vips.length);
  } finally {
    for (const stop of stops.values()) stop();
    await repository.modify('router', ROUTER, ({ loadBalancerId, ...router }) => router);
  }
});
