import { randomUUID } from 'node:crypto';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { pino } from 'pino';
import { UnauthenticatedError } from '../../../src/api/authentication/errors.js';
import { ApiError } from '../../../src/api/client/client.js';
import { FEED_LIMITS, type FeedLimits } from '../../../src/api/feeds/feeds.js';
import { ApiServer } from '../../../src/api/server.js';
import type { Caller } from '../../../src/api/tenancy/caller.js';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import type { Kind, TopologyTypes } from '../../../src/topology/types.js';
import { until } from '../../compliance/store.js';
import { Dice } from '../../dice.js';
import { CutProxy } from '../../nsdb/cut-proxy.js';
import { WatchReader } from './watch-reader.js';

interface Context {
  nsdb: EmbeddedServer;
  dataDir: string;
  repository: TopologyRepository;
  closers: (() => Promise<unknown>)[];
}

const test = anyTest as TestFn<Context>;
const log = pino({ level: 'silent' });

/** By token. */
const CALLERS: Readonly<Record<string, Caller>> = {
  admin: { name: 'admin', role: 'admin', tenantId: undefined },
  red: { name: 'red', role: 'tenant-reader', tenantId: 'red' },
  blue: { name: 'blue', role: 'tenant-admin', tenantId: 'blue' },
};

test.beforeEach(async (t) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-watch-'));
  const nsdb = await startNsdb(dataDir, 0);
  const store = new ZookeeperStore({ sessionTimeout: 10_000, connect: nsdb.address });
  const repository = new TopologyRepository(store);
  const closers = [() => rm(dataDir, { recursive: true }), () => nsdb.close(), () => store.close()];
  t.context = { nsdb, dataDir, repository, closers };
  await repository.initialize();
});
test.afterEach.always(async (t) => {
  for (const close of t.context.closers.reverse()) await close();
});

function startNsdb(dataDir: string, port: number): Promise<EmbeddedServer> {
  return EmbeddedServer.start({ listen: { host: '127.0.0.1', port }, dataDir, minSessionTimeout: 100, fsync: false });
}

interface Served {
  readonly address: string;
  readonly store: ZookeeperStore;
  /** Between the API server and the NSDB. */
  readonly proxy: CutProxy;
  readonly revoked: Set<string>;
  readonly server: ApiServer;
}

/** An API server with a session of its own. */
async function serve(
  t: ExecutionContext<Context>,
  limits: Partial<FeedLimits> = {},
  sessionTimeout = 10_000,
): Promise<Served> {
  const proxy = await CutProxy.to(t.context.nsdb.address);
  const store = new ZookeeperStore({ sessionTimeout, connect: proxy.address });
  const revoked = new Set<string>();
  const server = await ApiServer.listen({
    listen: { host: '127.0.0.1', port: 0 },
    repository: new TopologyRepository(store),
    log,
    authenticate: async ({ headers }) => {
      const token = headers.authorization?.replace('Bearer ', '') ?? '';
      if (revoked.has(token) || CALLERS[token] === undefined) {
        throw new UnauthenticatedError('expected a token');
      }
      return CALLERS[token];
    },
    feedLimits: { ...FEED_LIMITS, ...limits },
  });
  t.context.closers.push(
    () => proxy.close(),
    () => store.close(),
    () => server.close(),
  );
  return { address: `http://127.0.0.1:${server.port}`, store, proxy, revoked, server };
}

async function open(t: ExecutionContext<Context>, { address }: Served, reader: WatchReader): Promise<WatchReader> {
  await reader.start(address);
  t.context.closers.push(() => reader.stop());
  return reader;
}

/** JSON of the objects that are in the store, sorted. */
async function stored(
  repository: TopologyRepository,
  kinds: readonly Kind[],
  isWanted: (object: TopologyTypes[Kind]) => boolean | Promise<boolean> = () => true,
): Promise<string[]> {
  const found: string[] = [];
  for (const kind of kinds) {
    for (const id of await repository.list(kind)) {
      const one = await repository.get(kind, id);
      if (one !== undefined && (await isWanted(one.object))) found.push(JSON.stringify(one.object));
    }
  }
  return found.sort();
}

