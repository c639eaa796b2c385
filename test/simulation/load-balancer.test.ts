import test, { type ExecutionContext } from 'ava';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { TcpFlag } from '../../src/packet/tcp.js';
import type { BalancedMember, LoadBalancerFact, PoolFact, VipAnswer, VipFact } from '../../src/simulation/fact.js';
import { MemberTable } from '../../src/simulation/member-table.js';
import { type VipCell, VipIndex } from '../../src/simulation/vip-index.js';
import { answer, isError, type Packet, quoted, refuse, send } from './conversation.js';
import type { RuleSpec } from './filters.js';
import { Hosts, type NetworkSpec } from './hosts.js';
import { unsoundFlow } from './simulated-host.js';
import { fact, type TestFact } from './world.js';

/** In no machine's network: whoever asks it goes through the router. */
const VIP = 0x0a63_0001;
const PORT = 80;
const MEMBER_PORT = 8080;

const MACHINES = [
  { name: 'client', side: 'inside', host: 0 },
  { name: 'near', side: 'inside', host: 0 },
  { name: 'far', side: 'inside', host: 1 },
  { name: 'server', side: 'outside', host: 0 },
  { name: 'remote', side: 'outside', host: 1 },
] as const;

type Name = (typeof MACHINES)[number]['name'];

interface MemberSpec {
  readonly name: Name;
  readonly weight?: number;
  readonly isAvailable?: boolean;
}

class Vips {
  readonly pool: TestFact<PoolFact> = fact<PoolFact>('pool', null);
  readonly fact: LoadBalancerFact;
  private readonly index: VipIndex<VipFact>;

  constructor(protocols: readonly number[], isSticky = false) {
    this.index = new VipIndex<VipFact>((tag) => {
      const cell = fact<VipAnswer<VipFact>>(tag, null);
      const set = (value: VipAnswer<VipFact> | null) => {
        cell.value = value;
      };
      return Object.assign(cell, { set, touch: () => {} }) satisfies VipCell<VipAnswer<VipFact>>;
    });
    for (const protocol of protocols) {
      const vip = { id: `vip ${protocol}`, adminStateUp: true, isSticky, pool: this.pool };
      this.index.set(vip.id, { address: { family: 4, words: [VIP] }, protocol, port: PORT }, vip);
    }
    this.fact = { id: 'balancer', adminStateUp: true, vip: (packet, seen) => this.index.lookup(packet, seen) };
  }

  setMembers(members: readonly MemberSpec[]): void {
    const table = members.map(({ name, weight = 1, isAvailable = true }): BalancedMember => {
      const i = MACHINES.findIndex((machine) => machine.name === name);
      const network = MACHINES[i].side === 'inside' ? 0x0a00_0100 : 0x0a00_0200;
      return { id: name, weight, isAvailable, address: Uint32Array.of(network + 2 + i), port: MEMBER_PORT };
    });
    this.pool.value = { id: 'pool', adminStateUp: true, members: new MemberTable(table) };
  }
}

interface Setting {
  readonly network: Hosts;
  readonly vips: Vips;
}

function setting(
  balancedDevice: NetworkSpec['balancedDevice'],
  members: readonly MemberSpec[],
  isSticky = false,
  bridgeRule?: RuleSpec,
): Setting {
  const vips = new Vips([IpProtocol.TCP, IpProtocol.UDP], isSticky);
  vips.setMembers(members);
  const bridges = bridgeRule && { inbound: [bridgeRule] };
  return { vips, network: new Hosts({ machines: MACHINES, bridges, loadBalancer: vips.fact, balancedDevice }) };
}

function request(srcPort: number, protocol: 'tcp' | 'udp' = 'tcp'): Packet {
  return { protocol, to: VIP, srcPort, dstPort: PORT };
}

/** Asks the VIP and has it answer; returns who did. */
function converse(t: ExecutionContext, network: Hosts, from: Name, packet: Packet): string {
  const [there] = send(network, from, packet);
  t.truthy(there, `${network.hosts.map(({ drops }) => drops)}`);
  t.deepEqual([there.dst, there.dstPort], [network.machine(there.at).ip, MEMBER_PORT]);
  const [back] = answer(network, packet, there);
  t.deepEqual([back?.at, back?.src, back?.srcPort, back?.dstPort], [from, VIP, PORT, packet.srcPort]);
  return there.at;
}

function checkSound(t: ExecutionContext, network: Hosts): void {
  for (const host of network.hosts) t.is(unsoundFlow(host), undefined);
}

