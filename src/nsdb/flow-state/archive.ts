import * as z from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { validate } from '../../topology/validate.js';

/** Longest record: it must go in one request of either server. */
export const MAX_RECORD_BYTES = 256 * 1024;
/** Longest time to keep a record: a month, in seconds. */
const MAX_TTL = 31 * 24 * 60 * 60;

/** A record and when what it tells of happened, in milliseconds since 1970. */
export interface ArchivedRecord {
  readonly time: number;
  /** As encodeFlowState makes it; the archive does not look into it. */
  readonly record: Uint8Array;
}

export interface StoreRecordsOptions {
  /** Seconds after which the records are gone: a whole number, at least 1. Counted from the storing, not from `time`. */
  readonly ttl: number;
  readonly signal?: AbortSignal;
}

export interface LookupOptions {
  /** Only records of this time or later. */
  readonly since?: number;
  readonly signal?: AbortSignal;
}

/**
 * Keeps the state of the flows of ports for a while, so that the host that a port moves to, or that has restarted, can take up
 * its connections. An archive only: packets never wait for it, and nothing but the newest state is worth having.
 *
 * Every call ends in bounded time. Any number of hosts may store for one port at once.
 */
export interface FlowStateArchive {
  /**
   * Keep records for a port. When it fails some of them may have been kept.
   * @throws ArchiveUnavailableError, InvalidInputError naming the field
   */
  store(portId: string, records: readonly ArchivedRecord[], options: StoreRecordsOptions): Promise<void>;
  /**
   * The records of a port that are not past their time, the oldest first.
   * @throws ArchiveUnavailableError, also in the middle; InvalidInputError
   */
  lookup(portId: string, options?: LookupOptions): AsyncIterable<ArchivedRecord>;
  /**
   * Forget all records of a port: it was deleted. Succeeds when there are none.
   * @throws ArchiveUnavailableError, InvalidInputError
   */
  remove(portId: string, signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** The archive's server cannot be reached, or does not answer in time. Trying again later may succeed. */
export class ArchiveUnavailableError extends MidonetError {
  constructor(operation: string, portId: string | undefined, reason: string, options?: ErrorOptions) {
    const what = portId === undefined ? operation : `${operation} for port ${portId}`;
    super('MN_ARCHIVE_UNAVAILABLE', `flow state archive: ${what}: ${reason}`, options);
  }
}

/** @throws InvalidInputError */
export function checkPortId(portId: string): string {
  return validate(z.uuid(), portId, 'portId');
}

/** @throws InvalidInputError naming the field and its value */
export function checkRecords(records: readonly ArchivedRecord[], ttl: number): void {
  if (!Number.isInteger(ttl) || ttl < 1 || ttl > MAX_TTL) {
    throw new InvalidInputError('ttl', ttl, `expected a whole number of seconds from 1 to ${MAX_TTL}`);
  }
  for (const [i, { time, record }] of records.entries()) {
    if (!Number.isSafeInteger(time) || time < 0) {
      throw new InvalidInputError(`records[${i}].time`, time, 'expected milliseconds since 1970');
    }
    if (record.length > MAX_RECORD_BYTES) {
      throw new InvalidInputError(
        `records[${i}].record`,
        `${record.length} bytes`,
        `expected at most ${MAX_RECORD_BYTES}`,
      );
    }
  }
}

/** Runs of records of at most `limit` bytes each, in the order given; one that is longer is alone. */
export function* inBatches(records: readonly ArchivedRecord[], limit: number): Generator<readonly ArchivedRecord[]> {
  let batch: ArchivedRecord[] = [];
  let bytes = 0;
  for (const record of records) {
    if (batch.length > 0 && bytes + record.record.length > limit) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(record);
    bytes += record.record.length;
  }
  if (batch.length > 0) yield batch;
}
