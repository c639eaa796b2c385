import test from 'ava';
import fc from 'fast-check';
import { FLOW_KEY_WORDS, FlowKey, Frag, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { type Ip, parseIp } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import type { VipAnswer } from '../../src/simulation/fact.js';
import { type VipCell, VipIndex, type VipKey } from '../../src/simulation/vip-index.js';

/** Names of VIPs, by a fact that counts how often it has told those who carry it. */
class CountingCell implements VipCell<VipAnswer<string>> {
  value: VipAnswer<string> | null = null;
  told = 0;

  constructor(readonly tag: string) {}

  set(value: VipAnswer<string> | null): void {
    if (value === this.value) return;
    this.value = value;
    this.told++;
  }

  touch(): void {
    this.told++;
  }
}

function newIndex(): VipIndex<string> {
  return new VipIndex<string>((tag) => new CountingCell(tag));
}

interface Vip extends VipKey {
  readonly id: string;
}

/** Few addresses that share prefixes of many lengths, so that random ones meet. */
const addresses: fc.Arbitrary<Ip> = fc.oneof(
  fc
    .tuple(fc.constantFrom(0x0a00_0000, 0x0a00_0100, 0xffff_ff00), fc.nat(2))
    .map(([high, low]) => ({ family: 4 as const, words: [high + low] })),
  fc
    .tuple(fc.constant(0x2001_0db8), fc.nat(1), fc.constantFrom(0, 0x8000_0000), fc.nat(1))
    .map((words) => ({ family: 6 as const, words })),
);
const ports = fc.constantFrom(53, 80);
const TRANSPORTS: readonly number[] = [IpProtocol.TCP, IpProtocol.UDP, IpProtocol.SCTP];
const protocols = fc.constantFrom(IpProtocol.TCP, IpProtocol.TCP, IpProtocol.UDP, IpProtocol.SCTP);
const vips: fc.Arbitrary<Vip> = fc.record({
  id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
  address: addresses,
  protocol: protocols,
  port: ports,
});
const packets: fc.Arbitrary<FlowKey> = fc
  .record({
    address: addresses,
    type: fc.constantFrom(EtherType.IPV4, EtherType.IPV4, EtherType.IPV4, EtherType.ARP),
    protocol: fc.oneof(protocols, fc.constantFrom(IpProtocol.ICMP, IpProtocol.ICMPV6, IpProtocol.ESP)),
    fragment: fc.constantFrom(Frag.NONE, Frag.NONE, Frag.NONE, Frag.FIRST, Frag.LATER),
    src: fc.constantFrom(1, 3, 5, 8, 128),
    dst: ports,
  })
  .map(({ address, type, protocol, fragment, src, dst }) => {
    const key = new FlowKey();
    key.ethType = address.family === 6 ? EtherType.IPV6 : type;
    key.words.set(address.words, Word.NW_DST);
    key.nwProto = protocol;
    key.nwFrag = fragment;
    if (fragment !== Frag.LATER) {
      key.tpSrc = src;
      key.tpDst = dst;
    }
    return key;
  });

/** What a search through all VIPs finds. */
function search(all: Iterable<Vip>, key: FlowKey): string | null {
  const family = key.ethType === EtherType.IPV4 ? 4 : key.ethType === EtherType.IPV6 ? 6 : 0;
  const there = [...all].filter(
    ({ address }) => address.family === family && address.words.every((word, i) => word === key.words[Word.NW_DST + i]),
  );
  if (there.length === 0) return null;
  const isIcmp = key.nwProto === (family === 4 ? IpProtocol.ICMP : IpProtocol.ICMPV6);
  const isError = isIcmp && (family === 4 ? key.tpSrc === 3 || key.tpSrc === 5 : key.tpSrc < 128);
  if (!isIcmp && !TRANSPORTS.includes(key.nwProto)) return null;
  if (key.nwFrag !== Frag.NONE || isError) return 'tracked';
  if (isIcmp) return null;
  const found = there.filter((vip) => vip.protocol === key.nwProto && vip.port === key.tpDst);
  return found.map(({ id }) => id).sort()[0] ?? 'tracked';
}

/** A flow as an agent would keep it. */
class FlowRecord {
  mask = new FlowMask();
  fact: CountingCell | undefined;
  value: string | null = null;
  private told = 0;

  constructor(
    readonly key: FlowKey,
    private readonly index: VipIndex<string>,
  ) {
    this.simulate();
  }

  simulate(): void {
    this.mask = new FlowMask();
    this.fact = this.index.lookup(this.key, this.mask) as CountingCell | undefined;
    this.value = this.fact?.value ?? null;
    this.told = this.fact?.told ?? 0;
  }

  get isTold(): boolean {
    return this.fact !== undefined && this.fact.told !== this.told;
  }
}

const steps = fc.array(
  fc.oneof(
    fc.record({ op: fc.constantFrom('set' as const, 'delete' as const), vip: vips }),
    fc.record({ op: fc.constant('packet' as const), packet: packets }),
  ),
  { maxLength: 60, size: 'max' },
);

test('finds what a search through all VIPs finds; flows learn of the changes that concern them, and of no others', (t) => {
  fc.assert(
    fc.property(steps, fc.array(packets, { minLength: 10, maxLength: 20 }), (list, probes) => {
      const index = newIndex();
      const all = new Map<string, Vip>();
      const flows: FlowRecord[] = [];
      const remove = (vip: Vip) => {
        index.delete(vip.id, vip);
        all.delete(vip.id);
      };
      for (const step of list) {
        if (step.op === 'packet') {
          flows.push(new FlowRecord(step.packet, index));
          continue;
        }
        const old = all.get(step.vip.id);
        const changed = [old, step.vip].filter((vip) => vip !== undefined);
        if (old !== undefined) remove(old);
        if (step.op === 'set') {
          index.set(step.vip.id, step.vip, step.vip.id);
          all.set(step.vip.id, step.vip);
        }
        for (const flow of flows) {
          if (!flow.isTold) continue;
          const { mask, value, fact } = flow;
          flow.simulate();
          const isSame = mask.equals(flow.mask) && value === flow.value && fact === flow.fact;
          const isAtAddress = changed.some(({ address }) =>
            address.words.every((word, i) => word === flow.key.words[Word.NW_DST + i]),
          );
          t.true(!isSame || isAtAddress);
        }
        for (const flow of flows) {
          for (const key of [flow.key, ...probes]) {
            if (key.equalsMasked(flow.key, flow.mask)) t.is(flow.value, search(all.values(), key));
          }
        }
      }
      for (const key of [...probes, ...flows.map((flow) => flow.key)]) {
        t.is(new FlowRecord(key, index).value, search(all.values(), key));
      }
    }),
    { numRuns: 500 },
  );
});

/** The bits that the fields which a look-up may read have. */
const WIDTHS = new FlowMask();
WIDTHS.seeIpv6Src();
WIDTHS.seeIpv6Dst();
WIDTHS.seeTpSrc();
WIDTHS.seeTpDst();

test('soundness: packets that agree in the bits seen depend on the same fact', (t) => {
  const noise = fc.array(fc.nat(0xffff_ffff), { minLength: FLOW_KEY_WORDS, maxLength: FLOW_KEY_WORDS });
  fc.assert(
    fc.property(fc.array(vips, { maxLength: 12 }), packets, noise, (list, packet, bits) => {
      const index = newIndex();
      for (const [i, vip] of list.entries()) index.set(`${i}`, vip, `${i}`);
      const seen = new FlowMask();
      const fact = index.lookup(packet, seen);
      const other = packet.clone();
      for (let i = 0; i < FLOW_KEY_WORDS; i++) other.words[i] ^= bits[i] & WIDTHS.words[i] & ~seen.words[i];
      const seenAgain = new FlowMask();
      t.is(index.lookup(other, seenAgain), fact);
      t.true(seenAgain.equals(seen));
    }),
    { numRuns: 2000 },
  );
});

test('generality: no fewer leading bits would prove that no VIP has the address', (t) => {
  fc.assert(
    fc.property(fc.array(vips, { minLength: 1, maxLength: 12 }), packets, (list, packet) => {
      const index = newIndex();
      for (const [i, vip] of list.entries()) index.set(`${i}`, vip, `${i}`);
      const seen = new FlowMask();
      index.lookup(packet, seen);
      const length = seen.words
        .subarray(Word.NW_DST, Word.NW_DST + 4)
        .reduce((sum, word) => sum + Math.clz32(~word), 0);
      const family = packet.ethType === EtherType.IPV4 ? 4 : 6;
      if (packet.ethType === EtherType.ARP || length === 0) return;
      const shorter = new FlowMask();
      if (family === 4) shorter.seeIpv4Dst(length - 1);
      else shorter.seeIpv6Dst(length - 1);
      const agrees = list.some(({ address }) => {
        const key = new FlowKey();
        key.ethType = packet.ethType;
        key.words.set(address.words, Word.NW_DST);
        return address.family === family && key.equalsMasked(packet, shorter);
      });
      t.true(agrees);
    }),
    { numRuns: 1000 },
  );
});

test('ports are looked at only where the address is a VIP, and addresses only as far as needed', (t) => {
  const index = newIndex();
  index.set('a', { address: parseIp('10.0.0.1')!, protocol: IpProtocol.TCP, port: 80 }, 'a');
  const packet = new FlowKey();
  packet.ethType = EtherType.IPV4;
  packet.nwProto = IpProtocol.TCP;
  packet.ipv4Dst = 0xc0a8_0001;
  packet.tpDst = 80;
  const far = new FlowMask();
  index.lookup(packet, far);
  t.is(far.ipv4Dst, 0x8000_0000);
  t.is(far.tpDst, 0);
  t.is(far.nwProto, 0);
  packet.ipv4Dst = 0x0a00_0001;
  const here = new FlowMask();
  t.is(index.lookup(packet, here)?.value, 'a');
  t.is(here.ipv4Dst, 0xffff_ffff);
  t.is(here.tpDst, 0xffff);
});

test('of a port that no VIP of the address has, as many bits are looked at as tell it from those of its protocol', (t) => {
  const index = newIndex();
  const address = parseIp('10.0.0.1')!;
  index.set('a', { address, protocol: IpProtocol.TCP, port: 80 }, 'a');
  index.set('b', { address, protocol: IpProtocol.TCP, port: 443 }, 'b');
  index.set('c', { address, protocol: IpProtocol.UDP, port: 0x8001 }, 'c');
  const packet = new FlowKey();
  packet.ethType = EtherType.IPV4;
  packet.nwProto = IpProtocol.TCP;
  packet.ipv4Dst = 0x0a00_0001;
  const bits = (port: number) => {
    const seen = new FlowMask();
    packet.tpDst = port;
    t.is(index.lookup(packet, seen)?.value, 'tracked');
    return seen.tpDst;
  };
  t.is(bits(0x8001), 0x8000);
  t.is(bits(82), 0xfffe);
  t.is(bits(128), 0xff80);
  index.delete('b', { address, protocol: IpProtocol.TCP, port: 443 });
  t.is(bits(256), 0xff00);
  index.delete('a', { address, protocol: IpProtocol.TCP, port: 80 });
  t.is(bits(80), 0);
});

test('ten thousand VIPs come and go, and nothing of them stays', (t) => {
  const index = newIndex();
  const all = Array.from({ length: 10_000 }, (_, i) => ({
    address: { family: 4 as const, words: [(Math.imul(i >>> 1, 0x9e37_79b1) >>> 0) % 0xf000_0000] },
    protocol: IpProtocol.TCP,
    port: 80 + (i & 1),
  }));
  const packet = new FlowKey();
  packet.ethType = EtherType.IPV4;
  packet.nwProto = IpProtocol.TCP;
  for (const [i, vip] of all.entries()) index.set(`${i}`, vip, `${i}`);
  for (const [i, { address, port }] of all.entries()) {
    packet.ipv4Dst = address.words[0];
    packet.tpDst = port;
    t.is(index.lookup(packet, new FlowMask())?.value, `${i}`);
  }
  for (const [i, vip] of all.entries()) index.delete(`${i}`, vip);
  const seen = new FlowMask();
  t.is(index.lookup(packet, seen)?.value, null);
  t.is(seen.ipv4Dst, 0);
});
