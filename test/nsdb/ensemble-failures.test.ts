/**
 * What clients of an ensemble see while its servers fail. Six clients read, write and watch all the time; a test does
 * something to the servers, waits until every client gets on with its work, and looks at what each of them was told.
 */
import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { type EphemeralNode, type Store, StoreUnavailableError, VersionConflictError } from '../../src/nsdb/store.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { bytes, text, until } from '../compliance/store.js';
import { ApacheEnsemble, type EnsembleMember } from './apache-ensemble.js';

const test = anyTest as TestFn;
const skip = process.env.MIDONET_SKIP_ZOOKEEPER === '1';
const check = skip ? test.skip : test.serial;

const CLIENTS = 6;
const OPERATION_TIMEOUT = 4000;
/** How much later than its time limit a call may end on a busy machine, in milliseconds. */
const SLACK = 4000;
const NONE = new Uint8Array();

let ensemble: ApacheEnsemble;
let rounds = 0;

test.before(async () => {
  if (!skip) ensemble = await ApacheEnsemble.start();
});
test.after.always(async () => {
  await ensemble?.close();
});

type Outcome = 'done' | 'not done' | 'unknown';

/** A client that reads, writes and counts without a pause, and keeps what it was told. */
class Worker {
  readonly store: ZookeeperStore;
  /** Where it is, or was last. */
  server = '';
  /** Every value of the counter it read or was shown by its watch, in that order. */
  readonly seen: number[] = [];
  /** By path, what was said of each node it tried to make. */
  readonly writes = new Map<string, Outcome>();
  increments: Record<Outcome, number> = { done: 0, 'not done': 0, unknown: 0 };
  readonly faults: string[] = [];
  /** Milliseconds of the longest time in which no write was done. */
  longestGap = 0;
  readonly marks = new Map<string, string | undefined>();
  readonly kept: EphemeralNode;
  private lastDone = performance.now();
  private running: Promise<void> | undefined;
  private stopped = false;
  private count = 0;

  constructor(
    root: string,
    readonly name: string,
    sessionTimeout: number,
  ) {
    this.store = new ZookeeperStore({
      connect: `${ensemble.address}${root}`,
      sessionTimeout,
      operationTimeout: OPERATION_TIMEOUT,
      onNotice: (_level, message, fields) => {
        if (message === 'connected') this.server = (fields as { server: string }).server;
      },
    });
    this.kept = this.store.ephemeral(`/kept-${name}`, bytes(name));
  }

  get done(): number {
    return this.count;
  }

  /** Its plain ephemeral node and its watches are there when this is resolved. */
  async start(): Promise<void> {
    const { store } = this;
    await store.sync();
    const watches = [
      store.watchData('/counter', (node) => this.seen.push(Number(text(node)))),
      ...['/changed', '/created', '/deleted'].map((path) =>
        store.watchData(path, (node) => this.marks.set(path, text(node))),
      ),
      store.watchChildren('/parent', (names) => this.marks.set('/parent', names?.join())),
    ];
    await store.create(`/plain-${this.name}`, NONE, { ephemeral: true });
    await Promise.all([...watches, this.kept].map(({ ready }) => ready));
    this.lastDone = performance.now();
    this.running = this.work();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await this.running;
  }

  private async work(): Promise<void> {
    for (let n = 0; !this.stopped; n++) {
      const path = `/made/${this.name}-${n}`;
      this.writes.set(path, await this.outcomeOf(() => this.store.create(path, NONE)));
      const outcome = await this.outcomeOf(() => this.increment());
      this.increments[outcome]++;
      await delay(20);
    }
  }

  private async increment(): Promise<void> {
    for (;;) {
      const node = (await this.store.get('/counter'))!;
      const value = Number(text(node));
      this.seen.push(value);
      try {
        await this.store.set('/counter', bytes(`${value + 1}`), node.stat.version);
        return;
      } catch (error) {
        if (!(error instanceof VersionConflictError)) throw error;
        // This client's server may be behind the others'.
        await this.store.sync();
      }
    }
  }

