import test from 'ava';
import fc from 'fast-check';
import { FLOW_KEY_WORDS, FlowKey, Frag, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { formatMac } from '../../src/packet/address.js';
import { buildArp } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmp, icmpMessage } from '../../src/packet/icmp.js';
import { cidrContains, formatCidr, formatIp, type Ip, parseCidr } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildTcp } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import { compileCondition, matches, type Side, type Surroundings } from '../../src/simulation/condition.js';
import { type Condition, conditionSchema } from '../../src/topology/chains.js';
import { keyOf } from './world.js';

const IDS = Array.from({ length: 6 }, (_, i) => `00000000-0000-4000-8000-00000000000${i}`);
const [A, B] = IDS;
const SRC_MAC = 0x0200_0000_0001;
const DST_MAC = 0x0200_0000_0102;

/** A packet in words of headers; null: it has no such field. */
interface Packet {
  readonly srcMac: number;
  readonly dstMac: number;
  readonly vlan: number | null;
  readonly etherType: number;
  readonly protocol: number | null;
  readonly tos: number | null;
  readonly fragment: 'none' | 'first' | 'later';
  readonly source: Ip | null;
  readonly destination: Ip | null;
  readonly ports: readonly [number, number] | null;
}

function frameOf(packet: Packet): Uint8Array {
  const { dstMac, srcMac, vlan, etherType } = packet;
  const vlans = vlan === null ? [] : [{ id: vlan }];
  return buildEthernet({ dst: dstMac, src: srcMac, type: etherType, vlans }, payloadOf(packet));
}

function payloadOf({ etherType, protocol, tos, fragment, source, destination, ports, srcMac }: Packet): Uint8Array {
  if (source === null || destination === null || protocol === null) return new Uint8Array(46).fill(0x55);
  if (etherType === EtherType.ARP) {
    const [senderIp, targetIp] = [source.words[0], destination.words[0]];
    return buildArp({ op: protocol, senderMac: srcMac, senderIp, targetMac: 0, targetIp });
  }
  const transport = fragment === 'later' ? new Uint8Array(32).fill(0x77) : transportOf(protocol, ports);
  const part =
    fragment === 'none' ? undefined : { offset: fragment === 'first' ? 0 : 64, more: fragment === 'first', id: 7 };
  if (etherType === EtherType.IPV4) {
    const [src, dst] = [source.words[0], destination.words[0]];
    return buildIpv4({ src, dst, protocol, tos: tos ?? 0, fragment: part }, transport);
  }
  const [src, dst] = [source.words, destination.words];
  return buildIpv6({ src, dst, protocol, trafficClass: tos ?? 0, fragment: part }, transport);
}

function transportOf(protocol: number, ports: readonly [number, number] | null): Uint8Array {
  const rest = new Uint8Array(24).fill(0x66);
  if (ports === null) return rest;
  const [src, dst] = ports;
  if (protocol === IpProtocol.TCP) return buildTcp({ srcPort: src, dstPort: dst });
  if (protocol === IpProtocol.UDP) return buildUdp(src, dst);
  if (protocol === IpProtocol.ICMP) return buildIcmp(src, dst, 0, rest);
  if (protocol === IpProtocol.ICMPV6) return icmpMessage(src, dst, 0, rest);
  return Uint8Array.from([src >> 8, src & 255, dst >> 8, dst & 255, ...rest]);
}

/** What a test knows of the surroundings. `unknown`: what the simulation does not know yet. */
interface Scene {
  readonly inPortId?: string;
  readonly outPortId?: string;
  readonly entryGroups: readonly string[];
  readonly inGroups: readonly string[];
  readonly outGroups: readonly string[];
  readonly traversed: readonly string[];
  readonly rewritten: boolean;
  readonly connection: 'forward' | 'return';
  /** Addresses by group, as text. */
  readonly members: Readonly<Record<string, readonly string[]>>;
  readonly icmpData: Readonly<Record<Side, Ip>> | null;
  readonly unknown: readonly ('connection' | 'members' | 'icmpData')[];
}

const EMPTY: Scene = {
  entryGroups: [],
  inGroups: [],
  outGroups: [],
  traversed: [],
  rewritten: false,
  connection: 'forward',
  members: {},
  icmpData: null,
  unknown: [],
};

