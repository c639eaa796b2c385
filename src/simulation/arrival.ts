import type { Recirculations } from './connection.js';
import type { Fact, PortFact } from './fact.js';
import type { TraceStep } from './trace.js';

/** How a packet came to be here. */
export interface Arrival {
  /** The exterior port where it came in; absent when it is a device's own, or another host has let it in. */
  readonly ingress?: Fact<PortFact>;
  /** Where its connection would be tracked, of a packet that is traced as if `ingress` were on this host. */
  readonly elsewhereZone?: number;
  /** Where a device sent it. */
  readonly sentFrom?: Fact<PortFact>;
  /** Absent when the datapath cannot track connections. */
  readonly recirculations?: Recirculations;
  /** The packet itself; absent where a flow is looked at again. */
  readonly bytes?: Uint8Array;
  /** Gets the steps of the packet's way. */
  readonly trace?: TraceStep[];
}
