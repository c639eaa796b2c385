import * as z from 'zod';
import { decodeJson } from '../../nsdb/json.js';
import { healthCheckerPath } from '../../nsdb/layout.js';
import type { Watch } from '../../nsdb/store.js';
import { parseIp } from '../../packet/ip.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import type {
  BalancedMember,
  Fact,
  HealthCheckerFact,
  LoadBalancerFact,
  PoolFact,
  TunnelPath,
  VipFact,
} from '../../simulation/fact.js';
import { MemberTable } from '../../simulation/member-table.js';
import { VipIndex, type VipKey } from '../../simulation/vip-index.js';
import { MAX_TUNNEL_KEY, type Pool, type PoolMember, type Vip } from '../../topology/types.js';
import type { Cell } from './cell.js';
import type { TopologySource } from './topology-source.js';

/** What the host that checks the members of a load balancer tells the others of itself. */
const healthCheckerSchema = z.strictObject({ hostId: z.uuid(), tunnelKey: z.int().min(1).max(MAX_TUNNEL_KEY) });

export const PROTOCOLS = { tcp: IpProtocol.TCP, udp: IpProtocol.UDP, sctp: IpProtocol.SCTP } as const;

/**
 * Load balancers and pools, as facts that are read when packets come to them. With a load balancer come its VIPs; the
 * members of a pool only when a packet goes to one of its VIPs.
 */
export class LoadBalancerCells {
  private readonly balancers = new Map<string, Cell<LoadBalancerFact>>();
  private readonly pools = new Map<string, Cell<PoolFact>>();

  /** @param onMemberDown is told of members that do not work, for the protocol of their pool */
  constructor(
    private readonly source: TopologySource,
    private readonly onMemberDown: (protocol: number, member: BalancedMember) => void,
  ) {}

  /** How many load balancers and pools are kept. */
  get size(): number {
    return this.balancers.size + this.pools.size;
  }

  loadBalancer(id: string): Cell<LoadBalancerFact> {
    let cell = this.balancers.get(id);
    if (cell === undefined) {
      cell = this.source.cell<LoadBalancerFact>(`load balancer ${id}`, {
        subscribe: (self) => new LoadBalancerNode(id, this.source, this).watch(self),
        forget: (self) => {
          if (this.balancers.get(id) === self) this.balancers.delete(id);
        },
      });
      this.balancers.set(id, cell);
    }
    return cell;
  }

  /** The ways to hosts that check members. */
  *tunnels(): Generator<Fact<TunnelPath>> {
    for (const { value } of this.balancers.values()) {
      const checker = value?.checker?.value;
      if (checker?.type === 'remote') yield checker.tunnel;
    }
  }

  pool(id: string): Cell<PoolFact> {
    let cell = this.pools.get(id);
    if (cell === undefined) {
      cell = this.source.cell<PoolFact>(`pool ${id}`, {
        subscribe: (self) => this.watchPool(id, self),
        forget: (self) => {
          if (this.pools.get(id) === self) this.pools.delete(id);
        },
      });
      this.pools.set(id, cell);
    }
    return cell;
  }

  private watchPool(id: string, cell: Cell<PoolFact>): Watch {
    const { repository, invalid } = this.source;
    const members = new Map<string, BalancedMember>();
    const down = new Set<string>();
    /** Those of which nobody was told. */
    const newlyDown = new Set<string>();
    let pool: Pool | null | undefined;
    let areMembersKnown = false;
    let updating: NodeJS.Immediate | undefined;
    let table: MemberTable<BalancedMember> | undefined;
    // Members that change together make one table.
    const update = () => {
      updating ??= setImmediate(() => {
        updating = undefined;
        if (pool === null) cell.set(null);
        else if (pool !== undefined && areMembersKnown) {
          table = new MemberTable([...members.values()], table);
          cell.set({ id, adminStateUp: pool.adminStateUp, members: table });
          for (const memberId of newlyDown) this.onMemberDown(PROTOCOLS[pool.protocol], members.get(memberId)!);
          newlyDown.clear();
        }
      });
    };
    const watches = [
      repository.watch(
        'pool',
        id,
        (found) => {
          pool = found ?? null;
          update();
        },
        invalid,
      ),
      repository.watchHolders(
        'pool-member',
        'poolId',
        id,
        (memberId, member) => {
          if (member === undefined) members.delete(memberId);
          else members.set(memberId, balancedMember(member));
          if (member?.status !== 'inactive') {
            down.delete(memberId);
            newlyDown.delete(memberId);
          } else if (!down.has(memberId)) {
            down.add(memberId);
            newlyDown.add(memberId);
          }
          update();
        },
        invalid,
        () => {
          areMembersKnown = true;
          update();
        },
      ),
    ];
    return {
      ready: Promise.all(watches.map(({ ready }) => ready)).then(() => undefined),
      close: () => {
        for (const one of watches) one.close();
        clearImmediate(updating);
      },
    };
  }
}

/** A load balancer with its VIPs, which are found by their pools. It is known when all of them are. */
class LoadBalancerNode implements LoadBalancerFact {
  adminStateUp = true;
  readonly checker: Cell<HealthCheckerFact>;
  private readonly index: VipIndex<VipFact>;
  private readonly pools = new Map<string, PoolVips>();
  /** Pools whose VIPs are not all known. */
  private readonly awaited = new Set<string>();
  private arePoolsKnown = false;
  private exists: boolean | undefined;

