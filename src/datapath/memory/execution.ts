import type { Action } from '../../flow/action.js';
import { CtState, type FlowKey, Frag, VLAN_PRESENT, Word } from '../../flow/key.js';
import { popTag, pushTag } from '../../packet/vlan.js';
import { type Conntrack, stateOf } from './conntrack.js';
import type { Fragments } from './fragments.js';
import type { Packet } from './packet.js';
import { type Layout, locate, newLayout } from './rewrite.js';
import { setFields } from './set-fields.js';
import { hasPorts } from './tuple.js';

/** Limits of net/openvswitch/actions.c. */
const RECURSION_LIMIT = 5;
const DEFERRED_THRESHOLD = RECURSION_LIMIT - 2;
const DEFERRED_LIMIT = 9;

interface Deferred {
  readonly packet: Packet;
  /** Undefined: look the packet up again, a recirculation. */
  readonly actions: readonly Action[] | undefined;
}

/** The datapath that a packet is in, as far as what happens to the packet goes. */
export interface PacketSwitch {
  readonly node: { readonly conntrack: Conntrack; readonly fragments: Fragments };
  /** The flow that the packet hits, counted. */
  match(packet: Packet): { readonly actions: readonly Action[] } | undefined;
  upcall(reason: 'miss' | 'action', packet: Packet, userdata: Uint8Array | undefined): void;
  output(port: number, packet: Packet): void;
  meterPasses(id: number, length: number): boolean;
}

/** What happens to one packet from its arrival to the last of its copies. */
export class Execution {
  private level = 0;
  private readonly deferred: Deferred[] = [];
  private deferrals = 0;
  private readonly layout: Layout = newLayout();
  /** Why a list of actions was given up with its packet; not of those behind a recirculation. */
  failure: string | undefined;

  constructor(private readonly datapath: PacketSwitch) {}

  /** Look the packet up and do what its flow says, or send it up. */
  process(packet: Packet): void {
    const flow = this.datapath.match(packet);
    if (flow === undefined) this.datapath.upcall('miss', packet, undefined);
    else this.execute(flow.actions, packet);
  }

  /** Run actions on a packet, which may be changed. */
  execute(actions: readonly Action[], packet: Packet): void {
    if (this.level >= RECURSION_LIMIT) return;
    this.level++;
    this.run(actions, packet);
    if (this.level === 1) {
      for (let next = this.deferred.shift(); next !== undefined; next = this.deferred.shift()) {
        if (next.actions === undefined) this.process(next.packet);
        else this.run(next.actions, next.packet);
      }
      this.deferrals = 0;
    }
    this.level--;
  }

  private run(actions: readonly Action[], packet: Packet): void {
    for (const action of actions) if (!this.step(action, packet)) return;
  }

  /** False when the packet is dropped or kept by conntrack. */
  private step(action: Action, packet: Packet): boolean {
    switch (action.type) {
      case 'output':
        this.datapath.output(action.port, packet);
        return true;
      case 'userspace':
        this.datapath.upcall('action', packet, action.userdata);
        packet.cut = 0;
        return true;
      case 'set':
        setFields(packet.bytes, action.key, action.mask);
        setMetadata(packet.key, action.key, action.mask);
        packet.refresh();
        return true;
      case 'set-tunnel':
        packet.tunnel = action.tunnel;
        return true;
      case 'push-vlan':
        packet.bytes = pushTag(packet.bytes, action.tpid, action.tci & ~VLAN_PRESENT);
        packet.refresh();
        return true;
      case 'pop-vlan':
        packet.bytes = popTag(packet.bytes) ?? packet.bytes;
        packet.refresh();
        return true;
      case 'ct':
        return this.track(action, packet);
      case 'ct-clear':
        packet.tracked = undefined;
        packet.key.words.fill(0, Word.CT_STATE, Word.CT_LABELS + 4);
        return true;
      case 'recirc':
        this.branch(packet, undefined, action.id);
        return true;
      case 'hash':
        packet.key.dpHash = transportHash(packet.key, action.basis);
        return true;
      case 'trunc':
        if (packet.bytes.length > action.maxLength) packet.cut = packet.bytes.length - action.maxLength;
        return true;
      case 'meter':
        return this.datapath.meterPasses(action.id, packet.bytes.length);
      case 'clone':
        this.branch(packet, action.actions, 0);
        return this.failure === undefined;
    }
  }

