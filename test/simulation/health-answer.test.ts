import test from 'ava';
import { FlowKey, TunnelFlag } from '../../src/flow/key.js';
import { buildEthernet, ETHERNET_HEADER, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpError, IcmpType, UnreachableCode } from '../../src/packet/icmp.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildUdp } from '../../src/packet/udp.js';
import { type Recirculation, type Recirculations, recirculationHash } from '../../src/simulation/connection.js';
import { explain } from '../../src/simulation/explain.js';
import type { HealthCheckerFact, LoadBalancerFact, VipAnswer, VipFact } from '../../src/simulation/fact.js';
import { HEALTH_PORT, HEALTH_PORTS } from '../../src/simulation/health-answer.js';
import { simulate } from '../../src/simulation/simulate.js';
import { VipIndex } from '../../src/simulation/vip-index.js';
import { fact, keyOf, limits, TestBridge, tcpFrame, World } from './world.js';

const MEMBER = 0x0200_0000_0001;
const GATEWAY = 0x0200_0000_0002;
const MEMBER_IP = 0x0a01_0002;
const VIP = 0x0a63_0001;
const TUNNEL_KEY = 77;

const recirculations: Recirculations = {
  get: (id) => fact<Recirculation>(`recirculation ${id}`, null),
  idOf: recirculationHash,
};

/** A member behind port 1 of a bridge with a load balancer, whose members are checked by a host. */
function setting(checker: HealthCheckerFact | null | undefined) {
  const index = new VipIndex<VipFact>((tag) => {
    const cell = fact<VipAnswer<VipFact>>(tag, null);
    const set = (value: VipAnswer<VipFact> | null) => {
      cell.value = value;
    };
    return Object.assign(cell, { set, touch: () => {} });
  });
  const key = { address: { family: 4, words: [VIP] }, protocol: IpProtocol.TCP, port: 80 } as const;
  index.set('vip', key, { id: 'vip', adminStateUp: true, isSticky: false, pool: fact('pool', null) });
  const balancer: LoadBalancerFact = {
    id: 'balancer',
    adminStateUp: true,
    vip: (packet, seen) => index.lookup(packet, seen),
    checker: fact('checker', checker),
  };
  const world = new World();
  const bridge = Object.assign(new TestBridge('bridge'), { loadBalancer: fact('balancer', balancer) });
  const member = world.localPort(bridge, 1, MEMBER);
  member.value = { ...member.value!, location: { type: 'local', output: fact('output', 1), zone: fact('zone', 9) } };
  world.localPort(bridge, 2, GATEWAY);
  return {
    world,
    /** What becomes of a frame of the member's in the end; it belongs to no connection. */
    send: (frame: Uint8Array) => {
      const question = { key: keyOf(frame, 1), ingress: world.ingress(1), limits: limits(), recirculations };
      return explain({ ...question, bytes: frame, connection: 'new', hash: 0 }).at(-1)!.decision;
    },
  };
}

function answer(dstPort: number): Uint8Array {
  return tcpFrame({ srcMac: MEMBER, dstMac: GATEWAY, src: MEMBER_IP, dst: VIP }, 8080, dstPort);
}

/** The member says that it has nothing at the port which was asked. */
function refusal(askedFrom: number): Uint8Array {
  const question = buildIpv4({ src: VIP, dst: MEMBER_IP, protocol: IpProtocol.UDP }, buildUdp(askedFrom, 8080));
  const frame = buildEthernet({ src: GATEWAY, dst: MEMBER, type: EtherType.IPV4 }, question);
  const error = buildIcmpError(IcmpType.UNREACHABLE, UnreachableCode.PORT, MEMBER_IP, frame, ETHERNET_HEADER)!;
  return buildEthernet({ src: MEMBER, dst: GATEWAY, type: EtherType.IPV4 }, error);
}

const INSIDE = [HEALTH_PORT, HEALTH_PORT + HEALTH_PORTS - 1];
const OUTSIDE = [HEALTH_PORT - 1, HEALTH_PORT + HEALTH_PORTS];
const REMOTE: HealthCheckerFact = {
  type: 'remote',
  tunnel: fact('tunnel', { output: 9, src: 1, dst: 2 }),
  tunnelKey: TUNNEL_KEY,
};

test('what answers a health check goes to the agent of the host that checks, here or elsewhere', (t) => {
  for (const port of INSIDE) {
    const here = setting({ type: 'local' }).send(answer(port));
    t.like(here, { type: 'done', actions: [], install: false });
    t.true(here.type === 'done' && here.effects.some(({ type }) => type === 'health'));

    const there = setting(REMOTE).send(answer(port));
    t.like(there, { type: 'done', install: true });
    const [tunnel, output] = there.type === 'done' ? there.actions : [];
    t.like(output, { type: 'output', port: 9 });
    t.true(tunnel.type === 'set-tunnel' && (tunnel.tunnel.id & 0x3f_ffff) === TUNNEL_KEY);
  }
});

test('it waits until it is known who checks, and when nobody does it is like any other packet', (t) => {
  t.is(setting(undefined).send(answer(HEALTH_PORT)).type, 'wait');
  const unasked = setting(null).send(answer(HEALTH_PORT));
  t.deepEqual(unasked, { ...unasked, effects: [] });
  for (const port of OUTSIDE) {
    const other = setting({ type: 'local' }).send(answer(port));
    t.false(other.type === 'done' && other.effects.some(({ type }) => type === 'health'));
  }
});

test('so do ICMP errors about what was asked, and no others', (t) => {
  for (const port of [...INSIDE, ...OUTSIDE]) {
    const decision = setting({ type: 'local' }).send(refusal(port));
    const isHeard = decision.type === 'done' && decision.effects.some(({ type }) => type === 'health');
    t.is(isHeard, INSIDE.includes(port), `${port}`);
  }
});

test('what another host has let in under the key for answers is one', (t) => {
  const { world } = setting({ type: 'local' });
  world.targets.at(TUNNEL_KEY).value = { outputs: [], ports: [], takesHealthAnswers: true };
  const ingress = fact('tunnel', { type: 'tunnel', target: (id: number) => world.targets.at(id) } as const);
  const key = new FlowKey();
  key.tunDst = 1;
  key.tunId = TUNNEL_KEY;
  key.tunFlags = TunnelFlag.KEY;
  const decision = simulate(key, ingress, limits());
  t.like(decision, { type: 'done', actions: [], install: false });
  t.deepEqual(decision.type === 'done' && decision.effects, [{ type: 'health' }]);
});
