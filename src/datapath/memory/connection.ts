import type { TcpState } from '../tcp-states.js';
import type { SctpTracking } from './sctp-state.js';
import type { Tuple } from './tuple.js';

/** A tracked connection. */
export interface Connection {
  readonly zone: number;
  readonly original: Tuple;
  /** What answers look like: the inverted original unless addresses are translated. */
  reply: Tuple;
  /** In the table. A connection is confirmed by the first commit; until then only the packet knows it. */
  confirmed: boolean;
  seenReply: boolean;
  sourceNat: boolean;
  destinationNat: boolean;
  sourceNatDone: boolean;
  destinationNatDone: boolean;
  tcp: TcpState;
  /** Undefined unless the protocol is SCTP. */
  readonly sctp: SctpTracking | undefined;
  mark: number;
  /** Milliseconds of the clock. */
  expires: number;
}

/** What the packet is to its connection. */
export interface Tracked {
  readonly connection: Connection;
  readonly kind: 'new' | 'established' | 'related';
  readonly reply: boolean;
}
