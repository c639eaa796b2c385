import type { Watch } from '../../nsdb/store.js';
import type { ChainFact, Fact } from '../../simulation/fact.js';
import type { BridgePort, Port } from '../../topology/types.js';
import type { TopologySource } from './topology-source.js';
import { UnknownFilters } from './unknown-filters.js';

/** What is known of a port because it is on this host. */
export interface LocalPortFacts {
  /** The datapath port where packets leave. */
  readonly output: Fact<number>;
  /** The zone in which the kernel tracks connections; null when it tracks none. */
  readonly zone: Fact<number>;
}

/**
 * A port that a front end of this host attached: what that said of it, and what others have set of it in the NSDB, such
 * as filters.
 */
export class LocalPort {
  private readonly watch: Watch;
  private readonly unknown: UnknownFilters;
  private stored: Port | undefined;

  /** @param onChange is told when the port is another than before */
  constructor(
    private readonly described: BridgePort,
    source: TopologySource,
    onChange: (port: LocalPort) => void,
  ) {
    const { id } = described;
    this.unknown = new UnknownFilters(`port ${id}`, source, () => onChange(this));
    const follow = (port: Port | undefined) => {
      this.stored = port;
      onChange(this);
      this.unknown.settle();
    };
    this.watch = source.repository.watch('port', id, follow, source.invalid);
  }

  get port(): BridgePort {
    return (this.stored === undefined ? this.described : mergedPort(this.described, this.stored)) as BridgePort;
  }

  /** Whether it is known what others have set, or that is not waited for. */
  get isComplete(): boolean {
    return this.unknown.filters.length === 0;
  }

  /** What packets have to pass besides the filters of the port. */
  get unknownFilters(): readonly Fact<ChainFact>[] {
    return this.unknown.filters;
  }

  close(): void {
    this.watch.close();
    this.unknown.close();
  }
}

/** What the front end said of a port counts before what is stored, but for a port that somebody has switched off. */
export function mergedPort(described: Port, stored: Port): Port {
  return { ...stored, ...described, adminStateUp: described.adminStateUp && stored.adminStateUp };
}
