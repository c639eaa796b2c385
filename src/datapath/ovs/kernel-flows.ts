import { InvalidInputError, type MidonetError } from '../../errors.js';
import type { Action } from '../../flow/action.js';
import type { FlowKey } from '../../flow/key.js';
import type { FlowMask } from '../../flow/mask.js';
import type { BatchDone, Flow, FlowId, FlowOperation, PacketOrigin } from '../datapath.js';
import { DatapathError } from '../errors.js';
import { LITTLE_ENDIAN, MessageWriter, NLM_F_CREATE, NLM_F_DUMP } from '../netlink/message.js';
import { writeActions } from './action-codec.js';
import { describeOperation } from './describe.js';
import { monotonicMs, type ReadFlow, readFlow, writeUfid } from './flow-codec.js';
import type { KernelDatapath } from './kernel-datapath.js';
import { writeKey, writeMask, writePacketMetadata } from './key-codec.js';
import { Errno, hasErrno, refusalOf, toDatapathError } from './refusal.js';
import {
  Command,
  FLOW_VERSION,
  FlowAttr,
  MAX_ACTIONS_LENGTH,
  PACKET_VERSION,
  PacketAttr,
  PacketCommand,
} from './uapi.js';

/** For a flow that another driver object put. Hashes are not negative. */
const UNKNOWN_HASH = -1;

const ETHERNET_HEADER_LENGTH = 14;

/** The flows of a datapath, and packets that it is to carry out actions on. */
export class KernelFlows {
  readonly #kernel: KernelDatapath;
  readonly #pidOfPort: (port: number) => number;
  readonly #writer = new MessageWriter(64 * 1024);
  #writing = false;
  /**
   * Flows that are believed to be there: says which of two commands to try first; the other one follows if the kernel
   * disagrees. With each id a hash of key and mask as they were put, or {@link UNKNOWN_HASH}: the kernel would change the
   * actions of a flow without a look at the key that comes with them.
   */
  readonly #known = new Map<FlowId, number>();

  /** @param pidOfPort gives the netlink port that gets the upcalls of a datapath port */
  constructor(kernel: KernelDatapath, pidOfPort: (port: number) => number) {
    this.#kernel = kernel;
    this.#pidOfPort = pidOfPort;
  }

