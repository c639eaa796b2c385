import { Word } from '../src/flow/key.js';
import { packetKey, parsePacket } from '../src/flow/packet-text.js';
import { buildEthernet, EtherType } from '../src/packet/ethernet.js';
import { buildIcmpEcho, IcmpType } from '../src/packet/icmp.js';
import { IpProtocol } from '../src/packet/ip-protocol.js';
import { buildIpv4 } from '../src/packet/ipv4.js';
import { buildTcp } from '../src/packet/tcp.js';
import { buildUdp } from '../src/packet/udp.js';

/**
 * A packet of IPv4 as the machine would send it: TCP, UDP, or an echo request.
 * @param text as parsePacket takes it, with both MAC addresses
 * @param mark what it carries, to tell it from all others
 */
export function packetFrame(text: string, mark: string): Uint8Array {
  const key = packetKey(parsePacket(text));
  const payload = Buffer.from(mark);
  const [src] = key.words.subarray(Word.NW_SRC);
  const [dst] = key.words.subarray(Word.NW_DST);
  const inner =
    key.nwProto === IpProtocol.TCP
      ? buildTcp({ srcPort: key.tpSrc, dstPort: key.tpDst, flags: key.tcpFlags }, payload)
      : key.nwProto === IpProtocol.UDP
        ? buildUdp(key.tpSrc, key.tpDst, payload)
        : buildIcmpEcho(IcmpType.ECHO_REQUEST, 1, 1, payload);
  const ip = buildIpv4({ src, dst, protocol: key.nwProto, ttl: key.nwTtl }, inner);
  return buildEthernet({ dst: key.ethDst, src: key.ethSrc, type: EtherType.IPV4 }, ip);
}
