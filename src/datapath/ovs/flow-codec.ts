import { InvalidInputError } from '../../errors.js';
import type { Action } from '../../flow/action.js';
import { FlowKey } from '../../flow/key.js';
import { FlowMask } from '../../flow/mask.js';
import type { Flow, FlowId } from '../datapath.js';
import {
  AttributeReader,
  GENL_HEADER_LENGTH,
  type MessageReader,
  type MessageWriter,
  readU64,
} from '../netlink/message.js';
import { readActions } from './action-codec.js';
import { maskInPlace, readKey, readMask } from './key-codec.js';
import { FlowAttr, OVS_HEADER_LENGTH } from './uapi.js';

/** The first eight bytes of the unique identifier of every flow of this project, `MidoNet` and a zero; the id follows. */
const UFID_PREFIX_HIGH = 0x4d69_646f;
const UFID_PREFIX_LOW = 0x4e65_7400;
const UFID_LENGTH = 16;

const TWO_32 = 0x1_0000_0000;
const MAX_FLOW_ID = 2 ** 48 - 1;

/** @throws InvalidInputError unless `id` is a whole number from 1 to 2^48 - 1 */
export function writeUfid(writer: MessageWriter, id: FlowId): void {
  if (!(Number.isSafeInteger(id) && id >= 1 && id <= MAX_FLOW_ID)) {
    throw new InvalidInputError('flow id', id, 'a whole number from 1 to 2^48 - 1 is needed');
  }
  const at = writer.attribute(FlowAttr.UFID, UFID_LENGTH);
  writer.view.setUint32(at, UFID_PREFIX_HIGH);
  writer.view.setUint32(at + 4, UFID_PREFIX_LOW);
  writer.view.setUint32(at + 8, Math.floor(id / TWO_32));
  writer.view.setUint32(at + 12, id % TWO_32);
}

/** The id in a UFID attribute; undefined if somebody else made it. */
function readUfid(reader: AttributeReader): FlowId | undefined {
  const { view, offset } = reader;
  if (
    reader.length !== UFID_LENGTH ||
    view.getUint32(offset) !== UFID_PREFIX_HIGH ||
    view.getUint32(offset + 4) !== UFID_PREFIX_LOW
  ) {
    return undefined;
  }
  const id = view.getUint32(offset + 8) * TWO_32 + view.getUint32(offset + 12);
  return id >= 1 && id <= MAX_FLOW_ID ? id : undefined;
}

/** A flow as a message tells it; `actions` is undefined where they were too long for a part of a dump. */
export interface ReadFlow extends Omit<Flow, 'actions'> {
  readonly actions: readonly Action[] | undefined;
}

const attributes = new AttributeReader();

/**
 * Read a message of the flow family.
 * @param now CLOCK_MONOTONIC in milliseconds
 * @throws ProtocolError if the bytes are malformed
 */
export function readFlow(message: MessageReader, now: number): ReadFlow {
  const { bytes } = message;
  const key = new FlowKey();
  const mask = FlowMask.exact();
  let id: FlowId | undefined;
  let keyAt = 0;
  let keyEnd = 0;
  let maskAt = 0;
  let maskEnd = -1;
  let actions: Action[] | undefined;
  let complete = true;
  let packets = 0;
  let flowBytes = 0;
  let idleMs: number | undefined;
  message.attributes(attributes, GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
  while (attributes.next()) {
    const end = attributes.offset + attributes.length;
    switch (attributes.type) {
      case FlowAttr.UFID:
        id = readUfid(attributes);
        break;
      case FlowAttr.KEY:
        keyAt = attributes.offset;
        keyEnd = end;
        break;
      case FlowAttr.MASK:
        maskAt = attributes.offset;
        maskEnd = end;
        break;
      case FlowAttr.ACTIONS: {
        const read = readActions(bytes, attributes.offset, end);
        actions = read.actions;
        complete = complete && read.complete;
        break;
      }
      case FlowAttr.STATS: {
        const at = attributes.struct(16);
        packets = readU64(attributes.view, at);
        flowBytes = readU64(attributes.view, at + 8);
        break;
      }
      case FlowAttr.USED:
        idleMs = Math.max(0, now - attributes.u64());
        break;
    }
  }
  complete = readKey(bytes, keyAt, keyEnd, key) && complete;
  if (maskEnd >= 0) {
    complete = readMask(bytes, maskAt, maskEnd, key, mask) && complete;
    maskInPlace(key, mask);
  }
  return { id, key, mask, actions, complete, packets, bytes: flowBytes, idleMs };
}

/** CLOCK_MONOTONIC, the clock of OVS_FLOW_ATTR_USED, in milliseconds. */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + Math.floor(nanoseconds / 1e6);
}
