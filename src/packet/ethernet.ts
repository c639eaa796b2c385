import { readU16, readU48, writeU16, writeU48 } from './big-endian.js';
import { buildTags, type VlanTag } from './vlan.js';

/** EtherTypes (IEEE 802 numbers at IANA). */
export const EtherType = {
  /** What flow keys hold for frames with a length in place of a type (kernel: ETH_P_802_2). */
  LLC: 0x05ff,
  IPV4: 0x0800,
  ARP: 0x0806,
  RARP: 0x8035,
  VLAN: 0x8100,
  IPV6: 0x86dd,
  QINQ: 0x88a8,
} as const;

export const ETHERNET_HEADER = 14;

/** The smallest value of the type field that is a type and not a length (IEEE 802.3 clause 3.2.6). */
export const ETHERTYPE_MIN = 0x0600;

export interface EthernetHeader {
  dst: number;
  src: number;
  /** EtherType or length, as in the bytes: a VLAN tag's TPID where there is one. */
  type: number;
}

/** Read the addresses and the type field. False if the frame is too short. */
export function parseEthernet(bytes: Uint8Array, out: EthernetHeader): boolean {
  if (bytes.length < ETHERNET_HEADER) return false;
  out.dst = readU48(bytes, 0);
  out.src = readU48(bytes, 6);
  out.type = readU16(bytes, 12);
  return true;
}

export interface FrameSpec {
  readonly dst: number;
  readonly src: number;
  /** EtherType of the payload. */
  readonly type: number;
  /** Outermost first. */
  readonly vlans?: readonly VlanTag[];
}

/** A frame without padding or frame check sequence (IEEE 802.3 clause 3; tags IEEE 802.1Q clause 9). */
export function buildEthernet(spec: FrameSpec, payload: Uint8Array): Uint8Array {
  const tags = spec.vlans ?? [];
  const bytes = new Uint8Array(ETHERNET_HEADER + 4 * tags.length + payload.length);
  writeU48(bytes, 0, spec.dst);
  writeU48(bytes, 6, spec.src);
  const at = buildTags(bytes, 12, tags);
  writeU16(bytes, at, spec.type);
  bytes.set(payload, at + 2);
  return bytes;
}
