import type { Action } from '../../flow/action.js';
import { Word } from '../../flow/key.js';

/**
 * Lengths of actions as the kernel's netlink attributes (linux/openvswitch.h): a header of four bytes, then the value,
 * padded to four, and what the kernel keeps in memory on top: it counts that against its limit.
 */
const HEADER = 4;
const U32 = HEADER + 4;
/** What the kernel keeps of a ct action beyond what it was sent, generously, and of a clone. */
const CT_KEPT = 192;
const CLONE_KEPT = 8;

/** The groups of header words that one masked set attribute covers, with the size of its structure. */
const SET_GROUPS: readonly { readonly from: number; readonly to: number; readonly size: number }[] = [
  { from: Word.SKB_MARK, to: Word.SKB_MARK + 1, size: 4 },
  { from: Word.PRIORITY, to: Word.PRIORITY + 1, size: 4 },
  { from: Word.ETH_SRC, to: Word.VLAN_TCI, size: 12 },
  { from: Word.NW_SRC, to: Word.TP_SRC, size: 12 },
  { from: Word.TP_SRC, to: Word.TCP_FLAGS, size: 4 },
];

export function actionsLength(actions: readonly Action[]): number {
  let length = 0;
  for (const action of actions) length += actionLength(action);
  return length;
}

function actionLength(action: Action): number {
  switch (action.type) {
    case 'output':
    case 'recirc':
    case 'trunc':
    case 'meter':
      return U32;
    case 'userspace':
      // Nested: port id, and user data if any.
      return HEADER + U32 + (action.userdata === undefined ? 0 : HEADER + pad(action.userdata.length));
    case 'set':
      return setLength(action);
    case 'set-tunnel':
      // Nested twice: key, source, destination, type of service, time to live, up to three flags.
      return HEADER + HEADER + (HEADER + 8) + U32 + U32 + U32 + U32 + 3 * HEADER;
    case 'push-vlan':
      return HEADER + 4;
    case 'pop-vlan':
    case 'ct-clear':
      return HEADER;
    case 'hash':
      return HEADER + 8;
    case 'ct':
      return ctLength(action);
    case 'clone':
      return HEADER + CLONE_KEPT + actionsLength(action.actions);
  }
}

function setLength(action: Extract<Action, { type: 'set' }>): number {
  const words = action.mask.words;
  const any = (from: number, to: number) => {
    for (let i = from; i < to; i++) if (words[i] !== 0) return true;
    return false;
  };
  let length = 0;
  for (const group of SET_GROUPS) {
    if (!any(group.from, group.to)) continue;
    const six = group.from === Word.NW_SRC && action.key.ethType === 0x86dd;
    length += HEADER + HEADER + 2 * (six ? 40 : group.size);
  }
  return length;
}

function ctLength(action: Extract<Action, { type: 'ct' }>): number {
  let length = HEADER + U32 + CT_KEPT;
  if (action.commit === true) length += HEADER;
  if (action.forceCommit === true) length += HEADER;
  if (action.mark !== undefined) length += HEADER + 8;
  const nat = action.nat;
  if (nat === undefined) return length;
  length += HEADER;
  if (nat.kind !== 'restore') length += HEADER;
  if (nat.ipMin !== undefined) length += HEADER + 4 * nat.ipMin.length;
  if (nat.ipMax !== undefined) length += HEADER + 4 * nat.ipMax.length;
  if (nat.portMin !== undefined) length += U32;
  if (nat.portMax !== undefined) length += U32;
  if (nat.persistent === true) length += HEADER;
  if (nat.random === true) length += HEADER;
  return length;
}

function pad(length: number): number {
  return (length + 3) & ~3;
}
