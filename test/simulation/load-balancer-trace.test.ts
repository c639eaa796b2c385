import test from 'ava';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { type Recirculation, type Recirculations, recirculationHash } from '../../src/simulation/connection.js';
import { explain, formatPasses } from '../../src/simulation/explain.js';
import type { BalancedMember, LoadBalancerFact, PoolFact, VipAnswer, VipFact } from '../../src/simulation/fact.js';
import { MemberTable } from '../../src/simulation/member-table.js';
import { VipIndex } from '../../src/simulation/vip-index.js';
import { fact, keyOf, limits, TestBridge, tcpFrame, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
const VIP = 0x0a63_0001;

const recirculations: Recirculations = {
  get: (id) => fact<Recirculation>(`recirculation ${id}`, null),
  idOf: recirculationHash,
};

interface Setting {
  readonly members?: readonly Pick<BalancedMember, 'id' | 'isAvailable'>[];
  readonly isSticky?: boolean;
  readonly isVipOn?: boolean;
  readonly isBalancerOn?: boolean;
}

/** The steps at the load balancer of a bridge, of all passes of a packet. */
function stepsTo(
  port: number,
  { members = [], isSticky = false, isVipOn = true, isBalancerOn = true }: Setting,
): string[] {
  const table = members.map(({ id, isAvailable }, i): BalancedMember => {
    return { id, isAvailable, weight: 1, address: Uint32Array.of(0x0a01_0002 + i), port: 8080 };
  });
  const pool = fact<PoolFact>('pool', { id: 'pool', adminStateUp: true, members: new MemberTable(table) });
  const index = new VipIndex<VipFact>((tag) => {
    const cell = fact<VipAnswer<VipFact>>(tag, null);
    const set = (value: VipAnswer<VipFact> | null) => {
      cell.value = value;
    };
    return Object.assign(cell, { set, touch: () => {} });
  });
  const key = { address: { family: 4, words: [VIP] }, protocol: IpProtocol.TCP, port: 80 } as const;
  index.set('vip', key, { id: 'vip', adminStateUp: isVipOn, isSticky, pool });
  const balancer: LoadBalancerFact = {
    id: 'balancer',
    adminStateUp: isBalancerOn,
    vip: (packet, seen) => index.lookup(packet, seen),
  };
  const world = new World();
  const bridge = Object.assign(new TestBridge('bridge'), { loadBalancer: fact('balancer', balancer) });
  const client = world.localPort(bridge, 1, CLIENT);
  client.value = { ...client.value!, location: { type: 'local', output: fact('output', 1), zone: fact('zone', 9) } };
  world.localPort(bridge, 2, SERVER);
  const packet = tcpFrame({ srcMac: CLIENT, dstMac: SERVER, src: 0x0a01_0001, dst: VIP }, 1000, port);
  const question = { key: keyOf(packet, 1), ingress: world.ingress(1), limits: limits(), recirculations } as const;
  const text = formatPasses(explain({ ...question, connection: 'new', hash: 0 }));
  return text
    .split('\n')
    .filter((line) => /load balancer|VIP|member|bucket|hash$|destination|come back$/.test(line))
    .map((line) => line.trim().replace(/^tcp .*, come back$/, '--'));
}

const ON = { isAvailable: true };
const OFF = { isAvailable: false };

test('a trace says to which VIP a packet goes, which bucket it has and which member takes it, and why', (t) => {
  const begin = ['to VIP vip of load balancer balancer', 'has to come back with a hash', '--'];
  const end = ['--', 'to VIP vip of load balancer balancer', 'has another destination from here on'];
  const chosen = (member: string, by: string) => [
    'to VIP vip of load balancer balancer',
    ...(by === 'it has this bucket' ? ['bucket 0 of its hash'] : []),
    `a new connection goes to member ${member} port 8080: ${by}`,
    `has to come back with another destination: zone 9, nat dst ${member.split(' ')[1]} port 8080`,
  ];
  const two = stepsTo(80, { members: ['a', 'b'].map((id) => ({ id, ...ON })) });
  const taker = two.some((line) => line.includes('member a')) ? 'a, 10.1.0.2' : 'b, 10.1.0.3';
  t.deepEqual(two, [...begin, ...chosen(taker, 'it has this bucket'), ...end]);
  for (const isSticky of [false, true]) {
    const alone = stepsTo(80, { members: [{ id: 'a', ...ON }], isSticky });
    t.deepEqual(alone, [...chosen('a, 10.1.0.2', 'no other member takes connections'), ...end]);
  }
  // One of the three has the bucket, and another stands in for it.
  const names = ['a', 'b', 'c'];
  const standIns = names.filter((off) =>
    stepsTo(80, { members: names.map((id) => ({ id, isAvailable: id !== off })) }).some((line) =>
      line.endsWith(': the member that has this bucket takes no connections'),
    ),
  );
  t.is(standIns.length, 1);
  const sticky = stepsTo(80, { members: names.map((id) => ({ id, ...ON })), isSticky: true });
  t.true(sticky.some((line) => line.endsWith(': it has this client')));
});

test('a trace says why no member takes a packet', (t) => {
  const none = stepsTo(80, { members: [{ id: 'a', ...OFF }] });
  t.true(none.includes('no member of pool pool takes a new connection'), none.join('\n'));
  const off = 'to VIP vip of load balancer balancer, which is switched off';
  t.deepEqual(stepsTo(80, { members: [{ id: 'a', ...ON }], isVipOn: false }), [off]);
  t.deepEqual(stepsTo(80, { isBalancerOn: false }), ['load balancer balancer is switched off']);
  const [other] = stepsTo(81, { members: [{ id: 'a', ...ON }] });
  t.is(other, 'to the address of a VIP of load balancer balancer: only the connection tells more');
});
