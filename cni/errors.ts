import { type ErrorCode, type InvalidInputError, MidonetError } from '../src/errors.js';

/** Error codes of the CNI specification 1.1.0, section "Error", and those of this plugin from 100 on. */
export const CniCode = {
  IncompatibleVersion: 1,
  UnsupportedField: 2,
  InvalidEnvironment: 4,
  Io: 5,
  Decode: 6,
  InvalidConfiguration: 7,
  /** Not in the specification; libcni has it for a namespace that is not fit. */
  InvalidNamespace: 8,
  TryAgainLater: 11,
  NotAvailable: 50,
  /** Not available, and containers that are attached may have limited connectivity. */
  LimitedConnectivity: 51,
  InterfaceExists: 100,
  CheckFailed: 101,
  GarbageCollectionFailed: 102,
  Internal: 999,
} as const;

/** An error as the runtime gets it. */
export class CniError extends Error {
  constructor(
    readonly cniCode: number,
    message: string,
    readonly details = '',
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'CniError';
  }
}

const CODES: Partial<Record<ErrorCode, number>> = {
  MN_INVALID_INPUT: CniCode.InvalidConfiguration,
  MN_UNSUPPORTED: CniCode.UnsupportedField,
  MN_NAMESPACE: CniCode.InvalidNamespace,
  MN_INTERFACE_EXISTS: CniCode.InterfaceExists,
  // All that may be otherwise in a moment: the NSDB is away or takes no changes, the host is not registered yet, addresses come free.
  MN_STORE_UNAVAILABLE: CniCode.TryAgainLater,
  MN_STORE_FULL: CniCode.TryAgainLater,
  MN_STORE_FROZEN: CniCode.TryAgainLater,
  MN_SESSION_EXPIRED: CniCode.TryAgainLater,
  MN_NOT_FOUND: CniCode.TryAgainLater,
  MN_CONFLICT: CniCode.TryAgainLater,
  MN_POOL_EXHAUSTED: CniCode.TryAgainLater,
  MN_ADDRESS_IN_USE: CniCode.TryAgainLater,
  MN_TIMEOUT: CniCode.TryAgainLater,
  MN_CLOSED: CniCode.TryAgainLater,
};

/** Any error as the runtime shall get it. `details` holds the project's own code. */
export function toCniError(error: unknown): CniError {
  if (error instanceof CniError) return error;
  if (error instanceof MidonetError) {
    const code = CODES[error.code] ?? CniCode.Internal;
    return new CniError(code, error.message, error.code, { cause: error });
  }
  const message = error instanceof Error ? error.message : String(error);
  return new CniError(CniCode.Internal, `internal error: ${message}`, '', { cause: error });
}

/** A field of the network configuration that is not supported. The message has its name and value, as the code demands. */
export function unsupportedField(field: string, value: unknown, why = 'not supported'): CniError {
  return new CniError(CniCode.UnsupportedField, `${field}: ${why}, got ${JSON.stringify(value) ?? 'undefined'}`);
}

/** Errors of the environment keep their own code, though they are found by the same checks. */
export function invalidEnvironment(error: InvalidInputError): CniError {
  return new CniError(CniCode.InvalidEnvironment, error.message, error.code, { cause: error });
}
