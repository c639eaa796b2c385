import type { z } from 'zod';

/**
 * One operation of the API in words. A file of routes exports those of its routes, and openapi.ts makes the document of all of
 * them: a route that nobody describes fails the tests.
 */
export interface OperationDescription {
  readonly method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  /** With the parameters as the document writes them: `/v1/bridges/{id}`. */
  readonly path: string;
  /** What the page lists it under: a kind of object, or a topic such as `Watch`. */
  readonly tag: string;
  /** Some words, without a full stop. */
  readonly summary: string;
  /** Sentences, in CommonMark. */
  readonly description?: string;
  /** Of the query, of headers, and those of the path that need more words than their names. */
  readonly parameters?: readonly ParameterDescription[];
  readonly body?: Content;
  readonly answers: readonly AnswerDescription[];
  /** Statuses of failures besides those that every operation of its method may have. */
  readonly failures?: readonly number[];
}

export interface ParameterDescription {
  readonly name: string;
  readonly in: 'query' | 'path' | 'header';
  readonly description: string;
  readonly schema: Schema;
  /** Those of the path always are. */
  readonly required?: boolean;
  readonly example?: string | number | boolean;
}

export interface Content {
  readonly schema: Schema;
  /** One that the API takes or gives. */
  readonly example: unknown;
  /** `application/json` when absent. */
  readonly types?: readonly string[];
}

export interface AnswerDescription {
  readonly status: number;
  readonly description: string;
  readonly content?: Content;
  /** What comes instead for those who accept only that. */
  readonly alternative?: Content;
  /** Names of headers that come with it, and what they say. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** What validates it, or the name of one of the document's own schemas: `Bridge`, `BridgeInput`, `BridgePage`, `Problem`. */
export type Schema = z.ZodType | string;
