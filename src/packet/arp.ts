import { MAC_BROADCAST } from './address.js';
import { readU16, readU32, readU48, writeU16, writeU32, writeU48 } from './big-endian.js';
import { buildEthernet, EtherType } from './ethernet.js';

export const ARP_LENGTH = 28;

export const ArpOp = { REQUEST: 1, REPLY: 2, RARP_REQUEST: 3, RARP_REPLY: 4 } as const;

/** An ARP packet for Ethernet and IPv4. */
export interface ArpPacket {
  op: number;
  senderMac: number;
  senderIp: number;
  targetMac: number;
  targetIp: number;
}

/** Read the ARP packet at `offset`. False if it is short or not of Ethernet and IPv4 (RFC 826). */
export function parseArp(bytes: Uint8Array, offset: number, out: ArpPacket): boolean {
  if (offset + ARP_LENGTH > bytes.length) return false;
  // Hardware type 1 (Ethernet), protocol type IPv4, address lengths 6 and 4.
  if (readU32(bytes, offset) !== 0x0001_0800 || readU16(bytes, offset + 4) !== 0x0604) return false;
  out.op = readU16(bytes, offset + 6);
  out.senderMac = readU48(bytes, offset + 8);
  out.senderIp = readU32(bytes, offset + 14);
  out.targetMac = readU48(bytes, offset + 18);
  out.targetIp = readU32(bytes, offset + 24);
  return true;
}

/** An ARP packet without an Ethernet header (RFC 826). */
export function buildArp(packet: Readonly<ArpPacket>): Uint8Array {
  const bytes = new Uint8Array(ARP_LENGTH);
  writeU32(bytes, 0, 0x0001_0800);
  writeU16(bytes, 4, 0x0604);
  writeU16(bytes, 6, packet.op);
  writeU48(bytes, 8, packet.senderMac);
  writeU32(bytes, 14, packet.senderIp);
  writeU48(bytes, 18, packet.targetMac);
  writeU32(bytes, 24, packet.targetIp);
  return bytes;
}

/** A broadcast frame that asks who has `targetIp`. With senderIp 0 it is a probe (RFC 5227 section 2.1.1). */
export function buildArpRequest(senderMac: number, senderIp: number, targetIp: number): Uint8Array {
  return buildEthernet(
    { dst: MAC_BROADCAST, src: senderMac, type: EtherType.ARP },
    buildArp({ op: ArpOp.REQUEST, senderMac, senderIp, targetMac: 0, targetIp }),
  );
}

/** A frame that tells `targetMac`/`targetIp` that `senderIp` is at `senderMac`. */
export function buildArpReply(senderMac: number, senderIp: number, targetMac: number, targetIp: number): Uint8Array {
  return buildEthernet(
    { dst: targetMac, src: senderMac, type: EtherType.ARP },
    buildArp({ op: ArpOp.REPLY, senderMac, senderIp, targetMac, targetIp }),
  );
}

/** A broadcast announcement (gratuitous ARP) that `ip` is at `mac` (RFC 5227 section 2.3). */
export function buildGratuitousArp(mac: number, ip: number): Uint8Array {
  return buildEthernet(
    { dst: MAC_BROADCAST, src: mac, type: EtherType.ARP },
    buildArp({ op: ArpOp.REQUEST, senderMac: mac, senderIp: ip, targetMac: 0, targetIp: ip }),
  );
}
