import type { Action, NatSpec } from '../flow/action.js';
import { CtState, type FlowKey, Frag } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { formatMac } from '../packet/address.js';
import type { Side } from './condition.js';
import {
  type Direction,
  NO_RECIRCULATION,
  type Recirculation,
  type Recirculations,
  recirculationHash,
  TARGET_HASH_BASIS,
  TRACKED_TUNNEL_KEY,
  TRANSLATED_MARK,
  TRANSLATED_TUNNEL_KEY,
  type Translation,
  type TranslationKind,
} from './connection.js';
import type { Decision, DropReason, Effect, NumberedRecirculation, Reply } from './decision.js';
import { answeredPort, embeddedAddress } from './embedded.js';
import type { BridgeFact, Fact, PortFact, RouterPortFact } from './fact.js';
import { ADDRESSES, PacketHeaders, type SavedHeaders } from './headers.js';
import type { TraceStep } from './trace.js';

/** What bounds a decision. */
export interface Limits {
  /** Longest action list in bytes, and how long one is. */
  readonly maxActionsLength: number;
  actionsLength(actions: readonly Action[]): number;
}

/** Copies that mirrors make of copies that mirrors made, at most: each mirror that sees another's copies makes them more. */
const MAX_COPIES_OF_COPIES = 64;

/** Devices that a packet passes at most; one that passes more goes in a circle. MidoNet's value. */
const MAX_DEVICES = 12;

/** So many facts are found faster by going through them than by a hash. */
const SEARCHED_FACTS = 48;

/** Facts, each once, in the order in which they were first read. Most simulations read few. */
class FactSet {
  readonly list: Fact<unknown>[] = [];
  private index: Set<Fact<unknown>> | undefined;

  add(fact: Fact<unknown>): void {
    const { list } = this;
    if (this.index === undefined) {
      for (let i = list.length - 1; i >= 0; i--) if (list[i] === fact) return;
      if (list.length === SEARCHED_FACTS) this.index = new Set(list);
    } else if (this.index.has(fact)) return;
    this.index?.add(fact);
    list.push(fact);
  }
}

/** A packet on its way into a device, with the headers that it has there. */
interface Visit {
  readonly port: Fact<PortFact>;
  readonly isReturned: boolean;
  readonly headers: SavedHeaders;
  readonly devices: number;
  readonly entry: Fact<PortFact> | undefined;
  readonly passed: PassedDevice | undefined;
  readonly position: Position;
  readonly flood: Flood | undefined;
  readonly mirrored: MirroredCopy | undefined;
}

/** The bridges that copies of a flooded packet have been in, and in which VLANs there. */
type Flood = Map<BridgeFact, Set<number>>;

/** What a copy of the packet is to be, and where it goes. */
interface Copy {
  readonly changes: readonly Action[];
  readonly outputs: readonly Action[];
}

/** A mirror made this copy of the packet, perhaps of another copy. */
interface MirroredCopy {
  readonly mirrorId: string;
  readonly of: MirroredCopy | undefined;
}

/** A device that a packet has passed, and those before it. */
interface PassedDevice {
  readonly id: string;
  readonly before: PassedDevice | undefined;
}

/** How far a copy of the packet has come on the way that its recirculation tells of. */
interface Position {
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

/** How a packet came to be here. */
export interface Arrival {
  /** The exterior port where it came in; absent when it is a device's own, or another host has let it in. */
  readonly ingress?: Fact<PortFact>;
  /** Where a device sent it. */
  readonly sentFrom?: Fact<PortFact>;
  /** Absent when the datapath cannot track connections. */
  readonly recirculations?: Recirculations;
  /** The packet itself; absent where a flow is looked at again. */
  readonly bytes?: Uint8Array;
  /** Gets the steps of the packet's way. */
  readonly trace?: TraceStep[];
}

/** One packet on its way through the virtual network. Made for one simulation, which ends with {@link SimulationContext.decision}. */
export class SimulationContext {
  readonly headers: PacketHeaders;
  /** Of {@link headers}: the packet as it is at this point of its way. */
  readonly packet: FlowKey;
  /** Of {@link headers}: what is read of the packet. */
  readonly mask: FlowMask;
  /** The exterior port that it came in at; undefined for a packet of a device's own, or out of a tunnel. */
  readonly ingress: Fact<PortFact> | undefined;
  /** Where devices write down what they found, if somebody wants to know. */
  readonly trace: TraceStep[] | undefined;
  private readonly tags = new FactSet();
  private readonly missing = new FactSet();
  private readonly effects: Effect[] = [];
  private readonly visits: Visit[] = [];
  private readonly copies: Copy[] = [];
  private devices = 0;
  private install = true;
  private dropReason: DropReason | undefined;
  private copiesLength = 0;
  private cutCopies = 0;
  private circles = 0;
  /** What the datapath has done to the packet before. */
  private readonly before: Recirculation;
  private position: Position = { translations: 0, isHashUsed: false, isTracked: false };
  /** Whether a copy has come to where the packet that came back was sent from. */
  private hasArrived: boolean;
  /** The zone that is to be asked what the packet is to its connection: all that is done with it. */
  private asked: number | undefined;
  private readonly returns: Return[] = [];
  private readonly numbered: NumberedRecirculation[] = [];
  /** Whether a copy is committed in the zone of the port of entry only later, with a translation. */
  private isCommitLater = false;
  /** The zone of the port of entry, when a copy leaves that is to be committed there. */
  private commitZone: number | undefined;

