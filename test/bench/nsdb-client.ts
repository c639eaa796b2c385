/**
 * The clients of the benchmark of the NSDB: one process with many sessions, told by its parent what to do. The same
 * program for every server, so what a client costs is the same.
 */
import { randomUUID } from 'node:crypto';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../src/nsdb/store.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { formatIpv4, formatMac } from '../../src/packet/address.js';

export const DATA_NODES = 1000;
/** About as long as a port in JSON. */
const DATA_BYTES = 300;
const DATA = new Uint8Array(DATA_BYTES).fill(0x61);
const MULTI = 5;
/** Requests under way at once where only the end counts. */
const IN_FLIGHT = 128;

export type Operation = 'get' | 'set' | 'create' | 'multi';

export type Command =
  /** Sessions of this process with a server, named for the later commands. */
  | { readonly type: 'connect'; readonly server: string; readonly connect: string; readonly sessions: number }
  | { readonly type: 'prepare'; readonly server: string }
  /** Each of the first `sessions` makes one request after the other. */
  | {
      readonly type: 'run';
      readonly server: string;
      readonly operation: Operation;
      readonly sessions: number;
      readonly milliseconds: number;
    }
  /** Every session watches the node from now on. */
  | { readonly type: 'watch'; readonly server: string; readonly path: string }
  /** Answered when every session has been told of a node's version. */
  | { readonly type: 'await'; readonly server: string; readonly version: number }
  | { readonly type: 'set'; readonly server: string; readonly path: string }
  | {
      readonly type: 'folders';
      readonly server: string;
      readonly bridgeId: string;
      readonly hostIds: readonly string[];
    }
  /** Ports `from` up to `to` of a bridge, on its hosts in turn. */
  | {
      readonly type: 'load';
      readonly server: string;
      readonly bridgeId: string;
      readonly hostIds: readonly string[];
      readonly from: number;
      readonly to: number;
    }
  | { readonly type: 'close'; readonly server: string };

export interface Answer {
  readonly error?: string;
  /** Milliseconds that each request took. */
  readonly latencies?: Float64Array;
  /** Milliseconds on the machine's monotonic clock: of the call, or of the last event. */
  readonly at?: number;
  readonly version?: number;
}

interface Sessions {
  readonly stores: ZookeeperStore[];
  /** The version of the watched node that each session knows, and when the last of them came to know it. */
  readonly known: number[];
  lastEvent: number;
  onKnown: () => void;
}

const servers = new Map<string, Sessions>();
let names = 0;

function carryOut(command: Command): Promise<Answer> {
  if (command.type === 'connect') return connect(command);
  const sessions = servers.get(command.server)!;
  const [store] = sessions.stores;
  switch (command.type) {
    case 'prepare':
      return prepare(store);
    case 'run':
      return run(sessions.stores.slice(0, command.sessions), command.operation, command.milliseconds);
    case 'watch':
      return watch(sessions, command.path);
    case 'await':
      return awaitVersion(sessions, command.version);
    case 'set':
      return set(store, command.path);
    case 'folders':
      return folders(store, command);
    case 'load':
      return load(store, command);
    case 'close':
      servers.delete(command.server);
      return Promise.all(sessions.stores.map((each) => each.close())).then(() => ({}));
  }
}

async function connect({ server, connect: address, sessions: count }: Command & { type: 'connect' }): Promise<Answer> {
  const stores = Array.from({ length: count }, () => newStore(address));
  servers.set(server, { stores, known: stores.map(() => -1), lastEvent: 0, onKnown: () => {} });
  await Promise.all(stores.map((store) => store.exists('/')));
  return {};
}

function newStore(address: string): ZookeeperStore {
  return new ZookeeperStore({ connect: address, sessionTimeout: 30_000, operationTimeout: 60_000 });
}

async function prepare(store: Store): Promise<Answer> {
  await store.ensure('/bench/data');
  await store.ensure('/bench/created');
  await inFlight(DATA_NODES, (i) => store.create(`/bench/data/${i}`, DATA));
  return {};
}