function bridge(name: string, tenantId?: string): { id: string; name: string; tenantId?: string } {
  return { id: randomUUID(), name, ...(tenantId !== undefined && { tenantId }) };
}

test.serial('a stream tells what is there, says so, and then tells every change', async (t) => {
  const { repository } = t.context;
  const api = await serve(t);
  const first = await repository.create('bridge', bridge('first'));
  const reader = await open(t, api, new WatchReader('/v1/bridges'));
  await until('all is told', () => reader.counts.current === 1);
  t.deepEqual(reader.contents, [JSON.stringify(first)]);
  t.is(reader.counts.reset, 1, 'what was told before is to be forgotten');
  const second = await repository.create('bridge', bridge('second'));
  await until('it is told', () => reader.objects.size === 2);
  await repository.modify('bridge', first.id, (one) => ({ ...one, name: 'other' }));
  await until('it is told', () => reader.contents.some((text) => text.includes('"other"')));
  await repository.delete('bridge', second.id);
  await until('it is told', () => reader.objects.size === 1);
  await until('the version is told', () => reader.versions.at(-1)!.objects.size === 1);
  t.deepEqual(reader.counts, { put: 3, delete: 1, current: 1, reset: 1 });
});

test.serial('whoever comes back is told what changed meanwhile, and nothing else', async (t) => {
  const { repository } = t.context;
  const api = await serve(t);
  const [gone, changed] = [
    await repository.create('bridge', bridge('gone')),
    await repository.create('bridge', bridge('changed')),
  ];
  await repository.create('bridge', bridge('same'));
  const reader = await open(t, api, new WatchReader('/v1/bridges'));
  await until('all is told', () => reader.counts.current === 1);
  await reader.stop();
  await repository.delete('bridge', gone.id);
  await repository.modify('bridge', changed.id, (one) => ({ ...one, name: 'other' }));
  await repository.create('bridge', bridge('made'));
  await reader.start(api.address);
  await until('it is told', () => reader.counts.put === 5 && reader.counts.delete === 1);
  t.deepEqual(reader.contents, await stored(repository, ['bridge']));
  t.is(reader.counts.reset, 1);
});

test.serial(
  'one object, those below another, several kinds and those with some value are streams of their own',
  async (t) => {
    const { repository } = t.context;
    const api = await serve(t);
    const [one, other] = [
      await repository.create('bridge', bridge('one')),
      await repository.create('bridge', bridge('other')),
    ];
    for (const { id } of [one, other]) await repository.create('port', { id: randomUUID(), bridgeId: id });
    const down = await repository.create('port', { id: randomUUID(), bridgeId: one.id, adminStateUp: false });
    const readers = {
      object: new WatchReader(`/v1/bridges/${one.id}`),
      below: new WatchReader(`/v1/bridges/${one.id}/ports`),
      kinds: new WatchReader('/v1/watch', { kinds: 'bridge,port' }),
      filtered: new WatchReader('/v1/ports', { adminStateUp: 'false' }),
      byParameter: new WatchReader('/v1/ports', { watch: 'true', bridgeId: other.id }),
    };
    for (const reader of Object.values(readers)) await open(t, api, reader);
    const agree = async () => {
      const expected = {
        object: await stored(repository, ['bridge'], ({ id }) => id === one.id),
        below: await stored(repository, ['port'], (port) => 'bridgeId' in port && port.bridgeId === one.id),
        kinds: await stored(repository, ['bridge', 'port']),
        filtered: await stored(repository, ['port'], (port) => 'adminStateUp' in port && !port.adminStateUp),
        byParameter: await stored(repository, ['port'], (port) => 'bridgeId' in port && port.bridgeId === other.id),
      };
      return Object.entries(readers).every(
        ([name, { contents }]) => JSON.stringify(contents) === JSON.stringify(expected[name as keyof typeof readers]),
      );
    };
    await until('all is told', agree);
    await repository.modify('port', down.id, (port) => ({ ...port, adminStateUp: true }));
    await until('what is not wanted any more is told as gone', agree);
    t.is(readers.filtered.counts.delete, 1);
    await repository.delete('bridge', one.id);
    await until('what goes with it is told', agree);
    t.is(readers.object.objects.size, 0);
  },
);

