import { MidonetError } from '../../errors.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { MAC_TABLE } from '../../nsdb/tables/tables.js';
import { formatMac, requireMac } from '../../packet/address.js';
import { type AttachmentRequest, describe, MacInUseError } from './attachment.js';
import type { Journal } from './journal.js';

/** Who knows whose a MAC address is. */
export interface MacOwners {
  readonly hostId: string;
  readonly journal: Journal;
  /** Asked while the NSDB can be reached. */
  readonly repository?: Pick<TopologyRepository, 'store' | 'get'>;
  readonly warn: (message: string, error?: unknown) => void;
}

/** @throws MacInUseError if another port of the bridge, bound to any host, has the address */
export async function requireFreeMac(
  id: string,
  { mac, network, owner }: AttachmentRequest,
  { repository, hostId, journal, warn }: MacOwners,
  signal?: AbortSignal,
): Promise<void> {
  if (mac === undefined) return;
  requireOwnMac(id, network.bridgeId, mac, journal);
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
export function requireOwnMac(id: string, bridgeId: string, mac: string, journal: Journal): void {
  for (const record of journal.records()) {
    if (record.port.id !== id && record.mac === mac && record.port.bridgeId === bridgeId) {
      throw new MacInUseError(mac, describe(record));
    }
  }
}

/** A unicast MAC address that follows from an identifier; its first byte must have the bit of local administration. */
export function macOf(id: string, firstByte: number): string {
  return formatMac(firstByte * 2 ** 40 + Number.parseInt(id.replaceAll('-', '').slice(-10), 16));
}
