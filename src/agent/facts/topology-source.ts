import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Fact, PortFact, SourceNatFact, TunnelPath } from '../../simulation/fact.js';
import type { Cell, CellOptions } from './cell.js';
import type { HostLiveness } from './host-liveness.js';

/** What facts of the topology are made from. */
export interface TopologySource {
  readonly repository: TopologyRepository;
  /** This host. */
  readonly hostId: string;
  /** A cell whose changes revisit the flows that depend on it. */
  cell<T>(tag: string, options: Omit<CellOptions<T>, 'onChange'>): Cell<T>;
  /** Begin to read and watch a fact, until no flow has needed it for a minute. */
  load(cell: Cell<unknown>): void;
  /** Take back what is set on this host for a fact. Who needs it reads it from then on. */
  clearLocal<T>(cell: Cell<T>): void;
  port(id: string): Fact<PortFact>;
  readonly hosts: HostLiveness;
  /** How this host translates sources for a device; undefined if it cannot. */
  sourceNat(deviceId: string): SourceNatFact | undefined;
  /** The way to a host. */
  tunnel(hostId: string): Fact<TunnelPath>;
  /** A value in the NSDB is not valid; the last valid one stays. */
  invalid(error: Error): void;
  /** A rule of a chain is not valid: packets that come to it are dropped. */
  unreadableRule(chainId: string, ruleId: string, error: Error): void;
}
