/** States of a TCP connection as netfilter tracks it, by its numbers (linux/netfilter/nf_conntrack_tcp.h, `enum tcp_conntrack`). */
export const TCP_STATES = [
  'NONE',
  'SYN_SENT',
  'SYN_RECV',
  'ESTABLISHED',
  'FIN_WAIT',
  'CLOSE_WAIT',
  'LAST_ACK',
  'TIME_WAIT',
  'CLOSE',
  'SYN_SENT2',
] as const;

export type TcpState = (typeof TCP_STATES)[number];
