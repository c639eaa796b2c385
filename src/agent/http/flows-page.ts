import type { Flow, FlowId } from '../../datapath/datapath.js';
import { InvalidInputError } from '../../errors.js';
import type { Action } from '../../flow/action.js';
import { describeActions, describeMatch } from '../../flow/describe.js';
import type { Fact, Ingress, PortFact } from '../../simulation/fact.js';
import type { FlowRecord, FlowTable } from '../forwarding/flow-table.js';
import { limitOf, portIdOf } from './query.js';

/** Where flows are read from. */
export interface FlowSource {
  readonly forwarder: { readonly flows: FlowTable };
  readonly bindings: {
    ingress(port: number): Fact<Ingress>;
    output(portId: string): Fact<number>;
    /** The port of the virtual network behind a port of the datapath. */
    portAt(port: number): string | undefined;
  };
  readonly cache: { port(id: string): Fact<PortFact> & { readonly flows: ReadonlySet<FlowId> } };
  /** The flow with its counters, if the datapath has it. */
  flow(id: FlowId, signal?: AbortSignal): Promise<Flow | undefined>;
}

/** A flow in the datapath, for people to read. */
export interface DescribedFlow {
  /** Of the packets that it takes: the port where they come in, `tunnel` from other hosts. */
  readonly from: string;
  /** Ports of this host that they leave at. */
  readonly to: readonly string[];
  readonly match: string;
  readonly actions: string;
  readonly packets: number;
  readonly bytes: number;
  /** Milliseconds since a packet last hit it; absent if none ever did. */
  readonly idleMs?: number;
  /** It stays while it is not used. */
  readonly pinned: boolean;
  /** What it depends on: when any of these changes it is looked at again. */
  readonly tags: readonly string[];
}

const FLOWS_LIMIT = 1000;
/** How many flows are asked for their counters at once. */
const BATCH = 64;
const FIELDS = new Set(['port', 'limit']);

/**
 * The flows of this host; of one port (`port`, an id) those whose packets come in there, leave there or pass it. The query may say how many
 * are wanted at most (`limit`).
 */
export async function flowsPage(
  source: FlowSource,
  query: URLSearchParams,
  signal?: AbortSignal,
): Promise<{ flows: DescribedFlow[]; more: boolean }> {
  for (const field of query.keys()) {
    if (!FIELDS.has(field)) throw new InvalidInputError('query', field, `expected one of ${[...FIELDS].join(', ')}`);
  }
  const limit = limitOf(query, FLOWS_LIMIT);
  const records: FlowRecord[] = [];
  let more = false;
  for (const record of query.has('port') ? flowsOf(source, portIdOf(query)) : source.forwarder.flows.records()) {
    more = records.length === limit;
    if (more) break;
    records.push(record);
  }
  const flows: DescribedFlow[] = [];
  for (let at = 0; at < records.length; at += BATCH) {
    const batch = records.slice(at, at + BATCH);
    const found = await Promise.all(batch.map(({ id }) => source.flow(id, signal)));
    batch.forEach((record, i) => {
      const flow = found[i];
      // It may have gone meanwhile.
      if (flow !== undefined) flows.push(describe(source, record, flow));
    });
  }
  return { flows, more };
}

function* flowsOf({ forwarder, bindings, cache }: FlowSource, portId: string): Generator<FlowRecord> {
  const number = bindings.output(portId).value ?? undefined;
  const ids = new Set<FlowId>(cache.port(portId).flows);
  if (number !== undefined) for (const { id } of forwarder.flows.touching(number)) ids.add(id);
  for (const id of ids) {
    const record = forwarder.flows.get(id);
    if (record !== undefined) yield record;
  }
}

function describe({ bindings }: FlowSource, record: FlowRecord, flow: Flow): DescribedFlow {
  const ports = new Set<string>();
  collectOutputs(record.actions, bindings.portAt, ports);
  return {
    from: wayIn(record, bindings),
    to: [...ports],
    match: describeMatch(record.key, record.mask),
    actions: describeActions(record.actions),
    packets: flow.packets,
    bytes: flow.bytes,
    idleMs: flow.idleMs,
    pinned: record.pinned,
    tags: record.tags.map(({ tag }) => tag),
  };
}

function wayIn({ key }: FlowRecord, bindings: FlowSource['bindings']): string {
  return bindings.portAt(key.inPort) ?? (key.tunDst === 0 ? `datapath port ${key.inPort}` : 'tunnel');
}

function collectOutputs(actions: readonly Action[], portAt: (port: number) => string | undefined, found: Set<string>) {
  for (const action of actions) {
    if (action.type === 'clone') collectOutputs(action.actions, portAt, found);
    else if (action.type === 'output') found.add(portAt(action.port) ?? 'tunnel');
  }
}