function surroundingsOf(scene: Scene): Surroundings {
  const isUnknown = (what: Scene['unknown'][number]) => scene.unknown.includes(what);
  return {
    inPortId: scene.inPortId,
    outPortId: scene.outPortId,
    entryPortGroupIds: new Set(scene.entryGroups),
    inPortGroupIds: new Set(scene.inGroups),
    outPortGroupIds: new Set(scene.outGroups),
    traversedDeviceIds: new Set(scene.traversed),
    isDestinationRewritten: scene.rewritten,
    connection: () => (isUnknown('connection') ? undefined : scene.connection),
    isMember(groupId, { words, ethType }, side) {
      if (isUnknown('members')) return undefined;
      const at = side === 'source' ? Word.NW_SRC : Word.NW_DST;
      const length = ethType === EtherType.IPV6 ? 4 : 1;
      const ip: Ip = { family: length === 4 ? 6 : 4, words: [...words.subarray(at, at + length)] };
      return scene.members[groupId]?.includes(formatIp(ip)) ?? false;
    },
    icmpData(side) {
      if (isUnknown('icmpData')) return undefined;
      return scene.icmpData === null ? null : Uint32Array.from(scene.icmpData[side].words);
    },
  };
}

/** The meaning of a condition, field by field, all of them. */
function naive(c: Condition, p: Packet, s: Scene): boolean {
  const portsCompared = c.sourcePorts !== undefined || c.destinationPorts !== undefined;
  const policy = c.fragmentPolicy ?? (portsCompared ? 'header' : 'any');
  if (policy === 'header' && p.fragment === 'later') return false;
  if (policy === 'nonheader' && p.fragment !== 'later') return false;
  if (policy === 'unfragmented' && p.fragment !== 'none') return false;

  const maskOf = (text = 'ff:ff:ff:ff:ff:ff') => BigInt(`0x${text.replaceAll(':', '')}`);
  const macs = (text: string, mask: string | undefined, mac: number) =>
    (maskOf(text) & maskOf(mask)) === (BigInt(mac) & maskOf(mask));
  const within = (range: string, ip: Ip | null) => ip !== null && cidrContains(parseCidr(range)!, ip);
  const inRange = (range: { start: number; end: number }, port: number | undefined) =>
    port === undefined || (range.start <= port && port <= range.end);
  const isMember = (group: string, ip: Ip | null) => ip !== null && (s.members[group]?.includes(formatIp(ip)) ?? false);
  const isError =
    p.ports !== null &&
    ((p.protocol === IpProtocol.ICMP && [3, 4, 5, 11, 12].includes(p.ports[0])) ||
      (p.protocol === IpProtocol.ICMPV6 && p.ports[0] < 128));
  const ofError = (range: string, side: Side) =>
    isError && s.icmpData !== null && within(range, s.icmpData[side]) && parseCidr(range)!.family === p.source?.family;

  const fields: [keyof Condition, (value: never) => boolean][] = [
    ['matchForwardFlow', (on: boolean) => !on || s.connection === 'forward'],
    ['matchReturnFlow', (on: boolean) => !on || s.connection === 'return'],
    ['inPortIds', (ids: string[]) => s.inPortId !== undefined && ids.includes(s.inPortId)],
    ['outPortIds', (ids: string[]) => s.outPortId !== undefined && ids.includes(s.outPortId)],
    ['portGroupId', (id: string) => s.entryGroups.includes(id)],
    ['inPortGroupId', (id: string) => s.inGroups.includes(id)],
    ['outPortGroupId', (id: string) => s.outGroups.includes(id)],
    ['sourceAddressGroupId', (id: string) => isMember(id, p.source)],
    ['destinationAddressGroupId', (id: string) => isMember(id, p.destination)],
    ['traversedBridgeIds', (ids: string[]) => ids.some((id) => s.traversed.includes(id))],
    ['traversedRouterIds', (ids: string[]) => ids.some((id) => s.traversed.includes(id))],
    ['noVlan', (on: boolean) => !on || p.vlan === null],
    ['vlanId', (id: number) => p.vlan === id],
    ['etherType', (type: number) => p.etherType === type],
    ['sourceMac', (mac: string) => macs(mac, c.sourceMacMask, p.srcMac)],
    ['destinationMac', (mac: string) => macs(mac, c.destinationMacMask, p.dstMac)],
    ['tos', (tos: number) => p.tos === tos],
    ['protocol', (protocol: number) => p.protocol === protocol],
    ['source', (range: string) => within(range, p.source)],
    ['destination', (range: string) => within(range, p.destination)],
    ['sourcePorts', (range: { start: number; end: number }) => inRange(range, p.ports?.[0])],
    ['destinationPorts', (range: { start: number; end: number }) => inRange(range, p.ports?.[1])],
    ['icmpDataSource', (range: string) => ofError(range, 'source')],
    ['icmpDataDestination', (range: string) => ofError(range, 'destination')],
    ['matchDestinationRewritten', (on: boolean) => !on || s.rewritten],
  ];
  const all = fields
    .filter(([field]) => c[field] !== undefined)
    .every(([field, test]) => test(c[field] as never) !== (c.inverted as string[] | undefined)?.includes(field));
  return all !== (c.conjunctionInverted ?? false);
}

