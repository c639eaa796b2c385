import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { idFromName } from '../../src/topology/id.js';
import { positionBetween } from '../../src/topology/position.js';
import { ConnectionProgram } from './connections.js';
import { must, until } from './lab.js';
import { type Machine, ROUTER, RoutedLab, ruleId } from './routed-lab.js';
import {
  arrived,
  last,
  type Marks,
  missing,
  type Receiver,
  type Sender,
  type StreamOptions,
  StreamProgram,
} from './streams.js';

/**
 * What becomes of packets while the topology changes: streams of numbered packets run between machines all the time, on one
 * node and across. What a change concerns is to change, and of everything else no packet is to be lost. One lab serves all
 * tests, one after the other.
 */

/** Of each group of streams, packets a second. */
const RATE = 100;
const PORT = 7000;
/** What the firewall is to keep out. */
const DOOMED_PORT = 7001;
const VIP = '198.51.100.100';
const VIP_PORT = 80;
/** A network outside to which there are two ways. */
const WORLD = '203.0.113.0/24';
const WORLD_ADDRESS = '203.0.113.7';
/** Expedited forwarding, RFC 3246. */
const EF = 46;

/** Streams that go the same way. */
interface Group {
  readonly name: string;
  readonly first: number;
  readonly count: number;
  readonly sender: Sender;
  /** Each packet is to come to one of them. */
  readonly receivers: readonly Receiver[];
}

let routed: RoutedLab;
let red: Machine;
let green: Machine;
let blue: Machine;
let west: Machine;
let east: Machine;
let mover: Machine;
let program: StreamProgram;
/** At {@link PORT}. */
const receivers = new Map<Machine, Receiver>();
/** What no change concerns. */
const others: Group[] = [];
const closing: { close(): void }[] = [];
let firstFree = 0;

test.before(async (t) => {
  t.timeout(300_000);
  routed = await RoutedLab.start({ agent: { flows: { idleTimeout: 300 } } });
  const [node1, node2] = routed.lab.nodes;
  const clients = await routed.addNetwork(1);
  const servers = await routed.addNetwork(2);
  red = await routed.addMachine(node1, clients, 'red', 1);
  green = await routed.addMachine(node1, servers, 'green', 2);
  blue = await routed.addMachine(node2, servers, 'blue', 3);
  mover = await routed.addMachine(node1, servers, 'mover', 4);
  west = await routed.addNeighbor(node1, 'west', 81);
  east = await routed.addNeighbor(node2, 'east', 82);
  for (const machine of [west, east]) {
    await must('ip', '-n', machine.namespace, 'addr', 'add', `${WORLD_ADDRESS}/32`, 'dev', 'lo');
  }
  await routed.addRoute(WORLD, idFromName('port', west.name), west.ipv4);
  await balance();

  program = await StreamProgram.compile(routed.lab.folder);
  for (const machine of [red, green, blue, west, east, mover]) receivers.set(machine, await receiveAt(machine, PORT));
  others.push(
    await stream('on one node', red, green.ipv4, PORT, [at(green)]),
    await stream('across', red, blue.ipv4, PORT, [at(blue)]),
    await stream('across by IPv6', red, blue.ipv6, PORT, [at(blue)]),
    await stream('back', blue, red.ipv4, PORT, [at(red)]),
    await stream('to the VIP', red, VIP, VIP_PORT, [at(green), at(blue)], { count: 16 }),
  );
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await routed.lab.logs());
});

test.after.always(async () => {
  for (const one of closing) one.close();
  await routed?.close();
});

/** The VIP has members on both nodes. */
async function balance(): Promise<void> {
  const repository = routed.lab.repository();
  const { id: loadBalancerId } = await repository.create('load-balancer', { id: randomUUID() });
  const { id: poolId } = await repository.create('pool', { id: randomUUID(), loadBalancerId, protocol: 'udp' });
  await repository.create('vip', { id: randomUUID(), poolId, address: VIP, protocolPort: VIP_PORT });
  for (const { name, ipv4: address } of [green, blue]) {
    await repository.create('pool-member', { id: idFromName('member', name), poolId, address, protocolPort: PORT });
  }
  await repository.modify('router', ROUTER, (router) => ({ ...router, loadBalancerId }));
}

