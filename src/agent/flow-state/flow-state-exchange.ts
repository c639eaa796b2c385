import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Logger } from 'pino';
import { sameWords, translationsOf } from '../../datapath/connection.js';
import type {
  ConnectionEvent,
  ConnectionOperation,
  ConnectionTuple,
  Datapath,
  TrackedConnection,
} from '../../datapath/datapath.js';
import { DatapathError } from '../../datapath/errors.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import { TRANSLATED_MARK } from '../../simulation/connection.js';
import type { TunnelPath } from '../../simulation/fact.js';
import { decodeMessage, FlowStateFormatError, type StateEntry, type StateSection } from './message.js';
import { type GroupEntry, LinkCounters, PeerLink } from './peer-link.js';
import type { StatefulGroups } from './stateful-groups.js';
import type { OpenStateTransport, StateTransport } from './transport.js';

/** The bit of `ctMark` of connections that this host was told of. */
export const COPY_MARK = 2;
/** The bit of those of which the others know that they were answered. */
const ANSWERED_MARK = 4;

/** How long a copy lives that nobody uses. Then it is asked for again. */
const COPY_LIFETIME_MS = 600_000;
/** How long a copy has left to show that it is in use, when the first host knows the connection no longer. */
const LINGER_MS = 30_000;
/** What has less left is as good as gone. */
const MIN_LIFETIME_MS = 2000;
const TICK_MS = 50;
/** Batches of changes of this host's own connections that wait. */
const MAX_TASKS = 4096;
const ALL = Number.MAX_SAFE_INTEGER;

export class ExchangeCounters extends LinkCounters {
  /** Connections made known to this host. */
  installed = 0;
  /** Of those, in place of what an answer had begun that came first. */
  replaced = 0;
  /** What the datapath refused. */
  refused = 0;
  /** Times that the datapath did not tell of all connections. */
  gaps = 0;
  /** Messages of hosts that share no group, or that make no sense. */
  rejected = 0;
}

export interface FlowStateExchangeOptions {
  readonly hostId: string;
  readonly datapath: Pick<
    Datapath,
    'connection' | 'connections' | 'changeConnections' | 'watchConnections' | 'features'
  >;
  readonly groups: Pick<StatefulGroups, 'ids' | 'zonesOf' | 'hostsOf'>;
  /** The way to another host; null when there is none. To be asked for at least every ten seconds. */
  readonly path: (hostId: string) => TunnelPath | null | undefined;
  readonly open: OpenStateTransport;
  readonly clock: () => number;
  readonly log: Logger;
}

interface Peer {
  readonly link: PeerLink;
  /** What is shared with it: groups and this host's zones in them. */
  shares: string;
  path: TunnelPath | null | undefined;
  /** Whether the datapath did not tell of all that this host is to know. */
  hasGap: boolean;
}

/**
 * Keeps the connections of ports in stateful groups alike on all hosts that have such ports, so that answers may come in at any of
 * them. The datapath tells what begins, is answered and ends in the zones of these ports; the other hosts are told, and put it in the
 * zones of their own. What a host was told is a copy, marked as such: it lives on as its packets come, or as long as the others say.
 */
export class FlowStateExchange {
  readonly counters = new ExchangeCounters();
  private readonly peers = new Map<string, Peer>();
  /** The groups of a zone. */
  private zones = new Map<number, string[]>();
  /** By group: the zones of this host that connections are copied between. */
  private readonly copied = new Map<string, string>();
  private readonly transport: StateTransport;
  /** While there are peers. */
  private ticker: NodeJS.Timeout | undefined;
  private readonly abort = new AbortController();
  private readonly tasks: (() => Promise<void>)[] = [];
  private working: Promise<void> | undefined;
  private unwatch: (() => void) | undefined;
  private isReconciling = false;
  private isWarned = false;

  constructor(private readonly options: FlowStateExchangeOptions) {
    this.transport = options.open((from, bytes) => this.receive(from, bytes));
  }

  /** Other hosts with which connections are shared. */
  get peerCount(): number {
    return this.peers.size;
  }

