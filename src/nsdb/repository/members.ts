import type { z } from 'zod';
import { InvalidInputError } from '../../errors.js';
import { formatMac, parseMac } from '../../packet/address.js';
import { formatIp, parseIp } from '../../packet/ip.js';
import { dhcpHostSchema, dhcpV6HostSchema } from '../../topology/dhcp.js';
import { ipAddressGroupMemberSchema } from '../../topology/groups.js';
import { validate } from '../../topology/validate.js';
import { deleteIfThere } from '../delete-if.js';
import { decodeJson, encodeJson } from '../json.js';
import { memberPath, membersPath, objectPath } from '../layout.js';
import { joinPath } from '../path.js';
import { readAhead } from '../read-ahead.js';
import { inShards } from '../shards.js';
import { NodeExistsError, NodeNotFoundError, type Store } from '../store.js';
import { ObjectNotFoundError } from '../topology-errors.js';
import { foldersBetween } from './change-set.js';
import { makeEach } from './commit.js';

/** Kinds of objects that have members, what a member is called and what is known of it. */
export const MEMBERS = {
  'ip-address-group': { name: canonicalAddress, schema: ipAddressGroupMemberSchema },
  'dhcp-subnet': { name: canonicalMac, schema: dhcpHostSchema },
  'dhcp-v6-subnet': { name: canonicalClientId, schema: dhcpV6HostSchema },
} as const;

export type GroupKind = keyof typeof MEMBERS;
export type MemberInput<K extends GroupKind> = z.input<(typeof MEMBERS)[K]['schema']>;
export type Member<K extends GroupKind> = z.output<(typeof MEMBERS)[K]['schema']>;

/**
 * What belongs to an object in numbers too large for it: the addresses of a group, the machines of a DHCP subnet. Each is a
 * node of its own, so one more costs the same in a group of ten and of 100,000. They go with the object.
 */
export class Members<K extends GroupKind> {
  constructor(
    private readonly store: Store,
    private readonly kind: K,
    private readonly id: string,
  ) {}

  /**
   * Add a member, or change what is known of it; returns whether it is new.
   * @throws InvalidInputError, ObjectNotFoundError
   */
  async set(name: string, value: MemberInput<K>, signal?: AbortSignal): Promise<boolean> {
    const path = this.path(name);
    const data = encodeJson(validate(MEMBERS[this.kind].schema, value, this.kind));
    for (;;) {
      signal?.throwIfAborted();
      try {
        await this.store.create(path, data, { signal });
        return true;
      } catch (error) {
        if (error instanceof NodeNotFoundError) await this.makeFolders(path, signal);
        else if (!(error instanceof NodeExistsError)) throw error;
        else if (await this.change(path, data, signal)) return false;
      }
    }
  }

  /** Succeeds when there is no such member. */
  async remove(name: string, signal?: AbortSignal): Promise<void> {
    await deleteIfThere(this.store, this.path(name), signal);
  }

  async get(name: string, signal?: AbortSignal): Promise<Member<K> | undefined> {
    return this.read(this.path(name), signal);
  }

  /** Names and values of the members, in any order; those of one shard are read at a time. */
  async *all(signal?: AbortSignal): AsyncGenerator<[string, Member<K>]> {
    const folder = membersPath(this.kind, this.id);
    for (const shard of (await this.store.children(folder, { signal })) ?? []) {
      const names = (await this.store.children(joinPath(folder, shard), { signal })) ?? [];
      const values = await readAhead(names, signal, (name, signal) => this.read(this.path(name), signal));
      for (const [i, value] of values.entries()) if (value !== undefined) yield [names[i], value];
    }
  }

  /**
   * Some of the members, in an order of their own that does not change, behind the name `after`; `next` is there when there may
   * be more.
   */
  async page(
    after: string | undefined,
    limit: number,
    signal?: AbortSignal,
  ): Promise<{ items: [string, Member<K>][]; next: string | undefined }> {
    const from = after && MEMBERS[this.kind].name(after);
    const found = await inShards(this.store, membersPath(this.kind, this.id), { after: from, signal }, limit + 1);
    const names = found.slice(0, limit);
    const values = await readAhead(names, signal, (name, signal) => this.read(this.path(name), signal));
    const items = names.flatMap((name, i): [string, Member<K>][] => {
      const value = values[i];
      return value === undefined ? [] : [[name, value]];
    });
    return { items, next: found.length > limit ? names.at(-1) : undefined };
  }

  private path(name: string): string {
    return memberPath(this.kind, this.id, MEMBERS[this.kind].name(name));
  }

  private async read(path: string, signal?: AbortSignal): Promise<Member<K> | undefined> {
    const node = await this.store.get(path, { signal });
    return node && (decodeJson(MEMBERS[this.kind].schema, node.data, path) as Member<K>);
  }

  private async change(path: string, data: Uint8Array, signal?: AbortSignal): Promise<boolean> {
    try {
      await this.store.set(path, data, undefined, { signal });
      return true;
    } catch (error) {
      if (error instanceof NodeNotFoundError) return false;
      throw error;
    }
  }

  private async makeFolders(path: string, signal?: AbortSignal): Promise<void> {
    try {
      await makeEach(this.store, foldersBetween(objectPath(this.kind, this.id), path), signal);
    } catch (error) {
      if (error instanceof NodeNotFoundError) throw new ObjectNotFoundError(this.kind, this.id);
      throw error;
    }
  }
}

function canonicalAddress(text: string): string {
  const address = parseIp(text);
  if (address === undefined) throw new InvalidInputError('member', text, 'expected an IPv4 or IPv6 address');
  return formatIp(address);
}

function canonicalMac(text: string): string {
  const mac = parseMac(text);
  if (mac === undefined)
    throw new InvalidInputError('member', text, 'expected a MAC address such as 02:00:00:00:00:01');
  return formatMac(mac);
}

/** A DUID (RFC 8415 section 11): at most 130 bytes. */
function canonicalClientId(text: string): string {
  if (!/^([0-9a-f]{2}){1,130}$/i.test(text)) {
    throw new InvalidInputError('member', text, 'expected a client identifier in hexadecimal');
  }
  return text.toLowerCase();
}
