import { InvalidInputError } from '../../errors.js';
import { extractKey } from '../../flow/extract.js';
import { FlowKey } from '../../flow/key.js';
import { packetKey, parsePacket } from '../../flow/packet-text.js';
import { formatPasses, type Pass, plainPass } from '../../simulation/explain.js';
import type { TracedPacket } from '../forwarding/tracer.js';
import { portIdOf } from './query.js';

/** What explains packets. */
export interface Explainer {
  explain(packet: TracedPacket, signal: AbortSignal): Promise<Pass[]>;
}

const CONNECTIONS = ['new', 'established', 'reply'] as const;
const FIELDS = ['port', 'packet', 'frame', 'connection', 'hash', 'format'];
const MAX_FRAME = 65_535;

/**
 * What would become of a packet that comes in at a port of the virtual network, step by step, for people to read; as an object with
 * `format=json`. The query has the packet as people write it (`packet`, see packet-text.ts, with both MAC addresses) or as a whole (`frame`, in
 * hexadecimal).
 * @throws InvalidInputError for a packet that cannot be
 */
export async function tracePage(
  explainer: Explainer,
  query: URLSearchParams,
  signal: AbortSignal,
): Promise<string | object> {
  for (const field of query.keys()) {
    if (!FIELDS.includes(field)) throw new InvalidInputError('query', field, `expected one of ${FIELDS.join(', ')}`);
  }
  const portId = portIdOf(query);
  const connection = choice(query, 'connection', CONNECTIONS);
  const format = choice(query, 'format', ['text', 'json'] as const);
  const hash = number(query, 'hash', 0xffff_ffff, 0);
  const passes = await explainer.explain({ portId, connection, hash, ...packetOf(query) }, signal);
  if (format === 'text') return formatPasses(passes);
  return { passes: passes.map(plainPass) };
}

function packetOf(query: URLSearchParams): { key: FlowKey; bytes?: Uint8Array } {
  const frame = query.get('frame');
  if (frame === null) return { key: packetKey(parsePacket(query.get('packet') ?? '')) };
  const key = new FlowKey();
  const bytes = Buffer.from(frame, 'hex');
  if (2 * bytes.length !== frame.length || bytes.length > MAX_FRAME || !extractKey(bytes, key)) {
    throw new InvalidInputError(
      'frame',
      frame,
      'expected a whole Ethernet frame in hexadecimal, with one VLAN tag at most',
    );
  }
  return { key, bytes };
}

function number(query: URLSearchParams, field: string, max: number, otherwise: number): number {
  const text = query.get(field);
  if (text === null) return otherwise;
  const value = Number(text);
  if (text === '' || !Number.isInteger(value) || value < 0 || value > max) {
    throw new InvalidInputError(field, text, `expected a whole number from 0 to ${max}`);
  }
  return value;
}

/** The first is what holds where the query says nothing. */
function choice<T extends string>(query: URLSearchParams, field: string, choices: readonly T[]): T {
  const text = query.get(field);
  const found = text === null ? choices[0] : choices.find((one) => one === text);
  if (found === undefined) throw new InvalidInputError(field, text, `expected one of ${choices.join(', ')}`);
  return found;
}