  constructor(
    readonly id: string,
    private readonly source: TopologySource,
    private readonly cells: LoadBalancerCells,
  ) {
    this.checker = source.cell<HealthCheckerFact>(`health checker of load balancer ${id}`, {
      subscribe: (self) => watchHealthChecker(id, source, self),
      same: sameChecker,
    });
    this.index = new VipIndex<VipFact>((tag) => {
      const cell = source.cell<VipFact | 'tracked'>(`${tag} of load balancer ${id}`, {});
      cell.set(null);
      return cell;
    });
  }

  vip: LoadBalancerFact['vip'] = (packet, seen) => this.index.lookup(packet, seen);

  watch(cell: Cell<LoadBalancerFact>): Watch {
    const { repository, invalid } = this.source;
    const update = () => {
      if (this.exists === false) cell.set(null);
      else if (this.exists && this.arePoolsKnown && this.awaited.size === 0) cell.set(this);
    };
    const watches = [
      repository.watch(
        'load-balancer',
        this.id,
        (found) => {
          this.exists = found !== undefined;
          const isChanged = found !== undefined && found.adminStateUp !== this.adminStateUp;
          this.adminStateUp = found?.adminStateUp ?? true;
          update();
          if (isChanged && cell.value === this) cell.touch();
        },
        invalid,
      ),
      repository.watchHolders(
        'pool',
        'loadBalancerId',
        this.id,
        (poolId, pool) => this.follow(poolId, pool, update),
        invalid,
        () => {
          this.arePoolsKnown = true;
          update();
        },
      ),
    ];
    return {
      ready: Promise.all(watches.map(({ ready }) => ready)).then(() => undefined),
      close: () => {
        for (const one of watches) one.close();
        for (const { watch } of this.pools.values()) watch.close();
      },
    };
  }

  private follow(poolId: string, pool: Pool | undefined, update: () => void): void {
    const before = this.pools.get(poolId);
    if (pool === undefined) {
      before?.watch.close();
      before?.clear();
      this.pools.delete(poolId);
      this.awaited.delete(poolId);
      return update();
    }
    if (before !== undefined) return before.setProtocol(PROTOCOLS[pool.protocol]);
    this.awaited.add(poolId);
    const vips = new PoolVips(PROTOCOLS[pool.protocol], this.index, this.cells.pool(poolId));
    const watch = this.source.repository.watchHolders(
      'vip',
      'poolId',
      poolId,
      (vipId, vip) => vips.set(vipId, vip),
      this.source.invalid,
      () => {
        this.awaited.delete(poolId);
        update();
      },
    );
    vips.watch = watch;
    this.pools.set(poolId, vips);
  }
}

function watchHealthChecker(loadBalancerId: string, source: TopologySource, cell: Cell<HealthCheckerFact>): Watch {
  const path = healthCheckerPath(loadBalancerId);
  return source.repository.store.watchData(path, (node) => {
    if (node === undefined) return cell.set(null);
    try {
      const { hostId, tunnelKey } = decodeJson(healthCheckerSchema, node.data, path);
      if (hostId === source.hostId) cell.set({ type: 'local' });
      else cell.set({ type: 'remote', tunnel: source.tunnel(hostId), tunnelKey });
    } catch (error) {
      source.invalid(error as Error);
    }
  });
}

function sameChecker(a: HealthCheckerFact, b: HealthCheckerFact): boolean {
  if (a.type === 'local' || b.type === 'local') return a.type === b.type;
  return a.tunnel === b.tunnel && a.tunnelKey === b.tunnelKey;
}

/** The VIPs of a pool in the index of its load balancer, where their protocol is the pool's. */
class PoolVips {
  watch: Watch = { ready: Promise.resolve(), close: () => {} };
  private readonly vips = new Map<string, Vip>();

  constructor(
    private protocol: number,
    private readonly index: VipIndex<VipFact>,
    private readonly pool: Cell<PoolFact>,
  ) {}

  /** Undefined: it is gone. */
  set(id: string, vip: Vip | undefined): void {
    const before = this.vips.get(id);
    if (vip === undefined) this.vips.delete(id);
    else {
      this.vips.set(id, vip);
      this.index.set(id, this.keyOf(vip), this.factOf(vip));
    }
    if (before !== undefined && (vip === undefined || !isSamePlace(before, vip))) {
      this.index.delete(id, this.keyOf(before));
    }
  }

  setProtocol(protocol: number): void {
    if (protocol === this.protocol) return;
    const vips = [...this.vips];
    this.clear();
    this.protocol = protocol;
    for (const [id, vip] of vips) this.set(id, vip);
  }

  clear(): void {
    for (const id of [...this.vips.keys()]) this.set(id, undefined);
  }

  private keyOf({ address, protocolPort }: Vip): VipKey {
    return { address: parseIp(address)!, protocol: this.protocol, port: protocolPort };
  }

  private factOf({ id, adminStateUp, sessionPersistence }: Vip): VipFact {
    return { id, adminStateUp, isSticky: sessionPersistence === 'source-ip', pool: this.pool };
  }
}

function isSamePlace(a: Vip, b: Vip): boolean {
  return a.address === b.address && a.protocolPort === b.protocolPort;
}

/** One that is switched off or does not answer takes no connections that begin. */
function balancedMember({ id, weight, adminStateUp, status, address, protocolPort }: PoolMember): BalancedMember {
  const { words } = parseIp(address)!;
  const isAvailable = adminStateUp && status === 'active';
  return { id, weight, isAvailable, address: Uint32Array.from(words), port: protocolPort };
}