  /** Whether all other hosts know what there is to tell them, and this host has done what it was told. */
  get isSettled(): boolean {
    return (
      this.working === undefined && [...this.peers.values()].every(({ link, hasGap }) => link.isSettled && !hasGap)
    );
  }

  /** Entries that wait to be sent. */
  get unsent(): number {
    let count = 0;
    for (const { link } of this.peers.values()) count += link.unsent;
    return count;
  }

  /** Groups, their ports or zones are others now. */
  groupsChanged(): void {
    if (this.isReconciling || this.abort.signal.aborted) return;
    this.isReconciling = true;
    setImmediate(() => {
      this.isReconciling = false;
      if (!this.abort.signal.aborted) this.reconcile();
    });
  }

  /** Called by itself several times a second. */
  tick(): void {
    for (const { link } of this.peers.values()) link.tick();
  }

  /** To be called once a second: ways to other hosts may be others, and are forgotten when nobody asks. */
  refreshPaths(): void {
    if (this.zones.size > 0 && this.peers.size > 0) this.watchConnections();
    const addresses = new Set<number>();
    for (const [hostId, peer] of this.peers) {
      peer.path = this.options.path(hostId);
      if (peer.path) addresses.add(peer.path.src);
    }
    this.transport.retain(addresses);
    this.tellAfterGaps();
  }

  async close(): Promise<void> {
    this.abort.abort();
    clearInterval(this.ticker);
    this.unwatch?.();
    for (const { link } of this.peers.values()) link.close();
    this.peers.clear();
    this.tasks.length = 0;
    this.transport.close();
    await this.working;
  }

  private reconcile(): void {
    const { groups, datapath, log } = this.options;
    const shares = new Map<string, string[]>();
    this.zones = new Map();
    for (const groupId of groups.ids()) {
      const zones = groups.zonesOf(groupId).sort((a, b) => a - b);
      const hosts = groups.hostsOf(groupId);
      const local = zones.join();
      for (const hostId of hosts) shares.set(hostId, [...(shares.get(hostId) ?? []), `${groupId} ${local}`]);
      if (zones.length > 1 || hosts.size > 0) {
        for (const zone of zones) this.zones.set(zone, [...(this.zones.get(zone) ?? []), groupId]);
      }
      if (this.copied.get(groupId) !== local && zones.length > 1) this.copyBetween(groupId);
      this.copied.set(groupId, local);
    }
    if (this.zones.size > 0 && !(datapath.features.conntrack && datapath.features.zones)) {
      if (!this.isWarned)
        log.warn('connections of stateful port groups are not shared: the kernel has no zones for them');
      this.isWarned = true;
      return;
    }
    this.watchConnections();
    for (const [hostId, { link }] of this.peers) {
      if (shares.has(hostId)) continue;
      link.close();
      this.peers.delete(hostId);
    }
    for (const [hostId, shared] of shares) {
      const text = shared.sort().join();
      const peer = this.peers.get(hostId) ?? this.addPeer(hostId);
      if (peer.shares === text) continue;
      peer.shares = text;
      peer.link.begin(true);
    }
    this.refreshPaths();
    if (this.peers.size === 0) {
      clearInterval(this.ticker);
      this.ticker = undefined;
    } else this.ticker ??= setInterval(() => this.tick(), TICK_MS).unref();
  }

  private addPeer(hostId: string): Peer {
    const { clock, log, path } = this.options;
    const link: PeerLink = new PeerLink({
      hostId: this.options.hostId,
      send: (bytes) => {
        const to = this.peers.get(hostId)?.path;
        if (to) this.transport.send(to.src, to.dst, bytes);
      },
      list: () => this.list(hostId),
      apply: (sections) => this.do(() => this.applySections(sections, hostId, link)),
      counters: this.counters,
      clock,
      failed: (error) => log.error({ host: hostId, error: error.message }, 'could not share connections with a host'),
    });
    const peer = { link, shares: '', path: path(hostId), hasGap: false };
    this.peers.set(hostId, peer);
    return peer;
  }

