import { UnsupportedError } from '../../errors.js';
import type { Action, NatSpec, TunnelKey } from '../../flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, TunnelFlag, Word } from '../../flow/key.js';
import { ProtocolError } from '../netlink/errors.js';
import { AttributeReader, LITTLE_ENDIAN, MessageWriter } from '../netlink/message.js';
import { writeTunnel } from './key-codec.js';
import {
  ActionAttr,
  CtAttr,
  EtherType,
  HASH_ALGORITHM_L4,
  IpProtocol,
  KeyAttr,
  NatAttr,
  TunnelAttr,
  UserspaceAttr,
} from './uapi.js';

const ALL = 0xffff_ffff;

/** SAMPLE_ACTION_DEPTH and its successors: the kernel nests actions no deeper. */
const MAX_NESTING = 16;

/** sizeof(struct ovs_conntrack_info), generously: what the kernel keeps of a ct action instead of its attributes. */
const CT_INFO_LENGTH = 192;
/** The kernel puts a u32 attribute in front of the actions of a clone. */
const CLONE_INFO_LENGTH = 8;

/**
 * Write an action list as attribute `type`.
 * @param pid netlink port that userspace actions send to; not zero. Ignored by a kernel that dispatches per CPU.
 * @throws UnsupportedError for a set of fields that the kernel cannot rewrite
 */
export function writeActions(writer: MessageWriter, type: number, actions: readonly Action[], pid: number): void {
  const nest = writer.nest(type);
  writeActionList(writer, actions, pid);
  writer.endNest(nest);
}

function writeActionList(writer: MessageWriter, actions: readonly Action[], pid: number): void {
  for (let i = 0; i < actions.length; i++) {
    writeAction(writer, actions[i], pid);
  }
}

function writeAction(writer: MessageWriter, action: Action, pid: number): void {
  switch (action.type) {
    case 'output':
      writer.u32(ActionAttr.OUTPUT, action.port);
      return;
    case 'userspace': {
      const nest = writer.nest(ActionAttr.USERSPACE);
      writer.u32(UserspaceAttr.PID, pid);
      if (action.userdata !== undefined) {
        writer.raw(UserspaceAttr.USERDATA, action.userdata);
      }
      writer.endNest(nest);
      return;
    }
    case 'set':
      writeSet(writer, action.key.words, action.mask.words);
      return;
    case 'set-tunnel': {
      const { id, src, dst, tos, ttl, flags } = action.tunnel;
      const nest = writer.nest(ActionAttr.SET);
      writeTunnel(writer, KeyAttr.TUNNEL, id, src, dst, tos, ttl, flags);
      writer.endNest(nest);
      return;
    }
    case 'push-vlan': {
      const at = writer.attribute(ActionAttr.PUSH_VLAN, 4);
      writer.view.setUint16(at, action.tpid);
      writer.view.setUint16(at + 2, action.tci);
      return;
    }
    case 'pop-vlan':
      writer.flag(ActionAttr.POP_VLAN);
      return;
    case 'ct':
      writeCt(writer, action);
      return;
    case 'ct-clear':
      writer.flag(ActionAttr.CT_CLEAR);
      return;
    case 'recirc':
      writer.u32(ActionAttr.RECIRC, action.id);
      return;
    case 'hash': {
      const at = writer.attribute(ActionAttr.HASH, 8);
      writer.view.setUint32(at, HASH_ALGORITHM_L4, LITTLE_ENDIAN);
      writer.view.setUint32(at + 4, action.basis, LITTLE_ENDIAN);
      return;
    }
    case 'trunc':
      writer.u32(ActionAttr.TRUNC, action.maxLength);
      return;
    case 'meter':
      writer.u32(ActionAttr.METER, action.id);
      return;
    case 'clone': {
      const nest = writer.nest(ActionAttr.CLONE);
      writeActionList(writer, action.actions, pid);
      writer.endNest(nest);
    }
  }
}

