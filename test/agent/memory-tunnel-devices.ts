import type { TunnelDevices, TunnelType } from '../../src/agent/underlay/tunnels.js';
import type { Datapath } from '../../src/datapath/datapath.js';
import type { MemoryNode } from '../../src/datapath/memory/node.js';

/** Tunnel devices of a node in memory, each made in some milliseconds. */
export class MemoryTunnelDevices implements TunnelDevices {
  constructor(
    private readonly node: MemoryNode,
    private readonly datapath: Datapath,
    private readonly delay: number,
  ) {}

  async ensure(type: TunnelType, signal?: AbortSignal): Promise<number> {
    const name = `mn-${type}`;
    await new Promise((resolve) => setTimeout(resolve, this.delay));
    if (this.node.interface(name) === undefined) this.node.addInterface(name, type);
    return (await this.datapath.addPort(name, 'netdev', signal)).number;
  }

  concerns(): boolean {
    return true;
  }

  async underlayMtu(): Promise<number> {
    return 1500;
  }
}
