import {
  type ClientRequest,
  Agent as HttpAgent,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestOptions,
} from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { ERROR_CODES, type ErrorCode, InvalidInputError, MidonetError, TimeoutError } from '../../errors.js';
import type { Problem } from '../requests/problem.js';

/** Where an API server is, and who calls. */
export interface ConnectionOptions {
  /** `http://HOST:PORT`, `https://HOST:PORT`, either with a path before `/v1`, or `unix:PATH` of a socket. */
  readonly server: string;
  /** Bearer token. */
  readonly token?: string;
  /** PEM texts: who vouches for the server, instead of the authorities the system trusts, and who calls. */
  readonly tls?: { readonly ca?: string; readonly certificate?: string; readonly key?: string };
  /** How long an answer may take; 30,000 when absent. Of a stream it is the time until it begins. */
  readonly timeoutMs?: number;
}

export interface RequestParts {
  /** Values that are undefined are left out; a list repeats the name. */
  readonly query?: Readonly<Record<string, QueryValue>>;
  /** Sent as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

export type QueryValue = string | number | boolean | undefined | readonly (string | number)[];

/** An answer of status 200 to 399. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** What the JSON of the answer says, the text of anything else, undefined if there is nothing. */
  readonly body: unknown;
}

/** What the API server answered instead of what it was asked for. */
export class ApiError extends MidonetError {
  constructor(
    code: ErrorCode,
    message: string,
    readonly status: number,
    /** The field of the request that is at fault, and its value, where one is. */
    readonly field?: string,
    readonly value?: unknown,
    /** Seconds after which trying again may succeed. */
    readonly retryAfter?: number,
  ) {
    super(code, message);
  }
}

/** The API server cannot be reached. */
export class ApiUnavailableError extends MidonetError {
  constructor(server: string, cause: Error) {
    super('MN_API_UNAVAILABLE', `${server}: ${cause.message || 'no connection'}`, { cause });
  }
}

/** An answer could be endless: more than any page of objects takes is a fault of the server. */
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;
const DEFAULT_TIMEOUT_MS = 30_000;

/** Requests to one API server over connections that are kept for the next. */
export class ClientConnection {
  private readonly agent: HttpAgent;
  private readonly base: RequestOptions & { readonly prefix: string; readonly isTls: boolean };
  private readonly timeoutMs: number;

  /** @throws InvalidInputError naming the option */
  constructor(private readonly options: ConnectionOptions) {
    this.base = baseOf(options.server);
    this.timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const { ca, certificate, key } = options.tls ?? {};
    this.agent = this.base.isTls
      ? new HttpsAgent({ keepAlive: true, ca, cert: certificate, key })
      : new HttpAgent({ keepAlive: true });
  }

  /**
   * Waits its turn when the server says that there were too many requests, if that is in the time that an answer may take.
   * @throws ApiError, ApiUnavailableError, TimeoutError; the signal's reason
   */
  async request(method: string, path: string, parts: RequestParts = {}): Promise<Answer> {
    const late = AbortSignal.timeout(this.timeoutMs);
    const end = performance.now() + this.timeoutMs;
    for (;;) {
      try {
        const answer = await this.send(method, path, parts, late);
        const text = await textOf(answer);
        return { status: answer.statusCode!, headers: answer.headers, body: bodyOf(answer, text) };
      } catch (error) {
        const fault = this.fault(error, `${method} ${path}`, parts.signal, late);
        const pause = pauseAfter(fault);
        if (pause === undefined || performance.now() + pause > end) throw fault;
        await delay(pause, undefined, { signal: parts.signal });
      }
    }
  }

  /**
   * An answer that is read as it comes; destroying it ends the request.
   * @throws ApiError, ApiUnavailableError, TimeoutError; the signal's reason
   */
  async stream(method: string, path: string, parts: RequestParts = {}): Promise<IncomingMessage> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), this.timeoutMs);
    try {
      return await this.send(method, path, parts, late.signal);
    } catch (error) {
      throw this.fault(error, `${method} ${path}`, parts.signal, late.signal);
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    this.agent.destroy();
  }

  /** The answer once it begins, if it is no error. */
  private async send(
    method: string,
    path: string,
    { query, body, headers, signal }: RequestParts,
    late: AbortSignal,
  ): Promise<IncomingMessage> {
    signal?.throwIfAborted();
    const { prefix, isTls, ...address } = this.base;
    const content = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const { token, server } = this.options;
    const options: RequestOptions = {
      ...address,
      agent: this.agent,
      method,
      path: `${prefix}${path}${queryText(query)}`,
      headers: {
        accept: 'application/json',
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
        ...(content !== undefined && { 'content-type': 'application/json', 'content-length': content.length }),
        ...headers,
      },
    };
    const ends = signal === undefined ? late : AbortSignal.any([signal, late]);
    const answer = await begin(() => (isTls ? httpsRequest(options) : httpRequest(options)), content, method, ends);
    if (answer.statusCode! < 400) return answer;
    throw errorOf(server, answer, await textOf(answer));
  }

  /** What the caller is told of an error. */
  private fault(error: unknown, what: string, signal: AbortSignal | undefined, late: AbortSignal): unknown {
    if (signal?.aborted) return signal.reason;
    if (late.aborted) return new TimeoutError(what, this.timeoutMs);
    return error instanceof MidonetError ? error : new ApiUnavailableError(this.options.server, error as Error);
  }
}