  /** Whether another host has flooded the packet, to all hosts that are to have it: a rule that redirects it may have it flooded again. */
  isFlooded = false;
  /** Whether a redirected packet is taken as come back from a port that may not be up. */
  isReturned = false;
  /** The port of the device where the packet came in; undefined of one that the device sent by itself. */
  inPort: Fact<PortFact> | undefined;
  /** Where it goes out of the device; undefined before that is known, and of a flooded packet. */
  outPort: Fact<PortFact> | undefined;
  /** The exterior port where it entered the virtual network. */
  entry: Fact<PortFact> | undefined;
  /** Whether DNAT, or SNAT in reverse, has changed the destination since it came in at the device. */
  isDestinationRewritten = false;
  private passed: PassedDevice | undefined;
  private flood: Flood | undefined;
  private mirrored: MirroredCopy | undefined;
  private copiesOfCopies = 0;
  /** Which drops what comes in too fast. */
  private meter: number | undefined;
  /** The source MAC address that it came in at the device with. */
  private senderMac = 0;

  constructor(
    /** What the datapath knows of the packet. */
    readonly key: FlowKey,
    readonly limits: Limits,
    private readonly arrival: Arrival = {},
  ) {
    this.headers = new PacketHeaders(key, arrival.trace);
    this.packet = this.headers.packet;
    this.mask = this.headers.mask;
    this.ingress = arrival.ingress;
    this.trace = arrival.trace;
    const known = key.recircId === 0 ? undefined : arrival.recirculations?.get(key.recircId);
    const before = key.recircId === 0 ? NO_RECIRCULATION : known && this.read(known);
    this.before = before ?? NO_RECIRCULATION;
    this.hasArrived = before != null && before.translations.length === 0 && !before.isHashed;
    if (this.before.translations.length > 0) this.headers.showBefore(this.before.translations[0]);
    // A flow that did not match the recirculation identifier would catch packets in the middle of another's path, and
    // the kernel matches the VLAN tag whether asked to or not.
    this.mask.seeInPort();
    this.mask.seeRecircId();
    this.mask.seeVlan();
  }

  /** Read a fact: undefined when it is not in hand, and then the decision will be to wait for it. */
  read<T>(fact: Fact<T>): T | null | undefined {
    this.tags.add(fact);
    const { value } = fact;
    if (value === undefined) {
      this.missing.add(fact);
      this.trace?.push({ type: 'wait', fact: fact.tag });
    }
    return value;
  }

  /** Read a fact that nothing waits for: the decision is made again when it is in hand. */
  peek<T>(fact: Fact<T>): T | null | undefined {
    this.tags.add(fact);
    return fact.value;
  }

  drop(reason: DropReason): void {
    this.trace?.push({ type: 'drop', reason });
    if (this.isHere()) this.dropReason = reason;
  }

  learn(effect: Extract<Effect, { type: 'learn' }>): void {
    this.trace?.push({ type: 'learn', mac: formatMac(effect.mac), port: effect.port.id });
    this.effects.push(effect);
  }

