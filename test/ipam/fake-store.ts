import { parentPath } from '../../src/nsdb/path.js';
import {
  NodeExistsError,
  NodeNotEmptyError,
  NodeNotFoundError,
  type Stat,
  type Store,
  type StoreEvent,
  type StoreNode,
  type StoreOperation,
  type StoreOperationResult,
  type StoreState,
  StoreUnavailableError,
  VersionConflictError,
} from '../../src/nsdb/store.js';

/** The tree itself, shared by the stores of several hosts. Persistent nodes only. */
export class FakeTree {
  readonly nodes = new Map<string, { data: Uint8Array; version: number }>([
    ['/', { data: new Uint8Array(), version: 0 }],
  ]);

  childrenOf(path: string): string[] {
    const prefix = path === '/' ? '/' : `${path}/`;
    const names: string[] = [];
    for (const key of this.nodes.keys()) {
      if (key !== '/' && key.startsWith(prefix) && !key.slice(prefix.length).includes('/')) {
        names.push(key.slice(prefix.length));
      }
    }
    return names.sort();
  }

  apply(operations: readonly StoreOperation[], single: boolean): StoreOperationResult[] {
    const undo: [string, { data: Uint8Array; version: number } | undefined][] = [];
    try {
      return operations.map((operation, index) => this.#one(operation, single ? undefined : index, undo));
    } catch (error) {
      for (const [path, node] of undo.reverse()) {
        if (node === undefined) this.nodes.delete(path);
        else this.nodes.set(path, node);
      }
      throw error;
    }
  }

  #one(
    operation: StoreOperation,
    index: number | undefined,
    undo: [string, { data: Uint8Array; version: number } | undefined][],
  ): StoreOperationResult {
    const { path } = operation;
    const node = this.nodes.get(path);
    if (operation.type === 'create') {
      if (!this.nodes.has(parentPath(path) ?? '/')) throw new NodeNotFoundError(parentPath(path) ?? '/', index);
      if (node !== undefined) throw new NodeExistsError(path, index);
      undo.push([path, undefined]);
      this.nodes.set(path, { data: operation.data, version: 0 });
      return { path };
    }
    if (node === undefined) throw new NodeNotFoundError(path, index);
    if (operation.version !== undefined && operation.version !== node.version) {
      throw new VersionConflictError(path, index);
    }
    undo.push([path, node]);
    if (operation.type === 'set') {
      this.nodes.set(path, { data: operation.data, version: node.version + 1 });
      return { path, stat: statOf(this.nodes.get(path)!) };
    }
    if (operation.type === 'delete') {
      if (this.childrenOf(path).length > 0) throw new NodeNotEmptyError(path, index);
      this.nodes.delete(path);
    }
    return { path };
  }
}

function statOf(node: { data: Uint8Array; version: number }): Stat {
  return {
    czxid: 1,
    mzxid: 1,
    pzxid: 1,
    ctime: 0,
    mtime: 0,
    version: node.version,
    cversion: 0,
    aversion: 0,
    ephemeralOwner: undefined,
    dataLength: node.data.length,
    numChildren: 0,
  };
}

/**
 * A host's view of a {@link FakeTree}. `down` fails every call; `fault` is asked before each change: 'before' fails it
 * unmade, 'after' makes it and says that the outcome is unknown, 'late' makes it at the next turn of {@link settleLate}.
 */
export class FakeStore
  implements
    Pick<
      Store,
      'state' | 'get' | 'exists' | 'children' | 'create' | 'set' | 'delete' | 'multi' | 'ensure' | 'sync' | 'onState'
    >
{
  down = false;
  calls = 0;
  fault: () => 'none' | 'before' | 'after' | 'late' = () => 'none';
  #late: (() => void)[] = [];
  readonly #listeners = new Set<(event: StoreEvent) => void>();
  /** Called before each answer: lets a test interleave. */
  pause: () => Promise<void> = async () => {};

  constructor(readonly tree: FakeTree) {}

  get state(): StoreState {
    return this.down ? 'disconnected' : 'connected';
  }

  onState(listener: (event: StoreEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  emit(event: StoreEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  /** What was on its way arrives. */
  settleLate(): void {
    for (const change of this.#late.splice(0)) change();
  }

  async #enter(operation: string, path: string): Promise<void> {
    this.calls += 1;
    await this.pause();
    if (this.down) throw new StoreUnavailableError(operation, path, false, 'not connected');
  }

  async #change(operations: readonly StoreOperation[], single: boolean): Promise<StoreOperationResult[]> {
    const { type, path } = operations[0];
    await this.#enter(type, path);
    const fault = this.fault();
    if (fault === 'before') throw new StoreUnavailableError(type, path, false, 'injected');
    if (fault === 'late') {
      this.#late.push(() => {
        try {
          this.tree.apply(operations, single);
        } catch {
          // Nobody waits for the answer any more.
        }
      });
      throw new StoreUnavailableError(type, path, true, 'injected');
    }
    const result = this.tree.apply(operations, single);
    if (fault === 'after') throw new StoreUnavailableError(type, path, true, 'injected');
    await this.pause();
    return result;
  }

  async get(path: string): Promise<StoreNode | undefined> {
    await this.#enter('get', path);
    const node = this.tree.nodes.get(path);
    return node && { data: node.data, stat: statOf(node) };
  }

  async exists(path: string): Promise<Stat | undefined> {
    return (await this.get(path))?.stat;
  }

  async children(path: string): Promise<string[] | undefined> {
    await this.#enter('children', path);
    return this.tree.nodes.has(path) ? this.tree.childrenOf(path) : undefined;
  }

  async create(path: string, data: Uint8Array): Promise<string> {
    return (await this.#change([{ type: 'create', path, data }], true))[0].path;
  }

  async set(path: string, data: Uint8Array, version?: number): Promise<Stat> {
    return (await this.#change([{ type: 'set', path, data, version }], true))[0].stat!;
  }

  async delete(path: string, version?: number): Promise<void> {
    await this.#change([{ type: 'delete', path, version }], true);
  }

  async multi(operations: readonly StoreOperation[]): Promise<StoreOperationResult[]> {
    return this.#change(operations, false);
  }

  async ensure(path: string): Promise<void> {
    await this.#enter('ensure', path);
    const names = path.split('/').slice(1);
    for (let i = 1; i <= names.length; i++) {
      const part = `/${names.slice(0, i).join('/')}`;
      if (!this.tree.nodes.has(part)) this.tree.nodes.set(part, { data: new Uint8Array(), version: 0 });
    }
  }

  async sync(): Promise<void> {
    await this.#enter('sync', '/');
  }
}

/** A tree with one host folder each and one pool, as TopologyRepository makes them. */
export async function seedTree(tree: FakeTree, hostIds: readonly string[], poolIds: readonly string[]): Promise<void> {
  const store = new FakeStore(tree);
  for (const id of hostIds) await store.ensure(`/hosts/${id}/leases`);
  for (const id of poolIds) await store.ensure(`/address-pools/${id}/blocks`);
}
