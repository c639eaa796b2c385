import type { TunnelKey } from '../../flow/action.js';
import { DatapathError } from '../errors.js';
import { Conntrack } from './conntrack.js';
import { MemoryDatapath } from './datapath.js';
import { Fragments } from './fragments.js';
import type { MemoryNetwork } from './network.js';
import { MemorySwitch } from './switch.js';

const DEFAULT_MTU = 1500;
/** Of a tunnel device, as real ones are made: it never limits. */
const TUNNEL_MTU = 65000;

/** An interface of a node, and the end of it that is not the datapath's. */
export class MemoryInterface {
  /** The datapath it is a port of, and the port's number. */
  attached: { readonly datapath: MemorySwitch; readonly port: number } | undefined;
  /** Bytes of a frame behind its Ethernet header, a VLAN tag not counted. */
  mtu: number;
  private frames: Uint8Array[] = [];
  private listener: ((frame: Uint8Array) => void) | undefined;

  constructor(
    private readonly node: MemoryNode,
    readonly name: string,
    readonly ifindex: number,
    readonly kind: 'netdev' | 'internal' | 'vxlan' | 'gre',
  ) {
    this.mtu = kind === 'vxlan' || kind === 'gre' ? TUNNEL_MTU : DEFAULT_MTU;
  }

  /** Send a whole frame from the far end towards the datapath. Copied. Lost unless the interface is a port. */
  send(frame: Uint8Array): void {
    const copy = frame.slice();
    this.node.network.enqueue(() => {
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
      if (tunnel !== undefined) this.node.network.carry(this.node, this.kind, tunnel, frame);
      return;
    }
    this.node.network.enqueue(() => {
      if (this.listener !== undefined) this.listener(frame);
      else this.frames.push(frame);
    });
  }
}

/** A machine: interfaces, datapaths, connection tracking, an address on the underlay. */
export class MemoryNode {
  readonly conntrack: Conntrack;
  readonly fragments: Fragments;
  private readonly interfaces = new Map<string, MemoryInterface>();
  private readonly switches = new Map<string, MemorySwitch>();
  private nextIfindex = 1;

  constructor(
    readonly network: MemoryNetwork,
    readonly underlay: number,
  ) {
    this.conntrack = new Conntrack(network.now);
    this.fragments = new Fragments(network.now);
  }

  /** Make an interface. @throws DatapathError if there is one of that name */
  addInterface(name: string, kind: 'netdev' | 'internal' | 'vxlan' | 'gre' = 'netdev'): MemoryInterface {
    if (this.interfaces.has(name)) throw new DatapathError('exists', `interface ${name} exists already`);
    const device = new MemoryInterface(this, name, this.nextIfindex++, kind);
    this.interfaces.set(name, device);
    return device;
  }

  interface(name: string): MemoryInterface | undefined {
    return this.interfaces.get(name);
  }

  /** Destroy an interface; a datapath that had it as a port loses the port. Succeeds when there is none. */
  removeInterface(name: string): void {
    const device = this.interfaces.get(name);
    if (device === undefined) return;
    this.interfaces.delete(name);
    device.attached?.datapath.detach(device);
  }

  /** A driver for the datapath `name`, which is made, with its local port, if there is none. */
  datapath(name: string): MemoryDatapath {
    return new MemoryDatapath(this.switch(name));
  }

  /** The datapath itself, for what its drivers cannot see. */
  switch(name: string): MemorySwitch {
    let found = this.switches.get(name);
    if (found === undefined) {
      found = new MemorySwitch(this, name);
      this.switches.set(name, found);
    }
    return found;
  }

  /** A packet came out of a tunnel; lost if the node has no tunnel of that kind. */
  receiveTunnelled(kind: string, tunnel: TunnelKey, frame: Uint8Array): void {
    for (const device of this.interfaces.values()) {
      if (device.kind !== kind || device.attached === undefined) continue;
      device.attached.datapath.receive(device.attached.port, frame, tunnel);
      return;
    }
  }
}
