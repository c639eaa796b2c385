import test from 'ava';
import fc from 'fast-check';
import { FlowKey, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { formatIpv4, formatIpv6 } from '../../src/packet/address.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { compileCondition, matches, type Surroundings } from '../../src/simulation/condition.js';
import { indexRules, nextMatch } from '../../src/simulation/rule-index.js';
import { type Condition, conditionSchema } from '../../src/topology/chains.js';

/** Counts the rules that are looked at as far as the question for the connection. */
function surroundings(onQuestion = () => {}, connection: 'forward' | undefined = 'forward'): Surroundings {
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

const words4 = fc.constantFrom(0x0a00_0001, 0x0a00_0002, 0x0a01_0001, 0xc0a8_0001).map((word) => [word]);
const words6 = fc.constantFrom([0xfd00_0000, 0, 0, 1], [0xfd00_0000, 1, 0, 1], [0xfe80_0000, 0, 0, 2]);
const ranges = fc.oneof(
  fc.tuple(words4, fc.constantFrom(0, 8, 16, 31, 32)).map(([[a], prefix]) => `${formatIpv4(a)}/${prefix}`),
  fc.tuple(words6, fc.constantFrom(0, 16, 64, 128)).map(([words, prefix]) => `${formatIpv6(words)}/${prefix}`),
);
const conditions: fc.Arbitrary<Condition> = fc
  .record(
    {
      source: ranges,
      destination: ranges,
      protocol: fc.constantFrom(6, 17),
      matchForwardFlow: fc.boolean(),
      conjunctionInverted: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      inverted: fc.subarray<'source' | 'destination'>(['source', 'destination']),
    },
    { requiredKeys: [] },
  )
  .map((condition) => ({ ...condition, inverted: condition.inverted?.filter((side) => condition[side] !== undefined) }))
  .map((condition) => conditionSchema.parse(condition));

const keys = fc
  .oneof(
    fc.tuple(fc.constantFrom(EtherType.IPV4, EtherType.ARP), words4, words4),
    fc.tuple(fc.constant(EtherType.IPV6), words6, words6),
    fc.constant([0x88cc, [], []] as [number, number[], number[]]),
  )
  .map(([ethType, source, destination]) => {
    const key = new FlowKey();
    key.ethType = ethType;
    source.forEach((word, i) => {
      key.words[Word.NW_SRC + i] = word;
      key.words[Word.NW_DST + i] = destination[i];
    });
    if (source.length > 0) key.nwProto = IpProtocol.TCP;
    return key;
  });

function linear(rules: readonly Condition[], from: number, key: FlowKey, around: Surroundings): number | undefined {
  for (let i = from; i < rules.length; i++) {
    const result = matches(compileCondition(rules[i]), key, new FlowMask(), around);
    if (result === undefined) return undefined;
    if (result) return i;
  }
  return -1;
}

test('the index finds what going through the list finds, and packets alike in the seen bits the same', (t) => {
  const known = fc.constantFrom<'forward' | undefined>('forward', undefined);
  fc.assert(
    fc.property(
      fc.array(conditions, { maxLength: 30 }),
      fc.nat(10),
      keys,
      keys,
      known,
      (rules, from, key, other, c) => {
        const around = surroundings(undefined, c);
        const index = indexRules(rules);
        const seen = new FlowMask();
        const found = nextMatch(index, from, key, seen, around);
        t.is(found, linear(rules, from, key, around));
        const alike = new FlowKey(
          key.words.map((word, i) => (word & seen.words[i]) | (other.words[i] & ~seen.words[i])),
        );
        const again = new FlowMask();
        t.is(nextMatch(index, from, alike, again, around), found);
        t.true(again.equals(seen));
      },
    ),
  );
});

test('of ten thousand rules for single addresses only those of the packet are looked at', (t) => {
  const rules: Condition[] = Array.from({ length: 10_000 }, (_, i) => ({
    source: `${formatIpv4(0x0a00_0000 + (i % 5000))}/32`,
    matchReturnFlow: true,
  }));
  rules.push({ source: '10.0.0.0/8' });
  const key = new FlowKey();
  key.ethType = EtherType.IPV4;
  key.ipv4Src = 0x0a00_0007;
  let questions = 0;
  const found = nextMatch(
    indexRules(rules),
    0,
    key,
    new FlowMask(),
    surroundings(() => questions++),
  );
  t.is(found, 10_000);
  t.is(questions, 2);
});
