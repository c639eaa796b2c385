import { JuteWriter } from '../protocol/jute.js';

/** Offset of the transaction number in a frame, behind its length. */
export const XID_OFFSET = 4;

/** The beginning of a request's frame: room for the transaction number, then the operation. */
export function frameOf(op: number): JuteWriter {
  return new JuteWriter().int(0).int(op);
}

/** A request to read something of a node; `watch`: and to be told when that changes. */
export function readFrame(op: number, path: string, watch: boolean): Buffer {
  return frameOf(op).string(path).bool(watch).frame();
}
