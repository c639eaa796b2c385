import { UnsupportedError } from '../../errors.js';
import type { MeterCounters, MeterSpec } from '../datapath.js';
import { MessageWriter } from '../netlink/message.js';
import type { KernelDatapath } from './kernel-datapath.js';
import { readMeter, writeMeter } from './meter-codec.js';
import { Errno, hasErrno, refusalOf, toDatapathError } from './refusal.js';
import { METER_VERSION, MeterAttr, MeterCommand } from './uapi.js';

/** The meters of a datapath, by the numbers that actions give. */
export class KernelMeters {
  readonly #kernel: KernelDatapath;

  constructor(kernel: KernelDatapath) {
    this.#kernel = kernel;
  }

  async put(id: number, meter: MeterSpec, signal?: AbortSignal): Promise<void> {
    const writer = this.#request(MeterCommand.SET);
    writeMeter(writer, id, meter);
    await refusalOf(
      this.#kernel.socket.request(writer, `put meter ${id} of datapath ${this.#kernel.name}`, { signal }),
    );
  }

  async delete(id: number, signal?: AbortSignal): Promise<void> {
    const writer = this.#request(MeterCommand.DEL);
    writer.u32(MeterAttr.ID, id);
    const asked = `delete meter ${id} of datapath ${this.#kernel.name}`;
    const [error] = await this.#kernel.socket.attempt(writer, asked, { signal });
    if (error !== undefined && !hasErrno(error, Errno.ENOENT)) {
      throw toDatapathError(error);
    }
  }

  /** Undefined if there is none. */
  async counters(id: number, signal?: AbortSignal): Promise<MeterCounters | undefined> {
    const writer = this.#request(MeterCommand.GET);
    writer.u32(MeterAttr.ID, id);
    let counters: MeterCounters | undefined;
    const [error] = await this.#kernel.socket.attempt(writer, `get meter ${id} of datapath ${this.#kernel.name}`, {
      signal,
      each: (message) => {
        counters = readMeter(message);
      },
    });
    if (error !== undefined && !hasErrno(error, Errno.ENOENT)) {
      throw toDatapathError(error);
    }
    return counters;
  }

  #request(command: number): MessageWriter {
    const { meter } = this.#kernel.families;
    if (meter === undefined) {
      throw new UnsupportedError('meter', 'Linux 4.15 or later is needed');
    }
    const writer = new MessageWriter(256);
    this.#kernel.begin(writer, meter, METER_VERSION, command, 0);
    return writer;
  }
}