  private async outcomeOf(call: () => Promise<unknown>): Promise<Outcome> {
    const since = performance.now();
    try {
      await call();
      this.count++;
      this.longestGap = Math.max(this.longestGap, performance.now() - this.lastDone);
      this.lastDone = performance.now();
      return 'done';
    } catch (error) {
      if (!(error instanceof StoreUnavailableError)) {
        this.faults.push(`${error}`);
        return 'unknown';
      }
      const took = performance.now() - since;
      // A counting is a few calls, of which the last is the one that did not end.
      if (took > 2 * OPERATION_TIMEOUT + SLACK) this.faults.push(`${error.operation} ended after ${took} ms`);
      return error.outcomeUnknown ? 'unknown' : 'not done';
    }
  }
}

interface Cast {
  readonly leader: EnsembleMember;
  /** The one with most clients first. */
  readonly followers: readonly EnsembleMember[];
  readonly workers: readonly Worker[];
  /** Those whose client is at a member. */
  at(member: EnsembleMember): Worker[];
  /** Waits until these workers have done ten more writes each. */
  progress(workers?: readonly Worker[]): Promise<void>;
}

/** Has the clients work while `fault` happens and until they work again after it; members that are down are then started. */
async function disturb(
  t: ExecutionContext,
  sessionTimeout: number,
  fault: (cast: Cast) => Promise<void>,
): Promise<Cast> {
  await ensemble.untilServing(ensemble.members);
  const root = `/failures-${rounds++}`;
  const workers: Worker[] = [];
  const store = new ZookeeperStore({ connect: `${ensemble.address}${root}`, sessionTimeout, operationTimeout: 30_000 });
  try {
    await prepare(store);
    for (let i = 0; i < CLIENTS; i++) workers.push(new Worker(root, `${i}`, sessionTimeout));
    await Promise.all(workers.map((worker) => worker.start()));
    const progress = (some: readonly Worker[] = workers) => {
      const from = some.map((worker) => worker.done);
      return until('all clients get on', () => some.every((worker, i) => worker.done >= from[i] + 10), 60_000);
    };
    const at = (member: EnsembleMember) => workers.filter((worker) => worker.server === member.address);
    await progress();
    const { leader, followers } = await ensemble.roles();
    followers.sort((a, b) => at(b).length - at(a).length);
    const cast: Cast = { leader, followers, workers, at, progress };
    const sessions = workers.map((worker) => worker.store.sessionId);
    for (const worker of workers) worker.longestGap = 0;
    await fault(cast);
    await progress();
    const gaps = workers.map((worker) => Math.round(worker.longestGap));
    t.log(`longest time without a write, of each client: ${gaps.join(', ')} ms`);
    await makeMarks(store);
    await until('all watches have fired', () => workers.every((worker) => marked(worker)));
    await Promise.all(workers.map((worker) => worker.stop()));
    t.deepEqual(
      workers.map((worker) => worker.store.sessionId),
      sessions,
      'no session was lost',
    );
    await verify(t, store, workers);
    return cast;
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()));
    await Promise.all([store, ...workers.map((worker) => worker.store)].map((one) => one.close()));
    for (const member of ensemble.members) {
      if (member.ended) await member.start();
      else member.thaw();
    }
  }
}

async function prepare(store: Store): Promise<void> {
  await store.ensure('/made');
  await store.ensure('/parent');
  await store.create('/counter', bytes('0'));
  await store.create('/changed', bytes('before'));
  await store.create('/deleted', bytes('before'));
}

async function makeMarks(store: Store): Promise<void> {
  await store.set('/changed', bytes('after'));
  await store.delete('/deleted');
  await store.create('/created', bytes('after'));
  await store.create('/parent/child', NONE);
}

function marked({ marks }: Worker): boolean {
  return (
    marks.get('/changed') === 'after' &&
    marks.get('/deleted') === undefined &&
    marks.get('/created') === 'after' &&
    marks.get('/parent') === 'child'
  );
}

