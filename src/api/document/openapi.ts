import { createRequire } from 'node:module';
import { ERROR_CODES, type ErrorCode } from '../../errors.js';
import { ACCESS_TOKEN_OPERATIONS } from '../authentication/access-token-routes.js';
import { componentSchemas, type JsonSchema, jsonSchemaOf, schemaRef } from '../description/openapi-schemas.js';
import type { Content, OperationDescription, ParameterDescription, Schema } from '../description/operation.js';
import { CAPTURE_OPERATIONS } from '../explain/capture-routes.js';
import { FLOW_OPERATIONS } from '../explain/flow-routes.js';
import { TRACE_OPERATIONS } from '../explain/trace-routes.js';
import { BATCH_OPERATIONS } from '../objects/batch-routes.js';
import { entryOperations } from '../objects/entry-operations.js';
import { objectOperations } from '../objects/object-operations.js';
import { PROBLEM_TYPE } from '../requests/problem.js';
import { STATUS_OPERATIONS } from '../status/status-routes.js';
import { SUPPORT_BUNDLE_OPERATIONS } from '../status/support-bundle-routes.js';
import { WATCH_OPERATIONS } from '../watch/watch-routes.js';

const { version } = createRequire(import.meta.url)('#package') as { version: string };

/** Every operation of the API. */
export function allOperations(): OperationDescription[] {
  return [
    ...DOCUMENT_OPERATIONS,
    ...objectOperations(),
    ...entryOperations(),
    ...BATCH_OPERATIONS,
    ...TRACE_OPERATIONS,
    ...STATUS_OPERATIONS,
    ...SUPPORT_BUNDLE_OPERATIONS,
    ...FLOW_OPERATIONS,
    ...CAPTURE_OPERATIONS,
    ...WATCH_OPERATIONS,
    ...ACCESS_TOKEN_OPERATIONS,
  ];
}

/** The API in words of OpenAPI 3.1. */
export function openApiDocument(): OpenApiDocument {
  const operations = allOperations();
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of operations) {
    paths[operation.path] ??= {};
    paths[operation.path][operation.method] = operationObject(operation);
  }
  const schemas = componentSchemas();
  return {
    openapi: '3.1.0',
    info: { title: 'MidoNet', version, description: INTRODUCTION, license: LICENSE },
    servers: [{ url: '/' }],
    security: [{ bearer: [] }, { certificate: [] }, {}],
    tags: [...new Set(operations.map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: { schemas, responses: failureResponses(), securitySchemes: SECURITY_SCHEMES },
  };
}

/** As far as it is looked into here and in tests. */
export interface OpenApiDocument {
  readonly openapi: string;
  readonly info: object;
  readonly servers: readonly object[];
  readonly security: readonly object[];
  readonly tags: readonly { readonly name: string }[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly components: {
    readonly schemas: Readonly<Record<string, JsonSchema>>;
    readonly responses: object;
    readonly securitySchemes: object;
  };
}

const INTRODUCTION = `Virtual networks: bridges, routers, their ports, firewalls and load balancers.

Everything is JSON. Objects have an id, a UUID, which whoever makes them may choose; they name each other by their ids. Answers with
an object have its version in \`ETag\`; a change that says \`If-Match\` happens to that version or not at all. Collections come in
pages. A collection or object that is asked for with \`Accept: text/event-stream\` is told, and then all that changes.

Whatever goes wrong is told as a problem document (RFC 9457) with a \`code\` that does not change, and names the field that is at
fault. What belongs to another tenant does not exist.`;

const LICENSE = { name: 'Apache-2.0', identifier: 'Apache-2.0' };

const SECURITY_SCHEMES = {
  bearer: {
    type: 'http',
    scheme: 'bearer',
    description: 'An access token, or the token of a Kubernetes service account.',
  },
  certificate: { type: 'mutualTLS', description: 'A client certificate.' },
};

const DOCUMENT_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1/openapi.json',
    tag: 'API',
    summary: 'Get this document',
    answers: [
      { status: 200, description: 'OpenAPI 3.1.', content: { schema: 'OpenApi', example: { openapi: '3.1.0' } } },
    ],
  },
];

/** Failures that have nothing to do with what is asked for. */
const ANY_TIME = [401, 403, 429, 500, 503, 504];

const FAILURES: Readonly<
  Record<number, { readonly description: string; readonly code: ErrorCode; readonly fault?: object }>