/** Words that `set` may touch, whatever the packet. Those of IP and transport headers depend on `ethType` and `nwProto`. */
const SETTABLE_ALWAYS = [Word.SKB_MARK, Word.PRIORITY, Word.ETH_SRC, Word.ETH_SRC + 1, Word.ETH_DST, Word.ETH_DST + 1];
const SETTABLE_IPV4 = [Word.NW_SRC, Word.NW_DST, Word.NW_TOS, Word.NW_TTL];
const SETTABLE_IPV6 = [
  ...[0, 1, 2, 3].flatMap((i) => [Word.NW_SRC + i, Word.NW_DST + i]),
  Word.NW_TOS,
  Word.NW_TTL,
  Word.IPV6_LABEL,
];
const SETTABLE_PORTS = [Word.TP_SRC, Word.TP_DST];

function writeSet(writer: MessageWriter, k: Uint32Array, m: Uint32Array): void {
  const ethType = k[Word.ETH_TYPE];
  const protocol = k[Word.NW_PROTO];
  const network =
    ethType === EtherType.IPV4 ? SETTABLE_IPV4 : ethType === EtherType.IPV6 ? SETTABLE_IPV6 : NOTHING_SETTABLE;
  const transport = transportAttr(protocol);
  checkSettable(m, network, transport === 0 ? NOTHING_SETTABLE : SETTABLE_PORTS, ethType, protocol);

  if (m[Word.SKB_MARK] !== 0) {
    const at = beginSetMasked(writer, KeyAttr.SKB_MARK, 8);
    writer.view.setUint32(at, k[Word.SKB_MARK] & m[Word.SKB_MARK], LITTLE_ENDIAN);
    writer.view.setUint32(at + 4, m[Word.SKB_MARK], LITTLE_ENDIAN);
  }
  if (m[Word.PRIORITY] !== 0) {
    const at = beginSetMasked(writer, KeyAttr.PRIORITY, 8);
    writer.view.setUint32(at, k[Word.PRIORITY] & m[Word.PRIORITY], LITTLE_ENDIAN);
    writer.view.setUint32(at + 4, m[Word.PRIORITY], LITTLE_ENDIAN);
  }
  if (anyOf(m, SETTABLE_ETHERNET)) {
    const at = beginSetMasked(writer, KeyAttr.ETHERNET, 24);
    putEthernet(writer.view, at, k, m);
    putEthernet(writer.view, at + 12, m, m);
  }
  if (anyOf(m, network)) {
    if (ethType === EtherType.IPV4) {
      const at = beginSetMasked(writer, KeyAttr.IPV4, 24);
      putIpv4(writer.view, at, k, m);
      putIpv4(writer.view, at + 12, m, m);
    } else {
      const at = beginSetMasked(writer, KeyAttr.IPV6, 80);
      putIpv6(writer.view, at, k, m);
      putIpv6(writer.view, at + 40, m, m);
    }
  }
  if (transport !== 0 && anyOf(m, SETTABLE_PORTS)) {
    const at = beginSetMasked(writer, transport, 8);
    writer.view.setUint16(at, k[Word.TP_SRC] & m[Word.TP_SRC]);
    writer.view.setUint16(at + 2, k[Word.TP_DST] & m[Word.TP_DST]);
    writer.view.setUint16(at + 4, m[Word.TP_SRC]);
    writer.view.setUint16(at + 6, m[Word.TP_DST]);
  }
}

const NOTHING_SETTABLE: readonly number[] = [];
const SETTABLE_ETHERNET: readonly number[] = [Word.ETH_SRC, Word.ETH_SRC + 1, Word.ETH_DST, Word.ETH_DST + 1];

/** Transport headers that the kernel's set_tcp, set_udp and set_sctp rewrite. */
function transportAttr(protocol: number): number {
  switch (protocol) {
    case IpProtocol.TCP:
      return KeyAttr.TCP;
    case IpProtocol.UDP:
      return KeyAttr.UDP;
    case IpProtocol.SCTP:
      return KeyAttr.SCTP;
    default:
      return 0;
  }
}

