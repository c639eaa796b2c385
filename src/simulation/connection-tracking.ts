import type { Action, NatSpec } from '../flow/action.js';
import { CtState, Frag } from '../flow/key.js';
import type { Arrival } from './arrival.js';
import {
  type Direction,
  NO_RECIRCULATION,
  type Recirculation,
  recirculationHash,
  TARGET_HASH_BASIS,
  TRACKED_TUNNEL_KEY,
  TRANSLATED_MARK,
  TRANSLATED_TUNNEL_KEY,
  type Translation,
  type TranslationKind,
} from './connection.js';
import type { DropReason, NumberedRecirculation } from './decision.js';
import type { Fact } from './fact.js';
import { ADDRESSES, type PacketHeaders } from './headers.js';

/** How far a copy of the packet has come on the way that its recirculation tells of. */
export interface Position {
  /** Translations passed. */
  readonly translations: number;
  readonly isHashUsed: boolean;
  readonly isTracked: boolean;
}

/** A copy that comes back to the datapath's flows, with an identifier that says what was done to it. */
interface Return {
  readonly actions: readonly Action[];
  readonly recirculation: Recirculation;
}

/** As long as any other. */
const ANY_RECIRCULATION: Action = { type: 'recirc', id: 1 };

/** The simulation that a packet's tracking is part of. */
export interface TrackedSimulation {
  /** Undefined: the decision will be to wait for the fact. */
  read<T>(fact: Fact<T>): T | null | undefined;
  drop(reason: DropReason): void;
  /** Make the action list longer by these, or leave a copy out and count it where the datapath takes no longer one. */
  takeRoom(actions: readonly Action[]): boolean;
  /** Whether the packet is, at this point of its way, a copy that a mirror made. */
  readonly isMirrorCopy: boolean;
}

/**
 * What the datapath knows of the packet's connection and has done to the packet, how far a copy of the packet has come on
 * that way, and what the datapath is to be asked next: see connection.ts.
 */
export class ConnectionTracking {
  /** How far the copy that is looked at has come. Whoever goes on with another copy puts that one's here. */
  position: Position = { translations: 0, isHashUsed: false, isTracked: false };
  /** The recirculations that the decision sends packets to. */
  readonly numbered: NumberedRecirculation[] = [];
  /** What the datapath has done to the packet before. */
  private readonly before: Recirculation;
  /** Whether the packet came back, and nobody knows from where. */
  private readonly isLost: boolean;
  /** Whether a copy has come to where the packet that came back was sent from. */
  private hasArrived: boolean;
  /** The zone that is to be asked what the packet is to its connection: all that is done with it. */
  private asked: number | undefined;
  private readonly returns: Return[] = [];
  /** Whether a copy is committed in the zone of the port of entry only later, with a translation. */
  private isCommitLater = false;
  /** The zone of the port of entry, when a copy leaves that is to be committed there. */
  private commitZone: number | undefined;

  constructor(
    private readonly simulation: TrackedSimulation,
    private readonly headers: PacketHeaders,
    private readonly arrival: Arrival,
  ) {
    const { recircId } = headers.key;
    const known = recircId === 0 ? undefined : arrival.recirculations?.get(recircId);
    const before = recircId === 0 ? NO_RECIRCULATION : known && simulation.read(known);
    this.before = before ?? NO_RECIRCULATION;
    this.isLost = before === null;
    this.hasArrived = before != null && before.translations.length === 0 && !before.isHashed;
    if (this.before.translations.length > 0) headers.showBefore(this.before.translations[0]);
  }

  /** Whether no copy has come to where the packet was sent from: what it came back with is about others. */
  get isStale(): boolean {
    return !this.hasArrived;
  }

  /** Whether this copy of the packet is the one that came back, at the point of its way where it was sent from or behind that. */
  isHere(): boolean {
    const { before, headers } = this;
    if (before === NO_RECIRCULATION) return true;
    headers.settle();
    const { translations, isHashUsed } = this.position;
    return !headers.isAstray && translations === before.translations.length && (isHashUsed || !before.isHashed);
  }

  /** To be done before the packet is kept for later: whether this copy has gone astray is known only then. */
  settle(): void {
    if (this.before !== NO_RECIRCULATION) this.headers.settle();
  }

  /** The packet passes a port or device that has rules which depend on connections, whether or not it comes to one. */
  track(): void {
    if (this.position.isTracked) return;
    this.position = { ...this.position, isTracked: true };
    if (!this.headers.isIp()) return;
    // On the way through connection tracking fragments are put together, so that all of them go one way, by ports too.
    this.headers.mask.seeNwFrag();
    if (this.headers.packet.nwFrag !== Frag.NONE) this.way();
  }

  /**
   * Whether the packet goes the way of the one that opened its connection; ICMP errors do not. Undefined while that is not
   * known: then the decision will be to find out, and this way ends here.
   */
  connection(): 'forward' | 'return' | undefined {
    const way = this.way();
    if (way !== undefined) this.arrival.trace?.push({ type: 'connection', way });
    return way === undefined || way === 'forward' ? way : 'return';
  }

