import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Kind, TopologyTypes } from '../../topology/types.js';
import { UnreadableObjectError } from './request-errors.js';
import { type Lookup, readable } from './tenancy.js';

interface Reading {
  /** Zxid of a change that the reading shows, or what came after it. */
  readonly asOf: number;
  readonly found: Promise<TopologyTypes[Kind] | undefined>;
}

/** Readings that are kept. */
const MAX_READINGS = 20_000;

/**
 * Reads what objects go with, seldom: a reading serves for every object that was last changed before it. An object goes when
 * what it goes with does, so as long as it is there, what was read is what it named all along.
 */
export class OwnerReader {
  private readonly readings = new Map<string, Reading>();
  /** Zxid of the newest change that was seen: readings that begin later show it. */
  private newest = 0;

  constructor(private readonly repository: TopologyRepository) {}

  /** A change was seen. */
  advance(zxid: number): void {
    if (zxid > this.newest) this.newest = zxid;
  }

  /** The store's count of changes has begun anew. */
  forget(): void {
    this.readings.clear();
    this.newest = 0;
  }

  /** For an object that was last changed at `modified`, which was seen. */
  lookup(modified: number): Lookup {
    return (kind, id) => {
      const key = `${kind} ${id}`;
      const known = this.readings.get(key);
      if (known !== undefined && known.asOf >= modified) return known.found;
      const reading: Reading = { asOf: this.newest, found: this.read(kind, id) };
      if (this.readings.size >= MAX_READINGS) this.readings.clear();
      this.readings.set(key, reading);
      reading.found.catch(() => {
        if (this.readings.get(key) === reading) this.readings.delete(key);
      });
      return reading.found;
    };
  }

  private async read(kind: Kind, id: string): Promise<TopologyTypes[Kind] | undefined> {
    try {
      return (await readable(kind, id, this.repository.get(kind, id)))?.object;
    } catch (error) {
      // Nobody can tell whose that is.
      if (error instanceof UnreadableObjectError) return undefined;
      throw error;
    }
  }
}
