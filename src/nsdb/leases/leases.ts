import * as z from 'zod';
import { deleteIfEmpty, deleteIfThere } from '../delete-if.js';
import { decodeJson, encodeJson } from '../json.js';
import { deviceNatBlocksPath, hostLeasesPath, natBlocksPath, natSpaceId } from '../layout.js';
import { joinPath, nodeName } from '../path.js';
import { NodeNotFoundError, type Store, type StoreNode, type StoreOperation, VersionConflictError } from '../store.js';

/**
 * What a lease is in the NSDB: a persistent node under the leased thing, which says whose it is, and an entry under its host,
 * which says where that node is. Both are made and deleted in one multi. Creating the first is the claim: of two hosts that
 * want the same one gets NodeExistsError. The entry lets a host find its leases again, and others release them for it.
 */
export const leaseSchema = z.object({
  hostId: z.string(),
  /** Of a block of ports: under which the host takes replies to what it has translated. */
  tunnelKey: z.int().optional(),
});
export type Lease = z.output<typeof leaseSchema>;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Where a host's entry for a lease is. `spaceId` is that of the lease's space, see LeaseSpace. */
export function leaseEntryPath(hostId: string, spaceId: string, leasePath: string): string {
  return joinPath(joinPath(hostLeasesPath(hostId), spaceId), nodeName(leasePath));
}

export function encodeLeaseEntry(leasePath: string): Uint8Array {
  return encoder.encode(leasePath);
}

/** The path of the lease that an entry is for. Not validated: it may be no path at all. */
export function decodeLeaseEntry(entry: StoreNode): string {
  return decoder.decode(entry.data);
}

export function takeOperations(lease: Lease, leasePath: string, entryPath: string): StoreOperation[] {
  return [
    { type: 'create', path: leasePath, data: encodeJson(lease) },
    { type: 'create', path: entryPath, data: encodeLeaseEntry(leasePath) },
  ];
}

/**
 * Release a lease if its node is at `version`, which is changed by every confirmation of the owner. Succeeds when the lease
 * is not there, or not at that version.
 */
export async function releaseLease(
  store: Pick<Store, 'delete' | 'multi'>,
  leasePath: string,
  entryPath: string,
  version: number,
  signal?: AbortSignal,
): Promise<void> {
  const operations: StoreOperation[] = [
    { type: 'delete', path: leasePath, version },
    { type: 'delete', path: entryPath },
  ];
  try {
    try {
      await store.multi(operations, { signal });
    } catch (error) {
      if (!(error instanceof NodeNotFoundError && error.path === entryPath)) throw error;
      await store.delete(leasePath, version, { signal });
    }
  } catch (error) {
    if (!(error instanceof NodeNotFoundError || error instanceof VersionConflictError)) throw error;
  }
}

/** Release everything that a host has leased, for one that is being deleted. */
export async function releaseHostLeases(
  store: Pick<Store, 'get' | 'children' | 'delete' | 'multi'>,
  hostId: string,
  signal?: AbortSignal,
): Promise<void> {
  for (const spaceId of (await store.children(hostLeasesPath(hostId), { signal })) ?? []) {
    const folder = joinPath(hostLeasesPath(hostId), spaceId);
    for (const name of (await store.children(folder, { signal })) ?? []) {
      const entryPath = joinPath(folder, name);
      const entry = await store.get(entryPath, { signal });
      if (entry === undefined) continue;
      const leasePath = decodeLeaseEntry(entry);
      const lease = leasePath.startsWith('/') ? await store.get(leasePath, { signal }) : undefined;
      if (lease !== undefined && decodeJson(leaseSchema, lease.data, leasePath).hostId === hostId) {
        await releaseLease(store, leasePath, entryPath, lease.stat.version, signal);
      } else {
        await deleteIfThere(store, entryPath, signal);
      }
    }
    // Somebody may have just taken another: whoever deletes the folder's parent will be told.
    await deleteIfEmpty(store, folder, signal);
  }
}

/** Release every NAT block of a device, whoever has it, and delete their folders: the device is being deleted. */
export async function releaseNatBlocks(
  store: Pick<Store, 'get' | 'children' | 'delete' | 'multi'>,
  deviceId: string,
  signal?: AbortSignal,
): Promise<void> {
  const device = deviceNatBlocksPath(deviceId);
  const addresses = await store.children(device, { signal });
  if (addresses === undefined) return;
  for (const address of addresses) {
    const folder = natBlocksPath(deviceId, address);
    for (const name of (await store.children(folder, { signal })) ?? []) {
      const path = joinPath(folder, name);
      const node = await store.get(path, { signal });
      if (node === undefined) continue;
      const { hostId } = decodeJson(leaseSchema, node.data, path);
      const entryPath = leaseEntryPath(hostId, natSpaceId(deviceId, address), path);
      await releaseLease(store, path, entryPath, node.stat.version, signal);
    }
    // Somebody may have just taken another: whoever deletes the folder's parent will be told.
    await deleteIfEmpty(store, folder, signal);
  }
  await deleteIfEmpty(store, device, signal);
}
