/**
 * What a datapath knows of a packet: the fields of its headers plus metadata (the port it came in at, its tunnel, the
 * state of its connection). The layout is a fixed array of 32-bit words, so that masking, comparing and hashing are one
 * loop over integers whatever the field. Fields that a packet does not have are zero.
 *
 * The fields are those of the kernel's `struct sw_flow_key` (net/openvswitch/flow.h): ARP shares the IP address words
 * and `nwProto` (its opcode), ICMP shares the transport port words (type and code), and a neighbour discovery message
 * shares `arpSha`/`arpTha` for its source and target link-layer addresses.
 */

/** Index of the first word of each field. 48-bit fields take two words (high 16, low 32), IPv6 addresses four. */
export const Word = {
  IN_PORT: 0,
  RECIRC_ID: 1,
  DP_HASH: 2,
  SKB_MARK: 3,
  PRIORITY: 4,
  CT_STATE: 5,
  CT_ZONE: 6,
  CT_MARK: 7,
  CT_LABELS: 8,
  TUN_ID: 12,
  TUN_SRC: 13,
  TUN_DST: 14,
  TUN_TOS: 15,
  TUN_TTL: 16,
  TUN_FLAGS: 17,
  ETH_SRC: 18,
  ETH_DST: 20,
  VLAN_TCI: 22,
  VLAN_TPID: 23,
  ETH_TYPE: 24,
  NW_SRC: 25,
  NW_DST: 29,
  NW_PROTO: 33,
  NW_TOS: 34,
  NW_TTL: 35,
  NW_FRAG: 36,
  IPV6_LABEL: 37,
  TP_SRC: 38,
  TP_DST: 39,
  TCP_FLAGS: 40,
  ND_TARGET: 41,
  ARP_SHA: 45,
  ARP_THA: 47,
} as const;

/** Number of 32-bit words in a flow key. */
export const FLOW_KEY_WORDS = 49;

/** `nwFrag`: not a fragment, a first fragment (has a transport header), a later one (has none). */
export const Frag = { NONE: 0, FIRST: 1, LATER: 2 } as const;

/** Bits of `tunFlags`. */
export const TunnelFlag = { DONT_FRAGMENT: 1, CSUM: 2, OAM: 4, KEY: 8 } as const;

/** Bits of `ctState` (OVS_CS_F_* in linux/openvswitch.h). */
export const CtState = {
  NEW: 1,
  ESTABLISHED: 2,
  RELATED: 4,
  REPLY: 8,
  INVALID: 16,
  TRACKED: 32,
  SNAT: 64,
  DNAT: 128,
} as const;

/** In `inPort`: of a packet that is only thought of, and comes in at no datapath port of this host. */
export const NO_PORT = 0xffff_ffff;

/** In `vlanTci`: set whenever the packet has an 802.1Q header (OVS's convention, so that VLAN 0 differs from none). */
export const VLAN_PRESENT = 0x1000;

const TWO_32 = 0x1_0000_0000;

/**
 * How many flow keys share a buffer. A buffer costs more than 1 us to make and collect, whatever its size, a view of it a tenth of that;
 * but one key that stays keeps the whole buffer.
 */
const KEYS_IN_BUFFER = 8;
const KEY_BYTES = FLOW_KEY_WORDS * Uint32Array.BYTES_PER_ELEMENT;

let buffer = new ArrayBuffer(0);
let usedBytes = 0;

/** Words of a flow key, all zero. */
function newWords(): Uint32Array {
  if (usedBytes === buffer.byteLength) {
    buffer = new ArrayBuffer(KEYS_IN_BUFFER * KEY_BYTES);
    usedBytes = 0;
  }
  const words = new Uint32Array(buffer, usedBytes, FLOW_KEY_WORDS);
  usedBytes += KEY_BYTES;
  return words;
}

export class FlowKey {
  readonly words: Uint32Array;

  constructor(words: Uint32Array = newWords()) {
    this.words = words;
  }

  clone(): this {
    const copy = newWords();
    copy.set(this.words);
    return new (this.constructor as new (words: Uint32Array) => this)(copy);
  }