  /** What the packet is to its connection; undefined as of {@link connection}. */
  direction(): Direction | undefined {
    const way = this.way();
    if (way === undefined) return undefined;
    const { direction } = this.before;
    // A reply out of a tunnel is known for one only behind the translation that it came here for.
    if (typeof direction === 'object') return { way, isTranslated: direction.isTranslated };
    if (way === 'forward' || direction !== 'key') return { way, isTranslated: false };
    this.headers.seen.seeCtMark(TRANSLATED_MARK);
    return { way, isTranslated: (this.headers.key.ctMark & TRANSLATED_MARK) !== 0 };
  }

  private way(): Direction['way'] | undefined {
    if (!this.headers.isIp()) return 'forward';
    // What devices send of their own accord answers something.
    if (this.arrival.sentFrom !== undefined) return 'related';
    // What comes from another host to be filtered here was flooded there, as answers hardly ever are; so it opens a connection.
    if (this.arrival.ingress === undefined) return this.hasReversed() ? 'return' : 'forward';
    const { direction } = this.before;
    if (direction === undefined) return this.ask();
    if (direction !== 'key') return direction.way;
    this.headers.seen.seeCtState(CtState.REPLY | CtState.RELATED);
    if ((this.headers.key.ctState & CtState.RELATED) !== 0) return 'related';
    return (this.headers.key.ctState & CtState.REPLY) === 0 ? 'forward' : 'return';
  }

  /** The zone of the port where the packet came in; null if it came in at none, undefined when it is not in hand. */
  entryZone(): number | null | undefined {
    if (this.arrival.ingress === undefined) return null;
    if (this.arrival.recirculations === undefined) {
      this.simulation.drop('no-connection-state');
      return undefined;
    }
    const port = this.simulation.read(this.arrival.ingress);
    if (port === undefined || port === null) return undefined;
    const local = port.location?.type === 'local' ? port.location : undefined;
    if (local === undefined && this.arrival.elsewhereZone !== undefined) return this.arrival.elsewhereZone;
    const zone = local?.zone === undefined ? null : this.simulation.read(local.zone);
    if (zone === null) this.simulation.drop('no-connection-state');
    return zone ?? undefined;
  }

  /** `bits` of a hash of the packet, from bit `shift` on. Undefined while it has none: then this way ends here. */
  bucket(bits: number, shift = 0): number | undefined {
    if (this.before.isHashed && this.position.translations === this.before.translations.length) {
      this.position = { ...this.position, isHashUsed: true };
      this.arrive();
      if (!this.isHere()) return undefined;
      this.headers.seen.seeDpHash((2 ** bits - 1) << shift);
      const bucket = (this.headers.key.dpHash >>> shift) & (2 ** bits - 1);
      this.arrival.trace?.push({ type: 'bucket', bucket });
      return bucket;
    }
    if (!this.isHere()) return undefined;
    this.arrival.trace?.push({ type: 'hash' });
    this.isCommitLater = true;
    this.sendBack({
      actions: [{ type: 'hash', basis: TARGET_HASH_BASIS }],
      recirculation: { ...this.before, isHashed: true, sentFrom: this.arrival.sentFrom },
    });
    return undefined;
  }

  /**
   * Whether the datapath has made this translation at this point of the packet's way, in which case the packet is as it
   * came out: `made`, or `unmade` when there was nothing to make it by. Undefined when it has not come that far.
   */
  translated(kind: TranslationKind, zone: number): 'made' | 'unmade' | undefined {
    const { translations } = this.before;
    const at = this.position.translations;
    if (at === translations.length) return undefined;
    this.headers.settle();
    const translation = translations[at];
    if (translation.kind !== kind || translation.zone !== zone) {
      this.headers.isAstray = true;
      return 'unmade';
    }
    this.position = { ...this.position, translations: at + 1 };
    this.headers.showBefore(translations[at + 1]);
    this.arrive();
    const isMade = this.isMade(translation);
    this.arrival.trace?.push({ type: 'translated', kind, isMade });
    return isMade ? 'made' : 'unmade';
  }

  /**
   * Let the datapath translate the packet, and go on when it comes back: this way ends here. Once it knows a connection's
   * translation `nat` does not count for it.
   */
  translate(kind: TranslationKind, zone: number, nat: NatSpec): void {
    if (!this.isHere() || this.asked !== undefined) return;
    const { simulation, headers, arrival, before } = this;
    const { translations: earlier } = before;
    if (earlier.some((each) => each.zone === zone && this.isMade(each))) return simulation.drop('translated-twice');
    const entryZone = this.entryZone();
    if (entryZone === undefined) return;
    // In another zone the answer of this one is gone.
    const direction = zone === entryZone ? 'key' : this.direction();
    if (direction === undefined) return;
    if (zone === entryZone) this.isCommitLater = true;
    else if (entryZone !== null && !before.isCommitted && !simulation.isMirrorCopy && !this.commitIn(entryZone)) return;
    arrival.trace?.push({ type: 'translate', kind, zone, nat });
    const set = headers.setAction(ADDRESSES);
    const ct: Action = { type: 'ct', zone, commit: kind !== 'reverse', nat };
    const translations = earlier.map((translation) => ({ ...translation, isMade: this.isMade(translation) }));
    this.sendBack({
      actions: set === undefined ? [ct] : [set, ct],
      recirculation: {
        direction,
        isCommitted: true,
        isHashed: false,
        sentFrom: arrival.sentFrom,
        translations: [...translations, { kind, zone, ...headers.translatedSeen() }],
      },
    });
  }

