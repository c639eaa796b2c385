import { UnsupportedError } from '../../errors.js';
import type { Action } from '../../flow/action.js';
import { type FlowKey, Frag, VLAN_PRESENT, Word } from '../../flow/key.js';
import { FlowMask } from '../../flow/mask.js';
import { EtherType } from '../../packet/ethernet.js';
import { isVlanType } from '../../packet/vlan.js';
import type { DatapathFeatures } from '../datapath.js';
import { DatapathError } from '../errors.js';
import { actionsLength } from './actions-length.js';
import { hasPorts } from './tuple.js';

/** Longest action list that the kernel keeps (MAX_ACTIONS_BUFSIZE), in bytes. */
export const MAX_ACTIONS_LENGTH = 32 * 1024;
const MAX_PORTS = 65535;
const MAX_NESTING = 16;
const ALL = 0xffff_ffff;

/**
 * The mask that a flow put in the kernel would have: it takes some fields only whole or along with the field that
 * announces their header, and always matches whether there is a VLAN tag (flow_netlink.c, ovs_nla_get_match).
 */
export function kernelMask(key: FlowKey, mask: FlowKey): FlowMask {
  const out = new FlowMask(mask.words.slice());
  const m = out.words;
  const k = key.words;
  if (m[Word.IN_PORT] !== 0) m[Word.IN_PORT] = ALL;
  m[Word.VLAN_TCI] = k[Word.VLAN_TCI] === 0 ? 0xffff : (m[Word.VLAN_TCI] | VLAN_PRESENT) & 0xffff;
  if (k[Word.VLAN_TCI] !== 0) {
    m[Word.VLAN_TPID] = 0xffff;
    m[Word.ETH_TYPE] = 0xffff;
  }
  if ((m[Word.TP_SRC] | m[Word.TP_DST] | m[Word.TCP_FLAGS]) !== 0) m[Word.NW_PROTO] = 0xff;
  for (let i = Word.NW_SRC; i < m.length; i++) if (m[i] !== 0) m[Word.ETH_TYPE] = 0xffff;
  if (m[Word.ETH_TYPE] !== 0) m[Word.ETH_TYPE] = 0xffff;
  return out;
}

/** @throws DatapathError if the kernel would refuse the key */
export function validateKey(key: FlowKey, features: DatapathFeatures): void {
  const k = key.words;
  if (!features.zones && k[Word.CT_ZONE] !== 0) throw new DatapathError('invalid', 'ctZone: there are no zones');
  if (k[Word.VLAN_TCI] !== 0 && (k[Word.VLAN_TCI] & VLAN_PRESENT) === 0) {
    throw new DatapathError('invalid', `vlanTci 0x${k[Word.VLAN_TCI].toString(16)} lacks VLAN_PRESENT`);
  }
  if (k[Word.NW_FRAG] > Frag.LATER)
    throw new DatapathError('invalid', `nwFrag ${k[Word.NW_FRAG]} is no kind of fragment`);
}

/**
 * Check actions as the kernel does before it takes them (ovs_nla_copy_actions).
 * @param key of the flow with wildcarded bits zero, or of the packet to execute on: a header must be matched to be set
 * @throws DatapathError if the kernel would refuse them, UnsupportedError for a set of a field that it cannot set
 */
export function validateActions(actions: readonly Action[], key: FlowKey, features: DatapathFeatures): void {
  const length = actionsLength(actions);
  if (length > MAX_ACTIONS_LENGTH) {
    throw new DatapathError('too-large', `the actions take ${length} bytes of ${MAX_ACTIONS_LENGTH}`);
  }
  validateList(actions, key, features, 0);
}

