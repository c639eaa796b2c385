import { z } from 'zod';
import { MidonetError } from '../../errors.js';
import { idFromName } from '../../topology/id.js';
import { addressPoolSchema, bridgePortSchema } from '../../topology/types.js';
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

export const attachmentSchema = z.strictObject({
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
export type Attachment = z.output<typeof attachmentSchema>;

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

/** Interfaces that are made here, and nothing else, have names of this form. */
export const HOST_INTERFACE = /^mn[0-9a-f]{10}$/;

/** The port of an attachment follows from what identifies it. */
export function portId(key: AttachmentKey): string {
  return idFromName('port', key.network, key.containerId, key.interfaceName);
}

/** `mn` and ten hexadecimal digits of the port's id. */
export function hostInterfaceName(id: string): string {
  return `mn${id.replaceAll('-', '').slice(0, 10)}`;
}

/** For messages. */
export function describe(key: AttachmentKey): string {
  return `${key.interfaceName} of container ${key.containerId} in network ${key.network}`;
}

/** Fits the kernel's 255 bytes (IFALIASZ in linux/if.h). */
export function aliasOf(key: AttachmentKey): string {
  return `${key.interfaceName} ${key.containerId} ${key.network}`.slice(0, 240);
}