  private watchConnections(): void {
    const { datapath, log } = this.options;
    if (this.zones.size === 0) {
      this.unwatch?.();
      this.unwatch = undefined;
      return;
    }
    if (this.unwatch !== undefined) return;
    try {
      this.unwatch = datapath.watchConnections({
        concerns: (zone) => this.zones.has(zone),
        events: (batch) => this.happened(batch),
        lost: () => {
          this.counters.gaps += 1;
          for (const peer of this.peers.values()) peer.hasGap = true;
        },
      });
      // What began while nobody watched.
      this.tellAll();
    } catch (error) {
      log.error(
        { error: (error as Error).message },
        'could not watch connections of stateful port groups; trying again',
      );
    }
  }

  /** Not before what is being told has been: where connections keep coming too fast nothing would ever be told else. */
  private tellAfterGaps(): void {
    const behind = [...this.peers.values()].filter(({ hasGap, link }) => hasGap && !link.isTellingAll);
    for (const peer of behind) {
      peer.hasGap = false;
      peer.link.begin(false);
    }
    if (behind.length > 0) {
      this.options.log.warn('connections came faster than they could be read: all are told again');
    }
  }

  private tellAll(): void {
    for (const { link } of this.peers.values()) link.begin(false);
  }

  private happened(batch: readonly ConnectionEvent[]): void {
    const changes: ConnectionOperation[] = [];
    const here: { readonly groupId: string; readonly zone: number; readonly entry: StateEntry }[] = [];
    for (const { type, connection } of batch) {
      const entry = entryOf(type, connection);
      if (entry === undefined) continue;
      if (type === 'changed') {
        // Packets of the other direction may come in elsewhere, so what it takes to be answered is made up here, too.
        changes.push({ type: 'change', connection, answered: true, mark: ANSWERED_MARK, markMask: ANSWERED_MARK });
      }
      for (const groupId of this.zones.get(connection.zone) ?? []) {
        for (const { link } of this.peersIn(groupId)) link.offer(groupId, entry);
        if (this.options.groups.zonesOf(groupId).length > 1) here.push({ groupId, zone: connection.zone, entry });
      }
    }
    for (const { link } of this.peers.values()) link.flush();
    if (changes.length + here.length === 0) return;
    if (this.tasks.length >= MAX_TASKS) {
      this.counters.overflowed += changes.length + here.length;
      return;
    }
    this.tasks.push(async () => {
      await this.change(changes, 'not-found');
      for (const { groupId, zone, entry } of here) await this.apply(groupId, [entry], undefined, undefined, zone);
    });
    this.work();
  }

  private *peersIn(groupId: string): Generator<Peer> {
    for (const hostId of this.options.groups.hostsOf(groupId)) {
      const peer = this.peers.get(hostId);
      if (peer !== undefined) yield peer;
    }
  }

  /** Give the ports of this host in a group what the others have. */
  private copyBetween(groupId: string): void {
    this.tasks.push(async () => {
      for (const zone of this.options.groups.zonesOf(groupId)) {
        const entries = (await this.connectionsOf(new Set([zone]))).map(presentEntry);
        await this.apply(groupId, entries, undefined, undefined, zone);
      }
    });
    this.work();
  }

  /** All that another host is to know. */
  private async list(hostId: string): Promise<GroupEntry[]> {
    const { groups } = this.options;
    const shared = groups.ids().filter((groupId) => groups.hostsOf(groupId).has(hostId));
    const connections = await this.connectionsOf(new Set(shared.flatMap((groupId) => groups.zonesOf(groupId))));
    return connections.flatMap((connection) =>
      (this.zones.get(connection.zone) ?? [])
        .filter((groupId) => shared.includes(groupId))
        .map((groupId) => ({ groupId, entry: presentEntry(connection) })),
    );
  }

  /** Those that can be shared, of zones of this host. */
  private async connectionsOf(zones: ReadonlySet<number>): Promise<TrackedConnection[]> {
    const { datapath } = this.options;
    const one = zones.size === 1 ? [...zones][0] : undefined;
    const connections = zones.size === 0 ? [] : await datapath.connections(one, ALL, this.abort.signal);
    return connections.filter(
      ({ zone, protocol, timeoutMs }) =>
        zones.has(zone) && protocol !== IpProtocol.SCTP && timeoutMs >= MIN_LIFETIME_MS,
    );
  }

