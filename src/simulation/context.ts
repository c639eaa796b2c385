import type { Action } from '../flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, Word } from '../flow/key.js';
import { FlowMask } from '../flow/mask.js';
import type { Decision, DropReason, Effect, Reply } from './decision.js';
import type { Fact, PortFact, RouterPortFact } from './fact.js';

/** What bounds a decision. */
export interface Limits {
  /** Longest action list in bytes, and how long one is. */
  readonly maxActionsLength: number;
  actionsLength(actions: readonly Action[]): number;
}

/** Devices that a packet passes at most; one that passes more goes in a circle. MidoNet's value. */
const MAX_DEVICES = 12;

/** So many facts are found faster by going through them than by a hash. */
const SEARCHED_FACTS = 24;

/** Fields that devices write: first word and number of words. */
const WRITABLE = [
  [Word.ETH_SRC, 2],
  [Word.ETH_DST, 2],
  [Word.NW_SRC, 4],
  [Word.NW_DST, 4],
  [Word.NW_TOS, 1],
  [Word.NW_TTL, 1],
  [Word.TP_SRC, 1],
  [Word.TP_DST, 1],
] as const;

/**
 * Arrays as long as a flow key that no simulation uses. They are not small enough for the heap of JavaScript, so to make
 * and collect them would cost more than everything else in a simulation.
 */
const spareWords: Uint32Array[] = [];

/** An array as long as a flow key, to be given back to {@link spareWords}. It holds anything. */
function takeWords(): Uint32Array {
  return spareWords.pop() ?? new Uint32Array(FLOW_KEY_WORDS);
}

/** Facts, each once, in the order in which they were first read. Most simulations read few. */
class FactSet {
  readonly list: Fact<unknown>[] = [];
  private index: Set<Fact<unknown>> | undefined;

  add(fact: Fact<unknown>): void {
    const { list } = this;
    if (this.index === undefined) {
      if (list.includes(fact)) return;
      if (list.length === SEARCHED_FACTS) this.index = new Set(list);
    } else if (this.index.has(fact)) return;
    this.index?.add(fact);
    list.push(fact);
  }
}

/** A packet on its way into a device, with the headers that it has there. */
interface Visit {
  readonly port: Fact<PortFact>;
  readonly words: Uint32Array;
  readonly written: Uint32Array;
  readonly devices: number;
}

/**
 * One packet on its way through the virtual network. Made for one simulation, which ends with {@link SimulationContext.decision}: what
 * holds the headers of the packet is used again then.
 */
export class SimulationContext {
  /** The packet as it is at this point of its way. */
  readonly packet: FlowKey;
  /** What is read of {@link packet}, to the bit: a device says so for each field it looks at. */
  readonly mask = new FlowMask(takeWords().fill(0));
  /** The bits of {@link key} that the decision depends on. */
  private readonly seen = new FlowMask();
  /** The bits of {@link packet} that a device has set: these do not depend on the key. */
  private readonly written = takeWords().fill(0);
  private readonly tags = new FactSet();
  private readonly missing = new FactSet();
  private readonly effects: Effect[] = [];
  private readonly visits: Visit[] = [];
  private readonly copies: (readonly Action[])[] = [];
  private devices = 0;
  private install = true;
  private dropReason: DropReason | undefined;
  private copiesLength = 0;
  private cutCopies = 0;

  constructor(
    /** What the datapath knows of the packet. */
    readonly key: FlowKey,
    readonly limits: Limits,
  ) {
    this.packet = new FlowKey(takeWords());
    this.packet.words.set(key.words);
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
    if (value === undefined) this.missing.add(fact);
    return value;
  }

  drop(reason: DropReason): void {
    this.dropReason = reason;
  }

  learn(effect: Extract<Effect, { type: 'learn' }>): void {
    this.effects.push(effect);
  }

  /** Answer with `packet` out of the port that the packet came in at. Later packets must be seen again. */
  answer(packet: Uint8Array): void {
    this.effects.push({ type: 'emit', output: this.key.inPort, packet });
    this.install = false;
  }

  /** Send a frame of a router's own out of one of its ports. Later packets must be seen again. */
  send(port: Fact<PortFact>, frame: Uint8Array): void {
    this.effects.push({ type: 'send', port, frame });
    this.install = false;
  }

