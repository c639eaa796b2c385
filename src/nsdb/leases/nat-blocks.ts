import * as z from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { formatIp, parseIp } from '../../packet/ip.js';
import { validate } from '../../topology/validate.js';
import { deleteIfEmpty } from '../delete-if.js';
import { decodeJson } from '../json.js';
import { deviceNatBlocksPath, hostLeasesPath, natBlocksPath, natSpaceId } from '../layout.js';
import { joinPath, nodeName } from '../path.js';
import type { Store, StoreNode, Watch } from '../store.js';
import { LeaseRegistry, type LeaseSpace, type LeaseStore, type OwnedLease } from './lease-registry.js';
import { type Lease, leaseSchema } from './leases.js';

/** Ports of a block. There are 1024 blocks for each address, as in the original. */
export const NAT_BLOCK_PORTS = 64;
const LAST_PORT = 0xffff;
/** Those below are for services; they are handed out only when a range asks for them. */
const FIRST_UNASKED_PORT = 1024;
/** How long a change that was sent may take to be made after its sender has given up. */
const LATE_MS = 30_000;

/** Source ports `first` to `last` of an address, which a device may translate to on this host. */
export interface NatBlock {
  readonly deviceId: string;
  /** Canonical text, IPv4 or IPv6. */
  readonly address: string;
  readonly first: number;
  readonly last: number;
}

export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** Every block of the range belongs to a host. */
export class NatExhaustedError extends MidonetError {
  constructor(
    readonly deviceId: string,
    readonly address: string,
    range: PortRange,
    held: number,
  ) {
    super(
      'MN_NAT_EXHAUSTED',
      `device ${deviceId}, address ${address}: every block of ports ${range.first} to ${range.last} belongs to a host, ` +
        `${held} of them to this one`,
    );
  }
}

/** One device and address, as this host knows it. */
interface Space {
  readonly deviceId: string;
  readonly address: string;
  readonly registry: LeaseRegistry;
  /** Handed out by {@link NatBlocks.take} or {@link NatBlocks.load}, by name. */
  readonly held: Map<string, OwnedLease>;
  /** Leased by this host, but by an earlier run of it, or by a `take` whose answer was lost: handed out first. */
  readonly spare: Map<string, OwnedLease>;
  /** When to compare with the NSDB before the next change: at once, and again when nothing can be on its way any more. */
  checks: number[];
  /** One change after the other. */
  queue: Promise<unknown>;
}

export interface NatBlocksOptions {
  readonly store: LeaseStore;
  readonly hostId: string;
  /** Under which others send this host replies to what it has translated for a device; none if absent. */
  readonly tunnelKey?: (deviceId: string) => number;
  /** Told of a block that was handed out and belongs to another host: it must not be used any more. */
  readonly onLost: (block: NatBlock) => void;
  /** Milliseconds; any origin. */
  readonly now?: () => number;
}

/**
 * The blocks of source ports that this host leases, so that it translates addresses (SNAT) without asking anybody, and that
 * any gateway finds the host a reply is for. Leases stay over a restart of the agent: the connections in the kernel do.
 */
export class NatBlocks {
  readonly #options: NatBlocksOptions;
  readonly #spaces = new Map<string, Space>();

  constructor(options: NatBlocksOptions) {
    this.#options = options;
  }

  /**
   * Every block that this host has leased, for any device and address; to be called at the start, for what an earlier run took.
   * They count as handed out: {@link release} those that are not needed.
   */
  async load(signal?: AbortSignal): Promise<NatBlock[]> {
    const { store, hostId } = this.#options;
    const folder = hostLeasesPath(hostId);
    await store.sync(folder, { signal });
    for (const id of (await store.children(folder, { signal })) ?? []) {
      const [deviceId, address] = id.split(',');
      if (address !== undefined) this.#space(deviceId, address);
    }
    await this.reconcile(signal);
    const blocks: NatBlock[] = [];
    for (const space of this.#spaces.values()) {
      for (const [name, lease] of space.spare) space.held.set(name, lease);
      space.spare.clear();
      for (const name of space.held.keys()) blocks.push(blockOf(space, name));
    }
    return blocks;
  }

