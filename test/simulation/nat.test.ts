import test from 'ava';
import type { Condition } from '../../src/topology/chains.js';
import { answer, type Packet, quoted, refuse, send } from './conversation.js';
import type { RuleSpec } from './filters.js';
import { Hosts, type Rules } from './hosts.js';
import { unsoundFlow } from './simulated-host.js';

const VIP = 0x0a00_02c8;
const VIP_TEXT = '10.0.2.200';
const OUTER = 0x0a00_02fa;
const OUTER_TEXT = '10.0.2.250';
const PROTOCOLS = ['tcp', 'udp', 'icmp'] as const;

const MACHINES = [
  { name: 'client', side: 'inside', host: 0 },
  { name: 'near', side: 'inside', host: 0 },
  { name: 'far', side: 'inside', host: 1 },
  { name: 'server', side: 'outside', host: 0 },
  { name: 'remote', side: 'outside', host: 1 },
] as const;

function hosts(router: Rules, ports: Record<string, Rules> = {}): Hosts {
  return new Hosts({ machines: MACHINES, router, ports });
}

/** Addresses that the machines have: 10.0.1.2 and so on. */
function target(name: string, port = 8080): { start: string; end: string; ports: { start: number; end: number } } {
  const i = MACHINES.findIndex((machine) => machine.name === name);
  const address = `10.0.${MACHINES[i].side === 'inside' ? 1 : 2}.${2 + i}`;
  return { start: address, end: address, ports: { start: port, end: port } };
}

function dnat(...names: string[]): RuleSpec {
  const targets = names.map((name) => target(name));
  return { type: 'dnat', targets, action: 'accept', if: { destination: `${VIP_TEXT}/32` } };
}

function snat(condition: Condition = { source: '10.0.1.0/24' }): RuleSpec {
  const ports = { start: 1024, end: 65535 };
  return { type: 'snat', targets: [{ start: OUTER_TEXT, end: OUTER_TEXT, ports }], action: 'accept', if: condition };
}

const REVERSE_SNAT: RuleSpec = { type: 'reverse-snat', action: 'accept', if: { destination: `${OUTER_TEXT}/32` } };

function checkSound(t: { is(a: unknown, b: unknown): void }, network: Hosts): void {
  for (const host of network.hosts) t.is(unsoundFlow(host), undefined);
}

for (const protocol of PROTOCOLS) {
  for (const member of ['server', 'remote']) {
    test(`DNAT to ${member} over ${protocol}, whose answers come from the address that was asked`, (t) => {
      const network = hosts({ inbound: [dnat(member)] });
      const packet: Packet = { protocol, to: VIP, srcPort: 1000, dstPort: 80 };
      for (let i = 0; i < 3; i++) {
        const [there] = send(network, 'client', packet);
        t.is(there?.at, member);
        t.is(there.dst, network.machine(member).ip);
        if (protocol !== 'icmp') t.is(there.dstPort, 8080);
        const [back] = answer(network, packet, there);
        t.is(back?.at, 'client');
        t.is(back.src, VIP);
        t.is(back.dst, network.machine('client').ip);
        if (protocol !== 'icmp') t.deepEqual([back.srcPort, back.dstPort], [80, 1000]);
      }
      checkSound(t, network);
    });
  }

  for (const peer of ['server', 'remote']) {
    test(`SNAT towards ${peer} over ${protocol}, and back`, (t) => {
      const network = hosts({ inbound: [REVERSE_SNAT], outbound: [snat()] });
      const packet: Packet = { protocol, to: network.machine(peer).ip, srcPort: 1000, dstPort: 80 };
      for (let i = 0; i < 3; i++) {
        const [there] = send(network, 'client', packet);
        t.is(there?.at, peer);
        t.is(there.src, OUTER);
        t.true(there.srcPort >= 0x8000 && there.srcPort < 0x8400);
        const [back] = answer(network, packet, there);
        t.is(back?.at, 'client');
        t.is(back.src, network.machine(peer).ip);
        t.is(back.dst, network.machine('client').ip);
        if (protocol !== 'icmp') t.deepEqual([back.srcPort, back.dstPort], [80, 1000]);
      }
      const unasked = send(network, peer, { ...packet, to: OUTER, dstPort: 0x8001 });
      t.false(unasked.some(({ at }) => at === 'client'));
      checkSound(t, network);
    });

    test(`DNAT and SNAT on one way to ${peer} over ${protocol}`, (t) => {
      const network = hosts({ inbound: [dnat(peer), REVERSE_SNAT], outbound: [snat()] });
      const packet: Packet = { protocol, to: VIP, srcPort: 1000, dstPort: 80 };
      const [there] = send(network, 'client', packet);
      t.is(there?.at, peer);
      t.deepEqual([there.src, there.dst], [OUTER, network.machine(peer).ip]);
      const [back] = answer(network, packet, there);
      t.is(back?.at, 'client');
      t.deepEqual([back.src, back.dst], [VIP, network.machine('client').ip]);
      checkSound(t, network);
    });
  }
}

