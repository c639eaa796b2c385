import test from 'ava';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey, Frag, VLAN_PRESENT, Word } from '../../src/flow/key.js';
import { buildArp } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho } from '../../src/packet/icmp.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildNeighborAdvertisement, buildNeighborSolicitation } from '../../src/packet/nd.js';
import { buildTcp } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';

const A = [0xfd00_0000, 0, 0, 1] as const;
const B = [0xfd00_0000, 0, 0, 2] as const;

function extract(frame: Uint8Array): { key: FlowKey; complete: boolean } {
  const key = new FlowKey();
  return { complete: extractKey(frame, key), key };
}

function frame(type: number, payload: Uint8Array): Uint8Array {
  return buildEthernet({ dst: 0x0200_0000_0002, src: 0x0200_0000_0001, type }, payload);
}

const udp = buildUdp(1111, 2222);

test('IPv4 with TCP, UDP, SCTP and ICMP', (t) => {
  const tcp = buildTcp({ srcPort: 1, dstPort: 2, flags: 0xfff });
  const { key, complete } = extract(
    frame(EtherType.IPV4, buildIpv4({ src: 5, dst: 6, protocol: 6, tos: 7, ttl: 8 }, tcp)),
  );
  t.true(complete);
  t.like(key, {
    ethDst: 0x0200_0000_0002,
    ethSrc: 0x0200_0000_0001,
    ethType: EtherType.IPV4,
    vlanTci: 0,
    ipv4Src: 5,
    ipv4Dst: 6,
    nwProto: 6,
    nwTos: 7,
    nwTtl: 8,
    nwFrag: Frag.NONE,
    tpSrc: 1,
    tpDst: 2,
    tcpFlags: 0xfff,
  });
  t.like(extract(frame(EtherType.IPV4, buildIpv4({ src: 5, dst: 6, protocol: 17 }, udp))).key, {
    tpSrc: 1111,
    tpDst: 2222,
    tcpFlags: 0,
  });
  const sctp = new Uint8Array(12);
  sctp.set([0, 9, 0, 10]);
  t.like(extract(frame(EtherType.IPV4, buildIpv4({ src: 5, dst: 6, protocol: 132 }, sctp))).key, {
    tpSrc: 9,
    tpDst: 10,
  });
  t.like(extract(frame(EtherType.IPV4, buildIpv4({ src: 5, dst: 6, protocol: 1 }, buildIcmpEcho(8, 1, 1)))).key, {
    tpSrc: 8,
    tpDst: 0,
  });
});

test('fragments', (t) => {
  const fragment = (offset: number, more: boolean) =>
    extract(frame(EtherType.IPV4, buildIpv4({ src: 5, dst: 6, protocol: 17, fragment: { offset, more } }, udp))).key;
  t.like(fragment(0, true), { nwFrag: Frag.FIRST, tpSrc: 1111, tpDst: 2222 });
  t.like(fragment(8, true), { nwFrag: Frag.LATER, tpSrc: 0, tpDst: 0, nwProto: 17, ipv4Src: 5 });
  const fragment6 = (offset: number, more: boolean) =>
    extract(frame(EtherType.IPV6, buildIpv6({ src: A, dst: B, protocol: 17, fragment: { offset, more, id: 1 } }, udp)))
      .key;
  t.like(fragment6(0, true), { nwFrag: Frag.FIRST, tpSrc: 1111, nwProto: 17 });
  const odd = buildIpv6({ src: A, dst: B, protocol: 60, fragment: { offset: 8, more: true, id: 1 } }, udp);
  t.like(extract(frame(EtherType.IPV6, odd)).key, { nwFrag: Frag.FIRST, nwProto: 59, tpSrc: 0 });
  t.like(fragment6(8, false), { nwFrag: Frag.LATER, tpSrc: 0, nwProto: 17 });
});

test('malformed headers leave zeros as in the kernel', (t) => {
  const packet = frame(
    EtherType.IPV4,
    buildIpv4({ src: 5, dst: 6, protocol: 6 }, buildTcp({ srcPort: 1, dstPort: 2 })),
  );
  t.like(extract(packet.slice(0, 33)).key, { ethType: EtherType.IPV4, ipv4Src: 0, nwProto: 0, nwTtl: 0 });
  t.like(extract(packet.slice(0, 53)).key, { ipv4Src: 5, nwProto: 6, tpSrc: 0, tcpFlags: 0 });
  const short = packet.slice();
  short[14] = 0x44;
  t.like(extract(short).key, { ipv4Src: 0, nwProto: 0 });
  const offset = packet.slice();
  offset[14 + 20 + 12] = 0x40;
  t.like(extract(offset).key, { ipv4Src: 5, tpSrc: 0 });
  // Neither the version nor the length field is looked at.
  const version = packet.slice();
  version[14] = 0x65;
  version[17] = 1;
  t.like(extract(version).key, { ipv4Src: 5, tpSrc: 1 });
  // Extension headers that are cut short: the protocol is "no next header".
  const chain = buildIpv6(
    { src: A, dst: B, protocol: 6, extensions: [{ type: IpProtocol.HOP_BY_HOP, body: new Uint8Array(6) }] },
    new Uint8Array(0),
  );
  t.like(extract(frame(EtherType.IPV6, chain.slice(0, 41))).key, { nwProto: 59, nwTtl: 64 });
  t.is(extract(frame(EtherType.IPV6, chain.slice(0, 39))).key.nwTtl, 0);
  t.false(extract(new Uint8Array(13)).complete);
});