  /** Every device and address of which anything is, or may be, leased. */
  addresses(): { readonly deviceId: string; readonly address: string }[] {
    return [...this.#spaces.values()].map(({ deviceId, address }) => ({ deviceId, address }));
  }

  /**
   * Lease one more block of ports of the address. One that this host has leased already but that was not handed out since its
   * start comes first. Two messages, however many are taken.
   * @param options.range ports that the block shall have at least one of; the rest of the block is this host's as well
   * @throws NatExhaustedError, StoreUnavailableError, InvalidInputError, ObjectNotFoundError if the host is not in the NSDB
   */
  async take(
    deviceId: string,
    address: string,
    options: { readonly range?: PortRange; readonly signal?: AbortSignal } = {},
  ): Promise<NatBlock> {
    const { range = { first: FIRST_UNASKED_PORT, last: LAST_PORT }, signal } = options;
    checkRange(range);
    return this.#exclusive(this.#space(checkDevice(deviceId), canonical(address)), async (space) => {
      await this.#checkIfDue(space, signal);
      const wanted = this.#registry(space.deviceId, space.address, range);
      const spare = [...space.spare.values()].find(({ name }) => wanted.space.has(name));
      const lease = spare ?? (await this.#doubting(space, () => wanted.takeAny(signal)));
      if (lease === undefined) throw new NatExhaustedError(space.deviceId, space.address, range, space.held.size);
      space.spare.delete(lease.name);
      space.held.set(lease.name, lease);
      return blockOf(space, lease.name);
    });
  }

  /**
   * Give a block back, when no connection uses it and none has for a while: its next owner may be any host. Succeeds when it
   * is not this host's any more.
   */
  async release(block: NatBlock, signal?: AbortSignal): Promise<void> {
    await this.#exclusive(this.#space(block.deviceId, block.address), async (space) => {
      const { held, spare, registry } = space;
      const name = blockName(block.first);
      const before = held.get(name) ?? spare.get(name);
      if (before === undefined) return;
      // Should this fail, it is released once more, or the next that takes a block gets it.
      held.delete(name);
      spare.set(name, before);
      await this.#checkIfDue(space, signal);
      const lease = spare.get(name);
      if (lease === undefined) return;
      await this.#doubting(space, () => registry.release(lease, signal));
      spare.delete(name);
    });
  }

  /**
   * Nothing is wanted of the address any more: blocks of which nobody knew, from changes whose answers were lost, are given back, and
   * what was made in the NSDB for leases of it is removed, unless others have some.
   * @returns false when blocks are held, or changes may still be on their way
   */
  async forget(deviceId: string, address: string, signal?: AbortSignal): Promise<boolean> {
    const { store, hostId } = this.#options;
    const id = natSpaceId(deviceId, address);
    const forgetting = this.#exclusive(this.#space(deviceId, address), async (space) => {
      await this.#checkIfDue(space, signal);
      for (const [name, lease] of space.spare) {
        await this.#doubting(space, () => space.registry.release(lease, signal));
        space.spare.delete(name);
      }
      if (space.held.size + space.checks.length > 0) return false;
      for (const folder of [natBlocksPath(deviceId, address), deviceNatBlocksPath(deviceId)]) {
        await deleteIfEmpty(store, folder, signal);
      }
      await deleteIfEmpty(store, joinPath(hostLeasesPath(hostId), id), signal);
      return true;
    });
    const space = this.#space(deviceId, address);
    const { queue } = space;
    const isForgotten = await forgetting;
    // Somebody may have asked for more meanwhile.
    if (isForgotten && space.queue === queue) this.#spaces.delete(id);
    return isForgotten;
  }

  /** Compare all blocks with the NSDB, after a session was lost: those handed out that it has forgotten are claimed again. */
  async reconcile(signal?: AbortSignal): Promise<void> {
    for (const space of this.#spaces.values()) await this.#exclusive(space, () => this.#check(space, signal));
  }

  /** The host that has leased a port of an address, or undefined. One message. */
  async ownerOf(deviceId: string, address: string, port: number, signal?: AbortSignal): Promise<string | undefined> {
    checkPort('port', port);
    const path = joinPath(natBlocksPath(checkDevice(deviceId), canonical(address)), blockName(port));
    const node = await this.#options.store.get(path, { signal });
    return node && decodeJson(leaseSchema, node.data, path).hostId;
  }

  async #checkIfDue(space: Space, signal?: AbortSignal): Promise<void> {
    const now = this.#now();
    if (space.checks.some((time) => time <= now)) await this.#check(space, signal);
  }

  /** Bring `held` and `spare` in line with the NSDB. */
  async #check(space: Space, signal?: AbortSignal): Promise<void> {
    const { held, spare, registry } = space;
    const began = this.#now();
    const own = new Map((await registry.own(signal)).map((lease) => [lease.name, lease]));
    for (const name of [...held.keys()]) {
      const lease = own.get(name) ?? (await registry.take(name, signal)) ?? (await registry.confirm(name, signal));
      if (lease !== undefined) {
        held.set(name, lease);
      } else {
        held.delete(name);
        this.#options.onLost(blockOf(space, name));
      }
    }
    spare.clear();
    for (const [name, lease] of own) if (!held.has(name)) spare.set(name, lease);
    space.checks = space.checks.filter((time) => time > began);
  }

  async #doubting<T>(space: Space, change: () => Promise<T>): Promise<T> {
    try {
      return await change();
    } catch (error) {
      space.checks = this.#checksFromNow();
      throw error;
    }
  }

  #checksFromNow(): number[] {
    const now = this.#now();
    return [now, now + LATE_MS];
  }

  #now(): number {
    return this.#options.now?.() ?? performance.now();
  }

  #exclusive<T>(space: Space, operation: (space: Space) => Promise<T>): Promise<T> {
    const result = space.queue.then(() => operation(space));
    space.queue = result.catch(() => undefined);
    return result;
  }

  #space(deviceId: string, address: string): Space {
    const id = natSpaceId(deviceId, address);
    let space = this.#spaces.get(id);
    if (space === undefined) {
      space = {
        deviceId,
        address,
        registry: this.#registry(deviceId, address, { first: 0, last: LAST_PORT }),
        held: new Map(),
        spare: new Map(),
        // An earlier run may have left blocks here, and changes on their way.
        checks: this.#checksFromNow(),
        queue: Promise.resolve(),
      };
      this.#spaces.set(id, space);
    }
    return space;
  }

  #registry(deviceId: string, address: string, range: PortRange): LeaseRegistry {
    const { store, hostId, tunnelKey } = this.#options;
    return new LeaseRegistry(store, hostId, {
      ...natSpace(deviceId, address, range),
      // Asked for at every writing: between two times that anything is leased for the device it may get another.
      get told() {
        return tunnelKey === undefined ? undefined : { tunnelKey: tunnelKey(deviceId) };
      },
    });
  }
}

