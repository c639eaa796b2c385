import { TcpFlag } from '../../packet/tcp.js';
import { TCP_STATES, type TcpState } from '../tcp-states.js';

/** In the order of {@link TCP_STATES}: index of the next state; `-` invalid, `=` ignore (stay). */
const ORIGINAL: { readonly [kind: string]: string } = {
  syn: '11=====119',
  synack: '--2------2',
  fin: '--4466678-',
  ack: '3-3355778-',
  rst: '-888888888',
};
const REPLY: { readonly [kind: string]: string } = {
  syn: '-9-----1-9',
  synack: '-2=======2',
  fin: '--4466678-',
  ack: '-=2355778=',
  rst: '-888888888',
};

/** How long an entry in each state lives without a packet, in milliseconds: netfilter's defaults. */
export const TCP_TIMEOUT: { readonly [state in TcpState]: number } = {
  NONE: 120_000,
  SYN_SENT: 120_000,
  SYN_RECV: 60_000,
  ESTABLISHED: 432_000_000,
  FIN_WAIT: 120_000,
  CLOSE_WAIT: 60_000,
  LAST_ACK: 30_000,
  TIME_WAIT: 120_000,
  CLOSE: 10_000,
  SYN_SENT2: 120_000,
};

/**
 * The state after a segment, or undefined when the segment is invalid there. `flags`: of the TCP header. A connection
 * may be picked up in its middle (nf_conntrack_tcp_loose).
 */
export function nextTcpState(state: TcpState, flags: number, reply: boolean): TcpState | undefined {
  const kind = segmentKind(flags);
  if (kind === undefined) return undefined;
  const step = (reply ? REPLY : ORIGINAL)[kind][TCP_STATES.indexOf(state)];
  if (step === '-') return undefined;
  return step === '=' ? state : TCP_STATES[Number(step)];
}

function segmentKind(flags: number): string | undefined {
  const relevant = flags & (TcpFlag.SYN | TcpFlag.FIN | TcpFlag.RST | TcpFlag.ACK | TcpFlag.URG);
  if (!VALID_FLAGS.has(relevant)) return undefined;
  if ((flags & TcpFlag.RST) !== 0) return 'rst';
  if ((flags & TcpFlag.SYN) !== 0) return (flags & TcpFlag.ACK) !== 0 ? 'synack' : 'syn';
  if ((flags & TcpFlag.FIN) !== 0) return 'fin';
  return 'ack';
}

/** Combinations that real stacks send; PSH, ECE and CWR go with any. */
const VALID_FLAGS: ReadonlySet<number> = new Set([
  TcpFlag.SYN,
  TcpFlag.SYN | TcpFlag.URG,
  TcpFlag.SYN | TcpFlag.ACK,
  TcpFlag.RST,
  TcpFlag.RST | TcpFlag.ACK,
  TcpFlag.FIN | TcpFlag.ACK,
  TcpFlag.FIN | TcpFlag.ACK | TcpFlag.URG,
  TcpFlag.ACK,
  TcpFlag.ACK | TcpFlag.URG,
]);
