import type { Logger } from 'pino';
import { encodeJson } from '../nsdb/json.js';
import { macPath } from '../nsdb/layout.js';
import type { EphemeralNode } from '../nsdb/store.js';
import type { MacEntry, TopologyRepository } from '../nsdb/topology-repository.js';
import { formatMac } from '../packet/address.js';

/** How long an address stays learned after the last flow from it has gone. MidoNet's value. */
const EXPIRE_AFTER_MS = 15_000;

/** A MAC address seen behind a port of this host. */
export interface LearnedMac {
  readonly bridgeId: string;
  readonly mac: number;
  portId: string;
  /** How many flows come from it. */
  flows: number;
  /** When the last flow went; undefined while there are flows. */
  unusedSince: number | undefined;
  /** Undefined until the shard's folder is there. */
  node: EphemeralNode | undefined;
}

/**
 * Writes the source addresses of this host's packets to the MAC tables in the NSDB, as ephemeral entries, and takes them
 * back when no flow comes from them any more. An entry seeded from the topology is never replaced.
 */
export class MacLearner {
  /** By bridge, then address. */
  private readonly bridges = new Map<string, Map<number, LearnedMac>>();
  private readonly unused = new Set<LearnedMac>();

  constructor(
    private readonly repository: TopologyRepository,
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {}

  /**
   * A packet was seen with the address behind the port. The result is to be given to {@link use} for as long as a flow
   * says so.
   */
  learn(bridgeId: string, mac: number, portId: string): LearnedMac {
    let macs = this.bridges.get(bridgeId);
    if (macs === undefined) {
      macs = new Map();
      this.bridges.set(bridgeId, macs);
    }
    let learned = macs.get(mac);
    if (learned === undefined) {
      learned = { bridgeId, mac, portId, flows: 0, unusedSince: this.clock(), node: undefined };
      macs.set(mac, learned);
      this.unused.add(learned);
      this.publish(learned);
      return learned;
    }
    if (learned.flows === 0) {
      learned.unusedSince = this.clock();
      this.unused.delete(learned);
      this.unused.add(learned);
    }
    if (learned.portId !== portId) {
      learned.portId = portId;
      learned.node?.set(entryOf(learned));
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
    this.unused.delete(learned);
    const macs = this.bridges.get(learned.bridgeId);
    if (macs?.get(learned.mac) === learned) macs.delete(learned.mac);
    if (macs?.size === 0) this.bridges.delete(learned.bridgeId);
    // The session's end deletes the node in any case.
    learned.node
      ?.close()
      .catch((error: Error) => this.log.warn({ error: error.message }, 'a learned MAC was not deleted'));
  }

  private publish(learned: LearnedMac): void {
    const path = macPath(learned.bridgeId, formatMac(learned.mac));
    this.repository
      .ensureTableFolder(path)
      .then(() => {
        if (this.bridges.get(learned.bridgeId)?.get(learned.mac) !== learned) return;
        let held = false;
        learned.node = this.repository.store.ephemeral(path, entryOf(learned), {
          // The newest sighting counts: ours when we begin, that of whoever takes the entry from us later.
          takeOver: (current) => !held && current.stat.ephemeralOwner !== undefined,
          onState: (state) => {
            if (state === 'held') held = true;
            // Seeded, or seen elsewhere since: theirs counts. The next new flow from it asks again.
            else if (state === 'conflict') this.forget(learned);
          },
        });
      })
      .catch((error: Error) => {
        this.log.warn({ error: error.message, mac: formatMac(learned.mac) }, 'a MAC could not be learned now');
        this.forget(learned);
      });
  }
}

function entryOf(learned: LearnedMac): Uint8Array {
  const entry: MacEntry = { portId: learned.portId };
  return encodeJson(entry);
}
