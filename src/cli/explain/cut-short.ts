import { MidonetError } from '../../errors.js';

const CUT_SHORT: ReadonlySet<unknown> = new Set(['ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE']);

/**
 * Work that reads an answer which goes on and on.
 * @throws MidonetError with MN_API_UNAVAILABLE where the answer does not come to its end
 */
export async function toItsEnd(reading: Promise<void>): Promise<void> {
  try {
    await reading;
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && CUT_SHORT.has(error.code))) throw error;
    throw new MidonetError(
      'MN_API_UNAVAILABLE',
      'the answer was cut short: the API server has gone away, or the agent that it asked',
    );
  }
}