export interface NatOwnersListener {
  /** A block, by its first port, and whose it is: at first, and at every change; undefined when it was released. */
  owner(first: number, lease: Lease | undefined): void;
  /** All blocks that were leased at the start of the watch have been told. */
  current?(): void;
  /** A block in the NSDB is not valid; nothing else is told of it. */
  invalid(error: Error): void;
}

/** Follow which hosts have leased the blocks of an address. A change is one small message. */
export function watchNatOwners(
  store: Pick<Store, 'watchTree'>,
  deviceId: string,
  address: string,
  listener: NatOwnersListener,
): Watch {
  const folder = natBlocksPath(checkDevice(deviceId), canonical(address));
  const follow = (path: string, node: StoreNode | undefined) => {
    const name = nodeName(path);
    if (path === folder) return;
    try {
      if (!isBlockName(name)) throw new InvalidInputError('NAT block', path, 'expected the first port of a block');
      listener.owner(Number(name), node && decodeJson(leaseSchema, node.data, path));
    } catch (error) {
      listener.invalid(error as Error);
    }
  };
  return store.watchTree(folder, follow, { onCurrent: () => listener.current?.() });
}

/** The blocks of an address that have ports of the range. */
function natSpace(deviceId: string, address: string, range: PortRange): LeaseSpace {
  const folder = natBlocksPath(deviceId, address);
  const begin = Math.floor(range.first / NAT_BLOCK_PORTS);
  const end = Math.floor(range.last / NAT_BLOCK_PORTS);
  return {
    id: natSpaceId(deviceId, address),
    of: undefined,
    folderCount: 1,
    folder: () => folder,
    sizeOf: () => end - begin + 1,
    nameAt: (_, i) => blockName((begin + i) * NAT_BLOCK_PORTS),
    path: (name) => joinPath(folder, name),
    has(name) {
      const block = Number(name) / NAT_BLOCK_PORTS;
      return isBlockName(name) && block >= begin && block <= end;
    },
  };
}

/** Name of the block that a port is in: its first port, five digits. */
function blockName(port: number): string {
  return String(port - (port % NAT_BLOCK_PORTS)).padStart(5, '0');
}

function isBlockName(name: string): boolean {
  return /^\d{5}$/.test(name) && Number(name) <= LAST_PORT && blockName(Number(name)) === name;
}

function blockOf({ deviceId, address }: Space, name: string): NatBlock {
  const first = Number(name);
  return { deviceId, address, first, last: first + NAT_BLOCK_PORTS - 1 };
}

function checkPort(field: string, port: number): void {
  if (!Number.isInteger(port) || port < 0 || port > LAST_PORT) {
    throw new InvalidInputError(field, port, `expected a port from 0 to ${LAST_PORT}`);
  }
}

function checkRange({ first, last }: PortRange): void {
  checkPort('range.first', first);
  checkPort('range.last', last);
  if (first > last) throw new InvalidInputError('range.last', last, `expected at least the first port, ${first}`);
}

function checkDevice(deviceId: string): string {
  return validate(z.uuid(), deviceId, 'deviceId');
}

function canonical(address: string): string {
  const ip = parseIp(address);
  if (ip === undefined) throw new InvalidInputError('address', address, 'expected an IPv4 or IPv6 address');
  return formatIp(ip);
}