test.serial('a tenant is told of what is its own only, also after coming back', async (t) => {
  const { repository } = t.context;
  const api = await serve(t);
  const bridges: Record<string, string> = {};
  const make = async (tenantId: string) => {
    const { id } = await repository.create('bridge', bridge(`of-${tenantId}`, tenantId));
    bridges[tenantId] = id;
    await repository.create('port', { id: randomUUID(), bridgeId: id });
  };
  await make('red');
  await make('blue');
  await repository.create('bridge', bridge('of-nobody'));
  const kinds = 'bridge,port';
  const readers = {
    red: await open(t, api, new WatchReader('/v1/watch', { kinds }, 'red')),
    blue: await open(t, api, new WatchReader('/v1/watch', { kinds }, 'blue')),
    redForAdmin: await open(t, api, new WatchReader('/v1/watch', { kinds, tenantId: 'red' })),
  };
  const of = (tenant: string) =>
    stored(
      repository,
      ['bridge', 'port'],
      (one) => one.id === bridges[tenant] || ('bridgeId' in one && one.bridgeId === bridges[tenant]),
    );
  const agree = async () => {
    const [red, blue] = [await of('red'), await of('blue')].map((texts) => JSON.stringify(texts));
    return (
      JSON.stringify(readers.red.contents) === red &&
      JSON.stringify(readers.redForAdmin.contents) === red &&
      JSON.stringify(readers.blue.contents) === blue
    );
  };
  await until('all is told', agree);
  await repository.create('port', { id: randomUUID(), bridgeId: bridges.red });
  await until('it is told', agree);
  await readers.blue.stop();
  await repository.delete('bridge', bridges.red);
  await repository.create('port', { id: randomUUID(), bridgeId: bridges.blue });
  await readers.blue.start(api.address);
  await until('it is told', agree);
  await readers.blue.stop();
  await repository.delete('bridge', bridges.blue);
  await readers.blue.start(api.address);
  await until('all is gone', () => readers.blue.objects.size === 0);
  t.deepEqual(readers.blue.counts, { put: 3, delete: 3, current: 1, reset: 1 }, 'nothing of others was told');
  const absent = await t.throwsAsync(new WatchReader(`/v1/bridges/${randomUUID()}`, {}, 'blue').start(api.address), {
    instanceOf: ApiError,
  });
  t.is(absent?.status, 404);
  const { id } = await repository.create('bridge', bridge('hidden', 'red'));
  for (const path of [`/v1/bridges/${id}`, `/v1/bridges/${id}/ports`]) {
    const hidden = await t.throwsAsync(new WatchReader(path, {}, 'blue').start(api.address), { instanceOf: ApiError });
    t.is(hidden?.status, 404, path);
  }
});