  private receive(from: number, bytes: Uint8Array): void {
    try {
      const message = decodeMessage(bytes);
      const peer = this.peers.get(message.hostId);
      if (peer?.path?.dst === from) peer.link.receive(message);
      else this.counters.rejected += 1;
    } catch (error) {
      if (!(error instanceof FlowStateFormatError)) throw error;
      this.counters.rejected += 1;
    }
  }

  private async applySections(sections: readonly StateSection[], hostId: string, link: PeerLink): Promise<void> {
    const { groups } = this.options;
    for (const { groupId, entries } of sections) {
      // Another host may not have heard yet that it is in the group no longer.
      if (groups.hostsOf(groupId).has(hostId)) await this.apply(groupId, entries, hostId, link);
    }
  }

  /**
   * Let entries take effect in the zones of a group, but for the one that they come from.
   * @param hostId who tells; undefined: this host
   * @param link gets what was asked for
   */
  private async apply(
    groupId: string,
    entries: readonly StateEntry[],
    hostId: string | undefined,
    link: PeerLink | undefined,
    exceptZone?: number,
  ): Promise<void> {
    const { groups, datapath } = this.options;
    const { signal } = this.abort;
    const zones = groups.zonesOf(groupId).filter((zone) => zone !== exceptZone);
    const copies: TrackedConnection[] = [];
    const lingering: ConnectionOperation[] = [];
    for (const entry of entries) {
      for (const zone of zones) {
        if (entry.type === 'present') {
          copies.push(copyOf({ ...entry.connection, zone, tcpState: undefined }));
          continue;
        }
        const connection = { ...entry.connection, zone };
        if (entry.type === 'gone') {
          lingering.push({ type: 'change', connection, timeoutMs: LINGER_MS });
          continue;
        }
        const found = await datapath.connection(connection, signal);
        if (found === undefined || found.timeoutMs < MIN_LIFETIME_MS) continue;
        if (link !== undefined) link.offer(groupId, presentEntry(found));
        else if (exceptZone !== undefined) copies.push(copyOf({ ...found, zone: exceptZone }));
      }
    }
    link?.flush();
    await this.install(copies, hostId);
    await this.change(lingering, 'not-found');
  }

  private async install(copies: readonly TrackedConnection[], hostId: string | undefined): Promise<void> {
    if (copies.length === 0) return;
    const creations = copies.map((connection) => ({ type: 'create', connection }) as const);
    const errors = await this.options.datapath.changeConnections(creations, this.abort.signal);
    for (const [i, connection] of copies.entries()) {
      const error = errors[i];
      if (error === undefined) this.counters.installed += 1;
      else if (error instanceof DatapathError && error.kind === 'exists') await this.settle(connection, hostId);
      else this.refused(error);
    }
  }

  /** There is a connection already with a tuple of the one that this host was told of. */
  private async settle(told: TrackedConnection, hostId: string | undefined): Promise<void> {
    const { datapath } = this.options;
    const { signal } = this.abort;
    const found =
      (await datapath.connection(told, signal)) ??
      (await datapath.connection({ ...told, original: told.reply }, signal));
    if (found !== undefined && sameTuple(found.original, told.original) && sameTuple(found.reply, told.reply)) {
      await this.confirm(found, told);
      return;
    }
    if (found !== undefined && !this.prevails(told, found, hostId)) return;
    this.counters.replaced += 1;
    const operations: ConnectionOperation[] = [{ type: 'create', connection: told }];
    // As a copy it is nothing that others would be told the end of.
    if (found !== undefined) {
      const mark = { mark: COPY_MARK, markMask: COPY_MARK };
      operations.unshift({ type: 'change', connection: found, ...mark }, { type: 'forget', connection: found });
    }
    await this.change(operations, 'not-found', 'exists');
  }

