import { type FlowKey, Word } from '../../flow/key.js';
import { readU16, readU32, writeU16, writeU32 } from '../../packet/big-endian.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import {
  type Layout,
  locate,
  newLayout,
  rewriteIpv4Address,
  rewriteIpv4Byte,
  rewriteIpv6Word,
  rewritePort,
} from './rewrite.js';

const layout: Layout = newLayout();

/** Write the header bits in `mask` of `key` into the frame, with every checksum that covers them. */
export function setFields(frame: Uint8Array, key: FlowKey, mask: FlowKey): void {
  const k = key.words;
  const m = mask.words;
  if (frame.length < 14) return;
  writeMasked16(frame, 0, k[Word.ETH_DST], m[Word.ETH_DST]);
  writeMasked32(frame, 2, k[Word.ETH_DST + 1], m[Word.ETH_DST + 1]);
  writeMasked16(frame, 6, k[Word.ETH_SRC], m[Word.ETH_SRC]);
  writeMasked32(frame, 8, k[Word.ETH_SRC + 1], m[Word.ETH_SRC + 1]);
  if (!locate(frame, layout)) return;
  if (layout.version === 4) setIpv4(frame, k, m);
  else setIpv6(frame, k, m);
  const { protocol, transport, end } = layout;
  const ported = protocol === IpProtocol.TCP || protocol === IpProtocol.UDP || protocol === IpProtocol.SCTP;
  if (!ported || transport < 0 || transport + 4 > end) return;
  if (m[Word.TP_SRC] !== 0) {
    rewritePort(frame, layout, 0, masked(readU16(frame, transport), k[Word.TP_SRC], m[Word.TP_SRC]));
  }
  if (m[Word.TP_DST] !== 0) {
    rewritePort(frame, layout, 2, masked(readU16(frame, transport + 2), k[Word.TP_DST], m[Word.TP_DST]));
  }
}

function setIpv4(frame: Uint8Array, k: Uint32Array, m: Uint32Array): void {
  const at = layout.ip;
  if (m[Word.NW_SRC] !== 0) {
    rewriteIpv4Address(frame, layout, 12, masked(readU32(frame, at + 12), k[Word.NW_SRC], m[Word.NW_SRC]));
  }
  if (m[Word.NW_DST] !== 0) {
    rewriteIpv4Address(frame, layout, 16, masked(readU32(frame, at + 16), k[Word.NW_DST], m[Word.NW_DST]));
  }
  if (m[Word.NW_TOS] !== 0) rewriteIpv4Byte(frame, layout, 1, masked(frame[at + 1], k[Word.NW_TOS], m[Word.NW_TOS]));
  if (m[Word.NW_TTL] !== 0) rewriteIpv4Byte(frame, layout, 8, masked(frame[at + 8], k[Word.NW_TTL], m[Word.NW_TTL]));
}

function setIpv6(frame: Uint8Array, k: Uint32Array, m: Uint32Array): void {
  const at = layout.ip;
  for (let i = 0; i < 4; i++) {
    const src = m[Word.NW_SRC + i];
    if (src !== 0) {
      const offset = 8 + 4 * i;
      rewriteIpv6Word(frame, layout, offset, masked(readU32(frame, at + offset), k[Word.NW_SRC + i], src));
    }
    const dst = m[Word.NW_DST + i];
    if (dst !== 0) {
      const offset = 24 + 4 * i;
      rewriteIpv6Word(frame, layout, offset, masked(readU32(frame, at + offset), k[Word.NW_DST + i], dst));
    }
  }
  const first = readU32(frame, at);
  const tos = masked((first >>> 20) & 0xff, k[Word.NW_TOS], m[Word.NW_TOS]);
  const label = masked(first & 0xfffff, k[Word.IPV6_LABEL], m[Word.IPV6_LABEL] & 0xfffff);
  writeU32(frame, at, (6 << 28) | (tos << 20) | label);
  frame[at + 7] = masked(frame[at + 7], k[Word.NW_TTL], m[Word.NW_TTL]);
}

function masked(old: number, value: number, mask: number): number {
  return ((old & ~mask) | (value & mask)) >>> 0;
}

function writeMasked16(bytes: Uint8Array, at: number, value: number, mask: number): void {
  if (mask !== 0) writeU16(bytes, at, masked(readU16(bytes, at), value, mask));
}

function writeMasked32(bytes: Uint8Array, at: number, value: number, mask: number): void {
  if (mask !== 0) writeU32(bytes, at, masked(readU32(bytes, at), value, mask));
}
