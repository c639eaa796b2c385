import { readU16, readU32 } from '../../packet/big-endian.js';

/** States of an SCTP association as netfilter tracks it (net/netfilter/nf_conntrack_proto_sctp.c). */
export type SctpState =
  | 'NONE'
  | 'CLOSED'
  | 'COOKIE_WAIT'
  | 'COOKIE_ECHOED'
  | 'ESTABLISHED'
  | 'SHUTDOWN_SENT'
  | 'SHUTDOWN_RECD'
  | 'SHUTDOWN_ACK_SENT'
  | 'HEARTBEAT_SENT';

const ORDER: readonly SctpState[] = [
  'NONE',
  'CLOSED',
  'COOKIE_WAIT',
  'COOKIE_ECHOED',
  'ESTABLISHED',
  'SHUTDOWN_SENT',
  'SHUTDOWN_RECD',
  'SHUTDOWN_ACK_SENT',
  'HEARTBEAT_SENT',
];

/** Chunk types (RFC 9260 section 3.2). */
const Chunk = {
  DATA: 0,
  INIT: 1,
  INIT_ACK: 2,
  HEARTBEAT: 4,
  HEARTBEAT_ACK: 5,
  ABORT: 6,
  SHUTDOWN: 7,
  SHUTDOWN_ACK: 8,
  ERROR: 9,
  COOKIE_ECHO: 10,
  COOKIE_ACK: 11,
  SHUTDOWN_COMPLETE: 14,
} as const;

/** By chunk type, in the order of `ORDER`: index of the next state; `-` invalid. Other chunks change nothing. */
const ORIGINAL: ReadonlyMap<number, string> = new Map([
  [Chunk.INIT, '112341172'],
  [Chunk.INIT_ACK, '112345671'],
  [Chunk.ABORT, '111111111'],
  [Chunk.SHUTDOWN, '112355671'],
  [Chunk.SHUTDOWN_ACK, '712347777'],
  [Chunk.ERROR, '112345671'],
  [Chunk.COOKIE_ECHO, '113345671'],
  [Chunk.COOKIE_ACK, '112445671'],
  [Chunk.SHUTDOWN_COMPLETE, '112345611'],
  [Chunk.HEARTBEAT, '812345678'],
  [Chunk.HEARTBEAT_ACK, '112345678'],
]);
const REPLY: ReadonlyMap<number, string> = new Map([
  [Chunk.INIT, '-1234567-'],
  [Chunk.INIT_ACK, '-2234567-'],
  [Chunk.ABORT, '-1111111-'],
  [Chunk.SHUTDOWN, '-1236567-'],
  [Chunk.SHUTDOWN_ACK, '-1234777-'],
  [Chunk.ERROR, '-1214567-'],
  [Chunk.COOKIE_ECHO, '-1234567-'],
  [Chunk.COOKIE_ACK, '-1244567-'],
  [Chunk.SHUTDOWN_COMPLETE, '-1234561-'],
  [Chunk.HEARTBEAT, '-12345678'],
  [Chunk.HEARTBEAT_ACK, '-12345674'],
]);

/** How long an entry in each state lives without a packet, in milliseconds: netfilter's defaults. */
export const SCTP_TIMEOUT: { readonly [state in SctpState]: number } = {
  NONE: 10_000,
  CLOSED: 10_000,
  COOKIE_WAIT: 3000,
  COOKIE_ECHOED: 3000,
  ESTABLISHED: 210_000,
  SHUTDOWN_SENT: 3000,
  SHUTDOWN_RECD: 3000,
  SHUTDOWN_ACK_SENT: 3000,
  HEARTBEAT_SENT: 30_000,
};

const HEADER = 12;
const CHUNK_HEADER = 4;
/** Up to and with the initiate tag. */
const INIT_START = 8;

/** What is known of an association: its state and the verification tags that packets of either direction carry. */
export interface SctpTracking {
  state: SctpState;
  originalTag: number;
  replyTag: number;
}

interface SctpChunk {
  readonly type: number;
  /** Of INIT and INIT ACK. */
  readonly initiateTag: number;
}

