import test from 'ava';
import fc from 'fast-check';
import { FLOW_KEY_WORDS, FlowKey, Frag, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { formatIpv4, formatIpv6, formatMac } from '../../src/packet/address.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { parseCidr } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { compileCondition, matches, type Surroundings } from '../../src/simulation/condition.js';
import { RuleIndex } from '../../src/simulation/rule-index.js';
import type { IndexedRule } from '../../src/simulation/rule-order.js';
import { type Condition, conditionSchema } from '../../src/topology/chains.js';
import { positionBetween, positionsAfter } from '../../src/topology/position.js';

type Connection = 'forward' | 'return' | undefined;

/** Counts the rules that are looked at as far as the question for the connection. */
function surroundings(onQuestion = () => {}, connection: Connection = 'forward'): Surroundings {
  const none = new Set<string>();
  return {
    inPortId: undefined,
    outPortId: undefined,
    entryPortGroupIds: none,
    inPortGroupIds: none,
    outPortGroupIds: none,
    traversedDeviceIds: none,
    isDestinationRewritten: false,
    connection: () => {
      onQuestion();
      return connection;
    },
    isMember: () => false,
    icmpData: () => null,
  };
}

function rulesOf(conditions: readonly Condition[]): IndexedRule[] {
  const positions = positionsAfter(undefined, conditions.length);
  return conditions.map((condition, i) => ({ id: `rule ${i}`, position: positions[i], condition }));
}

const words4 = fc.constantFrom(0x0a00_0001, 0x0a00_0002, 0x0a01_0001, 0x0a01_8001, 0xc0a8_0001).map((word) => [word]);
const words6 = fc.constantFrom([0xfd00_0000, 0, 0, 1], [0xfd00_0000, 1, 0, 1], [0xfd00_0000, 1, 0, 0x8000_0001]);
const ranges = fc.oneof(
  { weight: 3, arbitrary: fc.tuple(words4, fc.constantFrom(0, 8, 15, 16, 31, 32)).map(([[a], n]) => range4(a, n)) },
  fc.tuple(words6, fc.constantFrom(0, 16, 64, 96, 97, 128)).map(([words, prefix]) => `${formatIpv6(words)}/${prefix}`),
);
const ports = fc.constantFrom(0, 1, 79, 80, 81, 443, 1023, 1024, 32_767, 32_768, 65_535);
const portRanges = fc.tuple(ports, ports).map(([a, b]) => ({ start: Math.min(a, b), end: Math.max(a, b) }));
const portSets = fc.oneof(
  ports.map((port) => ({ start: port, end: port })),
  portRanges,
);
const macs = fc.constantFrom(0x0200_0000_0001, 0x0200_0000_0002, 0x0200_8000_0001, 0xffff_ffff_ffff);
const macMasks = fc.constantFrom('ff:ff:ff:ff:ff:ff', 'ff:ff:ff:00:00:00', 'ff:80:00:00:00:00', '00:00:00:00:00:01');
const protocols = fc.constantFrom(IpProtocol.TCP, IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMP, IpProtocol.GRE);

/** The fields that rules are found by, so that every one of them has prefixes that tell. */
const PLAIN = {
  protocol: protocols,
  source: ranges,
  destination: ranges,
  sourcePorts: portSets,
  destinationPorts: portSets,
  sourceMac: macs.map(formatMac),
  destinationMac: macs.map(formatMac),
};
const INVERTIBLE = Object.keys(PLAIN) as (keyof typeof PLAIN)[];
/** A few fields of all, or next to nothing would match. */
const kept = fc.subarray(INVERTIBLE, { minLength: 1, maxLength: 4 });
const plainConditions: fc.Arbitrary<Condition> = fc
  .tuple(fc.record(PLAIN), kept)
  .map(([all, fields]) => conditionSchema.parse(Object.fromEntries(fields.map((field) => [field, all[field]]))));
const conditions: fc.Arbitrary<Condition> = fc.oneof(
  { weight: 3, arbitrary: plainConditions },
  fc
    .tuple(
      plainConditions,
      fc.subarray(INVERTIBLE),
      macMasks,
      fc.record(
        {
          matchReturnFlow: fc.boolean(),
          conjunctionInverted: fc.boolean(),
          fragmentPolicy: fc.constantFrom('any', 'header', 'nonheader', 'unfragmented'),
        },
        { requiredKeys: [] },
      ),
    )
    .map(([condition, inverted, mask, more]) => ({
      ...condition,
      ...more,
      ...(condition.sourceMac && { sourceMacMask: mask }),
      inverted: inverted.filter((field) => condition[field] !== undefined),
    }))
    .filter((condition) => conditionSchema.safeParse(condition).success),
);

const keys = fc
  .record({
    addresses: fc.oneof(
      { weight: 4, arbitrary: fc.tuple(fc.constant(EtherType.IPV4), words4, words4) },
      fc.tuple(fc.constant(EtherType.IPV6), words6, words6),
      fc.tuple(fc.constant(EtherType.ARP), words4, words4),
      fc.constant([0x88cc, [], []] as [number, number[], number[]]),
    ),
    protocol: protocols,
    fragment: fc.constantFrom(Frag.NONE, Frag.NONE, Frag.NONE, Frag.FIRST, Frag.LATER),
    source: ports,
    destination: ports,
    sourceMac: macs,
    destinationMac: macs,
  })
  .map(({ addresses: [ethType, from, to], protocol, fragment, source, destination, sourceMac, destinationMac }) => {
    const key = new FlowKey();
    key.ethSrc = sourceMac;
    key.ethDst = destinationMac;
    key.ethType = ethType;
    key.words.set(from, Word.NW_SRC);
    key.words.set(to, Word.NW_DST);
    if (ethType === 0x88cc) return key;
    key.nwProto = ethType === EtherType.ARP ? 1 : protocol;
    if (ethType === EtherType.ARP) return key;
    key.nwFrag = fragment;
    if (fragment === Frag.LATER || protocol === IpProtocol.GRE) return key;
    key.tpSrc = source;
    key.tpDst = destination;
    return key;
  });

function range4(address: number, prefix: number): string {
  return `${formatIpv4(address)}/${prefix}`;
}

/** The rules in order. */
function sorted(rules: Iterable<IndexedRule>): IndexedRule[] {
  const place = ({ position, id }: IndexedRule) => `${position} ${id}`;
  return [...rules].sort((a, b) => (place(a) < place(b) ? -1 : 1));
}

/** A search through all rules, each held against the packet by itself. */
function listSearch(rules: Iterable<IndexedRule>) {
  const compiled = sorted(rules).map(({ id, condition }) => ({ id, condition: compileCondition(condition) }));
  /** Identifiers of the rules that match, until one that is not known. */
  return (key: FlowKey, around: Surroundings): (string | undefined)[] => {
    const found: (string | undefined)[] = [];
    for (const { id, condition } of compiled) {
      const result = matches(condition, key, new FlowMask(), around);
      if (result === undefined) return [...found, undefined];
      if (result) found.push(id);
    }
    return found;
  };
}

/** The same by an index. */
function searchesOf(index: RuleIndex<IndexedRule>, key: FlowKey, seen: FlowMask, around: Surroundings) {
  const found: (string | undefined)[] = [];
  for (let after = index.nextMatch(undefined, key, seen, around); after !== null; ) {
    found.push(after?.rule.id);
    if (after === undefined) break;
    after = index.nextMatch(after, key, seen, around);
  }
  return found;
}

const chains = fc.array(conditions, { maxLength: 40, size: 'max' }).map(rulesOf);
const connections = fc.constantFrom<Connection>('forward', 'return', undefined);

test('the index finds, one after the other, what going through the list finds', (t) => {
  fc.assert(
    fc.property(chains, fc.array(keys, { minLength: 8, maxLength: 8 }), connections, (rules, packets, connection) => {
      const around = surroundings(undefined, connection);
      const index = new RuleIndex(rules);
      const search = listSearch(rules);
      for (const packet of packets) {
        t.deepEqual(searchesOf(index, packet, new FlowMask(), around), search(packet, around));
      }
    }),
    { numRuns: 60 },
  );
});

/** The bits that fields narrower than their word have; the others of a key are zero. */
const WIDTHS = new FlowKey().words.fill(0xffff_ffff);
for (const word of [Word.ETH_SRC, Word.ETH_DST, Word.ETH_TYPE, Word.TP_SRC, Word.TP_DST]) WIDTHS[word] = 0xffff;
for (const word of [Word.NW_PROTO, Word.NW_FRAG]) WIDTHS[word] = 0xff;

test('soundness: packets that agree in the bits seen have the same result', (t) => {
  const noise = fc.array(fc.nat(0xffff_ffff), { minLength: FLOW_KEY_WORDS, maxLength: FLOW_KEY_WORDS });
  fc.assert(
    fc.property(chains, keys, keys, noise, connections, (rules, packet, another, bits, connection) => {
      const around = surroundings(undefined, connection);
      const index = new RuleIndex(rules);
      const first = new FlowMask();
      const result = index.nextMatch(undefined, packet, first, around);
      const all = new FlowMask();
      const results = searchesOf(index, packet, all, around);
      for (const [seen, other] of [
        [first, another.words],
        [first, bits],
        [all, another.words],
        [all, bits],
      ] as const) {
        const alike = new FlowKey(
          packet.words.map((word, i) => (word & seen.words[i]) | (other[i] & WIDTHS[i] & ~seen.words[i])),
        );
        const again = new FlowMask();
        if (seen === first) t.is(index.nextMatch(undefined, alike, again, around), result);
        else t.deepEqual(searchesOf(index, alike, again, around), results);
        t.true(again.equals(seen));
      }
    }),
    { numRuns: 300 },
  );
});

/** Fields whose leading bits are seen, in the order in which the index compares them. */
interface PrefixField {
  readonly name: keyof typeof PLAIN;
  readonly word: number;
  readonly width: number;
}

const FIELDS: PrefixField[] = [
  { name: 'destination', word: Word.NW_DST, width: 128 },
  { name: 'source', word: Word.NW_SRC, width: 128 },
  { name: 'destinationPorts', word: Word.TP_DST, width: 16 },
  { name: 'sourcePorts', word: Word.TP_SRC, width: 16 },
  { name: 'destinationMac', word: Word.ETH_DST, width: 48 },
  { name: 'sourceMac', word: Word.ETH_SRC, width: 48 },
];

/** Whether rules are told apart by the packet's ports. Later fragments have none but may not match either. */
function hasPorts({ ethType, nwProto }: FlowKey): boolean {
  if (nwProto === IpProtocol.ICMP) return ethType === EtherType.IPV4;
  return ethType !== EtherType.ARP && (nwProto === IpProtocol.TCP || nwProto === IpProtocol.UDP);
}

/** A field of a key, or of a mask, as a number of `width` bits. */
function bitsOf(key: FlowKey, { word, width }: PrefixField): bigint {
  const words = Array.from(key.words.subarray(word, word + Math.ceil(width / 32)), BigInt);
  return words.reduce((value, each) => (value << 32n) | each, 0n);
}

/** The values that a condition lets a field have. */
function valuesOf(condition: Condition, { name, width }: PrefixField, family: 4 | 6): { low: bigint; high: bigint } {
  const all = { low: 0n, high: (1n << BigInt(width)) - 1n };
  if (condition[name] === undefined) return all;
  if (name === 'sourcePorts' || name === 'destinationPorts') {
    return { low: BigInt(condition[name].start), high: BigInt(condition[name].end) };
  }
  if (name === 'source' || name === 'destination') {
    const cidr = parseCidr(condition[name])!;
    if (cidr.family !== family) return { low: 1n, high: 0n };
    const low = [...cidr.words, 0, 0, 0].slice(0, 4).reduce((value, word) => (value << 32n) | BigInt(word), 0n);
    return { low, high: low + (1n << BigInt(width - cidr.prefix)) - 1n };
  }
  const mac = BigInt(`0x${`${condition[name]}`.replaceAll(':', '')}`);
  return { low: mac, high: mac };
}

test('generality: one bit less of a prefix, and a rule no later than the last one found could match or not', (t) => {
  const isRange = (range: Condition['sourcePorts']) => range !== undefined && range.start < range.end;
  // Of two wide ranges of ports the index may use but one.
  const plain = plainConditions.filter((one) => !isRange(one.sourcePorts) || !isRange(one.destinationPorts));
  const plainChains = fc.array(plain, { maxLength: 30, size: 'max' }).map(rulesOf);
  const around = surroundings();
  let shortened = 0;
  fc.assert(
    fc.property(plainChains, keys, fc.nat(2), (rules, packet, more) => {
      const seen = new FlowMask();
      const index = new RuleIndex(rules);
      let found = index.nextMatch(undefined, packet, seen, around);
      for (let i = 0; i < more && found; i++) found = index.nextMatch(found, packet, seen, around);
      const relevant = rules.slice(0, found ? rules.indexOf(found.rule) + 1 : undefined);
      const family = packet.ethType === EtherType.IPV6 ? 6 : 4;
      for (const [i, field] of FIELDS.entries()) {
        const { width } = field;
        const mask = bitsOf(seen, field);
        if (mask === 0n) continue;
        shortened++;
        const free = BigInt(mask.toString(2).length - mask.toString(2).replace(/0*$/, '').length);
        t.is(mask, ((1n << BigInt(width)) - 1n) ^ ((1n << free) - 1n), `${field.name} is seen as a prefix`);
        const low = (bitsOf(packet, field) >> (free + 1n)) << (free + 1n);
        const high = low + (1n << (free + 1n)) - 1n;
        const needed = relevant.some(({ condition }) => {
          if (condition.protocol !== undefined && condition.protocol !== packet.nwProto) return false;
          for (const before of FIELDS.slice(0, i)) {
            if (before.width === 16 && !hasPorts(packet)) continue;
            const values = valuesOf(condition, before, family);
            const value = bitsOf(packet, before);
            if (value < values.low || value > values.high) return false;
          }
          const values = valuesOf(condition, field, family);
          const isApart = values.high < low || values.low > high;
          return !isApart && (low < values.low || high > values.high);
        });
        t.true(needed, `${field.name} with ${width - Number(free)} bits`);
      }
    }),
    { numRuns: 600 },
  );
  t.true(shortened > 400);
});

test('rules that come, go, change and move leave what an index made of the rest is', (t) => {
  const steps = fc.array(
    fc.record({ op: fc.constantFrom('insert', 'insert', 'remove'), id: fc.nat(12), at: fc.nat(), conditions }),
    { maxLength: 60, size: 'max' },
  );
  fc.assert(
    fc.property(steps, fc.array(keys, { minLength: 5, maxLength: 5 }), (list, packets) => {
      const around = surroundings();
      const rules = new Map<string, IndexedRule>();
      const index = new RuleIndex<IndexedRule>();
      for (const { op, id: number, at, conditions: condition } of list) {
        const id = `rule ${number}`;
        if (op === 'remove') t.is(index.remove(id), rules.delete(id));
        else {
          const before = sorted(rules.values());
          const place = at % (before.length + 1);
          const position = positionBetween(before[place - 1]?.position, before[place]?.position);
          const rule = { id, position, condition };
          rules.set(id, rule);
          index.insert(rule);
          t.is(index.get(id), rule);
        }
        t.is(index.size, rules.size);
      }
      const fresh = new RuleIndex([...rules.values()].sort((a, b) => (a.id < b.id ? -1 : 1)));
      const search = listSearch(rules.values());
      for (const packet of packets) {
        const [seen, seenFresh] = [new FlowMask(), new FlowMask()];
        const expected = search(packet, around);
        t.deepEqual(searchesOf(index, packet, seen, around), expected);
        t.deepEqual(searchesOf(fresh, packet, seenFresh, around), expected);
        t.true(seen.equals(seenFresh));
      }
    }),
    { numRuns: 150 },
  );
});

function tcpKey(source: number, destination: number, port: number): FlowKey {
  const key = new FlowKey();
  key.ethType = EtherType.IPV4;
  key.nwProto = IpProtocol.TCP;
  key.ipv4Src = source;
  key.ipv4Dst = destination;
  key.tpSrc = 40_000;
  key.tpDst = port;
  return key;
}

for (const [name, conditionOf] of [
  ['source addresses', (i: number) => ({ source: range4(0x0a00_0000 + i, 32) })],
  ['destination ports', (i: number) => ({ destinationPorts: { start: i, end: i } })],
  ['ranges of ports', (i: number) => ({ protocol: 6, destinationPorts: { start: 3 * i, end: 3 * i + 2 } })],
  ['ports of one address', (i: number) => ({ source: '10.0.0.7/32', destinationPorts: { start: i, end: i } })],
] as const) {
  test(`of ten thousand rules that differ in ${name} only those of the packet are looked at`, (t) => {
    const conditions: Condition[] = Array.from({ length: 10_000 }, (_, i) => ({
      ...conditionOf(i % 5000),
      matchReturnFlow: true,
    }));
    conditions.push({ source: '10.0.0.0/8' });
    let questions = 0;
    const index = new RuleIndex(rulesOf(conditions));
    const around = surroundings(() => questions++);
    const found = index.nextMatch(undefined, tcpKey(0x0a00_0007, 0x0a00_0001, 7), new FlowMask(), around);
    t.is(found?.rule.id, 'rule 10000');
    t.is(questions, 2);
  });
}

test('bits of a packet that only later rules compare are not seen', (t) => {
  const index = new RuleIndex(
    rulesOf([{ destination: '10.1.0.0/16' }, { protocol: 6 }, { source: '10.0.0.1/32' }, { sourceMac: formatMac(1) }]),
  );
  const seen = new FlowMask();
  const found = index.nextMatch(undefined, tcpKey(0x0a00_0001, 0xc0a8_0001, 80), seen, surroundings());
  t.is(found?.rule.id, 'rule 1');
  t.deepEqual([seen.ipv4Dst, seen.ipv4Src, seen.ethSrc, seen.tpDst], [0x8000_0000, 0, 0, 0]);
});

test('rules stand as their positions say to the last digit, and at one position by their identifiers', (t) => {
  const [first, last] = positionsAfter(undefined, 2);
  const positions = [first, last];
  for (let i = 0; i < 40; i++) positions.splice(1, 0, positionBetween(first, positions[1]));
  const rules = positions.flatMap((position, i) =>
    ['b', 'a'].map((id) => ({ id: `${i} ${id}`, position, condition: { protocol: IpProtocol.TCP } })),
  );
  const expected = positions.flatMap((_, i) => [`${i} a`, `${i} b`]);
  t.true(Math.max(...positions.map((position) => position.length)) > 12);
  for (const list of [rules, rules.toReversed()]) {
    const index = new RuleIndex(list);
    t.deepEqual(searchesOf(index, tcpKey(1, 2, 3), new FlowMask(), surroundings()), expected);
    for (const { id } of rules.slice(2)) t.true(index.remove(id));
    t.deepEqual(searchesOf(index, tcpKey(1, 2, 3), new FlowMask(), surroundings()), expected.slice(0, 2));
  }
});