  submit(operations: readonly FlowOperation[], done?: BatchDone): void {
    const writer = this.#takeWriter();
    const errors = new Array<Error | undefined>(operations.length).fill(undefined);
    /** Operation of each message, once one was left out. */
    let sent: number[] | undefined;
    for (let i = 0; i < operations.length; i++) {
      try {
        this.#write(writer, operations[i]);
        sent?.push(i);
      } catch (error) {
        writer.cancel();
        sent ??= Array.from({ length: i }, (_, before) => before);
        errors[i] = error as Error;
      }
    }
    this.#kernel.socket.submit(writer, {
      asked: (message) =>
        describeOperation(operations[sent === undefined ? message : sent[message]], this.#kernel.name),
      done: (refused) => {
        let again: number[] | undefined;
        for (let message = 0; message < refused.length; message++) {
          const error = refused[message];
          if (error === undefined) {
            continue;
          }
          const i = sent === undefined ? message : sent[message];
          const operation = operations[i];
          if (operation.type === 'delete' && hasErrno(error, Errno.ENOENT)) {
            continue;
          }
          if (operation.type === 'put' && hasErrno(error, Errno.EEXIST, Errno.ENOENT)) {
            again ??= [];
            again.push(hasErrno(error, Errno.EEXIST) ? i : -1 - i);
            continue;
          }
          if (operation.type === 'put' && this.#known.get(operation.id) === hashMatch(operation.key, operation.mask)) {
            // Whether it was new or not: the next put asks the kernel.
            this.#known.delete(operation.id);
          }
          errors[i] = this.#refused(operation, error);
        }
        if (again === undefined) {
          done?.(errors);
        } else {
          this.#putAgain(operations, again, errors, done);
        }
      },
    });
    this.#giveBack(writer);
  }

  /**
   * Puts whose flow was, or was not, there against expectation.
   * @param again indexes of operations: i to change a flow, -1 - i to make one
   */
  #putAgain(
    operations: readonly FlowOperation[],
    again: readonly number[],
    errors: (Error | undefined)[],
    done: BatchDone | undefined,
  ): void {
    const writer = this.#takeWriter();
    const sent: number[] = [];
    for (const which of again) {
      const i = which < 0 ? -1 - which : which;
      const operation = operations[i];
      // Deleted since, by an operation behind it: nothing is left to do.
      if (operation.type === 'put' && this.#known.has(operation.id)) {
        this.#writePut(writer, operation, which < 0 ? Command.NEW : Command.SET);
        sent.push(i);
      }
    }
    this.#kernel.socket.submit(writer, {
      asked: (message) => describeOperation(operations[sent[message]], this.#kernel.name),
      done: (refused) => {
        for (let message = 0; message < refused.length; message++) {
          const error = refused[message];
          const operation = operations[sent[message]];
          if (error === undefined || operation.type !== 'put') {
            continue;
          }
          this.#known.delete(operation.id);
          errors[sent[message]] = hasErrno(error, Errno.ENOENT, Errno.EEXIST)
            ? new DatapathError(
                'exists',
                `${describeOperation(operation, this.#kernel.name)}: a flow of another id matches such packets`,
                { cause: error },
              )
            : this.#refused(operation, error);
        }
        done?.(errors);
      },
    });
    this.#giveBack(writer);
  }

  async flow(id: FlowId, signal?: AbortSignal): Promise<Flow | undefined> {
    const writer = new MessageWriter(256);
    this.#kernel.begin(writer, this.#kernel.families.flow, FLOW_VERSION, Command.GET, 0);
    writeUfid(writer, id);
    let found: ReadFlow | undefined;
    const [error] = await this.#kernel.socket.attempt(writer, `get flow ${id} of datapath ${this.#kernel.name}`, {
      signal,
      each: (message) => {
        found = readFlow(message, monotonicMs());
      },
    });
    if (error !== undefined && !hasErrno(error, Errno.ENOENT)) {
      throw toDatapathError(error);
    }
    if (found === undefined) {
      this.#known.delete(id);
      return undefined;
    }
    this.#remember(id);
    return { ...found, actions: found.actions ?? [] };
  }

  async flows(signal?: AbortSignal): Promise<Flow[]> {
    const writer = new MessageWriter(256);
    this.#kernel.begin(writer, this.#kernel.families.flow, FLOW_VERSION, Command.GET, NLM_F_DUMP);
    const now = monotonicMs();
    const read = await refusalOf(
      this.#kernel.socket.dump(
        writer,
        `list flows of datapath ${this.#kernel.name}`,
        (message) => readFlow(message, now),
        signal,
      ),
    );
    // Flows may move while they are dumped, and then come twice.
    const seen = new Set<FlowId>();
    const flows: Flow[] = [];
    for (const flow of read) {
      if (flow.id !== undefined) {
        if (seen.has(flow.id)) {
          continue;
        }
        seen.add(flow.id);
        this.#remember(flow.id);
      }
      if (flow.actions !== undefined) {
        flows.push({ ...flow, actions: flow.actions });
      } else if (flow.id === undefined) {
        flows.push({ ...flow, actions: [], complete: false });
      } else {
        const whole = await this.flow(flow.id, signal);
        if (whole !== undefined) {
          flows.push(whole);
        }
      }
    }
    return flows;
  }

  async flush(signal?: AbortSignal): Promise<void> {
    const writer = new MessageWriter(256);
    this.#kernel.begin(writer, this.#kernel.families.flow, FLOW_VERSION, Command.DEL, 0);
    this.#known.clear();
    await refusalOf(
      this.#kernel.socket.request(writer, `delete all flows of datapath ${this.#kernel.name}`, { signal }),
    );
  }

  /** The writer of the packet path, unless a callback of the very batch in it asks. To be given back. */
  #takeWriter(): MessageWriter {
    if (this.#writing) {
      return new MessageWriter();
    }
    this.#writing = true;
    return this.#writer.reset();
  }

  #giveBack(writer: MessageWriter): void {
    if (writer === this.#writer) {
      this.#writing = false;
    }
  }

  #remember(id: FlowId): void {
    if (!this.#known.has(id)) {
      this.#known.set(id, UNKNOWN_HASH);
    }
  }

  #write(writer: MessageWriter, operation: FlowOperation): void {
    switch (operation.type) {
      case 'put': {
        const known = this.#known.get(operation.id);
        const hash = hashMatch(operation.key, operation.mask);
        if (known !== undefined && known !== UNKNOWN_HASH && known !== hash) {
          throw new DatapathError(
            'invalid',
            `${describeOperation(operation, this.#kernel.name)}: the flow of this id has another key or mask`,
          );
        }
        this.#writePut(writer, operation, known === undefined ? Command.NEW : Command.SET);
        this.#known.set(operation.id, hash);
        return;
      }
      case 'delete':
        this.#kernel.begin(writer, this.#kernel.families.flow, FLOW_VERSION, Command.DEL, 0);
        writeUfid(writer, operation.id);
        this.#known.delete(operation.id);
        break;
      case 'execute':
        this.#writeExecute(writer, operation);
    }
    writer.end();
  }

  /**
   * With NEW alone the kernel would change the actions of whatever flow matches the key; NLM_F_CREATE makes it refuse
   * that, and SET finds by id only.
   */
  #writePut(writer: MessageWriter, put: Extract<FlowOperation, { type: 'put' }>, command: number): void {
    const flags = command === Command.NEW ? NLM_F_CREATE : 0;
    this.#kernel.begin(writer, this.#kernel.families.flow, FLOW_VERSION, command, flags);
    writeUfid(writer, put.id);
    writeKey(writer, FlowAttr.KEY, put.key, put.mask);
    writeMask(writer, FlowAttr.MASK, put.key, put.mask);
    this.#writeActions(writer, FlowAttr.ACTIONS, put.actions, put.key.inPort);
    writer.end();
  }

  #writeExecute(writer: MessageWriter, execute: Extract<FlowOperation, { type: 'execute' }>): void {
    if (execute.packet.length < ETHERNET_HEADER_LENGTH) {
      throw new InvalidInputError('packet', execute.packet.length, 'at least the 14 bytes of an Ethernet header');
    }
    this.#kernel.begin(writer, this.#kernel.families.packet, PACKET_VERSION, PacketCommand.EXECUTE, 0);
    writer.raw(PacketAttr.PACKET, execute.packet);
    writePacketMetadata(writer, PacketAttr.KEY, execute.key);
    this.#writeActions(writer, PacketAttr.ACTIONS, execute.actions, execute.key.inPort);
    if (execute.origin !== undefined) {
      writeOrigin(writer, execute.origin);
    }
  }

  #writeActions(writer: MessageWriter, type: number, actions: readonly Action[], inPort: number): void {
    const start = writer.length;
    writeActions(writer, type, actions, this.#pidOfPort(inPort));
    const length = writer.length - start;
    if (length > MAX_ACTIONS_LENGTH) {
      throw new DatapathError(
        'too-large',
        `datapath ${this.#kernel.name} takes ${MAX_ACTIONS_LENGTH} bytes of actions, these are ${length}`,
      );
    }
  }

  #refused(operation: FlowOperation, error: MidonetError): MidonetError {
    if (hasErrno(error, Errno.EINVAL)) {
      const what = operation.type === 'execute' ? 'packet or actions' : 'key, mask or actions';
      return toDatapathError(error, `the kernel does not take these ${what}; its log may say why`);
    }
    return toDatapathError(error);
  }
}

function hashMatch(key: FlowKey, mask: FlowMask): number {
  return (Math.imul(key.hash(mask), 31) ^ mask.hash()) >>> 0;
}

function writeOrigin(writer: MessageWriter, origin: PacketOrigin): void {
  const at = writer.attribute(PacketAttr.HASH, 8);
  writer.view.setUint32(at + (LITTLE_ENDIAN ? 4 : 0), origin.hashHigh, LITTLE_ENDIAN);
  writer.view.setUint32(at + (LITTLE_ENDIAN ? 0 : 4), origin.hashLow, LITTLE_ENDIAN);
  if (origin.maxFragment !== 0) {
    writer.u16(PacketAttr.MRU, origin.maxFragment);
  }
}
