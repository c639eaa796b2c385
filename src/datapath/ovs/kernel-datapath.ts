import { UnsupportedError } from '../../errors.js';
import { DatapathError } from '../errors.js';
import { type Family, getFamilies } from '../netlink/genl.js';
import {
  AttributeReader,
  GENL_HEADER_LENGTH,
  LITTLE_ENDIAN,
  type MessageReader,
  MessageWriter,
  NLM_F_ECHO,
  NLM_F_REQUEST,
  readU64,
} from '../netlink/message.js';
import type { NetlinkSocket } from '../netlink/socket.js';
import { Errno, hasErrno, toDatapathError } from './refusal.js';
import {
  Command,
  DATAPATH_FAMILY,
  DATAPATH_VERSION,
  DatapathAttr,
  DatapathFeature,
  FLOW_FAMILY,
  METER_FAMILY,
  OVS_HEADER_LENGTH,
  PACKET_FAMILY,
  VPORT_FAMILY,
} from './uapi.js';

/**
 * Who gets the upcalls of a packet: the socket of the CPU that it is on (Linux 5.15 and later), which needs no work per
 * port and keeps the packets of a connection in order; or the socket of the port that it came in at.
 */
export type UpcallDispatch = 'per-cpu' | 'per-port';

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

/** What the parts of openvswitch are called on a socket. */
export interface Families {
  readonly datapath: Family;
  readonly vport: Family;
  readonly flow: Family;
  readonly packet: Family;
  /** Undefined before Linux 4.15. */
  readonly meter: Family | undefined;
}

/** A datapath that the kernel has. */
export interface DatapathInfo {
  readonly ifindex: number;
  readonly name: string;
  readonly statistics: OvsStatistics;
}

/** A datapath of the kernel, and what it is asked by. */
export class KernelDatapath {
  constructor(
    readonly name: string,
    /** Of the datapath's own interface, port 0: identifies it to the kernel. */
    readonly ifindex: number,
    readonly socket: NetlinkSocket,
    readonly families: Families,
  ) {}

  /** Begin a message about this datapath. */
  begin(writer: MessageWriter, family: Family, version: number, command: number, flags: number): void {
    beginMessage(writer, family, version, command, flags, this.ifindex);
  }

  /** @throws DatapathError not-found if it is gone */
  async statistics(signal?: AbortSignal): Promise<OvsStatistics> {
    const info = await getDatapath(this.socket, this.families.datapath, this.name, signal);
    if (info === undefined || info.ifindex !== this.ifindex) {
      throw new DatapathError('not-found', `datapath ${this.name} is gone`);
    }
    return info.statistics;
  }
}

/** @throws UnsupportedError if the kernel has no openvswitch, saying how to load it */
export async function resolveFamilies(socket: NetlinkSocket, signal: AbortSignal | undefined): Promise<Families> {
  const needed = [DATAPATH_FAMILY, VPORT_FAMILY, FLOW_FAMILY, PACKET_FAMILY];
  const [datapath, vport, flow, packet] = await getFamilies(socket, needed, signal).catch((error) => {
    if (!(error instanceof UnsupportedError)) throw error;
    throw new UnsupportedError(
      'openvswitch',
      'the kernel module is not loaded: `modprobe openvswitch` as root does it',
    );
  });
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
export function chooseDispatch(family: Family, asked: UpcallDispatch | undefined): UpcallDispatch {
  const perCpu = family.maxAttribute >= DatapathAttr.PER_CPU_PIDS;
  if (asked === 'per-cpu' && !perCpu) {
    throw new UnsupportedError('dispatch of upcalls per CPU', 'Linux 5.15 or later is needed');
  }
  return asked ?? (perCpu ? 'per-cpu' : 'per-port');
}

/** What is asked of a datapath (`user_features`). */
export function wantedFeatures(dispatch: UpcallDispatch): number {
  const both = DatapathFeature.UNALIGNED | DatapathFeature.VPORT_PIDS;
  return dispatch === 'per-cpu' ? both | DatapathFeature.DISPATCH_UPCALL_PER_CPU : both;
}

/** @returns undefined if there is none */
export async function getDatapath(
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

/**
 * Make the datapath, or find the one that somebody else makes.
 * @throws DatapathError exists if something else has the name
 */
export async function makeDatapath(
  socket: NetlinkSocket,
  family: Family,
  name: string,
  dispatch: UpcallDispatch,
  signal: AbortSignal | undefined,
): Promise<DatapathInfo> {
  const writer = new MessageWriter(256);
  beginMessage(writer, family, DATAPATH_VERSION, Command.NEW, NLM_F_ECHO, 0);
  writer.string(DatapathAttr.NAME, name);
  // Nobody yet: upcalls go to whoever starts the datapath.
  writer.u32(DatapathAttr.UPCALL_PID, 0);
  writer.u32(DatapathAttr.USER_FEATURES, wantedFeatures(dispatch));
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

/** @param datapathIfindex 0 where the message names the datapath, or is about any */
export function beginMessage(
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

/** Of the datapath that a message is about. */
export function ovsIfindex(message: MessageReader): number {
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
