import { FLOW_KEY_WORDS, FlowKey, Word } from './key.js';

const ALL = 0xffff_ffff;

/**
 * The bits of a flow key that a decision depended on: 1 = must match, 0 = wildcarded. A device calls a `see` method for
 * each field it reads, to the bit. Reading a field also records what makes the field exist (an IP address needs the
 * EtherType, a port needs the protocol and that the packet is no later fragment), as the kernel demands
 * (match_validate in net/openvswitch/flow_netlink.c).
 */
export class FlowMask extends FlowKey {
  /** A mask under which only identical keys match. */
  static exact(): FlowMask {
    const mask = new FlowMask();
    mask.words.fill(ALL);
    return mask;
  }

  /** Add every bit of `other`. */
  add(other: FlowKey): void {
    for (let i = 0; i < FLOW_KEY_WORDS; i++) this.words[i] |= other.words[i];
  }

  seeInPort(): void {
    this.words[Word.IN_PORT] = ALL;
  }

  seeRecircId(): void {
    this.words[Word.RECIRC_ID] = ALL;
  }

  /** `bits`: which of CtState were looked at. */
  seeCtState(bits: number): void {
    this.words[Word.CT_STATE] |= bits;
  }

  /** `bits`: which of the connection's mark were compared. */
  seeCtMark(bits = ALL): void {
    this.words[Word.CT_MARK] |= bits;
  }

  /** `bits`: which bits of the hash choose. */
  seeDpHash(bits: number): void {
    this.words[Word.DP_HASH] |= bits;
  }

  seeTunId(): void {
    this.words[Word.TUN_ID] = ALL;
  }

  /** Outer destination. A key without one is the key of a packet that came in through no tunnel. */
  seeTunDst(): void {
    this.words[Word.TUN_DST] = ALL;
  }

  /** The bits that were compared: of the upper 16, and of the lower 32. */
  seeEthSrc(high = 0xffff, low = ALL): void {
    this.words[Word.ETH_SRC] |= high;
    this.words[Word.ETH_SRC + 1] |= low;
  }

  seeEthDst(high = 0xffff, low = ALL): void {
    this.words[Word.ETH_DST] |= high;
    this.words[Word.ETH_DST + 1] |= low;
  }

  seeEthType(): void {
    this.words[Word.ETH_TYPE] = 0xffff;
  }

  /** Presence, priority and identifier of the outer VLAN tag. */
  seeVlan(): void {
    this.words[Word.VLAN_TCI] = 0xffff;
    this.words[Word.VLAN_TPID] = 0xffff;
  }

  /** `prefix`: how many leading bits of the IPv4 (or ARP sender's) address were compared. */
  seeIpv4Src(prefix = 32): void {
    this.seeEthType();
    this.words[Word.NW_SRC] |= prefixMask(prefix);
  }

  seeIpv4Dst(prefix = 32): void {
    this.seeEthType();
    this.words[Word.NW_DST] |= prefixMask(prefix);
  }

  seeIpv6Src(prefix = 128): void {
    this.seeIpv6(Word.NW_SRC, prefix);
  }

  seeIpv6Dst(prefix = 128): void {
    this.seeIpv6(Word.NW_DST, prefix);
  }

  /** IP protocol or ARP opcode. */
  seeNwProto(): void {
    this.seeEthType();
    this.words[Word.NW_PROTO] = 0xff;
  }

  /** DSCP and ECN of IPv4, the traffic class of IPv6. */
  seeNwTos(): void {
    this.seeEthType();
    this.words[Word.NW_TOS] = 0xff;
  }

  seeNwTtl(): void {
    this.seeEthType();
    this.words[Word.NW_TTL] = 0xff;
  }

  seeNwFrag(): void {
    this.seeEthType();
    this.words[Word.NW_FRAG] = 0xff;
  }

  /** Source port or ICMP type; `bits` of 16 that were compared. */
  seeTpSrc(bits = 0xffff): void {
    this.seeNwProto();
    this.seeNwFrag();
    this.words[Word.TP_SRC] |= bits;
  }

  /** Destination port or ICMP code; `bits` of 16 that were compared. */
  seeTpDst(bits = 0xffff): void {
    this.seeNwProto();
    this.seeNwFrag();
    this.words[Word.TP_DST] |= bits;
  }

  /** Target address of a neighbour solicitation or advertisement. */
  seeNdTarget(): void {
    this.seeTpSrc();
    this.seeTpDst();
    this.words.fill(ALL, Word.ND_TARGET, Word.ND_TARGET + 4);
  }

  seeArpSha(): void {
    this.seeNwProto();
    this.words[Word.ARP_SHA] = 0xffff;
    this.words[Word.ARP_SHA + 1] = ALL;
  }

  /** Source link-layer address of a neighbour solicitation. */
  seeNdSource(): void {
    this.seeNdTarget();
    this.words[Word.ARP_SHA] = 0xffff;
    this.words[Word.ARP_SHA + 1] = ALL;
  }

  /** Target link-layer address of a neighbour advertisement. */
  seeNdTargetMac(): void {
    this.seeNdTarget();
    this.words[Word.ARP_THA] = 0xffff;
    this.words[Word.ARP_THA + 1] = ALL;
  }

  private seeIpv6(word: number, prefix: number): void {
    this.seeEthType();
    for (let i = 0; i < 4; i++) {
      this.words[word + i] |= prefixMask(Math.min(32, Math.max(0, prefix - 32 * i)));
    }
  }
}

/** The 32-bit mask of a prefix length from 0 to 32. */
function prefixMask(length: number): number {
  return length === 0 ? 0 : (ALL << (32 - length)) >>> 0;
}
