import { randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import test, { type ExecutionContext } from 'ava';
import type { Condition } from '../../src/topology/chains.js';
import { idFromName } from '../../src/topology/id.js';
import { ConnectionProgram } from './connections.js';
import { until } from './lab.js';
import { type Machine, type PlainRule, ROUTER, RoutedLab } from './routed-lab.js';

/**
 * Many connections through firewall, NAT and load balancer, of which the agents hear as good as nothing. All go from one
 * machine to servers on its own node and on the other, and from one network to another through a router. One lab serves
 * all tests, one after the other.
 */

/** Of all tests together. */
const CONNECTIONS = Number(process.env.MIDONET_CONNECTIONS ?? 100_000);
/** Each test that is not about the load balancer has four parts: IPv4 and IPv6, to the same node and to the other. */
const EACH = Math.floor(CONNECTIONS / 16);
/** Of each part so many are of TCP and so many of UDP one after the other: they come to most flows that it takes. */
const ONE_BY_ONE = 100;
/** The others are of UDP, so many at a time. */
const AT_ONCE = 64;

/** How many connections the kernel tracks in one namespace: each of ours is in three zones, and stays for 30 s when it is over. */
const TABLE_FILE = '/proc/sys/net/netfilter/nf_conntrack_max';
const TABLE_SIZE = 1_000_000;

const PORT = 5000;
/** A node leases some thousand ports for connections to one address and port, so connections with SNAT go to several. */
const SNAT_PORTS = [5100, 5131] as const;
/** A member owns 51 of these; each is a flow, which takes an upcall. */
const BUCKETS = 1024;

const MEMBERS_PER_NODE = 10;
/** Nobody has these: they are for the router to translate. */
const SNAT_ADDRESSES = ['198.51.100.5', '2001:db8:198::5'] as const;
const VIPS = ['198.51.100.100', '2001:db8:198::100'] as const;

let routed: RoutedLab;
let red: Machine;
let green: Machine;
let blue: Machine;
let program: ConnectionProgram;
let tableSize: string | undefined;
const stops: (() => void)[] = [];

/** One kind of connections, all to one address. */
interface Part {
  readonly name: string;
  readonly address: string;
  readonly ports: readonly [first: number, last: number];
  readonly count: number;
  /** First source port; no two parts to the same server share any, so that all connections are new. */
  readonly source: number;
  /** Upcalls that it may take, on all nodes together. */
  readonly upcalls: number;
  /** How many are open at a time; {@link AT_ONCE} if absent. */
  readonly atOnce?: number;
}

test.before(async (t) => {
  t.timeout(300_000);
  routed = await RoutedLab.start({ agent: { flows: { idleTimeout: 300 } } });
  tableSize = await readFile(TABLE_FILE, 'utf8');
  await writeFile(TABLE_FILE, String(TABLE_SIZE));
  const [node1, node2] = routed.lab.nodes;
  const clients = await routed.addNetwork(1);
  const servers = await routed.addNetwork(2);
  const numbers = (first: number) => Array.from({ length: MEMBERS_PER_NODE }, (_, i) => first + i);
  red = await routed.addMachine(node1, clients, 'red', 1);
  green = await routed.addMachine(node1, servers, 'green', ...numbers(10));
  blue = await routed.addMachine(node2, servers, 'blue', ...numbers(20));
  program = await ConnectionProgram.compile(routed.lab.folder);
  for (const server of [green, blue]) {
    stops.push(await program.serve(server, PORT), await program.serve(server, ...SNAT_PORTS));
  }
  for (const server of [green, blue]) {
    for (const address of [server.ipv4, server.ipv6]) {
      await until('the nodes to know each other', async () => (await red.ping(address, 1)) === 1);
    }
  }
  await protect();
  await translate();
  await balance();
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await routed.lab.logs());
});

test.after.always(async () => {
  for (const stop of stops) stop();
  if (tableSize !== undefined) await writeFile(TABLE_FILE, tableSize);
  await routed?.close();
});

/** Answers get in at the client, and what is served at the servers; nothing else of IP but what finds neighbours. */
async function protect(): Promise<void> {
  const repository = routed.lab.repository();
  const served = ([start, end]: readonly [number, number]): PlainRule[] =>
    [6, 17].map((protocol) => ({ type: 'accept', condition: { protocol, destinationPorts: { start, end } } }));
  const others: PlainRule[] = [
    { type: 'accept', condition: { protocol: 58, sourcePorts: { start: 133, end: 137 } } },
    { type: 'drop', condition: { etherType: 0x0800 } },
    { type: 'drop', condition: { etherType: 0x86dd } },
  ];
  const answers: PlainRule = { type: 'accept', condition: { matchReturnFlow: true } };
  const forClient = await routed.addChain('client', [answers, ...others]);
  const forServers = await routed.addChain('servers', [
    answers,
    ...served([PORT, PORT]),
    ...served(SNAT_PORTS),
    ...others,
  ]);
  for (const machine of [red, green, blue]) {
    const outboundFilterId = machine === red ? forClient : forServers;
    await repository.modify('port', idFromName('port', machine.name), (port) => ({ ...port, outboundFilterId }));
  }
}