function anyOf(words: Uint32Array, indexes: readonly number[]): boolean {
  for (let i = 0; i < indexes.length; i++) {
    if (words[indexes[i]] !== 0) {
      return true;
    }
  }
  return false;
}

/** Where each word belongs, in bits: 0 never settable, 1 always, 2 in IPv4, 4 in IPv6, 8 with ports. */
const SETTABLE = new Uint8Array(FLOW_KEY_WORDS);
for (const word of SETTABLE_ALWAYS) {
  SETTABLE[word] |= 1;
}
for (const word of SETTABLE_IPV4) {
  SETTABLE[word] |= 2;
}
for (const word of SETTABLE_IPV6) {
  SETTABLE[word] |= 4;
}
for (const word of SETTABLE_PORTS) {
  SETTABLE[word] |= 8;
}

function checkSettable(
  m: Uint32Array,
  network: readonly number[],
  ports: readonly number[],
  ethType: number,
  protocol: number,
): void {
  const allowed =
    1 | (network === SETTABLE_IPV4 ? 2 : 0) | (network === SETTABLE_IPV6 ? 4 : 0) | (ports === SETTABLE_PORTS ? 8 : 0);
  for (let word = 0; word < FLOW_KEY_WORDS; word++) {
    if (m[word] !== 0 && (SETTABLE[word] & allowed) === 0) {
      throw new UnsupportedError(
        `action set of ${wordName(word)}`,
        `the kernel cannot rewrite it in a packet of EtherType 0x${ethType.toString(16).padStart(4, '0')}, ` +
          `protocol ${protocol} (the action's key must name both)`,
      );
    }
  }
}

/** Name of the field that a word belongs to, for messages. */
function wordName(word: number): string {
  let best = '';
  for (const [name, first] of Object.entries(Word)) {
    if (first <= word) {
      best = name;
    }
  }
  return best;
}

function beginSetMasked(writer: MessageWriter, type: number, length: number): number {
  const nest = writer.nest(ActionAttr.SET_MASKED);
  const at = writer.attribute(type, length);
  writer.endNest(nest);
  return at;
}

function putEthernet(view: DataView, at: number, words: Uint32Array, m: Uint32Array): void {
  view.setUint16(at, words[Word.ETH_SRC] & m[Word.ETH_SRC]);
  view.setUint32(at + 2, words[Word.ETH_SRC + 1] & m[Word.ETH_SRC + 1]);
  view.setUint16(at + 6, words[Word.ETH_DST] & m[Word.ETH_DST]);
  view.setUint32(at + 8, words[Word.ETH_DST + 1] & m[Word.ETH_DST + 1]);
}

function putIpv4(view: DataView, at: number, words: Uint32Array, m: Uint32Array): void {
  view.setUint32(at, words[Word.NW_SRC] & m[Word.NW_SRC]);
  view.setUint32(at + 4, words[Word.NW_DST] & m[Word.NW_DST]);
  view.setUint8(at + 9, words[Word.NW_TOS] & m[Word.NW_TOS]);
  view.setUint8(at + 10, words[Word.NW_TTL] & m[Word.NW_TTL]);
}

function putIpv6(view: DataView, at: number, words: Uint32Array, m: Uint32Array): void {
  for (let i = 0; i < 8; i++) {
    view.setUint32(at + 4 * i, words[Word.NW_SRC + i] & m[Word.NW_SRC + i]);
  }
  view.setUint32(at + 32, words[Word.IPV6_LABEL] & m[Word.IPV6_LABEL] & 0xf_ffff);
  view.setUint8(at + 37, words[Word.NW_TOS] & m[Word.NW_TOS]);
  view.setUint8(at + 38, words[Word.NW_TTL] & m[Word.NW_TTL]);
}

