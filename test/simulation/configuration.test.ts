import test from 'ava';
import fc from 'fast-check';
import { Word } from '../../src/flow/key.js';
import { linkLocalAddress, MAC_BROADCAST, parseIpv4, parseIpv6 } from '../../src/packet/address.js';
import { DhcpMessageType, DhcpOption, dhcpOptionU32, parseDhcp } from '../../src/packet/dhcp.js';
import { DhcpV6MessageType, DhcpV6Option, linkLayerDuid } from '../../src/packet/dhcpv6.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildRouterSolicitation, parseRouterAdvertisement } from '../../src/packet/router-advertisement.js';
import { buildUdp } from '../../src/packet/udp.js';
import { type Answer, CONFIGURATION_SERVER_MAC } from '../../src/simulation/answer.js';
import { answerConfigurationRequest } from '../../src/simulation/configuration.js';
import type { Effect } from '../../src/simulation/decision.js';
import { type BridgePortFact, type DhcpHostFact, type DhcpV6HostFact, servedBy } from '../../src/simulation/fact.js';
import { dhcpRequest, dhcpV6Frame } from '../packet/dhcp-frames.js';
import { subnet, subnetV6 } from './configuration.js';
import { joinToBridge, TestRouter } from './routers.js';
import { fact, keyOf, TestBridge, tcpFrame, World } from './world.js';

const MAC = 0x0200_0000_0001;
const OTHER = 0x0200_0000_0002;
const ALL = { dhcp: true, dhcpV6: true, advertisements: true };
const advertisement = {
  routerLifetime: 1800,
  preferredLifetime: 0xffff_ffff,
  validLifetime: 0xffff_ffff,
  onLink: true,
};

const discover = dhcpRequest(DhcpMessageType.DISCOVER, MAC, 1);
const solicit = dhcpV6Frame(MAC, {
  type: DhcpV6MessageType.SOLICIT,
  transaction: 1,
  options: [{ code: DhcpV6Option.CLIENT_ID, value: linkLayerDuid(MAC) }],
});
const routerSolicitation = buildRouterSolicitation(linkLocalAddress(MAC), MAC);

/** A bridge with ports 1 and 2. */
function set(served: typeof ALL | null | undefined) {
  const world = new World();
  const bridge = new TestBridge('b');
  bridge.served.value = served;
  const port = world.localPort(bridge, 1, MAC);
  world.localPort(bridge, 2, OTHER);
  return { world, bridge, port };
}

function requestOf(world: World, frame: Uint8Array): string | undefined {
  const { effects, install, actions } = world.done(keyOf(frame, 1));
  const effect = effects.find(({ type }) => type === 'configure');
  if (effect?.type !== 'configure') return undefined;
  if (install || actions.length > 0 || effects.length > 1) throw new Error('it went on besides');
  return effect.request;
}

test('a request that the bridge answers is taken, and nobody else gets it', (t) => {
  const { world } = set(ALL);
  t.is(requestOf(world, discover), 'dhcp');
  t.is(requestOf(world, solicit), 'dhcpv6');
  t.is(requestOf(world, routerSolicitation), 'router-solicitation');
  const renewal = discover.slice();
  renewal.set([0x02, 0xa8, 0x9c, 0xde, 0x39, 0x27]);
  t.is(requestOf(world, renewal), 'dhcp');
});

test('a request that the bridge does not answer goes on like any other packet', (t) => {
  for (const name of ['dhcp', 'dhcpV6', 'advertisements'] as const) {
    const { world } = set({ ...ALL, [name]: false });
    const frame = { dhcp: discover, dhcpV6: solicit, advertisements: routerSolicitation }[name];
    t.deepEqual(world.done(keyOf(frame, 1)).actions, [{ type: 'output', port: 2 }]);
  }
});

test('what looks like a request and is none goes on', (t) => {
  const { world, port } = set(ALL);
  const changed = (frame: Uint8Array, ...changes: [at: number, value: number][]) => {
    const copy = frame.slice();
    for (const [at, value] of changes) copy[at] = value;
    return copy;
  };
  for (const frame of [
    changed(discover, [37, 69]),
    changed(discover, [35, 67]),
    changed(discover, [20, 0x20]),
    changed(solicit, [57, 0]),
    changed(routerSolicitation, [21, 64]),
    changed(routerSolicitation, [55, 1]),
  ]) {
    t.is(requestOf(world, frame), undefined);
  }
  const tagged = keyOf(discover, 1);
  tagged.vlanTci = 0x1001;
  tagged.vlanTpid = 0x8100;
  t.true(world.done(tagged).effects.every(({ type }) => type !== 'configure'));
  port.value = { ...port.value!, adminStateUp: false };
  t.is(world.done(keyOf(discover, 1)).drop, 'port-down');
});

test('a bridge without subnets reads no more of a packet than one that knows of none', (t) => {
  const { mask } = set(null).world.done(keyOf(discover, 1));
  t.is(mask.words[Word.NW_PROTO], 0);
  t.is(mask.words[Word.TP_DST], 0);
});

