import type { Logger } from 'pino';
import type { Store } from '../../nsdb/store.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { type MacEntry, macTable } from '../../nsdb/tables/tables.js';
import { formatMac } from '../../packet/address.js';

/** How long an address stays learned after the last flow from it has gone. MidoNet's value. */
const EXPIRE_AFTER_MS = 15_000;

/** A MAC address seen behind a port of this host. */
export interface LearnedMac {
  readonly bridgeId: string;
  /** 0 for packets without a tag. */
  readonly vlan: number;
  readonly mac: number;
  portId: string;
  /** How many flows come from it. */
  flows: number;
  /** When the last flow went; undefined while there are flows. */
  unusedSince: number | undefined;
}

interface LearnedMacs {
  readonly table: SharedTable<number, MacEntry>;
  readonly macs: Map<number, LearnedMac>;
}

/**
 * Writes the source addresses of this host's packets to the MAC tables in the NSDB, as ephemeral entries, and takes them
 * back when no flow comes from them any more. An entry seeded from the topology is never replaced.
 */
export class MacLearner {
  /** By bridge and VLAN. */
  private readonly tables = new Map<string, LearnedMacs>();
  private readonly unused = new Set<LearnedMac>();

  constructor(
    private readonly store: Store,
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {}

  /**
   * A packet was seen with the address behind the port. The result is to be given to {@link use} for as long as a flow
   * says so.
   */
  learn(bridgeId: string, vlan: number, mac: number, portId: string): LearnedMac {
    const { table, macs } = this.macsOf(bridgeId, vlan);
    let learned = macs.get(mac);
    if (learned === undefined) {
      learned = { bridgeId, vlan, mac, portId, flows: 0, unusedSince: this.clock() };
      macs.set(mac, learned);
      this.unused.add(learned);
      void table.learn(mac, { portId });
      return learned;
    }
    if (learned.flows === 0) {
      learned.unusedSince = this.clock();
      this.unused.delete(learned);
      this.unused.add(learned);
    }
    if (learned.portId !== portId) {
      learned.portId = portId;
      void table.learn(mac, { portId });
    }
    return learned;
  }

  use(learned: LearnedMac): void {
    learned.flows++;
    learned.unusedSince = undefined;
    this.unused.delete(learned);
  }

  release(learned: LearnedMac): void {
    if (--learned.flows > 0) return;
    learned.unusedSince = this.clock();
    this.unused.add(learned);
  }

  /** Take back what has not been used for a while. */
  expire(): void {
    const horizon = this.clock() - EXPIRE_AFTER_MS;
    for (const learned of this.unused) {
      if (learned.unusedSince! > horizon) return;
      this.forget(learned);
    }
  }

  private forget(learned: LearnedMac): void {
    const macs = this.remove(learned.bridgeId, learned.vlan, learned.mac);
    void macs?.table.forget(learned.mac);
  }

  /** Entries that are given up belong to nobody here any more; the next new flow from the address learns it again. */
  private remove(bridgeId: string, vlan: number, mac: number): LearnedMacs | undefined {
    const name = tableName(bridgeId, vlan);
    const table = this.tables.get(name);
    const learned = table?.macs.get(mac);
    if (table === undefined || learned === undefined) return undefined;
    this.unused.delete(learned);
    table.macs.delete(mac);
    if (table.macs.size === 0) this.tables.delete(name);
    return table;
  }

  private macsOf(bridgeId: string, vlan: number): LearnedMacs {
    const name = tableName(bridgeId, vlan);
    let macs = this.tables.get(name);
    if (macs === undefined) {
      const table = new SharedTable(this.store, macTable(vlan), bridgeId, {
        onLost: (mac, reason) => {
          if (reason === 'gone') {
            this.log.warn(
              { bridge: bridgeId, mac: formatMac(mac) },
              'a MAC was not learned, as there is no such bridge',
            );
          }
          this.remove(bridgeId, vlan, mac);
        },
      });
      macs = { table, macs: new Map() };
      this.tables.set(name, macs);
    }
    return macs;
  }
}

function tableName(bridgeId: string, vlan: number): string {
  return `${bridgeId} ${vlan}`;
}
