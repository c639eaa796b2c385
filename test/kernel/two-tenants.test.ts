import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { ApiClient } from '../../src/api/client/client.js';
import type { TraceAnswer } from '../../src/api/explain/trace-routes.js';
import { describePacket } from '../../src/flow/describe.js';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey } from '../../src/flow/key.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { IcmpType } from '../../src/packet/icmp.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { Dice } from '../dice.js';
import { FRAMES_SOURCE, Frames } from '../frames.js';
import { packetFrame } from '../packet-frame.js';
import { cleanUp } from './clean-up.js';
import { ConnectionProgram } from './connections.js';
import { Lab, type LabNode, must, PROGRAM, until } from './lab.js';
import { Machine } from './routed-lab.js';

/**
 * The example of two tenants with the same addresses, applied by the command line as people do, on two nodes: what it carries,
 * and that traces foretell what the kernel does with packets made at random.
 */

const EXAMPLE = fileURLToPath(new URL('../../../docs/examples/two-tenants.yaml', import.meta.url));
const PACKETS = 200;
/** How often a packet is sent: on a machine that is slow some get lost. */
const ATTEMPTS = 4;
const PATIENCE_MS = 3000;
/** For so long nothing has come: nothing will. */
const QUIET_MS = 150;
/** The same for a packet that is to be dropped: its first copy must have had the time to come. */
const NOTHING_MS = 500;

const TENANTS = ['red', 'blue'] as const;
const VIP = '10.0.9.1';
/** Where a tenant's connections come from outside. */
const OUTSIDE = { red: '198.51.100.2', blue: '198.51.100.6' } as const;
const WEB_SITE = '203.0.113.10';

interface Place {
  readonly machine: Machine;
  readonly tenant: (typeof TENANTS)[number] | undefined;
  /** Of its port, as the command line takes it. */
  readonly port: string;
  portId: string;
}

let lab: Lab;
let server: string;
let client: ApiClient;
const places: Place[] = [];

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start();
  server = await lab.startApi();
  client = new ApiClient({ server });
  t.regex(await midonet('apply', '-f', EXAMPLE, '--yes'), /^\d+ to make, 0 to change, 0 to delete$/m);
  await place(lab.nodes[1], 'world', undefined, 'world/web-site', '02:00:00:00:00:01', WEB_SITE, '203.0.113.1');
  for (const [i, tenant] of TENANTS.entries()) {
    for (const [j, name] of ['client1', 'client2', 'server1', 'server2'].entries()) {
      const [bridge, subnet, number] = j < 2 ? ['clients', 0, 11 + j] : ['servers', 1, 19 + j];
      const mac = `02:00:00:00:0${i + 1}:${number}`;
      const ends = [`10.0.${subnet}.${number}`, `10.0.${subnet}.1`] as const;
      await place(lab.nodes[j % 2], `${tenant}-${name}`, tenant, `${bridge}/${name}`, mac, ...ends);
    }
  }
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await lab.logs());
});

test.after.always(() =>
  cleanUp(
    () => client?.close(),
    ...places.map(
      ({ machine }) =>
        () =>
          machine.remove(),
    ),
    () => lab?.close(),
  ),
);

/** What the command line prints; it must succeed. */
function midonet(...words: string[]): Promise<string> {
  return must('env', `MIDONET_API=${server}`, process.execPath, PROGRAM, ...words);
}

/** Makes a machine and says where its port is. */
async function place(
  node: LabNode,
  name: string,
  tenant: Place['tenant'],
  port: string,
  mac: string,
  address: string,
  gateway: string,
): Promise<void> {
  const machine = new Machine(node, name, mac, [address], [gateway]);
  await machine.plugIn();
  const options = tenant === undefined ? [] : ['--tenant', tenant];
  await midonet('port', 'bind', port, ...options, '--host', node.name, '--interface', name);
  const shown = JSON.parse(await midonet('port', 'show', port, ...options, '--json')) as { id: string };
  places.push({ machine, tenant, port, portId: shown.id });
  await until(`${name} to be bound`, async () => (await node.ports()).includes(name));
}

function find(tenant: Place['tenant'], port: string): Machine {
  return places.find((one) => one.tenant === tenant && one.port === port)!.machine;
}

