import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import ava, { type ExecutionContext, type TestFn } from 'ava';
import { pino } from 'pino';
import { createApp } from '../../../src/api/app.js';
import { type Answer, ApiError, connectApi, type MidonetClient } from '../../../src/api/client/client.js';
import { readEvents } from '../../../src/api/client/event-stream.js';
import { EXAMPLES, type Example, exampleOf, OTHERS } from '../../../src/api/description/examples.js';
import type { OperationDescription } from '../../../src/api/description/operation.js';
import { COLLECTIONS, NESTED, segmentOf } from '../../../src/api/description/resources.js';
import { allOperations, openApiDocument } from '../../../src/api/document/openapi.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { KINDS, type Kind } from '../../../src/topology/types.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';

interface Context {
  nsdb: EmbeddedNsdb;
  app: ReturnType<typeof createApp>;
  server: Server;
  api: MidonetClient;
}
const test = ava as TestFn<Context>;

test.before(async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  const repository = new TopologyRepository(nsdb.store());
  await repository.initialize();
  const app = createApp({ repository, log: pino({ level: 'error' }) });
  const server = createServer(app);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const api = connectApi({ server: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  t.context = { nsdb, app, server, api };
});

test.after.always(async (t) => {
  const { nsdb, server, api } = t.context;
  api.close();
  server.close();
  await nsdb.close();
});

const document = openApiDocument();

test('the document is one of OpenAPI 3.1', async (t) => {
  const { valid, errors } = await new Validator().validate(JSON.parse(JSON.stringify(document)));
  t.true(valid, JSON.stringify(errors));
  const ids = Object.values(document.paths).flatMap((item) => Object.values(item) as { operationId: string }[]);
  t.is(new Set(ids.map(({ operationId }) => operationId)).size, ids.length);
});

/** What express keeps of its routes. */
interface Layer {
  readonly route?: { readonly path: string | string[]; readonly methods: Readonly<Record<string, boolean>> };
  readonly handle: { readonly stack?: readonly Layer[] };
  /** Where it is mounted. */
  readonly rawPath: string;
}

/** Methods and paths of everything below /v1 that a router serves. */
function routesOf(stack: readonly Layer[], prefix = ''): string[] {
  return stack.flatMap((layer) => {
    const { route, handle, rawPath } = layer;
    if (route !== undefined) {
      const paths = [route.path]
        .flat()
        .map((path) => `${prefix}${path}`.replace(/:(\w+)/g, '{$1}').replace(/(.)\/$/, '$1'));
      const methods = Object.keys(route.methods).filter((method) => method !== '_all');
      return paths.flatMap((path) => methods.map((method) => `${method} ${path}`));
    }
    return handle.stack === undefined ? [] : routesOf(handle.stack, rawPath === '/' ? prefix : `${prefix}${rawPath}`);
  });
}

test('every route is in the document, and every operation of the document is a route', (t) => {
  const { stack } = t.context.app.router as unknown as { stack: readonly Layer[] };
  const routes = routesOf(stack).filter((route) => / \/v1(\/|$)/.test(route));
  const described = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.keys(item).map((method) => `${method} ${path}`),
  );
  t.deepEqual(
    routes.filter((route) => !described.includes(route)),
    [],
    'not described',
  );
  t.deepEqual(
    described.filter((operation) => !routes.includes(operation)),
    [],
    'no route',
  );
});

const validators = new Ajv2020({ strict: false, validateFormats: false });
validators.addSchema({ $id: 'document', components: document.components });

/** Checks a value by the schema at the place of the document. */
function validator(path: string, method: string, ...steps: readonly string[]): ValidateFunction {
  let at = document.paths[path][method] as Record<string, unknown>;
  for (const step of steps) at = at[step] as Record<string, unknown>;
  const text = JSON.stringify(at.schema).replaceAll('"#/components', '"document#/components');
  return validators.compile(JSON.parse(text));
}

const shown = (check: ValidateFunction) => JSON.stringify(check.errors);

test('every example is as its schema says', (t) => {
  for (const { method, path, body, answers } of allOperations()) {
    const contents = [
      ...(body === undefined ? [] : [{ content: body, steps: ['requestBody'] }]),
      ...answers.flatMap(({ status, content }) =>
        content === undefined ? [] : [{ content, steps: ['responses', String(status)] }],
      ),
    ];
    for (const { content, steps } of contents) {
      for (const type of (content.types ?? ['application/json']).filter((one) => one.endsWith('json'))) {
        const check = validator(path, method, ...steps, 'content', type);
        t.true(check(JSON.parse(JSON.stringify(content.example))), `${method} ${path} ${steps}: ${shown(check)}`);
      }
    }
  }
});

/** Every example, each behind those that it names. */
function inOrder(): Example[] {
  const found = new Map<string, Example>();
  for (const kind of KINDS) for (const example of exampleOf(kind)) found.set(example.object.id, example);
  for (const example of OTHERS) found.set(example.object.id, example);
  return [...found.values()];
}

/**
 * The path with the ids of the examples, and parameters' own examples, in it.
 * @param made ids of what was made in other collections, by their paths
 */
