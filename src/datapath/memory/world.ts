import type { TunnelKey } from '../../flow/action.js';
import type { DatapathFeatures } from '../datapath.js';

/** What the nodes of a network have in common. */
export interface MemoryWorld {
  /** The clock, in milliseconds. */
  readonly now: () => number;
  readonly features: DatapathFeatures;
  /** Do something later, behind all that is to be done already. */
  enqueue(step: () => void): void;
  /**
   * Carry a packet through a tunnel; lost if nobody has the destination address.
   * @param from underlay address of the node that sends it
   * @param kind of the tunnel
   */
  carry(from: number, kind: string, tunnel: TunnelKey, frame: Uint8Array): void;
}
