import type { TunnelKey } from '../../flow/action.js';
import { extractKey } from '../../flow/extract.js';
import { FlowKey } from '../../flow/key.js';
import { readU16 } from '../../packet/big-endian.js';
import { isVlanType } from '../../packet/vlan.js';
import type { Tracked } from './connection.js';
import { fragment } from './fragments.js';

/** A packet on its way through a datapath, with what the kernel keeps beside its bytes. */
export class Packet {
  /** Bytes to leave out at the end of the next output or upcall. */
  cut = 0;
  /** Where a tunnel port is to send it. */
  tunnel: TunnelKey | undefined;
  tracked: Tracked | undefined;
  /** The largest fragment that the packet was put together from, in bytes of IP; zero if it came whole. */
  fragmentSize = 0;

  private constructor(
    /** Owned by the packet: actions write here. */
    public bytes: Uint8Array,
    readonly key: FlowKey,
    /** See {@link extractKey}. */
    public complete: boolean,
  ) {}

  /** A packet with a copy of the bytes. `metadata`: words before the headers are taken from it. */
  static of(bytes: Uint8Array, metadata: FlowKey): Packet {
    const key = new FlowKey(metadata.words.slice());
    const copy = bytes.slice();
    return new Packet(copy, key, extractKey(copy, key));
  }

  copy(): Packet {
    const out = new Packet(this.bytes.slice(), this.key.clone(), this.complete);
    out.cut = this.cut;
    out.tunnel = this.tunnel;
    out.tracked = this.tracked;
    out.fragmentSize = this.fragmentSize;
    return out;
  }

  /** Read the headers again after the bytes changed. */
  refresh(): void {
    this.complete = extractKey(this.bytes, this.key);
  }

  /** The bytes to hand on, without what a trunc action cut; clears the cut. A copy. */
  take(): Uint8Array {
    const out = this.bytes.slice(0, this.bytes.length - this.cut);
    this.cut = 0;
    return out;
  }

  /**
   * What leaves through an interface of this MTU: the packet without its cut, which is cleared; in fragments again if it
   * came in fragments; nothing if it is too long (do_output in net/openvswitch/actions.c).
   */
  frames(mtu: number): Uint8Array[] {
    const frame = this.take();
    const tagged = isVlanType(readU16(frame, 12)) ? 4 : 0;
    const length = frame.length - 14 - tagged;
    if (this.fragmentSize > 0 && length > this.fragmentSize) {
      return this.fragmentSize <= mtu ? fragment(frame, this.fragmentSize, this.key.hash()) : [];
    }
    return length <= mtu ? [frame] : [];
  }
}
