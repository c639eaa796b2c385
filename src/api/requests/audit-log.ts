import { closeSync, fstatSync, openSync, statSync, writeSync } from 'node:fs';
import { ClosedError, InvalidInputError, MidonetError } from '../../errors.js';

/** One change, or one request that was refused. Never what was in a request, nor how its maker proved who they are. */
export interface AuditEntry {
  /** ISO 8601, when the request came. */
  readonly time: string;
  readonly caller?: string;
  readonly role?: string;
  readonly tenantId?: string;
  readonly address?: string;
  readonly method: string;
  /** Without what comes after a question mark. */
  readonly path: string;
  readonly status: number;
  /** Of an error. */
  readonly code?: string;
  /** What the request was about, as far as the path and the answer tell. */
  readonly kind?: string;
  readonly id?: string;
  /** Versions: what the request was made for, and what it made. */
  readonly ifMatch?: string;
  readonly etag?: string;
  /** The same of each object that a batch was about. */
  readonly changes?: readonly {
    readonly kind: string;
    readonly id: string;
    readonly result: string;
    readonly etag?: string;
  }[];
  /** Refusals of those who did not show who they are, before this one, that were not recorded as there were too many. */
  readonly refusalsLeftOut?: number;
  readonly milliseconds: number;
  /** The client did not wait for the answer. */
  readonly isAborted?: boolean;
}

export interface AuditLog {
  /** @throws AuditError if a change could not be recorded now, as far as is known */
  check(): void;
  /** @throws AuditError, for a change; a refusal that cannot be recorded is counted */
  record(entry: AuditEntry, isChange: boolean): void;
  /** Why changes cannot be recorded now; undefined if they can, as far as is known. */
  readonly fault: string | undefined;
}

/** A change cannot be recorded. */
export class AuditError extends MidonetError {
  constructor(path: string, reason: string) {
    super('MN_AUDIT_FAILED', `the audit log ${path} cannot be written: ${reason}`);
  }
}

/** How often it is looked whether somebody has moved the file away. */
const LOOK_MS = 1000;

/**
 * One line of JSON each, at the end of a file. Written at once and in order, before the answer goes: it only fills the page
 * cache, which takes less time than handing the work to another thread.
 *
 * A line that cannot be written is kept, and written before any other.
 */
export class AuditFile implements AuditLog {
  /** Undefined when closed. */
  private descriptor: number | undefined;
  private lookedAt = 0;
  private unwritten: Buffer = Buffer.alloc(0);
  private lostRefusals = 0;
  fault: string | undefined;

  /** @throws InvalidInputError if the file cannot be opened */
  constructor(
    private readonly path: string,
    field = 'auditFile',
  ) {
    try {
      this.descriptor = openAppending(path);
    } catch (error) {
      throw new InvalidInputError(field, path, `expected a file that can be written (${messageOf(error)})`);
    }
  }

  check(): void {
    // After a failure the only way to know is to try.
    if (this.fault !== undefined) this.flush();
  }

  record(entry: AuditEntry, isChange: boolean): void {
    if (this.fault !== undefined && !isChange) {
      this.lostRefusals++;
      return;
    }
    this.append(entry);
    try {
      this.flush();
    } catch (error) {
      if (isChange) throw error;
    }
  }

  close(): void {
    if (this.descriptor !== undefined) closeSync(this.descriptor);
    this.descriptor = undefined;
  }

  private append(line: object): void {
    this.unwritten = Buffer.concat([this.unwritten, Buffer.from(`${JSON.stringify(line)}\n`)]);
  }

  private flush(): void {
    try {
      const descriptor = this.opened();
      this.writeAll(descriptor);
      if (this.lostRefusals > 0) {
        const refusalsNotRecorded = this.lostRefusals;
        this.lostRefusals = 0;
        this.append({ time: new Date().toISOString(), refusalsNotRecorded });
        this.writeAll(descriptor);
      }
      this.fault = undefined;
    } catch (error) {
      this.fault = messageOf(error);
      throw new AuditError(this.path, this.fault);
    }
  }

  private writeAll(descriptor: number): void {
    // A full disk may take a part.
    while (this.unwritten.length > 0) {
      this.unwritten = this.unwritten.subarray(writeSync(descriptor, this.unwritten));
    }
  }

  /** Opened anew if tools that rotate logs have moved it: lines would go to a file that has another name, or none any more. */
  private opened(): number {
    const { descriptor } = this;
    if (descriptor === undefined) throw new ClosedError('the audit log');
    const now = performance.now();
    if (this.fault === undefined && now - this.lookedAt < LOOK_MS) return descriptor;
    this.lookedAt = now;
    const there = statSync(this.path, { throwIfNoEntry: false });
    const open = fstatSync(descriptor);
    if (there !== undefined && there.ino === open.ino && there.dev === open.dev) return descriptor;
    const another = openAppending(this.path);
    closeSync(descriptor);
    this.descriptor = another;
    return another;
  }
}

/** Only the owner may read it: it tells who does what. */
function openAppending(path: string): number {
  return openSync(path, 'a', 0o600);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
