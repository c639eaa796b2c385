import type { Logger } from 'pino';
import { ClosedError } from '../errors.js';
import type { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import type { TreeWatch } from '../nsdb/store.js';
import type { Kind, TopologyTypes } from '../topology/types.js';
import type { OwnerReader } from './owner-reader.js';
import { sightOf } from './tenancy.js';

/** An object as the feed of its kind was told it last. */
export interface KnownObject {
  readonly object: TopologyTypes[Kind];
  /** Zxid of its last change. */
  readonly modified: number;
  /** Of all that the feed was told, the how manieth it was. */
  readonly serial: number;
}

/** An object that is gone, or that others may see than before. */
export interface Departure {
  /** As it was before. */
  readonly last: KnownObject;
  /** A zxid by which it was so: at most the number of the change. Undefined as long as none is known. */
  until: number | undefined;
}

/** Who is told by feeds. */
export interface Follower {
  /** There is another version of the object, or it is gone. */
  changed(feed: Feed, id: string): void;
  /** {@link Feed.settledAt} is another. */
  settled(): void;
  /** The store was set back to an earlier state: versions that were told mean something else. */
  restart(): void;
}

/**
 * All objects of a kind, kept in step with the NSDB for everybody who watches some of them: however many they are, it is one
 * watch. A version of the feed is a zxid; what changed after it can be told for as long as the feed remembers what is gone since.
 */
export class Feed {
  readonly objects = new Map<string, KnownObject>();
  /** Objects told so far. */
  serial = 0;
  /** Every change up to this zxid is in {@link objects}. */
  settledAt = 0;
  /** The departures after this zxid are remembered. */
  private floor = Number.POSITIVE_INFINITY;
  private readonly departures: Departure[] = [];
  private readonly followers = new Set<Follower>();
  private readonly waiting = new Set<PromiseWithResolvers>();
  private readonly watch: TreeWatch;
  private isClosed = false;

  constructor(
    readonly kind: Kind,
    private readonly repository: TopologyRepository,
    private readonly owners: OwnerReader,
    private readonly maxDepartures: number,
    private readonly log: Logger,
  ) {
    this.watch = repository.watchKind(kind, {
      put: (object, modified) => this.put(object, modified),
      delete: (id) => this.remove(id),
      invalid: (id, error) => {
        this.log.warn({ kind, id, error: error.message }, 'an object that is watched cannot be read');
        this.remove(id);
      },
      current: () => {},
      settled: (zxid) => this.onSettled(zxid),
    });
  }

  /**
   * Settles when all that was changed anywhere before the call is in {@link objects}.
   * @throws StoreUnavailableError, ClosedError
   */
  async catchUp(signal: AbortSignal): Promise<void> {
    await this.repository.store.sync('/', { signal });
    signal.throwIfAborted();
    if (this.isClosed) throw new ClosedError('watch feed');
    const settled = withResolvers();
    const onAbort = () => settled.reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    this.waiting.add(settled);
    this.watch.settle();
    try {
      await settled.promise;
    } finally {
      this.waiting.delete(settled);
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Whether all that changed after the zxid can be told. */
  reaches(zxid: number): boolean {
    return zxid >= this.floor && zxid <= this.settledAt;
  }

  /** What departed after the zxid, and maybe a little before. */
  departedSince(zxid: number): Departure[] {
    return this.departures.filter(({ until }) => until === undefined || until > zxid);
  }

  get followerCount(): number {
    return this.followers.size;
  }

  follow(follower: Follower): void {
    this.followers.add(follower);
  }

  unfollow(follower: Follower): void {
    this.followers.delete(follower);
  }

  close(): void {
    this.isClosed = true;
    this.watch.close();
    for (const { reject } of this.waiting) reject(new ClosedError('watch feed'));
  }

  private put(object: TopologyTypes[Kind], modified: number): void {
    const { id } = object;
    const before = this.objects.get(id);
    this.owners.advance(modified);
    if (before !== undefined && sightOf(this.kind, before.object) !== sightOf(this.kind, object)) this.depart(before);
    this.objects.set(id, { object, modified, serial: ++this.serial });
    for (const follower of this.followers) follower.changed(this, id);
  }

  private remove(id: string): void {
    const before = this.objects.get(id);
    if (before === undefined) return;
    this.depart(before);
    this.objects.delete(id);
    for (const follower of this.followers) follower.changed(this, id);
  }

  private depart(last: KnownObject): void {
    this.departures.push({ last, until: undefined });
    // That something is gone is heard of without a zxid: the next answer tells it.
    this.watch.settle();
  }

  private onSettled(zxid: number): void {
    const isSetBack = zxid < this.settledAt;
    if (isSetBack) {
      this.departures.length = 0;
      this.floor = zxid;
      this.owners.forget();
    }
    this.settledAt = zxid;
    if (this.floor === Number.POSITIVE_INFINITY) this.floor = zxid;
    this.owners.advance(zxid);
    for (let i = this.departures.length - 1; i >= 0 && this.departures[i].until === undefined; i--) {
      this.departures[i].until = zxid;
    }
    const forgotten = this.departures.splice(0, Math.max(0, this.departures.length - this.maxDepartures));
    for (const { until } of forgotten) this.floor = Math.max(this.floor, until!);
    for (const { resolve } of this.waiting) resolve();
    for (const follower of this.followers) {
      if (isSetBack) follower.restart();
      else follower.settled();
    }
  }
}

interface PromiseWithResolvers {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

function withResolvers(): PromiseWithResolvers {
  let resolve = () => {};
  let reject = (_: Error) => {};
  const promise = new Promise<void>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}
