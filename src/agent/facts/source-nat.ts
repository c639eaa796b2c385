import type { Lease } from '../../nsdb/leases/leases.js';
import { type NatOwnersListener, watchNatOwners } from '../../nsdb/leases/nat-blocks.js';
import type { Store, Watch } from '../../nsdb/store.js';
import { formatIp } from '../../packet/ip.js';
import {
  type Fact,
  NAT_BLOCK_BITS,
  type NatOwner,
  type PortRange,
  type SourceNatFact,
  type TunnelPath,
} from '../../simulation/fact.js';
import type { NatLeases } from '../numbers/nat-leases.js';
import type { Zones } from '../numbers/zones.js';
import { type Cell, isIdle } from './cell.js';
import type { TopologySource } from './topology-source.js';

const READY = Promise.resolve();
const SAME_BLOCK = 16 - NAT_BLOCK_BITS;
/** In place of a block: whoever has any. */
const ANY_BLOCK = -1;

export interface SourceNatOptions {
  readonly store: Pick<Store, 'watchTree'>;
  readonly leases: NatLeases;
  readonly zones: Zones;
}

/** How this host translates sources for one device: with ports that it has leased, in a zone of the device. */
export class SourceNat implements SourceNatFact {
  readonly zone: Cell<number>;
  private readonly addresses = new Map<number, NatAddress[]>();

  constructor(
    readonly deviceId: string,
    private readonly source: TopologySource,
    private readonly options: SourceNatOptions,
  ) {
    const { zones } = options;
    this.zone = source.cell<number>(`zone of device ${deviceId}`, {
      subscribe: (self) => {
        self.set(zones.take(zoneOwner(deviceId)) ?? null);
        return { ready: READY, close: () => {} };
      },
    });
  }

  /** Whether no flow or packet needs any of it. */
  get isIdle(): boolean {
    return this.addresses.size === 0 && isIdle(this.zone);
  }

  /** The ways to other hosts that are known as owners of ports. */
  *tunnels(): Generator<Fact<TunnelPath>> {
    for (const addresses of this.addresses.values()) for (const address of addresses) yield* address.tunnels();
  }

  ports(words: Uint32Array, first: number, last: number): Cell<readonly PortRange[]> {
    return this.address(words, 0, words.length).ports(first, last);
  }

  owner(words: Uint32Array, offset: number, length: number, block: number | undefined): Cell<NatOwner> {
    return this.address(words, offset, length).owner(block ?? ANY_BLOCK);
  }

  private address(words: Uint32Array, offset: number, length: number): NatAddress {
    let hash = length;
    for (let i = 0; i < length; i++) hash = Math.imul(hash, 31) ^ words[offset + i];
    const bucket = this.addresses.get(hash) ?? [];
    for (const address of bucket) if (address.is(words, offset, length)) return address;
    const made = new NatAddress(this.deviceId, words.slice(offset, offset + length), this.source, this.options, () => {
      const rest = (this.addresses.get(hash) ?? []).filter((other) => other !== made);
      if (rest.length === 0) this.addresses.delete(hash);
      else this.addresses.set(hash, rest);
    });
    bucket.push(made);
    this.addresses.set(hash, bucket);
    return made;
  }
}

/** One address that a device translates to, on this host or others. */
class NatAddress {
  private readonly text: string;
  /** By first and last port. */
  private readonly ranges = new Map<number, Cell<readonly PortRange[]>>();
  /** By block, and {@link ANY_BLOCK}. */
  private readonly owners = new Map<number, Cell<NatOwner>>();
  private readonly leases = new Map<number, Lease>();
  private isCurrent = false;
  private watch: Watch | undefined;
  private watchers = 0;

  constructor(
    private readonly deviceId: string,
    private readonly words: Uint32Array,
    private readonly source: TopologySource,
    private readonly options: SourceNatOptions,
    private readonly forget: () => void,
  ) {
    this.text = formatIp({ family: words.length === 1 ? 4 : 6, words: [...words] });
  }

  is(words: Uint32Array, offset: number, length: number): boolean {
    if (this.words.length !== length) return false;
    for (let i = 0; i < length; i++) if (this.words[i] !== words[offset + i]) return false;
    return true;
  }