> = {
  400: {
    description: 'A field or parameter is wrong: `field` names it, `value` is what it was.',
    code: 'MN_INVALID_INPUT',
    fault: {
      detail: 'mac: expected a MAC address such as 02:00:00:00:00:01, got "02:00"',
      field: 'mac',
      value: '02:00',
    },
  },
  401: { description: 'The request does not say who makes it.', code: 'MN_UNAUTHENTICATED' },
  403: { description: 'The caller may not do that.', code: 'MN_FORBIDDEN' },
  404: { description: 'There is no such object, or one that it names is not there.', code: 'MN_NOT_FOUND' },
  405: { description: 'Not with this method; `Allow` lists those that are.', code: 'MN_UNSUPPORTED' },
  409: { description: 'It does not go with what is there.', code: 'MN_CONFLICT' },
  412: { description: 'The object is in another version.', code: 'MN_PRECONDITION_FAILED' },
  413: { description: 'The body is too large.', code: 'MN_TOO_LARGE' },
  415: { description: 'The body is not in a media type that is read here.', code: 'MN_UNSUPPORTED' },
  429: { description: 'Too many requests: `Retry-After` says when to try again.', code: 'MN_TOO_MANY_REQUESTS' },
  500: { description: 'A fault of the server, whose log says more.', code: 'MN_INTERNAL' },
  503: { description: 'The database, or an agent that would know, is not there now.', code: 'MN_STORE_UNAVAILABLE' },
  504: { description: 'It took too long; what was to be changed may be changed.', code: 'MN_TIMEOUT' },
  507: { description: 'The database takes no more.', code: 'MN_STORE_FULL' },
};

function failureResponses(): Record<string, object> {
  const entries = Object.entries(FAILURES).map(([status, { description, code, fault }]) => {
    const title = description.split(/[:;,.]/)[0];
    const example = {
      type: `urn:midonet:error:${code}`,
      title,
      status: Number(status),
      code,
      detail: ERROR_CODES[code],
      ...fault,
    };
    return [
      `Failure${status}`,
      { description, content: { [PROBLEM_TYPE]: { schema: schemaRef('Problem'), example } } },
    ];
  });
  return Object.fromEntries(entries);
}

function operationObject({
  method,
  path,
  tag,
  summary,
  description,
  parameters = [],
  body,
  answers,
  failures = [],
}: OperationDescription): object {
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
  const undescribed = inPath.filter((name) => !parameters.some((one) => one.in === 'path' && one.name === name));
  const isRefused = body !== undefined ? [400, 413, 415] : [400];
  const statuses = [...new Set([...isRefused, ...ANY_TIME, ...failures])].sort((a, b) => a - b);
  return {
    operationId: `${method}${path.replace(/^\/v1/, '').replace(/[^A-Za-z0-9]+(\w?)/g, (_, letter: string) => letter.toUpperCase())}`,
    tags: [tag],
    summary,
    ...(description !== undefined && { description }),
    parameters: [...undescribed.map(pathParameter), ...parameters.map(parameterObject)],
    ...(body !== undefined && { requestBody: { required: true, content: contentObject(body) } }),
    responses: {
      ...Object.fromEntries(answers.map((answer) => [answer.status, answerObject(answer)])),
      ...Object.fromEntries(statuses.map((status) => [status, { $ref: `#/components/responses/Failure${status}` }])),
    },
  };
}

function answerObject({ description, content, alternative, headers }: OperationDescription['answers'][number]): object {
  const described = Object.entries(headers ?? {}).map(
    ([name, text]) => [name, { description: text, schema: { type: 'string' } }] as const,
  );
  return {
    description,
    ...(content !== undefined && {
      content: { ...contentObject(content), ...(alternative && contentObject(alternative)) },
    }),
    ...(described.length > 0 && { headers: Object.fromEntries(described) }),
  };
}

function contentObject({ schema, example, types = ['application/json'] }: Content): Record<string, object> {
  return Object.fromEntries(types.map((type) => [type, { schema: schemaObject(schema), example }]));
}

function pathParameter(name: string): object {
  const format = /^(id|\w+Id)$/.test(name) ? { format: 'uuid' } : {};
  return { name, in: 'path', required: true, schema: { type: 'string', ...format } };
}

function parameterObject({
  name,
  in: place,
  description,
  schema,
  required = place === 'path',
  example,
}: ParameterDescription): object {
  const rest = { description, required, schema: schemaObject(schema) };
  return { name, in: place, ...rest, ...(example !== undefined && { example }) };
}

function schemaObject(schema: Schema): JsonSchema {
  return typeof schema === 'string' ? schemaRef(schema) : jsonSchemaOf(schema);
}
