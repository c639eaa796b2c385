/** IP protocol and next header numbers (IANA, Assigned Internet Protocol Numbers). */
export const IpProtocol = {
  HOP_BY_HOP: 0,
  ICMP: 1,
  TCP: 6,
  UDP: 17,
  IPV6_ROUTING: 43,
  IPV6_FRAGMENT: 44,
  GRE: 47,
  ESP: 50,
  AH: 51,
  ICMPV6: 58,
  NO_NEXT_HEADER: 59,
  DESTINATION_OPTIONS: 60,
  SCTP: 132,
} as const;

/** Names of protocols whose packets have ports, or types and codes. */
export const PROTOCOL_NAMES: ReadonlyMap<number, string> = new Map([
  [IpProtocol.ICMP, 'icmp'],
  [IpProtocol.TCP, 'tcp'],
  [IpProtocol.UDP, 'udp'],
  [IpProtocol.ICMPV6, 'icmpv6'],
  [IpProtocol.SCTP, 'sctp'],
]);
