import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { FlowStateExchange } from '../../../src/agent/flow-state/flow-state-exchange.js';
import type { ConnectionListener, TrackedConnection } from '../../../src/datapath/datapath.js';
import { DatapathError } from '../../../src/datapath/errors.js';
import type { MemoryDatapath } from '../../../src/datapath/memory/datapath.js';
import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { until } from '../until.js';

const GROUP = randomUUID();

interface Host {
  readonly id: string;
  readonly zone: number;
  readonly datapath: MemoryDatapath;
  readonly exchange: FlowStateExchange;
  readonly errors: string[];
  /** Of the exchange. */
  listener: ConnectionListener | undefined;
}

/** Two hosts with a port each in a stateful group, of which the first has the lower id, or the higher one. */
function start(
  t: ExecutionContext,
  isFirstLower = true,
): {
  hosts: [Host, Host];
  cut: (isCut: boolean) => void;
  deliver: (to: number, from: number, bytes: Uint8Array) => void;
} {
  const network = new MemoryNetwork({ now: () => performance.now(), automatic: true });
  const ids = [randomUUID(), randomUUID()].sort();
  if (!isFirstLower) ids.reverse();
  const receivers = new Map<number, (from: number, bytes: Uint8Array) => void>();
  let isCut = false;
  const makeHost = (index: number): Host => {
    const datapath = network.node(index).datapath('dp');
    const zone = 10 + index;
    const errors: string[] = [];
    const watch = datapath.watchConnections.bind(datapath);
    datapath.watchConnections = (listener) => {
      host.listener = listener;
      return watch(listener);
    };
    const exchange = new FlowStateExchange({
      hostId: ids[index],
      datapath,
      groups: { ids: () => [GROUP], zonesOf: () => [zone], hostsOf: () => new Set([ids[1 - index]]) },
      path: () => ({ output: 1, src: index, dst: 1 - index }),
      open: (receive) => {
        receivers.set(index, receive);
        return {
          send: (from, to, bytes) => {
            if (!isCut) setImmediate(() => receivers.get(to)?.(from, bytes));
          },
          retain: () => {},
          close: () => receivers.delete(index),
        };
      },
      clock: () => performance.now(),
      log: pino({ base: null, level: 'error' }, { write: (line) => errors.push(line) }),
    });
    t.teardown(() => exchange.close());
    const host: Host = { id: ids[index], zone, datapath, exchange, errors, listener: undefined };
    exchange.groupsChanged();
    return host;
  };
  return {
    hosts: [makeHost(0), makeHost(1)],
    cut: (on) => {
      isCut = on;
    },
    deliver: (to, from, bytes) => receivers.get(to)!(from, bytes),
  };
}

function settled(hosts: readonly Host[]): Promise<void> {
  return until('the hosts have told each other', () =>
    hosts.every(({ exchange }) => exchange.peerCount === 1 && exchange.isSettled),
  );
}

/** As if its first packet had come in here. */
async function begin({ datapath, zone }: Host, srcPort: number, more: Partial<TrackedConnection> = {}): Promise<void> {
  const connection = {
    zone,
    family: 4,
    protocol: IpProtocol.UDP,
    original: { src: [1], dst: [2], srcPort, dstPort: 53 },
    reply: { src: [2], dst: [1], srcPort: 53, dstPort: srcPort },
    answered: false,
    mark: 0,
    timeoutMs: 60_000,
    ...more,
  } as const;
  const [error] = await datapath.changeConnections([{ type: 'create', connection }]);
  if (error !== undefined) throw error;
}

async function tuples({ datapath, zone }: Host) {
  const connections = await datapath.connections(zone);
  const all = connections.map(({ original, reply }) => ({ original, reply }));
  return all.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
}

test('what the datapath did not tell in time is told all the same', async (t) => {
  const { hosts } = start(t);
  await settled(hosts);
  const [first, second] = hosts;
  const { listener } = first;
  const { events } = listener!;
  listener!.events = () => {};
  for (let port = 1; port <= 100; port++) await begin(first, port);
  await settled(hosts);
  t.is((await tuples(second)).length, 0);
  listener!.events = events;
  const { sessions } = first.exchange.counters;
  for (let i = 0; i < 3; i++) listener!.lost();
  t.false(first.exchange.isSettled);
  first.exchange.refreshPaths();
  await settled(hosts);
  t.is((await tuples(second)).length, 100);
  t.is(first.exchange.counters.gaps, 3);
  t.is(first.exchange.counters.sessions, sessions + 1, 'all is told once');
});

test('what the datapath refuses is counted and told, and the rest takes effect', async (t) => {
  const { hosts } = start(t);
  await settled(hosts);
  const [first, second] = hosts;
  const change = second.datapath.changeConnections.bind(second.datapath);
  second.datapath.changeConnections = async (operations, signal) => {
    const errors = await change(operations, signal);
    return operations.map((operation, i) => {
      const isRefused = operation.type === 'create' && operation.connection.original.srcPort % 2 === 1;
      return isRefused ? new DatapathError('too-large', 'the table is full') : errors[i];
    });
  };
  for (let port = 1; port <= 10; port++) await begin(first, port);
  await settled(hosts);
  t.is(second.exchange.counters.refused, 5);
  t.is(second.exchange.counters.installed, 5);
  t.is(second.errors.length, 1);
  t.regex(second.errors[0], /the table is full/);
});

for (const isFirstLower of [true, false]) {
  const which = isFirstLower ? 'lower' : 'higher';
  test(`an answer that came before the news: both hosts agree on who began (the first has the ${which} id)`, async (t) => {
    const { hosts, cut } = start(t, isFirstLower);
    await settled(hosts);
    const [first, second] = hosts;
    const turned = {
      original: { src: [2], dst: [1], srcPort: 53, dstPort: 7 },
      reply: { src: [1], dst: [2], srcPort: 7, dstPort: 53 },
    };
    const translated = {
      original: { src: [1], dst: [9], srcPort: 8, dstPort: 53 },
      reply: { src: [2], dst: [1], srcPort: 53, dstPort: 8 },
    };
    const answer = {
      original: { src: [2], dst: [1], srcPort: 53, dstPort: 8 },
      reply: { src: [1], dst: [2], srcPort: 8, dstPort: 53 },
    };
    cut(true);
    await begin(first, 7);
    await begin(second, 7, turned);
    await begin(first, 8, translated);
    await begin(second, 8, answer);
    cut(false);
    await settled(hosts);
    await settled(hosts);
    const known = await tuples(first);
    t.is(known.length, 2);
    t.deepEqual(await tuples(second), known);
    t.true(
      known.some(({ original }) => original.dst[0] === 9),
      'the one that is translated counts',
    );
    const { installed } = first.exchange.counters;
    await new Promise((resolve) => setTimeout(resolve, 300));
    await settled(hosts);
    t.is(first.exchange.counters.installed, installed, 'and they leave it at that');
  });
}

test('messages of others, and those that make no sense, are counted and have no effect', async (t) => {
  const { hosts, deliver } = start(t);
  await settled(hosts);
  const [first] = hosts;
  deliver(0, 1, new Uint8Array(3));
  deliver(0, 1, new Uint8Array(200));
  const stranger = new Uint8Array(32);
  stranger[0] = 1;
  deliver(0, 1, stranger);
  t.is(first.exchange.counters.rejected, 3);
  t.deepEqual(first.errors, []);
});
