import { InvalidInputError, UnsupportedError } from '../../errors.js';
import { parentPath } from '../path.js';
import { type JuteReader, WireProtocolError } from '../protocol/jute.js';
import { Err, Op, readMultiHeader, readStat } from '../protocol/records.js';
import {
  EphemeralParentError,
  NodeExistsError,
  NodeNotEmptyError,
  NodeNotFoundError,
  QuotaExceededError,
  type Stat,
  StoreAuthError,
  StoreFrozenError,
  StoreFullError,
  type StoreNode,
  type StoreOperation,
  type StoreOperationResult,
  StoreUnavailableError,
  VersionConflictError,
} from '../store.js';

/** The error a server's code stands for. `operation` is a name for the message; `create` blames a missing parent. */
export function errorOf(code: number, operation: string, path: string, index?: number): Error {
  switch (code) {
    case Err.noNode:
      return new NodeNotFoundError(operation === 'create' ? (parentPath(path) ?? path) : path, index);
    case Err.nodeExists:
      return new NodeExistsError(path, index);
    case Err.badVersion:
      return new VersionConflictError(path, index);
    case Err.notEmpty:
      return new NodeNotEmptyError(path, index);
    case Err.noChildrenForEphemerals:
      return new EphemeralParentError(path, index);
    case Err.quotaExceeded:
      return new QuotaExceededError(path, index);
    case Err.noAuth:
      return new StoreAuthError(path, `not allowed to ${operation}`, index);
    case Err.invalidAcl:
    case Err.authFailed:
      return new StoreAuthError(path, 'the server refused the access list or the credentials', index);
    case Err.authRequired:
      return new StoreAuthError(path, 'the server takes only clients that authenticate', index);
    case Err.sessionExpired:
      return new StoreUnavailableError(operation, path, false, 'the session has expired');
    case Err.sessionMoved:
      return new StoreUnavailableError(operation, path, false, 'the session has been taken up at another server');
    case Err.throttled:
      return new StoreUnavailableError(operation, path, false, 'the server has too much to do');
    case Err.systemError:
      return new StoreFullError(operation, path, index);
    case Err.notReadOnly:
      return new StoreFrozenError(operation, path);
    case Err.badArguments:
      return new InvalidInputError('path', path, 'expected a path the server takes');
    case Err.unimplemented:
      return new UnsupportedError(operation, 'the server does not know this operation');
    default:
      return new WireProtocolError(`${operation} ${path} failed with code ${code}`);
  }
}

/** What went wrong, unless the answer is what was asked for, or that there is nothing of the kind. */
export function failureOf(operation: string, path: string, err: number): Error | undefined {
  if (err === Err.ok) return undefined;
  const isRead = operation === 'get' || operation === 'exists' || operation === 'children';
  if (isRead && err === Err.noNode) return undefined;
  if (operation === 'unwatch' && err === Err.noWatcher) return undefined;
  return errorOf(err, operation, path);
}

/** The answer to getData. */
export function readNode(err: number, r: JuteReader): StoreNode | undefined {
  if (err === Err.noNode) return undefined;
  // A copy: what is kept must not keep the whole chunk alive that came from the socket.
  const data = Buffer.from(r.bytes());
  return { data, stat: readStat(r) };
}

/** The answer to exists. */
export function readExists(err: number, r: JuteReader): Stat | undefined {
  return err === Err.noNode ? undefined : readStat(r);
}

/** The answer to getChildren, sorted. */
export function readNames(err: number, r: JuteReader): string[] | undefined {
  return err === Err.noNode ? undefined : r.strings().sort();
}

/** The parts of a multi's answer. `strip` takes the chroot off a path. */
export function readMultiReply(
  r: JuteReader,
  operations: readonly StoreOperation[],
  strip: (path: string) => string,
): StoreOperationResult[] {
  const results: StoreOperationResult[] = [];
  const codes: number[] = [];
  for (;;) {
    const { type, done, err } = readMultiHeader(r);
    if (done) break;
    const { path } = operations[results.length + codes.length] ?? { path: '?' };
    switch (type) {
      case Op.error:
        codes.push(r.int());
        break;
      case Op.create:
        results.push({ path: strip(r.string()) });
        break;
      case Op.setData:
        results.push({ path, stat: readStat(r) });
        break;
      case Op.delete:
      case Op.check:
        results.push({ path });
        break;
      default:
        throw new WireProtocolError(`part of type ${type}, error ${err}, in the answer to a multi`);
    }
  }
  if (codes.length > 0) {
    // Parts before the one that failed have code 0, those after it "runtime inconsistency".
    const blamed = codes.findIndex((code) => code !== Err.ok && code !== Err.runtimeInconsistency);
    const index = blamed === -1 ? codes.findIndex((code) => code !== Err.ok) : blamed;
    const operation = operations[index];
    if (operation === undefined) throw new WireProtocolError('a multi failed without saying where');
    throw errorOf(codes[index], operation.type, operation.path, index);
  }
  if (results.length !== operations.length) {
    throw new WireProtocolError(`${results.length} parts in the answer to a multi of ${operations.length}`);
  }
  return results;
}
