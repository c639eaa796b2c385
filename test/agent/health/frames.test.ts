import test from 'ava';
import fc from 'fast-check';
import {
  buildQuestion,
  buildReset,
  type HealthAnswer,
  type HealthQuestion,
  parseAnswer,
} from '../../../src/agent/health/frames.js';
import { extractKey } from '../../../src/flow/extract.js';
import { FlowKey } from '../../../src/flow/key.js';
import { buildEthernet, ETHERNET_HEADER, EtherType } from '../../../src/packet/ethernet.js';
import { buildIcmpError, IcmpType, UnreachableCode } from '../../../src/packet/icmp.js';
import { buildIcmpv6Error, Icmpv6Type, Unreachable6Code } from '../../../src/packet/icmpv6.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildIpv6 } from '../../../src/packet/ipv6.js';
import { buildTcp, TcpFlag } from '../../../src/packet/tcp.js';

const FAMILIES = [
  { src: [0x0a63_0001], dst: [0x0a01_0005] },
  { src: [0xfd00_0000, 0, 0, 1], dst: [0xfd01_0000, 0, 0, 5] },
] as const;

const PROTOCOLS = [IpProtocol.TCP, IpProtocol.UDP, IpProtocol.SCTP];
const MAC = { here: 2, there: 4 };

function questions(): HealthQuestion[] {
  return FAMILIES.flatMap(({ src, dst }) =>
    PROTOCOLS.map((protocol) => ({ protocol, src, dst, srcPort: 864, dstPort: 8080, token: 0xffff_fff7 })),
  );
}

function keyOf(frame: Uint8Array): FlowKey {
  const key = new FlowKey();
  extractKey(frame, key);
  return key;
}

/** A segment from the member. */
function segment({ src, dst, srcPort, dstPort }: HealthQuestion, ack: number, flags: number): Uint8Array {
  const tcp = buildTcp({ srcPort: dstPort, dstPort: srcPort, seq: 1, ack, flags });
  const isIpv4 = src.length === 1;
  const packet = isIpv4
    ? buildIpv4({ src: dst[0], dst: src[0], protocol: IpProtocol.TCP }, tcp)
    : buildIpv6({ src: dst, dst: src, protocol: IpProtocol.TCP }, tcp);
  return buildEthernet({ src: MAC.there, dst: MAC.here, type: isIpv4 ? EtherType.IPV4 : EtherType.IPV6 }, packet);
}

test('a question has the addresses, ports and MAC addresses that it is to have', (t) => {
  for (const question of questions()) {
    const key = keyOf(buildQuestion(question, MAC.here, MAC.there));
    t.deepEqual(
      [key.ethSrc, key.ethDst, key.nwProto, key.tpSrc, key.tpDst],
      [MAC.here, MAC.there, question.protocol, question.srcPort, question.dstPort],
    );
  }
});

test('a segment that accepts answers the question by its number, which may wrap, and one that refuses does', (t) => {
  for (const question of questions()) {
    const { token, ...path } = question;
    if (path.protocol !== IpProtocol.TCP) continue;
    for (const isn of [token, 0xffff_ffff, 1]) {
      const ack = (isn + 1) >>> 0;
      const expected = { path, token: isn } satisfies Partial<HealthAnswer>;
      t.deepEqual(parseAnswer(segment(question, ack, TcpFlag.SYN | TcpFlag.ACK)), { ...expected, verdict: 'accepted' });
      t.deepEqual(parseAnswer(segment(question, ack, TcpFlag.RST | TcpFlag.ACK)), { ...expected, verdict: 'refused' });
    }
    t.is(parseAnswer(segment(question, 5, TcpFlag.ACK)), undefined);
    t.is(parseAnswer(segment(question, 5, TcpFlag.SYN)), undefined);
  }
});

test('an ICMP error answers the question that it quotes, by the short token; one about its size does not', (t) => {
  for (const question of questions()) {
    const { token, ...path } = question;
    const frame = buildQuestion(question, MAC.here, MAC.there);
    const isIpv4 = path.src.length === 1;
    const about = (type: number, code: number) => {
      const error = isIpv4
        ? buildIcmpError(type, code, path.dst[0], frame, ETHERNET_HEADER)!
        : buildIcmpv6Error(type, code, path.dst, frame, ETHERNET_HEADER)!;
      const type_ = isIpv4 ? EtherType.IPV4 : EtherType.IPV6;
      return parseAnswer(buildEthernet({ src: MAC.there, dst: MAC.here, type: type_ }, error));
    };
    const unreachable = isIpv4
      ? about(IcmpType.UNREACHABLE, UnreachableCode.PORT)
      : about(Icmpv6Type.UNREACHABLE, Unreachable6Code.PORT);
    t.deepEqual(unreachable, { path, token: token & 0xffff, verdict: 'unreachable' });
    const tooBig = isIpv4
      ? about(IcmpType.UNREACHABLE, UnreachableCode.FRAGMENTATION_NEEDED)
      : about(Icmpv6Type.PACKET_TOO_BIG, 0);
    t.is(tooBig, undefined);
  }
});

test('a reset ends what the question began', (t) => {
  const [question] = questions();
  const frame = buildReset(question, MAC.here, MAC.there);
  const at = ETHERNET_HEADER + 20;
  const view = new DataView(frame.buffer);
  t.is(view.getUint32(at + 4), question.token + 1);
  t.is(frame[at + 13], TcpFlag.RST);
  t.is(keyOf(frame).tpDst, question.dstPort);
});

test('frames that are cut anywhere say nothing, and nothing throws', (t) => {
  for (const question of questions()) {
    for (const frame of [
      buildQuestion(question, MAC.here, MAC.there),
      segment(question, 9, TcpFlag.SYN | TcpFlag.ACK),
    ]) {
      for (let length = 0; length < frame.length; length++) t.is(parseAnswer(frame.subarray(0, length)), undefined);
    }
  }
});

test('whatever comes says something or nothing, and nothing throws', (t) => {
  const starts = questions().map((question) => buildQuestion(question, MAC.here, MAC.there));
  fc.assert(
    fc.property(
      fc.constantFrom(...starts),
      fc.array(fc.tuple(fc.nat(80), fc.nat(255)), { maxLength: 12 }),
      (start, changes) => {
        const frame = start.slice();
        for (const [at, byte] of changes) if (at < frame.length) frame[at] = byte;
        parseAnswer(frame);
      },
    ),
    { numRuns: 2000 },
  );
  t.pass();
});
