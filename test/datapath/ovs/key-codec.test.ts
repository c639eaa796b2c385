import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/datapath/netlink/errors.js';
import { AttributeReader, MessageWriter } from '../../../src/datapath/netlink/message.js';
import {
  maskInPlace,
  readKey,
  readMask,
  writeKey,
  writeMask,
  writePacketMetadata,
} from '../../../src/datapath/ovs/key-codec.js';
import { KeyAttr, TunnelAttr } from '../../../src/datapath/ovs/uapi.js';
import { FlowKey, TunnelFlag, VLAN_PRESENT, Word } from '../../../src/flow/key.js';
import { FlowMask } from '../../../src/flow/mask.js';
import { masks, packetKeys } from './arbitraries.js';

const NEST = 1;
const ALL = 0xffff_ffff;

/** Bytes of the attributes inside the one attribute that `write` writes. */
function inside(write: (writer: MessageWriter) => void): Uint8Array {
  const writer = new MessageWriter();
  write(writer);
  return writer.bytes.slice(4, writer.length);
}

const encodeKey = (key: FlowKey, mask: FlowMask): Uint8Array => inside((w) => writeKey(w, NEST, key, mask));
const encodeMask = (key: FlowKey, mask: FlowMask): Uint8Array => inside((w) => writeMask(w, NEST, key, mask));

interface Attribute {
  readonly type: number;
  readonly payload: Uint8Array;
}

function attributes(bytes: Uint8Array): Attribute[] {
  const reader = new AttributeReader();
  reader.reset(bytes);
  const found: Attribute[] = [];
  while (reader.next()) {
    found.push({ type: reader.type, payload: reader.raw().slice() });
  }
  return found;
}

/** Attributes by number, with what is inside ENCAP on the same level, as the kernel sees them. */
function flattened(bytes: Uint8Array): Map<number, Uint8Array> {
  const map = new Map<number, Uint8Array>();
  for (const { type, payload } of attributes(bytes)) {
    map.set(type, payload);
  }
  const encap = map.get(KeyAttr.ENCAP);
  if (encap !== undefined && encap.length > 0) {
    map.delete(KeyAttr.ETHERTYPE);
    for (const [type, payload] of flattened(encap)) {
      map.set(type, payload);
    }
  }
  return map;
}

test('a packet key survives writing and reading', (t) => {
  fc.assert(
    fc.property(packetKeys, (key) => {
      const bytes = encodeKey(key, FlowMask.exact());
      const back = new FlowKey();
      t.true(readKey(bytes, 0, bytes.length, back));
      t.deepEqual([...back.words], [...key.words]);
    }),
  );
});

test('a mask matches the same fields of its key after writing and reading', (t) => {
  fc.assert(
    fc.property(packetKeys, masks, (key, mask) => {
      const keyBytes = encodeKey(key, mask);
      const maskBytes = encodeMask(key, mask);
      const back = new FlowMask();
      t.true(readMask(maskBytes, 0, maskBytes.length, key, back));
      const keyBack = new FlowKey();
      readKey(keyBytes, 0, keyBytes.length, keyBack);
      // Every bit that the mask asked for, of a field that the key has, is matched; more only where the kernel insists.
      for (let i = 0; i < key.words.length; i++) {
        t.is((key.words[i] & mask.words[i] & ~back.words[i]) >>> 0, 0, `word ${i} lost bits`);
        if (back.words[i] !== 0 && mask.words[i] === 0) {
          t.true(WIDENED.has(i), `word ${i} was widened`);
        }
      }
      // Reading what was written and writing it again changes nothing more.
      const again = encodeMask(key, back);
      const third = new FlowMask();
      readMask(again, 0, again.length, key, third);
      t.deepEqual([...third.words], [...back.words]);
      maskInPlace(keyBack, back);
      t.true(keyBack.equalsMasked(key, back));
    }),
  );
});

/** Words that the kernel may match more of than it was asked to. */
const WIDENED = new Set<number>([
  Word.VLAN_TCI,
  Word.VLAN_TPID,
  Word.ETH_TYPE,
  Word.NW_PROTO,
  Word.TP_SRC,
  Word.TUN_ID,
  Word.TUN_DST,
  Word.TUN_FLAGS,
]);