test('between two machines a bridge with subnets reads no more than one without', (t) => {
  const key = keyOf(tcpFrame({ srcMac: MAC, dstMac: OTHER }), 1);
  t.true(set(ALL).world.done(key).mask.equals(set(null).world.done(key).mask));
});

test('broadcasts to other ports share a few flows', (t) => {
  const { world } = set(ALL);
  const flows = new Set<string>();
  for (let port = 0; port < 0x1_0000; port += 7) {
    if (port === 67) continue;
    const datagram = buildIpv4({ src: 1, dst: 2, protocol: IpProtocol.UDP }, buildUdp(68, port, new Uint8Array()));
    const key = keyOf(buildEthernet({ dst: MAC_BROADCAST, src: MAC, type: EtherType.IPV4 }, datagram), 1);
    const { mask } = world.done(key);
    flows.add(`${mask.words} ${key.masked(mask).words}`);
  }
  t.true(flows.size <= 16);
});

test('until it is known what a bridge answers, requests wait and all else goes on', (t) => {
  const { world, bridge } = set(undefined);
  t.deepEqual(world.run(keyOf(discover, 1)), { type: 'wait', missing: [bridge.served] });
  const decision = world.done(keyOf(tcpFrame({ srcMac: MAC, dstMac: OTHER }), 1));
  t.deepEqual(decision.actions, [{ type: 'output', port: 2 }]);
  t.true(decision.tags.includes(bridge.served));
});

test('soundness: until it is known what a bridge answers, no flow that is made takes a request', (t) => {
  // Bytes of the headers of Ethernet, IP and UDP or ICMPv6, and what they are changed by.
  const changes = fc.array(fc.tuple(fc.nat(57), fc.integer({ min: 1, max: 255 })), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(fc.constantFrom(discover, solicit, routerSolicitation), changes, (frame, changes) => {
      const changed = frame.slice();
      for (const [at, bits] of changes) changed[at] ^= bits;
      const decision = set(undefined).world.run(keyOf(changed, 1));
      if (decision.type === 'done') t.false(keyOf(frame, 1).equalsMasked(keyOf(changed, 1), decision.mask));
    }),
    { numRuns: 2000 },
  );
});

test('what a bridge answers follows from its enabled subnets', (t) => {
  t.is(servedBy([], []), null);
  t.is(servedBy([subnet({ enabled: false })], [subnetV6({ enabled: false, advertisement })]), null);
  t.deepEqual(servedBy([subnet()], []), { dhcp: true, dhcpV6: false, advertisements: false });
  t.deepEqual(servedBy([], [subnetV6({ addressing: 'slaac', advertisement })]), {
    dhcp: false,
    dhcpV6: false,
    advertisements: true,
  });
  t.deepEqual(servedBy([], [subnetV6({ addressing: 'stateless' })]), {
    dhcp: false,
    dhcpV6: true,
    advertisements: false,
  });
});

test('a machine that renews its address from the gateway is answered by the DHCP server', (t) => {
  const GATEWAY_MAC = 0x0200_0000_00ff;
  const gateway = parseIpv4('10.0.0.1')!;
  const { world, bridge } = set(ALL);
  const router = new TestRouter('r');
  joinToBridge(router, bridge, GATEWAY_MAC, gateway);
  router.add('own', '10.0.0.1/32', { type: 'local' });
  const key = (srcPort: number) =>
    keyOf(
      buildEthernet(
        { dst: GATEWAY_MAC, src: MAC, type: EtherType.IPV4 },
        buildIpv4({ src: parseIpv4('10.0.0.5')!, dst: gateway, protocol: IpProtocol.UDP }, buildUdp(srcPort, 67)),
      ),
      1,
    );
  const decision = world.done(key(68));
  t.deepEqual(
    decision.effects.map((effect) => effect.type === 'configure' && effect.request),
    ['dhcp'],
  );
  t.false(decision.install);
  t.is(world.done(key(69)).drop, 'for-router');
  bridge.served.value = { ...ALL, dhcp: false };
  t.is(world.done(key(68)).drop, 'for-router');
  bridge.served.value = undefined;
  t.deepEqual(world.run(key(68)), { type: 'wait', missing: [bridge.served] });
});

function ask(bridge: TestBridge, frame: Uint8Array, request: 'dhcp' | 'dhcpv6' | 'router-solicitation', port?: object) {
  const from = { type: 'bridge', id: 'p', mac: undefined, ...port } as unknown as BridgePortFact;
  const effect: Extract<Effect, { type: 'configure' }> = { type: 'configure', bridge, port: from, request };
  return answerConfigurationRequest(effect, frame, 1450);
}

function offered(answer: Answer) {
  if (answer.type !== 'frame') throw new Error(JSON.stringify(answer));
  return parseDhcp(answer.frame, 42, answer.frame.length)!;
}

