import type { TunnelKey } from '../../flow/action.js';
import type { DatapathFeatures } from '../datapath.js';
import { MemoryNode } from './node.js';
import type { MemoryWorld } from './world.js';

/** Steps after which a network that never comes to rest is taken for a loop. */
const MAX_STEPS = 1_000_000;

/** As Linux has it with everything built in. */
const FEATURES: DatapathFeatures = { conntrack: true, zones: true, nat: true, labels: true, meters: 200_000 };

export interface MemoryNetworkOptions {
  /** The clock, in milliseconds. Time passes only as it says. */
  readonly now: () => number;
  /** Run by itself, from microtasks, as work comes in. Otherwise nothing moves until {@link MemoryNetwork.pump}. */
  readonly automatic?: boolean;
  /** What the datapaths lack: all that Linux can do is there unless said otherwise. */
  readonly features?: Partial<DatapathFeatures>;
}

/** How one node's tunnels reach another's. Decides on each packet; see {@link MemoryNetwork.setUnderlay}. */
export type UnderlayFilter = (from: number, to: number, frame: Uint8Array) => boolean;

/**
 * A network in one process: nodes with datapaths, and an underlay that carries their tunnels. All work is a queue of
 * steps run in the order they arose, so the same calls give the same outcome. There are no timers.
 */
export class MemoryNetwork implements MemoryWorld {
  readonly now: () => number;
  readonly features: DatapathFeatures;
  private readonly nodes = new Map<number, MemoryNode>();
  private readonly automatic: boolean;
  private queue: (() => void)[] = [];
  private running = false;
  private scheduled = false;
  private underlay: UnderlayFilter = () => true;

  constructor(options: MemoryNetworkOptions) {
    this.now = options.now;
    this.automatic = options.automatic ?? false;
    this.features = { ...FEATURES, ...options.features };
  }

  /** Make a node with this IPv4 address on the underlay, or return the one that has it. */
  node(underlay: number): MemoryNode {
    let node = this.nodes.get(underlay);
    if (node === undefined) {
      node = new MemoryNode(this, underlay);
      this.nodes.set(underlay, node);
    }
    return node;
  }

  /** Lose, cut or let pass what tunnels send: false drops the packet. */
  setUnderlay(filter: UnderlayFilter): void {
    this.underlay = filter;
  }

  /** Carry a tunnelled packet; lost if nobody has the destination address or the filter says no. */
  carry(from: number, kind: string, tunnel: TunnelKey, frame: Uint8Array): void {
    const source = tunnel.src === 0 ? from : tunnel.src;
    this.enqueue(() => {
      const to = this.nodes.get(tunnel.dst);
      if (to === undefined || !this.underlay(source, tunnel.dst, frame)) return;
      to.receiveTunnelled(kind, { ...tunnel, src: source }, frame);
    });
  }

  /** Add a step. */
  enqueue(step: () => void): void {
    this.queue.push(step);
    if (!this.automatic || this.scheduled || this.running) return;
    this.scheduled = true;
    queueMicrotask(() => {
      this.scheduled = false;
      this.pump();
    });
  }

  /** Run all steps, with those that arise from them. Returns how many there were. */
  pump(): number {
    if (this.running) return 0;
    this.running = true;
    let steps = 0;
    try {
      while (steps < this.queue.length) {
        if (steps >= MAX_STEPS) throw new Error(`the network has not come to rest after ${MAX_STEPS} steps`);
        this.queue[steps++]();
      }
    } finally {
      this.queue = this.queue.slice(steps);
      this.running = false;
    }
    return steps;
  }
}