for (const device of ['router', 'bridges'] as const) {
  for (const protocol of ['tcp', 'udp'] as const) {
    test(`VIP of ${device} over ${protocol}: members on both hosts share the connections, and each keeps its own`, (t) => {
      const { network } = setting(device, [{ name: 'server' }, { name: 'remote' }]);
      const members = new Map<number, string>();
      for (let round = 0; round < 2; round++) {
        for (let port = 1000; port < 1080; port++) {
          const member = converse(t, network, 'client', request(port, protocol));
          t.is(members.get(port) ?? member, member);
          members.set(port, member);
        }
      }
      for (const name of ['server', 'remote']) t.true([...members.values()].filter((at) => at === name).length > 20);
      checkSound(t, network);
    });
  }

  test(`VIP of ${device}: once each bucket was seen, connections cost no upcall`, (t) => {
    const { network } = setting(device, [{ name: 'server' }, { name: 'remote' }]);
    for (let port = 1; port < 3000; port++) converse(t, network, 'client', request(port));
    const before = network.upcalls;
    for (let port = 10_000; port < 10_200; port++) converse(t, network, 'client', request(port));
    t.true(network.upcalls - before <= 10, `${network.upcalls - before} upcalls`);
  });

  test(`VIP of ${device}: where one member takes all connections nothing is looked at to choose it`, (t) => {
    for (const isSticky of [false, true]) {
      const { network } = setting(device, [{ name: 'server' }, { name: 'remote', isAvailable: false }], isSticky);
      t.is(converse(t, network, 'client', request(1000)), 'server');
      const before = network.upcalls;
      for (let port = 2000; port < 2020; port++) t.is(converse(t, network, 'client', request(port)), 'server');
      t.is(network.upcalls, before);
    }
  });

  test(`VIP of ${device}: connections keep a member that takes no others, and an empty pool takes none`, (t) => {
    const { network, vips } = setting(device, [{ name: 'server' }]);
    t.is(converse(t, network, 'client', request(1000)), 'server');
    vips.setMembers([{ name: 'server', isAvailable: false }, { name: 'remote' }]);
    for (const host of network.hosts) host.revisit();
    t.is(converse(t, network, 'client', request(1001)), 'remote');
    const [there] = send(network, 'client', { ...request(1000), flags: TcpFlag.ACK });
    t.is(there?.at, 'server');
    vips.setMembers([{ name: 'server', isAvailable: false }]);
    for (const host of network.hosts) host.revisit();
    t.deepEqual(send(network, 'client', request(1002)), []);
    t.is(send(network, 'client', { ...request(1000), flags: TcpFlag.ACK })[0]?.at, 'server');
    t.true(network.hosts[0].drops.includes('no-member'));
  });

  test(`VIP of ${device}: errors about what a member was sent come from the VIP and speak of it`, (t) => {
    for (const name of ['server', 'remote'] as const) {
      const { network } = setting(device, [{ name }]);
      const [there] = send(network, 'client', request(1000, 'udp'));
      const [back] = refuse(network, there);
      t.is(back?.at, 'client');
      t.true(isError(back));
      t.deepEqual(quoted(back), {
        src: network.machine('client').ip,
        dst: VIP,
        srcPort: 1000,
        dstPort: PORT,
      });
    }
  });

  test(`VIP of ${device}: a client sticks to a member`, (t) => {
    const { network } = setting(device, [{ name: 'server' }, { name: 'remote' }], true);
    for (const client of ['client', 'near', 'far'] as const) {
      const members = new Set<string>();
      for (let port = 1000; port < 1010; port++) members.add(converse(t, network, client, request(port)));
      t.is(members.size, 1);
    }
    checkSound(t, network);
  });

  test(`VIP of ${device}: a member asks itself`, (t) => {
    const { network } = setting(device, [{ name: 'near' }]);
    const packet = request(1000);
    const [there] = send(network, 'near', packet);
    t.is(there?.at, 'near', `${network.hosts.map(({ drops }) => drops)}`);
    t.deepEqual([there.src, there.dst, there.dstPort], [VIP, network.machine('near').ip, MEMBER_PORT]);
    const [back] = answer(network, packet, there);
    t.deepEqual([back?.at, back?.src, back?.srcPort, back?.dstPort], ['near', VIP, PORT, 1000]);
    checkSound(t, network);
  });

  test(`VIP of ${device}: other ports of its address, and other addresses, are none of its business`, (t) => {
    const { network } = setting(device, [{ name: 'server' }]);
    t.true(isError(send(network, 'client', { ...request(1000), dstPort: 81 })[0]));
    t.is(send(network, 'client', { ...request(1000), to: network.machine('server').ip })[0]?.dstPort, PORT);
  });
}

test('VIP of bridges: what a rule has given the VIP as its destination is dropped without a member', (t) => {
  const { network, vips } = setting('bridges', [{ name: 'server' }], false, {
    type: 'dnat',
    targets: [{ start: '10.99.0.1', end: '10.99.0.1' }],
    action: 'accept',
    if: { destination: '10.99.0.2/32' },
  });
  const toOther = (srcPort: number) => ({ ...request(srcPort), to: VIP + 1 });
  t.is(send(network, 'client', toOther(1000))[0]?.at, 'server');
  vips.setMembers([]);
  for (const host of network.hosts) host.revisit();
  t.deepEqual(send(network, 'client', toOther(1001)), []);
  t.true(network.hosts[0].drops.includes('no-member'));
});

for (const member of ['near', 'far'] as const) {
  test(`VIP of bridges: client and member ${member} are on one bridge`, (t) => {
    const { network } = setting('bridges', [{ name: member }]);
    for (let port = 1000; port < 1010; port++) t.is(converse(t, network, 'client', request(port)), member);
    checkSound(t, network);
  });
}
