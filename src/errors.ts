/**
 * Every error code of the project, in one table. A code never changes its meaning: scripts, the REST API and the CNI
 * program rely on it. Each module throws its own subclass of {@link MidonetError} with a code from here.
 */
export const ERROR_CODES = {
  MN_INVALID_INPUT: 'a value supplied from outside is malformed; the message names the field and the value',
  MN_UNSUPPORTED: 'a feature that was asked for is not supported; the message names it',
  MN_NOT_FOUND: 'the object does not exist',
  MN_ALREADY_EXISTS: 'the object exists already',
  MN_CONFLICT: 'the object was changed by somebody else since it was read, or belongs to another object already',
  MN_REFERENCED: 'the object cannot be deleted while others refer to it',
  MN_STORE_UNAVAILABLE: 'the Network State Database cannot be reached now; trying again later may succeed',
  MN_AGENT_UNAVAILABLE: 'the agent of a host cannot be asked now; the message names the host and says what to do',
  MN_STORE_AUTH: 'the Network State Database refused the credentials or the operation',
  MN_STORE_FULL: 'the disk of the Network State Database is full; nothing was changed, and deleting is still possible',
  MN_ARCHIVE_UNAVAILABLE: 'the flow state archive cannot be reached now; trying again later may succeed',
  MN_QUOTA_EXCEEDED: 'a quota of the Network State Database does not allow more nodes or more data',
  MN_STORE_CORRUPT: 'data on disk fails its checks',
  MN_STORE_FROZEN: 'the Network State Database takes no changes since it is being moved elsewhere',
  MN_SESSION_EXPIRED: 'the session with the Network State Database has expired',
  MN_NETLINK: 'the kernel refused a netlink request; carries its errno',
  MN_DATAPATH: 'the datapath cannot do what was asked',
  MN_NAMESPACE: 'a network namespace does not exist or cannot be entered',
  MN_INTERFACE_EXISTS: 'an interface of that name exists already',
  MN_POOL_EXHAUSTED: 'an address pool has no free address',
  MN_NAT_EXHAUSTED: 'no block of source ports of an address is free',
  MN_ADDRESS_IN_USE: 'the address asked for is taken',
  MN_TIMEOUT: 'the operation did not end in the time allowed',
  MN_UNAUTHENTICATED: 'the request does not say who makes it, or cannot prove it',
  MN_AUTHENTICATION_UNAVAILABLE:
    'whoever can tell who makes the request does not answer; trying again later may succeed',
  MN_FORBIDDEN: 'whoever makes the request may not do that; the message says what',
  MN_PRECONDITION_FAILED: 'the object is not in the version that the request was made for',
  MN_TOO_LARGE: 'the request is larger than the limit that the message names',
  MN_TOO_MANY_REQUESTS: 'the caller makes more requests than allowed; trying again later succeeds',
  MN_API_UNAVAILABLE: 'the API server cannot be reached now; trying again later may succeed',
  MN_AUDIT_FAILED: 'the audit log cannot be written, and changes that are not recorded are not made',
  MN_INTERNAL: 'something went wrong that is a fault of this program; its log says what',
  MN_CLOSED: 'the object has been closed',
  MN_PROTOCOL: 'a peer sent bytes that do not follow the protocol',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** Base of all errors of the project. `code` is one of {@link ERROR_CODES}. */
export class MidonetError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** How much of a value errors show; nobody reads more of it. */
const SHOWN = 200;

/** A value from outside is malformed. The message names the field and shows the value. */
export class InvalidInputError extends MidonetError {
  constructor(
    readonly field: string,
    readonly value: unknown,
    readonly expected: string,
  ) {
    const got = value === undefined ? 'nothing' : (JSON.stringify(value) ?? String(value));
    super('MN_INVALID_INPUT', `${field}: ${expected}, got ${got.length <= SHOWN ? got : `${got.slice(0, SHOWN)}…`}`);
  }
}

/** A feature that was asked for by name is not supported. */
export class UnsupportedError extends MidonetError {
  constructor(
    readonly feature: string,
    detail = 'not supported',
  ) {
    super('MN_UNSUPPORTED', `${feature}: ${detail}`);
  }
}

/** The object was closed before or during the operation. */
export class ClosedError extends MidonetError {
  constructor(what: string) {
    super('MN_CLOSED', `${what} is closed`);
  }
}

/** An operation did not end in the time allowed. */
export class TimeoutError extends MidonetError {
  constructor(what: string, milliseconds: number) {
    super('MN_TIMEOUT', `${what} did not end within ${milliseconds} ms`);
  }
}
