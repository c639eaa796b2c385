import type { Action } from '../flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, VLAN_PRESENT, Word } from '../flow/key.js';
import { FlowMask } from '../flow/mask.js';
import { formatIpv4, formatIpv6, formatMac } from '../packet/address.js';
import { EtherType } from '../packet/ethernet.js';
import type { Side } from './condition.js';
import { TRANSLATED_WORDS, type Translation } from './connection.js';
import type { TraceStep } from './trace.js';

/** What there is in the TOS of IPv4 and the traffic class of IPv6. */
const DSCP_BITS = 0xfc;
const ECN_BITS = 0x03;

/** Fields of a flow key: first word and number of words. */
type Fields = readonly (readonly [first: number, count: number])[];

/** What translations change. */
export const ADDRESSES: Fields = [
  [Word.NW_SRC, 4],
  [Word.NW_DST, 4],
  [Word.TP_SRC, 1],
  [Word.TP_DST, 1],
];
/** What devices write. */
const WRITABLE: Fields = [[Word.ETH_SRC, 2], [Word.ETH_DST, 2], [Word.NW_TOS, 1], [Word.NW_TTL, 1], ...ADDRESSES];

/**
 * Arrays as long as a flow key that no simulation uses. They are not small enough for the heap of JavaScript, so to make
 * and collect them would cost more than everything else in a simulation.
 */
const spareWords: Uint32Array[] = [];

/** An array as long as a flow key, to be given back to {@link spareWords}. It holds anything. */
function takeWords(): Uint32Array {
  return spareWords.pop() ?? new Uint32Array(FLOW_KEY_WORDS);
}

/** A VLAN tag that a device has put on the packet, and those below it. */
interface PushedTag {
  readonly tci: number;
  readonly below: PushedTag | undefined;
}

/** The headers of a copy of the packet, kept while another is looked at: see {@link PacketHeaders}. */
export interface SavedHeaders {
  readonly words: Uint32Array;
  readonly written: Uint32Array;
  isTagPopped: boolean;
  pushed: PushedTag | undefined;
  ahead: Translation | undefined;
  isAstray: boolean;
}

/** Those that nobody uses, for the same reason as {@link spareWords}. */
const spareHeaders: SavedHeaders[] = [];

/**
 * The headers of a packet on its way: what they are, which bits of them were read and written, and so what the flow has to
 * match and to set. To be released at the end.
 */
export class PacketHeaders {
  /** The packet as it is at this point of its way. */
  readonly packet = new FlowKey(takeWords());
  /** What is read of {@link packet}, to the bit: a device says so for each field it looks at. */
  readonly mask = new FlowMask(takeWords().fill(0));
  /** The bits of {@link key} that the decision depends on. */
  readonly seen = new FlowMask();
  /** The bits of {@link packet} that a device has set: these do not depend on the key. */
  private readonly written = takeWords().fill(0);
  /** Whether the VLAN tag that the packet came with is off. */
  private isTagPopped = false;
  private pushed: PushedTag | undefined;
  /** The translation that the datapath has made further on this way: up to there the addresses are those before it. */
  private ahead: Translation | undefined;
  /** Whether the way is not that of the packet which came back from a translation, or that is not known any more. */
  isAstray = false;

  constructor(
    /** What the datapath knows of the packet. */
    readonly key: FlowKey,
    private readonly trace: TraceStep[] | undefined,
  ) {
    this.packet.words.set(key.words);
  }

  isIp(): boolean {
    this.mask.seeEthType();
    const { ethType } = this.packet;
    return ethType === EtherType.IPV4 || ethType === EtherType.IPV6;
  }

  /** Whether a router has sent the packet on. */
  get isRouted(): boolean {
    return this.written[Word.ETH_SRC] !== 0;
  }

  setEthernet(src: number, dst: number): void {
    this.trace?.push({ type: 'set', field: 'MAC addresses', value: `${formatMac(src)} > ${formatMac(dst)}` });
    this.settle(Word.ETH_SRC, 4);
    this.packet.ethSrc = src;
    this.packet.ethDst = dst;
    for (const word of [Word.ETH_SRC, Word.ETH_DST]) {
      this.written[word] = 0xffff;
      this.written[word + 1] = 0xffff_ffff;
    }
  }

  /** One word of IPv4 or four of IPv6, whichever the packet has. */
  setAddress(side: Side, address: Uint32Array): void {
    const first = side === 'source' ? Word.NW_SRC : Word.NW_DST;
    this.trace?.push({ type: 'set', field: side, value: formatAddress(address) });
    this.settle(first, 4);
    this.packet.words.set(address, first);
    this.written.fill(0xffff_ffff, first, first + address.length);
  }

  setTtl(ttl: number): void {
    this.trace?.push({ type: 'set', field: 'TTL', value: String(ttl) });
    this.settle(Word.NW_TTL, 1);
    this.packet.nwTtl = ttl;
    this.written[Word.NW_TTL] = 0xff;
  }

