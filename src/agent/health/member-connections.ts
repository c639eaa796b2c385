import type { Logger } from 'pino';
import type { Datapath, TrackedConnection } from '../../datapath/datapath.js';

/** By then flows that lead new connections to the member are replaced. */
const SETTLE_MS = 1000;
/** And how late it is tried again at most, when it did not work. */
const LAST_RETRY_MS = 60_000;
/** Connections that are forgotten at once. */
const BATCH = 256;

/** Where connections to a member go: one word of IPv4, four of IPv6. */
export interface MemberAddress {
  readonly protocol: number;
  readonly words: ArrayLike<number>;
  readonly port: number;
}

/**
 * Has the datapath forget connections to members that do not work any more, so that the next packet of each goes to another, as in
 * MidoNet. That one refuses what is in the middle of a TCP connection, and the client knows; UDP just goes on there.
 */
export class MemberConnections {
  private readonly down = new Set<string>();
  private timer: NodeJS.Timeout | undefined;
  private isForgetting = false;
  private delay = SETTLE_MS;
  private readonly abort = new AbortController();

  constructor(
    private readonly datapath: Pick<Datapath, 'connections' | 'changeConnections' | 'features'>,
    private readonly log: Logger,
  ) {}

  /** A member was found not to work. */
  memberDown({ protocol, words, port }: MemberAddress): void {
    // Then no packet has ever got to a member.
    if (!this.datapath.features.conntrack) return;
    this.down.add(nameOf(protocol, words, port));
    this.schedule();
  }

  close(): void {
    this.abort.abort();
    clearTimeout(this.timer);
  }

  private schedule(): void {
    if (this.isForgetting || this.abort.signal.aborted) return;
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.isForgetting = true;
      const down = new Set(this.down);
      this.down.clear();
      this.forget(down)
        .then(
          () => {
            this.delay = SETTLE_MS;
          },
          (error: Error) => {
            if (this.abort.signal.aborted) return;
            for (const name of down) this.down.add(name);
            this.delay = Math.min(2 * this.delay, LAST_RETRY_MS);
            const retryInMs = this.delay;
            this.log.warn({ error: error.message, retryInMs }, 'could not end connections of members that do not work');
          },
        )
        .finally(() => {
          this.isForgetting = false;
          if (this.down.size > 0) this.schedule();
        });
    }, this.delay);
  }

  private async forget(down: ReadonlySet<string>): Promise<void> {
    const { datapath, log } = this;
    const { signal } = this.abort;
    const all = await datapath.connections(undefined, Number.MAX_SAFE_INTEGER, signal);
    const found = all.filter((connection) => isTranslatedToOne(connection, down));
    for (let i = 0; i < found.length; i += BATCH) {
      const operations = found.slice(i, i + BATCH).map((connection) => ({ type: 'forget', connection }) as const);
      const errors = await datapath.changeConnections(operations, signal);
      const error = errors.find((one) => one !== undefined);
      if (error !== undefined) throw error;
    }
    if (found.length > 0) log.info({ connections: found.length }, 'moved connections from members that do not work');
  }
}

/** Whether it went to another address or port than one of these, and was translated to that. */
function isTranslatedToOne({ protocol, original, reply }: TrackedConnection, down: ReadonlySet<string>): boolean {
  const to = nameOf(protocol, reply.src, reply.srcPort);
  return down.has(to) && to !== nameOf(protocol, original.dst, original.dstPort);
}

function nameOf(protocol: number, words: ArrayLike<number>, port: number): string {
  return `${protocol} ${Array.from(words).join('.')} ${port}`;
}