const ipv4 = (a: number): Ip => ({ family: 4, words: [a] });
const TCP: Packet = {
  srcMac: SRC_MAC,
  dstMac: DST_MAC,
  vlan: null,
  etherType: EtherType.IPV4,
  protocol: IpProtocol.TCP,
  tos: 0x10,
  fragment: 'none',
  source: ipv4(0x0a01_0001),
  destination: ipv4(0x0a02_0001),
  ports: [1000, 80],
};
const TCP6: Packet = {
  ...TCP,
  etherType: EtherType.IPV6,
  source: { family: 6, words: [0xfd00_0000, 0, 0, 1] },
  destination: { family: 6, words: [0xfd00_0001, 0, 0, 1] },
};
const SCTP: Packet = { ...TCP, protocol: IpProtocol.SCTP };
const ECHO: Packet = { ...TCP, protocol: IpProtocol.ICMP, ports: [8, 0] };
const UNREACHABLE: Packet = { ...TCP, protocol: IpProtocol.ICMP, ports: [3, 1] };
const ECHO6: Packet = { ...TCP6, protocol: IpProtocol.ICMPV6, ports: [128, 0] };
const TOO_BIG6: Packet = { ...TCP6, protocol: IpProtocol.ICMPV6, ports: [2, 0] };
const GRE: Packet = { ...TCP, protocol: IpProtocol.GRE, ports: null };
const ARP: Packet = { ...TCP, etherType: EtherType.ARP, protocol: 2, tos: null, ports: null };
const OTHER: Packet = { ...ARP, etherType: 0x88cc, protocol: null, source: null, destination: null };
const TAGGED: Packet = { ...TCP, vlan: 7 };
const FIRST: Packet = { ...TCP, fragment: 'first' };
const LATER: Packet = { ...TCP, fragment: 'later', ports: null };
const LATER6: Packet = { ...TCP6, fragment: 'later', ports: null };

function run(condition: Condition, packet: Packet, scene: Scene, seen = new FlowMask()): boolean | undefined {
  return matches(compileCondition(condition), keyOf(frameOf(packet), 1), seen, surroundingsOf(scene));
}

/** A field's value with packets that match it and packets that do not; all the other way round when it is inverted. */
interface Row {
  readonly condition: Condition;
  readonly match: readonly Packet[];
  readonly mismatch: readonly Packet[];
  readonly scene?: Partial<Scene>;
}

const DATA = { source: ipv4(0x0a02_0001), destination: ipv4(0x0a01_0001) };
const DATA6 = { source: TCP6.destination!, destination: TCP6.source! };
const everywhere = [TCP, TCP6, ARP, OTHER, LATER];