test.serial('what an admin gives to another tenant is gone for the former one, who may be away', async (t) => {
  const { repository } = t.context;
  const api = await serve(t);
  const red = await repository.create('bridge', bridge('of-red', 'red'));
  const blue = await repository.create('bridge', bridge('of-blue', 'blue'));
  const moved: string[] = [];
  for (let i = 0; i < 2; i++) {
    moved.push((await repository.create('port', { id: randomUUID(), bridgeId: red.id })).id);
  }
  const readers = [new WatchReader('/v1/ports', {}, 'red'), new WatchReader('/v1/ports', {}, 'blue')];
  for (const reader of readers) await open(t, api, reader);
  await until('all is told', () => readers.every(({ counts }) => counts.current === 1));
  const give = (id: string) => repository.modify('port', id, (port) => ({ ...port, bridgeId: blue.id }));
  await give(moved[0]);
  await until('it is told to both', () => readers.every(({ objects }) => objects.size === 1));
  await readers[0].stop();
  await give(moved[1]);
  await readers[0].start(api.address);
  await until('it is told to both', () => readers[0].objects.size === 0 && readers[1].objects.size === 2);
  t.deepEqual(
    readers.map(({ counts }) => counts.reset),
    [1, 1],
  );
});

test.serial('after the NSDB was put back to a backup everything is told anew', async (t) => {
  const { nsdb, dataDir, repository } = t.context;
  const api = await serve(t, {}, 300);
  const port = Number(nsdb.address.split(':')[1]);
  const kept = await repository.create('bridge', bridge('kept'));
  await nsdb.close();
  const backup = `${dataDir}-backup`;
  await cp(dataDir, backup, { recursive: true });
  t.context.closers.unshift(() => rm(backup, { recursive: true }));
  const before = await startNsdb(dataDir, port);
  await until('the server is back', () => api.store.state === 'connected');
  for (let i = 0; i < 5; i++) await repository.modify('bridge', kept.id, (one) => ({ ...one, name: `later-${i}` }));
  const lost = await repository.create('bridge', bridge('lost'));
  const reader = await open(t, api, new WatchReader('/v1/bridges'));
  await until('all is told', () => reader.objects.size === 2 && reader.counts.current === 1);
  await before.close();
  const after = await startNsdb(backup, port);
  t.context.closers.push(() => after.close());
  await until('it is told anew', () => reader.counts.current === 2, 60_000);
  t.deepEqual(reader.contents, [JSON.stringify(kept)]);
  t.false(reader.objects.has(`bridge ${lost.id}`));
});

test.serial('a stream that is asked for by HEAD ends, and other methods are refused', async (t) => {
  const api = await serve(t);
  const headers = { authorization: 'Bearer admin' };
  const head = await fetch(`${api.address}/v1/watch?kinds=bridge`, { method: 'HEAD', headers });
  t.is(head.status, 200);
  t.is(head.headers.get('content-type'), 'text/event-stream; charset=utf-8');
  t.is(await head.text(), '');
  const post = await fetch(`${api.address}/v1/watch`, { method: 'POST', headers });
  t.is(post.status, 405);
  t.is(api.store.metrics.tracked, 0);
});

test.serial('what cannot be watched is refused with the name of what is at fault', async (t) => {
  const api = await serve(t, { streamsPerCaller: 1 });
  const refusal = async (reader: WatchReader) => {
    const error = await t.throwsAsync(reader.start(api.address), { instanceOf: ApiError });
    return [error?.status, error?.field];
  };
  t.deepEqual(await refusal(new WatchReader('/v1/watch', { kinds: 'bridge,brigde' })), [400, 'kinds']);
  t.deepEqual(await refusal(new WatchReader('/v1/bridges', { from: '-1' })), [400, 'from']);
  t.deepEqual(await refusal(new WatchReader('/v1/bridges', { watch: 'yes' })), [400, 'watch']);
  t.deepEqual(await refusal(new WatchReader('/v1/bridges', { limit: '5' })), [400, 'limit']);
  t.deepEqual(await refusal(new WatchReader('/v1/bridges', { colour: 'red' })), [400, 'colour']);
  const reader = await open(t, api, new WatchReader('/v1/bridges'));
  t.deepEqual(await refusal(new WatchReader('/v1/bridges')), [429, undefined]);
  const oneMore = await fetch(`${api.address}/v1/watch?kinds=bridge`, { headers: { authorization: 'Bearer admin' } });
  t.is(oneMore.headers.get('retry-after'), '10');
  await reader.stop();
  await until('the place is free', async () => {
    const next = new WatchReader('/v1/bridges');
    try {
      await next.start(api.address);
    } catch {
      return false;
    }
    await next.stop();
    return true;
  });
});

