import { readU16, writeU16 } from './big-endian.js';

export const VLAN_TAG = 4;

/** An IEEE 802.1Q tag. */
export interface VlanTag {
  /** 0x8100 (802.1Q) when absent, or 0x88a8 (802.1ad service tag). */
  readonly tpid?: number;
  /** VLAN identifier, 0 to 4095. */
  readonly id: number;
  /** Priority code point, 0 to 7. */
  readonly priority?: number;
}

const DEFAULT_TPID = 0x8100;

/** Whether an EtherType announces a VLAN tag. */
export function isVlanType(type: number): boolean {
  return type === 0x8100 || type === 0x88a8;
}

/** Write tags from `offset` on; returns the offset behind them, where the payload's type goes (IEEE 802.1Q clause 9.6). */
export function buildTags(bytes: Uint8Array, offset: number, tags: readonly VlanTag[]): number {
  let at = offset;
  for (const tag of tags) {
    writeU16(bytes, at, tag.tpid ?? DEFAULT_TPID);
    writeU16(bytes, at + 2, ((tag.priority ?? 0) << 13) | tag.id);
    at += VLAN_TAG;
  }
  return at;
}

/** A copy of the frame with one more, outermost, tag. `tci`: tag control information as it stands in the bytes. */
export function pushTag(frame: Uint8Array, tpid: number, tci: number): Uint8Array {
  const out = new Uint8Array(frame.length + VLAN_TAG);
  out.set(frame.subarray(0, 12));
  writeU16(out, 12, tpid);
  writeU16(out, 14, tci);
  out.set(frame.subarray(12), 16);
  return out;
}

/** A copy of the frame without its outermost tag, or undefined if it has none. */
export function popTag(frame: Uint8Array): Uint8Array | undefined {
  if (frame.length < 18 || !isVlanType(readU16(frame, 12))) return undefined;
  const out = new Uint8Array(frame.length - VLAN_TAG);
  out.set(frame.subarray(0, 12));
  out.set(frame.subarray(16), 12);
  return out;
}