  /** Whether the packet is a reply that has its destination back from a translation, in this zone or in any. */
  hasReversed(zone?: number): boolean {
    for (let i = 0; i < this.position.translations; i++) {
      const translation = this.before.translations[i];
      if (translation.kind !== 'reverse' || (zone ?? translation.zone) !== translation.zone) continue;
      if (this.isMade(translation)) return true;
    }
    return false;
  }

  /** What to do with a copy of the packet that leaves at a port of this host with this zone. */
  actionsAtEgress(zone: number): Action[] {
    if (!this.isTracked()) return [];
    const ct = { type: 'ct', zone, commit: true, nat: { kind: 'restore' } } as const;
    return [this.isDestinationTranslated() ? { ...ct, mark: TRANSLATED_MARK, markMask: TRANSLATED_MARK } : ct];
  }

  /** The bits of its tunnel key that tell another host what to do with a copy of the packet. */
  tunnelKeyBits(): number {
    if (!this.isTracked()) return 0;
    return this.isDestinationTranslated() ? TRACKED_TUNNEL_KEY | TRANSLATED_TUNNEL_KEY : TRACKED_TUNNEL_KEY;
  }

  /**
   * A copy of the packet leaves: have it committed in the zone of the port of entry, if it is to be. False when that zone is
   * not in hand, as then the decision is another, or there is no room for it.
   */
  commitAtEntry(): boolean {
    if (!this.isTracked() || this.before.isCommitted) return true;
    const zone = this.entryZone();
    if (zone === undefined) return false;
    return zone === null || this.commitIn(zone);
  }

  private commitIn(zone: number): boolean {
    if (this.commitZone === undefined && !this.simulation.takeRoom([commitIn(zone)])) return false;
    this.commitZone = zone;
    return true;
  }

  /** The question for the connection's state, if the decision is to ask: nothing else is done with the packet then. */
  question(): Action[] | undefined {
    if (this.asked === undefined) return undefined;
    const recirc = this.recirculate({ ...this.before, direction: 'key', sentFrom: this.arrival.sentFrom });
    return [{ type: 'ct', zone: this.asked }, recirc];
  }

  /** What commits the packet in the zone of the port of entry, if anything does: comes before all copies. */
  commitment(): Action | undefined {
    if (this.commitZone === undefined || this.isCommitLater) return undefined;
    return commitIn(this.commitZone);
  }

  /** How many copies of the packet come back from the datapath. */
  get returning(): number {
    return this.returns.length;
  }

  /** The actions for each of these. */
  returnedCopies(): Action[][] {
    return this.returns.map(({ actions, recirculation }) => [...actions, this.recirculate(recirculation)]);
  }

  private sendBack(copy: Return): void {
    const actions = [...copy.actions, ANY_RECIRCULATION];
    if (this.simulation.takeRoom([{ type: 'clone', actions }])) this.returns.push(copy);
  }

  private recirculate(recirculation: Recirculation): Action {
    const id = this.arrival.recirculations?.idOf(recirculation) ?? recirculationHash(recirculation);
    this.numbered.push({ id, recirculation });
    return { type: 'recirc', id };
  }

  private ask(): undefined {
    // Nobody knows what was done to it, so the answer could not be made anything of.
    if (this.isLost) return;
    this.asked = this.entryZone() ?? undefined;
    if (this.asked !== undefined) this.arrival.trace?.push({ type: 'ask', zone: this.asked });
  }

  /** A mirror's copy opens no connection, wherever it goes. */
  private isTracked(): boolean {
    return this.position.isTracked && !this.simulation.isMirrorCopy && this.headers.isIp();
  }

  private arrive(): void {
    if (this.isHere()) this.hasArrived = true;
  }

  /** Whether a translation of this copy's way has changed the packet. */
  private isMade({ kind, isMade }: Translation): boolean {
    if (isMade !== undefined) return isMade;
    if (kind === 'source') return true;
    this.headers.seen.seeCtState(CtState.DNAT);
    return (this.headers.key.ctState & CtState.DNAT) !== 0;
  }

  /** Whether this copy goes to another destination than it came in with, because of what this host or the one before did. */
  private isDestinationTranslated(): boolean {
    if (isFromOtherHost(this.arrival)) return (this.headers.key.tunId & TRANSLATED_TUNNEL_KEY) !== 0;
    for (let i = 0; i < this.position.translations; i++) {
      const translation = this.before.translations[i];
      if (translation.kind === 'destination' && this.isMade(translation)) return true;
    }
    return false;
  }
}

/** Whether another host has had the packet before. */
export function isFromOtherHost({ ingress, sentFrom }: Arrival): boolean {
  return ingress === undefined && sentFrom === undefined;
}

function commitIn(zone: number): Action {
  return { type: 'ct', zone, commit: true };
}