const ROWS: Row[] = [
  { condition: { inPortIds: [A, B] }, match: everywhere, mismatch: [], scene: { inPortId: B } },
  { condition: { inPortIds: [A, B] }, match: [], mismatch: everywhere, scene: { inPortId: IDS[2] } },
  { condition: { inPortIds: [] }, match: [], mismatch: everywhere, scene: { inPortId: A } },
  { condition: { outPortIds: [A] }, match: everywhere, mismatch: [], scene: { outPortId: A, inPortId: B } },
  { condition: { outPortIds: [A] }, match: [], mismatch: everywhere, scene: { inPortId: A } },
  { condition: { outPortIds: [] }, match: [], mismatch: everywhere, scene: { outPortId: A } },
  { condition: { portGroupId: A }, match: everywhere, mismatch: [], scene: { entryGroups: [B, A] } },
  { condition: { portGroupId: A }, match: [], mismatch: everywhere, scene: { inGroups: [A], outGroups: [A] } },
  { condition: { inPortGroupId: A }, match: everywhere, mismatch: [], scene: { inGroups: [B, A] } },
  { condition: { inPortGroupId: A }, match: [], mismatch: everywhere, scene: { entryGroups: [A], outGroups: [A] } },
  { condition: { outPortGroupId: A }, match: everywhere, mismatch: [], scene: { outGroups: [B, A] } },
  { condition: { outPortGroupId: A }, match: [], mismatch: everywhere, scene: { entryGroups: [A], inGroups: [A] } },
  { condition: { traversedBridgeIds: [A, B] }, match: everywhere, mismatch: [], scene: { traversed: [B] } },
  { condition: { traversedBridgeIds: [A] }, match: [], mismatch: everywhere, scene: { traversed: [B] } },
  { condition: { traversedBridgeIds: [] }, match: [], mismatch: everywhere, scene: { traversed: [B] } },
  { condition: { traversedRouterIds: [A, B] }, match: everywhere, mismatch: [], scene: { traversed: [B] } },
  { condition: { traversedRouterIds: [A] }, match: [], mismatch: everywhere, scene: { traversed: [B] } },
  { condition: { traversedRouterIds: [] }, match: [], mismatch: everywhere, scene: { traversed: [B] } },
  { condition: { etherType: 0x0800 }, match: [TCP, TAGGED, LATER], mismatch: [TCP6, ARP, OTHER] },
  { condition: { etherType: 0x0806 }, match: [ARP], mismatch: [TCP, TCP6, OTHER] },
  {
    condition: { sourceMac: '02:00:00:00:00:01' },
    match: everywhere,
    mismatch: [{ ...TCP, srcMac: 0x1200_0000_0001 }],
  },
  {
    condition: { sourceMac: '02:00:00:12:34:56', sourceMacMask: 'ff:ff:ff:00:00:00' },
    match: everywhere,
    mismatch: [{ ...TCP, srcMac: 0x0200_0100_0001 }],
  },
  { condition: { destinationMac: '02:00:00:00:01:02' }, match: everywhere, mismatch: [{ ...TCP, dstMac: SRC_MAC }] },
  {
    condition: { destinationMac: 'ff:ff:ff:ff:ff:ff', destinationMacMask: '01:00:00:00:00:00' },
    match: [{ ...TCP, dstMac: 0x0100_5e00_0001 }],
    mismatch: everywhere,
  },
  { condition: { tos: 0x10 }, match: [TCP, TCP6, LATER], mismatch: [{ ...TCP, tos: 0x11 }, ARP, OTHER] },
  { condition: { tos: 0 }, match: [{ ...TCP, tos: 0 }], mismatch: [TCP, ARP, OTHER] },
  { condition: { protocol: 6 }, match: [TCP, TCP6, FIRST, LATER, LATER6], mismatch: [SCTP, ECHO, GRE, ARP, OTHER] },
  { condition: { protocol: 132 }, match: [SCTP], mismatch: [TCP] },
  { condition: { protocol: 2 }, match: [ARP], mismatch: [TCP, OTHER, { ...ARP, protocol: 1 }] },
  { condition: { protocol: 0 }, match: [], mismatch: [TCP, OTHER] },
  { condition: { source: '10.1.0.0/16' }, match: [TCP, ARP, GRE, LATER], mismatch: [TCP6, OTHER] },
  { condition: { source: '10.1.0.1/32' }, match: [TCP, ARP], mismatch: [{ ...TCP, source: ipv4(0x0a01_0000) }, TCP6] },
  { condition: { source: '0.0.0.0/0' }, match: [TCP, ARP], mismatch: [TCP6, OTHER] },
  { condition: { source: 'fd00::/32' }, match: [TCP6, ECHO6, LATER6], mismatch: [TCP, ARP, OTHER] },
  { condition: { source: '::/0' }, match: [TCP6], mismatch: [TCP, OTHER] },
  { condition: { destination: '10.2.0.0/16' }, match: [TCP, ARP], mismatch: [TCP6, OTHER] },
  { condition: { destination: '10.1.0.0/16' }, match: [], mismatch: [TCP, ARP, OTHER] },
  { condition: { destination: 'fd00:1::1/128' }, match: [TCP6, LATER6], mismatch: [TCP, OTHER] },
  { condition: { destination: 'fd00:1::2/127' }, match: [], mismatch: [TCP6] },
  { condition: { sourcePorts: { start: 999, end: 1001 } }, match: [TCP, TCP6, SCTP, FIRST], mismatch: [ECHO, ECHO6] },
  { condition: { sourcePorts: { start: 1001, end: 2000 } }, match: [GRE, ARP, OTHER], mismatch: [TCP, TCP6, SCTP] },
  { condition: { sourcePorts: { start: 8, end: 8 } }, match: [ECHO, GRE, ARP, OTHER], mismatch: [UNREACHABLE, TCP] },
  { condition: { sourcePorts: { start: 128, end: 129 } }, match: [ECHO6], mismatch: [TOO_BIG6, ECHO] },
  { condition: { destinationPorts: { start: 80, end: 80 } }, match: [TCP, TCP6, SCTP, GRE, OTHER], mismatch: [ECHO] },
  { condition: { destinationPorts: { start: 0, end: 0 } }, match: [ECHO, ECHO6, ARP], mismatch: [UNREACHABLE, TCP] },
  {
    condition: { sourceAddressGroupId: A },
    match: [TCP, ARP, LATER],
    mismatch: [TCP6, OTHER],
    scene: { members: { [A]: ['10.1.0.1'], [B]: ['fd00::1'] } },
  },
  {
    condition: { sourceAddressGroupId: A },
    match: [TCP6],
    mismatch: [TCP, OTHER],
    scene: { members: { [A]: ['fd00::1', '10.2.0.1'] } },
  },
  {
    condition: { destinationAddressGroupId: A },
    match: [TCP, ARP],
    mismatch: [TCP6, OTHER],
    scene: { members: { [A]: ['10.2.0.1', 'fd00::1'] } },
  },
  {
    condition: { icmpDataSource: '10.2.0.0/16' },
    match: [UNREACHABLE],
    mismatch: [ECHO, TCP, ARP, OTHER],
    scene: { icmpData: DATA },
  },
  { condition: { icmpDataSource: '10.1.0.0/16' }, match: [], mismatch: [UNREACHABLE], scene: { icmpData: DATA } },
  { condition: { icmpDataSource: '0.0.0.0/0' }, match: [], mismatch: [UNREACHABLE, OTHER] },
  {
    condition: { icmpDataDestination: '10.1.0.1/32' },
    match: [UNREACHABLE],
    mismatch: [ECHO],
    scene: { icmpData: DATA },
  },
  {
    condition: { icmpDataDestination: 'fd00::1/128' },
    match: [TOO_BIG6],
    mismatch: [ECHO6, TCP6, UNREACHABLE],
    scene: { icmpData: DATA6 },
  },
];

