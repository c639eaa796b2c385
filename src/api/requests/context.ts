import type { Request, Response } from 'express';
import type { Logger } from 'pino';
import type { ErrorCode } from '../../errors.js';
import type { NsdbStatus } from '../../nsdb/operations/status.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { FeedLimits } from '../feeds/feeds.js';
import type { StreamCounts } from '../feeds/stream-counts.js';
import type { Caller } from '../tenancy/caller.js';
import type { Scope } from '../tenancy/tenancy.js';
import type { AuditEntry, AuditLog } from './audit-log.js';

/** What the API works with. */
export interface ApiContext {
  readonly repository: TopologyRepository;
  readonly log: Logger;
  /**
   * Finds out who makes a request, and rejects whoever may not make any; every request is an admin's when absent. Asked again
   * and again while an answer goes on.
   */
  readonly authenticate?: (request: Request, response: Response) => Promise<Caller>;
  /** Only programs of this machine are meant to reach the API, and they need not say who they are: see browserGuard. */
  readonly isLocalOnly?: boolean;
  /** Of one caller; any number when absent. */
  readonly requestsPerSecond?: number;
  /** Where changes and refused requests are recorded; nowhere when absent. */
  readonly audit?: AuditLog;
  /** How the NSDB is; absent where nobody can tell. */
  readonly nsdbStatus?: (signal: AbortSignal) => Promise<NsdbStatus>;
  /** What the server was started with, for support bundles; absent where nobody can tell. */
  readonly configuration?: object;
  /** Aborted when the server closes: answers that go on and on must end then. */
  readonly closing?: AbortSignal;
  /** Of streams of changes; the usual ones when absent. */
  readonly feedLimits?: FeedLimits;
  /** Counts them; absent where nobody asks. */
  readonly streamCounts?: StreamCounts;
}

/** What middleware leaves for those behind it, in `response.locals`. */
export interface Locals {
  caller: Caller;
  /** What the caller may see and change. */
  scope: Scope;
  /** Ends when the client goes away, or the request has taken too long. */
  signal: AbortSignal;
  /** Of the error that the request failed with. */
  code?: ErrorCode;
  /** What a batch has done. */
  changes?: AuditEntry['changes'];
  /** One of many that are refused for the same reason: the first was recorded. */
  isUnrecorded?: boolean;
}
