import { type FlowKey, Frag, Word } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { ipv4PrefixMask } from '../packet/address.js';
import { EtherType } from '../packet/ethernet.js';
import { isIcmpError } from '../packet/icmp.js';
import { isIcmpv6Error } from '../packet/icmpv6.js';
import { formatIp, type Ip } from '../packet/ip.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { bitAt, commonBits } from '../packet/prefix.js';
import { bitsToTell } from './condition.js';
import type { Fact, VipAnswer } from './fact.js';

/** Where connections to a VIP go to. */
export interface VipKey {
  readonly address: Ip;
  /** TCP, UDP or SCTP, by number. */
  readonly protocol: number;
  readonly port: number;
}

/** A fact that the index owns. `set` tells the flows that carry it; so does `touch`, which leaves the value as it is. */
export interface VipCell<V> extends Fact<V> {
  set(value: V | null): void;
  touch(): void;
}

type Cell<V> = VipCell<VipAnswer<V>>;

const MAX_PORT = 0xffff;

/** An address with VIPs. */
interface Leaf<V> {
  readonly isLeaf: true;
  readonly words: Uint32Array;
  /** By protocol and port; of several VIPs the one with the least identifier counts. */
  readonly services: Map<number, Service<V>>;
  /** The keys of `services`, in ascending order. */
  readonly serviceKeys: number[];
  /** There are VIPs at this address, but none for the protocol and port of the packet. */
  otherPorts: Cell<V> | undefined;
  /** There are VIPs at this address. */
  tracked: Cell<V> | undefined;
  regions: Regions<V>;
}

interface Service<V> {
  readonly cell: Cell<V>;
  readonly values: Map<string, V>;
}

/** Addresses below agree in the bits before `bit`; those with that bit clear are in `zero`. */
interface Branch<V> {
  readonly isLeaf: false;
  readonly bit: number;
  zero: Node<V>;
  one: Node<V>;
  regions: Regions<V>;
}

type Node<V> = Leaf<V> | Branch<V>;

/**
 * Along the way to a node: the regions without a VIP that begin there, by the bit in which their addresses leave the way.
 * Only those that a look-up has met.
 */
type Regions<V> = Map<number, Cell<V>>;

/**
 * The VIPs of a load balancer by protocol, address and port. Addresses are in a path-compressed binary trie for each
 * family, which tells in a few steps how many leading bits of an address prove that no VIP has it. A region of addresses
 * without a VIP is a fact as a VIP is: a VIP that comes to be there changes it.
 */
export class VipIndex<V> {
  private readonly ipv4: AddressTrie<V>;
  private readonly ipv6: AddressTrie<V>;

  /** @param newCell makes a fact whose value is null until it is set */
  constructor(private readonly newCell: (tag: string) => VipCell<VipAnswer<V>>) {
    this.ipv4 = new AddressTrie(1, newCell);
    this.ipv6 = new AddressTrie(4, newCell);
  }

  /** Add a VIP, or replace what is known of it. */
  set(id: string, key: VipKey, value: V): void {
    const leaf = this.trie(key).insert(Uint32Array.from(key.address.words));
    const at = serviceKey(key.protocol, key.port);
    let service = leaf.services.get(at);
    if (service === undefined) {
      const name = `vip ${formatIp(key.address)} port ${key.port} protocol ${key.protocol}`;
      service = { cell: this.newCell(name), values: new Map() };
      leaf.services.set(at, service);
      leaf.serviceKeys.splice(placeOf(at, leaf.serviceKeys), 0, at);
      leaf.otherPorts?.touch();
    }
    service.values.set(id, value);
    service.cell.set(firstValue(service));
  }

  /** Nothing happens if the VIP is not there. */
  delete(id: string, key: VipKey): void {
    const trie = this.trie(key);
    const leaf = trie.find(Uint32Array.from(key.address.words));
    const at = serviceKey(key.protocol, key.port);
    const service = leaf?.services.get(at);
    if (leaf === undefined || service === undefined || !service.values.delete(id)) return;
    service.cell.set(firstValue(service));
    if (service.values.size > 0) return;
    leaf.services.delete(at);
    leaf.serviceKeys.splice(placeOf(at, leaf.serviceKeys), 1);
    if (leaf.services.size > 0) return;
    trie.remove(leaf);
    // What carries the fact would not be told of a VIP that comes to have this address again.
    leaf.otherPorts?.set(null);
    leaf.tracked?.set(null);
  }

