import type { Logger } from 'pino';
import type { Datapath } from '../../datapath/datapath.js';
import { encodeJson } from '../../nsdb/json.js';
import { healthCheckerPath } from '../../nsdb/layout.js';
import { parentPath } from '../../nsdb/path.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { EphemeralNode, EphemeralState, Watch } from '../../nsdb/store.js';
import type { Fact, PortFact } from '../../simulation/fact.js';
import type { Pool } from '../../topology/types.js';
import type { Publisher } from '../host/publisher.js';
import { type HealthAnswer, parseAnswer, SHORT_TOKEN } from './frames.js';
import { type AskedQuestion, type BalancedDevices, type HealthResult, MemberChecks } from './member-checks.js';
import type { NearbyBalancers } from './nearby-balancers.js';

export interface HealthChecksOptions {
  readonly hostId: string;
  readonly repository: TopologyRepository;
  readonly nearby: () => NearbyBalancers;
  readonly bridge: ConstructorParameters<typeof MemberChecks>[0]['bridge'];
  readonly need: (facts: readonly Fact<unknown>[], seconds: number) => void;
  /** The tunnel key for answers that other hosts send here. */
  readonly tunnelKey: () => number;
  readonly releaseTunnelKey: () => void;
  readonly send: (port: Fact<PortFact>, frame: Uint8Array) => void;
  readonly datapath: Datapath;
  readonly publisher: Publisher;
  readonly invalid: (error: Error) => void;
  /** Milliseconds. */
  readonly clock: () => number;
  readonly log: Logger;
}

/** What this host has to do with a load balancer that its devices serve. */
interface Candidacy {
  devices: BalancedDevices;
  /** The pools that have a health monitor. */
  readonly monitored: Map<string, Pool>;
  readonly watch: Watch;
  /** While there are such pools: whoever holds this node checks their members. */
  node: EphemeralNode | undefined;
  checks: MemberChecks | undefined;
}

/**
 * Health checks of the members of load balancers. Of the hosts that a load balancer concerns one is elected to make them, by an
 * ephemeral node in the NSDB, which also tells the others where answers go that come in at them.
 */
export class HealthChecks {
  /** What came of questions. */
  readonly results = new Map<HealthResult, number>();
  /** How often the status of a member changed. */
  statusChanges = 0;
  private readonly candidacies = new Map<string, Candidacy>();
  private readonly asked = new Map<number, AskedQuestion>();
  /** Whether there is a tunnel key to be given back: perhaps of the last run. */
  private mayHaveKey = true;
  /** Whether it was told that the key can be neither had nor given back. */
  private isKeyFaultTold = false;
  private retrying: NodeJS.Immediate | undefined;

  constructor(private readonly options: HealthChecksOptions) {}

  /** How many load balancers this host makes the checks of. */
  get balancers(): number {
    let count = 0;
    for (const { checks } of this.candidacies.values()) if (checks !== undefined) count++;
    return count;
  }

  /** How many members it looks after. */
  get members(): number {
    let count = 0;
    for (const { checks } of this.candidacies.values()) count += checks?.size ?? 0;
    return count;
  }

  /** To be called once a second. */
  tick(): void {
    const { devices: nearby, isComplete } = this.options.nearby();
    for (const id of [...this.candidacies.keys()]) if (isComplete && !nearby.has(id)) this.retire(id);
    for (const [id, devices] of nearby) this.stand(id, devices);
    for (const [id, candidacy] of this.candidacies) this.run(id, candidacy);
    if (isComplete && this.mayHaveKey && this.candidacies.size === 0) this.releaseKey();
    for (const { checks } of this.candidacies.values()) checks?.tick();
  }

  /** A fact changed: perhaps somebody waits for it. */
  factChanged(): void {
    if (this.candidacies.size === 0) return;
    this.retrying ??= setImmediate(() => {
      this.retrying = undefined;
      for (const { checks } of this.candidacies.values()) checks?.retry();
    });
  }

  /** A packet came in that may answer what a member was asked. */
  heard(frame: Uint8Array): void {
    const answer = parseAnswer(frame);
    if (answer === undefined) return;
    const asked = this.asked.get(answer.token & SHORT_TOKEN);
    if (asked !== undefined && isAnswerTo(asked, answer)) asked.answered(answer);
  }