/** The address of a server behind the router's DNAT. */
function dnatAddress(server: Machine, isIpv6: boolean): string {
  const number = server === green ? 80 : 81;
  return isIpv6 ? `2001:db8:198::${number}` : `198.51.100.${number}`;
}

async function translate(): Promise<void> {
  const action = 'accept';
  const target = (address: string, start: number, end: number) => [
    { start: address, end: address, ports: { start, end } },
  ];
  const alone = (address: string): Condition => ({ destination: `${address}/${address.includes(':') ? 128 : 32}` });
  const [start, end] = SNAT_PORTS;
  const inbound: PlainRule[] = [green, blue].flatMap((server) =>
    [server.ipv4, server.ipv6].map((address, i) => ({
      type: 'dnat',
      targets: target(address, PORT, PORT),
      action,
      condition: alone(dnatAddress(server, i === 1)),
    })),
  );
  inbound.push(
    ...SNAT_ADDRESSES.map((address) => ({ type: 'reverse-snat', action, condition: alone(address) }) as const),
  );
  const outbound: PlainRule[] = SNAT_ADDRESSES.map((address) => ({
    type: 'snat',
    targets: target(address, 1024, 65535),
    action,
    condition: {
      source: address.includes(':') ? 'fd00:50:1::/64' : '10.50.1.0/24',
      destinationPorts: { start, end },
    },
  }));
  const inboundFilterId = await routed.addChain('prerouting', inbound);
  const outboundFilterId = await routed.addChain('postrouting', outbound);
  const repository = routed.lab.repository();
  await repository.modify('router', ROUTER, (router) => ({ ...router, inboundFilterId, outboundFilterId }));
}

/** Ten addresses on each node are the members of a VIP, for each family and protocol. */
async function balance(): Promise<void> {
  const repository = routed.lab.repository();
  const { id: loadBalancerId } = await repository.create('load-balancer', { id: randomUUID() });
  for (const address of VIPS) {
    const isIpv6 = address.includes(':');
    const members = [green, blue].flatMap(({ addresses }) => addresses.filter((one) => one.includes(':') === isIpv6));
    for (const protocol of ['tcp', 'udp'] as const) {
      const transaction = repository.transaction();
      const { id: poolId } = await transaction.create('pool', { id: randomUUID(), loadBalancerId, protocol });
      await transaction.create('vip', { id: randomUUID(), poolId, address, protocolPort: PORT });
      for (const member of members) {
        await transaction.create('pool-member', { id: randomUUID(), poolId, address: member, protocolPort: PORT });
      }
      await transaction.commit();
    }
  }
  await repository.modify('router', ROUTER, (router) => ({ ...router, loadBalancerId }));
}

interface Counters {
  readonly upcalls: number;
  readonly hit: number;
  readonly missed: number;
}

/** Of all nodes: what the agents say, and what the kernel says. */
async function counters(): Promise<Counters> {
  const { nodes } = routed.lab;
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const statistics = await Promise.all(nodes.map((node) => node.statistics()));
  return {
    upcalls: sum(await Promise.all(nodes.map((node) => node.metric('midonet_upcalls_total')))),
    hit: sum(statistics.map(({ hit }) => hit)),
    missed: sum(statistics.map(({ missed }) => missed)),
  };
}

/** Opens the connections of a part, has all of them answered, and counts what that took. Returns the answers to UDP. */
async function open(t: ExecutionContext, part: Part): Promise<ReadonlyMap<string, number>> {
  const { name, address, ports, count, source, atOnce = AT_ONCE } = part;
  const before = await counters();
  for (const protocol of ['tcp', 'udp'] as const) {
    const answered = async () => (await program.open(red, { protocol, address, ports, count: 1 })).total === 1;
    await until('what this takes to be known', answered);
  }
  const tcp = await program.open(red, { protocol: 'tcp', address, ports, count: ONE_BY_ONE, source });
  const few = await program.open(red, { protocol: 'udp', address, ports, count: ONE_BY_ONE, source });
  const began = performance.now();
  const many = await program.open(red, {
    protocol: 'udp',
    address,
    ports,
    count: count - 2 * ONE_BY_ONE,
    atOnce,
    source: source + ONE_BY_ONE,
  });
  const seconds = (performance.now() - began) / 1000;
  const after = await counters();
  const missed = after.missed - before.missed;
  const upcalls = after.upcalls - before.upcalls;
  t.log(
    `${name}: ${tcp.total + few.total + many.total} connections, ${Math.round(many.total / seconds)}/s;`,
    `look-ups in the kernel: ${after.hit - before.hit} found a flow, ${missed} did not; upcalls: ${upcalls};`,
    `packets repeated: ${few.repeated + many.repeated}`,
  );
  t.deepEqual([tcp.total, few.total, many.total], [ONE_BY_ONE, ONE_BY_ONE, count - 2 * ONE_BY_ONE], name);
  for (const value of [missed, upcalls]) t.true(value <= part.upcalls, `${name}: ${value}`);
  return add(few.counts, many.counts);
}