function writeCt(writer: MessageWriter, action: Extract<Action, { type: 'ct' }>): void {
  const nest = writer.nest(ActionAttr.CT);
  // The kernel reads in order and refuses a NAT range in front of the commit.
  if (action.forceCommit === true) {
    writer.flag(CtAttr.FORCE_COMMIT);
  } else if (action.commit === true) {
    writer.flag(CtAttr.COMMIT);
  }
  // Kernels without zones do not know the attribute.
  if (action.zone !== 0) {
    writer.u16(CtAttr.ZONE, action.zone);
  }
  if (action.mark !== undefined) {
    const bits = action.markMask ?? ALL;
    const at = writer.attribute(CtAttr.MARK, 8);
    writer.view.setUint32(at, action.mark & bits, LITTLE_ENDIAN);
    writer.view.setUint32(at + 4, bits, LITTLE_ENDIAN);
  }
  if (action.nat !== undefined) {
    writeNat(writer, action.nat);
  }
  writer.endNest(nest);
}

function writeNat(writer: MessageWriter, nat: NatSpec): void {
  const nest = writer.nest(CtAttr.NAT);
  if (nat.kind !== 'restore') {
    writer.flag(nat.kind === 'src' ? NatAttr.SRC : NatAttr.DST);
    writeAddress(writer, NatAttr.IP_MIN, nat.ipMin);
    writeAddress(writer, NatAttr.IP_MAX, nat.ipMax);
    if (nat.portMin !== undefined) {
      writer.u16(NatAttr.PROTO_MIN, nat.portMin);
    }
    if (nat.portMax !== undefined) {
      writer.u16(NatAttr.PROTO_MAX, nat.portMax);
    }
    if (nat.persistent === true) {
      writer.flag(NatAttr.PERSISTENT);
    }
    if (nat.random === true) {
      writer.flag(NatAttr.PROTO_RANDOM);
    }
  }
  writer.endNest(nest);
}

function writeAddress(writer: MessageWriter, type: number, address: readonly number[] | undefined): void {
  if (address === undefined) {
    return;
  }
  const at = writer.attribute(type, 4 * address.length);
  for (let i = 0; i < address.length; i++) {
    writer.view.setUint32(at + 4 * i, address[i]);
  }
}

const lengthWriter = new MessageWriter(4096);

/**
 * Bytes that the kernel counts against its limit of 32 KiB for an action list: encoded length, and more where it keeps
 * more than it was sent.
 */
export function actionsLength(actions: readonly Action[]): number {
  lengthWriter.reset();
  writeActionList(lengthWriter, actions, 1);
  return lengthWriter.length + extraLength(actions);
}

function extraLength(actions: readonly Action[]): number {
  let extra = 0;
  for (const action of actions) {
    if (action.type === 'ct') {
      extra += CT_INFO_LENGTH;
    } else if (action.type === 'clone') {
      extra += CLONE_INFO_LENGTH + extraLength(action.actions);
    }
  }
  return extra;
}

/** An action list as read; `complete` is false when it has actions that cannot be expressed, which are left out. */
export interface DecodedActions {
  readonly actions: Action[];
  readonly complete: boolean;
}

/**
 * Read nested OVS_ACTION_ATTR_* attributes at `start` to `end` of `bytes`. Adjacent rewrites of different fields become
 * one `set`, as they were before writing.
 * @throws ProtocolError if the bytes are malformed
 */
export function readActions(bytes: Uint8Array, start: number, end: number): DecodedActions {
  const actions: Action[] = [];
  const complete = readActionList(new AttributeReader(bytes).reset(bytes, start, end), actions, 0);
  return { actions, complete };
}

