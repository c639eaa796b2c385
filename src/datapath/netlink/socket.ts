import { ClosedError, MidonetError } from '../../errors.js';
import { sendInTurn } from './background.js';
import { type ExtendedAck, NetlinkError, ProtocolError } from './errors.js';
import {
  AttributeReader,
  LITTLE_ENDIAN,
  MESSAGE_HEADER_LENGTH,
  MessageReader,
  type MessageWriter,
  NLM_F_ACK,
  NLM_F_ACK_TLVS,
  NLM_F_CAPPED,
  NLM_F_DUMP_INTR,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_MIN_TYPE,
  NLMSG_OVERRUN,
} from './message.js';
import { isSystemError, loadNative, type Native, type NativeSocket } from './native.js';
import { type Receiver, sharedReceiver } from './receiver.js';

/** Protocols (linux/netlink.h). */
export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;
export const NETLINK_GENERIC = 16;

const EINTR = 4;
const EBADF = 9;
const ENOBUFS = 105;

/** Attributes of an acknowledgement (linux/netlink.h, `enum nlmsgerr_attrs`). */
const NLMSGERR_ATTR_MSG = 1;
const NLMSGERR_ATTR_OFFS = 2;
const NLMSGERR_ATTR_MISS_TYPE = 5;

/** More than this is sent in several parts: the kernel takes a part as a whole, out of one piece of memory. */
const MAX_SEND = 128 * 1024;
const MAX_SEQUENCE = 0xffff_ffff;
const DUMP_ATTEMPTS = 10;

const NO_ERRORS: readonly undefined[] = Object.freeze([]);

/** What was not asked for: notifications to a group, upcalls. Called synchronously; must not throw. */
export interface NetlinkListener {
  /**
   * `message` itself is used for the next one when this returns; the bytes it lies in stay as they are until
   * {@link NetlinkListener.batchEnd} returns.
   */
  message(message: MessageReader): void;
  /** All messages that were received in one go have been handed over. */
  batchEnd?(): void;
  /**
   * Messages were lost because they were not read in time ({@link NetlinkError} with ENOBUFS), or could not be read
   * ({@link ProtocolError}): what was learnt from them has to be learnt again. This is the time to do so: all that waited
   * has been read. Until then the kernel goes on dropping messages, without a word.
   */
  overrun(reason: MidonetError): void;
  /** Messages are being lost; {@link NetlinkListener.overrun} follows when no more are. */
  losing?(reason: MidonetError): void;
}

export interface NetlinkSocketOptions {
  /** {@link NETLINK_ROUTE}, {@link NETLINK_GENERIC}. */
  readonly protocol: number;
  /** Descriptor of the network namespace to open the socket in; the process's own if undefined. Used while opening only. */
  readonly namespaceFd?: number;
  /** Bytes of unread messages the kernel keeps. */
  readonly receiveBuffer?: number;
  /** Let the kernel refuse dump requests with filters it does not know. */
  readonly strict?: boolean;
  /**
   * Let another thread wait for the kernel, which works on requests while they are sent. For requests that can take
   * long: the kernel changes one interface at a time, and takes 20 ms to delete one. A dump still waits here, in part.
   */
  readonly background?: boolean;
  /** Most datagrams to read at a time; all that the receiver holds if undefined. */
  readonly batch?: number;
  readonly receiver?: Receiver;
  readonly listener?: NetlinkListener;
  readonly native?: Native;
}

/** Words for the errors of the message at `index` of a batch: `delete link veth0`. */
export type Asked = string | readonly string[] | ((index: number) => string);

/** What becomes of a batch of requests. Called synchronously; must not throw, but for a MidonetError in `reply`: it fails the message. */
export interface BatchHandler {
  readonly asked: Asked;
  /** An answer to message `index`, valid until the function returns. */
  reply?(index: number, message: MessageReader): void;
  /** All are done: `errors[i]` is undefined where message i succeeded. The array may be shorter than the batch. */
  done(errors: readonly (MidonetError | undefined)[]): void;
}

interface Batch {
  readonly first: number;
  readonly count: number;
  readonly handler: BatchHandler;
  readonly dump: boolean;
  interrupted: boolean;
  errors: (MidonetError | undefined)[] | undefined;
}

/** Messages of a batch, as many as are sent at a time. */
interface Part {
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly end: number;
  readonly batch: Batch;
  readonly firstIndex: number;
  readonly endIndex: number;
}

function words(asked: Asked, index: number): string {
  if (typeof asked === 'function') {
    return asked(index);
  }
  return typeof asked === 'string' ? asked : (asked[index] ?? `request ${index}`);
}

