import { FlowKey } from '../../flow/key.js';
import type { PacketOrigin, Upcall } from '../datapath.js';
import { AttributeReader, GENL_HEADER_LENGTH, LITTLE_ENDIAN, type MessageReader } from '../netlink/message.js';
import { Receiver } from '../netlink/receiver.js';
import { NETLINK_GENERIC, NetlinkSocket } from '../netlink/socket.js';
import { ovsIfindex } from './kernel-datapath.js';
import { readKey } from './key-codec.js';
import { OVS_HEADER_LENGTH, PacketAttr, PacketCommand } from './uapi.js';

/** Most upcalls handed over at a time. */
const BATCH = 64;
/** The longest packet that fits an attribute, 65531 bytes, and its key, user data and headers. */
const SLOT_SIZE = 72 * 1024;
const NO_BYTES = new Uint8Array(0);

/** Memory for upcalls of all datapaths: only one batch is being read at a time. */
let shared: Receiver | undefined;

export interface UpcallSocketsOptions {
  /** How many sockets. */
  readonly count: number;
  /** Bytes of unread upcalls that the kernel keeps for each. */
  readonly receiveBuffer: number;
  readonly namespaceFd: number | undefined;
  /** Message type of the ovs_packet family. */
  readonly packetFamily: number;
  /** Upcalls of other datapaths are ignored. */
  readonly datapathIfindex: number;
  upcalls(batch: readonly Upcall[]): void;
  /** The kernel dropped upcalls, it does not say how many. */
  lost(): void;
}

/**
 * The sockets that the kernel sends upcalls to, a few for any number of CPUs or ports: they share the buffer, so that no
 * one of them can push out the upcalls of all the others.
 */
export class UpcallSockets {
  /** Netlink ports of the sockets. */
  readonly ports: readonly number[];
  readonly #sockets: NetlinkSocket[] = [];
  readonly #options: UpcallSocketsOptions;
  readonly #attributes = new AttributeReader();
  #batch: Upcall[] = [];

  /** @throws NetlinkError if a socket cannot be opened */
  constructor(options: UpcallSocketsOptions) {
    this.#options = options;
    shared ??= new Receiver(BATCH, SLOT_SIZE);
    try {
      for (let i = 0; i < options.count; i++) {
        this.#sockets.push(
          new NetlinkSocket({
            protocol: NETLINK_GENERIC,
            namespaceFd: options.namespaceFd,
            receiveBuffer: options.receiveBuffer,
            receiver: shared,
            listener: {
              message: (message) => this.#message(message),
              batchEnd: () => this.#batchEnd(),
              overrun: () => options.lost(),
            },
          }),
        );
      }
    } catch (error) {
      this.close();
      throw error;
    }
    this.ports = this.#sockets.map((socket) => socket.portId);
  }

  close(): void {
    for (const socket of this.#sockets) {
      socket.close();
    }
  }

  #message(message: MessageReader): void {
    if (message.type !== this.#options.packetFamily) {
      return;
    }
    const attributes = message.attributes(this.#attributes, GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
    const { bytes, view } = message;
    const command = bytes[message.offset];
    if (ovsIfindex(message) !== this.#options.datapathIfindex) {
      return;
    }
    let packet: Uint8Array = NO_BYTES;
    let keyAt = 0;
    let keyEnd = 0;
    let userdata: Uint8Array | undefined;
    let hashHigh = 0;
    let hashLow = 0;
    let maxFragment = 0;
    while (attributes.next()) {
      switch (attributes.type) {
        case PacketAttr.PACKET:
          packet = bytes.subarray(attributes.offset, attributes.offset + attributes.length);
          break;
        case PacketAttr.KEY:
          keyAt = attributes.offset;
          keyEnd = attributes.offset + attributes.length;
          break;
        case PacketAttr.USERDATA:
          userdata = attributes.raw().slice();
          break;
        case PacketAttr.HASH: {
          const at = attributes.struct(8);
          hashHigh = view.getUint32(at + (LITTLE_ENDIAN ? 4 : 0), LITTLE_ENDIAN);
          hashLow = view.getUint32(at + (LITTLE_ENDIAN ? 0 : 4), LITTLE_ENDIAN);
          break;
        }
        case PacketAttr.MRU:
          maxFragment = attributes.u16();
          break;
      }
    }
    const key = new FlowKey();
    const complete = readKey(bytes, keyAt, keyEnd, key);
    const origin: PacketOrigin = { hashHigh, hashLow, maxFragment };
    const reason = command === PacketCommand.MISS ? 'miss' : 'action';
    this.#batch.push({ reason, key, packet, userdata, origin, complete });
  }

  #batchEnd(): void {
    if (this.#batch.length > 0) {
      const batch = this.#batch;
      this.#batch = [];
      this.#options.upcalls(batch);
    }
  }
}