  equals(other: FlowKey): boolean {
    const a = this.words;
    const b = other.words;
    for (let i = 0; i < FLOW_KEY_WORDS; i++) if (a[i] !== b[i]) return false;
    return true;
  }

  /** Whether the two agree in every bit of `mask`. */
  equalsMasked(other: FlowKey, mask: FlowKey): boolean {
    const a = this.words;
    const b = other.words;
    const m = mask.words;
    for (let i = 0; i < FLOW_KEY_WORDS; i++) if (((a[i] ^ b[i]) & m[i]) !== 0) return false;
    return true;
  }

  /** A copy with every bit outside `mask` cleared. */
  masked(mask: FlowKey): FlowKey {
    const out = newWords();
    for (let i = 0; i < FLOW_KEY_WORDS; i++) out[i] = this.words[i] & mask.words[i];
    return new FlowKey(out);
  }

  /** 32-bit hash of the bits in `mask` (of all bits when absent). */
  hash(mask?: FlowKey): number {
    const w = this.words;
    const m = mask?.words;
    let h = 0x9747b28c;
    for (let i = 0; i < FLOW_KEY_WORDS; i++) {
      const k = m === undefined ? w[i] : w[i] & m[i];
      if (k === 0) continue;
      h = Math.imul(h ^ Math.imul(k + i, 0xcc9e2d51), 0x1b873593);
      h ^= h >>> 15;
    }
    return h >>> 0;
  }

  protected wide(word: number): number {
    return this.words[word] * TWO_32 + this.words[word + 1];
  }

  protected setWide(word: number, value: number): void {
    this.words[word] = value / TWO_32;
    this.words[word + 1] = value;
  }

  /** Datapath port number. */
  get inPort(): number {
    return this.words[Word.IN_PORT];
  }
  set inPort(v: number) {
    this.words[Word.IN_PORT] = v;
  }
  get recircId(): number {
    return this.words[Word.RECIRC_ID];
  }
  set recircId(v: number) {
    this.words[Word.RECIRC_ID] = v;
  }
  get dpHash(): number {
    return this.words[Word.DP_HASH];
  }
  set dpHash(v: number) {
    this.words[Word.DP_HASH] = v;
  }
  get skbMark(): number {
    return this.words[Word.SKB_MARK];
  }
  set skbMark(v: number) {
    this.words[Word.SKB_MARK] = v;
  }
  get priority(): number {
    return this.words[Word.PRIORITY];
  }
  set priority(v: number) {
    this.words[Word.PRIORITY] = v;
  }
  get ctState(): number {
    return this.words[Word.CT_STATE];
  }
  set ctState(v: number) {
    this.words[Word.CT_STATE] = v;
  }
  get ctZone(): number {
    return this.words[Word.CT_ZONE];
  }
  set ctZone(v: number) {
    this.words[Word.CT_ZONE] = v;
  }
  get ctMark(): number {
    return this.words[Word.CT_MARK];
  }
  set ctMark(v: number) {
    this.words[Word.CT_MARK] = v;
  }

  /** Low 32 bits of the tunnel key (a VXLAN network identifier has 24). */
  get tunId(): number {
    return this.words[Word.TUN_ID];
  }
  set tunId(v: number) {
    this.words[Word.TUN_ID] = v;
  }
  /** Outer IPv4 source. */
  get tunSrc(): number {
    return this.words[Word.TUN_SRC];
  }
  set tunSrc(v: number) {
    this.words[Word.TUN_SRC] = v;
  }
  /** Outer IPv4 destination; zero when the packet came in through no tunnel. */
  get tunDst(): number {
    return this.words[Word.TUN_DST];
  }
  set tunDst(v: number) {
    this.words[Word.TUN_DST] = v;
  }
  get tunTos(): number {
    return this.words[Word.TUN_TOS];
  }
  set tunTos(v: number) {
    this.words[Word.TUN_TOS] = v;
  }
  get tunTtl(): number {
    return this.words[Word.TUN_TTL];
  }
  set tunTtl(v: number) {
    this.words[Word.TUN_TTL] = v;
  }
  /** Bits of {@link TunnelFlag}. */
  get tunFlags(): number {
    return this.words[Word.TUN_FLAGS];
  }
  set tunFlags(v: number) {
    this.words[Word.TUN_FLAGS] = v;
  }

