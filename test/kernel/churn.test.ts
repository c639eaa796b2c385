import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Links } from '../../src/datapath/link/links.js';
import { Namespace } from '../../src/datapath/link/namespace.js';
import { formatIp } from '../../src/packet/ip.js';
import { idFromName } from '../../src/topology/id.js';
import { Dice } from '../dice.js';
import { type Inventory, takeInventory } from './inventory.js';
import { type CniCall, Lab, must, NETWORK, type Outcome, Pod, SUBNET_V4, SUBNET_V6, until } from './lab.js';

/** Each is one successful ADD and one successful DEL. */
const PODS = 150;
/** All of them together: what an agent that is away refuses is repeated. */
const CALLS = 500;
const AT_ONCE = 20;
/** A runtime waits before it repeats a call. */
const RETRY_MS = 2000;
/** Pods that are up at a time, about. */
const LIVE = 40;
/** The whole of them, repeated calls included, on a machine that others use too. */
const LIMIT_MS = 900_000;
/** What has not answered by then is broken: agents are back within seconds. */
const PING_MS = 60_000;

let lab: Lab;
let before: Inventory;

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start({ agent: { flows: { idleTimeout: 5 } } });
  for (const node of lab.nodes) {
    await until('the host to be registered', async () => (await node.metric('midonet_nsdb_backlog')) === 0);
  }
  before = await takeInventory(lab);
});

test.afterEach(async (t) => {
  // What a hook logs is not shown unless it fails itself.
  if (!t.passed) process.stderr.write((await lab.logs()).slice(-20_000));
});

test.after.always(() => lab?.close());

/** Several pods have one namespace, one after the other: its name does not identify them. */
function callOf(pod: Pod): CniCall {
  return { ...pod.call, containerId: `${pod.name}-${lab.tag}` };
}

/** Pods come and go on the lab's nodes, and every address is watched. */
class Churn {
  readonly counts = { adds: 0, dels: 0, failedAdds: 0, failedDels: 0, kills: 0, pings: 0, lookedAt: 0 };
  slowestPing = 0;
  readonly faults: string[] = [];
  private added = 0;
  private named = 0;
  private running = true;
  private namespaces = 0;
  /** Namespaces of former pods. The next one must find its own empty, or its ADD fails. */
  private readonly free: string[] = [];
  /** Those whose DEL has not succeeded yet. */
  private readonly existing = new Set<Pod>();
  /** Those whose ADD has succeeded and whose DEL has not begun, with nobody that needs them. */
  private readonly idle = new Set<Pod>();
  private readonly holders = new Map<string, Pod>();

  constructor(private readonly random: (below: number) => number) {}

  async run(signal: AbortSignal): Promise<void> {
    const workers = Array.from({ length: AT_ONCE }, () => this.work(signal));
    const work = Promise.all(workers).finally(() => {
      this.running = false;
    });
    await Promise.all([work, this.kill(signal), this.look(signal), this.ping(signal), this.tell(signal)]);
    for (const namespace of this.free) await must('ip', 'netns', 'delete', namespace);
  }

  private async work(signal: AbortSignal): Promise<void> {
    while (this.added < PODS || this.existing.size > 0) {
      signal.throwIfAborted();
      const crowded = this.random(2 * LIVE) < this.existing.size;
      if (this.added < PODS && !crowded) {
        this.added++;
        await this.add(signal);
      } else if (this.idle.size > 0) {
        await this.remove(this.take(() => true)!, signal);
      } else {
        await sleep(20);
      }
    }
  }

  /** One of the idle pods, which is idle no more. */
  private take(which: (pod: Pod) => boolean): Pod | undefined {
    const fitting = [...this.idle].filter(which);
    const pod = fitting[this.random(fitting.length || 1)];
    if (pod !== undefined) this.idle.delete(pod);
    return pod;
  }

  private async add(signal: AbortSignal): Promise<void> {
    const node = lab.nodes[this.random(lab.nodes.length)];
    const name = `c${this.named++}`;
    const namespace = this.free.pop() ?? (await this.newNamespace());
    const pod = new Pod(node, namespace, name, node.networkConfig());
    this.existing.add(pod);
    for (;;) {
      this.counts.adds++;
      const outcome = await node.cni('ADD', callOf(pod));
      if (outcome.status === 0) {
        this.up(pod, outcome);
        return;
      }
      this.counts.failedAdds++;
      this.passing(pod, 'ADD', outcome);
      // As a runtime does: whatever ADD has made is taken back before it is tried again.
      await this.delete(pod, signal);
    }
  }

  private async newNamespace(): Promise<string> {
    const namespace = `sandbox${this.namespaces++}-${lab.tag}`;
    await must('ip', 'netns', 'add', namespace);
    return namespace;
  }