function readActionList(reader: AttributeReader, actions: Action[], depth: number): boolean {
  if (depth > MAX_NESTING) {
    throw new ProtocolError(`actions are nested more than ${MAX_NESTING} deep`);
  }
  let complete = true;
  while (reader.next()) {
    switch (reader.type) {
      case ActionAttr.OUTPUT:
        actions.push({ type: 'output', port: reader.u32() });
        break;
      case ActionAttr.USERSPACE:
        complete = readUserspace(inner(reader), actions) && complete;
        break;
      case ActionAttr.SET:
        complete = readSet(inner(reader), actions, false) && complete;
        break;
      case ActionAttr.SET_MASKED:
        complete = readSet(inner(reader), actions, true) && complete;
        break;
      case ActionAttr.PUSH_VLAN: {
        const at = reader.struct(4);
        actions.push({ type: 'push-vlan', tpid: reader.view.getUint16(at), tci: reader.view.getUint16(at + 2) });
        break;
      }
      case ActionAttr.POP_VLAN:
        actions.push({ type: 'pop-vlan' });
        break;
      case ActionAttr.CT:
        complete = readCt(inner(reader), actions) && complete;
        break;
      case ActionAttr.CT_CLEAR:
        actions.push({ type: 'ct-clear' });
        break;
      case ActionAttr.RECIRC:
        actions.push({ type: 'recirc', id: reader.u32() });
        break;
      case ActionAttr.HASH: {
        const at = reader.struct(8);
        if (reader.view.getUint32(at, LITTLE_ENDIAN) === HASH_ALGORITHM_L4) {
          actions.push({ type: 'hash', basis: reader.view.getUint32(at + 4, LITTLE_ENDIAN) });
        } else {
          complete = false;
        }
        break;
      }
      case ActionAttr.TRUNC:
        actions.push({ type: 'trunc', maxLength: reader.u32() });
        break;
      case ActionAttr.METER:
        actions.push({ type: 'meter', id: reader.u32() });
        break;
      case ActionAttr.CLONE: {
        const cloned: Action[] = [];
        complete = readActionList(inner(reader), cloned, depth + 1) && complete;
        actions.push({ type: 'clone', actions: cloned });
        break;
      }
      default:
        complete = false;
    }
  }
  return complete;
}

function inner(reader: AttributeReader): AttributeReader {
  return reader.enter(new AttributeReader(reader.bytes));
}

function readUserspace(reader: AttributeReader, actions: Action[]): boolean {
  let complete = true;
  let userdata: Uint8Array | undefined;
  while (reader.next()) {
    if (reader.type === UserspaceAttr.USERDATA) {
      userdata = reader.raw().slice();
    } else if (reader.type !== UserspaceAttr.PID) {
      complete = false;
    }
  }
  actions.push(userdata === undefined ? { type: 'userspace' } : { type: 'userspace', userdata });
  return complete;
}

