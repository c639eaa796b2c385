import type { Logger } from 'pino';
import { ClosedError } from '../../errors.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { TreeWatch } from '../../nsdb/store.js';
import type { Kind, TopologyTypes } from '../../topology/types.js';
import type { OwnerReader } from '../tenancy/owner-reader.js';
import { sightOf } from '../tenancy/tenancy.js';

/** An object as the feed of its kind was told it last. */
export interface KnownObject {
  readonly object: TopologyTypes[Kind];
  /** Zxid of its last change. */
  readonly modified: number;
  /** Of all that the feed was told, the how manieth it was. */
  readonly serial: number;
  /** What decides who may know of it, see sightOf. */
  readonly sight: string;
}

/** Objects that the same may know of. */
export interface SightGroup {
  readonly objects: Map<string, KnownObject>;
  /** The one that was changed last. */
  newest: KnownObject;
}

/** An object that is gone, or that others may see than before. */
export interface Departure {
  readonly id: string;
  /** As it was before; undefined if the feed was never told of it. */
  readonly last: KnownObject | undefined;
  /** A zxid by which it was so: at most the number of the change. Undefined as long as none is known. */
  until: number | undefined;
}

/** Up to where somebody was told before. */
export interface Place {
  /** All changes up to this zxid were told. */
  readonly version: number;
  /** What was told came from this feed; else other feeds may have told of what this one never saw. */
  readonly isOurs: boolean;
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
  /** The same by what decides who may know of them. */
  readonly groups = new Map<string, SightGroup>();
  /** Objects told so far. */
  serial = 0;
  /** Every change up to this zxid is in {@link objects}. */
  settledAt = 0;
  /** The departures after this zxid are remembered, of objects that the feed was told of. */
  private floor = Number.POSITIVE_INFINITY;
  /** The same of all objects. */
  private commonFloor = Number.POSITIVE_INFINITY;
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
      current: () => {
        // What came and went while there was no connection is not known.
        this.commonFloor = Number.POSITIVE_INFINITY;
      },
      settled: (zxid) => this.onSettled(zxid),
      unseen: (id) => this.depart(id, undefined),
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

  /** Whether all that changed after the place can be told. */
  reaches({ version, isOurs }: Place): boolean {
    return version >= (isOurs ? this.floor : this.commonFloor) && version <= this.settledAt;
  }

  /** What departed after the place, and maybe a little before. */
  departedSince({ version, isOurs }: Place): Departure[] {
    return this.departures.filter(
      ({ until, last }) => (until === undefined || until > version) && !(isOurs && last === undefined),
    );
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
    const sight = sightOf(this.kind, object);
    if (before !== undefined && before.sight !== sight) {
      this.depart(id, before);
      this.ungroup(id, before);
    }
    const known = { object, modified, serial: ++this.serial, sight };
    this.objects.set(id, known);
    this.group(id, known);
    for (const follower of this.followers) follower.changed(this, id);
  }

  private remove(id: string): void {
    const before = this.objects.get(id);
    if (before === undefined) return;
    this.depart(id, before);
    this.objects.delete(id);
    this.ungroup(id, before);
    for (const follower of this.followers) follower.changed(this, id);
  }

  private group(id: string, known: KnownObject): void {
    const group = this.groups.get(known.sight) ?? { objects: new Map(), newest: known };
    this.groups.set(known.sight, group);
    group.objects.set(id, known);
    if (known.modified > group.newest.modified) group.newest = known;
  }

  private ungroup(id: string, { sight }: KnownObject): void {
    const group = this.groups.get(sight)!;
    group.objects.delete(id);
    if (group.objects.size === 0) this.groups.delete(sight);
  }

  private depart(id: string, last: KnownObject | undefined): void {
    this.departures.push({ id, last, until: undefined });
    // That something is gone is heard of without a zxid: the next answer tells it.
    this.watch.settle();
  }

  private onSettled(zxid: number): void {
    const isSetBack = zxid < this.settledAt;
    if (isSetBack) {
      this.departures.length = 0;
      this.floor = zxid;
      this.commonFloor = zxid;
      this.owners.forget();
    }
    this.settledAt = zxid;
    if (this.floor === Number.POSITIVE_INFINITY) this.floor = zxid;
    if (this.commonFloor === Number.POSITIVE_INFINITY) this.commonFloor = zxid;
    this.owners.advance(zxid);
    for (let i = this.departures.length - 1; i >= 0 && this.departures[i].until === undefined; i--) {
      this.departures[i].until = zxid;
    }
    const forgotten = this.departures.splice(0, Math.max(0, this.departures.length - this.maxDepartures));
    for (const { until } of forgotten) {
      this.floor = Math.max(this.floor, until!);
      this.commonFloor = Math.max(this.commonFloor, until!);
    }
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
