import type { LeaseStore } from '../../../src/nsdb/leases/lease-registry.js';
import type { CallOptions, CreateOptions, StoreOperation } from '../../../src/nsdb/store.js';

/** What every call of a process that has crashed ends with. */
export class Crashed extends Error {}

/** The store as a process sees it that crashes, or loses an answer, at a call of the test's choice. Counts the calls. */
export class MortalStore implements LeaseStore {
  calls = 0;
  dead = false;
  /** Asked at every call: `before` it is made the process dies, or `after`; `lost` makes it, fails, and lets the process live. */
  fate: () => 'live' | 'before' | 'after' | 'lost' = () => 'live';

  constructor(readonly store: LeaseStore) {}

  get(path: string, options?: CallOptions) {
    return this.#call(() => this.store.get(path, options));
  }

  exists(path: string, options?: CallOptions) {
    return this.#call(() => this.store.exists(path, options));
  }

  children(path: string, options?: CallOptions) {
    return this.#call(() => this.store.children(path, options));
  }

  create(path: string, data: Uint8Array, options?: CreateOptions) {
    return this.#call(() => this.store.create(path, data, options));
  }

  set(path: string, data: Uint8Array, version?: number, options?: CallOptions) {
    return this.#call(() => this.store.set(path, data, version, options));
  }

  delete(path: string, version?: number, options?: CallOptions) {
    return this.#call(() => this.store.delete(path, version, options));
  }

  multi(operations: readonly StoreOperation[], options?: CallOptions) {
    return this.#call(() => this.store.multi(operations, options));
  }

  ensure(path: string, options?: CallOptions) {
    return this.#call(() => this.store.ensure(path, options));
  }

  sync(path?: string, options?: CallOptions) {
    return this.#call(() => this.store.sync(path, options));
  }

  async #call<T>(call: () => Promise<T>): Promise<T> {
    this.calls += 1;
    const fate = this.dead ? 'before' : this.fate();
    if (fate === 'before') return this.#die();
    const result = await call();
    if (fate === 'live') return result;
    if (fate === 'lost') throw new Crashed('the answer was lost');
    return this.#die();
  }

  #die(): never {
    this.dead = true;
    throw new Crashed('the process has crashed');
  }
}