test('a machine has what the first enabled subnet that knows it says', (t) => {
  const bridge = new TestBridge('b');
  const [disabled, unaware, first, second] = [subnet({ enabled: false }), subnet(), subnet(), subnet()];
  bridge.dhcpSubnets.value = [disabled, unaware, first, second];
  const known = (address: string) =>
    fact<DhcpHostFact>('host', { address: parseIpv4(address)!, name: undefined, options: new Map() });
  disabled.hosts.set(MAC, known('10.0.0.9'));
  first.hosts.set(MAC, known('10.0.0.5'));
  second.hosts.set(MAC, known('10.0.0.6'));
  const answer = ask(bridge, discover, 'dhcp');
  t.is(offered(answer).yourAddress, parseIpv4('10.0.0.5')!);
  t.is(answer.type === 'frame' && answer.renewal?.facts.length, 3);
  t.is(answer.type === 'frame' && answer.renewal?.seconds, 86_400);
  t.deepEqual(ask(bridge, dhcpRequest(DhcpMessageType.DISCOVER, OTHER, 1), 'dhcp'), {
    type: 'none',
    reason: 'unknown-machine',
  });
});

test('a machine that no subnet knows has the address of its port, but only with the MAC address of that', (t) => {
  const bridge = new TestBridge('b');
  bridge.dhcpSubnets.value = [subnet({ address: parseIpv4('10.9.0.0')! }), subnet()];
  const addresses = [Uint32Array.from(parseIpv6('fd00::5')!), Uint32Array.of(parseIpv4('10.0.0.5')!)];
  const message = offered(ask(bridge, discover, 'dhcp', { mac: MAC, addresses }));
  t.is(message.yourAddress, parseIpv4('10.0.0.5')!);
  t.is(dhcpOptionU32(message, DhcpOption.ROUTER), parseIpv4('10.0.0.1')!);
  t.is(ask(bridge, discover, 'dhcp', { mac: OTHER, addresses }).type, 'none');
});

test('the answer waits for the subnets and then for what they know of the machine', (t) => {
  const bridge = new TestBridge('b');
  bridge.dhcpSubnets.value = undefined;
  bridge.dhcpV6Subnets.value = undefined;
  t.deepEqual(ask(bridge, discover, 'dhcp'), { type: 'wait', missing: [bridge.dhcpSubnets] });
  t.deepEqual(ask(bridge, solicit, 'dhcpv6'), { type: 'wait', missing: [bridge.dhcpV6Subnets] });
  t.deepEqual(ask(bridge, routerSolicitation, 'router-solicitation'), {
    type: 'wait',
    missing: [bridge.dhcpV6Subnets],
  });
  const unread = subnet();
  const host = fact<DhcpHostFact>('host', undefined);
  unread.hosts.set(MAC, host);
  bridge.dhcpSubnets.value = [unread];
  t.deepEqual(ask(bridge, discover, 'dhcp'), { type: 'wait', missing: [host] });
  const unreadV6 = subnetV6();
  const hostV6 = fact<DhcpV6HostFact>('host', undefined);
  unreadV6.hosts.set(Buffer.from(linkLayerDuid(MAC)).toString('hex'), hostV6);
  bridge.dhcpV6Subnets.value = [unreadV6];
  t.deepEqual(ask(bridge, solicit, 'dhcpv6'), { type: 'wait', missing: [hostV6] });
});

function advertised(answer: Answer) {
  if (answer.type !== 'frame') throw new Error(JSON.stringify(answer));
  return parseRouterAdvertisement(answer.frame, 54, answer.frame.length)!;
}

test('the gateway is advertised once the bridge knows its MAC address', (t) => {
  const bridge = new TestBridge('b');
  const gateway = parseIpv6('fd00::1')!;
  bridge.dhcpV6Subnets.value = [
    subnetV6({ addressing: 'slaac' }),
    subnetV6({ addressing: 'slaac', advertisement, gateway }),
    subnetV6({ enabled: false, advertisement }),
  ];
  const neighbor = bridge.ipv6(Uint32Array.from(gateway), 0);
  neighbor.value = undefined;
  t.deepEqual(ask(bridge, routerSolicitation, 'router-solicitation'), { type: 'wait', missing: [neighbor] });
  neighbor.value = null;
  const alone = advertised(ask(bridge, routerSolicitation, 'router-solicitation'));
  t.deepEqual([alone.mac, alone.lifetime, alone.prefixes.length], [CONFIGURATION_SERVER_MAC, 0, 1]);
  neighbor.value = { mac: OTHER };
  const routed = advertised(ask(bridge, routerSolicitation, 'router-solicitation'));
  t.deepEqual([routed.mac, routed.lifetime, routed.mtu], [OTHER, 1800, 1450]);
});

test('a router solicitation that is cut short is not answered', (t) => {
  const bridge = new TestBridge('b');
  bridge.dhcpV6Subnets.value = [subnetV6({ advertisement })];
  const none = { type: 'none', reason: 'malformed' } as const;
  t.deepEqual(ask(bridge, routerSolicitation.subarray(0, 58), 'router-solicitation'), none);
  bridge.dhcpV6Subnets.value = [];
  t.deepEqual(ask(bridge, routerSolicitation, 'router-solicitation'), { type: 'none', reason: 'not-advertised' });
});