function pathOf({ path, parameters = [] }: OperationDescription, made: ReadonlyMap<string, string>): string {
  const kind = COLLECTIONS.get(path.split('/')[2]);
  return path.replace(/\{(\w+)\}/g, (_, name: string) => {
    const given = parameters.find((one) => one.in === 'path' && one.name === name)?.example;
    if (given !== undefined) return encodeURIComponent(given);
    if (name === 'id' && kind !== undefined) return EXAMPLES[kind].id;
    const id = made.get(path.slice(0, path.indexOf('/{')));
    if (id !== undefined) return id;
    throw new Error(`${path}: ${name} has no example`);
  });
}

async function send(api: MidonetClient, operation: OperationDescription, made: Map<string, string>): Promise<Answer> {
  const { method, body, parameters = [] } = operation;
  const query = Object.fromEntries(
    parameters
      .filter((one) => one.in === 'query' && one.example !== undefined)
      .map(({ name, example }) => [name, example]),
  );
  const headers = body?.types === undefined ? undefined : { 'content-type': body.types[0] };
  const answer = await api.request(method.toUpperCase(), pathOf(operation, made), {
    query,
    headers,
    body: body?.example,
  });
  if (answer.status === 201) made.set(operation.path, (answer.body as { id: string }).id);
  return answer;
}

/**
 * Sends an example that makes an object below another, and deletes what it makes. Where it does not go with the example of its
 * kind, it is sent while that is not there.
 */
async function sendNested({ api, t }: Sender, operation: OperationDescription, kind: Kind): Promise<Answer> {
  const objects = api.collection(kind);
  const once = async () => {
    const answer = await send(api, operation, new Map());
    await objects.remove((answer.body as { id: string }).id);
    return answer;
  };
  try {
    return await once();
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 409) throw error;
    await objects.remove(EXAMPLES[kind].id);
    const answer = await once();
    await restore({ api, t });
    return answer;
  }
}

interface Sender {
  readonly api: MidonetClient;
  readonly t: ExecutionContext;
}

const LEARNED = 'get /v1/routers/{id}/learned-routes/{route}';

/** Makes what is missing of the examples. */
async function restore({ api, t }: Sender): Promise<void> {
  for (const { kind, object } of inOrder()) {
    const { status, body } = await api.request('POST', `/v1/${segmentOf(kind)}`, { body: object });
    t.true(status === 200 || status === 201, `${kind}: ${JSON.stringify(body)}`);
  }
}

test('what streams are said to go on from is what they give', async (t) => {
  const { api } = t.context;
  const stream = await api.stream('GET', '/v1/watch', { query: { kinds: 'bridge' } });
  let given: string | undefined;
  for await (const events of readEvents(stream)) {
    given = events.find(({ type }) => type === 'current')?.id;
    if (given !== undefined) break;
  }
  const places = allOperations().flatMap(({ parameters = [] }) =>
    parameters.filter(({ name }) => name === 'from' || name === 'Last-Event-ID'),
  );
  t.true(places.length > 2 * KINDS.length);
  for (const { schema } of places) t.true(typeof schema !== 'string' && schema.safeParse(given).success, given);
});

test('every example is accepted, and what comes back is as the document says', async (t) => {
  const { api } = t.context;
  await restore({ api, t });
  const operations = allOperations();
  const made = new Map<string, string>();
  // What names others goes before them.
  const last = operations.filter(({ method }) => method === 'delete').reverse();
  for (const operation of [...operations.filter(({ method }) => method !== 'delete'), ...last]) {
    const name = `${operation.method} ${operation.path}`;
    const isStream = operation.answers.some(({ content }) => content?.types?.some((type) => !type.endsWith('json')));
    const nested = NESTED.find(({ parent, segment }) => operation.path === `/v1/${segmentOf(parent)}/{id}/${segment}`);
    const isMade = nested !== undefined && operation.method === 'post';
    try {
      if (isStream) {
        const stream = await api.stream(operation.method.toUpperCase(), pathOf(operation, made), {
          body: operation.body?.example,
        });
        t.true(
          operation.answers.some(({ status }) => status === stream.statusCode),
          name,
        );
        stream.destroy();
        continue;
      }
      const { status, body } = await (isMade
        ? sendNested({ api, t }, operation, nested.row.kind)
        : send(api, operation, made));
      const answer = operation.answers.find((one) => one.status === status);
      if (answer === undefined) t.fail(`${name}: ${status}`);
      if (answer?.content === undefined) continue;
      const check = validator(
        operation.path,
        operation.method,
        'responses',
        String(status),
        'content',
        'application/json',
      );
      t.true(check(body), `${name}: ${shown(check)} ${JSON.stringify(body).slice(0, 500)}`);
    } catch (error) {
      // No agent runs here, and none has learned a route.
      const isMissing = error instanceof ApiError && (error.code === 'MN_AGENT_UNAVAILABLE' || name === LEARNED);
      if (!isMissing) t.fail(`${name}: ${error}`);
    }
  }
});

test('the page and all that it needs come from here', async (t) => {
  const { api } = t.context;
  const { headers, body } = await api.request('GET', '/docs');
  t.regex(String(headers['content-security-policy']), /default-src 'none'/);
  for (const [, address] of String(body).matchAll(/(?:src|href|spec-url)="([^"]*)"/g)) {
    if (address === 'data:,') continue;
    t.regex(address, /^\//);
    t.is((await api.request('GET', address)).status, 200);
  }
});
