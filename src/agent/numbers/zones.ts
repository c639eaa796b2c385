import { randomInt } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Datapath } from '../../datapath/datapath.js';

/** A zone has 16 bits. Zone 0 is where the kernel tracks the host's own connections. */
const FIRST_ZONE = 1;
const LAST_ZONE = 0xffff;
/** How long after a zone was given back its connections are forgotten: no flow begins any by then. */
const SETTLE_MS = 5000;

export interface ZonesOptions {
  /** Made if need be. */
  readonly folder: string;
  readonly datapath: Pick<Datapath, 'features' | 'flushZones'>;
  /** Milliseconds that never go back. */
  readonly clock: () => number;
  readonly log: Logger;
}

/**
 * The conntrack zones of this host: each keeps the connections of a port, or of a device that translates addresses, apart from
 * all others. Connections in the kernel outlive the agent, so the zones are kept on disk, one file a zone, and are the same
 * after a restart. A zone that was given back is reused as late as can be, and not before its connections were forgotten:
 * until then its file is there, empty.
 *
 * A kernel without zones has one for all, 0; one that tracks no connections has none.
 */
export class Zones {
  private readonly byOwner = new Map<string, number>();
  private readonly owners = new Map<number, string>();
  /** Given back, with connections to be forgotten, and since when. */
  private readonly released = new Map<number, number>();
  private next = randomInt(FIRST_ZONE, LAST_ZONE + 1);
  private flushing: Promise<void> | undefined;
  private failed = false;
  private readonly abort = new AbortController();

  private constructor(private readonly options: ZonesOptions) {}

  /** Read the zones of the last run. */
  static async open(options: ZonesOptions): Promise<Zones> {
    const { folder, clock } = options;
    await mkdir(folder, { recursive: true });
    const zones = new Zones(options);
    for (const name of await readdir(folder)) {
      const zone = Number(name);
      if (!Number.isInteger(zone) || zone < FIRST_ZONE || zone > LAST_ZONE) {
        await rm(join(folder, name));
        continue;
      }
      const owner = await readFile(join(folder, name), 'utf8');
      if (owner === '' || zones.byOwner.has(owner)) {
        zones.giveBack(zone);
        continue;
      }
      zones.byOwner.set(owner, zone);
      zones.owners.set(zone, owner);
    }
    for (const zone of zones.released.keys()) zones.released.set(zone, clock() - SETTLE_MS);
    return zones;
  }

  /** Everything that has a zone. */
  allOwners(): IterableIterator<string> {
    return this.byOwner.keys();
  }

  /** How many zones are not to be had: taken, or given back and not empty yet. */
  get size(): number {
    return this.owners.size + this.released.size;
  }

  /** The zone of the owner with this id: the last word of its text. */
  find(id: string): number | undefined {
    for (const [owner, zone] of this.byOwner) if (owner.endsWith(` ${id}`)) return zone;
    return undefined;
  }

  /** What has the zone; undefined when nothing has. */
  ownerOf(zone: number): string | undefined {
    return this.owners.get(zone);
  }

  /**
   * The zone of `owner` (a text that names a port or device), chosen at its first call. Undefined if the kernel tracks no
   * connections, or there is none to be had; the log says why.
   */
  take(owner: string): number | undefined {
    const { features } = this.options.datapath;
    if (!features.conntrack) return undefined;
    if (!features.zones) return 0;
    const existing = this.byOwner.get(owner);
    if (existing !== undefined) return existing;
    if (this.size > LAST_ZONE - FIRST_ZONE) {
      this.options.log.error({ owner }, 'all conntrack zones of this host are in use');
      return undefined;
    }
    while (this.owners.has(this.next) || this.released.has(this.next)) this.advance();
    const zone = this.next;
    this.advance();
    try {
      writeFileSync(this.path(zone), owner, { flag: 'wx' });
    } catch (error) {
      this.options.log.error({ owner, error: (error as Error).message }, 'could not write down a conntrack zone');
      return undefined;
    }
    this.byOwner.set(owner, zone);
    this.owners.set(zone, owner);
    return zone;
  }

  /** Succeeds when the owner has none. */
  release(owner: string): void {
    const zone = this.byOwner.get(owner);
    if (zone === undefined) return;
    this.byOwner.delete(owner);
    this.owners.delete(zone);
    this.giveBack(zone);
  }

  /** To be called once a second: connections in zones that were given back are forgotten. */
  tick(): void {
    if (this.flushing !== undefined || this.abort.signal.aborted) return;
    const before = this.options.clock() - SETTLE_MS;
    const due = [...this.released].flatMap(([zone, since]) => (since <= before ? [zone] : []));
    if (due.length === 0) return;
    this.flushing = this.flush(due).finally(() => {
      this.flushing = undefined;
    });
  }

  async close(): Promise<void> {
    this.abort.abort();
    await this.flushing;
  }

  private giveBack(zone: number): void {
    try {
      writeFileSync(this.path(zone), '');
    } catch (error) {
      // After a restart it is its owner's again, who gives it back if there is no such owner any more.
      this.options.log.error({ zone, error: (error as Error).message }, 'could not write down that a zone is free');
    }
    this.released.set(zone, this.options.clock());
  }

  private async flush(zones: readonly number[]): Promise<void> {
    const { datapath, log } = this.options;
    const { signal } = this.abort;
    try {
      await datapath.flushZones(new Set(zones), signal);
      for (const zone of zones) {
        rmSync(this.path(zone), { force: true });
        this.released.delete(zone);
      }
      this.failed = false;
    } catch (error) {
      if (signal.aborted) return;
      // Once, not every second: it is tried until it works.
      if (!this.failed) log.error({ error: (error as Error).message }, 'could not forget the connections of zones');
      this.failed = true;
    }
  }

  private path(zone: number): string {
    return join(this.options.folder, String(zone));
  }

  private advance(): void {
    this.next = this.next === LAST_ZONE ? FIRST_ZONE : this.next + 1;
  }
}