/**
 * The head of the answer. A kept connection may be closed by the server just when it is used again: what changes nothing when
 * it happens twice is then sent once more.
 */
async function begin(
  open: () => ClientRequest,
  content: Buffer | undefined,
  method: string,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  for (;;) {
    const request = open();
    let answer: IncomingMessage | undefined;
    // Not by the option of the same name: that ends connections of requests that are over, with an error that nobody awaits.
    const end = () => (answer === undefined ? request.destroy(new Error('given up')) : answer.destroy());
    signal.addEventListener('abort', end);
    request.once('close', () => signal.removeEventListener('abort', end));
    try {
      answer = await new Promise<IncomingMessage>((resolve, reject) => {
        request.once('response', resolve);
        // Also behind the head of the answer, when whoever reads it is told.
        request.on('error', reject);
        request.end(content);
      });
      return answer;
    } catch (error) {
      const isStale = request.reusedSocket && (error as NodeJS.ErrnoException).code === 'ECONNRESET';
      if (!isStale || method === 'POST') throw error;
    }
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of answer as AsyncIterable<Buffer>) {
    parts.push(part);
    size += part.length;
    if (size > MAX_ANSWER_BYTES) throw new MidonetError('MN_PROTOCOL', 'answer: expected less than 256 MB');
  }
  return Buffer.concat(parts).toString();
}

function bodyOf({ headers }: IncomingMessage, text: string): unknown {
  if (text === '') return undefined;
  if (!/^application\/([\w.-]+\+)?json\b/.test(headers['content-type'] ?? '')) return text;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new MidonetError('MN_PROTOCOL', `answer: expected JSON, got ${text.slice(0, 100)}`, { cause });
  }
}

function errorOf(server: string, answer: IncomingMessage, text: string): MidonetError {
  const status = answer.statusCode!;
  const problem = bodyOf(answer, text) as Partial<Problem> | string | undefined;
  if (typeof problem !== 'object' || typeof problem.detail !== 'string' || !isCode(problem.code)) {
    const fault = `expected a problem document, got status ${status}: ${text.slice(0, 200)}`;
    // Of a proxy before the server, which it does not reach.
    if (status >= 500) return new ApiUnavailableError(server, new Error(fault));
    return new MidonetError('MN_PROTOCOL', `answer: ${fault}`);
  }
  const retryAfter = Number(answer.headers['retry-after'] ?? Number.NaN);
  return new ApiError(
    problem.code,
    problem.detail,
    status,
    problem.field,
    problem.value,
    Number.isNaN(retryAfter) ? undefined : retryAfter,
  );
}

function isCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(ERROR_CODES, code);
}

/** @throws InvalidInputError */
function baseOf(server: string): RequestOptions & { prefix: string; isTls: boolean } {
  if (server.startsWith('unix:/')) return { socketPath: server.slice('unix:'.length), prefix: '', isTls: false };
  const url = URL.canParse(server) ? new URL(server) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.search !== '' || url.username !== '') {
    throw new InvalidInputError('server', server, 'expected http://HOST:PORT, https://HOST:PORT or unix:/PATH');
  }
  const isTls = url.protocol === 'https:';
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? (isTls ? 443 : 80) : Number(url.port),
    prefix: url.pathname.replace(/\/+$/, ''),
    isTls,
  };
}

/** Milliseconds after which a request that was not carried out may be made again; undefined when it was refused for good. */
function pauseAfter(fault: unknown): number | undefined {
  if (!(fault instanceof ApiError) || fault.status !== 429 || fault.retryAfter === undefined) return undefined;
  return fault.retryAfter * 1000;
}

function queryText(query: RequestParts['query'] = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined) continue;
    for (const one of typeof value === 'object' ? value : [value]) parameters.append(name, String(one));
  }
  const text = parameters.toString();
  return text === '' ? '' : `?${text}`;
}