  ports(first: number, last: number): Cell<readonly PortRange[]> {
    const { source } = this;
    const key = first * 0x1_0000 + last;
    let cell = this.ranges.get(key);
    if (cell === undefined) {
      cell = source.cell<readonly PortRange[]>(`ports ${first}-${last} of ${this.text} for device ${this.deviceId}`, {
        subscribe: (self) => {
          const held = this.options.leases.hold(this.deviceId, this.text, { first, last }, (ranges) =>
            self.set(ranges),
          );
          return { ready: READY, close: () => held.close() };
        },
        same: sameRanges,
        forget: (self) => {
          if (this.ranges.get(key) === self) this.ranges.delete(key);
          this.forgetIfUnused();
        },
      });
      this.ranges.set(key, cell);
    }
    return cell;
  }

  owner(block: number): Cell<NatOwner> {
    let cell = this.owners.get(block);
    if (cell === undefined) {
      const name = block === ANY_BLOCK ? 'address' : `block ${block} of`;
      cell = this.source.cell<NatOwner>(`who has ${name} ${this.text} for device ${this.deviceId}`, {
        subscribe: (self) => this.follow(block, self),
        same: sameOwner,
        forget: (self) => {
          if (this.owners.get(block) === self) this.owners.delete(block);
          this.forgetIfUnused();
        },
        namedByPackets: true,
      });
      this.owners.set(block, cell);
    }
    return cell;
  }

  /** All blocks are watched as one, as long as the owner of any is asked for. */
  private follow(block: number, cell: Cell<NatOwner>): Watch {
    const { source } = this;
    this.watchers += 1;
    const listener: NatOwnersListener = {
      owner: (first, lease) => {
        const changed = first >>> SAME_BLOCK;
        if (lease === undefined) this.leases.delete(changed);
        else this.leases.set(changed, lease);
        if (this.isCurrent) for (const each of [changed, ANY_BLOCK]) this.update(each);
      },
      current: () => {
        this.isCurrent = true;
        for (const each of this.owners.keys()) this.update(each);
      },
      invalid: (error) => source.invalid(error),
    };
    this.watch ??= watchNatOwners(this.options.store, this.deviceId, this.text, listener);
    if (this.isCurrent) cell.set(this.ownerOf(block));
    return {
      ready: READY,
      close: () => {
        this.watchers -= 1;
        if (this.watchers > 0) return;
        this.watch?.close();
        this.watch = undefined;
        this.isCurrent = false;
        this.leases.clear();
      },
    };
  }

  private update(block: number): void {
    const cell = this.owners.get(block);
    if (cell?.started) cell.set(this.ownerOf(block));
  }

  private ownerOf(block: number): NatOwner | null {
    const { source } = this;
    let lease = this.leases.get(block);
    if (block === ANY_BLOCK) {
      const all = [...this.leases.values()];
      lease = all.find(({ hostId }) => hostId === source.hostId) ?? all.sort(byHost)[0];
    }
    if (lease === undefined) return null;
    if (lease.hostId === source.hostId) return { type: 'local' };
    if (lease.tunnelKey === undefined) return null;
    return { type: 'remote', tunnel: source.tunnel(lease.hostId), tunnelKey: lease.tunnelKey };
  }

  *tunnels(): Generator<Fact<TunnelPath>> {
    for (const { value } of this.owners.values()) if (value?.type === 'remote') yield value.tunnel;
  }

  private forgetIfUnused(): void {
    if (this.ranges.size + this.owners.size === 0) this.forget();
  }
}

/** The zone of a device belongs to this and its id, see {@link Zones}. */
export const DEVICE = 'device';

export function zoneOwner(deviceId: string): string {
  return `${DEVICE} ${deviceId}`;
}

function byHost(a: Lease, b: Lease): number {
  return a.hostId < b.hostId ? -1 : 1;
}

function sameRanges(a: readonly PortRange[], b: readonly PortRange[]): boolean {
  return a.length === b.length && a.every(({ first, last }, i) => first === b[i].first && last === b[i].last);
}

function sameOwner(a: NatOwner, b: NatOwner): boolean {
  if (a.type === 'local' || b.type === 'local') return a.type === b.type;
  return a.tunnel === b.tunnel && a.tunnelKey === b.tunnelKey;
}
