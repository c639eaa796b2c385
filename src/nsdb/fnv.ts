/** FNV-1a of the text's UTF-16 units: 32 bits, signed. Its high bits are better mixed than its low ones, so fold it. */
export function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash;
}
