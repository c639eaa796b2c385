import { CONNECTIONS_LIMIT, type ConnectionTuple, type TrackedConnection } from '../../datapath/datapath.js';
import { InvalidInputError } from '../../errors.js';
import { formatIp } from '../../packet/ip.js';
import { IpProtocol, PROTOCOL_NAMES } from '../../packet/ip-protocol.js';
import { limitOf } from './query.js';

/** Where connections are read from. */
export interface ConnectionSource {
  /** The zone of a port or device, by its id; undefined if it has none on this host. */
  zoneOf(id: string): number | undefined;
  /** Name of the port or device that a zone belongs to. */
  zoneOwner(zone: number): string | undefined;
  connections(zone: number | undefined, limit: number, signal?: AbortSignal): Promise<TrackedConnection[]>;
}

/** Connections as an object, with `format=json`. */
export interface DescribedConnections {
  /** `owner`: the port or device that they were tracked for, absent where that is none of this network. */
  readonly connections: readonly { readonly owner?: string; readonly connection: string }[];
  /** There may be more than were asked for. */
  readonly more: boolean;
}

/**
 * The connections that the kernel tracks for this host's ports and devices, for people to read: under each port or device, one a
 * line. The query may name one of them (`of`, an id) and how many are wanted at most (`limit`).
 */
export async function connectionsPage(
  source: ConnectionSource,
  query: URLSearchParams,
  signal?: AbortSignal,
): Promise<string | DescribedConnections> {
  const limit = limitOf(query, CONNECTIONS_LIMIT);
  const id = query.get('of');
  const zone = id === null ? undefined : source.zoneOf(id);
  if (id !== null && zone === undefined) {
    throw new InvalidInputError('of', id, 'expected a port or device of this host that has connections tracked');
  }
  const found = await source.connections(zone, limit, signal);
  found.sort((a, b) => a.zone - b.zone);
  if (query.get('format') === 'json') {
    const connections = found.map((one) => ({ owner: source.zoneOwner(one.zone), connection: describe(one) }));
    return { connections, more: found.length === limit };
  }
  const lines: string[] = [];
  let last: number | undefined;
  for (const connection of found) {
    if (connection.zone !== last) {
      last = connection.zone;
      lines.push(`${source.zoneOwner(last) ?? 'not of the virtual network'}, zone ${last}:`);
    }
    lines.push(`  ${describe(connection)}`);
  }
  if (found.length === 0) lines.push('no connections');
  else if (found.length === limit) lines.push(`the first ${limit}; there may be more`);
  return `${lines.join('\n')}\n`;
}

function describe({
  family,
  protocol,
  original,
  reply,
  answered,
  tcpState,
  mark,
  timeoutMs,
}: TrackedConnection): string {
  const hasPorts = protocol === IpProtocol.TCP || protocol === IpProtocol.UDP || protocol === IpProtocol.SCTP;
  const end = (words: readonly number[], port: number) => {
    const address = formatIp({ family, words });
    if (!hasPorts) return address;
    return family === 4 ? `${address}:${port}` : `[${address}]:${port}`;
  };
  const arrow = (tuple: ConnectionTuple) => `${end(tuple.src, tuple.srcPort)} > ${end(tuple.dst, tuple.dstPort)}`;
  const parts = [`${PROTOCOL_NAMES.get(protocol) ?? `protocol ${protocol}`} ${arrow(original)}`];
  const inverse = { src: reply.dst, srcPort: reply.dstPort, dst: reply.src, dstPort: reply.srcPort };
  if (arrow(inverse) !== arrow(original)) parts.push(`translated to ${arrow(inverse)}`);
  if (tcpState !== undefined) parts.push(tcpState);
  if (!answered) parts.push('not answered');
  if (mark !== 0) parts.push(`mark ${mark}`);
  parts.push(`forgotten in ${Math.ceil(timeoutMs / 1000)} s`);
  return parts.join(', ');
}
