import { InvalidInputError, MidonetError } from '../errors.js';
import { readU16, readU32, readWords, writeU16, writeU32, writeWords } from '../packet/big-endian.js';
import type { Ip } from '../packet/ip.js';

/**
 * What hosts remember of connections: that one was accepted, and how its addresses are translated. Encoded to be sent to another
 * host or kept in an archive:
 *
 *     version 1 · type 1 · device 16 · [zone 2] · tuple · [tuple]        lengths in bytes, network byte order
 *     tuple: protocol 1 · family 1 (4 or 6) · source, destination 4 or 16 each · source port 2 · destination port 2
 *
 * A connection has a zone and one tuple, a translation (NAT) two tuples: before it and after it.
 */
const VERSION = 1;

/** What tells the packets of one direction of a connection. Both addresses are of one family. */
export interface FlowTuple {
  /** IP protocol number. */
  readonly protocol: number;
  readonly source: Ip;
  readonly destination: Ip;
  /** Of TCP, UDP and SCTP; of ICMP both are the identifier; 0 where there is none. */
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/** A connection that a device accepted, as its first packet came in. */
export interface ConnectionState {
  readonly type: 'connection';
  /** UUID of the device that tracks it. */
  readonly deviceId: string;
  /** Connection tracking zone, 0 to 65535: tenants may have the same addresses. */
  readonly zone: number;
  readonly tuple: FlowTuple;
}

/** `sticky`: a client that keeps the member of a load balancer which it got first; ports do not count. */
export type NatKind = 'source' | 'destination' | 'sticky';

/** A translation that a device made up. That of replies follows: from `after` to `before`, source and destination swapped. */
export interface NatState {
  readonly type: 'nat';
  readonly kind: NatKind;
  readonly deviceId: string;
  readonly before: FlowTuple;
  readonly after: FlowTuple;
}

export type FlowState = ConnectionState | NatState;

/** Bytes that are no flow state, or of a later version of this program. */
export class FlowStateFormatError extends MidonetError {
  constructor(detail: string) {
    super('MN_PROTOCOL', `flow state: ${detail}`);
  }
}

const CONNECTION = 1;
const NAT_TYPES: readonly (readonly [number, NatKind])[] = [
  [2, 'source'],
  [3, 'destination'],
  [4, 'sticky'],
];
const HEADER = 18;

/** @throws InvalidInputError naming the field that cannot be encoded */
export function encodeFlowState(state: FlowState): Uint8Array {
  const tuples = state.type === 'connection' ? [state.tuple] : [state.before, state.after];
  const zoned = state.type === 'connection' ? 2 : 0;
  const bytes = new Uint8Array(HEADER + zoned + tuples.reduce((sum, tuple) => sum + tupleLength(tuple), 0));
  bytes[0] = VERSION;
  bytes[1] = state.type === 'connection' ? CONNECTION : NAT_TYPES.find(([, kind]) => kind === state.kind)![0];
  bytes.set(uuidBytes(state.deviceId), 2);
  let offset = HEADER;
  if (state.type === 'connection') {
    writeU16(bytes, offset, checked('zone', state.zone, 0xffff));
    offset += 2;
  }
  for (const tuple of tuples) offset = writeTuple(bytes, offset, tuple);
  return bytes;
}

/** @throws FlowStateFormatError */
export function decodeFlowState(bytes: Uint8Array): FlowState {
  if (bytes.length < HEADER) throw new FlowStateFormatError(`only ${bytes.length} bytes`);
  if (bytes[0] !== VERSION)
    throw new FlowStateFormatError(`version ${bytes[0]}, this program knows version ${VERSION}`);
  const deviceId = uuidText(bytes.subarray(2, HEADER));
  if (bytes[1] === CONNECTION) {
    if (bytes.length < HEADER + 2) throw new FlowStateFormatError('cut short');
    const [tuple, end] = readTuple(bytes, HEADER + 2);
    checkEnd(bytes, end);
    return { type: 'connection', deviceId, zone: readU16(bytes, HEADER), tuple };
  }
  const kind = NAT_TYPES.find(([type]) => type === bytes[1])?.[1];
  if (kind === undefined) throw new FlowStateFormatError(`unknown type ${bytes[1]}`);
  const [before, middle] = readTuple(bytes, HEADER);
  const [after, end] = readTuple(bytes, middle);
  checkEnd(bytes, end);
  return { type: 'nat', kind, deviceId, before, after };
}

function tupleLength({ source }: FlowTuple): number {
  return source.family === 4 ? 14 : 38;
}

function writeTuple(bytes: Uint8Array, start: number, tuple: FlowTuple): number {
  const { source, destination } = tuple;
  if (source.family !== destination.family) {
    throw new InvalidInputError(
      'destination',
      destination,
      `expected an address of IPv${source.family}, as the source's`,
    );
  }
  bytes[start] = checked('protocol', tuple.protocol, 0xff);
  bytes[start + 1] = source.family;
  let offset = start + 2;
  for (const { family, words } of [source, destination]) {
    if (family === 4) writeU32(bytes, offset, words[0]);
    else writeWords(bytes, offset, words);
    offset += family === 4 ? 4 : 16;
  }
  writeU16(bytes, offset, checked('sourcePort', tuple.sourcePort, 0xffff));
  writeU16(bytes, offset + 2, checked('destinationPort', tuple.destinationPort, 0xffff));
  return offset + 4;
}

function readTuple(bytes: Uint8Array, start: number): [FlowTuple, number] {
  const family = bytes[start + 1];
  if (family !== 4 && family !== 6) throw new FlowStateFormatError(`address family ${family}`);
  const length = family === 4 ? 4 : 16;
  const ports = start + 2 + 2 * length;
  if (bytes.length < ports + 4) throw new FlowStateFormatError('cut short');
  const ip = (offset: number): Ip => ({
    family,
    words: family === 4 ? [readU32(bytes, offset)] : readWords(bytes, offset),
  });
  const tuple: FlowTuple = {
    protocol: bytes[start],
    source: ip(start + 2),
    destination: ip(start + 2 + length),
    sourcePort: readU16(bytes, ports),
    destinationPort: readU16(bytes, ports + 2),
  };
  return [tuple, ports + 4];
}

function checkEnd(bytes: Uint8Array, end: number): void {
  if (bytes.length !== end) throw new FlowStateFormatError(`${bytes.length - end} bytes too many`);
}

function checked(field: string, value: number, most: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw new InvalidInputError(field, value, `expected a whole number from 0 to ${most}`);
}

function uuidBytes(text: string): Uint8Array {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) {
    throw new InvalidInputError('deviceId', text, 'expected a UUID');
  }
  return Buffer.from(text.replaceAll('-', ''), 'hex');
}

function uuidText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