test.serial('versions from nowhere lead to a new start', async (t) => {
  const { repository } = t.context;
  const api = await serve(t);
  await repository.create('bridge', bridge('one'));
  for (const from of ['0', '1', '9007199254740991']) {
    const reader = await open(t, api, new WatchReader('/v1/bridges', { from }));
    await until('all is told', () => reader.counts.current === 1);
    t.is(reader.counts.reset, 1, from);
    t.is(reader.objects.size, 1);
  }
});

test.serial('when more has gone than is remembered, everything is told anew', async (t) => {
  const { repository } = t.context;
  const api = await serve(t, { departures: 3 });
  const made = [];
  for (let i = 0; i < 6; i++) made.push(await repository.create('bridge', bridge(`${i}`)));
  const reader = await open(t, api, new WatchReader('/v1/bridges'));
  const keeper = await open(t, api, new WatchReader('/v1/bridges'));
  await until('all is told', () => reader.counts.current === 1 && keeper.counts.current === 1);
  await reader.stop();
  for (const { id } of made.slice(0, 2)) await repository.delete('bridge', id);
  await until('it is told', () => keeper.objects.size === 4);
  await reader.start(api.address);
  await until('it is told', () => reader.objects.size === 4);
  t.is(reader.counts.reset, 1);
  await reader.stop();
  for (const { id } of made.slice(2)) await repository.delete('bridge', id);
  await reader.start(api.address);
  await until('it is told', () => reader.objects.size === 0 && reader.counts.current === 2);
  t.is(reader.counts.reset, 2);
});

test.serial('five hundred streams cost one watch in the NSDB, and nothing is left after the last', async (t) => {
  const { repository } = t.context;
  const api = await serve(t, { linger: 50 });
  const { id } = await repository.create('bridge', bridge('one'));
  const readers = await Promise.all(Array.from({ length: 500 }, () => open(t, api, new WatchReader('/v1/bridges'))));
  await until('all is told', () => readers.every(({ counts }) => counts.current === 1), 60_000);
  t.is(api.store.metrics.tracked, 1);
  const before = api.store.metrics;
  await repository.modify('bridge', id, (one) => ({ ...one, name: 'other' }));
  await until('it is told', () => readers.every(({ counts }) => counts.put === 2), 60_000);
  t.is(api.store.metrics.watchReads - before.watchReads, 1);
  for (const reader of readers) await reader.stop();
  await until('the feed is closed', () => api.store.metrics.tracked === 0);
});

test.serial('a client that goes before its stream begins leaves nothing', async (t) => {
  const api = await serve(t, { linger: 50 });
  api.proxy.stall();
  const gone = new AbortController();
  const asked = fetch(`${api.address}/v1/bridges?watch=true`, {
    headers: { authorization: 'Bearer admin' },
    signal: gone.signal,
  });
  await until('the feed is wanted', () => api.store.metrics.tracked === 1);
  gone.abort();
  await t.throwsAsync(asked, { any: true });
  await until('the feed is closed', () => api.store.metrics.tracked === 0);
  api.proxy.drop();
  api.proxy.pass();
});

