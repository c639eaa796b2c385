import { Router } from 'express';
import * as z from 'zod';
import { formatPacket, parsePacket } from '../../flow/packet-text.js';
import type { PlainPass } from '../../simulation/explain.js';
import { uuid } from '../../topology/fields.js';
import type { Port } from '../../topology/types.js';
import { EXAMPLES } from '../description/examples.js';
import type { OperationDescription } from '../description/operation.js';
import { validateBody } from '../requests/error-fields.js';
import { serve } from '../requests/serve.js';
import type { Scope } from '../tenancy/tenancy.js';
import { AgentLink } from './agent-link.js';
import { concealHosts, hostToAsk } from './host-to-ask.js';
import { addressPacket } from './trace-macs.js';
import { namedByTag, namedIn, TraceNames } from './trace-names.js';
import { traceOutcome } from './trace-outcome.js';
import { forTenant, type ShownPass } from './trace-privacy.js';
import { stepTexts } from './trace-text.js';

export const traceRequestBody = z.strictObject({
  portId: uuid,
  /** In words, see packet-text.ts. MAC addresses that are left out are found out. */
  packet: z.string().max(1000),
  /** What the packet is to its connection, where rules or translations depend on that. */
  connection: z.enum(['new', 'established', 'reply']).default('new'),
  /** What one of several targets is chosen by. */
  hash: z.int().min(0).max(0xffff_ffff).default(0),
});
export type TraceRequestBody = z.output<typeof traceRequestBody>;

/** What an agent answers: see PlainPass. Steps that this program does not know are kept as they are. */
const agentAnswer = z.object({
  passes: z
    .array(
      z.object({
        packet: z.string(),
        from: z.int().optional(),
        steps: z.array(z.looseObject({ type: z.string() })),
        actions: z.string().optional(),
        match: z.string().optional(),
        drop: z.string().optional(),
        missing: z.array(z.string()).optional(),
        tags: z.array(z.string()).optional(),
      }),
    )
    .min(1),
});

const texts = z.array(z.string()).readonly();
const named = z.object({ id: z.string(), name: z.string() });

const tracedPassSchema = z.object({
  packet: z.string(),
  /** Which pass before it sent the packet back. */
  from: z.int().optional(),
  /** As the agent gives them, each with its text and how deep it is in the tree. */
  steps: z.array(z.looseObject({ type: z.string(), text: z.string(), depth: z.int() })).readonly(),
  /** What is not in hand: the agent does not know what to do with it. */
  missing: texts.optional(),
  /** What the datapath does. Without `match` no flow would be installed: every such packet is looked at. Tenants are not told. */
  flow: z.object({ match: z.string().optional(), actions: z.string(), tags: texts }).optional(),
});

const traceAnswerSchema = z.object({
  outcome: z.object({
    /** See TraceOutcome. */
    verdict: z.enum(['delivered', 'flooded', 'forwarded', 'answered', 'dropped', 'undecided']),
    text: z.string(),
    portIds: texts,
    ruleIds: texts,
    reason: z.string().optional(),
  }),
  port: named,
  /** Whose agent was asked; tenants are not told. */
  host: named.optional(),
  /** The packet with what was found out. */
  packet: z.string(),
  /** How that was found out, a sentence each. */
  assumed: texts,
  /** The simulations that it goes through: more than one where it comes back from the datapath with what rules ask for. */
  passes: z.array(tracedPassSchema).readonly(),
  /** Names of the objects that tags of flows speak of, by id; tenants are not told. */
  names: z.record(z.string(), z.string()).optional(),
});

/** The answer of POST /v1/trace. */
export type TraceAnswer = z.output<typeof traceAnswerSchema>;
export type TracedPass = z.output<typeof tracedPassSchema>;

const PORT_EXAMPLE = EXAMPLES.port.id;

