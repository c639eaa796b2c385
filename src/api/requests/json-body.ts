import type { IncomingMessage } from 'node:http';
import express, { type RequestHandler } from 'express';
import { InvalidInputError } from '../../errors.js';
import { MediaTypeError } from '../tenancy/request-errors.js';

/** What bodies may be written in. */
const JSON_TYPES = ['application/json', 'application/merge-patch+json'];

/** Deeper than anything the schemas know; checking a deeper value could overflow the stack. */
const MAX_DEPTH = 64;

/** Reads bodies of at most `limit`, such as '1mb', into `request.body`; undefined where there is none. */
export function jsonBodies(limit: string): RequestHandler[] {
  // Express takes nothing at all for an object without fields.
  const empty = new WeakSet<IncomingMessage>();
  const verify = (request: IncomingMessage, _response: unknown, content: Buffer) => {
    if (content.length === 0) empty.add(request);
  };
  return [
    express.json({ limit, strict: false, type: JSON_TYPES, verify }),
    (request, _response, next) => {
      if (empty.has(request)) request.body = undefined;
      // Null: there is no body. An empty one needs no type.
      const isEmpty = request.get('content-length') === '0';
      if (!isEmpty && request.is(JSON_TYPES) === false)
        throw new MediaTypeError(request.get('content-type'), JSON_TYPES);
      checkDepth(request.body);
      next();
    },
  ];
}

/** @throws InvalidInputError */
function checkDepth(body: unknown): void {
  let level: unknown[] = [body];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) throw new InvalidInputError('body', '…', `expected at most ${MAX_DEPTH} levels`);
    level = level.flatMap((value) => (typeof value === 'object' && value !== null ? Object.values(value) : []));
  }
}