async function verify(t: ExecutionContext, store: Store, workers: readonly Worker[]): Promise<void> {
  await store.sync();
  const made = new Set(await store.children('/made'));
  const sums = { done: 0, 'not done': 0, unknown: 0 };
  let writes = 0;
  for (const worker of workers) {
    const { name, seen } = worker;
    t.deepEqual(worker.faults, [], `client ${name}`);
    const back = seen.findIndex((value, i) => i > 0 && value < seen[i - 1]);
    t.is(back, -1, `client ${name} saw ${seen[back - 1]}, then ${seen[back]}`);
    for (const [path, outcome] of worker.writes) {
      writes++;
      if (outcome === 'unknown') continue;
      t.is(made.has(path.slice('/made/'.length)), outcome === 'done', `${path}: ${outcome}`);
    }
    sums.done += worker.increments.done;
    sums['not done'] += worker.increments['not done'];
    sums.unknown += worker.increments.unknown;
    for (const path of [`/plain-${name}`, `/kept-${name}`]) {
      t.is((await store.exists(path))?.ephemeralOwner, worker.store.sessionId, path);
    }
    t.is(worker.kept.state, 'held');
  }
  const counter = Number(text(await store.get('/counter')));
  t.true(counter >= sums.done && counter <= sums.done + sums.unknown, `${counter} of ${JSON.stringify(sums)}`);
  t.log(`${writes} nodes; counted ${counter} with ${sums.unknown} of unknown outcome, ${sums['not done']} not done`);
}

check('a leader that is killed costs latency and nothing else', async (t) => {
  await disturb(t, 10_000, async ({ leader, followers, progress }) => {
    await leader.kill();
    await progress();
    await ensemble.untilServing(followers);
  });
});

check('a follower that is killed costs its clients a reconnect', async (t) => {
  await disturb(t, 10_000, async ({ followers: [follower], progress }) => {
    await follower.kill();
    await progress();
  });
});

check('a follower that falls silent is noticed in time to take up the session elsewhere', async (t) => {
  await disturb(t, 9000, async ({ followers: [follower], at, progress }) => {
    const there = at(follower);
    const since = performance.now();
    follower.freeze();
    await progress(there);
    t.log(`its clients got on after ${Math.round(performance.now() - since)} ms of a session timeout of 9000 ms`);
    t.true(there.every((worker) => worker.server !== follower.address));
  });
});

check('a leader that falls silent is replaced, and does no harm when it comes back', async (t) => {
  await disturb(t, 9000, async ({ leader, progress }) => {
    leader.freeze();
    await progress();
    leader.thaw();
    await ensemble.untilServing(ensemble.members);
  });
});

check('without a quorum calls end in time, and sessions outlive its absence', async (t) => {
  await disturb(t, 10_000, async ({ leader, followers, workers }) => {
    // Knows one server only, as behind one name: nothing but refusals tells it how things are.
    const single = new ZookeeperStore({ connect: leader.address, sessionTimeout: 3000 });
    try {
      await single.sync();
      const session = single.sessionId;
      await Promise.all(followers.map((follower) => follower.kill()));
      // The last server runs, and turns every client away, for much longer than a session lives.
      await delay(7000);
      for (const store of [single, workers[0].store]) {
        const error = await t.throwsAsync<StoreUnavailableError>(store.get('/x'), {
          instanceOf: StoreUnavailableError,
        });
        t.false(error.outcomeUnknown);
      }
      await Promise.all(followers.map((follower) => follower.start()));
      await ensemble.untilServing(ensemble.members);
      const since = performance.now();
      await until('the single one is back', () => single.state === 'connected');
      t.log(`connected ${Math.round(performance.now() - since)} ms after the quorum was seen`);
      t.is(single.sessionId, session);
    } finally {
      await single.close();
    }
  });
});

check('all servers stop and start again, and sessions and watches are still there', async (t) => {
  await disturb(t, 10_000, async ({ workers }) => {
    await Promise.all(ensemble.members.map((member) => member.kill()));
    await until('every client knows', () => workers.every((worker) => worker.store.state === 'disconnected'));
    await delay(2000);
    await Promise.all(ensemble.members.map((member) => member.start()));
    await ensemble.untilServing(ensemble.members);
  });
});

check('reads do not go back in time while one leader follows the other', async (t) => {
  await disturb(t, 10_000, async ({ progress }) => {
    for (let round = 0; round < 3; round++) {
      const { leader } = await ensemble.roles();
      await leader.kill();
      await progress();
      await leader.start();
      await ensemble.untilServing(ensemble.members);
      await progress();
    }
  });
});
