import { type FlowKey, Word } from '../../flow/key.js';
import type { FlowOperation } from '../datapath.js';

const FIELDS = Object.entries(Word).map(([name, first], i, all) => ({
  name: name.toLowerCase(),
  first,
  words: (i + 1 < all.length ? all[i + 1][1] : Word.ARP_THA + 2) - first,
}));

/** The fields of `key` that `mask` matches, in hexadecimal: `in_port=3 eth_type=800 nw_dst=a000000/ff000000`. */
export function describeMatch(key: FlowKey, mask: FlowKey): string {
  const found: string[] = [];
  for (const { name, first, words } of FIELDS) {
    const bits = mask.words.subarray(first, first + words);
    if (bits.some((word) => word !== 0)) {
      const value = hex(key.words.subarray(first, first + words).map((word, i) => word & bits[i]));
      found.push(bits.every((word) => word === 0xffff_ffff) ? `${name}=${value}` : `${name}=${value}/${hex(bits)}`);
    }
  }
  return found.length > 0 ? found.join(' ') : 'every packet';
}

function hex(words: Uint32Array): string {
  const digits = Array.from(words, (word) => word.toString(16).padStart(8, '0')).join('');
  return digits.replace(/^0+(?=.)/, '');
}

/** What was asked, for error messages. */
export function describeOperation(operation: FlowOperation, datapath: string): string {
  switch (operation.type) {
    case 'put':
      return `put flow ${operation.id} (${describeMatch(operation.key, operation.mask)}) into datapath ${datapath}`;
    case 'delete':
      return `delete flow ${operation.id} of datapath ${datapath}`;
    case 'execute':
      return `execute ${operation.actions.length} actions (${operation.actions.map((action) => action.type).join(', ')}) on a packet of ${operation.packet.length} bytes in datapath ${datapath}`;
  }
}