  /** The way of the packet is to be written down, for each request once. */
  requestTrace(traceRequestId: string, limit: number | undefined): void {
    const isRequested = this.effects.some((one) => one.type === 'trace' && one.traceRequestId === traceRequestId);
    if (!isRequested && this.isHere()) this.effects.push({ type: 'trace', traceRequestId, limit });
  }

  /** Answer with this frame out of the port of the device that the packet came in at. Later packets must be seen again. */
  answer(frame: Uint8Array): void {
    if (this.inPort !== undefined) this.send(this.inPort, frame);
  }

  /** Somebody told the MAC address of an IP address. Later packets must be seen again. */
  hear(effect: Extract<Effect, { type: 'neighbor' | 'announce' }>): void {
    this.effects.push(effect);
    this.install = false;
  }

  /** Send a frame of a device's own out of one of its ports. Later packets must be seen again. */
  send(port: Fact<PortFact>, frame: Uint8Array): void {
    this.trace?.push({ type: 'answer', port: port.value?.id, frame: hex(frame) });
    if (!this.isHere()) return;
    this.effects.push({ type: 'send', port, frame });
    this.install = false;
  }

  /** Tell the sender of the packet something, out of the router's port that it came in at. Later packets must be seen again. */
  reply(port: Fact<PortFact>, from: RouterPortFact, reply: Reply): void {
    this.trace?.push({ type: 'reply', port: from.id, reply });
    if (!this.isHere()) return;
    this.effects.push({ type: 'reply', port, from, to: this.senderMac, reply });
    this.install = false;
  }

  /** Answer a machine's request for configuration. Later packets must be seen again. */
  configure(effect: Extract<Effect, { type: 'configure' }>): void {
    this.trace?.push({ type: 'configure', request: effect.request });
    if (!this.isHere()) return;
    this.effects.push(effect);
    this.install = false;
  }

  /** A router sends the packet on: where it goes from here has nothing to do with how it came. */
  setEthernet(src: number, dst: number): void {
    this.flood = undefined;
    this.headers.setEthernet(src, dst);
  }

  /** Nothing is done with the packet if the meter does not let it pass. */
  limitBy(meter: number): void {
    this.trace?.push({ type: 'meter', id: meter });
    this.meter = meter;
    this.copiesLength += this.limits.actionsLength([{ type: 'meter', id: meter }]);
  }

  /** From here on, copies of the packet go everywhere. */
  beginFlood(bridge: BridgeFact, vlan: number): void {
    this.flood ??= new Map([[bridge, new Set([vlan])]]);
  }

  /** Whether no other copy of a flooded packet has been in this VLAN of the bridge. */
  isFirstCopyIn(bridge: BridgeFact, vlan: number): boolean {
    if (this.flood === undefined) return true;
    const vlans = this.flood.get(bridge);
    if (vlans?.has(vlan)) return false;
    if (vlans === undefined) this.flood.set(bridge, new Set([vlan]));
    else vlans.add(vlan);
    return true;
  }

  /** Send a copy of the packet somewhere: behind `act` the packet is what it was before. */
  branch(act: () => void): void {
    // Before it is known whether this copy has gone astray.
    if (this.before !== NO_RECIRCULATION) this.headers.settle();
    const headers = this.headers.save();
    const { outPort, isDestinationRewritten, position } = this;
    act();
    this.headers.restore(headers);
    this.outPort = outPort;
    this.isDestinationRewritten = isDestinationRewritten;
    this.position = position;
  }

  /** Whether this is a copy that the mirror made, or a copy of one. */
  isCopiedBy(mirrorId: string): boolean {
    for (let copy = this.mirrored; copy !== undefined; copy = copy.of) if (copy.mirrorId === mirrorId) return true;
    return false;
  }

  /** Send a copy of the packet that a mirror makes of it: nothing that becomes of it makes a difference to the packet. */
  copyBy(mirrorId: string, act: () => void): void {
    if (this.mirrored !== undefined && ++this.copiesOfCopies > MAX_COPIES_OF_COPIES) {
      this.cutCopies++;
      return;
    }
    const { mirrored, flood } = this;
    this.branch(() => {
      this.mirrored = { mirrorId, of: mirrored };
      this.flood = undefined;
      act();
    });
    this.mirrored = mirrored;
    this.flood = flood;
  }

  /** Whether another host has had the packet before. */
  get isFromOtherHost(): boolean {
    return this.ingress === undefined && this.arrival.sentFrom === undefined;
  }

