/**
 * Requests to change the tree, checked and made into changes. Error codes and the order of the checks are those of Apache
 * ZooKeeper's PrepRequestProcessor.
 */
import { parentPath, pathFault } from '../path.js';
import type { JuteReader } from '../protocol/jute.js';
import { type Acl, CreateFlag, Err, OPEN_ACL, Op, readAcls } from '../protocol/records.js';
import type { Database } from './database.js';
import type { Change } from './transaction.js';

export interface CreateRequest {
  readonly op: typeof Op.create | typeof Op.create2;
  readonly path: string;
  readonly data: Buffer;
  readonly acls: Acl[];
  readonly flags: number;
}

export interface SetRequest {
  readonly op: typeof Op.setData;
  readonly path: string;
  readonly data: Buffer;
  readonly version: number;
}

export interface DeleteRequest {
  readonly op: typeof Op.delete | typeof Op.check;
  readonly path: string;
  readonly version: number;
}

export type WriteRequest = CreateRequest | SetRequest | DeleteRequest;

/** The request of an operation that changes the tree or is part of a multi, or undefined when `op` is none. */
export function readWriteRequest(op: number, r: JuteReader): WriteRequest | undefined {
  switch (op) {
    case Op.create:
    case Op.create2:
      return { op, path: r.string(), data: r.bytes(), acls: readAcls(r), flags: r.int() };
    case Op.setData:
      return { op, path: r.string(), data: r.bytes(), version: r.int() };
    case Op.delete:
    case Op.check:
      return { op, path: r.string(), version: r.int() };
    default:
      return undefined;
  }
}

/** A change; undefined for a check that holds; or the code of the error. */
export function prepare(database: Database, sessionId: string, request: WriteRequest): Change | undefined | number {
  switch (request.op) {
    case Op.create:
    case Op.create2:
      return prepareCreate(database, sessionId, request);
    case Op.setData: {
      if (pathFault(request.path) !== undefined) return Err.badArguments;
      const node = database.find(request.path);
      if (node === undefined) return Err.noNode;
      if (request.version !== -1 && request.version !== node.version) return Err.badVersion;
      return { type: 'set', path: request.path, data: request.data };
    }
    case Op.delete:
    case Op.check: {
      if (pathFault(request.path) !== undefined) return Err.badArguments;
      if (request.op === Op.delete && request.path === '/') return Err.badArguments;
      const node = database.find(request.path);
      if (node === undefined) return Err.noNode;
      if (request.version !== -1 && request.version !== node.version) return Err.badVersion;
      if (request.op === Op.check) return undefined;
      if (node.children !== undefined && node.children.size > 0) return Err.notEmpty;
      return { type: 'delete', path: request.path };
    }
  }
}

function prepareCreate(database: Database, sessionId: string, request: CreateRequest): Change | number {
  if ((request.flags & ~(CreateFlag.ephemeral | CreateFlag.sequential)) !== 0) return Err.unimplemented;
  const sequential = (request.flags & CreateFlag.sequential) !== 0;
  // The number becomes part of the name, so a sequential path may end in "/".
  if (pathFault(sequential ? `${request.path}0` : request.path) !== undefined) return Err.badArguments;
  if (!isOpen(request.acls)) return Err.invalidAcl;
  const parentName = parentPath(sequential ? `${request.path}0` : request.path);
  if (parentName === undefined) return Err.nodeExists;
  const parent = database.find(parentName);
  if (parent === undefined) return Err.noNode;
  const path = sequential ? request.path + String(parent.creates).padStart(10, '0') : request.path;
  if (database.find(path) !== undefined) return Err.nodeExists;
  if (parent.owner !== undefined) return Err.noChildrenForEphemerals;
  const owner = (request.flags & CreateFlag.ephemeral) !== 0 ? sessionId : undefined;
  return { type: 'create', path, data: request.data, owner };
}

/** The server has no access control yet; it refuses lists that ask for some rather than not to keep them. */
export function isOpen(acls: readonly Acl[]): boolean {
  return acls.some(
    (acl) =>
      acl.scheme === OPEN_ACL.scheme &&
      acl.id === OPEN_ACL.id &&
      (acl.permissions & OPEN_ACL.permissions) === OPEN_ACL.permissions,
  );
}
