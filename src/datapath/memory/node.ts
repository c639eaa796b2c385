import type { TunnelKey } from '../../flow/action.js';
import { DatapathError } from '../errors.js';
import { Conntrack } from './conntrack.js';
import { MemoryDatapath } from './datapath.js';
import { Fragments } from './fragments.js';
import { MemoryInterface } from './interface.js';
import { MemorySwitch, type SwitchNode } from './switch.js';
import type { MemoryWorld } from './world.js';

/** A machine: interfaces, datapaths, connection tracking, an address on the underlay. */
export class MemoryNode implements SwitchNode {
  readonly conntrack: Conntrack;
  readonly fragments: Fragments;
  private readonly interfaces = new Map<string, MemoryInterface>();
  private readonly switches = new Map<string, MemorySwitch>();
  private nextIfindex = 1;

  constructor(
    readonly world: MemoryWorld,
    readonly underlay: number,
  ) {
    this.conntrack = new Conntrack(world.now);
    this.fragments = new Fragments(world.now);
  }

  /** Make an interface. @throws DatapathError if there is one of that name */
  addInterface(name: string, kind: 'netdev' | 'internal' | 'vxlan' | 'gre' = 'netdev'): MemoryInterface {
    if (this.interfaces.has(name)) throw new DatapathError('exists', `interface ${name} exists already`);
    const device = new MemoryInterface(this.world, this.underlay, name, this.nextIfindex++, kind);
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