/** Of the packet that begins an association, or undefined if none can begin with it. `at` to `end`: the SCTP packet. */
export function beginSctp(bytes: Uint8Array, at: number, end: number): SctpTracking | undefined {
  const chunks = chunksOf(bytes, at, end);
  if (chunks === undefined) return undefined;
  const tag = readU32(bytes, at + 4);
  // A heartbeat on a second path of an association does not tell what the answer's tag will be.
  const heartbeat = chunks.some(({ type }) => type === Chunk.HEARTBEAT);
  const tracking: SctpTracking = { state: 'NONE', originalTag: 0, replyTag: heartbeat ? 0 : tag };
  for (const { type, initiateTag } of chunks) {
    if (type === Chunk.ABORT || type === Chunk.SHUTDOWN_COMPLETE || type === Chunk.COOKIE_ACK) return undefined;
    const next = nextState('NONE', type, false);
    if (next === undefined || next === 'NONE') return undefined;
    if (type === Chunk.INIT) {
      if (tag !== 0) return undefined;
      tracking.replyTag = initiateTag;
    }
  }
  return continueSctp(tracking, bytes, at, end, false) ? tracking : undefined;
}

/** Follow a packet of an association, chunk by chunk. False if it is invalid there; what chunks before the invalid one did stays. */
export function continueSctp(
  tracking: SctpTracking,
  bytes: Uint8Array,
  at: number,
  end: number,
  reply: boolean,
): boolean {
  const chunks = chunksOf(bytes, at, end);
  if (chunks === undefined) return false;
  const tag = readU32(bytes, at + 4);
  if (!chunks.some(({ type }) => OWN_TAG_RULE.has(type)) && tag !== tagOf(tracking, reply)) return false;
  for (const { type, initiateTag } of chunks) {
    if (!tagAllowed(tracking, type, tag, reply)) return false;
    const next = nextState(tracking.state, type, reply);
    if (next === undefined) return false;
    if (type === Chunk.INIT || type === Chunk.INIT_ACK) setTag(tracking, !reply, initiateTag);
    tracking.state = next;
  }
  return true;
}

/** Chunks whose verification tag follows rules of its own (RFC 9260 section 8.5.1). */
const OWN_TAG_RULE: ReadonlySet<number> = new Set([
  Chunk.INIT,
  Chunk.SHUTDOWN_COMPLETE,
  Chunk.COOKIE_ECHO,
  Chunk.ABORT,
  Chunk.SHUTDOWN_ACK,
  Chunk.HEARTBEAT,
  Chunk.HEARTBEAT_ACK,
]);

function tagAllowed(tracking: SctpTracking, type: number, tag: number, reply: boolean): boolean {
  switch (type) {
    case Chunk.INIT:
      return tag === 0;
    case Chunk.ABORT:
    case Chunk.SHUTDOWN_COMPLETE:
      return tag === tracking.originalTag || tag === tracking.replyTag;
    case Chunk.COOKIE_ECHO:
      return tag === tagOf(tracking, reply);
    case Chunk.HEARTBEAT:
    case Chunk.HEARTBEAT_ACK:
      // An association may be first seen on another of its paths.
      if (tagOf(tracking, reply) === 0) setTag(tracking, reply, tag);
      return tag === tagOf(tracking, reply);
    default:
      return true;
  }
}

function tagOf(tracking: SctpTracking, reply: boolean): number {
  return reply ? tracking.replyTag : tracking.originalTag;
}

function setTag(tracking: SctpTracking, reply: boolean, tag: number): void {
  if (reply) tracking.replyTag = tag;
  else tracking.originalTag = tag;
}

function nextState(state: SctpState, type: number, reply: boolean): SctpState | undefined {
  const step = (reply ? REPLY : ORIGINAL).get(type)?.[ORDER.indexOf(state)];
  if (step === undefined) return state;
  return step === '-' ? undefined : ORDER[Number(step)];
}

/** The chunks of a packet, or undefined if they break the rules of bundling (RFC 9260 section 6.10) or there are none. */
function chunksOf(bytes: Uint8Array, start: number, end: number): SctpChunk[] | undefined {
  const chunks: SctpChunk[] = [];
  let alone = false;
  for (let at = start + HEADER; at + CHUNK_HEADER <= end; ) {
    const type = bytes[at];
    const length = readU16(bytes, at + 2);
    if (length === 0) return undefined;
    const isInit = type === Chunk.INIT || type === Chunk.INIT_ACK;
    alone ||= isInit || type === Chunk.SHUTDOWN_COMPLETE;
    const mustBeFirst = alone || type === Chunk.COOKIE_ACK || type === Chunk.COOKIE_ECHO;
    if (mustBeFirst && chunks.length > 0) return undefined;
    if (isInit && at + INIT_START > end) return undefined;
    chunks.push({ type, initiateTag: isInit ? readU32(bytes, at + CHUNK_HEADER) : 0 });
    at += (length + 3) & ~3;
  }
  return chunks.length > 0 ? chunks : undefined;
}