test.serial('each tenant has what its network promises, and nothing of the other', async (t) => {
  t.timeout(300_000);
  const program = await ConnectionProgram.compile(lab.folder);
  const stops: (() => void)[] = [];
  const open = async (from: Machine, address: string, port: number, count: number) =>
    [...(await program.open(from, { protocol: 'tcp', address, ports: [port, port], count })).counts.keys()].sort();
  try {
    for (const tenant of TENANTS) {
      const client1 = find(tenant, 'clients/client1');
      await until(`${tenant} to reach its servers`, async () => (await client1.ping('10.0.1.21', 1)) === 1);
    }
    // Only those of one tenant serve: the other has the same address, and nobody there.
    for (const name of ['servers/server1', 'servers/server2']) {
      stops.push(await program.serve(find('red', name), 8080), await program.serve(find('red', name), 22));
    }
    const members = ['10.0.0.11 10.0.1.21', '10.0.0.11 10.0.1.22'];
    t.deepEqual(await open(find('red', 'clients/client1'), VIP, 80, 40), members);
    t.deepEqual(await open(find('blue', 'clients/client1'), VIP, 80, 3), []);
    // The firewall: only administrators get at this port.
    t.deepEqual(await open(find('red', 'clients/client2'), '10.0.1.21', 22, 3), ['10.0.0.12 10.0.1.21']);
    t.deepEqual(await open(find('red', 'clients/client1'), '10.0.1.21', 22, 1), []);
    // Outside each tenant has an address of its own.
    stops.push(await program.serve(find(undefined, 'world/web-site'), 8000));
    for (const tenant of TENANTS) {
      t.deepEqual(await open(find(tenant, 'clients/client1'), WEB_SITE, 8000, 3), [`${OUTSIDE[tenant]} ${WEB_SITE}`]);
    }
    t.regex(
      await midonet('trace', '--tenant', 'red', '--from', 'clients/client1', '--packet', `tcp 10.0.0.11:5 > ${VIP}:80`),
      /^✔ Delivered out of port servers\/server[12]/,
    );
    t.notRegex(await midonet('apply', '-f', EXAMPLE, '--yes'), /^[+~-]/m);
  } finally {
    for (const stop of stops) stop();
  }
});

test.serial('what a trace says of a packet is what the kernel does with it', async (t) => {
  t.timeout(600_000);
  const program = join(lab.folder, 'frames');
  await must('cc', '-O2', '-o', program, FRAMES_SOURCE);
  const arrived: Arrival[] = [];
  const wires = new Map<Place, Frames>();
  try {
    for (const one of places) {
      // Its kernel must not answer, nor say anything by itself.
      await must('ip', '-n', one.machine.namespace, 'addr', 'flush', 'dev', 'eth0');
      await must('ip', '-n', one.machine.namespace, 'link', 'set', 'eth0', 'arp', 'off');
      const receive = (_: string, frame: Uint8Array) => arrived.push({ at: one, frame });
      wires.set(one, await Frames.start(program, one.machine.namespace, ['eth0'], receive));
    }
    const dice = new Dice(Number(process.env.MIDONET_SEED ?? 1));
    const verdicts = new Map<string, number>();
    for (let i = 0; i < PACKETS; i++) {
      const from = dice.pick(places)!;
      const answer = await trace(from, randomPacket(dice, from, i));
      verdicts.set(answer.outcome.verdict, (verdicts.get(answer.outcome.verdict) ?? 0) + 1);
      const mark = randomUUID();
      let seen: string[] = [];
      const wanted = expected(from, answer);
      let attempts = 0;
      // Also of a packet that is to be dropped: it is sent, and nothing may come of it.
      do {
        arrived.length = 0;
        wires.get(from)!.send('eth0', packetFrame(answer.packet, mark));
        seen = await whatComes(arrived, mark, from, wanted.length);
        attempts++;
      } while (attempts < ATTEMPTS && seen.join() !== wanted.join());
      t.deepEqual(seen, wanted, `${from.tenant ?? ''} ${from.port} sends ${answer.packet}: ${answer.outcome.text}`);
    }
    t.log(Object.fromEntries(verdicts));
    for (const verdict of ['delivered', 'dropped', 'answered']) t.true((verdicts.get(verdict) ?? 0) > 3, verdict);
    t.false(verdicts.has('undecided'));
  } finally {
    await cleanUp(...[...wires.values()].map((frames) => () => frames.close()));
  }
});

async function trace({ portId }: Place, packet: string): Promise<TraceAnswer> {
  return (await client.request('POST', '/v1/trace', { body: { portId, packet } })).body as TraceAnswer;
}

