import { type FlowKey, Word } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { EtherType } from '../packet/ethernet.js';
import { bitAt, commonBits } from '../packet/prefix.js';

/** Leading bits of an address. Bits behind `length` are not looked at. */
export interface RoutePrefix {
  /** One unsigned 32-bit word (IPv4) or four (IPv6), most significant first. */
  readonly words: readonly number[];
  /** 0 to 32 (IPv4) or 128 (IPv6). */
  readonly length: number;
}

/** Which packets a route is for, and which of several is better. */
export interface Route {
  readonly id: string;
  readonly family: 4 | 6;
  readonly destination: RoutePrefix;
  /** Length 0: from anywhere. */
  readonly source: RoutePrefix;
  /** Of routes to one destination the least counts. */
  readonly weight: number;
}

/**
 * A node of a binary trie without chains: it stands for the first `length` bits of `words`, and has routes to just that
 * destination or two children. The root alone may have less. `children[bit]` has `bit` behind the node's bits.
 */
interface Node<R> {
  readonly words: readonly number[];
  readonly length: number;
  parent: Node<R> | undefined;
  readonly children: [Node<R> | undefined, Node<R> | undefined];
  /** By weight, then id. */
  readonly routes: R[];
}

const NO_ROUTES: readonly never[] = [];

/**
 * The routes of one router, of both families. A change or a look-up takes as many steps as prefixes enclose the
 * destination, however many routes there are; the routes to one destination are compared one after the other.
 */
export class RouteTable<R extends Route> {
  private readonly ipv4: Node<R> = newNode([0], 0, undefined);
  private readonly ipv6: Node<R> = newNode([0, 0, 0, 0], 0, undefined);
  private readonly places = new Map<string, { route: R; node: Node<R> }>();

  get size(): number {
    return this.places.size;
  }

  /** Takes the place of any route with the same id. */
  insert(route: R): void {
    this.remove(route);
    const node = this.nodeOf(route);
    let at = 0;
    while (at < node.routes.length && isBefore(node.routes[at], route)) at++;
    node.routes.splice(at, 0, route);
    this.places.set(route.id, { route, node });
  }

  /** Removes the route with this id, whatever its other fields; false if there is none. */
  remove({ id }: Pick<R, 'id'>): boolean {
    const place = this.places.get(id);
    if (place === undefined) return false;
    this.places.delete(id);
    place.node.routes.splice(place.node.routes.indexOf(place.route), 1);
    prune(place.node);
    return true;
  }

  /** The route with this id. */
  get(id: string): R | undefined {
    return this.places.get(id)?.route;
  }

  /** The routes whose destination has an address in common with the prefix, in any order. */
  overlapping(family: 4 | 6, { words, length }: RoutePrefix): R[] {
    const found: R[] = [];
    let node = family === 4 ? this.ipv4 : this.ipv6;
    for (;;) {
      if (node.length >= length) {
        collect(node, found);
        return found;
      }
      found.push(...node.routes);
      const child = node.children[bitAt(words, 0, node.length)];
      if (child === undefined) return found;
      const limit = Math.min(length, child.length);
      if (commonBits(words, 0, child.words, limit) < limit) return found;
      node = child;
    }
  }

  /**
   * The routes that are best for the packet: of those whose source and destination match, the longest destination, then
   * the least weight; by id. Empty if there is none, or the packet is not IP.
   */
  lookup(packet: FlowKey, seen: FlowMask): readonly R[] {
    seen.seeEthType();
    if (packet.ethType === EtherType.IPV4) return find(this.ipv4, packet, seen);
    if (packet.ethType === EtherType.IPV6) return find(this.ipv6, packet, seen);
    return NO_ROUTES;
  }

  /** The node of the route's destination; made if need be. */
  private nodeOf(route: R): Node<R> {
    const { words, length } = route.destination;
    let node = route.family === 4 ? this.ipv4 : this.ipv6;
    while (node.length < length) {
      const bit = bitAt(words, 0, node.length);
      const child = node.children[bit];
      if (child === undefined) {
        const leaf = newNode<R>(words, length, node);
        node.children[bit] = leaf;
        return leaf;
      }
      const common = commonBits(words, 0, child.words, Math.min(length, child.length));
      if (common === child.length) {
        node = child;
      } else {
        const fork = newNode<R>(words, common, node);
        node.children[bit] = fork;
        fork.children[bitAt(child.words, 0, common)] = child;
        child.parent = fork;
        node = fork;
      }
    }
    return node;
  }
}

function newNode<R>(words: readonly number[], length: number, parent: Node<R> | undefined): Node<R> {
  return { words, length, parent, children: [undefined, undefined], routes: [] };
}

/** Takes out the node, and then those above it, as far as they have neither routes nor two children. */
function prune<R>(start: Node<R>): void {
  let node = start;
  while (node.parent !== undefined && node.routes.length === 0) {
    const [zero, one] = node.children;
    if (zero !== undefined && one !== undefined) return;
    const { parent } = node;
    const heir = zero ?? one;
    parent.children[bitAt(node.words, 0, parent.length)] = heir;
    if (heir !== undefined) heir.parent = parent;
    node = parent;
  }
}

/** Adds the routes of the node and of all below it. */
function collect<R>(node: Node<R>, found: R[]): void {
  found.push(...node.routes);
  for (const child of node.children) if (child !== undefined) collect(child, found);
}

function find<R extends Route>(root: Node<R>, packet: FlowKey, seen: FlowMask): readonly R[] {
  let deepest = root;
  let bits = 0;
  while (deepest.children[0] !== undefined || deepest.children[1] !== undefined) {
    bits = deepest.length + 1;
    const child = deepest.children[bitAt(packet.words, Word.NW_DST, deepest.length)];
    if (child === undefined) break;
    const common = commonBits(packet.words, Word.NW_DST, child.words, child.length);
    if (common < child.length) {
      bits = common + 1;
      break;
    }
    bits = child.length;
    deepest = child;
  }
  if (packet.ethType === EtherType.IPV4) seen.seeIpv4Dst(bits);
  else seen.seeIpv6Dst(bits);

  for (let node: Node<R> | undefined = deepest; node !== undefined; node = node.parent) {
    const best = bestOf(node.routes, packet, seen);
    if (best.length > 0) return best;
  }
  return NO_ROUTES;
}

/** Of routes sorted by weight, those of the least weight that has one for the packet's source. */
function bestOf<R extends Route>(routes: readonly R[], packet: FlowKey, seen: FlowMask): readonly R[] {
  let best: R[] | undefined;
  for (const route of routes) {
    if (best !== undefined && route.weight > best[0].weight) break;
    if (!matchesSource(route.source, packet, seen)) continue;
    if (best === undefined) best = [route];
    else best.push(route);
  }
  return best ?? NO_ROUTES;
}

function matchesSource(source: RoutePrefix, packet: FlowKey, seen: FlowMask): boolean {
  if (source.length === 0) return true;
  const common = commonBits(packet.words, Word.NW_SRC, source.words, source.length);
  const bits = Math.min(common + 1, source.length);
  if (packet.ethType === EtherType.IPV4) seen.seeIpv4Src(bits);
  else seen.seeIpv6Src(bits);
  return common === source.length;
}

function isBefore(a: Route, b: Route): boolean {
  return a.weight === b.weight ? a.id < b.id : a.weight < b.weight;
}