export const TRACE_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'post',
    path: '/v1/trace',
    tag: 'Explain',
    summary: 'Say what would become of a packet that comes in at a port',
    description:
      'Nothing is sent, and nothing changed. MAC addresses that the packet leaves out are those that the machine at the port would use.',
    body: {
      schema: traceRequestBody,
      example: { portId: PORT_EXAMPLE, packet: 'tcp 10.0.0.10:1234 > 10.0.0.2:80 to 02:00:00:00:00:02' },
    },
    answers: [
      {
        status: 200,
        description: 'What becomes of it, and why',
        content: {
          schema: traceAnswerSchema,
          example: {
            outcome: {
              verdict: 'dropped',
              text: 'Dropped by rule 1 no-web of chain firewall, at port near/web: tcp, to port 80: drop.',
              portIds: [],
              ruleIds: ['5f0b7a11-52b7-4f0e-8a2d-1c9b7a3e5d10'],
              reason: 'filtered',
            },
            port: { id: PORT_EXAMPLE, name: 'near/web' },
            host: { id: '0d8e2c3a-6f1b-4a7d-9c55-3e2f1a0b4c5d', name: 'node-1' },
            packet: 'tcp 10.0.0.1:1234 > 10.0.0.2:80 from 02:00:00:00:00:01 to 02:00:00:00:00:02',
            assumed: ["from MAC 02:00:00:00:00:01: the port's own"],
            passes: [
              {
                packet: 'tcp 10.0.0.1:1234 > 10.0.0.2:80, ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:02',
                steps: [
                  {
                    type: 'in',
                    port: PORT_EXAMPLE,
                    device: 'bridge',
                    text: 'in at port near/web of bridge near',
                    depth: 0,
                  },
                  { type: 'drop', reason: 'filtered', text: 'dropped: filtered', depth: 1 },
                ],
                flow: { match: 'in_port=1 tp_dst=80', actions: 'drop', tags: [`port ${PORT_EXAMPLE}`] },
              },
            ],
            names: { [PORT_EXAMPLE]: 'near/web' },
          },
        },
      },
    ],
    failures: [404, 503],
  },
];

/** `POST /v1/trace`: what would become of a packet that comes in at a port. Nothing is sent, and nothing changed. */
export function traceRoutes(): Router {
  const router = Router();
  serve(router, '/trace', {
    post: async ({ request, response, scope, signal }) => {
      const body = validateBody(traceRequestBody, request.body);
      response.json(await trace(scope, body, signal));
    },
  });
  return router;
}

async function trace(scope: Scope, body: TraceRequestBody, signal: AbortSignal): Promise<TraceAnswer> {
  const { portId, connection, hash } = body;
  const { repository } = scope;
  const port = (await scope.require('port', portId)).object;
  const { packet, assumed } = await addressPacket(repository, port, parsePacket(body.packet), signal);
  const text = formatPacket(packet);
  const query = new URLSearchParams({ port: portId, packet: text, connection, hash: String(hash), format: 'json' });
  const { hostId, passes } = await ask(scope, port, query, signal);
  const names = new TraceNames(scope, signal);
  const tagged = scope.isAdmin ? passes.flatMap(({ tags = [] }) => tags.flatMap(namedByTag)) : [];
  await names.loadFor([
    { kind: 'port', id: portId },
    { kind: 'host', id: hostId },
    ...passes.flatMap(({ steps }) => steps.flatMap(namedIn)),
    ...tagged,
  ]);
  const shown = scope.isAdmin ? passes : forTenant(passes, names);
  const host = scope.isAdmin ? { id: hostId, name: names.of('host', hostId) } : undefined;
  const isElsewhere = host !== undefined && port.binding?.hostId !== hostId;
  return {
    outcome: traceOutcome(shown, names, connection),
    port: { id: portId, name: names.of('port', portId) },
    host,
    packet: text,
    assumed: isElsewhere ? [...assumed, `asked ${host.name}: ${whyNotItsHost(port)}`] : assumed,
    passes: shown.map((pass) => tracedPass(pass, names)),
    names: scope.isAdmin ? names.record(tagged) : undefined,
  };
}

/** What the agent of the port's host says, or another's. @throws AgentUnavailableError; it tells tenants of no host */
async function ask(
  scope: Scope,
  port: Port,
  query: URLSearchParams,
  signal: AbortSignal,
): Promise<{ hostId: string; passes: readonly PlainPass[] }> {
  const { repository } = scope;
  const agents = new AgentLink(repository.store);
  try {
    const hostId = await hostToAsk(repository, agents, port, signal);
    const { passes } = await agents.ask(hostId, `/trace?${query}`, agentAnswer, signal);
    return { hostId, passes: passes as unknown as PlainPass[] };
  } catch (error) {
    throw concealHosts(scope, error);
  }
}

function whyNotItsHost({ binding }: Port): string {
  const seen = 'tunnels are as seen from there';
  return binding === undefined
    ? `the port is on no host, so ${seen}`
    : `the agent of the port's own host cannot be asked, so ${seen}`;
}

function tracedPass(pass: ShownPass, names: TraceNames): TracedPass {
  const { packet, from, steps, missing, actions, match, tags = [] } = pass;
  const texts = stepTexts(steps, names);
  return {
    packet,
    from,
    steps: steps.map((step, i) => ({ ...step, ...texts[i] })),
    missing,
    flow: actions === undefined ? undefined : { match, actions, tags },
  };
}