/** From the machine to whatever there is, or is not. Addresses that nobody has on a link are left out: a trace asks for nobody. */
function randomPacket(dice: Dice, from: Place, i: number): string {
  const machines = places.map(({ machine }) => machine.ipv4).filter((address) => address !== from.machine.ipv4);
  const others = [VIP, VIP, '10.0.0.1', '10.0.1.1', '203.0.113.1', ...Object.values(OUTSIDE), '10.77.0.1', '8.8.8.8'];
  const to = dice.chance(60) ? dice.pick(machines)! : dice.pick(others)!;
  const protocol = dice.pick(['tcp', 'tcp', 'udp', 'icmp'])!;
  const ports = [1000 + i, dice.pick([22, 53, 80, 8080])!];
  const [source, destination] =
    protocol === 'icmp' ? [from.machine.ipv4, to] : [`${from.machine.ipv4}:${ports[0]}`, `${to}:${ports[1]}`];
  return `${protocol} ${source} > ${destination} ttl ${dice.chance(10) ? 1 : 64}`;
}

/** By the trace, in the words of {@link describe}: what comes where. */
function expected(from: Place, { outcome, passes }: TraceAnswer): string[] {
  const { verdict, portIds, text } = outcome;
  const last = passes.at(-1)!;
  if (verdict === 'delivered') {
    return portIds.map((id) => {
      const at = places.find(({ portId }) => portId === id)!;
      return describe(at, withChanges(last.packet, last.flow!.actions));
    });
  }
  if (verdict === 'answered') return [`${from.machine.name}: echo reply`];
  // To a translated address: the host that leased the port knows of no such connection, and drops it.
  if (verdict === 'forwarded') return [];
  const error = /ICMP type (\d+) code (\d+)/.exec(text);
  return error === null ? [] : [`${from.machine.name}: error ${error[1]}/${error[2]}`];
}

/** The packet in words, with what the actions of its last flow set. */
function withChanges(packet: string, actions: string): string {
  const last = (field: string) => [...actions.matchAll(new RegExp(`\\b${field}=([^ )]+)`, 'g'))].at(-1)?.[1];
  const [, head, ttl, source, destination] = /^(.*), ttl (\d+), (\S+) > (\S+)$/.exec(packet)!;
  const macs = `${last('eth_src') ?? source} > ${last('eth_dst') ?? destination}`;
  return `${head}, ttl ${last('nw_ttl') ?? ttl}, ${macs}`;
}

/**
 * What comes at a machine. A trace cannot know what is chosen for a connection: the port that SNAT gives it, and which of the members
 * of a VIP, whose ports and addresses are left out here.
 */
function describe({ tenant, machine }: Place, packet: string): string {
  const isMember = machine.name.includes('server') && packet.includes(':8080,');
  if (isMember) return `${tenant} server: ${packet.replace(/ > 10\.0\.1\.2[12]:/, ' > member:').replace(/\S+$/, '')}`;
  return `${machine.name}: ${packet.replace(/(198\.51\.100\.[26]):\d+/, '$1')}`;
}

interface Arrival {
  readonly at: Place;
  readonly frame: Uint8Array;
}

/** What has come of the packet with the mark when nothing more comes, in the words of {@link describe}. */
async function whatComes(arrived: readonly Arrival[], mark: string, from: Place, atLeast: number): Promise<string[]> {
  const end = performance.now() + PATIENCE_MS;
  let seen: string[] = [];
  let since = performance.now();
  const quiet = atLeast === 0 ? NOTHING_MS : QUIET_MS;
  while (performance.now() < end && (seen.length < atLeast || performance.now() - since < quiet)) {
    await sleep(20);
    const now = arrived.flatMap(({ at, frame }) => inWords(at, frame, mark, from) ?? []);
    if (now.length !== seen.length) since = performance.now();
    seen = now;
  }
  return seen;
}

/** Undefined for a frame that has nothing to do with the packet with the mark. */
function inWords(at: Place, frame: Uint8Array, mark: string, from: Place): string | undefined {
  if (!Buffer.from(frame).includes(mark)) return undefined;
  const key = new FlowKey();
  extractKey(frame, key);
  if (key.ethType !== EtherType.IPV4) return undefined;
  if (at === from && key.nwProto === IpProtocol.ICMP) {
    if (key.tpSrc === IcmpType.ECHO_REPLY) return `${at.machine.name}: echo reply`;
    if (key.tpSrc !== IcmpType.ECHO_REQUEST) return `${at.machine.name}: error ${key.tpSrc}/${key.tpDst}`;
  }
  return describe(at, describePacket(key));
}
