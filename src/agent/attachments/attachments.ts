import { readFile } from 'node:fs/promises';
import type { Datapath } from '../../datapath/datapath.js';
import { MidonetError } from '../../errors.js';
import type { Ipam } from '../../ipam/ipam.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { LocalPorts } from '../ports/local-ports.js';
import {
  type Attachment,
  type AttachmentKey,
  AttachmentNotFoundError,
  type AttachmentRequest,
  aliasOf,
  describe,
  HOST_INTERFACE,
  hostInterfaceName,
  portId,
} from './attachment.js';
import { checkAttachment, type ListedAttachment } from './check.js';
import { type ContainerInterfaces, InterfaceNameTakenError } from './container-interfaces.js';
import { Journal } from './journal.js';
import { requireFreeMac, requireOwnMac } from './mac-addresses.js';
import { newAttachment, type Reserved, reserve } from './new-attachment.js';
import { Turns } from './turns.js';

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

/**
 * The interfaces of containers on this host. Each is written to a journal before the first thing is made and after the last,
 * so that a crash at any point leaves nothing behind: {@link recover} undoes what was not finished. The journal is also the
 * one record of which addresses are in use.
 */
export class Attachments {
  readonly #options: AttachmentsOptions;
  readonly #bootId: string;
  readonly #journal: Journal;
  /** Operations on one attachment happen one after the other. */
  readonly #turns = new Turns();
  /** Attachments that nobody waits for and that are not as their record says, see {@link retry}. */
  readonly #unfinished = new Set<string>();
  #retryTimer: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(options: AttachmentsOptions, bootId: string, journal: Journal) {
    this.#options = options;
    this.#bootId = bootId;
    this.#journal = journal;
  }

  /** Reads the journal and marks its addresses as in use. {@link recover} must follow before the first add. */
  static async open(options: AttachmentsOptions): Promise<Attachments> {
    const bootId = options.bootId ?? (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    const journal = await Journal.open(options.folder, options.warn);
    for (const { addresses } of journal.records()) {
      for (const { address, pool } of addresses) options.ipam.pool(pool).adopt(address);
    }
    return new Attachments(options, bootId, journal);
  }

  /** Every attachment that is not being made or removed. */
  list(): Attachment[] {
    return [...this.#journal.records()].filter((record) => record.state === 'attached');
  }

  get(key: AttachmentKey): Attachment | undefined {
    const record = this.#journal.get(portId(key));
    return record?.state === 'attached' ? record : undefined;
  }

  /** Bring host, journal and datapath in agreement after a start. Does not wait for the NSDB. */
  async recover(signal?: AbortSignal): Promise<Recovery> {
    const { interfaces, localPorts, warn } = this.#options;
    const present = await interfaces.hostInterfaces(signal);
    const found = { attached: 0, dead: 0, undone: 0, strays: 0 };
    const known = new Set([...this.#journal.records()].map((record) => record.hostInterface));
    await Promise.all(
      [...this.#journal.records()].map(async (record) => {
        const { id } = record.port;
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
    return this.#turns.run(id, async () => {
      signal?.throwIfAborted();
      const namespaceIdentity = this.#options.interfaces.namespaceIdentity(request.namespacePath);
      await this.#clearWay(id, request, signal);
      await requireFreeMac(id, request, { ...this.#options, journal: this.#journal }, signal);
      const reserved: Reserved[] = [];
      let record: Attachment | undefined;
      try {
        await reserve(request, this.#options.ipam, reserved, signal);
        const { hostId } = this.#options;
        const made = newAttachment(id, request, reserved, { hostId, bootId: this.#bootId, namespaceIdentity });
        // Again: another call may have asked for it meanwhile.
        requireOwnMac(id, request.network.bridgeId, made.mac, this.#journal);
        record = made;
        this.#journal.write(record);
        await this.#options.interfaces.create(
          { ...record, hostName: record.hostInterface, name: record.interfaceName, alias: aliasOf(record) },
          signal,
        );
        await this.#options.localPorts.attach(record.port, record.hostInterface, signal);
        signal?.throwIfAborted();
        record = { ...record, state: 'attached' };
        this.#journal.write(record);
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
    const before = this.#journal.get(id);
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
    for (const record of this.#journal.records()) {
      if (record.port.id !== id && record.hostInterface === hostInterface) {
        throw new MidonetError(
          'MN_ALREADY_EXISTS',
          `interface ${hostInterface} belongs to attachment ${describe(record)}`,
        );
      }
    }
  }

  /** Remove an attachment and release its addresses. Succeeds when there is none. */
  async remove(key: AttachmentKey): Promise<void> {
    const id = portId(key);
    await this.#turns.run(id, async () => {
      const record = this.#journal.get(id);
      if (record !== undefined) return this.#removeRecord(record);
      // The journal may have lost it.
      await this.#options.localPorts.detach(id);
      await this.#options.interfaces.remove(hostInterfaceName(id));
    });
  }

  async #removeRecord(record: Attachment): Promise<void> {
    const removing: Attachment = { ...record, state: 'removing' };
    this.#journal.note(removing);
    this.#journal.write(removing);
    await this.#takeApart(removing);
  }

  /** Undo what was made of an attachment. If that fails it stays in the journal, to be tried again. */
  async #undo(record: Attachment): Promise<void> {
    try {
      await this.#takeApart(record);
    } catch (error) {
      this.#journal.note({ ...record, state: 'removing' });
      this.#retryLater(record.port.id);
      this.#options.warn(`attachment ${describe(record)} cannot be undone; it will be tried again`, error);
    }
  }

  /** Attach or undo what could not be attached again or undone. Runs by itself every few seconds. */
  async retry(): Promise<void> {
    await Promise.all(
      [...this.#unfinished].map(async (id) => {
        try {
          await this.#turns.run(id, () => this.#finish(id));
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
    const record = this.#journal.get(id);
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
    const { interfaces, localPorts, ipam } = this.#options;
    await localPorts.detach(record.port.id);
    await interfaces.remove(record.hostInterface);
    await this.#journal.remove(record.port.id);
    for (const { address, pool } of record.addresses) ipam.pool(pool).release(address);
  }

  /**
   * Check that all an attachment consists of is there: see {@link checkAttachment}.
   * @throws AttachmentNotFoundError, AttachmentDamagedError saying what is missing
   */
  async check(
    key: AttachmentKey,
    namespacePath: string,
    listed: ListedAttachment = {},
    signal?: AbortSignal,
  ): Promise<Attachment> {
    const record = this.get(key);
    if (record === undefined) throw new AttachmentNotFoundError(key);
    await checkAttachment(record, namespacePath, listed, this.#options, signal);
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
    for (const record of [...this.#journal.records()]) {
      if (record.network !== network || keep.has(record.port.id)) continue;
      signal?.throwIfAborted();
      await this.remove(record).catch((error: unknown) => errors.push(error));
    }
    for (const name of (await this.#options.interfaces.hostInterfaces(signal)).keys()) {
      if (!HOST_INTERFACE.test(name)) continue;
      if ([...this.#journal.records()].some((record) => record.hostInterface === name)) continue;
      await this.#options.interfaces.remove(name).catch((error: unknown) => errors.push(error));
    }
    return errors;
  }

  /** Wait for the operations under way. Interfaces and journal stay. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    await this.#turns.ended();
  }
}
