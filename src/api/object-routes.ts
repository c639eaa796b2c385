import { Router } from 'express';
import { InvalidInputError } from '../errors.js';
import { ObjectNotFoundError } from '../nsdb/topology-errors.js';
import { KINDS, type Kind } from '../topology/types.js';
import type { ApiContext } from './app.js';
import { segmentOf } from './resources.js';

/** `/v1/KINDs` and `/v1/KINDs/{id}`: objects are listed, made, read, replaced, changed and deleted alike whatever they are. */
export function objectRoutes({ repository }: ApiContext): Router {
  const router = Router();
  for (const kind of KINDS) {
    const collection = `/${segmentOf(kind)}`;
    router.get(collection, async (_request, response) => {
      const ids = await repository.list(kind, response.locals.signal);
      const items = await Promise.all(ids.map((id) => repository.get(kind, id, response.locals.signal)));
      response.json({ items: items.flatMap((item) => (item === undefined ? [] : [item.object])) });
    });
    router.post(collection, async (request, response) => {
      const object = await repository.create(kind, bodyOf(request.body), response.locals.signal);
      response.status(201).location(`${collection}/${object.id}`).json(object);
    });
    router.get(`${collection}/:id`, async (request, response) => {
      const found = await repository.get(kind, idOf(request.params.id), response.locals.signal);
      if (found === undefined) throw new ObjectNotFoundError(kind, request.params.id);
      response.json(found.object);
    });
    router.delete(`${collection}/:id`, async (request, response) => {
      await repository.delete(kind, idOf(request.params.id), response.locals.signal);
      response.status(204).end();
    });
  }
  return router;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** @throws InvalidInputError */
function idOf(text: string): string {
  if (!UUID.test(text)) throw new InvalidInputError('id', text, 'expected a UUID');
  return text;
}

function bodyOf<K extends Kind>(
  body: unknown,
): Parameters<ApiContext['repository']['create']>[1] & { id: string; kind?: K } {
  return body as never;
}
