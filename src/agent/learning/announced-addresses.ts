import type { Logger } from 'pino';
import type { Store } from '../../nsdb/store.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { IP_TABLE, type IpEntry } from '../../nsdb/tables/tables.js';
import { formatMac } from '../../packet/address.js';
import { formatIp } from '../../packet/ip.js';
import type { Effect } from '../../simulation/decision.js';

/** How long a bridge answers for an address after its machine announced it: as long as machines believe each other. */
const EXPIRE_AFTER_MS = 60_000;

/** So many addresses are learned on one bridge on this host: machines can make up any number. */
const MAX_ADDRESSES = 1024;

interface Announced {
  readonly bridgeId: string;
  readonly address: string;
  mac: number;
  at: number;
}

interface AnnouncedTable {
  readonly table: SharedTable<string, IpEntry>;
  readonly entries: Map<string, Announced>;
  /** Whether it was told that there are too many. */
  isFullTold: boolean;
}

/**
 * Enters addresses that machines behind this host's ports announce in the IP tables of their bridges, as ephemeral entries,
 * so that every host answers for them and none goes by what was true before. What the topology says is never replaced.
 */
export class AnnouncedAddresses {
  private readonly bridges = new Map<string, AnnouncedTable>();
  /** Least recently announced first. */
  private readonly byAge = new Set<Announced>();

  constructor(
    private readonly store: Store,
    /** Milliseconds. */
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {}

  announced({ bridge, address: words, mac }: Extract<Effect, { type: 'announce' }>): void {
    const announced = this.tableOf(bridge.id);
    const { table, entries } = announced;
    const address = formatIp({ family: words.length === 1 ? 4 : 6, words: [...words] });
    let entry = entries.get(address);
    if (entry === undefined) {
      if (entries.size >= MAX_ADDRESSES) {
        if (!announced.isFullTold) {
          this.log.warn(
            { bridge: bridge.id },
            'addresses are not learned, as machines of the bridge announce too many',
          );
        }
        announced.isFullTold = true;
        return;
      }
      entry = { bridgeId: bridge.id, address, mac: 0, at: 0 };
      entries.set(address, entry);
    }
    entry.at = this.clock();
    this.byAge.delete(entry);
    this.byAge.add(entry);
    if (entry.mac === mac) return;
    entry.mac = mac;
    void table.learn(address, { mac: formatMac(mac) });
  }

  /** Take back what was not announced for a while. */
  expire(): void {
    const horizon = this.clock() - EXPIRE_AFTER_MS;
    for (const entry of this.byAge) {
      if (entry.at > horizon) return;
      void this.remove(entry)?.forget(entry.address);
    }
  }

  /** The entry is this host's no longer; the table that it was in. */
  private remove(entry: Announced): SharedTable<string, IpEntry> | undefined {
    this.byAge.delete(entry);
    const bridge = this.bridges.get(entry.bridgeId);
    if (bridge?.entries.get(entry.address) !== entry) return undefined;
    bridge.entries.delete(entry.address);
    if (bridge.entries.size === 0) this.bridges.delete(entry.bridgeId);
    return bridge.table;
  }

  private tableOf(bridgeId: string): AnnouncedTable {
    let bridge = this.bridges.get(bridgeId);
    if (bridge === undefined) {
      const entries = new Map<string, Announced>();
      const table = new SharedTable(this.store, IP_TABLE, bridgeId, {
        onLost: (address) => {
          const entry = entries.get(address);
          if (entry !== undefined) this.remove(entry);
        },
      });
      bridge = { table, entries, isFullTold: false };
      this.bridges.set(bridgeId, bridge);
    }
    return bridge;
  }
}
