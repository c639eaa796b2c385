import { InvalidInputError, UnsupportedError } from '../errors.js';
import type { DatapathFeatures, MeterSpec } from './datapath.js';

const MAX_UINT32 = 0xffff_ffff;

/** @throws UnsupportedError, InvalidInputError if a datapath with these features cannot have such a meter */
export function requireMeter(id: number, meter: MeterSpec, features: DatapathFeatures): void {
  if (features.meters === 0) throw new UnsupportedError('meter', 'this datapath has none');
  if (!Number.isInteger(id) || id < 0 || id >= features.meters) {
    throw new InvalidInputError('meter id', id, `a whole number below ${features.meters}`);
  }
  for (const field of ['rate', 'burst'] as const) {
    const value = meter[field];
    if (!Number.isInteger(value) || value < 1 || value > MAX_UINT32) {
      throw new InvalidInputError(`meter ${field}`, value, 'a whole number from 1 to 2^32 - 1');
    }
  }
}
