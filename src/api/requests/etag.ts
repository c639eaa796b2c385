import { InvalidInputError } from '../../errors.js';

/** Versions of objects as HTTP has them (RFC 9110 section 8.8.3): the zxid of the last change, which no two versions share. */
export function etagOf(modified: number): string {
  return `"${modified}"`;
}

const ENTITY_TAGS = /(?:W\/)?"[^"]*"/g;

/** What If-Match may say, and an `ifMatch` of a batch. */
export const ENTITY_TAG_LIST = /^\s*(\*|(W\/)?"[^"]*"(\s*,\s*(W\/)?"[^"]*")*)\s*$/;
export const ENTITY_TAG_EXPECTED = 'expected an ETag with its quotes, such as "260", or *';

/**
 * @param at the header or field that has it
 * @throws InvalidInputError for what could be the version of no object
 */
export function checkEntityTags(at: string, tags: string | undefined): void {
  if (tags !== undefined && !ENTITY_TAG_LIST.test(tags)) throw new InvalidInputError(at, tags, ENTITY_TAG_EXPECTED);
}

/** Whether If-Match, or the `ifMatch` of a batch, names the version; an object that is not there has none. */
export function ifMatchNames(header: string, modified: number | undefined): boolean {
  if (modified === undefined) return false;
  // Weak tags never match here (RFC 9110 section 13.1.1).
  const tags: readonly string[] = header.match(ENTITY_TAGS) ?? [];
  return header.trim() === '*' || tags.includes(etagOf(modified));
}

/** Whether If-None-Match names the version: the client has it already. */
export function ifNoneMatchNames(header: string, modified: number): boolean {
  return ifMatchNames(header.replaceAll('W/', ''), modified);
}
