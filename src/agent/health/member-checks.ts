import { randomInt } from 'node:crypto';
import type { Logger } from 'pino';
import type { Datapath } from '../../datapath/datapath.js';
import { FlowKey, Word } from '../../flow/key.js';
import { fnv1a } from '../../nsdb/fnv.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Watch } from '../../nsdb/store.js';
import { ObjectNotFoundError } from '../../nsdb/topology-errors.js';
import { EtherType } from '../../packet/ethernet.js';
import { parseIp } from '../../packet/ip.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import type { BridgeFact, Fact, PortFact, RouterFact } from '../../simulation/fact.js';
import { HEALTH_PORT, HEALTH_PORTS } from '../../simulation/health-answer.js';
import { type Way, type WayOut, wayFromBridge, wayFromRouter } from '../../simulation/way-out.js';
import type { HealthMonitor, LoadBalancer, Pool, PoolMember, Vip } from '../../topology/types.js';
import { PROTOCOLS } from '../facts/load-balancer-cells.js';
import type { Publisher } from '../host/publisher.js';
import {
  buildQuestion,
  buildReset,
  type HealthAnswer,
  type HealthPath,
  type HealthQuestion,
  SHORT_TOKEN,
} from './frames.js';

/** So many good answers in a row bring a member back that did not work. The default of HAProxy, by which MidoNet checks. */
const RISE = 2;

/** Ticks come by so much too early at times. */
const EARLY_MS = 100;

/** So many questions are asked at a tick about one load balancer; the others are late. */
const QUESTIONS_A_TICK = 2000;
/** And so many before other work gets its turn. */
const QUESTIONS_AT_ONCE = 64;

/** What came of a question: see {@link HealthAnswer}; `silent`: nothing in time, which is good news of UDP only. */
export type HealthResult = HealthAnswer['verdict'] | 'silent' | 'no-way';

/** Devices that a load balancer serves, from which its members are asked. */
export interface BalancedDevices {
  readonly routers: readonly Fact<RouterFact>[];
  readonly bridges: readonly Fact<BridgeFact>[];
}

export interface MemberChecksOptions {
  readonly loadBalancerId: string;
  readonly devices: () => BalancedDevices;
  readonly repository: TopologyRepository;
  /** A bridge by its identifier, which is read if it is not in hand. */
  readonly bridge: (id: string) => Fact<BridgeFact>;
  /** Begin to read facts that are not in hand, and keep those that are for so many seconds. */
  readonly need: (facts: readonly Fact<unknown>[], seconds: number) => void;
  /** Questions under way on this host, by the lower bits of their tokens. */
  readonly asked: Map<number, AskedQuestion>;
  readonly send: (port: Fact<PortFact>, frame: Uint8Array) => void;
  readonly datapath: Datapath;
  readonly publisher: Publisher;
  readonly onResult: (result: HealthResult) => void;
  readonly onStatus: () => void;
  readonly invalid: (error: Error) => void;
  /** Milliseconds. */
  readonly clock: () => number;
  readonly log: Logger;
}

/** A question that may still be answered. */
export interface AskedQuestion {
  readonly question: HealthQuestion;
  readonly way: Way;
  readonly at: number;
  answered(answer: HealthAnswer): void;
}

type Status = PoolMember['status'];

/** A member that is asked from time to time whether it works. */
interface Check {
  readonly pool: CheckedPool;
  member: PoolMember;
  /** What the NSDB is being told of it, as long as that does not show. */
  told: Status | undefined;
  /** Results of one kind in a row. */
  good: number;
  bad: number;
  /** When it is asked again. */
  dueAt: number;
  asked: AskedQuestion | undefined;
}

/** A pool that has a health monitor. */
interface CheckedPool {
  pool: Pool;
  monitor: HealthMonitor | undefined;
  readonly vips: Map<string, Vip>;
  readonly checks: Map<string, Check>;
  monitorWatch: Watch;
  readonly watches: Watch[];
}

/**
 * Checks the members of one load balancer, as long as this host is the one to do so: asks each for a connection, from the address of
 * one of its VIPs, and tells the NSDB which work.
 */
