import { type FlowKey, Word } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { fnv1a } from '../nsdb/fnv.js';
import { EtherType } from '../packet/ethernet.js';

/**
 * Chooses one of equal routes (at least one, in any order) for an IP packet. Every host and both directions of a pair of
 * addresses choose alike. Each route has a score of its own for the pair and the highest wins (rendezvous hashing:
 * Thaler and Ravishankar, 1998), so that a route that is lost moves only the pairs that it had.
 */
export function chooseRoute<R extends { readonly id: string }>(
  routes: readonly R[],
  packet: FlowKey,
  seen: FlowMask,
): R {
  if (routes.length === 1) return routes[0];
  seen.seeEthType();
  const isIpv6 = packet.ethType === EtherType.IPV6;
  if (isIpv6) {
    seen.seeIpv6Src();
    seen.seeIpv6Dst();
  } else {
    seen.seeIpv4Src();
    seen.seeIpv4Dst();
  }
  const words = isIpv6 ? 4 : 1;
  const pair = mix(addressHash(packet, Word.NW_SRC, words) + addressHash(packet, Word.NW_DST, words));

  let best = routes[0];
  let bestScore = -1;
  for (const route of routes) {
    const score = mix(pair ^ mix(fnv1a(route.id)));
    if (score > bestScore || (score === bestScore && route.id < best.id)) {
      best = route;
      bestScore = score;
    }
  }
  return best;
}

function addressHash(packet: FlowKey, offset: number, words: number): number {
  let hash = 0x9e3779b9;
  for (let i = 0; i < words; i++) hash = mix(hash ^ packet.words[offset + i]);
  return hash;
}

/** Spreads each of the low 32 bits over all bits of the unsigned 32-bit result (the last steps of MurmurHash3). */
function mix(value: number): number {
  let hash = value ^ (value >>> 16);
  hash = Math.imul(hash, 0x85ebca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35);
  hash ^= hash >>> 16;
  return hash >>> 0;
}