/**
 * A netlink socket with the rules that all netlink protocols share: sequence numbers, acknowledgements, dumps, lost
 * messages. It belongs to whoever opened it, who closes it.
 *
 * The kernel works on a request while it is being sent, so the answers are read right behind it, and a batch is usually
 * done when {@link NetlinkSocket.submit} returns; it need not be.
 *
 * Use one socket for requests and others for groups and upcalls: then an overflow cannot take answers with it.
 */
export class NetlinkSocket {
  /** The address of this socket; OVS in the kernel sends upcalls to it. */
  readonly portId: number;
  readonly #native: NativeSocket;
  readonly #receiver: Receiver;
  readonly #listener: NetlinkListener | undefined;
  readonly #batchSize: number;
  readonly #background: boolean;
  readonly #messages: MessageReader;
  readonly #attributes = new AttributeReader();
  readonly #pending: Batch[] = [];
  /** Parts that the kernel had no room for. */
  readonly #unsent: Part[] = [];
  /** Called when a dump is done. */
  readonly #idle: (() => void)[] = [];
  #lastDump: Promise<unknown> = Promise.resolve();
  #sequence = 0;
  #started = false;
  #kept = false;
  /** Why messages were lost, from when that is known until all that waited has been read. */
  #loss: MidonetError | undefined;
  #closed = false;

