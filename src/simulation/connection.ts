import { Word } from '../flow/key.js';
import { fnv1a } from '../nsdb/fnv.js';
import type { Fact, PortFact } from './fact.js';

/**
 * Connection state is the datapath's: a simulation that needs it ends with `ct(zone), recirc(id)`, and the packet comes
 * back with what the datapath knows of it (`ctState`) and is simulated again from scratch. What it has been through by
 * then is its recirculation; `id` stands for that.
 *
 * Zones: a connection is tracked in the zone of the port where its packets enter the virtual network and in that of the
 * port where they leave it, so that replies are known for what they are on either host. Destinations are translated in
 * the zone of the port of entry, and replies back where they leave at that port again. Sources are translated in a zone
 * of the device that does it, on the host that does it.
 */

/** The bit of a tunnel key which says that the host behind the tunnel tracks the packet in the zone of the port it leaves at. */
export const TRACKED_TUNNEL_KEY = 0x80_0000;
/** The bit which says besides that the destination was translated, so that replies to it are marked. */
export const TRANSLATED_TUNNEL_KEY = 0x40_0000;

/** The bit of `ctMark` of connections whose destination was translated before they came to the zone's port. The others are the agent's. */
export const TRANSLATED_MARK = 1;

/** Basis of the hash by which one of several targets is chosen. */
export const TARGET_HASH_BASIS = 0x6d6e;

/**
 * What a packet is to the connection that it belongs to, in the zone of the port where it entered: `forward` goes the way
 * of the packet which opened the connection, `return` the other way, `related` is an ICMP error about a packet of either
 * way. What belongs to no connection opens one. `translated`: it is about packets whose destination was translated.
 */
export interface Direction {
  readonly way: 'forward' | 'return' | 'related';
  readonly isTranslated: boolean;
}

/**
 * Translations of a packet's addresses on its way: of the source or destination, or of the destination back to what was
 * a source before (`reverse`).
 */
export type TranslationKind = 'source' | 'destination' | 'reverse';

/** A translation that the datapath has made, or was asked for and found no connection to make it by. */
export interface Translation {
  readonly kind: TranslationKind;
  readonly zone: number;
  /** What the devices before it saw of {@link TRANSLATED_WORDS}: the bits, and which these are. */
  readonly values: Uint32Array;
  readonly mask: Uint32Array;
  /** Whether a reverse one was made; undefined where the key says, of the last one. */
  readonly isMade?: boolean;
}

/** What the datapath has done to a packet that it simulated before. Flows with the same content share an identifier. */
export interface Recirculation {
  /** Undefined: not asked for. `key`: it is in the packet's key. */
  readonly direction: Direction | 'key' | undefined;
  /** Whether the connection is in the table of the zone of the port of entry. */
  readonly isCommitted: boolean;
  /** Whether `dpHash` holds a hash of the packet, as it is behind the translations. */
  readonly isHashed: boolean;
  /** In the order in which the packet came to them. */
  readonly translations: readonly Translation[];
  /** The port that a device sent the packet out of, when it did not come in from outside. */
  readonly sentFrom?: Fact<PortFact>;
}

/** The recirculations that a host knows. */
export interface Recirculations {
  /** Null: the identifier stands for none (any more), so what comes back with it is dropped. */
  get(id: number): Fact<Recirculation>;
  /**
   * The identifier of a recirculation, which need not be known: that by which it is known, or else the first one from
   * {@link recirculationHash} on that stands for no other.
   */
  idOf(recirculation: Recirculation): number;
}

/** Of a packet that comes in for the first time. */
export const NO_RECIRCULATION: Recirculation = {
  direction: undefined,
  isCommitted: false,
  isHashed: false,
  translations: [],
};

/** The words of a flow key that translations change: addresses of both families, and ports. */
export const TRANSLATED_WORDS: readonly number[] = [
  ...[0, 1, 2, 3].flatMap((i) => [Word.NW_SRC + i, Word.NW_DST + i]),
  Word.TP_SRC,
  Word.TP_DST,
];

const WAYS = ['forward', 'return', 'related'];
const KINDS = ['source', 'destination', 'reverse'];

/** 31 bits, never zero: the same for the same content, after a restart too. FNV-1a over words. */
export function recirculationHash({ direction, isCommitted, isHashed, translations, sentFrom }: Recirculation): number {
  let hash = 0x811c9dc5;
  const add = (word: number) => {
    hash = Math.imul(hash ^ word, 0x01000193);
    hash ^= hash >>> 15;
  };
  if (typeof direction === 'object') add(WAYS.indexOf(direction.way) + (direction.isTranslated ? 8 : 0));
  else add(direction === 'key' ? 16 : 17);
  add((isCommitted ? 1 : 0) | (isHashed ? 2 : 0));
  if (sentFrom !== undefined) add(fnv1a(sentFrom.tag));
  for (const { kind, zone, values, mask, isMade } of translations) {
    add(KINDS.indexOf(kind));
    add(zone);
    add(isMade === undefined ? 2 : isMade ? 1 : 0);
    for (let i = 0; i < TRANSLATED_WORDS.length; i++) {
      add(values[i]);
      add(mask[i]);
    }
  }
  return hash & 0x7fff_ffff || 1;
}

export function recirculationsEqual(a: Recirculation, b: Recirculation): boolean {
  return (
    directionsEqual(a.direction, b.direction) &&
    a.isCommitted === b.isCommitted &&
    a.isHashed === b.isHashed &&
    a.sentFrom === b.sentFrom &&
    a.translations.length === b.translations.length &&
    a.translations.every((translation, i) => translationsEqual(translation, b.translations[i]))
  );
}

function directionsEqual(a: Recirculation['direction'], b: Recirculation['direction']): boolean {
  if (typeof a !== 'object' || typeof b !== 'object') return a === b;
  return a.way === b.way && a.isTranslated === b.isTranslated;
}

function translationsEqual(a: Translation, b: Translation): boolean {
  return (
    a.kind === b.kind &&
    a.zone === b.zone &&
    a.isMade === b.isMade &&
    a.values.every((word, i) => word === b.values[i]) &&
    a.mask.every((word, i) => word === b.mask[i])
  );
}
