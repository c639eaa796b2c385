import { Router } from 'express';
import * as z from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { knownHosts } from '../../nsdb/operations/alive-hosts.js';
import { ObjectNotFoundError } from '../../nsdb/topology-errors.js';
import { BOUND_PORT_EXAMPLE } from '../description/examples.js';
import type { OperationDescription } from '../description/operation.js';
import type { ApiContext } from '../requests/context.js';
import { parseId, refuseOthers } from '../requests/object-query.js';
import { serve } from '../requests/serve.js';
import type { Scope } from '../tenancy/tenancy.js';
import { AgentLink, AgentRefusedError } from './agent-link.js';
import { concealHosts } from './host-to-ask.js';
import { type Named, named, namedByTag, TraceNames } from './trace-names.js';

/** Agents asked for their flows, at most; and so many at once. */
const MAX_HOSTS = 256;
const HOSTS_AT_ONCE = 16;
const MAX_LIMIT = 10_000;
/** When so many flows are found no more agents are asked: an answer is made as a whole. */
const MAX_FLOWS = 50_000;
const DEFAULT_LIMIT = 1000;

const flowSchema = z.object({
  /** The port where its packets come in; `tunnel`: from other hosts. */
  from: z.string(),
  /** Where they leave. */
  to: z.array(z.string()),
  match: z.string(),
  actions: z.string(),
  packets: z.number(),
  bytes: z.number(),
  /** Milliseconds since a packet last hit it. */
  idleMs: z.number().optional(),
  /** It stays while it is not used. */
  pinned: z.boolean(),
  /** What it depends on. */
  tags: z.array(z.string()),
});
const agentFlows = z.object({ flows: z.array(flowSchema), more: z.boolean() });

const flowsAnswerSchema = z.object({
  hosts: z.array(
    z.object({
      id: z.string(),
      name: z.string(),
      flows: z.array(flowSchema),
      /** There are more flows than were asked for. */
      more: z.boolean(),
      /** Why the agent could not be asked. */
      error: z.string().optional(),
    }),
  ),
  /** Hosts that were not asked, as there are too many. */
  hostsLeft: z.int(),
  /** Names of the objects that flows speak of, by id. */
  names: z.record(z.string(), z.string()),
});
export type FlowsAnswer = z.output<typeof flowsAnswerSchema>;

const connectionsAnswerSchema = z.object({
  /** Where they are tracked. */
  hostId: z.string(),
  /** A line each. */
  connections: z.array(z.string()),
  /** There may be more than were asked for. */
  more: z.boolean(),
});
const agentConnections = z.object({
  connections: z.array(z.object({ owner: z.string().optional(), connection: z.string() })),
  more: z.boolean(),
});

const PORT_EXAMPLE = BOUND_PORT_EXAMPLE.object.id;
const HOST_EXAMPLE = '0d8e2c3a-6f1b-4a7d-9c55-3e2f1a0b4c5d';
const LIMIT = {
  name: 'limit',
  in: 'query',
  description: `How many are wanted of a host at most, ${MAX_LIMIT} or less`,
  schema: z.int().min(1).max(MAX_LIMIT).default(DEFAULT_LIMIT),
} as const;

export const FLOW_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1/flows',
    tag: 'Explain',
    summary: 'Show the flows that hosts have installed',
    description:
      'Those of all hosts, or of one; or those of all hosts whose packets come in at a port, leave there or pass it. Only an admin may ask.',
    parameters: [
      { name: 'portId', in: 'query', description: 'A port', schema: z.uuid(), example: PORT_EXAMPLE },
      { name: 'hostId', in: 'query', description: 'A host', schema: z.uuid() },
      LIMIT,
    ],
    answers: [
      {
        status: 200,
        description: 'The flows, by host',
        content: {
          schema: flowsAnswerSchema,
          example: {
            hosts: [
              {
                id: HOST_EXAMPLE,
                name: 'node-1',
                flows: [
                  {
                    from: PORT_EXAMPLE,
                    to: ['tunnel'],
                    match: 'in_port=3 recirc_id=0 eth_dst=02:00:00:00:00:02',
                    actions: 'set-tunnel(key 17, 10.0.0.11 > 10.0.0.12), output(2)',
                    packets: 12,
                    bytes: 1176,
                    idleMs: 350,
                    pinned: false,
                    tags: [`port ${PORT_EXAMPLE}`],
                  },
                ],
                more: false,
              },
            ],
            hostsLeft: 0,
            names: { [PORT_EXAMPLE]: 'near/web' },
          },
        },
      },
    ],
    failures: [404, 503],
  },
  {
    method: 'get',
    path: '/v1/connections',
    tag: 'Explain',
    summary: 'Show the connections that are tracked for a port',
    description:
      'Those of the zone of a port that is bound to a host: of packets that rules or translations ask about.',
    parameters: [
      { name: 'portId', in: 'query', description: 'A port', schema: z.uuid(), required: true, example: PORT_EXAMPLE },
      LIMIT,
    ],
    answers: [
      {
        status: 200,
        description: 'The connections, a line each',
        content: {
          schema: connectionsAnswerSchema,
          example: {
            hostId: HOST_EXAMPLE,
            connections: ['tcp 10.1.0.5:40000 > 10.2.0.7:80, established, forgotten in 431998 s'],
            more: false,
          },
        },
      },
    ],
    failures: [404, 503],
  },
];