test('a ping keeps its identifier behind DNAT to a port, so that a machine can have several', (t) => {
  const network = hosts({ inbound: [dnat('remote')] });
  for (const srcPort of [1000, 1001]) {
    const packet: Packet = { protocol: 'icmp', to: VIP, srcPort, dstPort: 0 };
    const [there] = send(network, 'client', packet);
    t.deepEqual([there?.at, there?.srcPort], ['remote', srcPort]);
    const [back] = answer(network, packet, there);
    t.deepEqual([back?.at, back?.src, back?.srcPort], ['client', VIP, srcPort]);
  }
  checkSound(t, network);
});

test('several targets share the connections, and each connection keeps its own', (t) => {
  const network = hosts({ inbound: [dnat('server', 'remote')] });
  const members = new Map<number, string>();
  const converse = (srcPort: number) => {
    const packet: Packet = { protocol: 'tcp', to: VIP, srcPort, dstPort: 80 };
    const [there] = send(network, 'client', packet);
    t.is(members.get(srcPort) ?? there?.at, there?.at);
    members.set(srcPort, there.at);
    const [back] = answer(network, packet, there);
    t.deepEqual([back?.at, back?.src, back?.dstPort], ['client', VIP, srcPort]);
  };
  for (let port = 1; port < 100; port++) converse(port);
  for (const name of ['server', 'remote']) t.true([...members.values()].filter((at) => at === name).length > 20);
  for (let port = 1; port < 100; port++) converse(port);
});

test('connections that are translated cost no upcall after the first', (t) => {
  const network = hosts({ inbound: [dnat('remote'), REVERSE_SNAT], outbound: [snat()] });
  const converse = (srcPort: number) => {
    const packet: Packet = { protocol: 'tcp', to: VIP, srcPort, dstPort: 80 };
    const [there] = send(network, 'client', packet);
    t.is(answer(network, packet, there)[0]?.at, 'client');
  };
  // Replies come to ports of a block, and each block is found by itself.
  for (let port = 1; port < 400; port++) converse(port);
  const { upcalls } = network;
  for (let port = 400; port < 800; port++) converse(port);
  t.true(network.upcalls - upcalls <= 16, `${network.upcalls - upcalls} upcalls`);
  checkSound(t, network);
});

test('a stateful firewall in front of translations', (t) => {
  const onlyAnswers: RuleSpec[] = [{ type: 'accept', if: { matchReturnFlow: true } }, { type: 'drop' }];
  const network = hosts(
    { inbound: [dnat('remote'), REVERSE_SNAT], outbound: [snat()] },
    { client: { outbound: onlyAnswers }, remote: { inbound: onlyAnswers } },
  );
  const packet: Packet = { protocol: 'tcp', to: VIP, srcPort: 1000, dstPort: 80 };
  const [there] = send(network, 'client', packet);
  t.is(there?.at, 'remote');
  const [back] = answer(network, packet, there);
  t.deepEqual([back?.at, back?.src], ['client', VIP]);
  t.deepEqual(send(network, 'remote', { ...packet, to: network.machine('client').ip }), []);
  checkSound(t, network);
});

test('replies to translated connections pass by a reverse-dnat rule, and others do not', (t) => {
  const network = hosts({
    inbound: [
      dnat('server', 'remote'),
      { type: 'reverse-dnat', action: 'accept' },
      { type: 'drop', if: { source: '10.0.2.0/24' } },
    ],
  });
  for (let srcPort = 1; srcPort < 10; srcPort++) {
    const packet: Packet = { protocol: 'tcp', to: VIP, srcPort, dstPort: 80 };
    const [there] = send(network, 'client', packet);
    t.is(answer(network, packet, there)[0]?.at, 'client');
    const direct = { ...packet, to: network.machine(there.at).ip };
    const [plain] = send(network, 'client', direct);
    t.is(plain?.at, there.at);
    t.deepEqual(answer(network, direct, plain), []);
  }
  checkSound(t, network);
});