export class MemberChecks {
  private readonly pools = new Map<string, CheckedPool>();
  private readonly bridgeIds = new Set<string>();
  private readonly watches: readonly Watch[];
  private balancer: LoadBalancer | undefined;
  /** Those that wait, and for which facts. */
  private readonly waiting = new Map<Check, readonly Fact<unknown>[]>();
  /** Those that are to be asked now, the first of them last. */
  private due: Check[] = [];
  private asking: NodeJS.Immediate | undefined;
  private ticking: NodeJS.Immediate | undefined;
  /** Whether another host checks from here on. */
  private isReplaced = false;

  constructor(private readonly options: MemberChecksOptions) {
    const { repository, loadBalancerId, invalid } = options;
    this.watches = [
      repository.watch(
        'load-balancer',
        loadBalancerId,
        (found) => {
          this.balancer = found;
        },
        invalid,
      ),
      repository.watchHolders(
        'bridge',
        'loadBalancerId',
        loadBalancerId,
        (id, bridge) => {
          if (bridge === undefined) this.bridgeIds.delete(id);
          else this.bridgeIds.add(id);
        },
        invalid,
        () => {},
      ),
    ];
  }

  /** How many members are looked after. */
  get size(): number {
    let count = 0;
    for (const { checks } of this.pools.values()) count += checks.size;
    return count;
  }

  /** A pool of the load balancer, and whenever it changes; undefined when it is gone. */
  poolChanged(id: string, pool: Pool | undefined): void {
    const before = this.pools.get(id);
    if (pool?.healthMonitorId === undefined) {
      if (before === undefined) return;
      this.pools.delete(id);
      this.leave(before);
      if (pool !== undefined) for (const check of before.checks.values()) this.assume(check);
      return;
    }
    if (before === undefined) this.pools.set(id, this.follow(pool));
    else {
      const isOtherMonitor = before.pool.healthMonitorId !== pool.healthMonitorId;
      before.pool = pool;
      if (isOtherMonitor) {
        before.monitorWatch.close();
        before.monitor = undefined;
        before.monitorWatch = this.watchMonitor(before);
      }
    }
  }

  /** To be called once a second. What has come in by then is heard first: else an agent that was held up takes it for silence. */
  tick(): void {
    this.ticking ??= setImmediate(() => {
      this.ticking = undefined;
      this.look();
    });
  }

  /** Who has not answered in time, and who is to be asked? */
  private look(): void {
    const now = this.options.clock();
    const due: Check[] = [];
    for (const pool of this.pools.values()) {
      for (const check of pool.checks.values()) {
        const timeout = 1000 * (pool.monitor?.timeout ?? 0);
        if (check.asked !== undefined && now >= check.asked.at + timeout - EARLY_MS) this.silent(check);
        if (check.asked === undefined && check.dueAt <= now + EARLY_MS) due.push(check);
      }
    }
    if (due.length > QUESTIONS_A_TICK) due.sort((a, b) => a.dueAt - b.dueAt);
    this.due = due.slice(0, QUESTIONS_A_TICK).reverse();
    this.askSome();
  }

  private askSome(): void {
    clearImmediate(this.asking);
    const now = this.options.clock();
    for (let count = 0; count < QUESTIONS_AT_ONCE; count++) {
      const check = this.due.pop();
      if (check === undefined) return;
      // Who has waited for a fact may be here twice.
      const isDue = check.asked === undefined && check.dueAt <= now + EARLY_MS;
      if (isDue && this.isCurrent(check)) this.ask(check);
    }
    this.asking = setImmediate(() => this.askSome());
  }

  private isCurrent(check: Check): boolean {
    const { pool, member } = check;
    return this.pools.get(pool.pool.id) === pool && pool.checks.get(member.id) === check;
  }

  /** Some fact changed: those that waited for it are asked. */
  retry(): void {
    for (const [check, missing] of this.waiting) {
      if (missing.some(({ value }) => value === undefined)) continue;
      this.waiting.delete(check);
      this.due.push(check);
    }
    this.askSome();
  }

  /** @param isReplaced another host checks from here on; otherwise nobody does */
  close(isReplaced: boolean): void {
    this.isReplaced = isReplaced;
    this.due = [];
    clearImmediate(this.asking);
    clearImmediate(this.ticking);
    for (const watch of this.watches) watch.close();
    for (const pool of this.pools.values()) this.leave(pool);
    this.waiting.clear();
  }