  /** Of IP packets only. The two bits of congestion notification stay. */
  setDscp(dscp: number): void {
    if (!this.isIp()) return;
    this.trace?.push({ type: 'set', field: 'DSCP', value: String(dscp) });
    this.settle(Word.NW_TOS, 1);
    this.packet.nwTos = (dscp << 2) | (this.packet.nwTos & ECN_BITS);
    this.written[Word.NW_TOS] = DSCP_BITS;
  }

  /** @param tag priority and VLAN, as in tag control information */
  pushVlan(tag: number): void {
    this.pushed = { tci: VLAN_PRESENT | tag, below: this.pushed };
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
    this.trace?.push({
      type: 'set',
      field: 'VLAN',
      value: pushed === undefined ? 'none' : describeTag(pushed.tci),
    });
    packet.vlanTci = pushed?.tci ?? (isOriginal ? key.vlanTci : 0);
    packet.vlanTpid = pushed === undefined ? (isOriginal ? key.vlanTpid : 0) : EtherType.VLAN;
  }

  /** Show the packet's addresses as they are before this translation, or behind the last one if there is none ahead. */
  showBefore(ahead: Translation | undefined): void {
    this.ahead = ahead;
    for (let i = 0; i < TRANSLATED_WORDS.length; i++) {
      const word = TRANSLATED_WORDS[i];
      this.written[word] = 0;
      this.packet.words[word] = ahead === undefined ? this.key.words[word] : ahead.values[i];
    }
  }

  /** What the decision depends on of the words that a translation changes. */
  translatedSeen(): { values: Uint32Array; mask: Uint32Array } {
    const values = new Uint32Array(TRANSLATED_WORDS.length);
    const mask = new Uint32Array(TRANSLATED_WORDS.length);
    for (let i = 0; i < TRANSLATED_WORDS.length; i++) {
      mask[i] = this.seen.words[TRANSLATED_WORDS[i]];
      values[i] = this.key.words[TRANSLATED_WORDS[i]] & mask[i];
    }
    return { values, mask };
  }

  /** Take down what was read of `count` words: to be done before it changes what of them was written. */
  settle(first = 0, count = FLOW_KEY_WORDS): void {
    const { written, ahead } = this;
    const read = this.mask.words;
    const seen = this.seen.words;
    for (let i = first; i < first + count; i++) {
      if (read[i] === 0) continue;
      const bits = read[i] & ~written[i];
      read[i] = 0;
      const at = ahead === undefined ? -1 : TRANSLATED_WORDS.indexOf(i);
      if (ahead === undefined || at < 0) seen[i] |= bits;
      else if ((bits & ~ahead.mask[at]) !== 0) this.isAstray = true;
    }
  }

  /** The headers as they are here, to come back to with {@link restore}, once. */
  save(): SavedHeaders {
    const { isTagPopped, pushed, ahead, isAstray } = this;
    let saved = spareHeaders.pop();
    if (saved === undefined) saved = { words: takeWords(), written: takeWords(), isTagPopped, pushed, ahead, isAstray };
    saved.words.set(this.packet.words);
    saved.written.set(this.written);
    saved.isTagPopped = isTagPopped;
    saved.pushed = pushed;
    saved.ahead = ahead;
    saved.isAstray = isAstray;
    return saved;
  }

  restore(saved: SavedHeaders): void {
    this.settle();
    this.packet.words.set(saved.words);
    this.written.set(saved.written);
    this.isTagPopped = saved.isTagPopped;
    this.pushed = saved.pushed;
    this.ahead = saved.ahead;
    this.isAstray = saved.isAstray;
    saved.pushed = undefined;
    saved.ahead = undefined;
    spareHeaders.push(saved);
  }

  /** What makes the datapath's packet what it is here. */
  changes(): Action[] {
    const changes: Action[] = [];
    if (this.isTagPopped) changes.push({ type: 'pop-vlan' });
    for (const { tci } of this.pushedTags()) changes.push({ type: 'push-vlan', tpid: EtherType.VLAN, tci });
    const set = this.setAction();
    if (set !== undefined) changes.push(set);
    return changes;
  }

  /** From the lowest up. */
  private pushedTags(): PushedTag[] {
    const tags: PushedTag[] = [];
    for (let tag = this.pushed; tag !== undefined; tag = tag.below) tags.unshift(tag);
    return tags;
  }

  /** Undefined if none of the fields has to be set. */
  setAction(fields: Fields = WRITABLE): Action | undefined {
    this.settle();
    let mask: FlowKey | undefined;
    for (const [first, count] of fields) {
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

  /** Neither these headers nor {@link packet} and {@link mask} may be used behind it; {@link seen} may. */
  release(): void {
    spareWords.push(this.packet.words, this.mask.words, this.written);
  }
}

function formatAddress(words: Uint32Array): string {
  return words.length === 1 ? formatIpv4(words[0]) : formatIpv6(words);
}

function describeTag(tci: number): string {
  const priority = tci >>> 13;
  return priority === 0 ? String(tci & 0xfff) : `${tci & 0xfff} with priority ${priority}`;
}