function at(machine: Machine): Receiver {
  return receivers.get(machine)!;
}

async function receiveAt(machine: Machine, port: number): Promise<Receiver> {
  const receiver = await program.receive(machine, port);
  closing.push(receiver);
  return receiver;
}

/** Starts streams, and waits until they arrive. */
async function stream(
  name: string,
  from: Machine,
  address: string,
  port: number,
  to: readonly Receiver[],
  { count = 8, rate = RATE, bytes }: Partial<StreamOptions> = {},
): Promise<Group> {
  const first = firstFree;
  firstFree += count;
  const sender = await program.send(from, { address, port, first, count, rate, bytes });
  closing.push(sender);
  const group = { name, first, count, sender, receivers: to };
  await until(`${name} to arrive`, async () => haveReached(await lastNumbers(group), new Map()));
  return group;
}

/** Of each stream, the highest number of a packet that any receiver has; -1 if none has any. */
async function lastNumbers({ first, count, receivers }: Group, of: readonly Receiver[] = receivers): Promise<Marks> {
  const received = await Promise.all(of.map((receiver) => receiver.received()));
  const streams = Array.from({ length: count }, (_, i) => first + i);
  return new Map(streams.map((each) => [each, Math.max(...received.map((one) => last(one.get(each))))]));
}

/** Whether all streams have come as far as the marks. */
function haveReached(numbers: Marks, marks: Marks): boolean {
  return [...numbers].every(([each, number]) => number >= (marks.get(each) ?? 0));
}

/** How far the groups have come. */
function mark(groups: readonly Group[]): Promise<Marks[]> {
  return Promise.all(groups.map(({ sender }) => sender.sent()));
}

/** Packets that were sent since the marks, and are not there, by group. */
async function lostSince(groups: readonly Group[], marks: readonly Marks[]): Promise<Map<string, number[]>> {
  const lost = new Map<string, number[]>();
  for (const [i, group] of groups.entries()) {
    const sent = await group.sender.sent();
    const ends = new Map([...sent].map(([each, count]) => [each, count - 1]));
    await until(`${group.name} to arrive`, async () => haveReached(await lastNumbers(group), ends));
    const received = await Promise.all(group.receivers.map((receiver) => receiver.received()));
    for (const [each, end] of ends) {
      const found = received.map((one) => one.get(each));
      const numbers = missing(marks[i].get(each)!, end, found);
      if (numbers.length > 0) lost.set(`${group.name}, stream ${each}`, numbers);
    }
  }
  return lost;
}

/** Makes a change, waits until it is there, and sees that the other streams have lost nothing. */
async function during(t: ExecutionContext, what: string, change: () => Promise<void>): Promise<void> {
  const marks = await mark(others);
  await change();
  await sleep(500);
  const lost = await lostSince(others, marks);
  const after = await mark(others);
  let packets = 0;
  for (const [i, each] of after.entries()) for (const [one, count] of each) packets += count - marks[i].get(one)!;
  const summary = [...lost].map(
    ([name, numbers]) => `${name}: ${numbers.length} from ${numbers[0]} to ${numbers.at(-1)}`,
  );
  t.log(`${what}: of ${packets} packets of other streams ${[...lost.values()].flat().length} were lost`);
  if (lost.size > 0) t.log(await whyNot());
  t.deepEqual(summary, []);
}

/** What the nodes say of packets that they dropped. */
async function whyNot(): Promise<string> {
  const lines: string[] = [];
  for (const node of routed.lab.nodes) {
    const { lost } = await node.statistics();
    const { stdout } = await node.run('curl', '-s', `http://127.0.0.1:${node.httpSocketPort}/metrics`);
    const drops = [...stdout.matchAll(/^midonet_drops_total\{reason="(.*)"\} ([1-9].*)$/gm)].map(
      ([, why, count]) => `${why} ${count}`,
    );
    lines.push(`${node.name} dropped ${drops.join(', ') || 'nothing'} and lost ${lost} upcalls`);
  }
  return lines.join('; ');
}