  private follow(pool: Pool): CheckedPool {
    const { repository, invalid } = this.options;
    const { id } = pool;
    const idle: Watch = { ready: Promise.resolve(), close: () => {} };
    const checked: CheckedPool = {
      pool,
      monitor: undefined,
      vips: new Map(),
      checks: new Map(),
      monitorWatch: idle,
      watches: [],
    };
    checked.monitorWatch = this.watchMonitor(checked);
    checked.watches.push(
      repository.watchHolders(
        'vip',
        'poolId',
        id,
        (vipId, vip) => {
          if (vip === undefined) checked.vips.delete(vipId);
          else checked.vips.set(vipId, vip);
        },
        invalid,
        () => {},
      ),
      repository.watchHolders(
        'pool-member',
        'poolId',
        id,
        (memberId, member) => this.memberChanged(checked, memberId, member),
        invalid,
        () => {},
      ),
    );
    return checked;
  }

  private watchMonitor(checked: CheckedPool): Watch {
    const { repository, invalid, clock } = this.options;
    const id = checked.pool.healthMonitorId!;
    return repository.watch(
      'health-monitor',
      id,
      (monitor) => {
        checked.monitor = monitor;
        for (const check of checked.checks.values()) check.dueAt = Math.min(check.dueAt, clock() + delayOf(check));
        if (monitor?.adminStateUp === false) for (const check of checked.checks.values()) this.assume(check);
      },
      invalid,
    );
  }

  private memberChanged(pool: CheckedPool, id: string, member: PoolMember | undefined): void {
    const check = pool.checks.get(id);
    if (member === undefined) {
      pool.checks.delete(id);
      if (check !== undefined) this.forget(check);
      return;
    }
    if (check === undefined) {
      const added: Check = { pool, member, told: undefined, good: 0, bad: 0, dueAt: 0, asked: undefined };
      pool.checks.set(id, added);
      added.dueAt = this.options.clock() + ((fnv1a(id) >>> 0) % delayOf(added));
      if (pool.monitor?.adminStateUp === false) this.assume(added);
      return;
    }
    const { address, protocolPort } = check.member;
    check.member = member;
    if (check.told === member.status) check.told = undefined;
    if (member.address !== address || member.protocolPort !== protocolPort) {
      this.forget(check);
      check.dueAt = this.options.clock();
    }
  }

  private leave(pool: CheckedPool): void {
    pool.monitorWatch.close();
    for (const watch of pool.watches) watch.close();
    for (const check of pool.checks.values()) this.forget(check);
  }

  /** What the member was asked is not waited for any more, and what it answered before does not count. */
  private forget(check: Check): void {
    this.waiting.delete(check);
    this.unask(check);
    check.good = 0;
    check.bad = 0;
  }

  private unask(check: Check): void {
    if (check.asked !== undefined) this.options.asked.delete(check.asked.question.token & SHORT_TOKEN);
    check.asked = undefined;
  }

  /** Ask the member, if it is to be asked now. */
  private ask(check: Check): void {
    const { clock, need, asked, send } = this.options;
    const path = this.pathTo(check);
    if (path === undefined) {
      this.forget(check);
      check.dueAt = clock() + delayOf(check);
      return;
    }
    const found = this.wayTo(path);
    const at = clock();
    need(found.facts, (2 * delayOf(check)) / 1000);
    const { way } = found;
    if (way === undefined) {
      this.waiting.set(check, found.facts);
      return;
    }
    this.waiting.delete(check);
    check.dueAt = at + delayOf(check);
    if (way === null) {
      // A bridge asks only those it knows; a router that knows no way to a member has none for its clients.
      if (this.options.devices().routers.length > 0) this.count(check, 'no-way');
      return;
    }
    const token = this.newToken();
    if (token === undefined) return;
    const question: HealthQuestion = { ...path, token };
    check.asked = { question, way, at, answered: (answer) => this.answered(check, answer) };
    asked.set(token & SHORT_TOKEN, check.asked);
    send(way.port, buildQuestion(question, way.src, way.dst));
  }

