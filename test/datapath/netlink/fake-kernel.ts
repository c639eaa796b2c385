import {
  LITTLE_ENDIAN,
  MessageReader,
  MessageWriter,
  NLM_F_ACK,
  NLMSG_DONE,
  NLMSG_ERROR,
} from '../../../src/datapath/netlink/message.js';
import type { Native, NativeReceiver, NativeSocket } from '../../../src/datapath/netlink/native.js';

export const PORT = 4242;
const EAGAIN_FOR_NOW = 0;

/** A request as the kernel sees it. */
export interface Request {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly wantsAck: boolean;
}

/**
 * Stands in for the native part. What it answers to a request is the test's choice: datagrams, or negative errno values
 * that the receiving call returns.
 */
export class FakeKernel implements NativeSocket {
  readonly portId = PORT;
  /** Datagrams that wait, and errors. */
  readonly waiting: (Uint8Array | number)[] = [];
  /** Results of the next calls of `send` other than success. */
  readonly sendResults: number[] = [];
  readonly requests: Request[] = [];
  /** How many requests came with each call. */
  readonly sends: number[] = [];
  answer: (request: Request) => (Uint8Array | number)[] = (request) => (request.wantsAck ? [ack(request, 0)] : []);
  closed = false;
  kept = false;
  #readable: ((count: number) => void) | undefined;
  #receiver!: NativeReceiver;
  #slotSize = 0;
  #batch = 0;

  native(): Native {
    const kernel = this;
    return {
      Receiver: class {
        readonly buffer: ArrayBuffer;
        readonly lengths: Int32Array;
        constructor(slots: number, slotSize: number) {
          this.buffer = new ArrayBuffer(slots * slotSize);
          this.lengths = new Int32Array(slots);
        }
      },
      NetlinkSocket: class {
        constructor(receiver: NativeReceiver, options: { batch?: number }) {
          kernel.#receiver = receiver;
          kernel.#slotSize = receiver.buffer.byteLength / receiver.lengths.length;
          kernel.#batch = options.batch ?? receiver.lengths.length;
          // biome-ignore lint/correctness/noConstructorReturn: there is one socket, made before
          return kernel as unknown as this;
        }
      } as unknown as Native['NetlinkSocket'],
      withNamespace: (_fd, action) => action(),
      namespaceType: () => 0,
      ioctlEthtool: () => 0,
    };
  }

  send(bytes: Uint8Array, offset: number, length: number): number {
    const result = this.sendResults.shift();
    if (result !== undefined) {
      return result;
    }
    const messages = new MessageReader(bytes.slice(offset, offset + length));
    let count = 0;
    while (messages.next()) {
      const { type, flags, sequence } = messages;
      const request = { type, flags, sequence, wantsAck: (flags & NLM_F_ACK) !== 0 };
      this.requests.push(request);
      this.waiting.push(...this.answer(request));
      count += 1;
    }
    this.sends.push(count);
    return length;
  }

  sendInBackground(bytes: Uint8Array, done: (sent: number) => void): void {
    setImmediate(() => done(this.send(bytes, 0, bytes.length)));
  }

  receive(): number {
    if (this.waiting.length === 0) {
      return EAGAIN_FOR_NOW;
    }
    const slots = new Uint8Array(this.#receiver.buffer);
    let count = 0;
    while (count < this.#batch && this.waiting.length > 0) {
      const next = this.waiting[0];
      if (typeof next === 'number') {
        if (count > 0) {
          break;
        }
        this.waiting.shift();
        return next;
      }
      this.waiting.shift();
      slots.set(next.subarray(0, this.#slotSize), count * this.#slotSize);
      this.#receiver.lengths[count] = next.length > this.#slotSize ? -this.#slotSize : next.length;
      count += 1;
    }
    return count;
  }

  /** What the event loop does when something waits. */
  turn(): void {
    while (this.waiting.length > 0 && !this.closed) {
      this.#readable?.(this.receive());
    }
  }

  membership(): number {
    return 0;
  }

  start(readable: (count: number) => void): void {
    this.#readable = readable;
  }

  keep(on: boolean): void {
    this.kept = on;
  }

  close(): void {
    this.closed = true;
  }
}

/** A datagram with one message. */
export function message(type: number, flags: number, sequence: number, port: number, payload: Uint8Array): Uint8Array {
  const writer = new MessageWriter();
  const start = writer.begin(type, flags, sequence);
  const offset = writer.reserve(payload.length);
  writer.bytes.set(payload, offset);
  writer.view.setUint32(start + 12, port, LITTLE_ENDIAN);
  return writer.finish().slice();
}

/** An acknowledgement, capped as the kernel's: code and header of the request. */
export function ack(request: Request, errno: number): Uint8Array {
  const payload = new Uint8Array(20);
  new DataView(payload.buffer).setInt32(0, -errno, LITTLE_ENDIAN);
  return message(NLMSG_ERROR, 0x100, request.sequence, PORT, payload);
}

/** A part of an answer, with one number in it. */
export function part(request: Request, type: number, flags: number, value: number): Uint8Array {
  const payload = new Uint8Array(4);
  new DataView(payload.buffer).setUint32(0, value, LITTLE_ENDIAN);
  return message(type, flags, request.sequence, PORT, payload);
}

export function done(request: Request, flags = 0): Uint8Array {
  return message(NLMSG_DONE, flags | 2, request.sequence, PORT, new Uint8Array(4));
}