const describe = (value: object) => JSON.stringify(value).replace(/"|00000000-0000-4000-8000-0000000/g, '');

for (const { condition, match, mismatch, scene = {} } of ROWS) {
  test(`field ${describe(condition)}${describe(scene)}`, (t) => {
    const full = { ...EMPTY, ...scene };
    const name = Object.keys(condition)[0] as NonNullable<Condition['inverted']>[number];
    const inverted = conditionSchema.parse({ ...condition, inverted: [name] });
    const negated = conditionSchema.parse({ ...condition, conjunctionInverted: true });
    for (const packet of [...match, ...mismatch]) {
      const expected = match.includes(packet);
      t.is(run(condition, packet, full), expected, JSON.stringify(packet));
      t.is(run(inverted, packet, full), !expected, JSON.stringify(packet));
      t.is(run(negated, packet, full), !expected, JSON.stringify(packet));
      t.is(run({}, packet, full), true);
      t.is(run({ conjunctionInverted: true }, packet, full), false);
    }
  });
}

test('the VLAN is that of the outer tag, or none is wanted', (t) => {
  t.is(run({ vlanId: 7 }, TAGGED, EMPTY), true);
  t.is(run({ vlanId: 8 }, TAGGED, EMPTY), false);
  t.is(run({ vlanId: 7 }, TCP, EMPTY), false);
  t.is(run({ noVlan: true }, TCP, EMPTY), true);
  t.is(run({ noVlan: true }, TAGGED, EMPTY), false);
  t.is(run({ noVlan: true }, { ...TCP, vlan: 0 }, EMPTY), false);
  t.is(run({ noVlan: false }, TAGGED, EMPTY), true);
});

test('the fragment policy is not inverted with the others', (t) => {
  const packets = [TCP, FIRST, LATER, TCP6, LATER6, ARP, OTHER];
  const matching: [Condition['fragmentPolicy'], Packet[]][] = [
    ['any', packets],
    ['header', [TCP, FIRST, TCP6, ARP, OTHER]],
    ['nonheader', [LATER, LATER6]],
    ['unfragmented', [TCP, TCP6, ARP, OTHER]],
  ];
  for (const [fragmentPolicy, expected] of matching) {
    for (const packet of packets) {
      t.is(run({ fragmentPolicy }, packet, EMPTY), expected.includes(packet), `${fragmentPolicy}`);
      const inverted: Condition = { fragmentPolicy, conjunctionInverted: true, etherType: 0x1234 };
      t.is(run(inverted, packet, EMPTY), expected.includes(packet), `${fragmentPolicy}`);
    }
  }
  const ports = { sourcePorts: { start: 0, end: 65_535 } };
  t.is(run(ports, LATER, EMPTY), false);
  t.is(run({ ...ports, inverted: ['sourcePorts'] }, LATER, EMPTY), false);
  t.is(run({ ...ports, conjunctionInverted: true }, LATER, EMPTY), false);
  t.is(run(ports, FIRST, EMPTY), true);
  t.is(run({ ...ports, fragmentPolicy: 'unfragmented' }, FIRST, EMPTY), false);
});

test('a connection is matched in the direction that opened it or in the other, and both at once never', (t) => {
  const back: Scene = { ...EMPTY, connection: 'return' };
  t.is(run({ matchForwardFlow: true }, TCP, EMPTY), true);
  t.is(run({ matchForwardFlow: true }, TCP, back), false);
  t.is(run({ matchReturnFlow: true }, TCP, EMPTY), false);
  t.is(run({ matchReturnFlow: true }, TCP, back), true);
  t.is(run({ matchForwardFlow: true, matchReturnFlow: true }, TCP, back), false);
  t.is(run({ matchForwardFlow: false }, TCP, { ...back, unknown: ['connection'] }), true);
  t.is(run({ matchDestinationRewritten: true }, TCP, EMPTY), false);
  t.is(run({ matchDestinationRewritten: true }, TCP, { ...EMPTY, rewritten: true }), true);
});

test('what is not known yet leaves the result open, unless a cheaper field decided before', (t) => {
  const scene: Scene = { ...EMPTY, unknown: ['connection', 'members', 'icmpData'] };
  for (const conjunctionInverted of [false, true]) {
    t.is(run({ conjunctionInverted, matchReturnFlow: true }, TCP, scene), undefined);
    t.is(run({ conjunctionInverted, matchReturnFlow: true, protocol: 17 }, TCP, scene), conjunctionInverted);
    t.is(run({ conjunctionInverted, sourceAddressGroupId: A }, TCP, scene), undefined);
    t.is(run({ conjunctionInverted, sourceAddressGroupId: A }, OTHER, scene), conjunctionInverted);
    t.is(run({ conjunctionInverted, icmpDataSource: '10.0.0.0/8' }, UNREACHABLE, scene), undefined);
    t.is(run({ conjunctionInverted, icmpDataSource: '10.0.0.0/8' }, ECHO, scene), conjunctionInverted);
  }
  t.is(run({ sourceAddressGroupId: A, inverted: ['sourceAddressGroupId'] }, TCP, scene), undefined);
});

test('only the bits that tell are seen', (t) => {
  const bits = (condition: Condition, packet: Packet, word: number) => {
    const seen = new FlowMask();
    run(condition, packet, EMPTY, seen);
    return seen.words[word];
  };
  t.is(bits({ source: '10.1.0.0/16' }, TCP, Word.NW_SRC), 0xffff_0000);
  t.is(bits({ source: '192.168.0.0/16' }, TCP, Word.NW_SRC), 0x8000_0000);
  t.is(bits({ source: '10.1.0.0/16' }, OTHER, Word.NW_SRC), 0);
  t.is(bits({ source: 'fd00::/40' }, TCP6, Word.NW_SRC + 1), 0xff00_0000);
  t.is(bits({ source: 'fe00::/40' }, TCP6, Word.NW_SRC), 0xfe00_0000);
  t.is(bits({ destinationPorts: { start: 80, end: 80 } }, TCP, Word.TP_DST), 0xffff);
  t.is(bits({ destinationPorts: { start: 0, end: 1023 } }, TCP, Word.TP_DST), 0xfc00);
  t.is(bits({ destinationPorts: { start: 32_768, end: 65_535 } }, TCP, Word.TP_DST), 0x8000);
  t.is(bits({ destinationPorts: { start: 0, end: 65_535 } }, TCP, Word.TP_DST), 0);
  t.is(bits({ destinationPorts: { start: 1, end: 2 } }, GRE, Word.TP_DST), 0);
  t.is(bits({ sourceMac: '02:00:00:00:00:00', sourceMacMask: 'ff:ff:ff:00:00:00' }, TCP, Word.ETH_SRC), 0xffff);
  t.is(
    bits({ sourceMac: '02:00:00:00:00:00', sourceMacMask: 'ff:ff:ff:00:00:00' }, TCP, Word.ETH_SRC + 1),
    0xff00_0000,
  );
  t.is(bits({ inPortIds: [A], source: '10.1.0.0/16' }, TCP, Word.ETH_TYPE), 0);
  t.is(bits({ protocol: 17, source: '10.1.0.0/16' }, TCP, Word.NW_SRC), 0);
});

const idSets = fc.subarray(IDS.slice(0, 3));
const id = fc.constantFrom(...IDS.slice(0, 3));
const macs = fc.constantFrom(SRC_MAC, DST_MAC, 0x0200_0100_0001, 0xffff_ffff_ffff, 0);
const macText = macs.map(formatMac);
const macMask = fc.constantFrom('ff:ff:ff:00:00:00', '01:00:00:00:00:00', '00:00:00:00:00:00', '00:0f:00:00:ff:01');
const ipv4s = fc.constantFrom(0x0a01_0001, 0x0a01_0002, 0x0a02_0001, 0xc0a8_0001, 0).map(ipv4);
const ipv6s = fc
  .constantFrom([0xfd00_0000, 0, 0, 1], [0xfd00_0000, 0, 1, 1], [0xfd00_0001, 0, 0, 2], [0xfe80_0000, 0, 0, 1])
  .map((words): Ip => ({ family: 6, words }));
const ips = fc.oneof(ipv4s, ipv6s);
const ranges = fc
  .oneof(fc.tuple(ipv4s, fc.nat(32)), fc.tuple(ipv6s, fc.nat(128)))
  .map(([ip, prefix]) => formatCidr(parseCidr(formatCidr({ ...ip, prefix }))!));
const portNumbers = fc.oneof(fc.constantFrom(0, 1, 2, 3, 8, 11, 79, 80, 81, 128, 1000, 65_535), fc.nat(65_535));
const portRanges = fc.tuple(portNumbers, portNumbers).map(([a, b]) => ({ start: Math.min(a, b), end: Math.max(a, b) }));
const vlan = fc.constantFrom(1, 7, 4094);
const etherTypes = fc.constantFrom<number>(EtherType.IPV4, EtherType.IPV6, EtherType.ARP, 0x88cc);
const protocols = fc.constantFrom(0, 1, 2, 6, 17, 47, 58, 132);
const tos = fc.constantFrom(0, 0x10, 0xb8);

/** Few fields at a time, for else next to nothing would match; then some of them inverted. */
const conditions: fc.Arbitrary<Condition> = fc
  .tuple(
    fc.record(
      {
        matchForwardFlow: fc.boolean(),
        matchReturnFlow: fc.boolean(),
        inPortIds: idSets,
        outPortIds: idSets,
        portGroupId: id,
        inPortGroupId: id,
        outPortGroupId: id,
        sourceAddressGroupId: id,
        destinationAddressGroupId: id,
        traversedBridgeIds: idSets,
        traversedRouterIds: idSets,
        noVlan: fc.boolean(),
        vlanId: vlan,
        etherType: etherTypes,
        sourceMac: macText,
        sourceMacMask: macMask,
        destinationMac: macText,
        destinationMacMask: macMask,
        tos,
        protocol: protocols,
        source: ranges,
        destination: ranges,
        sourcePorts: portRanges,
        destinationPorts: portRanges,
        fragmentPolicy: fc.constantFrom('any', 'header', 'nonheader', 'unfragmented'),
        icmpDataSource: ranges,
        icmpDataDestination: ranges,
        matchDestinationRewritten: fc.boolean(),
      },
      { requiredKeys: [] },
    ),
    fc.uniqueArray(fc.nat(27), { minLength: 1, maxLength: 5 }),
    fc.array(fc.boolean(), { minLength: 28, maxLength: 28 }),
    fc.boolean(),
  )
  .map(([all, kept, flips, conjunctionInverted]) => {
    const fields = Object.entries(all).filter((_, i) => kept.includes(i));
    const invertible = new Set<string>(conditionSchema.shape.inverted.unwrap().element.options);
    const inverted = fields.map(([name]) => name).filter((name, i) => invertible.has(name) && flips[i]);
    return { ...Object.fromEntries(fields), inverted, conjunctionInverted };
  })
  .filter((condition) => conditionSchema.safeParse(condition).success)
  .map((condition) => conditionSchema.parse(condition));

const packets: fc.Arbitrary<Packet> = fc
  .record({
    srcMac: macs,
    dstMac: macs,
    vlan: fc.option(vlan, { nil: null }),
    etherType: etherTypes,
    protocol: protocols,
    tos,
    fragment: fc.constantFrom<Packet['fragment']>('none', 'none', 'none', 'first', 'later'),
    v4: fc.tuple(ipv4s, ipv4s),
    v6: fc.tuple(ipv6s, ipv6s),
    ports: fc.tuple(portNumbers, portNumbers),
  })
  .map(({ v4, v6, ...packet }): Packet => {
    const { etherType, fragment, ports } = packet;
    const isIpv6 = etherType === EtherType.IPV6;
    const [source, destination] = isIpv6 ? v6 : v4;
    const none: Packet = { ...packet, tos: null, fragment: 'none', ports: null, source: null, destination: null };
    if (etherType === EtherType.ARP) return { ...none, protocol: packet.protocol, source, destination };
    if (etherType !== EtherType.IPV4 && !isIpv6) return { ...none, protocol: null };
    // Number 0 is that of an extension header.
    const protocol = isIpv6 && packet.protocol === 0 ? 17 : packet.protocol;
    const isIcmp = protocol === (isIpv6 ? IpProtocol.ICMPV6 : IpProtocol.ICMP);
    const hasPorts = [6, 17, 132].includes(protocol) || isIcmp;
    if (!hasPorts || fragment === 'later') return { ...packet, protocol, source, destination, ports: null };
    const own: [number, number] = isIcmp ? [ports[0] & 255, ports[1] & 255] : ports;
    return { ...packet, protocol, source, destination, ports: own };
  });

const scenes: fc.Arbitrary<Scene> = fc.record({
  inPortId: fc.option(id, { nil: undefined }),
  outPortId: fc.option(id, { nil: undefined }),
  entryGroups: idSets,
  inGroups: idSets,
  outGroups: idSets,
  traversed: idSets,
  rewritten: fc.boolean(),
  connection: fc.constantFrom('forward', 'return'),
  members: fc.dictionary(id, fc.array(ips.map(formatIp), { maxLength: 4 })),
  icmpData: fc.option(
    fc.oneof(fc.record({ source: ipv4s, destination: ipv4s }), fc.record({ source: ipv6s, destination: ipv6s })),
    { nil: null },
  ),
  unknown: fc.oneof(fc.constant([]), fc.subarray<Scene['unknown'][number]>(['connection', 'members', 'icmpData'])),
});

/** What an ICMP error carries is of its own family. */
function fitting(scene: Scene, { etherType }: Packet): Scene {
  const family = etherType === EtherType.IPV6 ? 6 : 4;
  return scene.icmpData?.source.family === family ? scene : { ...scene, icmpData: null };
}

test('a compiled condition says what its fields mean, or that something is not known', (t) => {
  fc.assert(
    fc.property(conditions, packets, scenes, (condition, packet, any) => {
      const scene = fitting(any, packet);
      const result = run(condition, packet, scene);
      if (result === undefined) t.true(scene.unknown.length > 0);
      else t.is(result, naive(condition, packet, scene));
    }),
  );
});

/** The bits that fields narrower than their word have; the others of a key are zero. */
const NARROW = new Map<number, number>([
  [Word.ETH_SRC, 0xffff],
  [Word.ETH_DST, 0xffff],
  [Word.VLAN_TCI, 0xffff],
  [Word.ETH_TYPE, 0xffff],
  [Word.NW_PROTO, 0xff],
  [Word.NW_TOS, 0xff],
  [Word.NW_FRAG, 0xff],
  [Word.TP_SRC, 0xffff],
  [Word.TP_DST, 0xffff],
]);

test('ports that agree in the seen bits are on the same side of the ends of a range', (t) => {
  const near = fc.nat(40);
  const key = keyOf(frameOf(TCP), 1);
  fc.assert(
    fc.property(near, near, near, (a, b, port) => {
      const [start, end] = [Math.min(a, b), Math.max(a, b)];
      const compiled = compileCondition({ destinationPorts: { start, end } });
      const seen = new FlowMask();
      key.tpDst = port;
      t.is(matches(compiled, key, seen, surroundingsOf(EMPTY)), start <= port && port <= end);
      for (let other = 0; other <= 64; other++) {
        if (((port ^ other) & seen.words[Word.TP_DST]) !== 0) continue;
        t.is(start <= other && other <= end, start <= port && port <= end);
      }
    }),
  );
});

test('bits that were not seen make no difference', (t) => {
  fc.assert(
    fc.property(conditions, packets, packets, scenes, (condition, packet, otherPacket, any) => {
      const surroundings = surroundingsOf(fitting(any, packet));
      const compiled = compileCondition(condition);
      const key = keyOf(frameOf(packet), 1);
      const seen = new FlowMask();
      const result = matches(compiled, key, seen, surroundings);
      const flipped = new FlowKey(key.words.map((word, i) => (word ^ (NARROW.get(i) ?? 0xffff_ffff)) >>> 0));
      for (const noise of [flipped, keyOf(frameOf(otherPacket), 2)]) {
        const other = new FlowKey(
          key.words.map((word, i) => (word & seen.words[i]) | (noise.words[i] & ~seen.words[i])),
        );
        const again = new FlowMask();
        t.is(matches(compiled, other, again, surroundings), result);
        t.true(again.equals(seen));
      }
    }),
  );
});

test('a field is seen only with what makes it exist', (t) => {
  fc.assert(
    fc.property(conditions, packets, scenes, (condition, packet, scene) => {
      const seen = new FlowMask();
      const key = keyOf(frameOf(packet), 1);
      matches(compileCondition(condition), key, seen, surroundingsOf(fitting(scene, packet)));
      const any = (from: number, to: number) => seen.words.subarray(from, to).some((word) => word !== 0);
      if (any(Word.NW_SRC, FLOW_KEY_WORDS)) t.is(seen.words[Word.ETH_TYPE], 0xffff);
      if (any(Word.NW_SRC, Word.NW_PROTO)) t.not(packet.source, null);
      if (key.ethType !== EtherType.IPV6)
        t.false(any(Word.NW_SRC + 1, Word.NW_DST) || any(Word.NW_DST + 1, Word.NW_PROTO));
      if (any(Word.NW_PROTO, Word.NW_TOS)) t.not(packet.protocol, null);
      if (any(Word.NW_TOS, Word.NW_TTL) || any(Word.NW_FRAG, Word.IPV6_LABEL)) t.not(packet.tos, null);
      if (!any(Word.TP_SRC, FLOW_KEY_WORDS)) return;
      t.not(packet.ports, null);
      t.not(key.nwFrag, Frag.LATER);
      t.is(seen.words[Word.NW_PROTO], 0xff);
      t.is(seen.words[Word.NW_FRAG], 0xff);
    }),
  );
});