async function run(stores: readonly Store[], operation: Operation, milliseconds: number): Promise<Answer> {
  const latencies: number[] = [];
  const created: string[] = [];
  const end = performance.now() + milliseconds;
  await Promise.all(
    stores.map(async (store) => {
      for (;;) {
        const begin = performance.now();
        if (begin >= end) return;
        await request(store, operation, created);
        latencies.push(performance.now() - begin);
      }
    }),
  );
  // The tree is as large for the next round as it was for this one.
  await inFlight(created.length, (i) => stores[i % stores.length].delete(created[i]));
  return { latencies: Float64Array.from(latencies) };
}

async function request(store: Store, operation: Operation, created: string[]): Promise<void> {
  switch (operation) {
    case 'get':
      await store.get(dataPath());
      break;
    case 'set':
      await store.set(dataPath(), DATA);
      break;
    case 'create': {
      const path = `/bench/created/${process.pid}-${names++}`;
      await store.create(path, DATA);
      created.push(path);
      break;
    }
    case 'multi': {
      const first = Math.floor(Math.random() * (DATA_NODES - MULTI));
      const paths = Array.from({ length: MULTI }, (_, i) => `/bench/data/${first + i}`);
      await store.multi(paths.map((path) => ({ type: 'set', path, data: DATA })));
      break;
    }
  }
}

function dataPath(): string {
  return `/bench/data/${Math.floor(Math.random() * DATA_NODES)}`;
}

async function watch(sessions: Sessions, path: string): Promise<Answer> {
  const watches = sessions.stores.map((store, i) =>
    store.watchData(path, (node) => {
      sessions.known[i] = node!.stat.version;
      sessions.lastEvent = now();
      sessions.onKnown();
    }),
  );
  await Promise.all(watches.map(({ ready }) => ready));
  return {};
}

async function awaitVersion(sessions: Sessions, version: number): Promise<Answer> {
  await new Promise<void>((resolve) => {
    let left = sessions.known.length;
    sessions.onKnown = () => {
      // Not every event looks at every session: that would cost more than the events.
      if (--left <= 0 && sessions.known.every((known) => known >= version)) resolve();
    };
    left = sessions.known.filter((known) => known < version).length;
    if (left === 0) resolve();
  });
  sessions.onKnown = () => {};
  return { at: sessions.lastEvent };
}

async function set(store: Store, path: string): Promise<Answer> {
  const at = now();
  const { version } = await store.set(path, DATA);
  return { at, version };
}

async function folders(store: Store, { bridgeId, hostIds }: Command & { type: 'folders' }): Promise<Answer> {
  const repository = new TopologyRepository(store);
  await repository.initialize();
  await repository.create('bridge', { id: bridgeId, name: 'bench' });
  await inFlight(hostIds.length, (i) => repository.create('host', { id: hostIds[i], name: `host-${i}` }));
  return {};
}

async function load(store: Store, { bridgeId, hostIds, from, to }: Command & { type: 'load' }): Promise<Answer> {
  const repository = new TopologyRepository(store);
  await inFlight(to - from, (i) => {
    const number = from + i;
    return repository.create('port', {
      id: randomUUID(),
      bridgeId,
      mac: formatMac(0x0200_0000_0000 + number),
      addresses: [formatIpv4(0x0a00_0000 + number)],
      binding: { hostId: hostIds[number % hostIds.length], interfaceName: `veth${number}`, tunnelKey: number + 1 },
      owner: 'cni',
    });
  });
  return {};
}

/** Makes `count` requests, so many of them at once that only their rate counts. */
async function inFlight(count: number, make: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await make(next++);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}

/** CLOCK_MONOTONIC: the same for every process of the machine. */
function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

process.on('message', (command: Command) => {
  carryOut(command).then(
    (answer) => process.send!(answer),
    (error: Error) => process.send!({ error: error.stack ?? error.message }),
  );
});
process.on('disconnect', () => process.exit(0));