function validateList(actions: readonly Action[], key: FlowKey, features: DatapathFeatures, depth: number): void {
  if (depth >= MAX_NESTING) throw new DatapathError('invalid', `actions are nested more than ${MAX_NESTING} deep`);
  for (const action of actions) {
    switch (action.type) {
      case 'output':
        if (action.port >= MAX_PORTS) throw new DatapathError('invalid', `output: ${action.port} is no port number`);
        break;
      case 'push-vlan':
        if (!isVlanType(action.tpid)) {
          throw new DatapathError('invalid', `push-vlan: tpid 0x${action.tpid.toString(16)} is none of VLAN`);
        }
        if ((action.tci & VLAN_PRESENT) === 0) throw new DatapathError('invalid', 'push-vlan: tci lacks VLAN_PRESENT');
        break;
      case 'set':
        validateSet(action, key);
        break;
      case 'set-tunnel':
        if (action.tunnel.dst === 0 || action.tunnel.ttl === 0) {
          throw new DatapathError('invalid', 'set-tunnel: needs a destination and a time to live');
        }
        break;
      case 'ct':
        validateCt(action, key, features);
        break;
      case 'trunc':
        if (action.maxLength < 14) throw new DatapathError('invalid', `trunc: ${action.maxLength} bytes hold no frame`);
        break;
      case 'clone':
        validateList(action.actions, key, features, depth + 1);
        break;
    }
  }
}

function validateSet(action: Extract<Action, { type: 'set' }>, key: FlowKey): void {
  const m = action.mask.words;
  const { ethType, nwProto } = action.key;
  const ip = ethType === EtherType.IPV4 || ethType === EtherType.IPV6;
  for (let i = 0; i < m.length; i++) {
    if (m[i] === 0 || settable(i, ethType, nwProto)) continue;
    throw new UnsupportedError(
      'set',
      `word ${i} of the key cannot be set in a packet of type 0x${ethType.toString(16)}`,
    );
  }
  const setsNetwork = ip && hasBits(m, Word.NW_SRC, Word.TP_SRC);
  const setsPorts = hasBits(m, Word.TP_SRC, Word.TCP_FLAGS);
  if (setsNetwork && key.ethType !== ethType) {
    throw new DatapathError('invalid', `set: the flow does not match EtherType 0x${ethType.toString(16)}`);
  }
  if (setsPorts && (key.nwProto !== nwProto || (key.ethType !== EtherType.IPV4 && key.ethType !== EtherType.IPV6))) {
    throw new DatapathError('invalid', `set: the flow does not match IP protocol ${nwProto}`);
  }
}

function settable(word: number, ethType: number, protocol: number): boolean {
  if (word === Word.SKB_MARK || word === Word.PRIORITY) return true;
  if (word >= Word.ETH_SRC && word < Word.VLAN_TCI) return true;
  if (word === Word.TP_SRC || word === Word.TP_DST) return hasPorts(protocol);
  const shared = word === Word.NW_SRC || word === Word.NW_DST || word === Word.NW_TOS || word === Word.NW_TTL;
  if (ethType === EtherType.IPV4) return shared;
  if (ethType !== EtherType.IPV6) return false;
  return shared || (word > Word.NW_SRC && word < Word.NW_PROTO) || word === Word.IPV6_LABEL;
}

function validateCt(action: Extract<Action, { type: 'ct' }>, key: FlowKey, features: DatapathFeatures): void {
  if (!features.conntrack) throw new DatapathError('unsupported', 'ct: connections are not tracked');
  if (!features.zones && action.zone !== 0) throw new DatapathError('invalid', 'ct: there are no zones');
  if (!features.nat && action.nat !== undefined) throw new DatapathError('invalid', 'ct: there is no NAT');
  const { nat } = action;
  const commit = action.commit === true || action.forceCommit === true;
  if (key.ethType !== EtherType.IPV4 && key.ethType !== EtherType.IPV6) {
    throw new DatapathError('invalid', 'ct: the flow does not match IPv4 or IPv6');
  }
  if (action.zone > 0xffff) throw new DatapathError('invalid', `ct: ${action.zone} is no zone`);
  if (!commit && action.mark !== undefined) throw new DatapathError('invalid', 'ct: a mark needs commit');
  if (nat === undefined || nat.kind === 'restore') return;
  if (!commit) throw new DatapathError('invalid', `ct: nat ${nat.kind} needs commit`);
  const words = key.ethType === EtherType.IPV4 ? 1 : 4;
  if (
    (nat.ipMin !== undefined && nat.ipMin.length !== words) ||
    (nat.ipMax !== undefined && nat.ipMax.length !== words)
  ) {
    throw new DatapathError('invalid', `ct: nat addresses are not of EtherType 0x${key.ethType.toString(16)}`);
  }
}

function hasBits(words: Uint32Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (words[i] !== 0) return true;
  return false;
}
