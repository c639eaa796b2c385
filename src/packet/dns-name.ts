/** Longest label and longest name of the wire format (RFC 1035 section 2.3.4). */
const MAX_LABEL = 63;
const MAX_NAME = 255;

const LABEL = /^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?$/;

/** Whether the text is a domain name such as `example.org`: letters, digits, '-' and '_' in labels of 1 to 63 characters. */
export function isDomainName(text: string): boolean {
  const labels = text.split('.');
  return text.length + 2 <= MAX_NAME && labels.every((label) => label.length <= MAX_LABEL && LABEL.test(label));
}

/** Domain names behind each other in the wire format, without compression (RFC 1035 section 3.1). */
export function encodeDomainNames(names: readonly string[]): Uint8Array {
  const bytes: number[] = [];
  for (const name of names) {
    for (const label of name.split('.')) bytes.push(label.length, ...Buffer.from(label, 'latin1'));
    bytes.push(0);
  }
  return new Uint8Array(bytes);
}

/** What {@link encodeDomainNames} wrote, less empty names, which only pad. Undefined if it is malformed. */
export function decodeDomainNames(bytes: Uint8Array): string[] | undefined {
  const names: string[] = [];
  let labels: string[] = [];
  let at = 0;
  while (at < bytes.length) {
    const length = bytes[at];
    if (length > MAX_LABEL || at + 1 + length > bytes.length) return undefined;
    if (length > 0) labels.push(Buffer.from(bytes.subarray(at + 1, at + 1 + length)).toString('latin1'));
    else if (labels.length > 0) {
      names.push(labels.join('.'));
      labels = [];
    }
    at += 1 + length;
  }
  return labels.length === 0 ? names : undefined;
}
