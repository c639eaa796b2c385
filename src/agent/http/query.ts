import { InvalidInputError } from '../../errors.js';

/** Fields that the queries of several pages have. */

/** What is read under it is named by it. */
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The field `port`. */
export function portIdOf(query: URLSearchParams): string {
  const portId = query.get('port');
  if (portId === null || !UUID.test(portId))
    throw new InvalidInputError('port', portId, 'expected the id of a port, a UUID');
  return portId;
}

/** How many things are wanted at most, the field `limit`. */
export function limitOf(query: URLSearchParams, otherwise: number): number {
  const limit = Number(query.get('limit') ?? otherwise);
  if (!Number.isInteger(limit) || limit < 1) {
    throw new InvalidInputError('limit', query.get('limit'), 'expected a whole number from 1');
  }
  return limit;
}
