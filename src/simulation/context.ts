import type { Action } from '../flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, VLAN_PRESENT, Word } from '../flow/key.js';
import { FlowMask } from '../flow/mask.js';
import { EtherType } from '../packet/ethernet.js';
import type { Side } from './condition.js';
import type { Decision, DropReason, Effect, Reply } from './decision.js';
import { embeddedAddress } from './embedded.js';
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
  readonly isReturned: boolean;
  readonly words: Uint32Array;
  readonly written: Uint32Array;
  readonly devices: number;
  readonly entry: Fact<PortFact> | undefined;
  readonly passed: PassedDevice | undefined;
  readonly isTagPopped: boolean;
  readonly pushed: PushedTag | undefined;
}

/** A VLAN tag that a device has put on the packet, and those below it. */
interface PushedTag {
  readonly tci: number;
  readonly below: PushedTag | undefined;
}

/** What a copy of the packet is to be, and where it goes. */
interface Copy {
  readonly changes: readonly Action[];
  readonly outputs: readonly Action[];
}

/** A device that a packet has passed, and those before it. */
interface PassedDevice {
  readonly id: string;
  readonly before: PassedDevice | undefined;
}

/**
 * One packet on its way through the virtual network. Made for one simulation, which ends with {@link SimulationContext.decision}: what
 * holds the headers of the packet is used again then.
 */
export class SimulationContext {
  /** The packet as it is at this point of its way. */
  readonly packet: FlowKey;
  /** The exterior port that it came in at; undefined for a packet of a device's own, or out of a tunnel. */
  ingress: Fact<PortFact> | undefined;
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
  private readonly copies: Copy[] = [];
  private devices = 0;
  private install = true;
  private dropReason: DropReason | undefined;
  private copiesLength = 0;
  private cutCopies = 0;

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
  /** Whether the VLAN tag that the packet came with is off. */
  private isTagPopped = false;
  private pushed: PushedTag | undefined;
  /** The source MAC address that it came in at the device with. */
  private senderMac = 0;

  constructor(
    /** What the datapath knows of the packet. */
    readonly key: FlowKey,
    readonly limits: Limits,
    /** The packet itself; undefined where a flow is looked at again. */
    private readonly bytes?: Uint8Array,
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

  /** Read a fact that nothing waits for: the decision is made again when it is in hand. */
  peek<T>(fact: Fact<T>): T | null | undefined {
    this.tags.add(fact);
    return fact.value;
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
    this.effects.push({ type: 'reply', port, from, to: this.senderMac, reply });
    this.install = false;
  }

  /** Answer a machine's request for configuration. Later packets must be seen again. */
  configure(effect: Extract<Effect, { type: 'configure' }>): void {
    this.effects.push(effect);
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

  pushVlan(vlanId: number): void {
    this.pushed = { tci: VLAN_PRESENT | vlanId, below: this.pushed };
    this.showTag();
  }

  /** Take the outer VLAN tag off. Returns whether there is one. What is below one that the packet came with is not known. */
  popVlan(): boolean {
    if (this.pushed !== undefined) this.pushed = this.pushed.below;
    else if (this.packet.vlanTci !== 0) this.isTagPopped = true;
    else return false;
    this.showTag();
    return true;
  }

  private showTag(): void {
    const { packet, key, pushed } = this;
    const isOriginal = pushed === undefined && !this.isTagPopped;
    packet.vlanTci = pushed?.tci ?? (isOriginal ? key.vlanTci : 0);
    packet.vlanTpid = pushed === undefined ? (isOriginal ? key.vlanTpid : 0) : EtherType.VLAN;
  }

  /**
   * The packet goes in at a port of a device, with the headers that it has at this point.
   * @param isReturned it is as if it had come back from there, whether or not the port is up
   */
  enter(port: Fact<PortFact>, isReturned = false): void {
    if (this.devices >= MAX_DEVICES) return this.drop('too-many-devices');
    const words = takeWords();
    const written = takeWords();
    words.set(this.packet.words);
    written.set(this.written);
    this.visits.push({
      port,
      isReturned,
      words,
      written,
      devices: this.devices + 1,
      entry: this.entry,
      passed: this.passed,
      isTagPopped: this.isTagPopped,
      pushed: this.pushed,
    });
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
    this.entry = visit.entry;
    this.passed = visit.passed;
    this.isTagPopped = visit.isTagPopped;
    this.pushed = visit.pushed;
    this.inPort = visit.port;
    this.isReturned = visit.isReturned;
    this.outPort = undefined;
    this.isDestinationRewritten = false;
    this.senderMac = this.packet.ethSrc;
    return visit.port;
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
    return this.bytes === undefined ? null : embeddedAddress(this.bytes, side);
  }

  /**
   * Whether the packet goes the way of the one that opened its connection; undefined while that is not known: then the
   * decision will be to find out.
   */
  connection(): 'forward' | 'return' | undefined {
    this.drop('no-connection-state');
    return undefined;
  }

  /**
   * Send the packet as it is by these actions. The headers are set first. One that would make the list longer than the
   * datapath takes is left out and counted.
   */
  output(outputs: readonly Action[]): void {
    const changes = this.changes();
    const actions = [...changes, ...outputs];
    // Room for the clone that keeps the headers of the other copies as they are.
    const length =
      this.copiesLength + this.limits.actionsLength(changes.length === 0 ? actions : [{ type: 'clone', actions }]);
    if (length > this.limits.maxActionsLength) {
      this.cutCopies++;
      return;
    }
    this.copiesLength = length;
    this.copies.push({ changes, outputs });
  }

  /** What came of it. To be asked for once, at the end. */
  decision(): Decision {
    this.settle();
    spareWords.push(this.packet.words, this.mask.words, this.written);
    if (this.missing.list.length > 0) return { type: 'wait', missing: this.missing.list };
    const actions: Action[] = [];
    const isOnlyCopy = this.copies.length === 1;
    for (const { changes, outputs } of this.copies) {
      if (isOnlyCopy || changes.length === 0) actions.push(...changes, ...outputs);
      else actions.push({ type: 'clone', actions: [...changes, ...outputs] });
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

  /** What makes the datapath's packet what it is here. */
  private changes(): Action[] {
    const changes: Action[] = [];
    if (this.isTagPopped) changes.push({ type: 'pop-vlan' });
    for (const { tci } of this.pushedTags()) changes.push({ type: 'push-vlan', tpid: EtherType.VLAN, tci });
    const set = this.setHeaders();
    if (set !== undefined) changes.push(set);
    return changes;
  }

  /** From the lowest up. */
  private pushedTags(): PushedTag[] {
    const tags: PushedTag[] = [];
    for (let tag = this.pushed; tag !== undefined; tag = tag.below) tags.unshift(tag);
    return tags;
  }

  /** Undefined if no header has to be set. */
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
