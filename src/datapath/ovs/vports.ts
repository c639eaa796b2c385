import type { MidonetError } from '../../errors.js';
import type { DatapathPort } from '../datapath.js';
import { DatapathError } from '../errors.js';
import {
  AttributeReader,
  GENL_HEADER_LENGTH,
  type MessageReader,
  MessageWriter,
  NLM_F_DUMP,
  NLM_F_ECHO,
} from '../netlink/message.js';
import { beginMessage, getDatapath, type KernelDatapath, ovsIfindex } from './kernel-datapath.js';
import { Errno, hasErrno, refusalOf, toDatapathError } from './refusal.js';
import { Command, OVS_HEADER_LENGTH, VPORT_VERSION, VportAttr, VportType } from './uapi.js';

const LOCAL_PORT = 0;

/** A port of a datapath, as the kernel tells of it. */
export interface Vport extends DatapathPort {
  readonly datapathIfindex: number;
  readonly upcallPid: number;
}

/** The ports of a datapath. */
export class Vports {
  readonly #kernel: KernelDatapath;

  constructor(kernel: KernelDatapath) {
    this.#kernel = kernel;
  }

  list(signal?: AbortSignal): Promise<Vport[]> {
    const writer = new MessageWriter(256);
    writeList(writer, this.#kernel);
    const asked = `list ports of datapath ${this.#kernel.name}`;
    return refusalOf(this.#kernel.socket.dump(writer, asked, readVport, signal));
  }

  /**
   * Make a port, or return the one that is there.
   * @param upcallPid the netlink port that gets its upcalls, if it is made
   */
  async add(name: string, type: 'netdev' | 'internal', upcallPid: number, signal?: AbortSignal): Promise<Vport> {
    const kernel = this.#kernel;
    const writer = new MessageWriter(256);
    kernel.begin(writer, kernel.families.vport, VPORT_VERSION, Command.NEW, NLM_F_ECHO);
    writer.string(VportAttr.NAME, name);
    writer.u32(VportAttr.TYPE, type === 'internal' ? VportType.INTERNAL : VportType.NETDEV);
    writer.u32(VportAttr.UPCALL_PID, upcallPid);
    const asked = `add ${type} port ${name} to datapath ${kernel.name}`;
    let port: Vport | undefined;
    const [error] = await kernel.socket.attempt(writer, asked, {
      signal,
      each: (message) => {
        port = readVport(message);
      },
    });
    if (error !== undefined) {
      const taken = await this.#find(name, signal);
      if (taken?.datapathIfindex === kernel.ifindex) {
        return taken;
      }
      throw toDatapathError(error, await this.#whyNoPort(error, taken, signal));
    }
    port ??= await this.#find(name, signal);
    if (port === undefined) {
      throw new DatapathError('not-found', `${asked}: it was removed again`);
    }
    return port;
  }

  /** Succeeds when there is none of that name. */
  async delete(name: string, signal?: AbortSignal): Promise<void> {
    const kernel = this.#kernel;
    const writer = new MessageWriter(256);
    kernel.begin(writer, kernel.families.vport, VPORT_VERSION, Command.DEL, 0);
    writer.string(VportAttr.NAME, name);
    const asked = `delete port ${name} of datapath ${kernel.name}`;
    const [error] = await kernel.socket.attempt(writer, asked, { signal });
    if (error !== undefined && !hasErrno(error, Errno.ENODEV)) {
      const local = name === kernel.name ? "port 0 is the datapath's own interface and goes with it" : '';
      throw toDatapathError(error, local);
    }
  }

  /** A vport of any datapath in the namespace. */
  async #find(name: string, signal?: AbortSignal): Promise<Vport | undefined> {
    const writer = new MessageWriter(256);
    beginMessage(writer, this.#kernel.families.vport, VPORT_VERSION, Command.GET, 0, 0);
    writer.string(VportAttr.NAME, name);
    let port: Vport | undefined;
    const [error] = await this.#kernel.socket.attempt(writer, `get port ${name}`, {
      signal,
      each: (message) => {
        port = readVport(message);
      },
    });
    if (error !== undefined && !hasErrno(error, Errno.ENODEV)) {
      throw toDatapathError(error);
    }
    return port;
  }

  async #whyNoPort(error: MidonetError, taken: Vport | undefined, signal?: AbortSignal): Promise<string> {
    if (taken !== undefined) {
      const other = await getDatapath(
        this.#kernel.socket,
        this.#kernel.families.datapath,
        taken.datapathIfindex,
        signal,
      );
      return `it is a port of datapath ${other?.name ?? `with ifindex ${taken.datapathIfindex}`}`;
    }
    if (hasErrno(error, Errno.EBUSY)) {
      return 'the interface belongs to a bridge, bond or other device';
    }
    if (hasErrno(error, Errno.ENODEV)) {
      return 'there is no such interface, or the datapath is gone';
    }
    if (hasErrno(error, Errno.EEXIST)) {
      return 'an interface of that name exists';
    }
    if (hasErrno(error, Errno.EINVAL)) {
      return 'loopback interfaces, internal ports of a datapath and those that are not Ethernet cannot be ports';
    }
    return '';
  }
}

/** The request for all ports of a datapath. */
export function writeList(writer: MessageWriter, kernel: KernelDatapath): void {
  kernel.begin(writer, kernel.families.vport, VPORT_VERSION, Command.GET, NLM_F_DUMP);
}

/** The request that upcalls of a port go to a netlink port. */
export function writeUpcallPid(writer: MessageWriter, kernel: KernelDatapath, port: number, pid: number): void {
  kernel.begin(writer, kernel.families.vport, VPORT_VERSION, Command.SET, 0);
  writer.u32(VportAttr.PORT_NO, port);
  writer.u32(VportAttr.UPCALL_PID, pid);
}

export function readVport(message: MessageReader): Vport {
  const attributes = message.attributes(new AttributeReader(), GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
  let number = LOCAL_PORT;
  let type = 0;
  let name = '';
  let ifindex = 0;
  let upcallPid = 0;
  while (attributes.next()) {
    switch (attributes.type) {
      case VportAttr.PORT_NO:
        number = attributes.u32();
        break;
      case VportAttr.TYPE:
        type = attributes.u32();
        break;
      case VportAttr.NAME:
        name = attributes.string();
        break;
      case VportAttr.IFINDEX:
        ifindex = attributes.u32();
        break;
      case VportAttr.UPCALL_PID:
        upcallPid = attributes.length >= 4 ? attributes.u32() : 0;
        break;
    }
  }
  const datapathIfindex = ovsIfindex(message);
  return {
    number,
    name,
    type: type === VportType.INTERNAL ? 'internal' : 'netdev',
    ifindex,
    datapathIfindex,
    upcallPid,
  };
}

/** What of a port is not only the kernel's. */
export function toPort({ number, name, type, ifindex }: Vport): DatapathPort {
  return { number, name, type, ifindex };
}
