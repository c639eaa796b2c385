import { FlowKey, Word } from '../../flow/key.js';
import { FlowMask } from '../../flow/mask.js';
import { EtherType } from '../../packet/ethernet.js';
import { formatCidr } from '../../packet/ip.js';
import type { RouteFact } from '../../simulation/fact.js';
import { type Route, type RoutePrefix, RouteTable } from '../../simulation/route-table.js';
import type { Cell } from './cell.js';

/** A route that packets can take now. */
export interface UsableRoute extends Route {
  /** The same object for as long as the route leads to the same. */
  readonly fact: RouteFact;
  /** Whether it leaves at a port of this host. */
  readonly isLocal: boolean;
}

/** Packets that have the same best routes: those from `source` to `destination`. */
interface Region extends Route {
  readonly best: Cell<readonly RouteFact[]>;
}

const ANYWHERE: RoutePrefix = { words: [0, 0, 0, 0], length: 0 };

/**
 * The routes of a router, with a fact for every region of addresses that packets asked for. When a route changes the
 * regions that it touches are looked at, and no others: one with another outcome tells its flows.
 */
export class RouteRegions {
  private readonly routes = new RouteTable<UsableRoute>();
  private readonly regions = new RouteTable<Region>();
  /** What it takes to tell regions apart is in the regions themselves. */
  private readonly ignored = new FlowMask();

  /** @param make makes the fact of a region; `forget` is to be called when no flow has needed it for a while */
  constructor(
    private readonly make: (
      name: string,
      forget: (self: Cell<readonly RouteFact[]>) => void,
    ) => Cell<readonly RouteFact[]>,
  ) {}

  /** How many routes there are. */
  get size(): number {
    return this.routes.size;
  }

  /** How many regions packets have asked for. */
  get regionCount(): number {
    return this.regions.size;
  }

  /** The best routes for an IP packet. What tells its region from others is added to `seen`. */
  find(packet: FlowKey, seen: FlowMask): Cell<readonly RouteFact[]> {
    const region = this.regions.lookup(packet, this.ignored)[0] ?? this.discover(packet);
    const { family, destination, source } = region;
    if (family === 4) {
      seen.seeIpv4Dst(destination.length);
      if (source.length > 0) seen.seeIpv4Src(source.length);
    } else {
      seen.seeIpv6Dst(destination.length);
      if (source.length > 0) seen.seeIpv6Src(source.length);
    }
    return region.best;
  }

  /** Add a route, or change the one with its id. */
  set(route: UsableRoute): void {
    const before = this.routes.get(route.id);
    this.routes.insert(route);
    if (before !== undefined) this.changed(before);
    this.changed(route);
  }

  delete(id: string): void {
    const before = this.routes.get(id);
    if (before === undefined) return;
    this.routes.remove(before);
    this.changed(before);
  }

  private discover(packet: FlowKey): Region {
    const seen = new FlowMask();
    const routes = this.routes.lookup(packet, seen);
    const family = packet.ethType === EtherType.IPV4 ? 4 : 6;
    const destination = leading(packet, Word.NW_DST, seen);
    const source = leading(packet, Word.NW_SRC, seen);
    const id = `${text(family, destination)}${source.length > 0 ? ` from ${text(family, source)}` : ''}`;
    const best = this.make(id, (self) => {
      if (this.regions.get(id)?.best === self) this.regions.remove({ id });
    });
    best.set(chosen(routes));
    const region: Region = { id, family, destination, source, weight: 0, best };
    this.regions.insert(region);
    return region;
  }

  /** Look again at what packets to the route's destination find. */
  private changed({ family, destination }: UsableRoute): void {
    for (const region of this.regions.overlapping(family, destination)) {
      const packet = new FlowKey();
      packet.ethType = family === 4 ? EtherType.IPV4 : EtherType.IPV6;
      packet.words.set(region.destination.words, Word.NW_DST);
      packet.words.set(region.source.words, Word.NW_SRC);
      const seen = new FlowMask();
      const routes = this.routes.lookup(packet, seen);
      const isOne =
        leading(packet, Word.NW_DST, seen).length <= region.destination.length &&
        leading(packet, Word.NW_SRC, seen).length <= region.source.length;
      if (isOne) region.best.set(chosen(routes));
      else {
        // Packets of the region are told apart by more than it says: each flow has to find out where it belongs.
        this.regions.remove(region);
        region.best.touch();
      }
    }
  }
}

/** A next hop on this host saves packets the way to another: those are preferred among equals. */
function chosen(routes: readonly UsableRoute[]): RouteFact[] {
  const local = routes.filter(({ isLocal }) => isLocal);
  return (local.length > 0 ? local : routes).map(({ fact }) => fact);
}

/** The leading bits of the address at `offset` that were seen. */
function leading(packet: FlowKey, offset: number, seen: FlowMask): RoutePrefix {
  const count = packet.ethType === EtherType.IPV4 ? 1 : 4;
  const words: number[] = [];
  let length = 0;
  for (let i = 0; i < count; i++) {
    const bits = seen.words[offset + i];
    words.push((packet.words[offset + i] & bits) >>> 0);
    if (length === 32 * i) length += Math.clz32(~bits);
  }
  return length === 0 ? ANYWHERE : { words, length };
}

function text(family: 4 | 6, { words, length }: RoutePrefix): string {
  return length === 0 ? 'anywhere' : formatCidr({ family, words, prefix: length });
}
