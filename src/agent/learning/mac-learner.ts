import type { Logger } from 'pino';
import type { Store } from '../../nsdb/store.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { type MacEntry, macTable } from '../../nsdb/tables/tables.js';
import { formatMac } from '../../packet/address.js';

/** How long an address stays learned after the last flow from it has gone. MidoNet's value. */
const EXPIRE_AFTER_MS = 15_000;

/** So many addresses are learned behind one port, unless the configuration says otherwise. */
export const MACS_PER_PORT = 4096;

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

/** How many addresses are learned behind a port of this host. */
interface MacsOfPort {
  count: number;
  /** Those that no flow needs, the one that has not been used for longest first. */
  readonly unused: Set<LearnedMac>;
  isFullTold: boolean;
}

/**
 * Writes the source addresses of this host's packets to the MAC tables in the NSDB, as ephemeral entries, and takes them
 * back when no flow comes from them any more. An entry seeded from the topology is never replaced.
 *
 * Machines can make up any number of addresses, so a port has a limit: when it is reached, an address that no flow needs makes
 * room; without one, further addresses there are not learned, and what is sent to them is flooded. Other ports do not notice.
 */
export class MacLearner {
  /** By bridge and VLAN. */
  private readonly tables = new Map<string, LearnedMacs>();
  private readonly unused = new Set<LearnedMac>();
  private readonly byPort = new Map<string, MacsOfPort>();
  /** How often an address was not learned, as its port had too many. */
  refused = 0;

  constructor(
    private readonly store: Store,
    private readonly maxPerPort: number,
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {}

  /**
   * A packet was seen with the address behind the port. The result is to be given to {@link use} for as long as a flow
   * says so; undefined when the port has too many.
   */
  learn(bridgeId: string, vlan: number, mac: number, portId: string): LearnedMac | undefined {
    const known = this.tables.get(tableName(bridgeId, vlan))?.macs.get(mac);
    if (known?.portId !== portId && !this.makeRoom(portId)) {
      this.refused++;
      return undefined;
    }
    const { table, macs } = this.macsOf(bridgeId, vlan);
    if (known === undefined) {
      const learned = { bridgeId, vlan, mac, portId, flows: 0, unusedSince: this.clock() };
      macs.set(mac, learned);
      this.addToPort(learned);
      this.setUnused(learned);
      void table.learn(mac, { portId });
      return learned;
    }
    if (known.portId !== portId) {
      this.removeFromPort(known);
      known.portId = portId;
      this.addToPort(known);
      void table.learn(mac, { portId });
    }
    if (known.flows === 0) this.setUnused(known);
    return known;
  }

  use(learned: LearnedMac): void {
    learned.flows++;
    learned.unusedSince = undefined;
    this.unused.delete(learned);
    this.byPort.get(learned.portId)?.unused.delete(learned);
  }

  release(learned: LearnedMac): void {
    if (--learned.flows === 0) this.setUnused(learned);
  }

  /** Take back what has not been used for a while. */
  expire(): void {
    const horizon = this.clock() - EXPIRE_AFTER_MS;
    for (const learned of this.unused) {
      if (learned.unusedSince! > horizon) return;
      this.forget(learned);
    }
  }

  /** Whether one more address may be learned behind the port: perhaps instead of the one that has been unused for longest. */
  private makeRoom(portId: string): boolean {
    const port = this.byPort.get(portId);
    if (port === undefined || port.count < this.maxPerPort) return true;
    const [oldest] = port.unused;
    if (oldest !== undefined) this.forget(oldest);
    else if (!port.isFullTold) {
      port.isFullTold = true;
      this.log.warn({ port: portId, limit: this.maxPerPort }, 'addresses are not learned, as the port has too many');
    }
    return oldest !== undefined;
  }

  private setUnused(learned: LearnedMac): void {
    const { bridgeId, vlan, mac } = learned;
    learned.unusedSince = this.clock();
    // It may have been given up while flows had it.
    if (this.tables.get(tableName(bridgeId, vlan))?.macs.get(mac) !== learned) return;
    for (const unused of [this.unused, this.byPort.get(learned.portId)?.unused]) {
      unused?.delete(learned);
      unused?.add(learned);
    }
  }

  private addToPort({ portId }: LearnedMac): void {
    const port = this.byPort.get(portId) ?? { count: 0, unused: new Set(), isFullTold: false };
    port.count++;
    this.byPort.set(portId, port);
  }

  private removeFromPort(learned: LearnedMac): void {
    const port = this.byPort.get(learned.portId)!;
    port.unused.delete(learned);
    if (--port.count === 0) this.byPort.delete(learned.portId);
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
    this.removeFromPort(learned);
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