for (const name of ['server', 'remote']) {
  test(`an answer of ${name} keeps its source at another device that translates whatever it sees`, (t) => {
    const network = new Hosts({
      machines: MACHINES,
      router: { inbound: [REVERSE_SNAT], outbound: [snat()] },
      balancedDevice: 'bridges',
      ports: { client: { outbound: [snat({})] } },
    });
    const packet: Packet = { protocol: 'udp', to: network.machine(name).ip, srcPort: 1000, dstPort: 80 };
    const [there] = send(network, 'client', packet);
    t.deepEqual([there?.at, there?.src], [name, OUTER]);
    const [back] = answer(network, packet, there);
    t.deepEqual([back?.at, back?.src, back?.srcPort], ['client', network.machine(name).ip, 80]);
    checkSound(t, network);
  });
}

test('static NAT both ways', (t) => {
  const floating = { start: VIP_TEXT, end: VIP_TEXT };
  const fixed = { start: '10.0.1.2', end: '10.0.1.2' };
  const network = hosts({
    inbound: [{ type: 'dnat', targets: [fixed], action: 'accept', if: { destination: `${VIP_TEXT}/32` } }],
    outbound: [{ type: 'snat', targets: [floating], action: 'accept', if: { source: '10.0.1.2/32' } }],
  });
  for (const peer of ['server', 'remote']) {
    const packet: Packet = { protocol: 'tcp', to: VIP, srcPort: 1000, dstPort: 80 };
    const [there] = send(network, peer, packet);
    t.deepEqual([there?.at, there?.dst], ['client', network.machine('client').ip]);
    const [back] = answer(network, packet, there);
    t.deepEqual([back?.at, back?.src], [peer, VIP]);
  }
  checkSound(t, network);
});

test('a rule behind DNAT knows that the destination was rewritten', (t) => {
  const network = hosts({
    inbound: [
      { ...dnat('server'), action: 'continue' } as RuleSpec,
      { type: 'drop', if: { matchDestinationRewritten: true } },
    ],
  });
  const to = network.machine('server').ip;
  t.deepEqual(send(network, 'client', { protocol: 'tcp', to: VIP, srcPort: 1, dstPort: 80 }), []);
  t.is(send(network, 'client', { protocol: 'tcp', to, srcPort: 1, dstPort: 80 })[0]?.at, 'server');
});

for (const protocol of PROTOCOLS) {
  for (const peer of ['server', 'remote'] as const) {
    test(`an ICMP error of ${peer} about a translated packet over ${protocol} speaks of the packet that was sent`, (t) => {
      const network = hosts({ inbound: [dnat(peer)] });
      const client = network.machine('client');
      const packet: Packet = { protocol, to: VIP, srcPort: 1000, dstPort: protocol === 'icmp' ? 1000 : 80 };
      const [there] = send(network, 'client', packet);
      const [error] = refuse(network, there);
      t.deepEqual([error?.at, error?.src, error?.dst], ['client', VIP, client.ip]);
      t.deepEqual(quoted(error), { src: client.ip, dst: VIP, srcPort: 1000, dstPort: packet.dstPort });
      checkSound(t, network);
    });

    test(`an ICMP error of ${peer} about a packet over ${protocol} with another source comes to who sent it`, (t) => {
      const network = hosts({ inbound: [REVERSE_SNAT], outbound: [snat()] });
      const client = network.machine('client');
      const to = network.machine(peer).ip;
      const packet: Packet = { protocol, to, srcPort: 1000, dstPort: protocol === 'icmp' ? 1000 : 80 };
      const [there] = send(network, 'client', packet);
      t.is(there?.src, OUTER);
      const [error] = refuse(network, there);
      t.deepEqual([error?.at, error?.src, error?.dst], ['client', to, client.ip]);
      t.deepEqual(quoted(error), { src: client.ip, dst: to, srcPort: 1000, dstPort: packet.dstPort });
      checkSound(t, network);
    });
  }

  test(`an ICMP error of the client over ${protocol} comes to the member, about what that sent`, (t) => {
    const network = hosts({ inbound: [dnat('remote')] });
    const client = network.machine('client');
    const packet: Packet = { protocol, to: VIP, srcPort: 1000, dstPort: 80 };
    const [there] = send(network, 'client', packet);
    const [back] = answer(network, packet, there);
    const [error] = refuse(network, back);
    t.deepEqual([error?.at, error?.src], ['remote', client.ip]);
    t.deepEqual([quoted(error).src, quoted(error).dst], [network.machine('remote').ip, client.ip]);
    checkSound(t, network);
  });
}

test('a router that drops a translated packet quotes it as it was sent', (t) => {
  const network = hosts({ inbound: [dnat('remote')] });
  const client = network.machine('client');
  const [error] = send(network, 'client', { protocol: 'tcp', to: VIP, srcPort: 1000, dstPort: 80, ttl: 1 });
  t.deepEqual([error?.at, error?.dst], ['client', client.ip]);
  t.deepEqual(quoted(error), { src: client.ip, dst: VIP, srcPort: 1000, dstPort: 80 });
});
