import { readFileSync } from 'node:fs';
import { ClosedError, InvalidInputError, MidonetError, UnsupportedError } from '../../errors.js';
import type { Action } from '../../flow/action.js';
import type { FlowKey } from '../../flow/key.js';
import type { FlowMask } from '../../flow/mask.js';
import {
  type BatchDone,
  CONNECTIONS_LIMIT,
  type ConnectionListener,
  type ConnectionName,
  type ConnectionOperation,
  type Datapath,
  type DatapathFeatures,
  type DatapathHandler,
  type DatapathPort,
  type Flow,
  type FlowId,
  type FlowOperation,
  type MeterCounters,
  type MeterSpec,
  type PacketOrigin,
  type TrackedConnection,
} from '../datapath.js';
import { DatapathError } from '../errors.js';
import { requireInterfaceName } from '../link/name.js';
import { Namespace } from '../link/namespace.js';
import { requireMeter } from '../meter.js';
import { type Family, getFamilies } from '../netlink/genl.js';
import {
  AttributeReader,
  GENL_HEADER_LENGTH,
  LITTLE_ENDIAN,
  type MessageReader,
  MessageWriter,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_ECHO,
  NLM_F_REQUEST,
  readU64,
} from '../netlink/message.js';
import { NETLINK_GENERIC, NETLINK_NETFILTER, NetlinkSocket } from '../netlink/socket.js';
import { actionsLength, writeActions } from './action-codec.js';
import {
  changeConnections,
  deleteConnections,
  findConnection,
  listConnections,
  watchConnections,
} from './connections.js';
import { describeOperation } from './describe.js';
import { probeFeatures } from './features.js';
import { monotonicMs, type ReadFlow, readFlow, writeUfid } from './flow-codec.js';
import { writeKey, writeMask, writePacketMetadata } from './key-codec.js';
import { readMeter, writeMeter } from './meter-codec.js';
import { Errno, hasErrno, toDatapathError } from './refusal.js';
import {
  Command,
  DATAPATH_FAMILY,
  DATAPATH_GROUP,
  DATAPATH_VERSION,
  DatapathAttr,
  DatapathFeature,
  FLOW_FAMILY,
  FLOW_VERSION,
  FlowAttr,
  MAX_ACTIONS_LENGTH,
  METER_FAMILY,
  METER_VERSION,
  MeterAttr,
  MeterCommand,
  OVS_HEADER_LENGTH,
  PACKET_FAMILY,
  PACKET_VERSION,
  PacketAttr,
  PacketCommand,
  VPORT_FAMILY,
  VPORT_GROUP,
  VPORT_VERSION,
  VportAttr,
  VportType,
} from './uapi.js';
import { UpcallSockets } from './upcall-sockets.js';

/**
 * Who gets the upcalls of a packet: the socket of the CPU that it is on (Linux 5.15 and later), which needs no work per
 * port and keeps the packets of a connection in order; or the socket of the port that it came in at.
 */
export type UpcallDispatch = 'per-cpu' | 'per-port';

export interface OvsDatapathOptions {
  /** Network namespace to work in; the process's own if undefined. Stays the caller's, to close whenever. */
  readonly namespace?: Namespace;
  /** Make the datapath if there is none. True if undefined. */
  readonly create?: boolean;
  /** The better one that the kernel has, if undefined. */
  readonly dispatch?: UpcallDispatch;
  /** Sockets for upcalls; as many as CPUs but at most four, if undefined. */
  readonly upcallSockets?: number;
  /** Bytes of unread upcalls that the kernel keeps for each socket; 4 MiB if undefined. */
  readonly upcallBuffer?: number;
  readonly signal?: AbortSignal;
}

/** Counters of a datapath since it was made (struct ovs_dp_stats and ovs_dp_megaflow_stats). */
export interface OvsStatistics {
  /** Packets that matched a flow, that matched none, and that could not be handed to anybody. */
  readonly hit: number;
  readonly missed: number;
  readonly lost: number;
  readonly flows: number;
  /** Different masks: a packet may have to be compared with each. */
  readonly masks: number;
}

/** For a flow that another driver object put. Hashes are not negative. */
const UNKNOWN_HASH = -1;

/** In per-CPU dispatch the netlink port in vports and actions only has to differ from zero. */
const ANY_PID = 0xffff_ffff;
const LOCAL_PORT = 0;
const ETHERNET_HEADER_LENGTH = 14;