  /** What a packet depends on; undefined if it goes to no VIP whatever there are. `seen` gets the bits that tell. */
  lookup(packet: FlowKey, seen: FlowMask): Fact<VipAnswer<V>> | undefined {
    seen.seeEthType();
    const isIpv4 = packet.ethType === EtherType.IPV4;
    if (!isIpv4 && packet.ethType !== EtherType.IPV6) return undefined;
    const trie = isIpv4 ? this.ipv4 : this.ipv6;
    const differs = trie.descend(packet.words, Word.NW_DST);
    if (differs >= 0) {
      if (isIpv4) seen.seeIpv4Dst(differs);
      else seen.seeIpv6Dst(differs);
      return trie.region(packet.words, Word.NW_DST, differs);
    }
    if (isIpv4) seen.seeIpv4Dst();
    else seen.seeIpv6Dst();
    return this.service(trie.found!, packet, seen);
  }

  private service(leaf: Leaf<V>, packet: FlowKey, seen: FlowMask): Fact<VipAnswer<V>> | undefined {
    const protocol = packet.nwProto;
    seen.seeNwProto();
    const isIpv4 = leaf.words.length === 1;
    const isIcmp = protocol === (isIpv4 ? IpProtocol.ICMP : IpProtocol.ICMPV6);
    if (!isIcmp && !hasPorts(protocol)) return undefined;
    seen.seeNwFrag();
    if (packet.nwFrag !== Frag.NONE) return this.tracked(leaf);
    if (isIcmp) {
      seen.seeTpSrc();
      const isError = isIpv4 ? isIcmpError(packet.tpSrc) : isIcmpv6Error(packet.tpSrc);
      return isError ? this.tracked(leaf) : undefined;
    }
    const service = leaf.services.get(serviceKey(protocol, packet.tpDst));
    seen.seeTpDst(service === undefined ? otherPortBits(leaf.serviceKeys, protocol, packet.tpDst) : MAX_PORT);
    if (service !== undefined) return service.cell;
    if (leaf.otherPorts === undefined) {
      leaf.otherPorts = this.newCell(`other ports of ${formatWords(leaf.words)}`);
      leaf.otherPorts.set('tracked');
    }
    return leaf.otherPorts;
  }

  private tracked(leaf: Leaf<V>): Fact<VipAnswer<V>> {
    if (leaf.tracked === undefined) {
      leaf.tracked = this.newCell(`vips at ${formatWords(leaf.words)}`);
      leaf.tracked.set('tracked');
    }
    return leaf.tracked;
  }

  private trie(key: VipKey): AddressTrie<V> {
    return key.address.family === 4 ? this.ipv4 : this.ipv6;
  }
}

/** The addresses of one family, of `width` words each. */
class AddressTrie<V> {
  /** What the last call of `descend` found. */
  found: Leaf<V> | undefined;
  private root: Node<V> | undefined;
  /** All addresses, while there is no VIP. */
  private everywhere: Cell<V> | undefined;

  constructor(
    private readonly width: number,
    private readonly newCell: (tag: string) => Cell<V>,
  ) {}

  /**
   * Look for the address in `words[offset..]`. Returns -1 if it is `found`, otherwise how many leading bits prove that it
   * is not there.
   */
  descend(words: Uint32Array, offset: number): number {
    if (this.root === undefined) return 0;
    let node = this.root;
    while (!node.isLeaf) node = bitAt(words, offset, node.bit) === 0 ? node.zero : node.one;
    this.found = node;
    const common = commonBits(words, offset, node.words, 32 * this.width);
    return common === 32 * this.width ? -1 : common + 1;
  }

  /** The fact that there is no VIP in the region of the address's leading `length` bits, which `descend` gave. */
  region(words: Uint32Array, offset: number, length: number): Cell<V> {
    if (this.root === undefined) {
      this.everywhere ??= this.newCell(`no ${this.width === 1 ? 'IPv4' : 'IPv6'} vip`);
      return this.everywhere;
    }
    const { regions } = this.at(words, offset, length - 1);
    let cell = regions.get(length - 1);
    if (cell === undefined) {
      cell = this.newCell(`no vip in ${this.formatPrefix(words, offset, length)}`);
      regions.set(length - 1, cell);
    }
    return cell;
  }