function readSet(reader: AttributeReader, actions: Action[], masked: boolean): boolean {
  if (!reader.next()) {
    throw new ProtocolError('a set action has no key attribute');
  }
  const key = new FlowKey();
  const mask = new FlowKey();
  const k = key.words;
  const m = mask.words;
  const { view } = reader;
  switch (reader.type) {
    case KeyAttr.TUNNEL:
      return !masked && readSetTunnel(inner(reader), actions);
    case KeyAttr.SKB_MARK:
    case KeyAttr.PRIORITY: {
      const word = reader.type === KeyAttr.SKB_MARK ? Word.SKB_MARK : Word.PRIORITY;
      const at = reader.struct(masked ? 8 : 4);
      k[word] = view.getUint32(at, LITTLE_ENDIAN);
      m[word] = masked ? view.getUint32(at + 4, LITTLE_ENDIAN) : ALL;
      break;
    }
    case KeyAttr.ETHERNET: {
      const at = reader.struct(masked ? 24 : 12);
      getEthernet(view, at, k);
      if (masked) {
        getEthernet(view, at + 12, m);
      } else {
        m[Word.ETH_SRC] = m[Word.ETH_DST] = 0xffff;
        m[Word.ETH_SRC + 1] = m[Word.ETH_DST + 1] = ALL;
      }
      break;
    }
    case KeyAttr.IPV4: {
      const at = reader.struct(masked ? 24 : 12);
      getIpv4(view, at, k);
      if (masked) {
        getIpv4(view, at + 12, m);
      } else {
        m[Word.NW_SRC] = m[Word.NW_DST] = ALL;
        m[Word.NW_TOS] = m[Word.NW_TTL] = 0xff;
      }
      k[Word.ETH_TYPE] = EtherType.IPV4;
      break;
    }
    case KeyAttr.IPV6: {
      const at = reader.struct(masked ? 80 : 40);
      getIpv6(view, at, k);
      if (masked) {
        getIpv6(view, at + 40, m);
      } else {
        m.fill(ALL, Word.NW_SRC, Word.NW_SRC + 8);
        m[Word.IPV6_LABEL] = 0xf_ffff;
        m[Word.NW_TOS] = m[Word.NW_TTL] = 0xff;
      }
      k[Word.ETH_TYPE] = EtherType.IPV6;
      break;
    }
    case KeyAttr.TCP:
    case KeyAttr.UDP:
    case KeyAttr.SCTP: {
      const at = reader.struct(masked ? 8 : 4);
      k[Word.TP_SRC] = view.getUint16(at);
      k[Word.TP_DST] = view.getUint16(at + 2);
      m[Word.TP_SRC] = masked ? view.getUint16(at + 4) : 0xffff;
      m[Word.TP_DST] = masked ? view.getUint16(at + 6) : 0xffff;
      k[Word.NW_PROTO] =
        reader.type === KeyAttr.TCP ? IpProtocol.TCP : reader.type === KeyAttr.UDP ? IpProtocol.UDP : IpProtocol.SCTP;
      break;
    }
    default:
      return false;
  }
  const last = actions.at(-1);
  if (last?.type === 'set' && mayMerge(last.key.words, last.mask.words, k, m)) {
    for (let i = 0; i < FLOW_KEY_WORDS; i++) {
      last.key.words[i] |= k[i];
      last.mask.words[i] |= m[i];
    }
  } else {
    actions.push({ type: 'set', key, mask });
  }
  return true;
}

/** Whether two sets in a row are one: no field in common, and no two kinds of network or transport header. */
function mayMerge(k1: Uint32Array, m1: Uint32Array, k2: Uint32Array, m2: Uint32Array): boolean {
  for (const word of [Word.ETH_TYPE, Word.NW_PROTO]) {
    if (k1[word] !== 0 && k2[word] !== 0 && k1[word] !== k2[word]) {
      return false;
    }
  }
  for (let i = 0; i < FLOW_KEY_WORDS; i++) {
    if (m1[i] !== 0 && m2[i] !== 0) {
      return false;
    }
  }
  return true;
}

function getEthernet(view: DataView, at: number, words: Uint32Array): void {
  words[Word.ETH_SRC] = view.getUint16(at);
  words[Word.ETH_SRC + 1] = view.getUint32(at + 2);
  words[Word.ETH_DST] = view.getUint16(at + 6);
  words[Word.ETH_DST + 1] = view.getUint32(at + 8);
}

function getIpv4(view: DataView, at: number, words: Uint32Array): void {
  words[Word.NW_SRC] = view.getUint32(at);
  words[Word.NW_DST] = view.getUint32(at + 4);
  words[Word.NW_TOS] = view.getUint8(at + 9);
  words[Word.NW_TTL] = view.getUint8(at + 10);
}

function getIpv6(view: DataView, at: number, words: Uint32Array): void {
  for (let i = 0; i < 8; i++) {
    words[Word.NW_SRC + i] = view.getUint32(at + 4 * i);
  }
  words[Word.IPV6_LABEL] = view.getUint32(at + 32);
  words[Word.NW_TOS] = view.getUint8(at + 37);
  words[Word.NW_TTL] = view.getUint8(at + 38);
}