test.serial('a client that reads slowly is told the latest only, and one that reads nothing is left', async (t) => {
  const { repository } = t.context;
  const ids: string[] = [];
  for (let i = 0; i < 4; i++) ids.push((await repository.create('chain', { id: randomUUID(), name: 'c' })).id);
  const impatient = await serve(t, { stall: 300, streamsPerCaller: 1 });
  const [slow, deaf] = [new WatchReader('/v1/chains'), new WatchReader('/v1/chains')];
  await open(t, await serve(t), slow);
  await open(t, impatient, deaf);
  for (const reader of [slow, deaf]) {
    await until('all is told', () => reader.counts.current === 1);
    reader.pause();
  }
  // More than the buffers of the sockets take.
  const rounds = 100;
  for (let round = 1; round <= rounds; round++) {
    const metadata = { round: `${round}`, text: 'n'.repeat(100_000) };
    await Promise.all(ids.map((id) => repository.modify('chain', id, (chain) => ({ ...chain, metadata }))));
  }
  slow.resume();
  await until('the latest is told', () => slow.contents.every((text) => text.includes(`"round":"${rounds}"`)));
  t.is(slow.objects.size, ids.length);
  t.is(slow.counts.reset, 1);
  t.true(slow.counts.put < ids.length * rounds, `${slow.counts.put} told`);
  const { streams } = impatient.server;
  await until('the other is closed', () => streams.stalled === 1 && streams.open === 0);
  t.true(streams.events >= ids.length);
  await until('the place of the other is free', () =>
    open(t, impatient, new WatchReader('/v1/chains')).then(
      () => true,
      () => false,
    ),
  );
});

test.serial('streams end with the server, and with the right to see them', async (t) => {
  const { repository } = t.context;
  const api = await serve(t, { heartbeat: 50 });
  await repository.create('bridge', bridge('one', 'red'));
  const [red, admin] = [
    await open(t, api, new WatchReader('/v1/bridges', {}, 'red')),
    await open(t, api, new WatchReader('/v1/bridges')),
  ];
  await until('all is told', () => red.counts.current === 1 && admin.counts.current === 1);
  const { version } = admin.versions.at(-1)!;
  await repository.create('router', { id: randomUUID(), name: 'elsewhere' });
  await until('the version keeps up with all there is', () => admin.versions.at(-1)!.version > version);
  api.revoked.add('red');
  await red.ended;
  t.is(admin.objects.size, 1);
  await api.server.close();
  await admin.ended;
  t.pass();
});