/** Waits until no packet of the group comes any more. Returns how many seconds after the marks the last one was sent. */
async function untilSilent(group: Group, marks: Marks, of?: readonly Receiver[]): Promise<number> {
  let before = await lastNumbers(group, of);
  await until(`${group.name} to stop`, async () => {
    await sleep(500);
    const numbers = await lastNumbers(group, of);
    const isSilent = [...numbers].every(([each, number]) => number === before.get(each));
    before = numbers;
    return isSilent;
  });
  const late = [...before].map(([each, number]) => Math.max(0, number + 1 - marks.get(each)!));
  return (Math.max(...late) * group.count) / RATE;
}

/** How many connections the kernel tracks at a machine's port that this address takes part in. */
async function trackedAt({ node, name }: Machine, address: string): Promise<number> {
  const page = `http://127.0.0.1:${node.httpSocketPort}/connections?of=${idFromName('port', name)}`;
  return (await node.run('curl', '-s', page)).stdout.split('\n').filter((line) => line.includes(address)).length;
}

/** Waits until all of the group come, packets sent behind the marks. */
function untilHeard(group: Group, marks: Marks, of?: readonly Receiver[]): Promise<void> {
  return until(`${group.name} to come`, async () => haveReached(await lastNumbers(group, of), marks));
}

test.serial('nothing changes', async (t) => {
  t.timeout(180_000);
  await during(t, 'nothing', () => sleep(2000));
});

test.serial('a firewall that tracks connections comes up', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  await during(t, 'the first stateful rules of a port', async () => {
    const outboundFilterId = await routed.addChain('blue', [
      { type: 'accept', condition: { matchReturnFlow: true } },
      { type: 'accept', condition: { protocol: 17 } },
      { type: 'drop', condition: { protocol: 6 } },
    ]);
    await repository.modify('port', idFromName('port', blue.name), (port) => ({ ...port, outboundFilterId }));
    await until('the streams to be tracked', async () => (await trackedAt(blue, red.ipv6)) >= 8);
  });
});

test.serial('a rule comes, changes and goes', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  const doomed = await stream('doomed', red, blue.ipv4, DOOMED_PORT, [await receiveAt(blue, DOOMED_PORT)]);
  const id = randomUUID();
  const first = (await repository.get('rule', ruleId('blue', 0)))!.object;
  const destinationPorts = { start: DOOMED_PORT, end: DOOMED_PORT };
  await during(t, 'a rule that drops a stream', async () => {
    await repository.create('rule', {
      id,
      chainId: first.chainId,
      position: positionBetween(undefined, first.position),
      type: 'drop',
      condition: { protocol: 17, destinationPorts },
    });
    const seconds = await untilSilent(doomed, await doomed.sender.sent());
    t.log(`packets got through until ${seconds.toFixed(2)} s after the rule was written`);
  });
  await during(t, 'another port in the rule', async () => {
    const condition = { protocol: 17, destinationPorts: { start: 9, end: 9 } };
    await repository.modify('rule', id, (rule) => ({ ...rule, condition }));
    await untilHeard(doomed, await doomed.sender.sent());
  });
  await during(t, 'the port back', async () => {
    await repository.modify('rule', id, (rule) => ({ ...rule, condition: { protocol: 17, destinationPorts } }));
    await untilSilent(doomed, await doomed.sender.sent());
  });
  await during(t, 'the rule gone', async () => {
    await repository.delete('rule', id);
    await untilHeard(doomed, await doomed.sender.sent());
  });
  doomed.sender.close();
});

test.serial('a route leads another way', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  const group = await stream('to the world', red, WORLD_ADDRESS, PORT, [at(west), at(east)]);
  for (const [from, to] of [
    [west, east],
    [east, west],
  ]) {
    const marks = await mark([group]);
    await during(t, `the route leads to ${to.name}`, async () => {
      const nextHopPortId = idFromName('port', to.name);
      await repository.modify('route', idFromName('route', WORLD), (route) => ({
        ...route,
        nextHopPortId,
        gateway: to.ipv4,
      }));
      const [sent] = await mark([group]);
      await untilHeard(group, sent, [at(to)]);
      const seconds = await untilSilent(group, sent, [at(from)]);
      t.log(`packets went the old way until ${seconds.toFixed(2)} s after the route was written`);
    });
    t.deepEqual(await lostSince([group], marks), new Map(), 'nor is any packet lost that went another way');
  }
  group.sender.close();
});