function readSetTunnel(reader: AttributeReader, actions: Action[]): boolean {
  let complete = true;
  const tunnel: { -readonly [K in keyof TunnelKey]: TunnelKey[K] } = {
    id: 0,
    src: 0,
    dst: 0,
    tos: 0,
    ttl: 0,
    flags: 0,
  };
  while (reader.next()) {
    switch (reader.type) {
      case TunnelAttr.ID: {
        const at = reader.struct(8);
        complete = complete && reader.view.getUint32(at) === 0;
        tunnel.id = reader.view.getUint32(at + 4);
        tunnel.flags |= TunnelFlag.KEY;
        break;
      }
      case TunnelAttr.IPV4_SRC:
        tunnel.src = reader.be32();
        break;
      case TunnelAttr.IPV4_DST:
        tunnel.dst = reader.be32();
        break;
      case TunnelAttr.TOS:
        tunnel.tos = reader.u8();
        break;
      case TunnelAttr.TTL:
        tunnel.ttl = reader.u8();
        break;
      case TunnelAttr.DONT_FRAGMENT:
        tunnel.flags |= TunnelFlag.DONT_FRAGMENT;
        break;
      case TunnelAttr.CSUM:
        tunnel.flags |= TunnelFlag.CSUM;
        break;
      case TunnelAttr.OAM:
        tunnel.flags |= TunnelFlag.OAM;
        break;
      case TunnelAttr.PAD:
        break;
      default:
        complete = false;
    }
  }
  actions.push({ type: 'set-tunnel', tunnel });
  return complete;
}

function readCt(reader: AttributeReader, actions: Action[]): boolean {
  let complete = true;
  const ct: { -readonly [K in keyof Extract<Action, { type: 'ct' }>]: Extract<Action, { type: 'ct' }>[K] } = {
    type: 'ct',
    zone: 0,
  };
  while (reader.next()) {
    switch (reader.type) {
      case CtAttr.COMMIT:
        ct.commit = true;
        break;
      case CtAttr.FORCE_COMMIT:
        ct.commit = true;
        ct.forceCommit = true;
        break;
      case CtAttr.ZONE:
        ct.zone = reader.u16();
        break;
      case CtAttr.MARK: {
        const at = reader.struct(8);
        ct.mark = reader.view.getUint32(at, LITTLE_ENDIAN);
        ct.markMask = reader.view.getUint32(at + 4, LITTLE_ENDIAN);
        break;
      }
      case CtAttr.NAT: {
        const nat: { -readonly [K in keyof NatSpec]: NatSpec[K] } = { kind: 'restore' };
        complete = readNat(inner(reader), nat) && complete;
        ct.nat = nat;
        break;
      }
      default:
        complete = false;
    }
  }
  actions.push(ct);
  return complete;
}

function readNat(reader: AttributeReader, nat: { -readonly [K in keyof NatSpec]: NatSpec[K] }): boolean {
  let complete = true;
  while (reader.next()) {
    switch (reader.type) {
      case NatAttr.SRC:
        nat.kind = 'src';
        break;
      case NatAttr.DST:
        nat.kind = 'dst';
        break;
      case NatAttr.IP_MIN:
        nat.ipMin = readAddress(reader);
        break;
      case NatAttr.IP_MAX:
        nat.ipMax = readAddress(reader);
        break;
      case NatAttr.PROTO_MIN:
        nat.portMin = reader.u16();
        break;
      case NatAttr.PROTO_MAX:
        nat.portMax = reader.u16();
        break;
      case NatAttr.PERSISTENT:
        nat.persistent = true;
        break;
      case NatAttr.PROTO_RANDOM:
        nat.random = true;
        break;
      default:
        complete = false;
    }
  }
  return complete;
}

function readAddress(reader: AttributeReader): number[] {
  const at = reader.struct(4);
  const words: number[] = [];
  for (let i = 0; i + 4 <= Math.min(reader.length, 16); i += 4) {
    words.push(reader.view.getUint32(at + i));
  }
  return words;
}