  private up(pod: Pod, outcome: Outcome): void {
    pod.take(outcome.stdout);
    for (const address of [pod.ipv4, pod.ipv6]) {
      const holder = this.holders.get(address);
      if (holder !== undefined) this.faults.push(`${pod.name} was given ${address}, which ${holder.name} has`);
      this.holders.set(address, pod);
    }
    this.idle.add(pod);
  }

  private async remove(pod: Pod, signal: AbortSignal): Promise<void> {
    for (const address of [pod.ipv4, pod.ipv6]) this.holders.delete(address);
    await this.delete(pod, signal);
    this.existing.delete(pod);
    this.free.push(pod.namespace);
  }

  private async delete(pod: Pod, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      this.counts.dels++;
      const outcome = await pod.node.cni('DEL', callOf(pod));
      if (outcome.status === 0) return;
      this.counts.failedDels++;
      this.passing(pod, 'DEL', outcome);
      await sleep(RETRY_MS + this.random(RETRY_MS));
    }
  }

  /** A call may fail only because the agent is away just now. */
  private passing(pod: Pod, command: string, { stdout, stderr }: Outcome): void {
    const answer = JSON.parse(stdout || '{}') as { code?: number };
    if (answer.code !== 11) this.faults.push(`${command} of ${pod.name} on ${pod.node.name}: ${stdout}${stderr}`);
  }

  /** Shows where a run is that hangs. */
  private async tell(signal: AbortSignal): Promise<void> {
    const began = Date.now();
    while (this.running && !signal.aborted) {
      await sleep(5000);
      process.stderr.write(
        `${Math.round((Date.now() - began) / 1000)} s: ${this.existing.size} pods, ${this.idle.size} idle, ${JSON.stringify(this.counts)}\n`,
      );
    }
  }

  private async kill(signal: AbortSignal): Promise<void> {
    while (this.running && !signal.aborted) {
      await sleep(3000 + this.random(6000));
      if (!this.running) return;
      const node = lab.nodes[this.random(lab.nodes.length)];
      await node.stopAgent('SIGKILL');
      this.counts.kills++;
      await sleep(this.random(1000));
      await node.startAgent();
    }
  }

  /** What the namespaces hold, whatever was reported. */
  private async look(signal: AbortSignal): Promise<void> {
    while (this.running && !signal.aborted) {
      const found = new Map<string, Pod>();
      for (const pod of [...this.existing]) {
        const mine = await this.addressesOf(pod);
        for (const address of mine) {
          const other = found.get(address);
          found.set(address, pod);
          // Another may have let go of it before this one got it.
          if (other !== undefined && (await this.addressesOf(other)).includes(address)) {
            this.faults.push(`the namespaces of ${other.name} and ${pod.name} both have ${address}`);
          }
        }
      }
      await sleep(1500);
    }
  }

  /** Addresses of the network in the pod's namespace; those of a pod that is up must be the ones it was given. */
  private async addressesOf(pod: Pod): Promise<string[]> {
    const wasUp = this.holders.get(pod.ipv4) === pod;
    let namespace: Namespace | undefined;
    let links: Links | undefined;
    try {
      namespace = Namespace.open(`/run/netns/${pod.namespace}`);
      links = new Links(namespace);
      const found = (await links.addresses()).map(formatIp).filter((address) => /^(10\.88\.|fd00:88:)/.test(address));
      this.counts.lookedAt++;
      if (wasUp && this.holders.get(pod.ipv4) === pod && found.sort().join() !== [pod.ipv4, pod.ipv6].sort().join()) {
        this.faults.push(`${pod.name} was given ${pod.ipv4} and ${pod.ipv6} but has ${found.join(' and ')}`);
      }
      return found;
    } catch (error) {
      if (this.existing.has(pod)) throw error;
      return [];
    } finally {
      links?.close();
      namespace?.close();
    }
  }

  private async ping(signal: AbortSignal): Promise<void> {
    while (this.running && !signal.aborted) {
      await sleep(1000);
      const from = this.take(() => true);
      const to = from && this.take((pod) => pod.node !== from.node);
      if (from !== undefined && to !== undefined) await this.pingUntilAnswered(from, to);
      for (const pod of [from, to]) if (pod !== undefined) this.idle.add(pod);
    }
  }

  private async pingUntilAnswered(from: Pod, to: Pod): Promise<void> {
    const address = this.random(2) === 0 ? to.ipv4 : to.ipv6;
    const began = Date.now();
    this.counts.pings++;
    while ((await from.ping(address)) === 0) {
      if (Date.now() - began > PING_MS) {
        this.faults.push(`${from.name} on ${from.node.name} does not reach ${to.name}, ${address} on ${to.node.name}`);
        return;
      }
    }
    this.slowestPing = Math.max(this.slowestPing, Date.now() - began);
  }
}

