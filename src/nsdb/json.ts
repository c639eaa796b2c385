import type { z } from 'zod';
import { MidonetError } from '../errors.js';
import { validate } from '../topology/validate.js';

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A node's JSON. */
export function encodeJson(value: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(value));
}

/**
 * The value in a node's JSON.
 * @throws InvalidInputError naming the path
 */
export function decodeJson<S extends z.ZodType>(schema: S, data: Uint8Array, path: string): z.output<S> {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(data));
  } catch (cause) {
    throw new MidonetError('MN_INVALID_INPUT', `${path}: not JSON`, { cause });
  }
  return validate(schema, value, path);
}