  /**
   * The packet goes in at a port of a device, with the headers that it has at this point.
   * @param isReturned it is as if it had come back from there, whether or not the port is up
   */
  enter(port: Fact<PortFact>, isReturned = false): void {
    if (this.devices >= MAX_DEVICES) {
      if (this.flood !== undefined) this.cutCopies++;
      return this.drop('too-many-devices');
    }
    // Before it is known whether this copy has gone astray.
    if (this.before !== NO_RECIRCULATION) this.headers.settle();
    this.visits.push({
      port,
      isReturned,
      headers: this.headers.save(),
      devices: this.devices + 1,
      position: this.position,
      entry: this.entry,
      passed: this.passed,
      flood: this.flood,
      mirrored: this.mirrored,
    });
  }

  /**
   * The port that the packet goes in at next, with its headers back as they were when it was sent there. First come, first
   * served, so that the copies of a flooded packet take the shortest ways.
   */
  nextVisit(): Fact<PortFact> | undefined {
    const visit = this.visits.shift();
    if (visit === undefined) return undefined;
    this.headers.restore(visit.headers);
    this.devices = visit.devices;
    this.position = visit.position;
    this.entry = visit.entry;
    this.passed = visit.passed;
    this.flood = visit.flood;
    this.mirrored = visit.mirrored;
    this.inPort = visit.port;
    this.isReturned = visit.isReturned;
    this.outPort = undefined;
    this.isDestinationRewritten = false;
    this.senderMac = this.packet.ethSrc;
    return visit.port;
  }

  /** A rule jumps back to a chain that led to it, which is not followed. */
  countCircle(chainId: string): void {
    this.trace?.push({ type: 'circle', chain: chainId });
    this.circles++;
  }

  /** The packet is in a bridge or router. */
  pass(deviceId: string): void {
    this.passed = { id: deviceId, before: this.passed };
  }

  /** The bridges and routers that the packet has passed, this one included. */
  passedDeviceIds(): Set<string> {
    const ids = new Set<string>();
    for (let device = this.passed; device !== undefined; device = device.before) ids.add(device.id);
    return ids;
  }

  /**
   * An address of the packet that this one, an ICMP error, is about; null if there is none. No key holds it, so the
   * decision is for this packet only.
   */
  icmpData(side: Side): Uint32Array | null {
    this.install = false;
    return this.arrival.bytes === undefined ? null : embeddedAddress(this.arrival.bytes, side);
  }

  /** The source port of the packet that this one, an ICMP message, answers; null of none. For this packet only, as {@link icmpData}. */
  answeredPort(): number | null {
    this.install = false;
    return this.arrival.bytes === undefined ? null : answeredPort(this.arrival.bytes);
  }

  /** The packet passes a port or device that has rules which depend on connections, whether or not it comes to one. */
  track(): void {
    if (this.position.isTracked) return;
    this.position = { ...this.position, isTracked: true };
    if (!this.headers.isIp()) return;
    // On the way through connection tracking fragments are put together, so that all of them go one way, by ports too.
    this.mask.seeNwFrag();
    if (this.packet.nwFrag !== Frag.NONE) this.way();
  }

  /**
   * Whether the packet goes the way of the one that opened its connection; ICMP errors do not. Undefined while that is not
   * known: then the decision will be to find out, and this way ends here.
   */
  connection(): 'forward' | 'return' | undefined {
    const way = this.way();
    if (way !== undefined) this.trace?.push({ type: 'connection', way });
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
    return { way, isTranslated: (this.key.ctMark & TRANSLATED_MARK) !== 0 };
  }

  private way(): Direction['way'] | undefined {
    if (!this.headers.isIp()) return 'forward';
    // What devices send of their own accord answers something.
    if (this.arrival.sentFrom !== undefined) return 'related';
    // What comes from another host to be filtered here was flooded there, as answers hardly ever are; so it opens a connection.
    if (this.ingress === undefined) return this.hasReversed() ? 'return' : 'forward';
    const { direction } = this.before;
    if (direction === undefined) return this.ask();
    if (direction !== 'key') return direction.way;
    this.headers.seen.seeCtState(CtState.REPLY | CtState.RELATED);
    if ((this.key.ctState & CtState.RELATED) !== 0) return 'related';
    return (this.key.ctState & CtState.REPLY) === 0 ? 'forward' : 'return';
  }

