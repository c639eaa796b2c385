import { randomInt } from 'node:crypto';
import * as z from 'zod';
import { InvalidInputError } from '../errors.js';

/**
 * Places in a long list whose elements are stored apart: text that sorts as the elements stand. There is always room
 * between two places, so an element is put anywhere by writing it alone.
 *
 * Eight digits of base 36, then a fraction of any number of digits that does not end in 0. Elements put at either end
 * use another whole number, so their places stay short; one that is put between two neighbours takes the middle.
 */
const DIGITS = '0123456789abcdefghijklmnopqrstuvwxyz';
const BASE = DIGITS.length;
const WHOLE_DIGITS = 8;
const MIDDLE = Math.floor(BASE ** WHOLE_DIGITS / 2);
/** Digits that tell a place from others that were chosen for the same spot. */
const OWN_DIGITS = 8;
/** Elements put one by one at the same spot add a digit for every five of them. */
const MAX_LENGTH = 1024;

export const positionSchema = z
  .string()
  .max(MAX_LENGTH)
  .regex(/^[0-9a-z]{8}([0-9a-z]*[1-9a-z])?$/, 'expected a place as positionBetween makes them');

/**
 * A place behind `before` and in front of `after`; either may be missing, for the end of the list.
 * @throws InvalidInputError if `before` is not in front of `after`, or there is no room for a longer place
 */
export function positionBetween(before: string | undefined, after: string | undefined): string {
  if (before === undefined && after === undefined) return whole(MIDDLE);
  if (after === undefined) return whole(wholeOf(before!) + 1);
  if (before === undefined) {
    const first = wholeOf(after);
    return after.length > WHOLE_DIGITS ? whole(first) : whole(first - 1);
  }
  if (before >= after) throw new InvalidInputError('position', before, `expected a place in front of ${after}`);
  const [low, high] = [wholeOf(before), wholeOf(after)];
  if (high - low > 1) return whole(low + Math.floor((high - low) / 2));
  if (high > low && after.length > WHOLE_DIGITS) return whole(high);
  const end = high > low ? '' : after.slice(WHOLE_DIGITS);
  const position = whole(low) + fractionBetween(before.slice(WHOLE_DIGITS), end);
  if (position.length > MAX_LENGTH) {
    throw new InvalidInputError('position', before, 'expected room behind this place; spread the elements anew');
  }
  return position;
}

/**
 * The same, and unlike any other: of those who put elements at one spot at the same time, each gets a place of its own.
 * @throws InvalidInputError as positionBetween
 */
export function ownPositionBetween(before: string | undefined, after: string | undefined): string {
  // In front of all there is another whole number.
  const end = before === undefined ? after?.slice(0, WHOLE_DIGITS) : after;
  let position = positionBetween(before, end);
  // More digits would bring it behind a place that begins like it.
  if (end?.startsWith(position)) position = positionBetween(position, end);
  return position + Array.from({ length: OWN_DIGITS }, () => DIGITS[randomInt(1, BASE)]).join('');
}

/** As many places in order, behind `before`. */
export function positionsAfter(before: string | undefined, count: number): string[] {
  const positions: string[] = [];
  let last = before;
  for (let i = 0; i < count; i++) {
    last = positionBetween(last, undefined);
    positions.push(last);
  }
  return positions;
}

/** The middle of two fractions without their point; an `end` of '' stands for one. */
function fractionBetween(start: string, end: string): string {
  let digits = '';
  let bounded = end !== '';
  for (let i = 0; ; i++) {
    const low = i < start.length ? DIGITS.indexOf(start[i]) : 0;
    const high = bounded ? (i < end.length ? DIGITS.indexOf(end[i]) : 0) : BASE;
    if (high - low > 1) return digits + DIGITS[low + Math.floor((high - low) / 2)];
    // The next digit may be anything once this one is below that of the end.
    if (high > low) bounded = false;
    digits += DIGITS[low];
  }
}

function whole(value: number): string {
  if (value < 0 || value >= BASE ** WHOLE_DIGITS) {
    throw new InvalidInputError('position', value, 'expected room at the end of the list');
  }
  return value.toString(BASE).padStart(WHOLE_DIGITS, '0');
}

function wholeOf(position: string): number {
  return Number.parseInt(position.slice(0, WHOLE_DIGITS), BASE);
}