  /** From where to where the member is asked; undefined while it is not to be. */
  private pathTo({ pool: { pool, monitor, vips }, member }: Check): HealthPath | undefined {
    const isOn = this.balancer?.adminStateUp && pool.adminStateUp && monitor?.adminStateUp && member.adminStateUp;
    if (!isOn) return undefined;
    const dst = parseIp(member.address)!;
    let first: Vip | undefined;
    for (const vip of vips.values()) {
      const isSameFamily = parseIp(vip.address)!.family === dst.family;
      if (isSameFamily && (first === undefined || vip.id < first.id)) first = vip;
    }
    if (first === undefined) return undefined;
    return {
      protocol: PROTOCOLS[pool.protocol],
      src: parseIp(first.address)!.words,
      srcPort: HEALTH_PORT + randomInt(0, HEALTH_PORTS),
      dst: dst.words,
      dstPort: member.protocolPort,
    };
  }

  private wayTo(path: HealthPath): WayOut {
    const { devices, bridge, datapath } = this.options;
    const key = keyOf(path);
    const { routers, bridges } = devices();
    const allBridges = new Set([...bridges, ...Array.from(this.bridgeIds, bridge)]);
    const finders = [
      ...routers.map((router) => () => wayFromRouter(router, key, datapath)),
      ...Array.from(allBridges, (one) => () => wayFromBridge(one, key, datapath)),
    ];
    const facts: Fact<unknown>[] = [];
    for (const find of finders) {
      const found = find();
      facts.push(...found.facts);
      if (found.way !== null) return { way: found.way, facts };
    }
    return { way: null, facts };
  }

  /** Undefined when too many questions are under way. */
  private newToken(): number | undefined {
    const { asked } = this.options;
    if (asked.size > SHORT_TOKEN / 2) return undefined;
    for (;;) {
      const token = randomInt(1, 2 ** 32);
      if (!asked.has(token & SHORT_TOKEN)) return token;
    }
  }

  private answered(check: Check, { verdict }: HealthAnswer): void {
    const { question, way } = check.asked!;
    this.unask(check);
    if (verdict === 'accepted' && question.protocol === IpProtocol.TCP) {
      this.options.send(way.port, buildReset(question, way.src, way.dst));
    }
    this.count(check, verdict);
  }

  private silent(check: Check): void {
    this.unask(check);
    this.count(check, 'silent');
  }

  private count(check: Check, result: HealthResult): void {
    const { pool, member } = check;
    this.options.onResult(result);
    // It may have been switched off since it was asked.
    if (this.pathTo(check) === undefined) return this.forget(check);
    const isGood = result === 'accepted' || (result === 'silent' && pool.pool.protocol === 'udp');
    check.good = isGood ? check.good + 1 : 0;
    check.bad = isGood ? 0 : check.bad + 1;
    const status = check.told ?? member.status;
    if (status === 'active' && pool.monitor !== undefined && check.bad >= pool.monitor.maxRetries) {
      this.tell(check, 'inactive', result);
    } else if (status === 'inactive' && check.good >= RISE) this.tell(check, 'active', result);
  }

  /** Nobody checks the member any more, so it is taken for one that works. */
  private assume(check: Check): void {
    this.forget(check);
    if ((check.told ?? check.member.status) === 'inactive') this.tell(check, 'active');
  }

  private tell(check: Check, status: Status, reason?: HealthResult): void {
    const { publisher, repository, log, onStatus } = this.options;
    const { id, address, protocolPort } = check.member;
    check.told = status;
    onStatus();
    log.info({ member: id, address, port: protocolPort, status, reason }, 'the status of a pool member changes');
    publisher.publish(`status of pool member ${id}`, async (signal) => {
      if (this.isReplaced) return;
      try {
        await repository.modify(
          'pool-member',
          id,
          (found) => (found.status === status ? undefined : { ...found, status }),
          signal,
        );
      } catch (error) {
        if (!(error instanceof ObjectNotFoundError)) throw error;
      }
    });
  }
}

/** Milliseconds between two questions. */
function delayOf({ pool: { monitor } }: Check): number {
  return 1000 * (monitor?.delay ?? 1);
}

function keyOf({ protocol, src, srcPort, dst, dstPort }: HealthPath): FlowKey {
  const key = new FlowKey();
  key.ethType = src.length === 1 ? EtherType.IPV4 : EtherType.IPV6;
  key.nwProto = protocol;
  for (let i = 0; i < src.length; i++) {
    key.words[Word.NW_SRC + i] = src[i];
    key.words[Word.NW_DST + i] = dst[i];
  }
  key.tpSrc = srcPort;
  key.tpDst = dstPort;
  return key;
}