  /** @throws NetlinkError if a system call fails */
  constructor(options: NetlinkSocketOptions) {
    const native = options.native ?? loadNative();
    this.#receiver = options.receiver ?? sharedReceiver();
    this.#listener = options.listener;
    this.#background = options.background ?? false;
    this.#batchSize = Math.min(options.batch ?? Number.POSITIVE_INFINITY, this.#receiver.lengths.length);
    this.#messages = new MessageReader(this.#receiver.bytes);
    try {
      this.#native = new native.NetlinkSocket(this.#receiver.native, {
        protocol: options.protocol,
        namespaceFd: options.namespaceFd,
        receiveBuffer: options.receiveBuffer ?? 4 * 1024 * 1024,
        sendBuffer: 2 * MAX_SEND,
        strict: options.strict ?? false,
        batch: options.batch,
      });
    } catch (error) {
      if (isSystemError(error)) {
        throw new NetlinkError(`open netlink socket (${error.syscall})`, error.errno);
      }
      throw error;
    }
    this.portId = this.#native.portId;
    if (this.#listener !== undefined) {
      this.#start();
    }
  }

  /** Receive what is sent to a multicast group; the listener gets it. @throws NetlinkError */
  join(group: number): void {
    this.#membership(group, true);
  }

  /** @throws NetlinkError */
  leave(group: number): void {
    this.#membership(group, false);
  }

  #membership(group: number, on: boolean): void {
    this.#throwIfClosed();
    const result = this.#native.membership(group, on);
    if (result < 0) {
      throw new NetlinkError(`${on ? 'join' : 'leave'} netlink group ${group}`, -result);
    }
  }

  /**
   * Send the messages in `writer` now, in order. They get their sequence numbers here, and the last one is made to be
   * acknowledged: when it is, the kernel has done all before it, and those that failed have been reported. The writer may
   * be reset when this returns. An error of one message does not stop those behind it.
   * @throws ClosedError
   */
  submit(writer: MessageWriter, handler: BatchHandler): void {
    this.#throwIfClosed();
    const bytes = writer.finish();
    if (writer.count === 0) {
      handler.done(NO_ERRORS);
      return;
    }
    const batch = this.#enqueue(writer.count, handler, false);
    this.#transmit(bytes, writer.view, batch);
  }

  /**
   * Send the messages in `writer`; settles when all are done.
   * @param each gets the answers
   * @throws NetlinkError the first of those that the kernel refused; the others have been done nevertheless
   */
  async request(
    writer: MessageWriter,
    asked: Asked,
    options: { readonly signal?: AbortSignal; readonly each?: (message: MessageReader, index: number) => void } = {},
  ): Promise<void> {
    for (const error of await this.attempt(writer, asked, options)) {
      if (error !== undefined) {
        throw error;
      }
    }
  }

  /** As {@link NetlinkSocket.request}, but gives the error of each message, undefined where it succeeded. */
  attempt(
    writer: MessageWriter,
    asked: Asked,
    options: { readonly signal?: AbortSignal; readonly each?: (message: MessageReader, index: number) => void } = {},
  ): Promise<readonly (MidonetError | undefined)[]> {
    const { signal, each } = options;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      this.#throwIfClosed();
      const abort = () => reject(signal?.reason);
      signal?.addEventListener('abort', abort, { once: true });
      this.submit(writer, {
        asked,
        reply: each && ((index, message) => each(message, index)),
        done: (errors) => {
          signal?.removeEventListener('abort', abort);
          resolve(errors);
        },
      });
    });
  }

  /**
   * Send the one dump request in `writer` and collect what `parse` makes of the answers, without those it makes
   * undefined of. Dumps of a socket run one after the other; one that the kernel says was disturbed by a change is
   * taken again, each time after a longer pause: half a second for all.
   * @throws NetlinkError EINTR if it was disturbed every time
   */
  dump<T>(
    writer: MessageWriter,
    asked: string,
    parse: (message: MessageReader) => T | undefined,
    signal?: AbortSignal,
  ): Promise<T[]> {
    // The writer is the caller's again while this waits.
    const request = writer.finish().slice();
    const run = async () => {
      for (let attempt = 0; attempt < DUMP_ATTEMPTS; attempt++) {
        if (attempt > 0) {
          await new Promise((resolve) => setTimeout(resolve, 2 ** (attempt - 1)));
        }
        signal?.throwIfAborted();
        const items = await this.#dumpOnce(request, asked, parse, signal);
        if (items !== undefined) {
          return items;
        }
      }
      throw new NetlinkError(asked, EINTR, { message: `changed while it was read, ${DUMP_ATTEMPTS} times` });
    };
    // The socket is free for the next dump only when the kernel has finished this one, aborted or not.
    const result = this.#lastDump.then(run);
    this.#lastDump = result.then(
      () => this.#dumpsDone(),
      () => this.#dumpsDone(),
    );
    return result;
  }

  #dumpsDone(): Promise<void> {
    const running = this.#pending.find((batch) => batch.dump);
    return running === undefined ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  /** @returns undefined if the dump was disturbed */
  #dumpOnce<T>(
    request: Uint8Array,
    asked: string,
    parse: (message: MessageReader) => T | undefined,
    signal: AbortSignal | undefined,
  ): Promise<T[] | undefined> {
    return new Promise((resolve, reject) => {
      this.#throwIfClosed();
      const items: T[] = [];
      const abort = () => reject(signal?.reason);
      signal?.addEventListener('abort', abort, { once: true });
      const batch: Batch = this.#enqueue(
        1,
        {
          asked,
          reply: (_index, message) => {
            const item = signal?.aborted ? undefined : parse(message);
            if (item !== undefined) {
              items.push(item);
            }
          },
          done: (errors) => {
            signal?.removeEventListener('abort', abort);
            for (const resume of this.#idle.splice(0)) {
              resume();
            }
            if (errors[0] !== undefined) {
              reject(errors[0]);
            } else {
              resolve(batch.interrupted ? undefined : items);
            }
          },
        },
        true,
      );
      this.#transmit(request, new DataView(request.buffer, request.byteOffset, request.byteLength), batch);
    });
  }

  /** Requests not yet done fail with ClosedError. May be called again. */
  close(): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#native.close();
    this.#unsent.length = 0;
    this.#failPending(new ClosedError('netlink socket'), true);
  }

  #throwIfClosed(): void {
    if (this.#closed) {
      throw new ClosedError('netlink socket');
    }
  }

  #start(): void {
    if (!this.#started) {
      this.#started = true;
      this.#native.start((count) => this.#readable(count));
    }
  }

  /** What waits for an answer must keep the process alive; listening alone does not. */
  #keep(): void {
    const wanted = this.#pending.length > 0;
    if (wanted !== this.#kept && !this.#closed) {
      this.#kept = wanted;
      if (wanted) {
        this.#start();
      }
      this.#native.keep(wanted);
    }
  }

  #enqueue(count: number, handler: BatchHandler, dump: boolean): Batch {
    if (this.#sequence + count > MAX_SEQUENCE) {
      this.#sequence = 0;
    }
    const batch = { first: this.#sequence + 1, count, handler, dump, interrupted: false, errors: undefined };
    this.#sequence += count;
    this.#pending.push(batch);
    return batch;
  }

  /** Number the messages and send them in parts that end between messages. */
  #transmit(bytes: Uint8Array, view: DataView, batch: Batch): void {
    let start = 0;
    let firstIndex = 0;
    let position = 0;
    for (let index = 0; index < batch.count; index++) {
      const length = (view.getUint32(position, LITTLE_ENDIAN) + 3) & ~3;
      if (index > firstIndex && position + length - start > MAX_SEND) {
        this.#sendOrQueue({ bytes, start, end: position, batch, firstIndex, endIndex: index });
        start = position;
        firstIndex = index;
      }
      view.setUint32(position + 8, batch.first + index, LITTLE_ENDIAN);
      if (!batch.dump && index === batch.count - 1) {
        view.setUint16(position + 6, view.getUint16(position + 6, LITTLE_ENDIAN) | NLM_F_ACK, LITTLE_ENDIAN);
      }
      position += length;
    }
    this.#sendOrQueue({ bytes, start, end: position, batch, firstIndex, endIndex: batch.count });
    this.#drain();
    this.#keep();
  }

  #sendOrQueue(part: Part): void {
    const first = this.#unsent.length === 0;
    if (
      first &&
      !this.#background &&
      this.#sent(part, this.#native.send(part.bytes, part.start, part.end - part.start))
    ) {
      return;
    }
    // The bytes are the caller's again when this returns.
    const bytes = part.bytes.slice(part.start, part.end);
    this.#unsent.push({ ...part, bytes, start: 0, end: bytes.length });
    if (first) {
      if (this.#background) {
        this.#sendQueued();
      } else {
        setImmediate(() => this.#sendQueued());
      }
    }
  }

  #sendQueued(): void {
    while (this.#unsent.length > 0) {
      const part = this.#unsent[0];
      if (this.#background) {
        sendInTurn(this.#native, part.bytes, (sent) => this.#sentQueued(part, sent));
        return;
      }
      if (!this.#sentQueued(part, this.#native.send(part.bytes, part.start, part.end))) {
        return;
      }
    }
  }

  /** @returns false if the queue has to wait */
  #sentQueued(part: Part, sent: number): boolean {
    if (this.#closed) {
      return false;
    }
    if (!this.#sent(part, sent)) {
      setImmediate(() => this.#sendQueued());
      return false;
    }
    this.#unsent.shift();
    this.#drain();
    this.#keep();
    if (this.#background) {
      this.#sendQueued();
    }
    return true;
  }

  /** @returns false if the kernel has no room for it now */
  #sent(part: Part, sent: number): boolean {
    if (sent >= 0) {
      return sent > 0;
    }
    const { batch } = part;
    for (let index = part.firstIndex; index < part.endIndex; index++) {
      this.#fail(batch, index, new NetlinkError(words(batch.handler.asked, index), -sent));
    }
    if (part.endIndex === batch.count) {
      // The acknowledgement that ends the batch will not come, but answers to parts before this one may wait.
      this.#drain();
      this.#complete(batch);
    }
    return true;
  }

  /** Read the answers that wait. A long dump is left to the event loop, so that other work gets its turn. */
  #drain(): void {
    if (this.#receiver.busy) {
      return;
    }
    while (!this.#closed) {
      const count = this.#native.receive();
      if (count === 0) {
        this.#emptied();
        return;
      }
      this.#received(count);
      if (count < 0 && count !== -ENOBUFS) {
        this.#emptied();
        return;
      }
      if (count > 0 && !this.#isWaiting()) {
        this.#emptiedIf(count);
        return;
      }
    }
  }

  #readable(count: number): void {
    this.#received(count);
    // A request made while the batch was being read could not read its answers itself.
    if (count < 0 || this.#isWaiting()) {
      this.#drain();
    } else {
      this.#emptiedIf(count);
    }
    this.#keep();
  }

  /** Whether answers are awaited that the kernel gives at once. */
  #isWaiting(): boolean {
    return this.#pending.some((batch) => !batch.dump);
  }

  /**
   * A batch smaller than it could be means that no more waited. After a full one nothing may wait, and the event loop would
   * not call again: that has to be asked, once other work has had its turn.
   */
  #emptiedIf(count: number): void {
    if (count < this.#batchSize) {
      this.#emptied();
    } else if (this.#loss !== undefined) {
      setImmediate(() => this.#drain());
    }
  }

  /**
   * All that waited has been read. If messages were lost before, what is not answered by now never will be, because the
   * kernel answers while it is being asked. A dump goes on.
   */
  #emptied(): void {
    const reason = this.#loss;
    if (reason !== undefined && this.#unsent.length === 0 && !this.#closed) {
      this.#loss = undefined;
      this.#failPending(undefined, false);
      this.#listener?.overrun(reason);
    }
  }

  #received(count: number): void {
    if (count < 0) {
      this.#lost(new NetlinkError('receive from netlink socket', -count));
      if (-count === EBADF) {
        this.close();
      }
      return;
    }
    const { lengths, bytes, slotSize } = this.#receiver;
    this.#receiver.busy = true;
    try {
      for (let i = 0; i < count && !this.#closed; i++) {
        const start = i * slotSize;
        if (lengths[i] < 0) {
          this.#lost(new ProtocolError(`netlink: a datagram of more than ${slotSize} bytes was cut off`));
        } else {
          this.#datagram(this.#messages.reset(bytes, start, start + lengths[i]));
        }
      }
      if (!this.#closed) {
        this.#listener?.batchEnd?.();
      }
    } finally {
      this.#receiver.busy = false;
    }
  }

  #datagram(messages: MessageReader): void {
    try {
      while (!this.#closed && messages.next()) {
        const batch = messages.port === this.portId ? this.#batchOf(messages.sequence) : undefined;
        if (batch !== undefined) {
          this.#answer(batch, messages);
        } else if (messages.type === NLMSG_OVERRUN) {
          this.#lost(new NetlinkError('receive from netlink socket', ENOBUFS));
        } else if (messages.type >= NLMSG_MIN_TYPE) {
          this.#listener?.message(messages);
        }
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        throw error;
      }
      this.#lost(error);
    }
  }

  #batchOf(sequence: number): Batch | undefined {
    for (const batch of this.#pending) {
      if (sequence >= batch.first && sequence < batch.first + batch.count) {
        return batch;
      }
    }
    return undefined;
  }

  #answer(batch: Batch, message: MessageReader): void {
    const index = message.sequence - batch.first;
    if ((message.flags & NLM_F_DUMP_INTR) !== 0) {
      batch.interrupted = true;
    }
    if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
      const error = this.#readError(batch, index, message);
      if (error !== undefined) {
        this.#fail(batch, index, error);
      }
      // A dump inside a batch ends with DONE and goes without acknowledgement.
      if (index === batch.count - 1) {
        this.#complete(batch);
      }
      return;
    }
    if (message.type < NLMSG_MIN_TYPE) {
      return;
    }
    try {
      batch.handler.reply?.(index, message);
    } catch (error) {
      if (!(error instanceof MidonetError)) {
        throw error;
      }
      this.#fail(batch, index, error);
    }
  }

  #readError(batch: Batch, index: number, message: MessageReader): NetlinkError | undefined {
    if (message.end - message.offset < 4) {
      // DONE without a code, from old parts of the kernel.
      return undefined;
    }
    const code = message.view.getInt32(message.offset, LITTLE_ENDIAN);
    if (code >= 0) {
      return undefined;
    }
    return new NetlinkError(words(batch.handler.asked, index), -code, this.#readExtendedAck(message));
  }

  #readExtendedAck(message: MessageReader): ExtendedAck | undefined {
    if ((message.flags & NLM_F_ACK_TLVS) === 0) {
      return undefined;
    }
    let headerLength = 4;
    if (message.type === NLMSG_ERROR) {
      // The request follows the code: its header alone, or all of it.
      headerLength += MESSAGE_HEADER_LENGTH;
      if (message.end - message.offset < headerLength) {
        throw new ProtocolError('netlink: an acknowledgement is too short for the header of its request');
      }
      if ((message.flags & NLM_F_CAPPED) === 0) {
        headerLength = 4 + message.view.getUint32(message.offset + 4, LITTLE_ENDIAN);
      }
    }
    const detail: { -readonly [K in keyof ExtendedAck]: ExtendedAck[K] } = {};
    const attributes = message.attributes(this.#attributes, headerLength);
    while (attributes.next()) {
      switch (attributes.type) {
        case NLMSGERR_ATTR_MSG:
          detail.message = attributes.string();
          break;
        case NLMSGERR_ATTR_OFFS:
          detail.attributeOffset = attributes.u32();
          break;
        case NLMSGERR_ATTR_MISS_TYPE:
          detail.missingType = attributes.u32();
          break;
      }
    }
    return detail;
  }

  #fail(batch: Batch, index: number, error: MidonetError): void {
    batch.errors ??= [];
    batch.errors[index] ??= error;
  }

  #complete(batch: Batch): void {
    const at = this.#pending.indexOf(batch);
    if (at >= 0) {
      this.#pending.splice(at, 1);
      batch.handler.done(batch.errors ?? NO_ERRORS);
    }
  }

  #lost(reason: MidonetError): void {
    if (this.#loss === undefined) {
      this.#loss = reason;
      this.#listener?.losing?.(reason);
    }
  }

  #failPending(reason: MidonetError | undefined, dumps: boolean): void {
    for (const batch of this.#pending.filter((one) => dumps || !one.dump)) {
      for (let index = 0; index < batch.count; index++) {
        this.#fail(batch, index, reason ?? new NetlinkError(words(batch.handler.asked, index), ENOBUFS));
      }
      this.#complete(batch);
    }
  }
}
