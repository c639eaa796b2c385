import type { MeterCounters, MeterSpec } from '../datapath.js';
import {
  AttributeReader,
  GENL_HEADER_LENGTH,
  type MessageReader,
  type MessageWriter,
  readU64,
} from '../netlink/message.js';
import { BAND_DROP, BandAttr, MeterAttr, OVS_HEADER_LENGTH } from './uapi.js';

/** Attributes of OVS_METER_CMD_SET for a meter with one band, which drops. */
export function writeMeter(writer: MessageWriter, id: number, { unit, rate, burst }: MeterSpec): void {
  writer.u32(MeterAttr.ID, id);
  if (unit === 'kilobits') {
    writer.flag(MeterAttr.KBPS);
  }
  const bands = writer.nest(MeterAttr.BANDS);
  const band = writer.nest(0);
  writer.u32(BandAttr.TYPE, BAND_DROP);
  writer.u32(BandAttr.RATE, rate);
  writer.u32(BandAttr.BURST, burst);
  writer.endNest(band);
  writer.endNest(bands);
}

/** The answer to OVS_METER_CMD_GET. A packet that is dropped is counted in one of the bands. */
export function readMeter(message: MessageReader): MeterCounters {
  let counted: Counted = { packets: 0, bytes: 0 };
  const dropped = { packets: 0, bytes: 0 };
  const attributes = message.attributes(new AttributeReader(), GENL_HEADER_LENGTH + OVS_HEADER_LENGTH);
  while (attributes.next()) {
    if (attributes.type === MeterAttr.STATS) {
      counted = readCounted(attributes);
    } else if (attributes.type === MeterAttr.BANDS) {
      for (const bands = attributes.enter(new AttributeReader()); bands.next(); ) {
        for (const band = bands.enter(new AttributeReader()); band.next(); ) {
          if (band.type === BandAttr.STATS) {
            const { packets, bytes } = readCounted(band);
            dropped.packets += packets;
            dropped.bytes += bytes;
          }
        }
      }
    }
  }
  return { ...counted, droppedPackets: dropped.packets, droppedBytes: dropped.bytes };
}

interface Counted {
  readonly packets: number;
  readonly bytes: number;
}

/** struct ovs_flow_stats */
function readCounted(attributes: AttributeReader): Counted {
  const at = attributes.struct(16);
  return { packets: readU64(attributes.view, at), bytes: readU64(attributes.view, at + 8) };
}
