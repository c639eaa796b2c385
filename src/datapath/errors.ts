import { MidonetError } from '../errors.js';

/**
 * - `exists`: another flow has the same masked key, another port the number or interface, another connection a tuple
 * - `not-found`: no such datapath, interface, port or connection
 * - `busy`: the interface belongs to another datapath or device
 * - `invalid`: the datapath refuses the key, mask, actions or packet as malformed
 * - `too-large`: more actions, flows or masks than the datapath takes
 * - `unsupported`: the datapath lacks the feature
 * - `denied`: no permission
 * - `failed`: anything else; the message and the cause tell
 */
export type DatapathErrorKind =
  | 'exists'
  | 'not-found'
  | 'busy'
  | 'invalid'
  | 'too-large'
  | 'unsupported'
  | 'denied'
  | 'failed';

/** A datapath cannot do what was asked. The same `kind` from every driver. */
export class DatapathError extends MidonetError {
  constructor(
    readonly kind: DatapathErrorKind,
    message: string,
    options?: ErrorOptions,
  ) {
    super('MN_DATAPATH', message, options);
  }
}