  /** Tell the sender of the packet something, out of the router's port that it came in at. Later packets must be seen again. */
  reply(port: Fact<PortFact>, from: RouterPortFact, reply: Reply): void {
    this.effects.push({ type: 'reply', port, from, to: this.packet.ethSrc, reply });
    this.install = false;
  }

  setEthernet(src: number, dst: number): void {
    this.settle(Word.ETH_SRC, 4);
    this.packet.ethSrc = src;
    this.packet.ethDst = dst;
    for (const word of [Word.ETH_SRC, Word.ETH_DST]) {
      this.written[word] = 0xffff;
      this.written[word + 1] = 0xffff_ffff;
    }
  }

  setTtl(ttl: number): void {
    this.settle(Word.NW_TTL, 1);
    this.packet.nwTtl = ttl;
    this.written[Word.NW_TTL] = 0xff;
  }

  /** The packet goes in at a port of a device, with the headers that it has at this point. */
  enter(port: Fact<PortFact>): void {
    if (this.devices >= MAX_DEVICES) return this.drop('too-many-devices');
    const words = takeWords();
    const written = takeWords();
    words.set(this.packet.words);
    written.set(this.written);
    this.visits.push({ port, words, written, devices: this.devices + 1 });
  }

  /** The port that the packet goes in at next, with its headers back as they were when it was sent there. */
  nextVisit(): Fact<PortFact> | undefined {
    const visit = this.visits.pop();
    if (visit === undefined) return undefined;
    this.settle();
    this.packet.words.set(visit.words);
    this.written.set(visit.written);
    this.devices = visit.devices;
    spareWords.push(visit.words, visit.written);
    return visit.port;
  }

  /**
   * Send the packet as it is by these actions. The headers are set first. One that would make the list longer than the
   * datapath takes is left out and counted.
   */
  output(actions: readonly Action[]): void {
    const set = this.setHeaders();
    const copy = set === undefined ? actions : [set, ...actions];
    // Room for the clone that keeps the headers of the other copies as they are.
    const length =
      this.copiesLength + this.limits.actionsLength(set === undefined ? copy : [{ type: 'clone', actions: copy }]);
    if (length > this.limits.maxActionsLength) {
      this.cutCopies++;
      return;
    }
    this.copiesLength = length;
    this.copies.push(copy);
  }

  /** What came of it. To be asked for once, at the end. */
  decision(): Decision {
    this.settle();
    spareWords.push(this.packet.words, this.mask.words, this.written);
    if (this.missing.list.length > 0) return { type: 'wait', missing: this.missing.list };
    const actions: Action[] = [];
    const isOnlyCopy = this.copies.length === 1;
    for (const copy of this.copies) {
      if (isOnlyCopy || copy[0].type !== 'set') actions.push(...copy);
      else actions.push({ type: 'clone', actions: copy });
    }
    return {
      type: 'done',
      actions,
      mask: this.seen,
      tags: this.tags.list,
      effects: this.effects,
      install: this.install,
      drop: this.dropReason,
      cut: this.cutCopies,
    };
  }

  /** Take down what was read of `count` words: to be done before it changes what of them was written. */
  private settle(first = 0, count = FLOW_KEY_WORDS): void {
    const { written } = this;
    const read = this.mask.words;
    const seen = this.seen.words;
    for (let i = first; i < first + count; i++) {
      if (read[i] === 0) continue;
      seen[i] |= read[i] & ~written[i];
      read[i] = 0;
    }
  }

  /** What makes the datapath's packet what it is here; undefined if nothing has to be done. */
  private setHeaders(): Action | undefined {
    this.settle();
    let mask: FlowKey | undefined;
    for (const [first, count] of WRITABLE) {
      if (!this.isToBeSet(first, count)) continue;
      mask ??= new FlowKey();
      for (let word = first; word < first + count; word++) mask.words[word] = this.written[word];
    }
    if (mask === undefined) return undefined;
    return { type: 'set', key: this.packet.clone(), mask };
  }

  /**
   * Whether a field was written. One that is what the key says already needs no setting only if the flow matches it: other
   * packets of the flow may differ there.
   */
  private isToBeSet(first: number, count: number): boolean {
    const { written, packet, key, seen } = this;
    for (let word = first; word < first + count; word++) {
      const same = ~(packet.words[word] ^ key.words[word]) & seen.words[word];
      if ((written[word] & ~same) !== 0) return true;
    }
    return false;
  }
}
