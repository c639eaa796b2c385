import type { ConnectionName, ConnectionTuple, TrackedConnection } from '../../datapath/datapath.js';
import { MidonetError } from '../../errors.js';
import { readU16, readU32, writeU16, writeU32 } from '../../packet/big-endian.js';

/**
 * What hosts tell each other of connections, in datagrams of at most {@link MAX_MESSAGE} bytes, network byte order:
 *
 *     version 1 · type 1 · zero 2 · host 16 · session 4 · number 4                         lengths in bytes
 *     type state: demand 4, then sections: port group 16 · count 2 · entries
 *     entry: type 1 · flags 1 · protocol 1 · [mark 4 · lifetime 4, in seconds] · original tuple · [reply tuple]
 *     tuple: source, destination, 4 or 16 each · source port 2 · destination port 2
 */
const VERSION = 1;
export const MAX_MESSAGE = 1400;
const HEADER = 28;
/** Bytes in front of a section's entries. */
export const SECTION_HEADER = 18;
/** Bytes that a message has for its sections. */
export const ROOM = MAX_MESSAGE - HEADER - 4;

const MESSAGE_TYPES = ['state', 'acknowledged', 'unknown'] as const;
const ENTRY_TYPES = ['present', 'gone', 'asked'] as const;
const ANSWERED = 1;
const IPV6 = 2;

/** A connection as it is the same on every host; zones are each host's own. */
export type SharedConnection = Omit<TrackedConnection, 'zone' | 'tcpState'>;

/**
 * `present`: this is a connection of the group. `gone`: the host that knew it first knows it no longer. `asked`: the sender's copy has
 * expired; who still has the connection says so.
 */
export type StateEntry =
  | { readonly type: 'present'; readonly connection: SharedConnection }
  | { readonly type: 'gone' | 'asked'; readonly connection: Omit<ConnectionName, 'zone'> };

export interface StateSection {
  readonly groupId: string;
  readonly entries: readonly StateEntry[];
}

export type StateMessage = {
  readonly hostId: string;
  /** Chosen by whoever sends state: numbers count from 1 in each. */
  readonly session: number;
  readonly number: number;
} & (
  | {
      readonly type: 'state';
      /** Another one than before: the sender wants all that the receiver has. */
      readonly demand: number;
      readonly sections: readonly StateSection[];
    }
  /** `acknowledged`: all up to the number has taken effect. `unknown`: the receiver has not seen the beginning of the session. */
  | { readonly type: 'acknowledged' | 'unknown' }
);

/** Bytes that are no such message, or one of a later version of this program. */
export class FlowStateFormatError extends MidonetError {
  constructor(detail: string) {
    super('MN_PROTOCOL', `flow state: ${detail}`);
  }
}

/** Entries of a section as they are sent. */
export interface EncodedSection {
  readonly groupId: string;
  readonly entries: readonly Uint8Array[];
}

export type EncodedMessage =
  | (Omit<Extract<StateMessage, { type: 'state' }>, 'sections'> & { readonly sections: readonly EncodedSection[] })
  | Extract<StateMessage, { type: 'acknowledged' | 'unknown' }>;