  /** Settles when others can take over, if the NSDB can be told. */
  async close(): Promise<void> {
    clearImmediate(this.retrying);
    const nodes = [...this.candidacies.values()].map(({ node }) => node);
    for (const id of [...this.candidacies.keys()]) this.retire(id);
    await Promise.all(nodes.map((node) => node?.close()));
  }

  /** This host is one that may check. */
  private stand(id: string, devices: BalancedDevices): void {
    const before = this.candidacies.get(id);
    if (before !== undefined) {
      before.devices = devices;
      return;
    }
    const { repository, invalid } = this.options;
    const watch = repository.watchHolders(
      'pool',
      'loadBalancerId',
      id,
      (poolId, pool) => this.poolChanged(id, poolId, pool),
      invalid,
      () => {},
    );
    this.candidacies.set(id, { devices, monitored: new Map(), watch, node: undefined, checks: undefined });
  }

  private retire(id: string): void {
    const candidacy = this.candidacies.get(id)!;
    this.candidacies.delete(id);
    candidacy.watch.close();
    candidacy.checks?.close(true);
    void candidacy.node?.close();
  }

  private poolChanged(id: string, poolId: string, pool: Pool | undefined): void {
    const candidacy = this.candidacies.get(id);
    if (candidacy === undefined) return;
    const { monitored } = candidacy;
    if (pool?.healthMonitorId === undefined) monitored.delete(poolId);
    else monitored.set(poolId, pool);
    candidacy.checks?.poolChanged(poolId, pool);
    if (monitored.size > 0) this.run(id, candidacy);
    else {
      candidacy.checks?.close(false);
      candidacy.checks = undefined;
      void candidacy.node?.close();
      candidacy.node = undefined;
    }
  }

  /** Stand for the election, if there is something to check. It is tried again until there is a key. */
  private run(id: string, candidacy: Candidacy): void {
    if (candidacy.node !== undefined || candidacy.monitored.size === 0) return;
    const { hostId, repository } = this.options;
    const tunnelKey = this.takeKey();
    if (tunnelKey === undefined) return;
    const { store } = repository;
    const path = healthCheckerPath(id);
    candidacy.node = store.ephemeral(path, encodeJson({ hostId, tunnelKey }), {
      makeParent: () => store.ensure(parentPath(path)!),
      onState: (state, node) => {
        if (candidacy.node === node) this.elected(id, candidacy, state);
      },
    });
  }

  /** Undefined if it cannot be written to the disk. */
  private takeKey(): number | undefined {
    this.mayHaveKey = true;
    try {
      const tunnelKey = this.options.tunnelKey();
      this.isKeyFaultTold = false;
      return tunnelKey;
    } catch (error) {
      this.tellOfKeyFault(error as Error);
      return undefined;
    }
  }

  private releaseKey(): void {
    try {
      this.options.releaseTunnelKey();
      this.mayHaveKey = false;
      this.isKeyFaultTold = false;
    } catch (error) {
      this.tellOfKeyFault(error as Error);
    }
  }

  private tellOfKeyFault(error: Error): void {
    if (this.isKeyFaultTold) return;
    this.isKeyFaultTold = true;
    this.options.log.error(
      { error: error.message },
      'cannot take or give back the tunnel key of health checks; trying again',
    );
  }

  private elected(id: string, candidacy: Candidacy, state: EphemeralState): void {
    if (state !== 'held') {
      candidacy.checks?.close(true);
      candidacy.checks = undefined;
      return;
    }
    if (candidacy.checks !== undefined) return;
    const { asked, options } = this;
    options.log.info({ loadBalancer: id }, 'this host checks the members of a load balancer');
    candidacy.checks = new MemberChecks({
      ...options,
      loadBalancerId: id,
      devices: () => candidacy.devices,
      asked,
      onResult: (result) => this.results.set(result, (this.results.get(result) ?? 0) + 1),
      onStatus: () => {
        this.statusChanges++;
      },
    });
    for (const [poolId, pool] of candidacy.monitored) candidacy.checks.poolChanged(poolId, pool);
  }
}

function isAnswerTo({ question }: AskedQuestion, { path, token, verdict }: HealthAnswer): boolean {
  const expected = verdict === 'unreachable' ? question.token & SHORT_TOKEN : question.token;
  return (
    token === expected &&
    path.protocol === question.protocol &&
    path.srcPort === question.srcPort &&
    path.dstPort === question.dstPort &&
    isSame(path.src, question.src) &&
    isSame(path.dst, question.dst)
  );
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((word, i) => word === b[i]);
}
