import { UnsupportedError } from '../../errors.js';
import { NetlinkError, ProtocolError } from './errors.js';
import { AttributeReader, GENL_HEADER_LENGTH, type MessageReader, MessageWriter, NLM_F_REQUEST } from './message.js';
import type { NetlinkSocket } from './socket.js';

// linux/genetlink.h
const GENL_ID_CTRL = 0x10;
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;
const CTRL_ATTR_VERSION = 3;
const CTRL_ATTR_HDRSIZE = 4;
const CTRL_ATTR_MAXATTR = 5;
const CTRL_ATTR_OPS = 6;
const CTRL_ATTR_MCAST_GROUPS = 7;
const CTRL_ATTR_OP_ID = 1;
const CTRL_ATTR_OP_FLAGS = 2;
const CTRL_ATTR_MCAST_GRP_NAME = 1;
const CTRL_ATTR_MCAST_GRP_ID = 2;

const ENOENT = 2;

/** A generic netlink family as this kernel has it: ids differ from boot to boot. */
export interface Family {
  readonly name: string;
  /** Message type of its messages. */
  readonly id: number;
  readonly version: number;
  /** Bytes of the family's own header behind the generic one. */
  readonly headerSize: number;
  readonly maxAttribute: number;
  /** Commands the kernel takes → GENL_… flags of each. */
  readonly operations: ReadonlyMap<number, number>;
  /** Names of multicast groups → the numbers to join. */
  readonly groups: ReadonlyMap<string, number>;
}

/**
 * Find generic netlink families by their names, in one request.
 * @param socket of the protocol NETLINK_GENERIC
 * @throws UnsupportedError that names the first family that the kernel does not have
 */
export async function getFamilies(
  socket: NetlinkSocket,
  names: readonly string[],
  signal?: AbortSignal,
): Promise<Family[]> {
  const writer = new MessageWriter(1024);
  for (const name of names) {
    writer.begin(GENL_ID_CTRL, NLM_F_REQUEST);
    writer.genl(CTRL_CMD_GETFAMILY, 1);
    writer.string(CTRL_ATTR_FAMILY_NAME, name);
  }
  const families: Family[] = [];
  const errors = await socket.attempt(writer, (index) => `find generic netlink family ${names[index]}`, {
    signal,
    each: (message, index) => {
      families[index] = readFamily(message);
    },
  });
  names.forEach((name, index) => {
    const error = errors[index];
    if (error instanceof NetlinkError && error.errno === ENOENT) {
      throw new UnsupportedError(
        `generic netlink family ${name}`,
        'not in this kernel; its module may have to be loaded',
      );
    }
    if (error !== undefined) {
      throw error;
    }
    if (families[index] === undefined) {
      throw new ProtocolError(`netlink: no answer about generic netlink family ${name}`);
    }
  });
  return families;
}

function readFamily(message: MessageReader): Family {
  const family = { name: '', id: 0, version: 0, headerSize: 0, maxAttribute: 0 };
  const operations = new Map<number, number>();
  const groups = new Map<string, number>();
  const attributes = message.attributes(new AttributeReader(), GENL_HEADER_LENGTH);
  while (attributes.next()) {
    switch (attributes.type) {
      case CTRL_ATTR_FAMILY_NAME:
        family.name = attributes.string();
        break;
      case CTRL_ATTR_FAMILY_ID:
        family.id = attributes.u16();
        break;
      case CTRL_ATTR_VERSION:
        family.version = attributes.u32();
        break;
      case CTRL_ATTR_HDRSIZE:
        family.headerSize = attributes.u32();
        break;
      case CTRL_ATTR_MAXATTR:
        family.maxAttribute = attributes.u32();
        break;
      case CTRL_ATTR_OPS:
        for (const list = attributes.enter(new AttributeReader()); list.next(); ) {
          let id = 0;
          let flags = 0;
          for (const entry = list.enter(new AttributeReader()); entry.next(); ) {
            if (entry.type === CTRL_ATTR_OP_ID) {
              id = entry.u32();
            } else if (entry.type === CTRL_ATTR_OP_FLAGS) {
              flags = entry.u32();
            }
          }
          operations.set(id, flags);
        }
        break;
      case CTRL_ATTR_MCAST_GROUPS:
        for (const list = attributes.enter(new AttributeReader()); list.next(); ) {
          let name = '';
          let id = 0;
          for (const entry = list.enter(new AttributeReader()); entry.next(); ) {
            if (entry.type === CTRL_ATTR_MCAST_GRP_NAME) {
              name = entry.string();
            } else if (entry.type === CTRL_ATTR_MCAST_GRP_ID) {
              id = entry.u32();
            }
          }
          groups.set(name, id);
        }
        break;
    }
  }
  return { ...family, operations, groups };
}