export function encodeMessage(message: EncodedMessage): Uint8Array {
  const parts: Uint8Array[] = [];
  if (message.type === 'state') {
    const demand = new Uint8Array(4);
    writeU32(demand, 0, message.demand);
    parts.push(demand);
    for (const { groupId, entries } of message.sections) {
      const head = new Uint8Array(SECTION_HEADER);
      head.set(uuidBytes(groupId));
      writeU16(head, 16, entries.length);
      parts.push(head, ...entries);
    }
  }
  const bytes = new Uint8Array(HEADER + parts.reduce((sum, part) => sum + part.length, 0));
  bytes[0] = VERSION;
  bytes[1] = MESSAGE_TYPES.indexOf(message.type);
  bytes.set(uuidBytes(message.hostId), 4);
  writeU32(bytes, 20, message.session);
  writeU32(bytes, 24, message.number);
  let offset = HEADER;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

export function encodeEntry(entry: StateEntry): Uint8Array {
  const { family, protocol, original } = entry.connection;
  const tuple = tupleLength(family);
  const isPresent = entry.type === 'present';
  const bytes = new Uint8Array(3 + (isPresent ? 8 + 2 * tuple : tuple));
  bytes[0] = ENTRY_TYPES.indexOf(entry.type);
  bytes[1] = (isPresent && entry.connection.answered ? ANSWERED : 0) | (family === 6 ? IPV6 : 0);
  bytes[2] = protocol;
  if (isPresent) {
    const { mark, timeoutMs, reply } = entry.connection;
    writeU32(bytes, 3, mark);
    writeU32(bytes, 7, Math.ceil(timeoutMs / 1000));
    writeTuple(bytes, 11, original);
    writeTuple(bytes, 11 + tuple, reply);
  } else writeTuple(bytes, 3, original);
  return bytes;
}

/** @throws FlowStateFormatError */
export function decodeMessage(bytes: Uint8Array): StateMessage {
  if (bytes.length < HEADER) throw new FlowStateFormatError(`only ${bytes.length} bytes`);
  if (bytes[0] !== VERSION) {
    throw new FlowStateFormatError(`version ${bytes[0]}, this program knows version ${VERSION}`);
  }
  const type = MESSAGE_TYPES[bytes[1]];
  const header = { hostId: uuidText(bytes, 4), session: readU32(bytes, 20), number: readU32(bytes, 24) };
  if (type === undefined) throw new FlowStateFormatError(`unknown type ${bytes[1]}`);
  if (type !== 'state') {
    if (bytes.length !== HEADER) throw new FlowStateFormatError(`${bytes.length - HEADER} bytes too many`);
    return { type, ...header };
  }
  if (bytes.length < HEADER + 4) throw new FlowStateFormatError('cut short');
  const sections: StateSection[] = [];
  for (let offset = HEADER + 4; offset < bytes.length; ) {
    const [section, end] = readSection(bytes, offset);
    sections.push(section);
    offset = end;
  }
  return { type, ...header, demand: readU32(bytes, HEADER), sections };
}

function readSection(bytes: Uint8Array, start: number): [StateSection, number] {
  if (bytes.length < start + SECTION_HEADER) throw new FlowStateFormatError('cut short');
  const entries: StateEntry[] = [];
  let offset = start + SECTION_HEADER;
  for (let left = readU16(bytes, start + 16); left > 0; left--) {
    const [entry, end] = readEntry(bytes, offset);
    entries.push(entry);
    offset = end;
  }
  return [{ groupId: uuidText(bytes, start), entries }, offset];
}

function readEntry(bytes: Uint8Array, start: number): [StateEntry, number] {
  if (bytes.length < start + 3) throw new FlowStateFormatError('cut short');
  const type = ENTRY_TYPES[bytes[start]];
  if (type === undefined) throw new FlowStateFormatError(`unknown entry ${bytes[start]}`);
  const flags = bytes[start + 1];
  const family = (flags & IPV6) !== 0 ? 6 : 4;
  const tuple = tupleLength(family);
  const end = start + 3 + (type === 'present' ? 8 + 2 * tuple : tuple);
  if (bytes.length < end) throw new FlowStateFormatError('cut short');
  const protocol = bytes[start + 2];
  if (type !== 'present') {
    return [{ type, connection: { family, protocol, original: readTuple(bytes, start + 3, family) } }, end];
  }
  const connection: SharedConnection = {
    family,
    protocol,
    original: readTuple(bytes, start + 11, family),
    reply: readTuple(bytes, start + 11 + tuple, family),
    answered: (flags & ANSWERED) !== 0,
    mark: readU32(bytes, start + 3),
    timeoutMs: readU32(bytes, start + 7) * 1000,
  };
  return [{ type, connection }, end];
}

function tupleLength(family: 4 | 6): number {
  return family === 4 ? 12 : 36;
}

function writeTuple(bytes: Uint8Array, start: number, { src, dst, srcPort, dstPort }: ConnectionTuple): void {
  let offset = start;
  for (const word of [...src, ...dst]) {
    writeU32(bytes, offset, word);
    offset += 4;
  }
  writeU16(bytes, offset, srcPort);
  writeU16(bytes, offset + 2, dstPort);
}

function readTuple(bytes: Uint8Array, start: number, family: 4 | 6): ConnectionTuple {
  const words = family === 4 ? 1 : 4;
  const address = (offset: number) => Array.from({ length: words }, (_, i) => readU32(bytes, offset + 4 * i));
  const ports = start + 8 * words;
  return {
    src: address(start),
    dst: address(start + 4 * words),
    srcPort: readU16(bytes, ports),
    dstPort: readU16(bytes, ports + 2),
  };
}

function uuidBytes(text: string): Uint8Array {
  return Buffer.from(text.replaceAll('-', ''), 'hex');
}

function uuidText(bytes: Uint8Array, start: number): string {
  const hex = Buffer.from(bytes.subarray(start, start + 16)).toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