test.serial('nothing is left of pods that came and went while agents were killed', async (t) => {
  t.timeout(LIMIT_MS + 240_000);
  const seed = Number(process.env.MIDONET_CHURN_SEED ?? randomInt(2 ** 31));
  t.log(`MIDONET_CHURN_SEED=${seed}`);
  const dice = new Dice(seed | 1);
  const churn = new Churn((below) => dice.below(below));
  const began = Date.now();
  await churn.run(AbortSignal.timeout(LIMIT_MS));
  const { adds, dels, failedAdds, failedDels, kills, pings, lookedAt } = churn.counts;
  t.log(
    `${adds} ADD (${failedAdds} repeated), ${dels} DEL (${failedDels} repeated), ${kills} kills, ` +
      `${pings} pairs pinged (slowest answer after ${churn.slowestPing} ms), ${lookedAt} looks into namespaces, ` +
      `${Math.round((Date.now() - began) / 1000)} s`,
  );
  t.deepEqual(churn.faults, []);
  t.is(adds - failedAdds, PODS);
  t.true(adds + dels >= CALLS);
  t.true(kills >= 5 && pings >= 5 && lookedAt >= 100);
  // The last deletions have not all reached the NSDB: the next run of the agents has to see to that.
  await Promise.all(lab.nodes.map((node) => node.stopAgent('SIGKILL')));
  await Promise.all(lab.nodes.map((node) => node.startAgent()));
  await assertAsBefore(t.log);
  t.pass();
});

/** Waits: flows have to become idle, sessions of killed agents to expire, deletions to reach the NSDB. */
async function assertAsBefore(log: (line: string) => void): Promise<void> {
  let left: Record<string, unknown> = {};
  try {
    await until(
      'nothing to be left',
      async () => {
        left = await leftovers();
        return Object.keys(left).length === 0;
      },
      90_000,
    );
  } catch (error) {
    log(JSON.stringify(left, undefined, 2));
    throw error;
  }
}

/** What there is now and was not before, or the other way round, and need not be. */
async function leftovers(): Promise<Record<string, unknown>> {
  const now = await takeInventory(lab);
  const left: Record<string, unknown> = {};
  for (const field of ['namespaces', 'links', 'ports', 'flows', 'files', 'nsdb'] as const) {
    const more = now[field].filter((line) => !before[field].includes(line) && !mayStay(line));
    const less = before[field].filter((line) => !now[field].includes(line));
    if (more.length + less.length > 0) left[field] = { more, less };
  }
  if (now.addresses !== 0) left.addresses = now.addresses;
  const oneSided = await oneSidedBlocks(now.nsdb);
  if (oneSided.length > 0) left.blocks = oneSided;
  return left;
}

const BRIDGE = idFromName('bridge', NETWORK);
const POOLS = [SUBNET_V4, SUBNET_V6].map((cidr) => idFromName('pool', BRIDGE, cidr));
/** The network, what each host knows of it, and the blocks that hosts hold. */
const STAYS: readonly RegExp[] = [
  new RegExp(`^/bridges/${BRIDGE}(/(ports|hosts|macs|ips|address-pools(/(${POOLS.join('|')}))?))?$`),
  new RegExp(`^/names/bridge(/[0-9a-f]{2}(/${NETWORK},${BRIDGE})?)?$`),
  new RegExp(`^/address-pools/(${POOLS.join('|')})(/blocks(/[^/]+(/[^/]+)?)?)?$`),
  new RegExp(`^/hosts/[^/]+/leases/(${POOLS.join('|')})(/[^/]+)?$`),
  new RegExp(`^[^/ ]+ networks/${BRIDGE}\\.json$`),
  new RegExp(`^[^/ ]+ blocks/(${POOLS.join('|')})\\.json$`),
];

function mayStay(line: string): boolean {
  return STAYS.some((pattern) => pattern.test(line));
}

/** Blocks that are known only under their pool, or only under their host. */
async function oneSidedBlocks(paths: readonly string[]): Promise<string[]> {
  const { store } = lab.repository();
  const held = new Set<string>();
  for (const path of paths) {
    const [, pool, block] = /^\/address-pools\/([^/]+)\/blocks\/[^/]+\/([^/]+)$/.exec(path) ?? [];
    if (block === undefined) continue;
    const node = await store.get(path);
    const { hostId } = JSON.parse(Buffer.from(node?.data ?? []).toString() || '{}') as { hostId?: string };
    held.add(`${hostId} ${pool} ${block}`);
  }
  const listed = new Set<string>();
  for (const path of paths) {
    const [, hostId, pool, block] = /^\/hosts\/([^/]+)\/leases\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
    if (block !== undefined) listed.add(`${hostId} ${pool} ${block}`);
  }
  return [...held].filter((block) => !listed.has(block)).concat([...listed].filter((block) => !held.has(block)));
}