test.serial('a member of a VIP is switched off and on', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  const connections = await ConnectionProgram.compile(routed.lab.folder);
  // The members answer at the port that the streams go to; a second VIP leads to those that answer.
  const answered = 5000;
  for (const machine of [green, blue]) closing.push({ close: await connections.serve(machine, answered) });
  const loadBalancerId = (await repository.get('router', ROUTER))!.object.loadBalancerId;
  const { id: poolId } = await repository.create('pool', { id: randomUUID(), loadBalancerId, protocol: 'udp' });
  await repository.create('vip', { id: randomUUID(), poolId, address: VIP, protocolPort: answered });
  const members: string[] = [];
  for (const { ipv4: address } of [green, blue]) {
    const member = { id: randomUUID(), poolId, address, protocolPort: answered };
    members.push((await repository.create('pool-member', member)).id);
  }
  const ports = [answered, answered] as const;
  const open = (count: number) => connections.open(red, { protocol: 'udp', address: VIP, ports, count, atOnce: 8 });
  const membersOf = async (count: number) =>
    [...(await open(count)).counts.keys()].map((answer) => answer.split(' ')[1]);
  await until('both members to be asked', async () => (await membersOf(64)).length === 2);
  for (const isUp of [false, true]) {
    await during(t, `a member is switched ${isUp ? 'on' : 'off'}`, async () => {
      const busy = open(500);
      for (const id of [members[1], idFromName('member', blue.name)]) {
        await repository.modify('pool-member', id, (member) => ({ ...member, adminStateUp: isUp }));
      }
      const asked = async () => (await membersOf(64)).sort().join();
      const expected = isUp ? [blue.ipv4, green.ipv4] : [green.ipv4];
      await until('new connections to go where they should', async () => (await asked()) === expected.sort().join());
      const { total, repeated } = await busy;
      t.log(
        `of 500 connections that began meanwhile ${total} were answered, ${repeated} packets were sent again after 1 s`,
      );
      t.is(total, 500);
    });
  }
});

test.serial('a port is bound to another host', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  const [, node2] = routed.lab.nodes;
  const moved = await routed.plugIn(node2, 2, 'moved', 4);
  const there = await receiveAt(moved, PORT);
  const group = await stream('to the one that moves', red, mover.ipv4, PORT, [at(mover), there]);
  const marks = await mark([group]);
  await during(t, 'a machine moves', async () => {
    const binding = { hostId: await routed.hostId(node2), interfaceName: moved.name };
    await repository.modify('port', idFromName('port', mover.name), (port) => ({ ...port, binding }));
    const [sent] = await mark([group]);
    await untilHeard(group, sent, [there]);
  });
  const lost = Math.max(0, ...[...(await lostSince([group], marks)).values()].map((numbers) => numbers.length));
  t.log(`it was out of reach for ${((lost * group.count) / RATE).toFixed(2)} s`);
  group.sender.close();
});

test.serial('packets are marked as long as a policy says so', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  const policy = { id: randomUUID(), name: 'marked', rules: [{ type: 'dscp' as const, mark: EF }] };
  const { id: qosPolicyId } = await repository.create('qos-policy', policy);
  const marksOf = async ({ receivers, first }: Group) => {
    const received = await Promise.all(receivers.map((receiver) => receiver.received()));
    return received.flatMap((one) => one.get(first)?.tos ?? []);
  };
  const [onOneNode, across, ipv6, back] = others;
  for (const tos of [EF << 2, 0]) {
    await during(t, `marked with ${tos}`, async () => {
      await repository.modify('port', idFromName('port', red.name), (port) => ({
        ...port,
        qosPolicyId: tos === 0 ? undefined : qosPolicyId,
      }));
      for (const group of [onOneNode, across, ipv6]) {
        await until(`${group.name} to have the mark`, async () => (await marksOf(group)).every((each) => each === tos));
      }
    });
    t.deepEqual(await marksOf(back), [0], 'what others send is not marked');
  }
});

