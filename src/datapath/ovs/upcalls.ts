import { readFileSync } from 'node:fs';
import { type MidonetError, UnsupportedError } from '../../errors.js';
import type { DatapathHandler } from '../datapath.js';
import { DatapathError } from '../errors.js';
import {
  AttributeReader,
  GENL_HEADER_LENGTH,
  LITTLE_ENDIAN,
  type MessageReader,
  MessageWriter,
} from '../netlink/message.js';
import { NETLINK_GENERIC, NetlinkSocket } from '../netlink/socket.js';
import { type KernelDatapath, ovsIfindex, type UpcallDispatch, wantedFeatures } from './kernel-datapath.js';
import { Errno, hasErrno, refusalOf, toDatapathError } from './refusal.js';
import { Command, DATAPATH_GROUP, DATAPATH_VERSION, DatapathAttr, OVS_HEADER_LENGTH, VPORT_GROUP } from './uapi.js';
import { UpcallSockets } from './upcall-sockets.js';
import { readVport, type Vport, writeList, writeUpcallPid } from './vports.js';

/** In per-CPU dispatch the netlink port in vports and actions only has to differ from zero. */
const ANY_PID = 0xffff_ffff;

export interface UpcallsOptions {
  readonly dispatch: UpcallDispatch;
  /** Packets that the kernel had to drop so far, by its count. */
  readonly lost: number;
  /** As many as CPUs but at most four, if undefined. */
  readonly sockets: number | undefined;
  /** Bytes of unread upcalls that the kernel keeps for each socket; 4 MiB if undefined. */
  readonly buffer: number | undefined;
  readonly namespaceFd: number | undefined;
}

/** What the kernel tells of a datapath unasked: packets that match no flow, and that ports came or went. */
export class Upcalls {
  readonly #kernel: KernelDatapath;
  readonly #options: UpcallsOptions;
  #handler: DatapathHandler | undefined;
  #sockets: UpcallSockets | undefined;
  #events: NetlinkSocket | undefined;
  #error: MidonetError | undefined;
  #lost: number;
  #countingLost = false;
  #closed = false;

  constructor(kernel: KernelDatapath, options: UpcallsOptions) {
    this.#kernel = kernel;
    this.#options = options;
    this.#lost = options.lost;
  }

  /** Why the kernel refused to tell, if it did. */
  get error(): MidonetError | undefined {
    return this.#error;
  }