  find(words: Uint32Array): Leaf<V> | undefined {
    return this.root !== undefined && this.descend(words, 0) < 0 ? this.found : undefined;
  }

  /** The leaf of an address, made if there is none. */
  insert(words: Uint32Array): Leaf<V> {
    const length = this.descend(words, 0);
    if (length < 0) return this.found!;
    const leaf: Leaf<V> = {
      isLeaf: true,
      words,
      services: new Map(),
      serviceKeys: [],
      otherPorts: undefined,
      tracked: undefined,
      regions: new Map(),
    };
    if (this.root === undefined) {
      this.root = leaf;
      this.everywhere?.touch();
      this.everywhere = undefined;
      return leaf;
    }
    const bit = length - 1;
    const below = this.at(words, 0, bit);
    const isOne = bitAt(words, 0, bit) === 1;
    const branch: Branch<V> = {
      isLeaf: false,
      bit,
      zero: isOne ? below : leaf,
      one: isOne ? leaf : below,
      regions: new Map(),
    };
    this.replace(below, branch);
    const filled = below.regions.get(bit);
    below.regions.delete(bit);
    for (const [at, cell] of below.regions) {
      if (at > bit) continue;
      below.regions.delete(at);
      branch.regions.set(at, cell);
    }
    filled?.touch();
    return leaf;
  }

  remove(leaf: Leaf<V>): void {
    const parent = this.parentOf(leaf);
    if (parent === undefined) this.root = undefined;
    else {
      const sibling = parent.zero === leaf ? parent.one : parent.zero;
      this.replace(parent, sibling);
      for (const [at, cell] of parent.regions) sibling.regions.set(at, cell);
    }
    // They have become part of a larger region, which whoever carries them has to learn.
    for (const cell of leaf.regions.values()) cell.touch();
  }

  /** The highest node whose addresses share no bit behind `bit` with the address. */
  private at(words: Uint32Array, offset: number, bit: number): Node<V> {
    let node = this.root!;
    while (!node.isLeaf && node.bit < bit) node = bitAt(words, offset, node.bit) === 0 ? node.zero : node.one;
    return node;
  }

  private parentOf(child: Node<V>): Branch<V> | undefined {
    const { words } = leafBelow(child);
    let parent: Branch<V> | undefined;
    for (let node = this.root!; node !== child; ) {
      parent = node as Branch<V>;
      node = bitAt(words, 0, parent.bit) === 0 ? parent.zero : parent.one;
    }
    return parent;
  }

  private replace(node: Node<V>, by: Node<V>): void {
    const parent = this.parentOf(node);
    if (parent === undefined) this.root = by;
    else if (parent.zero === node) parent.zero = by;
    else parent.one = by;
  }

  private formatPrefix(words: Uint32Array, offset: number, length: number): string {
    const network = Uint32Array.from(words.subarray(offset, offset + this.width), (word, i) => {
      return word & ipv4PrefixMask(length - 32 * i);
    });
    return `${formatWords(network)}/${length}`;
  }
}

function leafBelow<V>(node: Node<V>): Leaf<V> {
  let below = node;
  while (!below.isLeaf) below = below.zero;
  return below;
}

function hasPorts(protocol: number): boolean {
  return protocol === IpProtocol.TCP || protocol === IpProtocol.UDP || protocol === IpProtocol.SCTP;
}

function serviceKey(protocol: number, port: number): number {
  return protocol * 65536 + port;
}

/** Where a key is among these in ascending order, or would be. */
function placeOf(key: number, keys: readonly number[]): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (keys[middle] < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The leading bits of a port that tell it from those of all services of the protocol: from the next ones below and above. */
function otherPortBits(keys: readonly number[], protocol: number, port: number): number {
  const place = placeOf(serviceKey(protocol, port), keys);
  let bits = 0;
  for (const key of [keys[place - 1], keys[place]]) {
    if (key !== undefined && key >>> 16 === protocol) bits |= bitsToTell(port, key & MAX_PORT);
  }
  return bits;
}

function firstValue<V>(service: Service<V>): V | null {
  let first: string | undefined;
  for (const id of service.values.keys()) if (first === undefined || id < first) first = id;
  return first === undefined ? null : service.values.get(first)!;
}

function formatWords(words: Uint32Array): string {
  return formatIp({ family: words.length === 1 ? 4 : 6, words: [...words] });
}
