import type { ServerResponse } from 'node:http';
import { InvalidInputError } from '../../errors.js';
import { type PacketText, parsePacket } from '../../flow/packet-text.js';
import type { CaptureDirection } from '../../nsdb/captures.js';
import { ObjectNotFoundError } from '../../nsdb/topology-errors.js';
import { formatMac } from '../../packet/address.js';
import { EtherType } from '../../packet/ethernet.js';
import { formatIp, type Ip } from '../../packet/ip.js';
import { type CaptureFormat, captureHeader, captureRecord, captureStatistics } from '../../packet/pcap.js';
import type { Condition } from '../../topology/chains.js';
import type { Agent } from '../agent.js';
import { portIdOf } from '../http/query.js';

/** Packets that wait for a client which reads too slowly, in bytes; what comes then is left out. */
const MAX_WAITING = 4 * 1024 * 1024;
/** How often it is told how many packets were left out. */
const STATISTICS_MS = 10_000;
const MAX_COUNT = 1_000_000_000;
const MAX_SECONDS = 1_000_000;
const FIELDS = ['port', 'direction', 'filter', 'format', 'count', 'seconds'];
const DIRECTIONS: Readonly<Record<string, readonly CaptureDirection[]>> = {
  both: ['in', 'out'],
  in: ['in'],
  out: ['out'],
};
const FORMATS: Readonly<Record<string, CaptureFormat>> = { pcapng: 'pcapng', pcap: 'pcap' };

/**
 * What crosses a port of the virtual network from here on, anywhere, as a file of captured packets that goes on until `count` packets
 * have come, `seconds` have passed or the client goes. `filter` is a packet in words: those of its connection in either direction are captured.
 * @throws InvalidInputError, ObjectNotFoundError
 */
export async function captureStream(
  { captures, repository }: Pick<Agent, 'captures' | 'repository'>,
  query: URLSearchParams,
  response: ServerResponse,
  gone: AbortSignal,
): Promise<void> {
  for (const field of query.keys()) {
    if (!FIELDS.includes(field)) throw new InvalidInputError('query', field, `expected one of ${FIELDS.join(', ')}`);
  }
  const portId = portIdOf(query);
  const directions = choice(query, 'direction', DIRECTIONS);
  const format = choice(query, 'format', FORMATS);
  const count = wholeNumber(query, 'count', MAX_COUNT) ?? Number.POSITIVE_INFINITY;
  const seconds = wholeNumber(query, 'seconds', MAX_SECONDS);
  const filter = query.get('filter');
  const conditions = filter === null ? [{}] : conditionsOf(parsePacket(filter, 'filter'), filter);
  if ((await repository.get('port', portId, gone)) === undefined) throw new ObjectNotFoundError('port', portId);

  const end = new AbortController();
  // None before the header.
  let left = 0;
  let tooSlow = 0;
  const capture = await captures.open(
    { portId, directions, conditions },
    (direction, bytes) => {
      if (left === 0) return;
      if (response.writableLength > MAX_WAITING) {
        tooSlow++;
        return;
      }
      response.write(captureRecord(format, { time: performance.timeOrigin + performance.now(), direction, bytes }));
      if (--left === 0) end.abort();
    },
    gone,
  );
  const statistics = async () => {
    response.write(captureStatistics(format, Date.now(), tooSlow + (await capture.leftOut())));
  };
  const telling = setInterval(() => {
    statistics().catch((error: Error) => response.destroy(error));
  }, STATISTICS_MS);
  let timer: NodeJS.Timeout | undefined;
  try {
    response.writeHead(200, { 'content-type': 'application/vnd.tcpdump.pcap' });
    response.write(captureHeader(format, portId));
    left = count;
    if (seconds !== undefined) timer = setTimeout(() => end.abort(), 1000 * seconds);
    await aborted(AbortSignal.any([gone, end.signal]));
    if (!gone.aborted) await statistics();
  } finally {
    clearTimeout(timer);
    clearInterval(telling);
    await capture.close();
  }
  response.end();
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

/** Those of packets that are like this one so far as it is described, and of their answers. */
function conditionsOf(packet: PacketText, text: string): Condition[] {
  const { protocol, source, destination, sourcePort, destinationPort, icmpType, icmpCode, vlan, tos } = packet;
  if (packet.ttl !== undefined || packet.flags !== undefined) {
    throw new InvalidInputError('filter', text, 'expected a packet without ttl and flags');
  }
  const isArp = protocol === 'arp';
  const common: Condition = {
    etherType: isArp ? EtherType.ARP : source.family === 4 ? EtherType.IPV4 : EtherType.IPV6,
    ...(!isArp && { protocol }),
    ...(vlan !== undefined && { vlanId: vlan }),
    ...(tos !== undefined && { tos }),
  };
  const ends = [
    { address: source, port: sourcePort, mac: packet.sourceMac },
    { address: destination, port: destinationPort, mac: packet.destinationMac },
  ];
  const between = ([from, to]: typeof ends): Condition => ({
    ...common,
    source: hostCidr(from.address),
    destination: hostCidr(to.address),
    ...(from.port !== undefined && { sourcePorts: { start: from.port, end: from.port } }),
    ...(to.port !== undefined && { destinationPorts: { start: to.port, end: to.port } }),
    ...(from.mac !== undefined && { sourceMac: formatMac(from.mac) }),
    ...(to.mac !== undefined && { destinationMac: formatMac(to.mac) }),
  });
  if (icmpType === undefined && icmpCode === undefined) return [between(ends), between([ends[1], ends[0]])];
  // An answer is of another type.
  const ofType: Condition = {
    ...(icmpType !== undefined && { sourcePorts: { start: icmpType, end: icmpType } }),
    ...(icmpCode !== undefined && { destinationPorts: { start: icmpCode, end: icmpCode } }),
  };
  return [{ ...between(ends), ...ofType }];
}

function hostCidr(address: Ip): string {
  return `${formatIp(address)}/${address.family === 4 ? 32 : 128}`;
}

/** The first is what holds where the query says nothing. */
function choice<T>(query: URLSearchParams, field: string, choices: Readonly<Record<string, T>>): T {
  const names = Object.keys(choices);
  const text = query.get(field) ?? names[0];
  if (!Object.hasOwn(choices, text)) throw new InvalidInputError(field, text, `expected one of ${names.join(', ')}`);
  return choices[text];
}

function wholeNumber(query: URLSearchParams, field: string, max: number): number | undefined {
  const text = query.get(field);
  if (text === null) return undefined;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > max) {
    throw new InvalidInputError(field, text, `expected a whole number from 1 to ${max}`);
  }
  return value;
}