interface Families {
  readonly datapath: Family;
  readonly vport: Family;
  readonly flow: Family;
  readonly packet: Family;
  /** Undefined before Linux 4.15. */
  readonly meter: Family | undefined;
}

interface Vport extends DatapathPort {
  readonly datapathIfindex: number;
  readonly upcallPid: number;
}

interface DatapathInfo {
  readonly ifindex: number;
  readonly name: string;
  readonly statistics: OvsStatistics;
}

/**
 * A datapath of the kernel's openvswitch module, through generic netlink. It lives in the network namespace it was made
 * in and stays there when the process ends: open it again to go on with its ports and flows. Upcalls go to whoever
 * called `start` last.
 */
export class OvsDatapath implements Datapath {
  readonly maxActionsLength = MAX_ACTIONS_LENGTH;
  readonly dispatch: UpcallDispatch;
  readonly #socket: NetlinkSocket;
  readonly #families: Families;
  readonly #namespace: Namespace | undefined;
  readonly #options: OvsDatapathOptions;
  readonly #writer = new MessageWriter(64 * 1024);
  #writing = false;
  /**
   * Flows that are believed to be there: says which of two commands to try first; the other one follows if the kernel
   * disagrees. With each id a hash of key and mask as they were put, or {@link UNKNOWN_HASH}: the kernel would change the
   * actions of a flow without a look at the key that comes with them.
   */
  readonly #known = new Map<FlowId, number>();
  #handler: DatapathHandler | undefined;
  #upcalls: UpcallSockets | undefined;
  #events: NetlinkSocket | undefined;
  /** For connections; made when first needed, as it may load a module. */
  #netfilter: NetlinkSocket | undefined;
  /** Of those who watch connections. */
  readonly #watches = new Set<NetlinkSocket>();
  #startError: MidonetError | undefined;
  #lost: number;
  #countingLost = false;
  #closed = false;

  private constructor(
    readonly name: string,
    /** Of the datapath's own interface, port 0: identifies it to the kernel. */
    readonly ifindex: number,
    readonly features: DatapathFeatures,
    socket: NetlinkSocket,
    families: Families,
    namespace: Namespace | undefined,
    dispatch: UpcallDispatch,
    lost: number,
    options: OvsDatapathOptions,
  ) {
    this.#socket = socket;
    this.#families = families;
    this.#namespace = namespace;
    this.dispatch = dispatch;
    this.#lost = lost;
    this.#options = options;
  }

  /**
   * Open the datapath `name`, with the flows and ports it has, or make it.
   * @throws UnsupportedError if the kernel has no openvswitch, or not the dispatch asked for
   * @throws DatapathError not-found if it does not exist and is not to be made; exists if something else has the name
   */
  static async open(name: string, options: OvsDatapathOptions = {}): Promise<OvsDatapath> {
    requireInterfaceName(name, 'datapath name');
    const namespace = reopen(options.namespace);
    let socket: NetlinkSocket | undefined;
    try {
      socket = new NetlinkSocket({ protocol: NETLINK_GENERIC, namespaceFd: namespace?.fd });
      const families = await resolveFamilies(socket, options.signal);
      const dispatch = chooseDispatch(families.datapath, options.dispatch);
      const info =
        (await getDatapath(socket, families.datapath, name, options.signal)) ??
        (await makeDatapath(socket, families.datapath, name, dispatch, options));
      const found = await probeFeatures(socket, families, info.ifindex, options.signal);
      const { lost } = info.statistics;
      return new OvsDatapath(name, info.ifindex, found, socket, families, namespace, dispatch, lost, options);
    } catch (error) {
      socket?.close();
      namespace?.close();
      throw error;
    }
  }

  /** Remove the datapath `name` with its flows and internal interfaces; others are detached. Succeeds if there is none. */
  static async destroy(name: string, options: Pick<OvsDatapathOptions, 'namespace' | 'signal'> = {}): Promise<void> {
    requireInterfaceName(name, 'datapath name');
    const namespace = reopen(options.namespace);
    let socket: NetlinkSocket | undefined;
    try {
      socket = new NetlinkSocket({ protocol: NETLINK_GENERIC, namespaceFd: namespace?.fd });
      const [family] = await getFamilies(socket, [DATAPATH_FAMILY], options.signal);
      const writer = new MessageWriter(256);
      beginMessage(writer, family, DATAPATH_VERSION, Command.DEL, 0, 0);
      writer.string(DatapathAttr.NAME, name);
      const [error] = await socket.attempt(writer, `delete datapath ${name}`, { signal: options.signal });
      if (error !== undefined && !hasErrno(error, Errno.ENODEV)) {
        throw toDatapathError(error);
      }
    } finally {
      socket?.close();
      namespace?.close();
    }
  }

