import { createHash } from 'node:crypto';

/** Namespace of the identifiers made by {@link idFromName}: a fixed random UUID. */
const NAMESPACE = Buffer.from('5b1f6c0e3a7e4d6f9d3c8f0a1e2b4c6d', 'hex');

/**
 * The identifier that follows from a name (RFC 9562 section 5.5, version 5), so that two writers who mean the same thing
 * make the same object. `parts` are told apart: ('a', 'bc') and ('ab', 'c') differ.
 */
export function idFromName(...parts: readonly string[]): string {
  const digest = createHash('sha1').update(NAMESPACE).update(JSON.stringify(parts)).digest();
  digest[6] = (digest[6] & 0x0f) | 0x50;
  digest[8] = (digest[8] & 0x3f) | 0x80;
  const hex = digest.toString('hex', 0, 16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