/** `GET /v1/flows` and `GET /v1/connections`: what agents have in their datapaths. */
export function flowRoutes({ repository }: ApiContext, maxFlows = MAX_FLOWS): Router {
  const agents = new AgentLink(repository.store);
  const router = Router();
  serve(router, '/flows', {
    get: async ({ request: { query }, response, scope, signal }) => {
      scope.requireAdmin('look at flows');
      refuseOthers(query, ['portId', 'hostId', 'limit']);
      const portId = query.portId === undefined ? undefined : parseId('portId', query.portId);
      const hostId = query.hostId === undefined ? undefined : parseId('hostId', query.hostId);
      if (portId !== undefined && hostId !== undefined) {
        throw new InvalidInputError('portId', portId, 'expected none, as there is a hostId');
      }
      if (portId !== undefined) await scope.require('port', portId);
      const limit = limitIn(query);
      response.json(await flows(scope, agents, { hostId, portId, limit, maxFlows }, signal));
    },
  });
  serve(router, '/connections', {
    get: async ({ request: { query }, response, scope, signal }) => {
      refuseOthers(query, ['portId', 'limit']);
      const portId = parseId('portId', query.portId);
      const { binding } = (await scope.require('port', portId)).object;
      if (binding === undefined) {
        const expected = 'expected a port that is bound to a host: others track no connections';
        throw new InvalidInputError('portId', portId, expected);
      }
      const { hostId } = binding;
      const asked = new URLSearchParams({ of: portId, format: 'json', limit: String(limitIn(query)) });
      response.json({ hostId, ...(await connections(scope, agents, hostId, `/connections?${asked}`, signal)) });
    },
  });
  return router;
}

interface FlowsRequest {
  readonly hostId: string | undefined;
  readonly portId: string | undefined;
  /** Of one host, and of all. */
  readonly limit: number;
  readonly maxFlows: number;
}

async function flows(
  scope: Scope,
  agents: AgentLink,
  { hostId, portId, limit, maxFlows }: FlowsRequest,
  signal: AbortSignal,
): Promise<FlowsAnswer> {
  const path = `/flows?${new URLSearchParams({ limit: String(limit), ...(portId && { port: portId }) })}`;
  const known = await knownHosts(scope.repository.store, signal);
  const hosts = known.filter(({ id, alive }) => (hostId === undefined ? alive : id === hostId));
  if (hostId !== undefined && hosts.length === 0) throw new ObjectNotFoundError('host', hostId);
  const most = Math.min(hosts.length, MAX_HOSTS);
  const atOnce = Math.max(1, Math.min(HOSTS_AT_ONCE, Math.floor(maxFlows / limit)));
  const found: FlowsAnswer['hosts'] = [];
  let count = 0;
  while (found.length < most && count < maxFlows) {
    const next = hosts.slice(found.length, Math.min(found.length + atOnce, most));
    const asked = next.map(async ({ id, name }) => {
      try {
        return { id, name, ...(await agents.ask(id, path, agentFlows, signal)) };
      } catch (error) {
        // Of one host among many the others can be told all the same.
        if (hostId !== undefined || !(error instanceof MidonetError)) throw error;
        return { id, name, flows: [], more: false, error: error.message };
      }
    });
    const answers = await Promise.all(asked);
    found.push(...answers);
    count += answers.reduce((sum, { flows }) => sum + flows.length, 0);
  }
  return { hosts: found, hostsLeft: hosts.length - found.length, names: await namesIn(scope, found, signal) };
}

async function namesIn(
  scope: Scope,
  hosts: FlowsAnswer['hosts'],
  signal: AbortSignal,
): Promise<Record<string, string>> {
  const spokenOf = new Map<string, Named>();
  for (const { flows } of hosts) {
    for (const { from, to, tags } of flows) {
      for (const place of [from, ...to]) for (const one of named('port', place)) spokenOf.set(one.id, one);
      for (const tag of tags) for (const one of namedByTag(tag)) spokenOf.set(one.id, one);
    }
  }
  const names = new TraceNames(scope, signal);
  await names.loadFor([...spokenOf.values()]);
  return names.record([...spokenOf.values()]);
}

async function connections(
  scope: Scope,
  agents: AgentLink,
  hostId: string,
  path: string,
  signal: AbortSignal,
): Promise<{ connections: string[]; more: boolean }> {
  try {
    const answer = await agents.ask(hostId, path, agentConnections, signal);
    return { connections: answer.connections.map(({ connection }) => connection), more: answer.more };
  } catch (error) {
    // Nothing has asked for connections of the port yet.
    if (error instanceof AgentRefusedError && error.field === 'of') return { connections: [], more: false };
    throw concealHosts(scope, error);
  }
}

function limitIn({ limit = String(DEFAULT_LIMIT) }: Readonly<Record<string, unknown>>): number {
  const isNumber = typeof limit === 'string' && /^\d{1,5}$/.test(limit);
  if (!isNumber || Number(limit) < 1 || Number(limit) > MAX_LIMIT) {
    throw new InvalidInputError('limit', limit, `expected a whole number from 1 to ${MAX_LIMIT}`);
  }
  return Number(limit);
}