  actionsLength(actions: readonly Action[]): number {
    return actionsLength(actions);
  }

  /** @throws NetlinkError if sockets cannot be opened; DatapathError if the datapath is gone */
  start(handler: DatapathHandler): void {
    this.#throwIfClosed();
    if (this.#handler !== undefined) {
      throw new DatapathError('invalid', `datapath ${this.name} was started before`);
    }
    this.#handler = handler;
    const cpus = possibleCpus();
    this.#events = this.#listenForChanges(handler);
    this.#upcalls = new UpcallSockets({
      count: this.#options.upcallSockets ?? Math.min(cpus, 4),
      receiveBuffer: this.#options.upcallBuffer ?? 4 * 1024 * 1024,
      namespaceFd: this.#namespace?.fd,
      packetFamily: this.#families.packet.id,
      datapathIfindex: this.ifindex,
      upcalls: (batch) => handler.upcalls(batch),
      lost: () => this.#countLost(),
    });
    this.#claimUpcalls(cpus);
    if (this.#startError !== undefined) {
      throw this.#startError;
    }
  }

  async ports(signal?: AbortSignal): Promise<DatapathPort[]> {
    this.#check();
    const writer = new MessageWriter(256);
    this.#begin(writer, this.#families.vport, VPORT_VERSION, Command.GET, NLM_F_DUMP);
    const asked = `list ports of datapath ${this.name}`;
    const vports = await refusalOf(this.#socket.dump(writer, asked, readVport, signal));
    return vports.map(toPort);
  }

  async addPort(name: string, type: 'netdev' | 'internal', signal?: AbortSignal): Promise<DatapathPort> {
    this.#check();
    requireInterfaceName(name, 'interface name');
    const writer = new MessageWriter(256);
    this.#begin(writer, this.#families.vport, VPORT_VERSION, Command.NEW, NLM_F_ECHO);
    writer.string(VportAttr.NAME, name);
    writer.u32(VportAttr.TYPE, type === 'internal' ? VportType.INTERNAL : VportType.NETDEV);
    writer.u32(VportAttr.UPCALL_PID, this.#pidOfNewPort());
    const asked = `add ${type} port ${name} to datapath ${this.name}`;
    let port: Vport | undefined;
    const [error] = await this.#socket.attempt(writer, asked, {
      signal,
      each: (message) => {
        port = readVport(message);
      },
    });
    if (error !== undefined) {
      const taken = await this.#findVport(name, signal);
      if (taken?.datapathIfindex === this.ifindex) {
        return toPort(taken);
      }
      throw toDatapathError(error, await this.#whyNoPort(error, taken, signal));
    }
    port ??= await this.#findVport(name, signal);
    if (port === undefined) {
      throw new DatapathError('not-found', `${asked}: it was removed again`);
    }
    if (this.dispatch === 'per-port' && this.#upcalls !== undefined) {
      await this.#pointPort(port, signal);
    }
    return toPort(port);
  }

  async deletePort(name: string, signal?: AbortSignal): Promise<void> {
    this.#check();
    requireInterfaceName(name, 'interface name');
    const writer = new MessageWriter(256);
    this.#begin(writer, this.#families.vport, VPORT_VERSION, Command.DEL, 0);
    writer.string(VportAttr.NAME, name);
    const asked = `delete port ${name} of datapath ${this.name}`;
    const [error] = await this.#socket.attempt(writer, asked, { signal });
    if (error !== undefined && !hasErrno(error, Errno.ENODEV)) {
      const local = name === this.name ? "port 0 is the datapath's own interface and goes with it" : '';
      throw toDatapathError(error, local);
    }
  }

  submit(operations: readonly FlowOperation[], done?: BatchDone): void {
    this.#throwIfClosed();
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
    this.#socket.submit(writer, {
      asked: (message) => describeOperation(operations[sent === undefined ? message : sent[message]], this.name),
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
    this.#socket.submit(writer, {
      asked: (message) => describeOperation(operations[sent[message]], this.name),
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
                `${describeOperation(operation, this.name)}: a flow of another id matches such packets`,
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
    this.#check();
    const writer = new MessageWriter(256);
    this.#begin(writer, this.#families.flow, FLOW_VERSION, Command.GET, 0);
    writeUfid(writer, id);
    let found: ReadFlow | undefined;
    const [error] = await this.#socket.attempt(writer, `get flow ${id} of datapath ${this.name}`, {
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
    this.#check();
    const writer = new MessageWriter(256);
    this.#begin(writer, this.#families.flow, FLOW_VERSION, Command.GET, NLM_F_DUMP);
    const now = monotonicMs();
    const read = await refusalOf(
      this.#socket.dump(writer, `list flows of datapath ${this.name}`, (message) => readFlow(message, now), signal),
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

  async flushFlows(signal?: AbortSignal): Promise<void> {
    this.#check();
    const writer = new MessageWriter(256);
    this.#begin(writer, this.#families.flow, FLOW_VERSION, Command.DEL, 0);
    this.#known.clear();
    await refusalOf(this.#socket.request(writer, `delete all flows of datapath ${this.name}`, { signal }));
  }

  async connections(zone?: number, limit = CONNECTIONS_LIMIT, signal?: AbortSignal): Promise<TrackedConnection[]> {
    this.#check();
    return refusalOf(listConnections(this.#conntrack(), zone, limit, signal));
  }

  async connection(name: ConnectionName, signal?: AbortSignal): Promise<TrackedConnection | undefined> {
    this.#check();
    return findConnection(this.#conntrack(), name, signal);
  }

  async changeConnections(
    operations: readonly ConnectionOperation[],
    signal?: AbortSignal,
  ): Promise<readonly (Error | undefined)[]> {
    this.#check();
    return changeConnections(this.#conntrack(), operations, signal);
  }

  watchConnections(listener: ConnectionListener): () => void {
    this.#check();
    if (!this.features.conntrack) {
      throw new UnsupportedError('connection tracking', 'not in this kernel');
    }
    const socket = watchConnections(listener, this.#namespace?.fd);
    this.#watches.add(socket);
    return () => {
      this.#watches.delete(socket);
      socket.close();
    };
  }

  async flushZones(zones: ReadonlySet<number>, signal?: AbortSignal): Promise<number> {
    this.#check();
    return refusalOf(deleteConnections(this.#conntrack(), zones, signal));
  }

  async putMeter(id: number, meter: MeterSpec, signal?: AbortSignal): Promise<void> {
    this.#check();
    requireMeter(id, meter, this.features);
    const writer = this.#meterRequest(MeterCommand.SET);
    writeMeter(writer, id, meter);
    await refusalOf(this.#socket.request(writer, `put meter ${id} of datapath ${this.name}`, { signal }));
  }

  async deleteMeter(id: number, signal?: AbortSignal): Promise<void> {
    this.#check();
    const writer = this.#meterRequest(MeterCommand.DEL);
    writer.u32(MeterAttr.ID, id);
    const asked = `delete meter ${id} of datapath ${this.name}`;
    const [error] = await this.#socket.attempt(writer, asked, { signal });
    if (error !== undefined && !hasErrno(error, Errno.ENOENT)) {
      throw toDatapathError(error);
    }
  }

  async meter(id: number, signal?: AbortSignal): Promise<MeterCounters | undefined> {
    this.#check();
    const writer = this.#meterRequest(MeterCommand.GET);
    writer.u32(MeterAttr.ID, id);
    let counters: MeterCounters | undefined;
    const [error] = await this.#socket.attempt(writer, `get meter ${id} of datapath ${this.name}`, {
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

  async statistics(signal?: AbortSignal): Promise<OvsStatistics> {
    this.#check();
    const info = await getDatapath(this.#socket, this.#families.datapath, this.name, signal);
    if (info === undefined || info.ifindex !== this.ifindex) {
      throw new DatapathError('not-found', `datapath ${this.name} is gone`);
    }
    return info.statistics;
  }

  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#upcalls?.close();
    this.#events?.close();
    this.#netfilter?.close();
    for (const socket of this.#watches) {
      socket.close();
    }
    this.#socket.close();
    this.#namespace?.close();
  }

  #conntrack(): NetlinkSocket {
    if (!this.features.conntrack) {
      throw new UnsupportedError('connection tracking', 'not in this kernel');
    }
    this.#netfilter ??= new NetlinkSocket({
      protocol: NETLINK_NETFILTER,
      namespaceFd: this.#namespace?.fd,
      background: true,
    });
    return this.#netfilter;
  }

  #meterRequest(command: number): MessageWriter {
    const { meter } = this.#families;
    if (meter === undefined) {
      throw new UnsupportedError('meter', 'Linux 4.15 or later is needed');
    }
    const writer = new MessageWriter(256);
    this.#begin(writer, meter, METER_VERSION, command, 0);
    return writer;
  }

  #throwIfClosed(): void {
    if (this.#closed) {
      throw new ClosedError(`datapath ${this.name}`);
    }
  }

  #check(): void {
    this.#throwIfClosed();
    if (this.#startError !== undefined) {
      throw this.#startError;
    }
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

  #begin(writer: MessageWriter, family: Family, version: number, command: number, flags: number): void {
    beginMessage(writer, family, version, command, flags, this.ifindex);
  }

  #write(writer: MessageWriter, operation: FlowOperation): void {
    switch (operation.type) {
      case 'put': {
        const known = this.#known.get(operation.id);
        const hash = hashMatch(operation.key, operation.mask);
        if (known !== undefined && known !== UNKNOWN_HASH && known !== hash) {
          throw new DatapathError(
            'invalid',
            `${describeOperation(operation, this.name)}: the flow of this id has another key or mask`,
          );
        }
        this.#writePut(writer, operation, known === undefined ? Command.NEW : Command.SET);
        this.#known.set(operation.id, hash);
        return;
      }
      case 'delete':
        this.#begin(writer, this.#families.flow, FLOW_VERSION, Command.DEL, 0);
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
    this.#begin(writer, this.#families.flow, FLOW_VERSION, command, flags);
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
    this.#begin(writer, this.#families.packet, PACKET_VERSION, PacketCommand.EXECUTE, 0);
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
        `datapath ${this.name} takes ${MAX_ACTIONS_LENGTH} bytes of actions, these are ${length}`,
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

  /** Netlink port that gets the upcalls of a datapath port. */
  #pidOfPort(port: number): number {
    if (this.dispatch === 'per-cpu' || this.#upcalls === undefined) {
      return ANY_PID;
    }
    const { ports } = this.#upcalls;
    return ports[port % ports.length];
  }

  /** Before `start` nobody listens; afterwards {@link OvsDatapath.#pointPort} corrects a first guess. */
  #pidOfNewPort(): number {
    return this.dispatch === 'per-port' && this.#upcalls === undefined ? 0 : this.#pidOfPort(0);
  }

  async #pointPort(port: Vport, signal?: AbortSignal): Promise<void> {
    const pid = this.#pidOfPort(port.number);
    if (pid !== port.upcallPid) {
      const writer = new MessageWriter(256);
      this.#writePid(writer, port.number, pid);
      await refusalOf(
        this.#socket.request(writer, `take upcalls of port ${port.name} of datapath ${this.name}`, { signal }),
      );
    }
  }

  #writePid(writer: MessageWriter, port: number, pid: number): void {
    this.#begin(writer, this.#families.vport, VPORT_VERSION, Command.SET, 0);
    writer.u32(VportAttr.PORT_NO, port);
    writer.u32(VportAttr.UPCALL_PID, pid);
  }

  /** Make the kernel send upcalls to our sockets. */
  #claimUpcalls(cpus: number): void {
    const { ports } = this.#upcalls as UpcallSockets;
    const writer = new MessageWriter();
    this.#begin(writer, this.#families.datapath, DATAPATH_VERSION, Command.SET, 0);
    writer.u32(DatapathAttr.USER_FEATURES, features(this.dispatch));
    if (this.dispatch === 'per-cpu') {
      const at = writer.attribute(DatapathAttr.PER_CPU_PIDS, 4 * cpus);
      for (let cpu = 0; cpu < cpus; cpu++) {
        writer.view.setUint32(at + 4 * cpu, ports[cpu % ports.length], LITTLE_ENDIAN);
      }
    }
    this.#ask(writer, `take upcalls of datapath ${this.name}`, undefined, () => {
      if (this.dispatch === 'per-port') {
        this.#claimPorts();
      }
    });
  }

  #claimPorts(): void {
    const vports: Vport[] = [];
    const writer = new MessageWriter(256);
    this.#begin(writer, this.#families.vport, VPORT_VERSION, Command.GET, NLM_F_DUMP);
    const read = (message: MessageReader): void => {
      vports.push(readVport(message));
    };
    this.#ask(writer, `list ports of datapath ${this.name}`, read, () => {
      writer.reset();
      for (const { number } of vports) {
        this.#writePid(writer, number, this.#pidOfPort(number));
      }
      // A port may be gone by now.
      const asked = `take upcalls of the ports of datapath ${this.name}`;
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
    this.#socket.submit(writer, {
      asked,
      reply: reply && ((_index, message) => reply(message)),
      done: (errors) => {
        const error = errors.find((one) => one !== undefined && !hasErrno(one, ...tolerated));
        if (error === undefined) {
          next();
        } else if (!this.#closed) {
          this.#startError = toDatapathError(error);
        }
      },
    });
  }

  #listenForChanges(handler: DatapathHandler): NetlinkSocket {
    const attributes = new AttributeReader();
    let changed = false;
    const events = new NetlinkSocket({
      protocol: NETLINK_GENERIC,
      namespaceFd: this.#namespace?.fd,
      listener: {
        message: (message) => {
          const { datapath, vport } = this.#families;
          message.attributes(attributes, GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
          if (ovsIfindex(message) !== this.ifindex || message.port === this.#socket.portId) {
            return;
          }
          const command = message.bytes[message.offset];
          if (message.type === vport.id) {
            changed = true;
            if (command === Command.NEW && this.dispatch === 'per-port') {
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
      [this.#families.vport, VPORT_GROUP],
      [this.#families.datapath, DATAPATH_GROUP],
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
    this.statistics().then(
      ({ lost }) => {
        this.#lost = lost;
        report(lost - before);
      },
      () => report(1),
    );
  }

  /** A vport of any datapath in the namespace. */
  async #findVport(name: string, signal?: AbortSignal): Promise<Vport | undefined> {
    const writer = new MessageWriter(256);
    beginMessage(writer, this.#families.vport, VPORT_VERSION, Command.GET, 0, 0);
    writer.string(VportAttr.NAME, name);
    let port: Vport | undefined;
    const [error] = await this.#socket.attempt(writer, `get port ${name}`, {
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
      const other = await getDatapath(this.#socket, this.#families.datapath, taken.datapathIfindex, signal);
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

/** A descriptor of our own: the caller's may be closed before `start` opens sockets. */
function reopen(namespace: Namespace | undefined): Namespace | undefined {
  return namespace && Namespace.open(`/proc/self/fd/${namespace.fd}`);
}

async function resolveFamilies(socket: NetlinkSocket, signal: AbortSignal | undefined): Promise<Families> {
  const [datapath, vport, flow, packet] = await getFamilies(
    socket,
    [DATAPATH_FAMILY, VPORT_FAMILY, FLOW_FAMILY, PACKET_FAMILY],
    signal,
  );
  const meter = await getFamilies(socket, [METER_FAMILY], signal).then(
    ([family]) => family,
    (error) => {
      if (error instanceof UnsupportedError) {
        return undefined;
      }
      throw error;
    },
  );
  return { datapath, vport, flow, packet, meter };
}

/** Kernels with per-CPU dispatch know its attribute, and all of those refuse features they do not know. */
function chooseDispatch(family: Family, asked: UpcallDispatch | undefined): UpcallDispatch {
  const perCpu = family.maxAttribute >= DatapathAttr.PER_CPU_PIDS;
  if (asked === 'per-cpu' && !perCpu) {
    throw new UnsupportedError('dispatch of upcalls per CPU', 'Linux 5.15 or later is needed');
  }
  return asked ?? (perCpu ? 'per-cpu' : 'per-port');
}

function features(dispatch: UpcallDispatch): number {
  const both = DatapathFeature.UNALIGNED | DatapathFeature.VPORT_PIDS;
  return dispatch === 'per-cpu' ? both | DatapathFeature.DISPATCH_UPCALL_PER_CPU : both;
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

function beginMessage(
  writer: MessageWriter,
  family: Family,
  version: number,
  command: number,
  flags: number,
  datapathIfindex: number,
): void {
  writer.begin(family.id, NLM_F_REQUEST | flags);
  writer.genl(command, version);
  writer.view.setInt32(writer.reserve(OVS_HEADER_LENGTH), datapathIfindex, LITTLE_ENDIAN);
}

/** @returns undefined if there is none */
async function getDatapath(
  socket: NetlinkSocket,
  family: Family,
  which: string | number,
  signal: AbortSignal | undefined,
): Promise<DatapathInfo | undefined> {
  const writer = new MessageWriter(256);
  beginMessage(writer, family, DATAPATH_VERSION, Command.GET, 0, typeof which === 'number' ? which : 0);
  if (typeof which === 'string') {
    writer.string(DatapathAttr.NAME, which);
  }
  let info: DatapathInfo | undefined;
  const [error] = await socket.attempt(writer, `get datapath ${which}`, {
    signal,
    each: (message) => {
      info = readDatapath(message);
    },
  });
  if (error !== undefined && !hasErrno(error, Errno.ENODEV)) {
    throw toDatapathError(error);
  }
  return info;
}

async function makeDatapath(
  socket: NetlinkSocket,
  family: Family,
  name: string,
  dispatch: UpcallDispatch,
  { create = true, signal }: OvsDatapathOptions,
): Promise<DatapathInfo> {
  if (!create) {
    throw new DatapathError('not-found', `there is no datapath ${name}`);
  }
  const writer = new MessageWriter(256);
  beginMessage(writer, family, DATAPATH_VERSION, Command.NEW, NLM_F_ECHO, 0);
  writer.string(DatapathAttr.NAME, name);
  // Nobody yet: upcalls go to whoever starts the datapath.
  writer.u32(DatapathAttr.UPCALL_PID, 0);
  writer.u32(DatapathAttr.USER_FEATURES, features(dispatch));
  const [error] = await socket.attempt(writer, `make datapath ${name}`, { signal });
  // Somebody else may have been quicker.
  const info = await getDatapath(socket, family, name, signal);
  if (info !== undefined && (error === undefined || hasErrno(error, Errno.EEXIST))) {
    return info;
  }
  if (error !== undefined) {
    throw toDatapathError(error, hasErrno(error, Errno.EEXIST) ? 'an interface of that name exists' : '');
  }
  throw new DatapathError('not-found', `datapath ${name} was removed while it was made`);
}

function ovsIfindex(message: MessageReader): number {
  return message.view.getInt32(message.offset + GENL_HEADER_LENGTH, LITTLE_ENDIAN);
}

function readDatapath(message: MessageReader): DatapathInfo {
  const attributes = message.attributes(new AttributeReader(), GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
  const statistics = { hit: 0, missed: 0, lost: 0, flows: 0, masks: 0 };
  let name = '';
  while (attributes.next()) {
    switch (attributes.type) {
      case DatapathAttr.NAME:
        name = attributes.string();
        break;
      case DatapathAttr.STATS: {
        const at = attributes.struct(32);
        statistics.hit = readU64(attributes.view, at);
        statistics.missed = readU64(attributes.view, at + 8);
        statistics.lost = readU64(attributes.view, at + 16);
        statistics.flows = readU64(attributes.view, at + 24);
        break;
      }
      case DatapathAttr.MEGAFLOW_STATS:
        statistics.masks = attributes.view.getUint32(attributes.struct(12) + 8, LITTLE_ENDIAN);
        break;
    }
  }
  return { ifindex: ovsIfindex(message), name, statistics };
}

function readVport(message: MessageReader): Vport {
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

function hashMatch(key: FlowKey, mask: FlowMask): number {
  return (Math.imul(key.hash(mask), 31) ^ mask.hash()) >>> 0;
}

function toPort({ number, name, type, ifindex }: Vport): DatapathPort {
  return { number, name, type, ifindex };
}

function writeOrigin(writer: MessageWriter, origin: PacketOrigin): void {
  const at = writer.attribute(PacketAttr.HASH, 8);
  writer.view.setUint32(at + (LITTLE_ENDIAN ? 4 : 0), origin.hashHigh, LITTLE_ENDIAN);
  writer.view.setUint32(at + (LITTLE_ENDIAN ? 0 : 4), origin.hashLow, LITTLE_ENDIAN);
  if (origin.maxFragment !== 0) {
    writer.u16(PacketAttr.MRU, origin.maxFragment);
  }
}

/** Errors of a request as those of the datapath. */
async function refusalOf<T>(result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    throw error instanceof MidonetError ? toDatapathError(error) : error;
  }
}