test('key and mask obey the kernel rules of match_validate', (t) => {
  fc.assert(
    fc.property(packetKeys, masks, (key, mask) => {
      const keys = flattened(encodeKey(key, mask));
      const bits = flattened(encodeMask(key, mask));
      const { ethType, nwProto, nwFrag } = key;
      const v4 = ethType === 0x0800;
      const v6 = ethType === 0x86dd;
      const arp = ethType === 0x0806 || ethType === 0x8035;
      const transport = (v4 || v6) && nwFrag !== 2;
      const icmp6 = transport && v6 && nwProto === 58;
      const expected: [number, boolean][] = [
        [KeyAttr.ETHERNET, true],
        [KeyAttr.IPV4, v4],
        [KeyAttr.IPV6, v6],
        [KeyAttr.ARP, arp],
        [KeyAttr.TCP, transport && nwProto === 6],
        [KeyAttr.TCP_FLAGS, transport && nwProto === 6],
        [KeyAttr.UDP, transport && nwProto === 17],
        [KeyAttr.SCTP, transport && nwProto === 132],
        [KeyAttr.ICMP, transport && v4 && nwProto === 1],
        [KeyAttr.ICMPV6, icmp6],
        [KeyAttr.ND, icmp6 && (key.tpSrc === 135 || key.tpSrc === 136)],
      ];
      for (const [type, there] of expected) {
        t.is(keys.has(type), there, `key attribute ${type}`);
      }
      // A mask attribute needs the key's, and all of them need bits.
      const free = new Set<number>([KeyAttr.TUNNEL, KeyAttr.IN_PORT, KeyAttr.ETHERTYPE]);
      for (const [type, payload] of bits) {
        t.true(keys.has(type) || free.has(type), `mask attribute ${type} without key`);
        t.true(
          payload.some((byte) => byte !== 0),
          `mask attribute ${type} without bits`,
        );
      }
      const exactType = bits.get(KeyAttr.ETHERTYPE)?.every((byte) => byte === 0xff) ?? false;
      const layer3 = [KeyAttr.IPV4, KeyAttr.IPV6, KeyAttr.ARP].some((type) => bits.has(type));
      const layer4 = [KeyAttr.TCP, KeyAttr.TCP_FLAGS, KeyAttr.UDP, KeyAttr.SCTP, KeyAttr.ICMP, KeyAttr.ICMPV6].some(
        (type) => bits.has(type),
      );
      const protocolBits = bits.get(KeyAttr.IPV4)?.[8] ?? bits.get(KeyAttr.IPV6)?.[36] ?? 0;
      t.true(!layer3 || exactType);
      t.true(!layer4 || protocolBits === 0xff);
      t.true(!bits.has(KeyAttr.ND) || bits.get(KeyAttr.ICMPV6)?.[0] === 0xff);
      if (key.vlanTci !== 0) {
        t.true(keys.has(KeyAttr.VLAN) && bits.has(KeyAttr.VLAN));
        t.not(bits.get(KeyAttr.VLAN)![0] & 0x10, 0);
      }
    }),
  );
});

test('a TCP key has the bytes of the kernel structures', (t) => {
  const key = new FlowKey();
  key.inPort = 3;
  key.ethSrc = 0x0a0b0c0d0e0f;
  key.ethDst = 0x010203040506;
  key.ethType = 0x0800;
  key.ipv4Src = 0x0a000001;
  key.ipv4Dst = 0x0a000002;
  key.nwProto = 6;
  key.nwTtl = 64;
  key.tpSrc = 1024;
  key.tpDst = 80;
  key.tcpFlags = 2;
  const hex = attributes(encodeKey(key, new FlowMask())).map((a) => [a.type, Buffer.from(a.payload).toString('hex')]);
  t.deepEqual(hex, [
    [KeyAttr.IN_PORT, '03000000'],
    [KeyAttr.ETHERNET, '0a0b0c0d0e0f010203040506'],
    [KeyAttr.ETHERTYPE, '0800'],
    [KeyAttr.IPV4, '0a0000010a00000206004000'],
    [KeyAttr.TCP, '04000050'],
    [KeyAttr.TCP_FLAGS, '0002'],
  ]);
});

test('a tagged frame nests what follows the tag', (t) => {
  const key = new FlowKey();
  key.vlanTci = 0x0005 | VLAN_PRESENT;
  key.vlanTpid = 0x88a8;
  key.ethType = 0x88cc;
  const mask = new FlowMask();
  const keys = attributes(encodeKey(key, mask));
  t.deepEqual(
    keys.map((a) => a.type),
    [KeyAttr.IN_PORT, KeyAttr.ETHERNET, KeyAttr.ETHERTYPE, KeyAttr.VLAN, KeyAttr.ENCAP],
  );
  t.is(Buffer.from(keys[2].payload).toString('hex'), '88a8');
  t.is(Buffer.from(keys[3].payload).toString('hex'), '1005');
  const bits = attributes(encodeMask(key, mask));
  t.is(Buffer.from(bits[0].payload).toString('hex'), 'ffff', 'the kind of tag is always matched');
  t.is(Buffer.from(bits[1].payload).toString('hex'), '1000', 'VLAN and priority are not, only the presence of the tag');
});