  /** Go on with a copy: with a list of actions, or by looking it up under a recirculation id. Too deep, it comes later. */
  private branch(packet: Packet, actions: readonly Action[] | undefined, recircId: number): void {
    const copy = packet.copy();
    if (actions === undefined) copy.key.recircId = recircId;
    if (this.level <= DEFERRED_THRESHOLD) {
      if (actions === undefined) {
        const { failure } = this;
        this.process(copy);
        this.failure = failure;
      } else {
        this.level++;
        this.run(actions, copy);
        this.level--;
      }
      return;
    }
    if (this.deferrals >= DEFERRED_LIMIT) return;
    this.deferrals++;
    this.deferred.push({ packet: copy, actions });
  }

  /** ovs_ct_execute in net/openvswitch/conntrack.c. */
  private track(action: Extract<Action, { type: 'ct' }>, packet: Packet): boolean {
    const { conntrack } = this.datapath.node;
    const { key } = packet;
    if (key.nwFrag !== Frag.NONE) {
      const whole = this.datapath.node.fragments.gather(packet, action.zone);
      if (!whole) return false;
    }
    const commit = action.commit === true || action.forceCommit === true;
    locate(packet.bytes, this.layout);
    if (!this.cached(packet, action.zone, action.forceCommit === true)) {
      packet.tracked = conntrack.track(packet.bytes, this.layout, action.zone);
      tell(packet, action.zone);
    }
    const { tracked } = packet;
    if (tracked !== undefined) {
      const { connection } = tracked;
      const untranslated = (key.ctState & (CtState.SNAT | CtState.DNAT)) === 0;
      if (action.nat !== undefined && untranslated && (connection.confirmed || commit)) {
        const done = conntrack.nat(tracked, action.nat, commit, packet.bytes, this.layout);
        if (done !== 0) {
          packet.refresh();
          key.ctState |= done;
        }
      }
      if (commit) {
        if (action.mark !== undefined) {
          const mask = action.markMask ?? 0xffff_ffff;
          connection.mark = ((action.mark & mask) | (connection.mark & ~mask)) >>> 0;
          key.ctMark = connection.mark;
        }
        if (!conntrack.confirm(connection)) {
          this.failure = `ct: zone ${action.zone} has another connection with these addresses and ports`;
          return false;
        }
      }
    }
    return true;
  }

  /** Whether the packet went through this zone already, so that its connection is known (skb_nfct_cached). */
  private cached(packet: Packet, zone: number, force: boolean): boolean {
    const { conntrack } = this.datapath.node;
    const { key } = packet;
    const state = key.ctState;
    let executed = true;
    if (packet.tracked === undefined) {
      executed = (state & CtState.TRACKED) !== 0 && (state & CtState.INVALID) === 0 && key.ctZone === zone;
      if (executed || (state === 0 && force)) {
        const translated = (state & (CtState.SNAT | CtState.DNAT)) !== 0;
        packet.tracked = conntrack.recall(packet.bytes, this.layout, zone, translated);
      }
    }
    const { tracked } = packet;
    if (tracked === undefined || tracked.connection.zone !== zone) return false;
    if (force && tracked.reply) {
      if (tracked.connection.confirmed) conntrack.remove(tracked.connection);
      packet.tracked = undefined;
      return false;
    }
    return executed;
  }
}

function tell(packet: Packet, zone: number): void {
  const { words } = packet.key;
  words[Word.CT_STATE] = stateOf(packet.tracked);
  words[Word.CT_ZONE] = zone;
  words[Word.CT_MARK] = packet.tracked?.connection.mark ?? 0;
  words.fill(0, Word.CT_LABELS, Word.CT_LABELS + 4);
}

function setMetadata(key: FlowKey, value: FlowKey, mask: FlowKey): void {
  for (const word of [Word.SKB_MARK, Word.PRIORITY]) {
    key.words[word] = (key.words[word] & ~mask.words[word]) | (value.words[word] & mask.words[word]);
  }
}

/** A hash that both directions of a transport flow share, never zero. */
function transportHash(key: FlowKey, basis: number): number {
  const w = key.words;
  const ported = hasPorts(w[Word.NW_PROTO]);
  let source = 0;
  let destination = 0;
  for (let i = 0; i < 4; i++) {
    source = mix(source, w[Word.NW_SRC + i]);
    destination = mix(destination, w[Word.NW_DST + i]);
  }
  if (ported) {
    source = mix(source, w[Word.TP_SRC]);
    destination = mix(destination, w[Word.TP_DST]);
  }
  const hash = mix(
    mix(mix(w[Word.NW_PROTO] ^ w[Word.ETH_TYPE], Math.min(source, destination)), Math.max(source, destination)),
    basis,
  );
  return hash === 0 ? 1 : hash;
}

function mix(hash: number, word: number): number {
  let h = Math.imul(hash ^ Math.imul(word, 0xcc9e2d51), 0x1b873593);
  h ^= h >>> 15;
  h = Math.imul(h, 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}
