import type { TunnelKey } from '../../flow/action.js';
import type { MemoryWorld } from './world.js';

/** What an interface is a port of: the datapath. */
export interface PortOwner {
  readonly name: string;
  /** A frame came in at one of its ports. */
  receive(port: number, frame: Uint8Array, tunnel: TunnelKey | undefined): void;
  /** The interface is gone. */
  detach(device: MemoryInterface): void;
}

const DEFAULT_MTU = 1500;
/** Of a tunnel device, as real ones are made: it never limits. */
const TUNNEL_MTU = 65000;

/** An interface of a node, and the end of it that is not the datapath's. */
export class MemoryInterface {
  /** The datapath it is a port of, and the port's number. */
  attached: { readonly datapath: PortOwner; readonly port: number } | undefined;
  /** Bytes of a frame behind its Ethernet header, a VLAN tag not counted. */
  mtu: number;
  private frames: Uint8Array[] = [];
  private listener: ((frame: Uint8Array) => void) | undefined;

  constructor(
    private readonly world: MemoryWorld,
    /** Underlay address of its node. */
    private readonly underlay: number,
    readonly name: string,
    readonly ifindex: number,
    readonly kind: 'netdev' | 'internal' | 'vxlan' | 'gre',
  ) {
    this.mtu = kind === 'vxlan' || kind === 'gre' ? TUNNEL_MTU : DEFAULT_MTU;
  }

  /** Send a whole frame from the far end towards the datapath. Copied. Lost unless the interface is a port. */
  send(frame: Uint8Array): void {
    const copy = frame.slice();
    this.world.enqueue(() => {
      this.attached?.datapath.receive(this.attached.port, copy, undefined);
    });
  }

  /** Frames that came out at the far end, oldest first; none that a listener got. */
  received(): readonly Uint8Array[] {
    return this.frames;
  }

  /** Forget the frames received. */
  clear(): void {
    this.frames = [];
  }

  /** Hand frames to `listener` from now on instead of keeping them. */
  listen(listener: (frame: Uint8Array) => void): void {
    this.listener = listener;
  }

  /** A frame leaves the datapath here. */
  transmit(frame: Uint8Array, tunnel: TunnelKey | undefined): void {
    if (this.kind === 'vxlan' || this.kind === 'gre') {
      // Without a tunnel key the device does not know where to: it drops, as a kernel's does.
      if (tunnel !== undefined) this.world.carry(this.underlay, this.kind, tunnel, frame);
      return;
    }
    this.world.enqueue(() => {
      if (this.listener !== undefined) this.listener(frame);
      else this.frames.push(frame);
    });
  }
}