test('a mask on metadata puts the attribute into the key, zero or not', (t) => {
  const key = new FlowKey();
  const mask = new FlowMask();
  mask.seeDpHash(7);
  mask.seeRecircId();
  mask.seeCtState(0x20);
  const types = attributes(encodeKey(key, mask)).map((a) => a.type);
  t.true(types.includes(KeyAttr.DP_HASH) && types.includes(KeyAttr.RECIRC_ID) && types.includes(KeyAttr.CT_STATE));
});

test('a tunnel key by its id matches nothing else of the tunnel', (t) => {
  const key = new FlowKey();
  key.tunId = 77;
  key.tunDst = 0x7f000001;
  key.tunTtl = 64;
  const mask = new FlowMask();
  mask.seeTunId();
  const tunnel = attributes(encodeMask(key, mask)).find((a) => a.type === KeyAttr.TUNNEL)!;
  const inner = attributes(tunnel.payload);
  t.deepEqual(
    inner.map((a) => [a.type, a.payload.reduce((sum, byte) => sum + byte, 0)]),
    [
      [TunnelAttr.ID, 4 * 255],
      [TunnelAttr.TTL, 0],
    ],
  );
  const keyTunnel = attributes(encodeKey(key, mask)).find((a) => a.type === KeyAttr.TUNNEL)!;
  t.deepEqual(
    attributes(keyTunnel.payload).map((a) => a.type),
    [TunnelAttr.ID, TunnelAttr.IPV4_DST, TunnelAttr.TTL],
  );
});

test('that a packet came through no tunnel can be matched', (t) => {
  const key = new FlowKey();
  const mask = new FlowMask();
  mask.seeTunId();
  const keyTypes = attributes(encodeKey(key, mask)).map((a) => a.type);
  t.false(keyTypes.includes(KeyAttr.TUNNEL));
  const bytes = encodeMask(key, mask);
  t.true(attributes(bytes).some((a) => a.type === KeyAttr.TUNNEL));
  const back = new FlowMask();
  readMask(bytes, 0, bytes.length, key, back);
  t.is(back.tunId, ALL);
  t.is(back.tunDst, ALL);
});

test('metadata of an execute leaves out headers', (t) => {
  const key = new FlowKey();
  key.inPort = 4;
  key.ethType = 0x0800;
  key.ctState = 0x22;
  key.tunDst = 1;
  key.tunFlags = TunnelFlag.KEY;
  const types = attributes(inside((w) => writePacketMetadata(w, NEST, key))).map((a) => a.type);
  t.deepEqual(types, [KeyAttr.TUNNEL, KeyAttr.IN_PORT, KeyAttr.CT_STATE]);
});

/** An upcall key of an IPv4 packet with more attributes in front. */
function upcallWith(write: (writer: MessageWriter) => void): Uint8Array {
  return inside((w) => {
    const nest = w.nest(NEST);
    write(w);
    w.attribute(KeyAttr.ETHERNET, 12);
    w.be16(KeyAttr.ETHERTYPE, 0x0800);
    w.attribute(KeyAttr.IPV4, 12);
    w.endNest(nest);
  });
}

test('what a flow may leave out keeps a key complete', (t) => {
  const bytes = upcallWith((w) => {
    w.u32(KeyAttr.SKB_MARK, 5);
    w.u32(KeyAttr.PRIORITY, 6);
    w.attribute(KeyAttr.CT_ORIG_TUPLE_IPV4, 16);
    w.attribute(KeyAttr.CT_ORIG_TUPLE_IPV6, 40);
    w.u16(KeyAttr.IPV6_EXTHDRS, 3);
    const tunnel = w.nest(KeyAttr.TUNNEL);
    w.be64(TunnelAttr.ID, 9);
    w.be32(TunnelAttr.IPV4_DST, 1);
    w.be16(TunnelAttr.TP_SRC, 40000);
    w.be16(TunnelAttr.TP_DST, 4789);
    w.u8(TunnelAttr.TTL, 64);
    w.endNest(tunnel);
  });
  const key = new FlowKey();
  t.true(readKey(bytes, 0, bytes.length, key));
  t.is(key.skbMark, 5);
  t.is(key.priority, 6);
  t.is(key.tunId, 9);
  t.is(key.tunFlags, TunnelFlag.KEY);
});

