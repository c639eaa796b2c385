import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { ClosedError, InvalidInputError, MidonetError } from '../../errors.js';
import { isSystemError, loadNative, type Native } from '../netlink/native.js';

const CLONE_NEWNET = 0x4000_0000;

/** A network namespace does not exist, is something else, or cannot be entered. */
export class NamespaceError extends MidonetError {
  constructor(
    readonly path: string,
    why: string,
    options?: ErrorOptions,
  ) {
    super('MN_NAMESPACE', `network namespace ${path}: ${why}`, options);
  }
}

/**
 * An open network namespace. Holding it open keeps the namespace in existence after its last process and its file are
 * gone. Whoever opened it closes it.
 */
export class Namespace {
  #fd: number;
  /** The same text for all ways to the same namespace of this kernel, and for no other that exists at the same time. */
  readonly identity: string;

  private constructor(
    readonly path: string,
    fd: number,
    readonly native: Native,
  ) {
    this.#fd = fd;
    const { dev, ino } = fstatSync(fd);
    this.identity = `${dev}:${ino}`;
  }

  /**
   * @param path of a file in /run/netns or /proc/PID/ns/net
   * @throws NamespaceError if there is none or it is not a network namespace
   */
  static open(path: string, native: Native = loadNative()): Namespace {
    let fd: number;
    try {
      // Opening a FIFO or a terminal by mistake must not hang.
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      const why = code === 'ENOENT' ? 'not found' : `cannot be opened (${code ?? error})`;
      throw new NamespaceError(path, why, { cause: error });
    }
    try {
      if (native.namespaceType(fd) !== CLONE_NEWNET) {
        throw new NamespaceError(path, 'not a network namespace');
      }
      return new Namespace(path, fd, native);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** The namespace this thread is in. */
  static current(native: Native = loadNative()): Namespace {
    return Namespace.open('/proc/thread-self/ns/net', native);
  }

  /** The descriptor, valid until {@link Namespace.close}. @throws ClosedError */
  get fd(): number {
    if (this.#fd < 0) {
      throw new ClosedError(`network namespace ${this.path}`);
    }
    return this.#fd;
  }

  /**
   * Call `action` with this thread in the namespace. Sockets it opens stay there; what it awaits does not, so it must
   * not return a promise.
   * @throws NamespaceError if the namespace cannot be entered; and what `action` throws
   */
  run<T>(action: () => T): T {
    let result: T;
    let entered = false;
    try {
      result = this.native.withNamespace(this.fd, () => {
        entered = true;
        return action();
      });
    } catch (error) {
      if (!entered && isSystemError(error)) {
        throw new NamespaceError(this.path, `cannot be entered (${error.message})`, { cause: error });
      }
      throw error;
    }
    if (typeof result === 'object' && result !== null && 'then' in result) {
      throw new InvalidInputError('action', 'a promise', 'expected a synchronous function');
    }
    return result;
  }

  /** May be called again. */
  close(): void {
    if (this.#fd >= 0) {
      closeSync(this.#fd);
      this.#fd = -1;
    }
  }
}
