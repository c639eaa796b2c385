import { Router } from 'express';
import { MidonetError } from '../../errors.js';
import type { Locals } from '../app.js';
import type { AccessTokens } from './access-tokens.js';

/** `/access-tokens`: an admin makes, lists and deletes the tokens by which others show who they are. */
export function accessTokenRoutes(tokens: AccessTokens): Router {
  const router = Router();
  router.use('/access-tokens', (_request, response, next) => {
    const { caller } = response.locals as Locals;
    if (caller.role !== 'admin') throw new AdminOnlyError();
    next();
  });
  router.get('/access-tokens', async (_request, response) => {
    response.json({ items: await tokens.list(response.locals.signal) });
  });
  router.post('/access-tokens', async (request, response) => {
    const { caller, signal } = response.locals as Locals;
    const { accessToken, token } = await tokens.create(request.body, caller.name, signal);
    response.set('Cache-Control', 'no-store');
    response
      .status(201)
      .location(`/v1/access-tokens/${accessToken.id}`)
      .json({ ...accessToken, token });
  });
  router.get('/access-tokens/:id', async (request, response) => {
    const { id } = request.params;
    const accessToken = await tokens.get(id, response.locals.signal);
    if (accessToken === undefined) throw new NoSuchTokenError(id);
    response.json(accessToken);
  });
  router.delete('/access-tokens/:id', async (request, response) => {
    await tokens.delete(request.params.id, response.locals.signal);
    response.status(204).end();
  });
  return router;
}

class AdminOnlyError extends MidonetError {
  constructor() {
    super('MN_FORBIDDEN', 'only an admin sees and makes access tokens');
  }
}

class NoSuchTokenError extends MidonetError {
  constructor(id: string) {
    super('MN_NOT_FOUND', `no access token ${id}`);
  }
}
