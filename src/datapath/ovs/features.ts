import type { MidonetError } from '../../errors.js';
import { FlowKey, Word } from '../../flow/key.js';
import { FlowMask } from '../../flow/mask.js';
import { buildEthernet, EtherType } from '../../packet/ethernet.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import { buildIpv4 } from '../../packet/ipv4.js';
import { buildTcp } from '../../packet/tcp.js';
import type { DatapathFeatures } from '../datapath.js';
import type { Family } from '../netlink/genl.js';
import { AttributeReader, GENL_HEADER_LENGTH, MessageWriter } from '../netlink/message.js';
import type { NetlinkSocket } from '../netlink/socket.js';
import { beginMessage, type Families } from './kernel-datapath.js';
import { writeKey, writePacketMetadata } from './key-codec.js';
import { Errno, hasErrno, toDatapathError } from './refusal.js';
import {
  ActionAttr,
  Command,
  CtAttr,
  FLOW_VERSION,
  FlowAttr,
  METER_VERSION,
  MeterAttr,
  MeterCommand,
  OVS_HEADER_LENGTH,
  PACKET_VERSION,
  PacketAttr,
  PacketCommand,
} from './uapi.js';

/** For experiments (IEEE 802, local experimental EtherType 1): a key of such packets has no further headers. */
const EXPERIMENTAL_TYPE = 0x88b5;

/** A segment without flags: conntrack takes it for invalid, so that nothing is remembered of it. */
const INVALID_SEGMENT = buildEthernet(
  { dst: 0x0200_0000_0001, src: 0x0200_0000_0002, type: EtherType.IPV4 },
  buildIpv4({ src: 0x7f00_0001, dst: 0x7f00_0001, protocol: IpProtocol.TCP }, buildTcp({ srcPort: 1, dstPort: 1 })),
);

/**
 * Find out what the kernel was built with, by requests that change nothing: `ct` actions on a packet that goes nowhere, and a
 * question for a flow with labels in its key. The kernel refuses what it does not know, and says nothing of it in its log.
 */
export async function probeFeatures(
  socket: NetlinkSocket,
  families: Pick<Families, 'packet' | 'flow' | 'meter'>,
  datapathIfindex: number,
  signal?: AbortSignal,
): Promise<DatapathFeatures> {
  const writer = new MessageWriter(4096);
  const begin = (family: Family, version: number, command: number): void =>
    beginMessage(writer, family, version, command, 0, datapathIfindex);
  const probeCt = (attributes: () => void): void => {
    begin(families.packet, PACKET_VERSION, PacketCommand.EXECUTE);
    writer.raw(PacketAttr.PACKET, INVALID_SEGMENT);
    writePacketMetadata(writer, PacketAttr.KEY, new FlowKey());
    const actions = writer.nest(PacketAttr.ACTIONS);
    const ct = writer.nest(ActionAttr.CT);
    attributes();
    writer.endNest(ct);
    writer.endNest(actions);
    writer.flag(PacketAttr.PROBE);
  };
  probeCt(() => undefined);
  probeCt(() => writer.u16(CtAttr.ZONE, 1));
  probeCt(() => writer.endNest(writer.nest(CtAttr.NAT)));
  begin(families.flow, FLOW_VERSION, Command.GET);
  writeLabelledKey(writer);
  writer.flag(FlowAttr.PROBE);
  let meters = 0;
  if (families.meter !== undefined) {
    begin(families.meter, METER_VERSION, MeterCommand.FEATURES);
  }
  const errors = await socket.attempt(writer, 'find out what the kernel can do', {
    signal,
    each: (message, index) => {
      if (index !== 4) {
        return;
      }
      const attributes = message.attributes(new AttributeReader(), GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
      while (attributes.next()) {
        if (attributes.type === MeterAttr.MAX_METERS) {
          meters = attributes.u32();
        }
      }
    },
  });
  const conntrack = taken(errors[0]);
  return {
    conntrack,
    zones: conntrack && taken(errors[1]),
    nat: conntrack && taken(errors[2]),
    labels: conntrack && taken(errors[3]),
    meters: taken(errors[4]) ? meters : 0,
  };
}

function writeLabelledKey(writer: MessageWriter): void {
  const key = new FlowKey();
  key.ethType = EXPERIMENTAL_TYPE;
  key.words[Word.CT_LABELS] = 1;
  writeKey(writer, FlowAttr.KEY, key, FlowMask.exact());
}

/** Whether the kernel understood the request; that there is no such flow means it did. */
function taken(error: MidonetError | undefined): boolean {
  if (error === undefined || hasErrno(error, Errno.ENOENT)) {
    return true;
  }
  if (hasErrno(error, Errno.EINVAL, Errno.ENOTSUPP, Errno.EOPNOTSUPP)) {
    return false;
  }
  throw toDatapathError(error);
}
