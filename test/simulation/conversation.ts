import { readU16, readU32 } from '../../src/packet/big-endian.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import {
  buildIcmpEcho,
  buildIcmpError,
  ICMP_HEADER,
  IcmpType,
  isIcmpError,
  UnreachableCode,
} from '../../src/packet/icmp.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildTcp, TcpFlag } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import type { Hosts } from './hosts.js';

/** What a machine sees of a packet: addresses and ports, of ICMP the identifier as both. */
export interface Seen {
  readonly at: string;
  readonly src: number;
  readonly dst: number;
  readonly srcPort: number;
  readonly dstPort: number;
  readonly frame: Uint8Array;
}

const IP = 14;
const TRANSPORT = 34;

/** What came to machines. */
export function seen([at, frame]: [string, Uint8Array]): Seen {
  const isIcmp = frame[IP + 9] === IpProtocol.ICMP;
  return {
    at,
    src: readU32(frame, IP + 12),
    dst: readU32(frame, IP + 16),
    srcPort: readU16(frame, TRANSPORT + (isIcmp ? 4 : 0)),
    dstPort: readU16(frame, TRANSPORT + (isIcmp ? 4 : 2)),
    frame,
  };
}

export interface Packet {
  readonly protocol: 'tcp' | 'udp' | 'icmp';
  readonly to: number;
  readonly srcPort: number;
  readonly dstPort: number;
  /** Of TCP; that of a packet which opens a connection when absent. */
  readonly flags?: number;
  readonly ttl?: number;
  readonly from?: number;
}

/** The machine sends a packet; returns what comes to machines. */
export function send(hosts: Hosts, name: string, packet: Packet): Seen[] {
  return hosts.send(name, frameOf(hosts, name, packet)).map(seen);
}

/** A UDP datagram in two fragments. */
export function sendInFragments(hosts: Hosts, name: string, { to, srcPort, dstPort }: Packet): Seen[] {
  const { ip: src, mac } = hosts.machine(name);
  const bytes = buildIpv4({ src, dst: to, protocol: IpProtocol.UDP }, buildUdp(srcPort, dstPort, new Uint8Array(40)));
  const data = bytes.subarray(20);
  const frames = [0, 24].map((offset) => {
    const fragment = { offset, more: offset === 0 };
    const part = data.subarray(offset, offset === 0 ? 24 : undefined);
    const packet = buildIpv4({ src, dst: to, protocol: IpProtocol.UDP, id: 7, fragment }, part);
    return buildEthernet({ dst: hosts.gatewayFor(hosts.machine(name), to), src: mac, type: EtherType.IPV4 }, packet);
  });
  return frames.flatMap((frame) => hosts.send(name, frame).map(seen));
}

export function frameOf(hosts: Hosts, name: string, packet: Packet): Uint8Array {
  const machine = hosts.machine(name);
  const { to, srcPort, dstPort, flags = TcpFlag.SYN, ttl = 64, from = machine.ip } = packet;
  let payload: Uint8Array;
  let protocol: number;
  if (packet.protocol === 'tcp') {
    protocol = IpProtocol.TCP;
    payload = buildTcp({ srcPort, dstPort, flags });
  } else if (packet.protocol === 'udp') {
    protocol = IpProtocol.UDP;
    payload = buildUdp(srcPort, dstPort, new Uint8Array(8));
  } else {
    protocol = IpProtocol.ICMP;
    payload = buildIcmpEcho(flags === TcpFlag.SYN ? IcmpType.ECHO_REQUEST : IcmpType.ECHO_REPLY, srcPort, 1);
  }
  return buildEthernet(
    { dst: hosts.gatewayFor(machine, to), src: machine.mac, type: EtherType.IPV4 },
    buildIpv4({ src: from, dst: to, protocol, ttl }, payload),
  );
}

export function isError({ frame }: Seen): boolean {
  return frame[IP + 9] === IpProtocol.ICMP && isIcmpError(frame[TRANSPORT]);
}

/** What an ICMP error speaks of: addresses and ports of the packet in it. */
export function quoted({ frame }: Seen): { src: number; dst: number; srcPort: number; dstPort: number } {
  const inner = TRANSPORT + ICMP_HEADER;
  const isIcmp = frame[inner + 9] === IpProtocol.ICMP;
  return {
    src: readU32(frame, inner + 12),
    dst: readU32(frame, inner + 16),
    srcPort: readU16(frame, inner + 20 + (isIcmp ? 4 : 0)),
    dstPort: readU16(frame, inner + 20 + (isIcmp ? 4 : 2)),
  };
}

/** The machine tells who sent what it has seen that the port is not reachable. */
export function refuse(hosts: Hosts, { at, src, dst, frame }: Seen): Seen[] {
  const machine = hosts.machine(at);
  const error = buildIcmpError(IcmpType.UNREACHABLE, UnreachableCode.PORT, dst, frame, IP)!;
  const gateway = hosts.gatewayFor(machine, src);
  return hosts.send(at, buildEthernet({ dst: gateway, src: machine.mac, type: EtherType.IPV4 }, error)).map(seen);
}

/** The machine answers what it has seen. */
export function answer(hosts: Hosts, packet: Packet, { at, src, dst, srcPort, dstPort }: Seen): Seen[] {
  const flags = TcpFlag.SYN | TcpFlag.ACK;
  return send(hosts, at, {
    ...packet,
    to: src,
    from: dst,
    srcPort: packet.protocol === 'icmp' ? srcPort : dstPort,
    dstPort: srcPort,
    flags,
  });
}
