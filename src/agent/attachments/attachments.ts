import { mkdir, readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import type { Datapath } from '../../datapath/datapath.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import type { Ipam } from '../../ipam/ipam.js';
import type { PoolAllocator } from '../../ipam/pool-allocator.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { MAC_TABLE } from '../../nsdb/tables/tables.js';
import { formatMac, requireMac } from '../../packet/address.js';
import { cidrContains, formatIp, parseCidr, parseIp } from '../../packet/ip.js';
import { readStateFolder, writeStateFile } from '../../state-file.js';
import { idFromName } from '../../topology/id.js';
import { addressPoolSchema, type BridgePort, bridgePortSchema } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import type { LocalPorts } from '../ports/local-ports.js';
import { type ContainerInterfaces, InterfaceNameTakenError, type InterfaceRoute } from './container-interfaces.js';
import type { Network } from './networks.js';

/** What identifies an attachment: a container may have several interfaces, also in one network. */
export interface AttachmentKey {
  readonly network: string;
  readonly containerId: string;
  readonly interfaceName: string;
}

/** A container's interface to make. */
export interface AttachmentRequest {
  readonly network: Network;
  readonly containerId: string;
  readonly interfaceName: string;
  /** Path of the container's network namespace. */
  readonly namespacePath: string;
  readonly mtu: number;
  /** MAC address as text; follows from the first address if undefined. */
  readonly mac?: string;
  /** Addresses asked for, at most one a pool; pools without one give the next free address. */
  readonly addresses: readonly string[];
  /** Whether pools with a gateway give a default route. */
  readonly defaultRoute: boolean;
  /** The front end, see `Port.owner`. */
  readonly owner: string;
}

const addressSchema = z.strictObject({
  address: z.string(),
  prefix: z.int(),
  gateway: z.string().optional(),
  /** In full, so that the address can be released whatever has become of the network. */
  pool: addressPoolSchema,
});

const recordSchema = z.strictObject({
  /** `adding` and `removing`: to be undone after a restart. */
  state: z.enum(['adding', 'attached', 'removing']),
  network: z.string(),
  containerId: z.string(),
  interfaceName: z.string(),
  namespacePath: z.string(),
  /** Tells the namespace from a later one at the same path. */
  namespaceIdentity: z.string(),
  /** Boot of the kernel: no namespace survives it. */
  bootId: z.string(),
  hostInterface: z.string(),
  hostMac: z.string(),
  mac: z.string(),
  mtu: z.int(),
  addresses: z.array(addressSchema),
  routes: z.array(z.strictObject({ destination: z.string(), gateway: z.string().optional() })),
  port: bridgePortSchema,
});

/** An attachment as the journal keeps it. */
export type Attachment = z.output<typeof recordSchema>;

export interface AttachmentsOptions {
  readonly hostId: string;
  /** Folder on disk, made if need be: one file an attachment. */
  readonly folder: string;
  readonly ipam: Ipam;
  readonly interfaces: ContainerInterfaces;
  readonly localPorts: LocalPorts;
  /** Asked, while the NSDB can be reached, whose a MAC address is that a container asks for. */
  readonly repository?: Pick<TopologyRepository, 'store' | 'get'>;
  /** Asked by {@link Attachments.check}. */
  readonly datapath?: Pick<Datapath, 'ports'>;
  readonly warn: (message: string, error?: unknown) => void;
  /** Identifies the boot of the kernel; read from /proc if undefined. */
  readonly bootId?: string;
}

/** What an attachment is to be found as, where that may differ from what was made: others may have changed it since. */
export interface ListedAttachment {
  readonly mac?: string;
  readonly mtu?: number;
  /** Of the routes that were made those that are not listed are not looked for. */
  readonly routes?: readonly InterfaceRoute[];
}

/** The MAC address asked for belongs to another port of the bridge. */
export class MacInUseError extends MidonetError {
  constructor(
    readonly mac: string,
    by: string,
  ) {
    super('MN_ADDRESS_IN_USE', `MAC address ${mac} is taken: ${by} has it`);
  }
}

/** Something that an attachment consists of is missing or not as it was made. */
export class AttachmentDamagedError extends MidonetError {
  constructor(key: AttachmentKey, what: string) {
    super('MN_CONFLICT', `attachment ${describe(key)}: ${what}`);
  }
}

/** There is no such attachment. */
export class AttachmentNotFoundError extends MidonetError {
  constructor(key: AttachmentKey) {
    super('MN_NOT_FOUND', `there is no attachment ${describe(key)}`);
  }
}

/** What {@link Attachments.recover} found. */
export interface Recovery {
  /** Attached again to the datapath. */
  readonly attached: number;
  /** Kept, with their addresses, although their interface is gone: the runtime has not removed them yet. */
  readonly dead: number;
  /** Half made or half removed before the restart, or from before the kernel was booted: undone. */
  readonly undone: number;
  /** Interfaces nobody knows of: removed. */
  readonly strays: number;
}

/** After what time something that failed in the background is tried again. */
const RETRY_MS = 5000;

/** Interfaces that are made here, and nothing else, have names of this form. */
const HOST_INTERFACE = /^mn[0-9a-f]{10}$/;

/**
 * The interfaces of containers on this host. Each is written to a journal before the first thing is made and after the last,
 * so that a crash at any point leaves nothing behind: {@link recover} undoes what was not finished. The journal is also the
 * one record of which addresses are in use.
 */
export class Attachments {
  readonly #options: AttachmentsOptions;
  readonly #bootId: string;
  readonly #records = new Map<string, Attachment>();
  /** The last operation on each attachment; the next one waits for it. */
  readonly #running = new Map<string, Promise<void>>();
  /** Attachments that nobody waits for and that are not as their record says, see {@link retry}. */
  readonly #unfinished = new Set<string>();
  #retryTimer: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(options: AttachmentsOptions, bootId: string) {
    this.#options = options;
    this.#bootId = bootId;
  }

  /** Reads the journal and marks its addresses as in use. {@link recover} must follow before the first add. */
  static async open(options: AttachmentsOptions): Promise<Attachments> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    const bootId = options.bootId ?? (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    const attachments = new Attachments(options, bootId);
    const records = await readStateFolder(
      options.folder,
      (value, name) => {
        const record = validate(recordSchema, value, name);
        if (record.port.id !== name) throw new InvalidInputError(`${name}.port.id`, record.port.id, `expected ${name}`);
        return record;
      },
      ({ path, movedTo, error }) => options.warn(`${path} is damaged, moved to ${movedTo}`, error),
    );
    for (const [id, record] of records) {
      attachments.#records.set(id, record);
      for (const { address, pool } of record.addresses) options.ipam.pool(pool).adopt(address);
    }
    return attachments;
  }

  /** Every attachment that is not being made or removed. */
  list(): Attachment[] {
    return [...this.#records.values()].filter((record) => record.state === 'attached');
  }

  get(key: AttachmentKey): Attachment | undefined {
    const record = this.#records.get(portId(key));
    return record?.state === 'attached' ? record : undefined;
  }

  /** Bring host, journal and datapath in agreement after a start. Does not wait for the NSDB. */
  async recover(signal?: AbortSignal): Promise<Recovery> {
    const { interfaces, localPorts, warn } = this.#options;
    const present = await interfaces.hostInterfaces(signal);
    const found = { attached: 0, dead: 0, undone: 0, strays: 0 };
    const known = new Set([...this.#records.values()].map((record) => record.hostInterface));
    await Promise.all(
      [...this.#records.entries()].map(async ([id, record]) => {
        if (record.state !== 'attached' || record.bootId !== this.#bootId) {
          await this.#undo(record);
          found.undone += 1;
        } else if (!present.has(record.hostInterface)) {
          found.dead += 1;
          try {
            await localPorts.detach(id, signal);
          } catch (error) {
            signal?.throwIfAborted();
            this.#retryLater(id);
            warn(`attachment ${describe(record)} (port ${id}) cannot be detached from the datapath yet`, error);
          }
        } else {
          try {
            await localPorts.attach(record.port, record.hostInterface, signal);
            found.attached += 1;
          } catch (error) {
            signal?.throwIfAborted();
            found.dead += 1;
            this.#retryLater(id);
            warn(`attachment ${describe(record)} (port ${id}) cannot be attached to the datapath again yet`, error);
          }
        }
      }),
    );
    for (const name of present.keys()) {
      if (!HOST_INTERFACE.test(name) || known.has(name)) continue;
      try {
        await interfaces.remove(name);
        found.strays += 1;
      } catch (error) {
        warn(`interface ${name} belongs to no attachment and cannot be removed`, error);
      }
    }
    return found;
  }

  /**
   * Make an interface in a container. Whatever goes wrong, nothing is left of it.
   * @throws InterfaceNameTakenError, NamespaceError, PoolExhaustedError, AddressInUseError, MacInUseError,
   *   StoreUnavailableError,
   *   InvalidInputError, DatapathError, NetlinkError
   */
  async add(request: AttachmentRequest, signal?: AbortSignal): Promise<Attachment> {
    const id = portId({ ...request, network: request.network.name });
    return this.#serially(id, async () => {
      signal?.throwIfAborted();
      const namespaceIdentity = this.#options.interfaces.namespaceIdentity(request.namespacePath);
      await this.#clearWay(id, request, signal);
      await this.#requireFreeMac(id, request, signal);
      const reserved: Reserved[] = [];
      let record: Attachment | undefined;
      try {
        await this.#reserve(request, reserved, signal);
        record = this.#newRecord(id, request, namespaceIdentity, reserved);
        this.#records.set(id, record);
        this.#write(record);
        await this.#options.interfaces.create(
          { ...record, hostName: record.hostInterface, name: record.interfaceName, alias: aliasOf(record) },
          signal,
        );
        await this.#options.localPorts.attach(record.port, record.hostInterface, signal);
        signal?.throwIfAborted();
        record = { ...record, state: 'attached' };
        this.#write(record);
        this.#records.set(id, record);
        return record;
      } catch (error) {
        if (record === undefined) for (const { allocator, address } of reserved) allocator.release(address);
        else await this.#undo(record);
        throw error;
      }
    });
  }

  /** An attachment of the same key must be dead to be replaced. */
  async #clearWay(id: string, request: AttachmentRequest, signal?: AbortSignal): Promise<void> {
    const before = this.#records.get(id);
    if (before !== undefined) {
      if (
        before.state === 'attached' &&
        (await this.#options.interfaces.hostInterfaces(signal)).has(before.hostInterface)
      ) {
        throw new InterfaceNameTakenError(request.interfaceName, before.namespacePath);
      }
      await this.#removeRecord(before);
    }
    const hostInterface = hostInterfaceName(id);
    for (const [other, record] of this.#records) {
      if (other !== id && record.hostInterface === hostInterface) {
        throw new MidonetError(
          'MN_ALREADY_EXISTS',
          `interface ${hostInterface} belongs to attachment ${describe(record)}`,
        );
      }
    }
  }

  /** @throws MacInUseError if another port of the bridge, bound to any host, has the address */
  async #requireFreeMac(id: string, request: AttachmentRequest, signal?: AbortSignal): Promise<void> {
    const { mac, network, owner } = request;
    const { repository, hostId, warn } = this.#options;
    if (mac === undefined) return;
    this.#requireOwnMac(id, network.bridgeId, mac);
    if (repository === undefined || repository.store.state !== 'connected') return;
    try {
      const table = new SharedTable(repository.store, MAC_TABLE, network.bridgeId);
      const entry = await table.get(requireMac(mac, 'mac'), { signal });
      // A learned address follows its machine.
      if (entry === undefined || entry.isLearned) return;
      const { portId } = entry.value;
      if (portId === id) return;
      const port = (await repository.get('port', portId, signal))?.object;
      // What was attached here and is no more is about to go from the NSDB.
      if (port === undefined || (port.owner === owner && port.binding?.hostId === hostId)) return;
      throw new MacInUseError(mac, `port ${portId}${port.binding ? ` of host ${port.binding.hostId}` : ''}`);
    } catch (error) {
      if (!(error instanceof MidonetError && error.code === 'MN_STORE_UNAVAILABLE')) throw error;
      warn(`whether another host has MAC address ${mac} is not known`, error);
    }
  }

  /** @throws MacInUseError if another attachment of this host has the address */
  #requireOwnMac(id: string, bridgeId: string, mac: string): void {
    for (const [other, record] of this.#records) {
      if (other !== id && record.mac === mac && record.port.bridgeId === bridgeId) {
        throw new MacInUseError(mac, describe(record));
      }
    }
  }

  /** Take an address of each pool; those taken so far are in `reserved` when it throws. */
  async #reserve(request: AttachmentRequest, reserved: Reserved[], signal?: AbortSignal): Promise<void> {
    const asked = assignAddresses(request);
    for (const pool of request.network.pools) {
      const allocator = this.#options.ipam.pool(pool);
      const wanted = asked.get(pool.id);
      const address =
        wanted === undefined ? await allocator.allocate(signal) : await allocator.request(wanted, 'ips', signal);
      reserved.push({ allocator, address });
    }
  }

  #newRecord(
    id: string,
    request: AttachmentRequest,
    namespaceIdentity: string,
    reserved: readonly Reserved[],
  ): Attachment {
    const { network, containerId, interfaceName, namespacePath, mtu, owner } = request;
    const hostInterface = hostInterfaceName(id);
    // An address that is used again has the same MAC, so what others have in their neighbour caches stays right.
    const mac = request.mac ?? macOf(idFromName('mac', network.bridgeId, reserved[0]?.address ?? id), 0x02);
    // Again: another call may have asked for it meanwhile.
    this.#requireOwnMac(id, network.bridgeId, mac);
    const routes: InterfaceRoute[] = [];
    for (const { allocator } of reserved) {
      const { gateway } = allocator.pool;
      if (gateway === undefined || !request.defaultRoute) continue;
      routes.push({ destination: allocator.layout.range.family === 4 ? '0.0.0.0/0' : '::/0', gateway });
    }
    const port: BridgePort = {
      id,
      bridgeId: network.bridgeId,
      adminStateUp: true,
      mac,
      addresses: reserved.map(({ address }) => address),
      binding: { hostId: this.#options.hostId, interfaceName: hostInterface },
      owner,
    };
    return {
      state: 'adding',
      network: network.name,
      containerId,
      interfaceName,
      namespacePath,
      namespaceIdentity,
      bootId: this.#bootId,
      hostInterface,
      hostMac: macOf(id, 0x06),
      mac,
      mtu,
      addresses: reserved.map(({ allocator, address }) => ({
        address,
        prefix: allocator.layout.range.prefix,
        ...(allocator.pool.gateway === undefined ? {} : { gateway: allocator.pool.gateway }),
        pool: allocator.pool,
      })),
      routes,
      port,
    };
  }

  /** Remove an attachment and release its addresses. Succeeds when there is none. */
  async remove(key: AttachmentKey): Promise<void> {
    const id = portId(key);
    await this.#serially(id, async () => {
      const record = this.#records.get(id);
      if (record !== undefined) return this.#removeRecord(record);
      // The journal may have lost it.
      await this.#options.localPorts.detach(id);
      await this.#options.interfaces.remove(hostInterfaceName(id));
    });
  }

  async #removeRecord(record: Attachment): Promise<void> {
    const removing: Attachment = { ...record, state: 'removing' };
    this.#records.set(record.port.id, removing);
    this.#write(removing);
    await this.#takeApart(removing);
  }

  /** Undo what was made of an attachment. If that fails it stays in the journal, to be tried again. */
  async #undo(record: Attachment): Promise<void> {
    try {
      await this.#takeApart(record);
    } catch (error) {
      this.#records.set(record.port.id, { ...record, state: 'removing' });
      this.#retryLater(record.port.id);
      this.#options.warn(`attachment ${describe(record)} cannot be undone; it will be tried again`, error);
    }
  }

  /** Attach or undo what could not be attached again or undone. Runs by itself every few seconds. */
  async retry(): Promise<void> {
    await Promise.all(
      [...this.#unfinished].map(async (id) => {
        try {
          await this.#serially(id, () => this.#finish(id));
          this.#unfinished.delete(id);
        } catch (error) {
          this.#retryLater(id);
          this.#options.warn(`attachment with port ${id}: failed again`, error);
        }
      }),
    );
  }

  async #finish(id: string): Promise<void> {
    const { interfaces, localPorts } = this.#options;
    const record = this.#records.get(id);
    if (record === undefined) return;
    if (record.state !== 'attached') return this.#takeApart(record);
    const present = (await interfaces.hostInterfaces()).has(record.hostInterface);
    await (present ? localPorts.attach(record.port, record.hostInterface) : localPorts.detach(id));
  }

  #retryLater(id: string): void {
    this.#unfinished.add(id);
    if (this.#closed) return;
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = undefined;
      void this.retry();
    }, RETRY_MS).unref();
  }

  async #takeApart(record: Attachment): Promise<void> {
    const { interfaces, localPorts, ipam, folder } = this.#options;
    await localPorts.detach(record.port.id);
    await interfaces.remove(record.hostInterface);
    await unlink(join(folder, `${record.port.id}.json`)).catch(ignoreMissing);
    this.#records.delete(record.port.id);
    for (const { address, pool } of record.addresses) ipam.pool(pool).release(address);
  }

  /**
   * Check that all an attachment consists of is there. More addresses and routes, and a smaller MTU, are no fault.
   * @throws AttachmentNotFoundError, AttachmentDamagedError saying what is missing
   */
  async check(
    key: AttachmentKey,
    namespacePath: string,
    listed: ListedAttachment = {},
    signal?: AbortSignal,
  ): Promise<Attachment> {
    const { interfaces, datapath, ipam } = this.#options;
    const record = this.get(key);
    if (record === undefined) throw new AttachmentNotFoundError(key);
    const damaged = (what: string) => new AttachmentDamagedError(key, what);
    if (interfaces.namespaceIdentity(namespacePath) !== record.namespaceIdentity) {
      throw damaged(`${namespacePath} is another network namespace than the one it was made in`);
    }
    const state = await interfaces.read(namespacePath, record.interfaceName, signal);
    if (state === undefined) throw damaged(`interface ${record.interfaceName} is missing in ${namespacePath}`);
    if (!state.up) throw damaged(`interface ${record.interfaceName} is down`);
    const { mac = record.mac, mtu = record.mtu, routes } = listed;
    if (state.mac !== mac) throw damaged(`the MAC address is ${state.mac}, expected ${mac}`);
    if (state.mtu > mtu) throw damaged(`the MTU is ${state.mtu}, expected at most ${mtu}`);
    for (const { address, prefix, pool } of record.addresses) {
      if (!state.addresses.some((one) => one.address === address && one.prefix === prefix)) {
        throw damaged(`address ${address}/${prefix} is missing on ${record.interfaceName}`);
      }
      if (!ipam.pool(pool).isUsed(address)) throw damaged(`address ${address} is not reserved`);
    }
    for (const route of record.routes) {
      if (routes !== undefined && !hasRoute(routes, route)) continue;
      if (!hasRoute(state.routes, route)) {
        throw damaged(`route ${route.destination} via ${route.gateway} is missing`);
      }
    }
    const up = (await interfaces.hostInterfaces(signal)).get(record.hostInterface);
    if (up === undefined) throw damaged(`interface ${record.hostInterface} is missing on the host`);
    if (!up) throw damaged(`interface ${record.hostInterface} of the host is down`);
    if (datapath !== undefined && !(await datapath.ports(signal)).some((port) => port.name === record.hostInterface)) {
      throw damaged(`interface ${record.hostInterface} is not attached to the datapath`);
    }
    return record;
  }

  /**
   * Remove every attachment of the network that is not among the valid ones, and interfaces that belong to none.
   * @returns the errors of those that could not be removed; the others have been
   */
  async collectGarbage(
    network: string,
    valid: readonly { readonly containerId: string; readonly interfaceName: string }[],
    signal?: AbortSignal,
  ): Promise<unknown[]> {
    const keep = new Set(valid.map((key) => portId({ ...key, network })));
    const errors: unknown[] = [];
    for (const [id, record] of [...this.#records]) {
      if (record.network !== network || keep.has(id)) continue;
      signal?.throwIfAborted();
      await this.remove(record).catch((error: unknown) => errors.push(error));
    }
    for (const name of (await this.#options.interfaces.hostInterfaces(signal)).keys()) {
      if (!HOST_INTERFACE.test(name)) continue;
      if ([...this.#records.values()].some((record) => record.hostInterface === name)) continue;
      await this.#options.interfaces.remove(name).catch((error: unknown) => errors.push(error));
    }
    return errors;
  }

  #write(record: Attachment): void {
    writeStateFile(join(this.#options.folder, `${record.port.id}.json`), record);
  }

  /** Run operations on one attachment one after the other. */
  #serially<T>(id: string, operation: () => Promise<T>): Promise<T> {
    const before = this.#running.get(id) ?? Promise.resolve();
    const result = before.then(operation);
    const done = result.then(
      () => undefined,
      () => undefined,
    );
    this.#running.set(id, done);
    void done.then(() => {
      if (this.#running.get(id) === done) this.#running.delete(id);
    });
    return result;
  }

  /** Wait for the operations under way. Interfaces and journal stay. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    await Promise.all(this.#running.values());
  }
}

interface Reserved {
  readonly allocator: PoolAllocator;
  readonly address: string;
}

/** Which pool each address asked for is of. @throws InvalidInputError */
function assignAddresses(request: AttachmentRequest): Map<string, string> {
  const asked = new Map<string, string>();
  for (const text of request.addresses) {
    const ip = parseIp(text);
    const pool = request.network.pools.find((candidate) => {
      const range = parseCidr(candidate.cidr);
      return ip !== undefined && range !== undefined && cidrContains(range, ip);
    });
    if (ip === undefined || pool === undefined) {
      const ranges = request.network.pools.map((candidate) => candidate.cidr).join(' or ');
      throw new InvalidInputError('ips', text, `expected an address of ${ranges}`);
    }
    const other = asked.get(pool.id);
    if (other !== undefined && other !== formatIp(ip)) {
      throw new InvalidInputError('ips', text, `expected one address of ${pool.cidr}, there is ${other} too`);
    }
    asked.set(pool.id, formatIp(ip));
  }
  return asked;
}

function hasRoute(routes: readonly InterfaceRoute[], { destination, gateway }: InterfaceRoute): boolean {
  return routes.some((one) => one.destination === destination && one.gateway === gateway);
}

function portId(key: AttachmentKey): string {
  return idFromName('port', key.network, key.containerId, key.interfaceName);
}

/** `mn` and ten hexadecimal digits. */
export function hostInterfaceName(id: string): string {
  return `mn${id.replaceAll('-', '').slice(0, 10)}`;
}

/** A unicast MAC address that follows from an identifier; its first byte must have the bit of local administration. */
function macOf(id: string, firstByte: number): string {
  return formatMac(firstByte * 2 ** 40 + Number.parseInt(id.replaceAll('-', '').slice(-10), 16));
}

function describe(key: AttachmentKey): string {
  return `${key.interfaceName} of container ${key.containerId} in network ${key.network}`;
}

/** Fits the kernel's 255 bytes (IFALIASZ in linux/if.h). */
function aliasOf(key: AttachmentKey): string {
  return `${key.interfaceName} ${key.containerId} ${key.network}`.slice(0, 240);
}

function ignoreMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}