  get ethSrc(): number {
    return this.wide(Word.ETH_SRC);
  }
  set ethSrc(v: number) {
    this.setWide(Word.ETH_SRC, v);
  }
  get ethDst(): number {
    return this.wide(Word.ETH_DST);
  }
  set ethDst(v: number) {
    this.setWide(Word.ETH_DST, v);
  }
  /** 802.1Q tag control information with {@link VLAN_PRESENT}; zero without a tag. */
  get vlanTci(): number {
    return this.words[Word.VLAN_TCI];
  }
  set vlanTci(v: number) {
    this.words[Word.VLAN_TCI] = v;
  }
  /** 0x8100 or 0x88a8 with a tag, zero without. */
  get vlanTpid(): number {
    return this.words[Word.VLAN_TPID];
  }
  set vlanTpid(v: number) {
    this.words[Word.VLAN_TPID] = v;
  }
  /** EtherType behind the VLAN tag, if any. 0x05ff (kernel: ETH_P_802_2) for frames with a length field. */
  get ethType(): number {
    return this.words[Word.ETH_TYPE];
  }
  set ethType(v: number) {
    this.words[Word.ETH_TYPE] = v;
  }

  /** IPv4 source, or an ARP sender's protocol address. */
  get ipv4Src(): number {
    return this.words[Word.NW_SRC];
  }
  set ipv4Src(v: number) {
    this.words[Word.NW_SRC] = v;
  }
  /** IPv4 destination, or an ARP target's protocol address. */
  get ipv4Dst(): number {
    return this.words[Word.NW_DST];
  }
  set ipv4Dst(v: number) {
    this.words[Word.NW_DST] = v;
  }
  /** IP protocol (IPv6: of the last extension header), or ARP opcode. */
  get nwProto(): number {
    return this.words[Word.NW_PROTO];
  }
  set nwProto(v: number) {
    this.words[Word.NW_PROTO] = v;
  }
  get nwTos(): number {
    return this.words[Word.NW_TOS];
  }
  set nwTos(v: number) {
    this.words[Word.NW_TOS] = v;
  }
  get nwTtl(): number {
    return this.words[Word.NW_TTL];
  }
  set nwTtl(v: number) {
    this.words[Word.NW_TTL] = v;
  }
  /** One of {@link Frag}. */
  get nwFrag(): number {
    return this.words[Word.NW_FRAG];
  }
  set nwFrag(v: number) {
    this.words[Word.NW_FRAG] = v;
  }
  get ipv6Label(): number {
    return this.words[Word.IPV6_LABEL];
  }
  set ipv6Label(v: number) {
    this.words[Word.IPV6_LABEL] = v;
  }
  /** TCP, UDP or SCTP source port, or ICMP type. */
  get tpSrc(): number {
    return this.words[Word.TP_SRC];
  }
  set tpSrc(v: number) {
    this.words[Word.TP_SRC] = v;
  }
  /** TCP, UDP or SCTP destination port, or ICMP code. */
  get tpDst(): number {
    return this.words[Word.TP_DST];
  }
  set tpDst(v: number) {
    this.words[Word.TP_DST] = v;
  }
  /** The 12 bits after the data offset. */
  get tcpFlags(): number {
    return this.words[Word.TCP_FLAGS];
  }
  set tcpFlags(v: number) {
    this.words[Word.TCP_FLAGS] = v;
  }
  /** ARP sender's hardware address, or the source link-layer option of a neighbour solicitation. */
  get arpSha(): number {
    return this.wide(Word.ARP_SHA);
  }
  set arpSha(v: number) {
    this.setWide(Word.ARP_SHA, v);
  }
  /** ARP target's hardware address, or the target link-layer option of a neighbour advertisement. */
  get arpTha(): number {
    return this.wide(Word.ARP_THA);
  }
  set arpTha(v: number) {
    this.setWide(Word.ARP_THA, v);
  }
}
