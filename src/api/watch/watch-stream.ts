import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Response } from 'express';
import type { Logger } from 'pino';
import type { Kind, TopologyTypes } from '../../topology/types.js';
import type { Departure, Feed, KnownObject, Place } from '../feeds/feed.js';
import type { Feeds, OpenStream } from '../feeds/feeds.js';
import { etagOf } from '../requests/etag.js';
import { told } from '../requests/secrets.js';
import type { Caller } from '../tenancy/caller.js';
import type { Lookup } from '../tenancy/tenancy.js';

/** Which objects a stream tells. Undefined: all. */
export interface Selection {
  /** Whether who watches may know of an object. */
  readonly maySee?: (lookup: Lookup, kind: Kind, object: TopologyTypes[Kind]) => Promise<boolean>;
  /** Whether they asked for it. */
  readonly wants?: (object: TopologyTypes[Kind]) => boolean;
}

export interface WatchStreamOptions {
  /** Not begun. */
  readonly response: Response;
  readonly feeds: Feeds;
  readonly kinds: readonly Kind[];
  readonly caller: Caller;
  readonly selection: Selection;
  readonly log: Logger;
}

/** Something to be told, in its turn: the present state of an object, or that everything before it has been told. */
type Task = { readonly feed: Feed; readonly id: string } | { readonly version: number };

export const EVENT_STREAM = 'text/event-stream';

const MARK = '';
/** Objects, or groups of them, looked at before others get their turn. */
const TURN = 1000;

/**
 * One client that watches, by server-sent events. What changes is noted by identifier, and told as it is when its turn comes: a
 * client that reads slowly is told less often, never late, and costs no memory but for the identifiers.
 */
export class WatchStream implements OpenStream {
  private readonly feeds: readonly Feed[];
  private readonly queue = new Map<string, Task>();
  /** What the client knows of, where that is not everything. */
  private readonly told: Set<string> | undefined;
  /** The client is to be told the version when it is known. */
  private owesVersion = false;
  private restartDue = false;
  private isBegun = false;
  private isBlocked = false;
  private isEnded = false;
  private wake = () => {};

  /** Begins to note what changes. @throws TooManyAtOnceError, ClosedError */
  constructor(private readonly options: WatchStreamOptions) {
    const { maySee, wants } = options.selection;
    this.told = maySee === undefined && wants === undefined ? undefined : new Set();
    this.feeds = options.feeds.open(this, options.kinds, options.caller);
    options.response.once('close', () => this.end());
  }

  /**
   * Settles when all that was changed anywhere before the call is known here.
   * @throws StoreUnavailableError, ClosedError
   */
  async catchUp(signal: AbortSignal): Promise<void> {
    await Promise.all(this.feeds.map((feed) => feed.catchUp(signal)));
  }

  /** The object as it is known here, if who watches may know of it. */
  async find(id: string): Promise<TopologyTypes[Kind] | undefined> {
    const [feed] = this.feeds;
    const known = feed.objects.get(id);
    return known !== undefined && (await this.maySee(feed, known)) ? known.object : undefined;
  }

  /**
   * Tells everything, or what changed after a version, and then every change until one side ends the stream.
   * @param from where a stream ended, of this server or another
   */
  async run(from: Place | undefined): Promise<void> {
    const { response } = this.options;
    this.isBegun = true;
    response.status(200).set({ 'content-type': EVENT_STREAM, 'cache-control': 'no-store' });
    response.flushHeaders();
    // The server closed before it began.
    if (this.isEnded) response.end();
    try {
      if (from === undefined || !(await this.resume(from))) this.restartDue = true;
      while (!this.isEnded) {
        if (this.restartDue) await this.tellAll();
        else await this.tellNext();
      }
    } catch (error) {
      // Of one that its client has left nobody is interested in that.
      if (!this.isEnded) this.options.log.warn({ error: (error as Error).message }, 'a watch stream ends early');
      this.end();
    }
  }

  changed(feed: Feed, id: string): void {
    this.add(feed, id);
    this.wake();
  }

  settled(): void {
    if (!this.queue.has(MARK)) this.queue.set(MARK, { version: this.version });
    this.wake();
  }

  restart(): void {
    this.restartDue = true;
    this.wake();
  }

  beat(): void {
    this.owesVersion = true;
    if (this.isBegun && !this.isBlocked) this.options.response.write(':\n\n');
  }

