import type { IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { z } from 'zod';
import { MidonetError } from '../../errors.js';
import { KINDS, type Kind, type SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { segmentOf } from '../description/resources.js';
import {
  type Answer,
  ApiError,
  ClientConnection,
  type ConnectionOptions,
  type RequestParts,
} from './client-connection.js';
import { readEvents } from './event-stream.js';

export * from './client-connection.js';

/** An object as the API tells it, and the version to name when it is to be changed or deleted in just that version. */
export interface Stored<K extends Kind> {
  readonly object: TopologyTypes[K];
  readonly etag: string;
}

/** What an object is made of. Without an id it gets a random one; a rule without a position goes behind the others. */
export type InputOf<K extends Kind> = Loose<z.input<(typeof SCHEMAS)[K]>>;
type Loose<T> = T extends unknown ? Omit<T, Free & keyof T> & Partial<Pick<T, Free & keyof T>> : never;
type Free = 'id' | 'position';

/** Fields to set; null takes a field away (RFC 7396). */
export type PatchOf<K extends Kind> = Patch<z.input<(typeof SCHEMAS)[K]>>;
type Patch<T> = T extends unknown ? { [F in keyof T]?: T[F] | null } : never;

/** Values that fields of the objects must have, as in `{bridgeId, adminStateUp: true}`. */
export type Filter = Readonly<Record<string, string | number | boolean | undefined>>;

export interface WriteOptions {
  /** Only if the object is still in this version, else MN_PRECONDITION_FAILED. */
  readonly ifMatch?: string;
  /** Also if it is a port that has an owner. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
}

/** One change of several that are made together or not at all. */
export type BatchOperation = {
  [K in Kind]:
    | { readonly op: 'create'; readonly kind: K; readonly id?: string; readonly body: InputOf<K> }
    | {
        readonly op: 'replace';
        readonly kind: K;
        readonly id: string;
        readonly ifMatch?: string;
        readonly force?: boolean;
        readonly body: InputOf<K>;
      }
    | {
        readonly op: 'patch';
        readonly kind: K;
        readonly id: string;
        readonly ifMatch?: string;
        readonly force?: boolean;
        readonly body: PatchOf<K>;
      }
    | {
        readonly op: 'delete';
        readonly kind: K;
        readonly id: string;
        readonly ifMatch?: string;
        readonly force?: boolean;
      };
}[Kind];

/** What became of one change of a batch. */
export type BatchResult = {
  [K in Kind]: {
    readonly kind: K;
    readonly id: string;
    /** `unchanged`: all was so before. */
    readonly result: 'created' | 'changed' | 'unchanged' | 'deleted';
    /** As it was right after, with its version; absent when it was deleted. */
    readonly etag?: string;
    readonly object?: TopologyTypes[K];
  };
}[Kind];

/** What a stream of changes tells. */
export type WatchEvent<K extends Kind = Kind> =
  | {
      [P in K]: { readonly type: 'put'; readonly kind: P; readonly object: TopologyTypes[P]; readonly etag: string };
    }[K]
  | { readonly type: 'delete'; readonly kind: K; readonly id: string }
  /** All there was has been told; what follows are changes. */
  | { readonly type: 'current' }
  /** What was told before is to be forgotten: everything is told anew. */
  | { readonly type: 'reset' };

export interface WatchOptions {
  readonly filter?: Filter;
  readonly signal?: AbortSignal;
  /** Called when the stream breaks off, or cannot be had, once until it goes on; undefined when the server has ended it. */
  readonly onBreak?: (error: Error | undefined) => void;
}

/** The objects of one kind. All methods reject with ApiError, ApiUnavailableError or TimeoutError. */
export class Collection<K extends Kind> {
  private readonly path: string;

  constructor(
    private readonly client: ApiClient,
    readonly kind: K,
  ) {
    this.path = `/v1/${segmentOf(kind)}`;
  }

  async create(input: InputOf<K>, signal?: AbortSignal): Promise<Stored<K>> {
    return storedIn(await this.client.request('POST', this.path, { body: input, signal }));
  }

  /** The object, or undefined if there is none. */
  async get(id: string, signal?: AbortSignal): Promise<Stored<K> | undefined> {
    try {
      return storedIn(await this.client.request('GET', this.pathOf(id), { signal }));
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return undefined;
      throw error;
    }
  }

  /** All objects that the filter lets through, page by page: what comes or goes meanwhile may be told or not. */
  list(filter: Filter = {}, signal?: AbortSignal): AsyncGenerator<TopologyTypes[K], void> {
    return this.client.pages(this.path, filter, signal);
  }

  /** Put an object in the place of the one with its id, or make it if there is none. */
  async replace(id: string, input: InputOf<K>, { ifMatch, force, signal }: WriteOptions = {}): Promise<Stored<K>> {
    const headers = conditions(ifMatch);
    return storedIn(
      await this.client.request('PUT', this.pathOf(id), { body: input, headers, query: { force }, signal }),
    );
  }

  /** Change some fields; what others change meanwhile is not lost. */
  async patch(id: string, patch: PatchOf<K>, { ifMatch, force, signal }: WriteOptions = {}): Promise<Stored<K>> {
    const headers = { 'content-type': 'application/merge-patch+json', ...conditions(ifMatch) };
    return storedIn(
      await this.client.request('PATCH', this.pathOf(id), { body: patch, headers, query: { force }, signal }),
    );
  }

  /** Also when there is none, unless a version is given. */
  async remove(id: string, { ifMatch, force, signal }: WriteOptions = {}): Promise<void> {
    await this.client.request('DELETE', this.pathOf(id), { headers: conditions(ifMatch), query: { force }, signal });
  }

  /** What there is and then every change, until the signal ends it. */
  watch(options: WatchOptions = {}): AsyncGenerator<WatchEvent<K>, void> {
    return this.client.follow(this.path, options) as AsyncGenerator<WatchEvent<K>, void>;
  }

  private pathOf(id: string): string {
    return `${this.path}/${encodeURIComponent(id)}`;
  }
}

/** `bridges`, `addressPools` and so on: the name of a kind's collection in TypeScript. */
export type CollectionName<K extends Kind> = Camel<Plural<K>>;
type Plural<K extends string> = K extends `${infer Stem}y` ? `${Stem}ies` : `${K}s`;
type Camel<K extends string> = K extends `${infer Head}-${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : K;

export type Collections = { readonly [K in Kind as CollectionName<K>]: Collection<K> };

/** The REST API as functions. */
export class ApiClient {
  private readonly connection: ClientConnection;

  /** @throws InvalidInputError naming the option */
  constructor(options: ConnectionOptions) {
    this.connection = new ClientConnection(options);
  }

  collection<K extends Kind>(kind: K): Collection<K> {
    return new Collection(this, kind);
  }

  /** Names of the tenants that have something; for all but an admin, of the own one. */
  async *tenants(signal?: AbortSignal): AsyncGenerator<string, void> {
    for await (const { id } of this.pages<{ id: string }>('/v1/tenants', {}, signal)) yield id;
  }

  /** The items of a collection, page by page. */
  async *pages<T>(path: string, filter: Filter, signal?: AbortSignal): AsyncGenerator<T, void> {
    let after: string | undefined;
    do {
      const query = { ...filter, limit: PAGE_SIZE, after };
      const { body } = await this.request('GET', path, { query, signal });
      const page = body as { items: T[]; next?: string };
      yield* page.items;
      after = page.next;
    } while (after !== undefined);
  }

  /** For what has no function of its own. `path` begins with `/v1`. */
  request(method: string, path: string, parts?: RequestParts): Promise<Answer> {
    return this.connection.request(method, path, parts);
  }

  /** An answer that is read as it comes; destroying it ends the request. */
  stream(method: string, path: string, parts?: RequestParts): Promise<IncomingMessage> {
    return this.connection.stream(method, path, parts);
  }

  /** All of the changes or none. @returns what became of each, in order */
  async batch(operations: readonly BatchOperation[], signal?: AbortSignal): Promise<BatchResult[]> {
    const { body } = await this.request('POST', '/v1/batch', { body: { operations }, signal });
    return (body as { results: BatchResult[] }).results;
  }

  /** What there is of some kinds and then every change, until the signal ends it. */
  watch<K extends Kind>(kinds: readonly K[], options: WatchOptions = {}): AsyncGenerator<WatchEvent<K>, void> {
    const filter = { ...options.filter, kinds: kinds.join(',') };
    return this.follow('/v1/watch', { ...options, filter }) as AsyncGenerator<WatchEvent<K>, void>;
  }

  /**
   * A stream of changes, taken up where it was when it breaks off.
   * @throws ApiError when the server refuses it
   */
  async *follow(path: string, { filter, signal, onBreak }: WatchOptions = {}): AsyncGenerator<WatchEvent, void> {
    let lastId: string | undefined;
    let failures = 0;
    while (!signal?.aborted) {
      const silence = new AbortController();
      const timer = setTimeout(() => silence.abort(), SILENCE_MS);
      const ends = signal === undefined ? silence.signal : AbortSignal.any([signal, silence.signal]);
      let fault: Error | undefined;
      try {
        const headers = { accept: 'text/event-stream', ...(lastId !== undefined && { 'last-event-id': lastId }) };
        const stream = await this.stream('GET', path, { query: filter, headers, signal: ends });
        for await (const events of readEvents(stream)) {
          timer.refresh();
          failures = 0;
          for (const { type, data, id } of events) {
            if (signal?.aborted) return;
            if (isEventType(type)) yield { ...parseData(data), type } as WatchEvent;
            lastId = id ?? lastId;
          }
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (isFinal(error)) throw error;
        fault = error as Error;
      } finally {
        clearTimeout(timer);
        // Whoever takes no more events ends the generator while the request is under way.
        silence.abort();
      }
      if (failures === 0 && !signal?.aborted) onBreak?.(fault);
      failures++;
      await delay(Math.min(RETRY_MS * 2 ** (failures - 1), MAX_RETRY_MS), undefined, { signal }).catch(() => undefined);
    }
  }

  close(): void {
    this.connection.close();
  }
}

/** A client with a property for each collection, as in `client.bridges.create({name: 'web'})`. */
export type MidonetClient = ApiClient & Collections;

/** @throws InvalidInputError naming the option */
export function connectApi(options: ConnectionOptions): MidonetClient {
  const client = new ApiClient(options);
  return Object.assign(
    client,
    Object.fromEntries(KINDS.map((kind) => [propertyOf(kind), client.collection(kind)])) as Collections,
  );
}

const PAGE_SIZE = 1000;
/** Streams have a sign of life every 15 s. */
const SILENCE_MS = 45_000;
const RETRY_MS = 200;
const MAX_RETRY_MS = 5000;

function propertyOf(kind: Kind): string {
  return segmentOf(kind).replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function storedIn<K extends Kind>({ headers, body }: Answer): Stored<K> {
  if (typeof body !== 'object' || headers.etag === undefined) {
    throw new MidonetError('MN_PROTOCOL', 'answer: expected an object and its etag');
  }
  return { object: body as TopologyTypes[K], etag: headers.etag };
}

function conditions(ifMatch: string | undefined): Record<string, string> {
  return ifMatch === undefined ? {} : { 'if-match': ifMatch };
}

function isEventType(type: string): type is WatchEvent['type'] {
  return type === 'put' || type === 'delete' || type === 'current' || type === 'reset';
}

function parseData(text: string): object {
  try {
    return JSON.parse(text) as object;
  } catch (cause) {
    throw new MidonetError('MN_PROTOCOL', `event: expected JSON, got ${text.slice(0, 100)}`, { cause });
  }
}

/** Whether asking again would be answered alike. */
function isFinal(error: unknown): boolean {
  if (!(error instanceof ApiError)) return error instanceof MidonetError && error.code === 'MN_PROTOCOL';
  return error.status < 500 && error.status !== 408 && error.status !== 429;
}