  /** The same connection is here: what is news about it counts. */
  private async confirm(found: TrackedConnection, told: TrackedConnection): Promise<void> {
    const isNews = told.answered && (found.mark & ANSWERED_MARK) === 0;
    const livesLonger = (found.mark & COPY_MARK) !== 0 && told.timeoutMs > found.timeoutMs;
    if (!isNews && !livesLonger) return;
    const answered = isNews ? ({ answered: true, mark: ANSWERED_MARK, markMask: ANSWERED_MARK } as const) : {};
    const timeoutMs = livesLonger ? told.timeoutMs : undefined;
    await this.change([{ type: 'change', connection: found, ...answered, timeoutMs }], 'not-found');
  }

  /**
   * Whether a connection that this host was told of takes the place of another one with a tuple of it: an answer came before the
   * news, and counted as a beginning. Each of the two hosts decides alike.
   */
  private prevails(told: TrackedConnection, found: TrackedConnection, hostId: string | undefined): boolean {
    if ((found.mark & COPY_MARK) !== 0) return true;
    if (isTranslated(told) !== isTranslated(found)) return isTranslated(told);
    return hostId !== undefined && hostId < this.options.hostId;
  }

  /** @param expected kinds of refusals that mean nothing */
  private async change(operations: readonly ConnectionOperation[], ...expected: string[]): Promise<void> {
    if (operations.length === 0) return;
    for (const error of await this.options.datapath.changeConnections(operations, this.abort.signal)) {
      if (error === undefined || (error instanceof DatapathError && expected.includes(error.kind))) continue;
      this.refused(error);
    }
  }

  private refused(error: Error): void {
    // A full table refuses every one: the first tells enough.
    if (this.counters.refused === 0) {
      this.options.log.error({ error: error.message }, 'the datapath refused a connection of another host');
    }
    this.counters.refused += 1;
  }

  /** Do something in turn with all else that changes connections. */
  private do(act: () => Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.tasks.push(() => act().then(resolve, reject));
      this.work();
    });
  }

  private work(): void {
    this.working ??= this.workOff().finally(() => {
      this.working = undefined;
      if (this.tasks.length > 0) this.work();
    });
  }

  private async workOff(): Promise<void> {
    for (let task = this.tasks.shift(); task !== undefined; task = this.tasks.shift()) {
      try {
        await task();
      } catch (error) {
        if (this.abort.signal.aborted) break;
        this.options.log.error({ error: (error as Error).message }, 'could not change the connections of a port');
      }
      await nextTurn();
    }
  }
}

/** What others are told of an event; undefined if nothing. */
function entryOf(type: ConnectionEvent['type'], connection: TrackedConnection): StateEntry | undefined {
  const { mark, answered, protocol, tcpState } = connection;
  if (protocol === IpProtocol.SCTP) return undefined;
  const isCopy = (mark & COPY_MARK) !== 0;
  switch (type) {
    case 'begun':
      return isCopy ? undefined : presentEntry(connection);
    case 'changed':
      if (!answered || (mark & ANSWERED_MARK) !== 0) return undefined;
      // What is being closed is left to the host that sees it.
      if (tcpState !== undefined && tcpState !== 'SYN_RECV' && tcpState !== 'ESTABLISHED') return undefined;
      return presentEntry(connection);
    case 'ended':
      return { type: isCopy ? 'asked' : 'gone', connection };
  }
}

function presentEntry(connection: TrackedConnection): StateEntry {
  return { type: 'present', connection: { ...connection, mark: connection.mark & TRANSLATED_MARK } };
}

/** A connection as this host keeps it that another one knows. */
function copyOf(connection: TrackedConnection): TrackedConnection {
  const mark = (connection.mark & TRANSLATED_MARK) | COPY_MARK | (connection.answered ? ANSWERED_MARK : 0);
  return { ...connection, mark, timeoutMs: Math.min(connection.timeoutMs, COPY_LIFETIME_MS) };
}

function isTranslated(connection: TrackedConnection): boolean {
  const { source, destination } = translationsOf(connection);
  return source !== undefined || destination !== undefined;
}

function sameTuple(a: ConnectionTuple, b: ConnectionTuple): boolean {
  return a.srcPort === b.srcPort && a.dstPort === b.dstPort && sameWords(a.src, b.src) && sameWords(a.dst, b.dst);
}
