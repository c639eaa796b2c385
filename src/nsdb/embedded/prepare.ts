/**
 * Requests to change the tree, checked and made into changes. Error codes and the order of the checks are those of Apache
 * ZooKeeper's PrepRequestProcessor.
 */
import { parentPath, pathFault } from '../path.js';
import type { JuteReader } from '../protocol/jute.js';
import { type Acl, CreateFlag, Err, Op, Permission, readAcls } from '../protocol/records.js';
import { allows, type Identity, OPEN_LIST, resolveAcls } from './access.js';
import { type Database, SYSTEM_NODES, type TreeNode } from './database.js';
import type { Change } from './transaction.js';

export interface CreateRequest {
  readonly op: typeof Op.create | typeof Op.create2;
  readonly path: string;
  readonly data: Buffer;
  readonly acls: readonly Acl[];
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

export interface SetAclRequest {
  readonly op: typeof Op.setAcl;
  readonly path: string;
  readonly acls: readonly Acl[];
  /** Of the access list. */
  readonly version: number;
}

export type WriteRequest = CreateRequest | SetRequest | DeleteRequest | SetAclRequest;

/** Whose request it is. */
export interface Requester {
  readonly sessionId: string;
  readonly identities: readonly Identity[];
}

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
    case Op.setAcl:
      return { op, path: r.string(), acls: readAcls(r), version: r.int() };
    default:
      return undefined;
  }
}

/** A change; undefined for a check that holds; or the code of the error. */
export function prepare(database: Database, requester: Requester, request: WriteRequest): Change | undefined | number {
  const forbids = (node: TreeNode, permission: number) => !allows(node.acl, permission, requester.identities);
  switch (request.op) {
    case Op.create:
    case Op.create2:
      return prepareCreate(database, requester, request);
    case Op.setData: {
      if (pathFault(request.path) !== undefined) return Err.badArguments;
      const node = database.find(request.path);
      if (node === undefined) return Err.noNode;
      if (forbids(node, Permission.write)) return Err.noAuth;
      const more = { count: 0, bytes: request.data.length - node.data.length };
      if (database.quotas.forbids(database, request.path, more)) return Err.quotaExceeded;
      if (request.version !== -1 && request.version !== node.version) return Err.badVersion;
      return { type: 'set', path: request.path, data: request.data };
    }
    case Op.check: {
      if (pathFault(request.path) !== undefined) return Err.badArguments;
      const node = database.find(request.path);
      if (node === undefined) return Err.noNode;
      if (forbids(node, Permission.read)) return Err.noAuth;
      return request.version !== -1 && request.version !== node.version ? Err.badVersion : undefined;
    }
    case Op.delete: {
      if (pathFault(request.path) !== undefined) return Err.badArguments;
      const parentName = parentPath(request.path);
      if (parentName === undefined || isSystemNode(request.path)) return Err.badArguments;
      const parent = database.find(parentName);
      if (parent === undefined) return Err.noNode;
      if (forbids(parent, Permission.delete)) return Err.noAuth;
      const node = database.find(request.path);
      if (node === undefined) return Err.noNode;
      if (request.version !== -1 && request.version !== node.version) return Err.badVersion;
      if (node.children !== undefined && node.children.size > 0) return Err.notEmpty;
      return { type: 'delete', path: request.path };
    }
    case Op.setAcl: {
      if (pathFault(request.path) !== undefined) return Err.badArguments;
      const acls = resolveAcls(request.acls, requester.identities);
      if (acls === undefined) return Err.invalidAcl;
      const node = database.find(request.path);
      if (node === undefined) return Err.noNode;
      if (forbids(node, Permission.admin)) return Err.noAuth;
      if (request.version !== -1 && request.version !== node.aversion) return Err.badVersion;
      return { type: 'set-acl', path: request.path, acls };
    }
  }
}

function prepareCreate(
  database: Database,
  { sessionId, identities }: Requester,
  request: CreateRequest,
): Change | number {
  if ((request.flags & ~(CreateFlag.ephemeral | CreateFlag.sequential)) !== 0) return Err.unimplemented;
  const sequential = (request.flags & CreateFlag.sequential) !== 0;
  // The number becomes part of the name, so a sequential path may end in "/".
  const sample = sequential ? request.path + sequenceNumber(0) : request.path;
  if (pathFault(sample) !== undefined) return Err.badArguments;
  const acls = resolveAcls(request.acls, identities);
  if (acls === undefined) return Err.invalidAcl;
  const parentName = parentPath(sample);
  if (parentName === undefined) return Err.nodeExists;
  const parent = database.find(parentName);
  if (parent === undefined) return Err.noNode;
  if (!allows(parent.acl, Permission.create, identities)) return Err.noAuth;
  const path = sequential ? request.path + sequenceNumber(parent.creates) : request.path;
  if (database.find(path) !== undefined) return Err.nodeExists;
  if (parent.owner !== undefined) return Err.noChildrenForEphemerals;
  if (database.quotas.forbids(database, path, { count: 1, bytes: request.data.length })) return Err.quotaExceeded;
  const owner = (request.flags & CreateFlag.ephemeral) !== 0 ? sessionId : undefined;
  const open = database.accessLists.find(acls) === OPEN_LIST;
  return { type: 'create', path, data: request.data, owner, acls: open ? undefined : acls };
}

function sequenceNumber(value: number): string {
  return String(value).padStart(10, '0');
}

function isSystemNode(path: string): boolean {
  return SYSTEM_NODES.some((node) => node.path === path);
}