const incomplete: Record<string, (writer: MessageWriter) => void> = {
  MPLS: (w) => w.be32(KeyAttr.MPLS, 1),
  NSH: (w) => w.endNest(w.nest(KeyAttr.NSH)),
  'an attribute of a newer kernel': (w) => w.u32(33, 0),
  'a tunnel over IPv6': (w) => {
    const tunnel = w.nest(KeyAttr.TUNNEL);
    w.attribute(TunnelAttr.IPV6_DST, 16);
    w.endNest(tunnel);
  },
  'tunnel options': (w) => {
    const tunnel = w.nest(KeyAttr.TUNNEL);
    w.be32(TunnelAttr.IPV4_DST, 1);
    w.attribute(TunnelAttr.GENEVE_OPTS, 8);
    w.endNest(tunnel);
  },
  'a tunnel key of 64 bits': (w) => {
    const tunnel = w.nest(KeyAttr.TUNNEL);
    w.be64(TunnelAttr.ID, 2 ** 40);
    w.endNest(tunnel);
  },
};

for (const [what, write] of Object.entries(incomplete)) {
  test(`a key with ${what} is not complete`, (t) => {
    const bytes = upcallWith(write);
    t.false(readKey(bytes, 0, bytes.length, new FlowKey()));
  });
}

test('a second VLAN tag is not complete, and the first is kept', (t) => {
  const bytes = inside((w) => {
    const nest = w.nest(NEST);
    w.attribute(KeyAttr.ETHERNET, 12);
    w.be16(KeyAttr.ETHERTYPE, 0x88a8);
    w.be16(KeyAttr.VLAN, 0x1007);
    const first = w.nest(KeyAttr.ENCAP);
    w.be16(KeyAttr.ETHERTYPE, 0x8100);
    w.be16(KeyAttr.VLAN, 0x1008);
    const second = w.nest(KeyAttr.ENCAP);
    w.be16(KeyAttr.ETHERTYPE, 0x0800);
    w.attribute(KeyAttr.IPV4, 12);
    w.endNest(second);
    w.endNest(first);
    w.endNest(nest);
  });
  const key = new FlowKey();
  t.false(readKey(bytes, 0, bytes.length, key));
  t.is(key.vlanTci, 0x1007);
  t.is(key.vlanTpid, 0x88a8);
  t.is(key.ethType, 0x8100);
});

test('a truncated VLAN tag and a packet without Ethernet header are not complete', (t) => {
  const truncated = inside((w) => {
    const nest = w.nest(NEST);
    w.attribute(KeyAttr.ETHERNET, 12);
    w.be16(KeyAttr.ETHERTYPE, 0x8100);
    w.be16(KeyAttr.VLAN, 0);
    w.endNest(w.nest(KeyAttr.ENCAP));
    w.endNest(nest);
  });
  const key = new FlowKey();
  t.false(readKey(truncated, 0, truncated.length, key));
  t.is(key.ethType, 0x8100);
  t.is(key.vlanTci, 0);
  const layer3 = inside((w) => {
    const nest = w.nest(NEST);
    w.be16(KeyAttr.ETHERTYPE, 0x0800);
    w.endNest(nest);
  });
  t.false(readKey(layer3, 0, layer3.length, key));
});

test('masks of dumped flows: the port is matched or not, unknown bits make them incomplete', (t) => {
  const key = new FlowKey();
  key.ethType = 0x0800;
  const dumped = (port: number, orig: number): Uint8Array =>
    inside((w) => {
      const nest = w.nest(NEST);
      w.u32(KeyAttr.IN_PORT, port);
      w.view.setUint32(w.attribute(KeyAttr.CT_ORIG_TUPLE_IPV4, 16), orig);
      w.endNest(nest);
    });
  const mask = new FlowMask();
  const wild = dumped(0xffff_0000, 0);
  t.true(readMask(wild, 0, wild.length, key, mask));
  t.is(mask.inPort, 0);
  const exact = dumped(ALL, 0);
  t.true(readMask(exact, 0, exact.length, key, mask));
  t.is(mask.inPort, ALL);
  t.is(mask.vlanTci, 0xffff, 'an untagged key matches untagged packets only');
  const foreign = dumped(ALL, 1);
  t.false(readMask(foreign, 0, foreign.length, key, mask));
});

test('garbage is refused with a ProtocolError and nothing else', (t) => {
  const key = new FlowKey();
  const mask = new FlowMask();
  const check = (bytes: Uint8Array): void => {
    for (const read of [
      () => readKey(bytes, 0, bytes.length, key),
      () => readMask(bytes, 0, bytes.length, key, mask),
    ]) {
      try {
        read();
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
      }
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200, size: 'max' }), check), { numRuns: 500 });
  // Damaged keys: most of the way through is well-formed.
  fc.assert(
    fc.property(packetKeys, fc.nat(), fc.integer({ min: 0, max: 255 }), fc.nat(), (packet, at, byte, cut) => {
      const bytes = encodeKey(packet, FlowMask.exact());
      bytes[at % bytes.length] = byte;
      check(bytes.subarray(0, bytes.length - (cut % 4 === 0 ? cut % bytes.length : 0)));
    }),
    { numRuns: 1000 },
  );
  t.pass();
});
