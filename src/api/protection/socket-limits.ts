/** How much clients may ask of the sockets. */
export interface SocketLimits {
  /** Open at a time; more are closed at once. */
  readonly connections: number;
  /** The same of one address. */
  readonly connectionsPerAddress: number;
  /** Milliseconds from the first byte of a request to the end of its headers; also for a TLS handshake. */
  readonly headersTimeout: number;
  /** Milliseconds from the first byte of a request to the last. */
  readonly requestTimeout: number;
  /** Milliseconds that a connection may be silent in both directions. */
  readonly idleTimeout: number;
}

export const SOCKET_LIMITS: SocketLimits = {
  connections: 10_000,
  connectionsPerAddress: 1000,
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  idleTimeout: 60_000,
};
