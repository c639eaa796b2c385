import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { ClosedError } from '../../errors.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Kind } from '../../topology/types.js';
import type { Caller } from '../tenancy/caller.js';
import { CallerPlaces } from '../tenancy/caller-places.js';
import { OwnerReader } from '../tenancy/owner-reader.js';
import { Feed, type Follower } from './feed.js';
import { StreamCounts } from './stream-counts.js';

export interface FeedLimits {
  /** Streams of one caller at a time. */
  readonly streamsPerCaller: number;
  /** Objects that are gone which are remembered, in each feed. */
  readonly departures: number;
  /** Milliseconds between the signs of life of a stream. */
  readonly heartbeat: number;
  /** Milliseconds that a feed nobody follows is kept, for those who come back. */
  readonly linger: number;
  /** Milliseconds that a stream waits for a client that takes nothing. */
  readonly stall: number;
}

export const FEED_LIMITS: FeedLimits = {
  streamsPerCaller: 1000,
  departures: 10_000,
  heartbeat: 15_000,
  linger: 60_000,
  stall: 30_000,
};

/** A stream, as long as it is open. */
export interface OpenStream extends Follower {
  /** Tell the client that the stream lives. */
  beat(): void;
  end(): void;
}

/** The feeds of a server, made when they are first wanted, and the streams that they are told by. */
export class Feeds {
  /** Tells versions that these feeds gave from those of others. */
  readonly id = randomBytes(4).toString('hex');
  readonly owners: OwnerReader;
  private readonly feeds = new Map<Kind, Feed>();
  private readonly lingering = new Map<Feed, NodeJS.Timeout>();
  private readonly streams = new Map<OpenStream, Caller>();
  private readonly places: CallerPlaces;
  private heartbeat: NodeJS.Timeout | undefined;
  private isClosed = false;

  constructor(
    private readonly repository: TopologyRepository,
    private readonly log: Logger,
    readonly limits: FeedLimits = FEED_LIMITS,
    readonly counts = new StreamCounts(),
  ) {
    this.owners = new OwnerReader(repository);
    this.places = new CallerPlaces('watch streams', limits.streamsPerCaller);
  }

  /**
   * Have the stream follow the feeds of some kinds.
   * @throws TooManyAtOnceError, ClosedError
   */
  open(stream: OpenStream, kinds: readonly Kind[], caller: Caller): Feed[] {
    if (this.isClosed) throw new ClosedError('API server');
    this.places.take(caller);
    this.streams.set(stream, caller);
    this.counts.open++;
    this.heartbeat ??= setInterval(() => this.beat(), this.limits.heartbeat);
    const feeds = kinds.map((kind) => this.feedOf(kind));
    for (const feed of feeds) feed.follow(stream);
    return feeds;
  }

  /** The stream ends. */
  leave(stream: OpenStream, feeds: readonly Feed[]): void {
    const caller = this.streams.get(stream);
    if (caller === undefined) return;
    this.streams.delete(stream);
    this.counts.open--;
    this.places.free(caller);
    if (this.streams.size === 0) {
      clearInterval(this.heartbeat);
      this.heartbeat = undefined;
    }
    for (const feed of feeds) {
      feed.unfollow(stream);
      if (feed.followerCount > 0 || this.isClosed) continue;
      this.lingering.set(feed, setTimeout(() => this.closeFeed(feed), this.limits.linger).unref());
    }
  }

  /** Ends all streams. */
  close(): void {
    this.isClosed = true;
    for (const stream of [...this.streams.keys()]) stream.end();
    for (const feed of [...this.feeds.values()]) this.closeFeed(feed);
  }

  private feedOf(kind: Kind): Feed {
    const known = this.feeds.get(kind);
    if (known !== undefined) {
      clearTimeout(this.lingering.get(known));
      this.lingering.delete(known);
      return known;
    }
    const feed = new Feed(kind, this.repository, this.owners, this.limits.departures, this.log);
    this.feeds.set(kind, feed);
    return feed;
  }

  private closeFeed(feed: Feed): void {
    clearTimeout(this.lingering.get(feed));
    this.lingering.delete(feed);
    this.feeds.delete(feed.kind);
    feed.close();
    if (this.feeds.size === 0) this.owners.forget();
  }

  private beat(): void {
    for (const stream of [...this.streams.keys()]) stream.beat();
    for (const feed of this.feeds.values()) {
      // The version that clients come back with is to keep up with changes of everything else, too.
      feed.catchUp(AbortSignal.timeout(this.limits.heartbeat)).catch((error: Error) => {
        this.log.debug({ kind: feed.kind, error: error.message }, 'a watch feed cannot tell how current it is');
      });
    }
  }
}