  end(): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.options.feeds.leave(this, this.feeds);
    this.queue.clear();
    // Else it is for an error.
    if (this.isBegun) this.options.response.end();
    this.wake();
  }

  /** Every change up to it is known here. */
  private get version(): number {
    return Math.min(...this.feeds.map(({ settledAt }) => settledAt));
  }

  private idOf(version: number): string {
    return `${version}-${this.options.feeds.id}`;
  }

  private add(feed: Feed, id: string): void {
    this.queue.set(keyOf(feed, id), { feed, id });
  }

  /** Everything that there is. What was noted before is part of it; what comes meanwhile is told after it. */
  private async tellAll(): Promise<void> {
    const { version } = this;
    const serials = this.feeds.map(({ serial }) => serial);
    this.restartDue = false;
    this.queue.clear();
    this.told?.clear();
    // Without a version: who is cut off before the end of it has to begin anew.
    await this.send('id:\nevent: reset\ndata: {}\n\n');
    for (const [i, feed] of this.feeds.entries()) {
      for await (const [id, known] of this.inSight(feed)) {
        if (this.isEnded || this.restartDue) return;
        if (known.serial <= serials[i]) await this.tellObject(feed, id, known);
      }
    }
    await this.send(`id: ${this.idOf(version)}\nevent: current\ndata: {}\n\n`);
  }

  /** Notes what changed after the version. @returns whether all of that is known */
  private async resume(from: Place): Promise<boolean> {
    if (!this.feeds.every((feed) => feed.reaches(from))) return false;
    // Who knows of what another server told: it may have belonged to the tenant for a moment that was not seen here.
    if (!from.isOurs && this.options.selection.maySee !== undefined) return false;
    for (const feed of this.feeds) {
      for await (const [id, known] of this.inSight(feed)) {
        if (this.isEnded) return true;
        const isNewer = known.modified > from.version;
        if (isNewer) this.add(feed, id);
        // What is newer the client may have been told as something that it wanted.
        const mayBeTold = this.told !== undefined && (isNewer || this.wants(known)) && (await this.maySee(feed, known));
        if (mayBeTold) this.told?.add(keyOf(feed, id));
      }
      // Only then: what departed meanwhile may not have been looked at above.
      if (!feed.reaches(from)) return false;
      for (const departure of feed.departedSince(from)) {
        const mayBeTold = await this.mayHaveSeen(feed, departure);
        if (mayBeTold === undefined) return false;
        if (!mayBeTold) continue;
        this.told?.add(keyOf(feed, departure.id));
        this.add(feed, departure.id);
      }
    }
    // Who is cut off in between may have been told by several servers.
    await this.send(`id: ${from.isOurs ? this.idOf(from.version) : from.version}\n\n`);
    this.owesVersion = true;
    // Behind all of that.
    this.queue.delete(MARK);
    this.settled();
    return true;
  }

  /** The objects that who watches may know of: others cost no more than what decides that. */
  private async *inSight(feed: Feed): AsyncGenerator<[id: string, known: KnownObject]> {
    let count = 0;
    for (const { objects, newest } of feed.groups.values()) {
      if (await this.maySee(feed, newest)) {
        for (const entry of objects) {
          yield entry;
          if (++count % TURN === 0) await nextTurn();
        }
      } else if (++count % TURN === 0) await nextTurn();
    }
  }

  private async tellNext(): Promise<void> {
    for (const [key, task] of this.queue) {
      this.queue.delete(key);
      if ('version' in task) return this.tellVersion(task.version);
      const { feed, id } = task;
      return this.tellObject(feed, id, feed.objects.get(id));
    }
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
    this.wake = () => {};
  }

  private async tellVersion(version: number): Promise<void> {
    if (this.owesVersion) await this.send(`id: ${this.idOf(version)}\n\n`);
    this.owesVersion = false;
    if (this.version > version) this.settled();
  }

  private async tellObject(feed: Feed, id: string, known: KnownObject | undefined): Promise<void> {
    const { kind } = feed;
    const isShown = known !== undefined && this.wants(known) && (await this.maySee(feed, known));
    if (isShown) {
      this.told?.add(keyOf(feed, id));
      await this.tell('put', { kind, object: told(kind, known.object), etag: etagOf(known.modified) });
    } else if (this.told === undefined || this.told.delete(keyOf(feed, id))) {
      await this.tell('delete', { kind, id });
    }
  }

  private async tell(event: 'put' | 'delete', data: object): Promise<void> {
    this.owesVersion = true;
    this.options.feeds.counts.events++;
    await this.send(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  private wants({ object }: KnownObject): boolean {
    return this.options.selection.wants?.(object) ?? true;
  }

  private async maySee({ kind }: Feed, { object, modified }: KnownObject): Promise<boolean> {
    const { maySee } = this.options.selection;
    return maySee === undefined || maySee(this.options.feeds.owners.lookup(modified), kind, object);
  }

  /** Undefined when it cannot be found out any more. */
  private async mayHaveSeen({ kind }: Feed, { last }: Departure): Promise<boolean | undefined> {
    const { maySee } = this.options.selection;
    if (maySee === undefined) return true;
    if (last === undefined) return false;
    let isLost = false;
    const lookup = this.options.feeds.owners.lookup(last.modified);
    const noting: Lookup = async (kind, id) => {
      const found = await lookup(kind, id);
      isLost ||= found === undefined;
      return found;
    };
    const maySeeIt = await maySee(noting, kind, last.object);
    return isLost ? undefined : maySeeIt;
  }

  private async send(text: string): Promise<void> {
    const { response } = this.options;
    if (this.isEnded || response.write(text)) return;
    this.isBlocked = true;
    await new Promise<void>((resolve) => {
      const stalled = setTimeout(() => {
        this.options.feeds.counts.stalled++;
        this.options.log.info({ caller: this.options.caller.name }, 'a watch stream ends: its client takes nothing');
        response.destroy();
      }, this.options.feeds.limits.stall);
      const done = () => {
        clearTimeout(stalled);
        response.off('drain', done);
        response.off('close', done);
        resolve();
      };
      response.on('drain', done);
      response.on('close', done);
    });
    this.isBlocked = false;
  }
}

function keyOf({ kind }: Feed, id: string): string {
  return `${kind} ${id}`;
}