test.serial('what a machine sends too fast is dropped, and nothing else', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  const [node1] = routed.lab.nodes;
  const limit = 600;
  const policy = { id: randomUUID(), name: 'slow', rules: [{ type: 'bandwidth-limit' as const, maxKbps: limit }] };
  const { id: qosPolicyId } = await repository.create('qos-policy', policy);
  const bytes = 1000;
  const group = await stream('too fast', green, blue.ipv4, PORT, [at(blue)], { count: 4, rate: 300, bytes });
  // With the headers of UDP, IPv4 and Ethernet.
  const kilobits = (8 * (bytes + 8 + 20 + 14)) / 1000;
  const packets = async () => {
    const [sent, received] = await Promise.all([group.sender.sent(), at(blue).received()]);
    const streams = [...sent.keys()];
    return [
      streams.reduce((sum, each) => sum + sent.get(each)!, 0),
      streams.reduce((sum, each) => sum + arrived(received.get(each)), 0),
    ];
  };
  await during(t, 'a port has a limit', async () => {
    await repository.modify('port', idFromName('port', green.name), (port) => ({ ...port, qosPolicyId }));
    await until('the meter to be there', async () => (await node1.metric('midonet_meters')) === 1);
    const isDropped = async () => ((await node1.meter(0))?.droppedPackets ?? 0) > 0;
    await until('the kernel to drop packets', isDropped);
    const before = await packets();
    const began = performance.now();
    await sleep(3000);
    const after = await packets();
    const seconds = (performance.now() - began) / 1000;
    const [sent, passed] = after.map((number, i) => ((number - before[i]) * kilobits) / seconds);
    t.log(`of ${sent.toFixed(0)} kbit/s ${passed.toFixed(0)} passed the limit of ${limit}`);
    t.true(passed < 1.25 * limit && passed > 0);
    t.true(sent > 1.5 * limit);
  });
  group.sender.close();
});

test.serial('a trunk carries the VLANs of several bridges', async (t) => {
  t.timeout(300_000);
  const repository = routed.lab.repository();
  const [node1, node2] = routed.lab.nodes;
  const outer = (await repository.create('bridge', { id: randomUUID(), name: 'outer' })).id;
  const trunk = await routed.plugIn(node1, 9, 'trunk', 1);
  const bind = async (bridgeId: string, machine: Machine) => {
    const binding = { hostId: await routed.hostId(machine.node), interfaceName: machine.name };
    await repository.create('port', { id: randomUUID(), bridgeId, binding });
    await until(`${machine.name} to be bound`, async () => (await machine.node.ports()).includes(machine.name));
  };
  await bind(outer, trunk);
  const inner: Machine[] = [];
  for (const [vlanId, node] of [
    [10, node1],
    [20, node2],
  ] as const) {
    const bridgeId = (await repository.create('bridge', { id: randomUUID(), name: `vlan-${vlanId}` })).id;
    const peer = await repository.create('port', { id: randomUUID(), bridgeId });
    await repository.create('port', { id: randomUUID(), bridgeId: outer, peerId: peer.id, vlanId });
    const machine = await routed.plugIn(node, vlanId, `vlan${vlanId}`, 2);
    await bind(bridgeId, machine);
    inner.push(machine);
    const link = `eth0.${vlanId}`;
    await must(
      'ip',
      '-n',
      trunk.namespace,
      'link',
      'add',
      'link',
      'eth0',
      'name',
      link,
      'type',
      'vlan',
      'id',
      `${vlanId}`,
    );
    await must('ip', '-n', trunk.namespace, 'link', 'set', link, 'up');
    await must('ip', '-n', trunk.namespace, 'addr', 'add', `10.50.${vlanId}.1/24`, 'dev', link);
    await must('ip', '-n', trunk.namespace, 'addr', 'add', `fd00:50:${vlanId}::1/64`, 'dev', link, 'nodad');
    await until(`VLAN ${vlanId} to be there`, async () => (await trunk.ping(machine.ipv4, 1)) === 1);
    for (const address of [machine.ipv4, machine.ipv6]) t.is(await trunk.ping(address), 2, address);
    t.is(await machine.ping(`10.50.${vlanId}.1`), 2);
  }
  const [ten, twenty] = inner;
  await must('ip', '-n', twenty.namespace, 'addr', 'add', '10.50.10.3/24', 'dev', 'eth0');
  t.is(await twenty.ping(ten.ipv4, 1), 0, 'VLANs are apart');
});