test('VLAN tags', (t) => {
  const tagged = (tags: { id: number; tpid?: number; priority?: number }[]) =>
    extract(
      buildEthernet(
        { dst: 1, src: 2, type: EtherType.IPV4, vlans: tags },
        buildIpv4({ src: 5, dst: 6, protocol: 17 }, udp),
      ),
    );
  const one = tagged([{ id: 42, priority: 5 }]);
  t.true(one.complete);
  t.like(one.key, { vlanTci: VLAN_PRESENT | 0xa000 | 42, vlanTpid: 0x8100, ethType: EtherType.IPV4, tpSrc: 1111 });
  t.is(tagged([{ id: 0 }]).key.vlanTci, VLAN_PRESENT);
  const two = tagged([{ id: 1, tpid: 0x88a8 }, { id: 2 }]);
  t.false(two.complete);
  t.like(two.key, { vlanTci: VLAN_PRESENT | 1, vlanTpid: 0x88a8, ethType: EtherType.IPV4, tpSrc: 1111 });
  const cut = buildEthernet({ dst: 1, src: 2, type: EtherType.IPV4, vlans: [{ id: 9 }] }, new Uint8Array(0)).slice(
    0,
    17,
  );
  t.like(extract(cut).key, { vlanTci: 0, ethType: 0x8100 });
});

test('frames with a length: LLC and SNAP', (t) => {
  const ip = buildIpv4({ src: 5, dst: 6, protocol: 17 }, udp);
  const snap = frame(8 + ip.length, new Uint8Array([0xaa, 0xaa, 3, 0, 0, 0, 8, 0, ...ip]));
  t.like(extract(snap).key, { ethType: EtherType.IPV4, ipv4Src: 5, tpSrc: 1111 });
  const cisco = frame(8 + ip.length, new Uint8Array([0xaa, 0xaa, 3, 0, 0, 12, 8, 0, ...ip]));
  t.like(extract(cisco).key, { ethType: EtherType.LLC, ipv4Src: 0 });
  t.is(extract(frame(3, new Uint8Array([0x42, 0x42, 3]))).key.ethType, EtherType.LLC);
});

test('ARP and RARP', (t) => {
  const arp = buildArp({ op: 2, senderMac: 11, senderIp: 12, targetMac: 13, targetIp: 14 });
  for (const type of [EtherType.ARP, EtherType.RARP]) {
    t.like(extract(frame(type, arp)).key, { nwProto: 2, arpSha: 11, ipv4Src: 12, arpTha: 13, ipv4Dst: 14 });
  }
  const odd = arp.slice();
  odd[6] = 1;
  t.like(extract(frame(EtherType.ARP, odd)).key, { nwProto: 0, arpSha: 11 });
  const tokenRing = arp.slice();
  tokenRing[1] = 6;
  t.like(extract(frame(EtherType.ARP, tokenRing)).key, { nwProto: 0, arpSha: 0, ipv4Src: 0 });
});

test('neighbour discovery', (t) => {
  const solicitation = buildNeighborSolicitation({ src: A, srcMac: 7, target: B });
  const { key } = extract(solicitation);
  t.like(key, { nwProto: 58, tpSrc: 135, tpDst: 0, arpSha: 7, arpTha: 0, nwTtl: 255 });
  t.deepEqual([...key.words.subarray(Word.ND_TARGET, Word.ND_TARGET + 4)], [...B]);
  const advertisement = buildNeighborAdvertisement({ target: B, targetMac: 8, dst: A, dstMac: 7 });
  t.like(extract(advertisement).key, { tpSrc: 136, arpSha: 0, arpTha: 8 });
  // The same option twice voids the message.
  const twice = new Uint8Array([...advertisement, ...advertisement.slice(-8)]);
  const voided = extract(twice).key;
  t.is(voided.arpTha, 0);
  t.true(voided.words.subarray(Word.ND_TARGET, Word.ND_TARGET + 4).every((word) => word === 0));
});

test('MPLS and NSH make a key incomplete', (t) => {
  for (const type of [0x8847, 0x8848, 0x894f]) t.false(extract(frame(type, new Uint8Array(20))).complete);
  t.true(extract(frame(0x9999, new Uint8Array(20))).complete);
});
