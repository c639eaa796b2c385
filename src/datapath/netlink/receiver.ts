import { loadNative, type Native, type NativeReceiver } from './native.js';

/**
 * Memory that netlink sockets receive batches of datagrams into. Sockets may share one: only one batch is in it at a
 * time, and `busy` says that it is being read.
 */
export class Receiver {
  readonly native: NativeReceiver;
  readonly bytes: Uint8Array;
  readonly lengths: Int32Array;
  readonly slotSize: number;
  busy = false;

  /**
   * @param slots datagrams at a time
   * @param slotSize bytes for each: longer ones are cut off, and count as lost. Only what is used takes memory.
   */
  constructor(slots: number, slotSize: number, native: Native = loadNative()) {
    this.native = new native.Receiver(slots, slotSize);
    this.bytes = new Uint8Array(this.native.buffer);
    this.lengths = this.native.lengths;
    this.slotSize = slotSize;
  }
}

let shared: Receiver | undefined;

/** The receiver of all sockets that were not given one: the kernel makes parts of a dump at most 32 KiB long. */
export function sharedReceiver(): Receiver {
  shared ??= new Receiver(16, 64 * 1024);
  return shared;
}
