import type { IncomingMessage } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { Router } from 'express';
import * as z from 'zod';
import { InvalidInputError } from '../../errors.js';
import { captureSchema, type StoredCapture } from '../../nsdb/captures.js';
import { decodeJson } from '../../nsdb/json.js';
import { CAPTURES_PATH } from '../../nsdb/layout.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import type { Store } from '../../nsdb/store.js';
import type { Port } from '../../topology/types.js';
import type { OperationDescription } from '../description/operation.js';
import type { ApiContext } from '../requests/context.js';
import { parseId, refuseOthers } from '../requests/object-query.js';
import { serve } from '../requests/serve.js';
import { CallerPlaces } from '../tenancy/caller-places.js';
import type { Scope } from '../tenancy/tenancy.js';
import { AgentLink } from './agent-link.js';
import { concealHosts, hostToAsk } from './host-to-ask.js';

const PARAMETERS = ['direction', 'filter', 'count', 'seconds', 'format'];
/** Each host takes part in a few at a time, of whoever wants them. */
const CAPTURES_PER_CALLER = 4;
const TYPES: Readonly<Record<string, string>> = {
  pcapng: 'application/x-pcapng',
  pcap: 'application/vnd.tcpdump.pcap',
};

const capturesAnswerSchema = z.object({
  items: z.array(
    z.object({
      id: z.string(),
      directions: z.array(z.enum(['in', 'out'])),
      /** Whose agent gets the packets; tenants are not told. */
      hostId: z.string().optional(),
      since: z.string(),
    }),
  ),
});

const PORT = { name: 'id', in: 'path', description: 'A port', schema: z.uuid() } as const;

export const CAPTURE_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1/ports/{id}/captures',
    tag: 'Explain',
    summary: 'List the captures of a port that are under way',
    parameters: [PORT],
    answers: [
      {
        status: 200,
        description: 'The captures',
        content: {
          schema: capturesAnswerSchema,
          example: {
            items: [
              {
                id: '5f0b7a11-52b7-4f0e-8a2d-1c9b7a3e5d10',
                directions: ['in', 'out'],
                hostId: '0d8e2c3a-6f1b-4a7d-9c55-3e2f1a0b4c5d',
                since: '2026-01-01T12:00:00.000Z',
              },
            ],
          },
        },
      },
    ],
    failures: [404],
  },
  {
    method: 'post',
    path: '/v1/ports/{id}/captures',
    tag: 'Explain',
    summary: 'Capture what crosses a port',
    description:
      'The answer is a file of captured packets that goes on until the client goes, or until `count` or `seconds` say. Nothing of the capture outlives it.',
    parameters: [
      PORT,
      {
        name: 'direction',
        in: 'query',
        description: 'What comes into the device of the port, what leaves it, or both',
        schema: z.enum(['both', 'in', 'out']).default('both'),
      },
      {
        name: 'filter',
        in: 'query',
        description: 'A packet in words, as for traces: only packets like it, and their answers',
        schema: z.string(),
        example: 'udp 10.0.0.1 > 10.0.0.2:53',
      },
      { name: 'count', in: 'query', description: 'Ends after so many packets', schema: z.int().min(1), example: 1 },
      { name: 'seconds', in: 'query', description: 'Ends after so long', schema: z.int().min(1), example: 1 },
      {
        name: 'format',
        in: 'query',
        description: 'pcapng says of each packet in what direction it went, and how many were left out',
        schema: z.enum(['pcapng', 'pcap']).default('pcapng'),
      },
    ],
    answers: [
      {
        status: 200,
        description: 'Captured packets, as they come',
        content: { schema: z.string(), example: '', types: Object.values(TYPES) },
      },
    ],
    failures: [404, 429, 503],
  },
];

/** `/v1/ports/{id}/captures`: what crosses a port, anywhere. */
export function captureRoutes({ repository, closing, log }: ApiContext): Router {
  const agents = new AgentLink(repository.store);
  const places = new CallerPlaces('captures', CAPTURES_PER_CALLER);
  const router = Router();
  serve(router, '/ports/:id/captures', {
    get: async ({ request: { params, query }, response, scope, signal }) => {
      refuseOthers(query, []);
      const portId = parseId('id', params.id);
      await scope.require('port', portId);
      const items = await capturesOf(repository.store, portId, signal);
      response.json({ items: scope.isAdmin ? items : items.map(({ hostId: _, ...item }) => item) });
    },
    post: async ({ request: { params, query, socket }, response, scope, signal }) => {
      refuseOthers(query, PARAMETERS);
      const portId = parseId('id', params.id);
      const { object: port } = await scope.require('port', portId);
      const { format = 'pcapng' } = query;
      if (typeof format !== 'string' || !Object.hasOwn(TYPES, format)) {
        throw new InvalidInputError('format', format, `expected one of ${Object.keys(TYPES).join(', ')}`);
      }
      const asked = new URLSearchParams({ ...(query as Record<string, string>), format, port: portId });
      places.take(scope.caller);
      // It may take longer than other requests.
      const gone = new AbortController();
      response.once('close', () => {
        places.free(scope.caller);
        gone.abort();
      });
      const ends = closing === undefined ? gone.signal : AbortSignal.any([gone.signal, closing]);
      const packets = await openCapture(scope, agents, port, asked, signal, ends);
      // Nothing may come for any time.
      socket.setTimeout(0);
      response.set({ connection: 'close', 'cache-control': 'no-store' }).type(TYPES[format]);
      response.flushHeaders();
      try {
        await pipeline(packets, response, { signal: ends });
      } catch (error) {
        // The client sees that it has not come to its end.
        if (!ends.aborted) log.warn({ error: (error as Error).message, port: portId }, 'a capture was cut short');
        response.destroy();
      }
    },
  });
  return router;
}

/** The packets as they come. @param ends ends the capture, `signal` the search for an agent */
async function openCapture(
  scope: Scope,
  agents: AgentLink,
  port: Port,
  asked: URLSearchParams,
  signal: AbortSignal,
  ends: AbortSignal,
): Promise<IncomingMessage> {
  try {
    const hostId = await hostToAsk(scope.repository, agents, port, signal);
    return await agents.open(hostId, `/capture?${asked}`, ends);
  } catch (error) {
    throw concealHosts(scope, error);
  }
}

async function capturesOf(
  store: Store,
  portId: string,
  signal: AbortSignal,
): Promise<z.output<typeof capturesAnswerSchema>['items']> {
  const names = (await store.children(CAPTURES_PATH, { signal })) ?? [];
  const all = await readAhead(names, signal, async (name, signal): Promise<StoredCapture | undefined> => {
    const path = `${CAPTURES_PATH}/${name}`;
    const node = await store.get(path, { signal });
    return node && decodeJson(captureSchema, node.data, path);
  });
  const items = new Map<string, z.output<typeof capturesAnswerSchema>['items'][number]>();
  for (const capture of all) {
    if (capture?.portId !== portId) continue;
    const { captureId, direction, hostId, since } = capture;
    const directions = [...(items.get(captureId)?.directions ?? []), direction];
    items.set(captureId, { id: captureId, directions, hostId, since });
  }
  return [...items.values()];
}