  /** The zone of the port where the packet came in; null if it came in at none, undefined when it is not in hand. */
  entryZone(): number | null | undefined {
    if (this.ingress === undefined) return null;
    if (this.arrival.recirculations === undefined) {
      this.drop('no-connection-state');
      return undefined;
    }
    const port = this.read(this.ingress);
    if (port === undefined || port === null) return undefined;
    const fact = port.location?.type === 'local' ? port.location.zone : undefined;
    const zone = fact === undefined ? null : this.read(fact);
    if (zone === null) this.drop('no-connection-state');
    return zone ?? undefined;
  }

  /** `bits` of a hash of the packet, from bit `shift` on. Undefined while it has none: then this way ends here. */
  bucket(bits: number, shift = 0): number | undefined {
    if (this.before.isHashed && this.position.translations === this.before.translations.length) {
      this.position = { ...this.position, isHashUsed: true };
      this.arrive();
      if (!this.isHere()) return undefined;
      this.headers.seen.seeDpHash((2 ** bits - 1) << shift);
      const bucket = (this.key.dpHash >>> shift) & (2 ** bits - 1);
      this.trace?.push({ type: 'bucket', bucket });
      return bucket;
    }
    if (!this.isHere()) return undefined;
    this.trace?.push({ type: 'hash' });
    this.isCommitLater = true;
    this.returns.push({
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
    this.trace?.push({ type: 'translated', kind, isMade });
    return isMade ? 'made' : 'unmade';
  }

  /**
   * Let the datapath translate the packet, and go on when it comes back: this way ends here. Once it knows a connection's
   * translation `nat` does not count for it.
   */
  translate(kind: TranslationKind, zone: number, nat: NatSpec): void {
    if (!this.isHere() || this.asked !== undefined) return;
    const { translations: earlier } = this.before;
    if (earlier.some((each) => each.zone === zone && this.isMade(each))) return this.drop('translated-twice');
    const entryZone = this.entryZone();
    if (entryZone === undefined) return;
    // In another zone the answer of this one is gone.
    const direction = zone === entryZone ? 'key' : this.direction();
    if (direction === undefined) return;
    if (zone === entryZone) this.isCommitLater = true;
    else if (entryZone !== null && !this.before.isCommitted && this.mirrored === undefined) this.commitZone = entryZone;
    this.trace?.push({ type: 'translate', kind, zone, nat });
    const set = this.headers.setAction(ADDRESSES);
    const ct: Action = { type: 'ct', zone, commit: kind !== 'reverse', nat };
    const translations = earlier.map((translation) => ({ ...translation, isMade: this.isMade(translation) }));
    this.returns.push({
      actions: set === undefined ? [ct] : [set, ct],
      recirculation: {
        direction,
        isCommitted: true,
        isHashed: false,
        sentFrom: this.arrival.sentFrom,
        translations: [...translations, { kind, zone, ...this.headers.translatedSeen() }],
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
  trackAtEgress(zone: number): Action[] {
    if (!this.isTracked()) return [];
    const ct = { type: 'ct', zone, commit: true, nat: { kind: 'restore' } } as const;
    return [this.isDestinationTranslated() ? { ...ct, mark: TRANSLATED_MARK, markMask: TRANSLATED_MARK } : ct];
  }

  /** The bits of its tunnel key that tell another host what to do with a copy of the packet. */
  trackingKeyBits(): number {
    if (!this.isTracked()) return 0;
    return this.isDestinationTranslated() ? TRACKED_TUNNEL_KEY | TRANSLATED_TUNNEL_KEY : TRACKED_TUNNEL_KEY;
  }

  /**
   * Send the packet as it is by these actions. The headers are set first. One that would make the list longer than the
   * datapath takes is left out and counted.
   */
  output(outputs: readonly Action[]): void {
    this.trace?.push({ type: 'output', actions: outputs });
    if (!this.isHere()) return;
    if (this.isTracked() && !this.before.isCommitted) {
      const zone = this.entryZone();
      if (zone === undefined) return;
      if (zone !== null) this.commitZone = zone;
    }
    const changes = this.headers.changes();
    const actions = [...changes, ...outputs];
    // Room for the clone that keeps the headers of the other copies as they are.
    const length =
      this.copiesLength + this.limits.actionsLength(changes.length === 0 ? actions : [{ type: 'clone', actions }]);
    if (length > this.limits.maxActionsLength) {
      this.trace?.push({ type: 'cut' });
      this.cutCopies++;
      return;
    }
    this.copiesLength = length;
    this.copies.push({ changes, outputs });
  }

  /** What came of it. To be asked for once, at the end. */
  decision(): Decision {
    this.headers.settle();
    this.headers.release();
    if (this.missing.list.length > 0) return { type: 'wait', missing: this.missing.list };
    let { effects, install, cutCopies: cut } = this;
    let drop = this.copies.length + this.returns.length > 0 ? undefined : this.dropReason;
    let actions: readonly Action[];
    if (this.asked !== undefined) {
      const recirc = this.recirculate({ ...this.before, direction: 'key', sentFrom: this.arrival.sentFrom });
      actions = [{ type: 'ct', zone: this.asked }, recirc];
      effects = this.effects.filter(({ type }) => type === 'learn');
      install = true;
      drop = undefined;
      cut = 0;
    } else if (!this.hasArrived) {
      actions = [];
      install = false;
      drop = 'stale-recirculation';
    } else actions = this.actions();
    if (this.meter !== undefined && actions.length > 0) actions = [{ type: 'meter', id: this.meter }, ...actions];
    return {
      type: 'done',
      actions,
      mask: this.headers.seen,
      tags: this.tags.list,
      effects,
      install,
      drop,
      cut,
      circles: this.circles,
      recirculations: this.numbered,
    };
  }

  private actions(): Action[] {
    const actions: Action[] = [];
    if (this.commitZone !== undefined && !this.isCommitLater) {
      actions.push({ type: 'ct', zone: this.commitZone, commit: true });
    }
    const isOnlyCopy = this.returns.length + this.copies.length === 1;
    for (const { actions: changes, recirculation } of this.returns) {
      const copy = [...changes, this.recirculate(recirculation)];
      if (isOnlyCopy) actions.push(...copy);
      else actions.push({ type: 'clone', actions: copy });
    }
    for (const { changes, outputs } of this.copies) {
      if (isOnlyCopy || (changes.length === 0 && outputs.every(leavesPacketAlone)))
        actions.push(...changes, ...outputs);
      else actions.push({ type: 'clone', actions: [...changes, ...outputs] });
    }
    return actions;
  }

  private recirculate(recirculation: Recirculation): Action {
    const id = this.arrival.recirculations?.idOf(recirculation) ?? recirculationHash(recirculation);
    this.numbered.push({ id, recirculation });
    return { type: 'recirc', id };
  }

  private ask(): undefined {
    this.asked = this.entryZone() ?? undefined;
    if (this.asked !== undefined) this.trace?.push({ type: 'ask', zone: this.asked });
  }

  /** A mirror's copy opens no connection, wherever it goes. */
  private isTracked(): boolean {
    return this.position.isTracked && this.mirrored === undefined && this.headers.isIp();
  }

  /** Whether this copy of the packet is the one that came back, at the point of its way where it was sent from or behind that. */
  private isHere(): boolean {
    const { before } = this;
    if (before === NO_RECIRCULATION) return true;
    this.headers.settle();
    const { translations, isHashUsed } = this.position;
    return !this.headers.isAstray && translations === before.translations.length && (isHashUsed || !before.isHashed);
  }

  private arrive(): void {
    if (this.isHere()) this.hasArrived = true;
  }

  /** Whether a translation of this copy's way has changed the packet. */
  private isMade({ kind, isMade }: Translation): boolean {
    if (isMade !== undefined) return isMade;
    if (kind === 'source') return true;
    this.headers.seen.seeCtState(CtState.DNAT);
    return (this.key.ctState & CtState.DNAT) !== 0;
  }

  /** Whether this copy goes to another destination than it came in with, because of what this host or the one before did. */
  private isDestinationTranslated(): boolean {
    if (this.isFromOtherHost) {
      return (this.key.tunId & TRANSLATED_TUNNEL_KEY) !== 0;
    }
    for (let i = 0; i < this.position.translations; i++) {
      const translation = this.before.translations[i];
      if (translation.kind === 'destination' && this.isMade(translation)) return true;
    }
    return false;
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** Whether other copies may follow without a clone. */
function leavesPacketAlone({ type }: Action): boolean {
  return type === 'output' || type === 'set-tunnel';
}