  /**
   * Begin to hand over what the kernel tells.
   * @throws NetlinkError if sockets cannot be opened; DatapathError if the datapath is gone
   */
  start(handler: DatapathHandler): void {
    if (this.#handler !== undefined) {
      throw new DatapathError('invalid', `datapath ${this.#kernel.name} was started before`);
    }
    this.#handler = handler;
    const { sockets, buffer = 4 * 1024 * 1024, namespaceFd } = this.#options;
    const cpus = possibleCpus();
    this.#events = this.#listenForChanges(handler);
    this.#sockets = new UpcallSockets({
      count: sockets ?? Math.min(cpus, 4),
      receiveBuffer: buffer,
      namespaceFd,
      packetFamily: this.#kernel.families.packet.id,
      datapathIfindex: this.#kernel.ifindex,
      upcalls: (batch) => handler.upcalls(batch),
      lost: () => this.#countLost(),
    });
    this.#claimUpcalls(cpus);
    if (this.#error !== undefined) {
      throw this.#error;
    }
  }

  close(): void {
    this.#closed = true;
    this.#sockets?.close();
    this.#events?.close();
  }

  /** Netlink port that gets the upcalls of a datapath port. */
  pidOfPort(port: number): number {
    if (this.#options.dispatch === 'per-cpu' || this.#sockets === undefined) {
      return ANY_PID;
    }
    const { ports } = this.#sockets;
    return ports[port % ports.length];
  }

  /** Before `start` nobody listens; afterwards {@link pointPort} corrects a first guess. */
  pidOfNewPort(): number {
    return this.#options.dispatch === 'per-port' && this.#sockets === undefined ? 0 : this.pidOfPort(0);
  }

  /** Have upcalls of a port that was made come here, if they go by ports and do not. */
  async pointPort({ number, name, upcallPid }: Vport, signal?: AbortSignal): Promise<void> {
    if (this.#options.dispatch !== 'per-port' || this.#sockets === undefined) {
      return;
    }
    const pid = this.pidOfPort(number);
    if (pid !== upcallPid) {
      const kernel = this.#kernel;
      const writer = new MessageWriter(256);
      writeUpcallPid(writer, kernel, number, pid);
      const asked = `take upcalls of port ${name} of datapath ${kernel.name}`;
      await refusalOf(kernel.socket.request(writer, asked, { signal }));
    }
  }

  /** Make the kernel send upcalls to our sockets. */
  #claimUpcalls(cpus: number): void {
    const { ports } = this.#sockets as UpcallSockets;
    const writer = new MessageWriter();
    this.#kernel.begin(writer, this.#kernel.families.datapath, DATAPATH_VERSION, Command.SET, 0);
    writer.u32(DatapathAttr.USER_FEATURES, wantedFeatures(this.#options.dispatch));
    if (this.#options.dispatch === 'per-cpu') {
      const at = writer.attribute(DatapathAttr.PER_CPU_PIDS, 4 * cpus);
      for (let cpu = 0; cpu < cpus; cpu++) {
        writer.view.setUint32(at + 4 * cpu, ports[cpu % ports.length], LITTLE_ENDIAN);
      }
    }
    this.#ask(writer, `take upcalls of datapath ${this.#kernel.name}`, undefined, () => {
      if (this.#options.dispatch === 'per-port') {
        this.#claimPorts();
      }
    });
  }

  /** The same for each port. */
  #claimPorts(): void {
    const vports: Vport[] = [];
    const writer = new MessageWriter(256);
    writeList(writer, this.#kernel);
    const read = (message: MessageReader): void => {
      vports.push(readVport(message));
    };
    this.#ask(writer, `list ports of datapath ${this.#kernel.name}`, read, () => {
      writer.reset();
      for (const { number } of vports) {
        writeUpcallPid(writer, this.#kernel, number, this.pidOfPort(number));
      }
      // A port may be gone by now.
      const asked = `take upcalls of the ports of datapath ${this.#kernel.name}`;
      this.#ask(writer, asked, undefined, () => undefined, Errno.ENODEV);
    });
  }

  /**
   * Requests of `start`, which may not wait: they are normally done before it returns. A refusal that comes later is
   * told to the next who asks for something.
   */
  #ask(
    writer: MessageWriter,
    asked: string,
    reply: ((message: MessageReader) => void) | undefined,
    next: () => void,
    ...tolerated: number[]
  ): void {
    this.#kernel.socket.submit(writer, {
      asked,
      reply: reply && ((_index, message) => reply(message)),
      done: (errors) => {
        const error = errors.find((one) => one !== undefined && !hasErrno(one, ...tolerated));
        if (error === undefined) {
          next();
        } else if (!this.#closed) {
          this.#error = toDatapathError(error);
        }
      },
    });
  }

  #listenForChanges(handler: DatapathHandler): NetlinkSocket {
    const attributes = new AttributeReader();
    let changed = false;
    const events = new NetlinkSocket({
      protocol: NETLINK_GENERIC,
      namespaceFd: this.#options.namespaceFd,
      listener: {
        message: (message) => {
          const { datapath, vport } = this.#kernel.families;
          message.attributes(attributes, GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
          if (ovsIfindex(message) !== this.#kernel.ifindex || message.port === this.#kernel.socket.portId) {
            return;
          }
          const command = message.bytes[message.offset];
          if (message.type === vport.id) {
            changed = true;
            if (command === Command.NEW && this.#options.dispatch === 'per-port') {
              this.#claimPorts();
            }
          } else if (message.type === datapath.id && command === Command.DEL) {
            changed = true;
          }
        },
        batchEnd: () => {
          if (changed) {
            changed = false;
            handler.portsChanged();
          }
        },
        overrun: () => handler.portsChanged(),
      },
    });
    for (const [family, group] of [
      [this.#kernel.families.vport, VPORT_GROUP],
      [this.#kernel.families.datapath, DATAPATH_GROUP],
    ] as const) {
      const number = family.groups.get(group);
      if (number === undefined) {
        throw new UnsupportedError(`multicast group ${group}`, 'not in this kernel');
      }
      events.join(number);
    }
    return events;
  }

  /** The kernel says that upcalls were lost, its counter how many. */
  #countLost(): void {
    if (this.#countingLost) {
      return;
    }
    this.#countingLost = true;
    const before = this.#lost;
    const report = (count: number): void => {
      this.#countingLost = false;
      if (!this.#closed) {
        this.#handler?.upcallsLost(Math.max(1, count));
      }
    };
    this.#kernel.statistics().then(
      ({ lost }) => {
        this.#lost = lost;
        report(lost - before);
      },
      () => report(1),
    );
  }
}

/** One more than the highest number a CPU may have here: holes count, as they do for the kernel's array. */
function possibleCpus(): number {
  const list = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
  const highest = Number(list.split(/[,-]/).at(-1));
  if (!Number.isSafeInteger(highest)) {
    throw new DatapathError('failed', `/sys/devices/system/cpu/possible says ${JSON.stringify(list)}, not CPU numbers`);
  }
  return highest + 1;
}
