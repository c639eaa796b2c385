import { IpProtocol } from '../packet/ip-protocol.js';
import type { TrackedConnection } from './datapath.js';

/** An address as a connection's tuple has it, and a port; none where the protocol has none on that side. */
export interface TranslatedEnd {
  readonly address: readonly number[];
  /** Of an ICMP echo: its identifier, at the source. */
  readonly port: number | undefined;
}

/** What becomes of the source and the destination of a connection's packets: undefined of what stays as it is. */
export function translationsOf({
  protocol,
  original,
  reply,
}: Pick<TrackedConnection, 'protocol' | 'original' | 'reply'>): {
  readonly source: TranslatedEnd | undefined;
  readonly destination: TranslatedEnd | undefined;
} {
  const isEcho = protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6;
  const sourcePort = isEcho ? reply.srcPort : reply.dstPort;
  const destinationPort = isEcho ? undefined : reply.srcPort;
  const keepsSource = sameWords(original.src, reply.dst) && original.srcPort === sourcePort;
  const keepsDestination = sameWords(original.dst, reply.src) && (isEcho || original.dstPort === destinationPort);
  return {
    source: keepsSource ? undefined : { address: reply.dst, port: sourcePort },
    destination: keepsDestination ? undefined : { address: reply.src, port: destinationPort },
  };
}

/** Words of an address. */
export function sameWords(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((word, i) => word === b[i]);
}
