import { InvalidInputError } from '../errors.js';

/** Longest path in UTF-16 units. ZooKeeper has no limit of its own but that of a request; this leaves room for data. */
export const MAX_PATH_LENGTH = 4096;

/**
 * Checks a node's path by ZooKeeper's rules (Programmer's Guide, "The ZooKeeper Data Model"): absolute, no empty, "."
 * or ".." segment, no trailing "/", no control or private-use characters. `prefixOnly` allows the trailing "/" of a
 * sequential node whose name is only its number.
 *
 * @throws InvalidInputError naming the path.
 */
export function checkPath(path: string, prefixOnly = false): string {
  const fault = pathFault(prefixOnly && path.length > 1 && path.endsWith('/') ? `${path}0` : path);
  if (fault !== undefined) throw new InvalidInputError('path', path, fault);
  return path;
}

/** What is wrong with a path, or undefined when nothing is. */
export function pathFault(path: string): string | undefined {
  if (typeof path !== 'string' || path.length === 0) return 'expected a non-empty string';
  if (path.length > MAX_PATH_LENGTH) return `expected at most ${MAX_PATH_LENGTH} characters`;
  if (path.charCodeAt(0) !== 0x2f) return 'expected an absolute path';
  if (path.length === 1) return undefined;
  if (path.endsWith('/')) return 'expected no trailing "/"';
  let start = 1;
  for (let i = 1; i <= path.length; i++) {
    const c = i === path.length ? 0x2f : path.charCodeAt(i);
    if (c === 0x2f) {
      const length = i - start;
      if (length === 0) return 'expected no empty segment';
      if (path.charCodeAt(start) === 0x2e && (length === 1 || (length === 2 && path.charCodeAt(start + 1) === 0x2e))) {
        return 'expected no "." or ".." segment';
      }
      start = i + 1;
    } else if (c < 0x20 || (c >= 0x7f && c <= 0x9f) || (c >= 0xd800 && c <= 0xf8ff) || c >= 0xfff0) {
      return 'expected no control, surrogate or private-use character';
    }
  }
  return undefined;
}

/** `/a/b` → `/a`, `/a` → `/`. The root has no parent: undefined. */
export function parentPath(path: string): string | undefined {
  if (path === '/') return undefined;
  const slash = path.lastIndexOf('/');
  return slash === 0 ? '/' : path.slice(0, slash);
}

/** `/a/b` → `b`. Of the root: the empty string. */
export function nodeName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** `join('/a', 'b')` → `/a/b`, `join('/', 'b')` → `/b`. */
export function joinPath(parent: string, name: string): string {
  return parent === '/' ? `/${name}` : `${parent}/${name}`;
}