for (const seed of [1, 2]) {
  test.serial(
    `whoever applies what is told has what the store holds, over cuts, losses and two servers, seed ${seed}`,
    async (t) => {
      const { repository } = t.context;
      const dice = new Dice(seed);
      const limits = { departures: 5, heartbeat: 100 };
      const apis = [await serve(t, limits, 500), await serve(t, limits, 500)];
      const kinds = ['bridge', 'port'] as const;
      const admin = new WatchReader('/v1/watch', { kinds: kinds.join() });
      const tenant = new WatchReader('/v1/watch', { kinds: kinds.join() }, 'red');
      const filtered = new WatchReader('/v1/ports', { adminStateUp: 'true' });
      const readers = [admin, tenant, filtered];
      // Somebody is there all along, so that the feeds have a past.
      for (const api of apis) await open(t, api, new WatchReader('/v1/watch', { kinds: kinds.join() }));
      for (const reader of readers) await open(t, dice.pick(apis)!, reader);

      /** Each change, in order; a deletion tells the last change before it. */
      const log: { readonly key: string; readonly modified: number; readonly isGone: boolean }[] = [];
      const [bridges, ports]: string[][] = [[], []];
      const wasRed = new Set<string>();
      const note = async (kind: Kind, id: string) => {
        const { modified } = (await repository.get(kind, id))!;
        log.push({ key: `${kind} ${id}`, modified, isGone: false });
      };
      const forget = (kind: Kind, id: string) =>
        log.push({ key: `${kind} ${id}`, modified: log.at(-1)?.modified ?? 0, isGone: true });
      const change = async () => {
        const roll = dice.below(100);
        const [bridgeId, portId] = [dice.pick(bridges), dice.pick(ports)];
        if (roll < 12 || bridgeId === undefined) {
          const tenantId = dice.pick(['red', 'blue', undefined]);
          const { id } = await repository.create('bridge', bridge(`${roll}`, tenantId));
          bridges.push(id);
          if (tenantId === 'red') wasRed.add(id);
          await note('bridge', id);
        } else if (roll < 50 || portId === undefined) {
          const { id } = await repository.create('port', { id: randomUUID(), bridgeId, adminStateUp: dice.chance(60) });
          ports.push(id);
          if (wasRed.has(bridgeId)) wasRed.add(id);
          await note('port', id);
        } else if (roll < 75) {
          const move = dice.chance(30) ? { bridgeId } : {};
          if (move.bridgeId !== undefined && wasRed.has(bridgeId)) wasRed.add(portId);
          await repository.modify('port', portId, (port) => ({ ...port, ...move, adminStateUp: !port.adminStateUp }));
          await note('port', portId);
        } else if (roll < 96) {
          await repository.delete('port', portId);
          ports.splice(ports.indexOf(portId), 1);
          forget('port', portId);
        } else {
          await repository.delete('bridge', bridgeId);
          bridges.splice(bridges.indexOf(bridgeId), 1);
          forget('bridge', bridgeId);
          const left = new Set(await repository.list('port'));
          for (const id of ports.filter((id) => !left.has(id))) {
            ports.splice(ports.indexOf(id), 1);
            forget('port', id);
          }
        }
      };
      const disturb = async () => {
        const roll = dice.below(100);
        const api = dice.pick(apis)!;
        if (roll < 70) {
          const reader = dice.pick(readers)!;
          await reader.stop();
          for (let i = dice.below(12); i > 0; i--) await change();
          await reader.start(dice.pick(apis)!.address);
        } else if (roll < 90) {
          api.proxy.drop();
        } else {
          api.proxy.cut();
          await delay(dice.pick([50, 900]));
          api.proxy.pass();
          await until('the server is back', () => api.store.state === 'connected');
        }
      };
      for (let step = 0; step < 180; step++) {
        await change();
        if (dice.chance(12)) await disturb();
      }

      const isRed = async (one: TopologyTypes[Kind]): Promise<boolean> => {
        const of =
          'bridgeId' in one && one.bridgeId !== undefined
            ? (await repository.get('bridge', one.bridgeId))?.object
            : one;
        return of !== undefined && 'tenantId' in of && of.tenantId === 'red';
      };
      const expected = [
        await stored(repository, kinds),
        await stored(repository, kinds, isRed),
        await stored(repository, ['port'], (port) => 'adminStateUp' in port && port.adminStateUp),
      ];
      await until('all is told', () =>
        readers.every(({ contents }, i) => JSON.stringify(contents) === JSON.stringify(expected[i])),
      ).catch(() => undefined);
      for (const [i, reader] of readers.entries()) {
        t.deepEqual(reader.contents, expected[i], reader.path);
        t.deepEqual(reader.faults, []);
      }
      const ofOthers = tenant.history.filter(
        (one) => !wasRed.has('bridgeId' in one && one.bridgeId !== undefined ? one.bridgeId : one.id),
      );
      const goneOfOthers = tenant.goneUnknown.filter((id) => !wasRed.has(id));
      t.deepEqual([ofOthers, goneOfOthers], [[], []], 'a tenant never hears of what others have');
      t.true(admin.versions.length > 20);
      for (const { version, objects } of admin.versions) {
        const then = new Map<string, number | undefined>();
        for (const { key, modified, isGone } of log) if (modified <= version && !isGone) then.set(key, modified);
        const later = new Set(log.filter(({ modified, isGone }) => isGone || modified > version).map(({ key }) => key));
        for (const [key, modified] of then) {
          if (!later.has(key)) t.is(objects.get(key), modified, `${key} at ${version}`);
        }
      }
      t.log(JSON.stringify(readers.map(({ counts }) => counts)), `${admin.versions.length} versions`);
    },
  );
}