function add(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): ReadonlyMap<string, number> {
  const keys = new Set([...a.keys(), ...b.keys()]);
  return new Map([...keys].map((key) => [key, (a.get(key) ?? 0) + (b.get(key) ?? 0)]));
}

/** Both servers by both families. */
function* targets(): Generator<{ server: Machine; isIpv6: boolean; name: string }> {
  for (const server of [green, blue]) {
    for (const isIpv6 of [false, true]) {
      yield { server, isIpv6, name: `${isIpv6 ? 'IPv6' : 'IPv4'}, ${server === green ? 'same node' : 'other node'}` };
    }
  }
}

function ownAddress(machine: Machine, isIpv6: boolean): string {
  return isIpv6 ? machine.ipv6 : machine.ipv4;
}

test.serial('through a stateful firewall', async (t) => {
  t.timeout(600_000);
  for (const { server, isIpv6, name } of targets()) {
    const address = ownAddress(server, isIpv6);
    const counts = await open(t, { name, address, ports: [PORT, PORT], count: EACH, source: 10_000, upcalls: 100 });
    t.deepEqual([...counts.keys()], [`${ownAddress(red, isIpv6)} ${address}`]);
    const closed = await program.open(red, { protocol: 'tcp', address, ports: [PORT + 1, PORT + 1], count: 1 });
    t.is(closed.total, 0, 'what is not served stays out');
  }
});

test.serial('through DNAT', async (t) => {
  t.timeout(600_000);
  for (const { server, isIpv6, name } of targets()) {
    const address = dnatAddress(server, isIpv6);
    const counts = await open(t, { name, address, ports: [PORT, PORT], count: EACH, source: 20_000, upcalls: 100 });
    t.deepEqual([...counts.keys()], [`${ownAddress(red, isIpv6)} ${ownAddress(server, isIpv6)}`]);
  }
});

test.serial('through SNAT', async (t) => {
  t.timeout(600_000);
  for (const { server, isIpv6, name } of targets()) {
    const address = ownAddress(server, isIpv6);
    const counts = await open(t, { name, address, ports: SNAT_PORTS, count: EACH, source: 30_000, upcalls: 250 });
    t.deepEqual([...counts.keys()], [`${SNAT_ADDRESSES[isIpv6 ? 1 : 0]} ${address}`]);
  }
});

test.serial('to a VIP with 20 members, ten on each node', async (t) => {
  t.timeout(600_000);
  for (const [i, address] of VIPS.entries()) {
    const name = i === 0 ? 'IPv4' : 'IPv6';
    const part = { address, ports: [PORT, PORT], count: EACH } as const;
    // What is open at the same time may ask for the same flow several times.
    const beginning = { atOnce: 8, upcalls: 1.5 * BUCKETS };
    const left = BUCKETS * Math.exp(-EACH / BUCKETS);
    const first = await open(t, { ...part, name: `${name}, first half`, source: 40_000, ...beginning });
    const second = await open(t, { ...part, name: `${name}, second half`, source: 50_000, upcalls: 100 + 1.5 * left });
    const counts = add(first, second);
    const shares = [green, blue].map(({ addresses }) =>
      addresses
        .filter((member) => member.includes(':') === (i === 1))
        .map((member) => counts.get(`${ownAddress(red, i === 1)} ${member}`) ?? 0),
    );
    t.log(
      `${name}: connections of the members on the same node ${shares[0].join(' ')}, on the other ${shares[1].join(' ')}`,
    );
    t.is(counts.size, 2 * MEMBERS_PER_NODE);
    const mean = shares.flat().reduce((sum, share) => sum + share, 0) / (2 * MEMBERS_PER_NODE);
    for (const share of shares.flat()) t.true(share > mean / 2 && share < mean * 2, `${share} of ${mean}`);
  }
});

test.serial('what is kept does not grow with connections', async (t) => {
  for (const node of routed.lab.nodes) {
    const flows = (await node.flows()).length;
    const recirculations = await node.metric('midonet_recirculations');
    const { stdout } = await node.run('cat', '/proc/sys/net/netfilter/nf_conntrack_count');
    const { masks } = await node.statistics();
    t.log(
      `${node.name}: ${flows} flows with ${masks} masks, ${recirculations} recirculations, ${Number(stdout)} tracked connections`,
    );
    t.true(recirculations < 200);
    t.true(flows < 4 * BUCKETS + 1000);
  }
});
