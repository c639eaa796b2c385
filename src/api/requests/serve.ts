import type { IRouter, Request, Response } from 'express';
import { MethodNotAllowedError } from '../tenancy/request-errors.js';
import type { Scope } from '../tenancy/tenancy.js';
import type { Locals } from './context.js';

/** A request under way. */
export interface Call {
  readonly request: Request;
  readonly response: Response;
  /** What the caller may see and change. */
  readonly scope: Scope;
  readonly signal: AbortSignal;
}

export type Handler = (call: Call) => Promise<void> | void;

/** What is done by which method. */
export interface Handlers {
  readonly get?: Handler;
  readonly post?: Handler;
  readonly put?: Handler;
  readonly patch?: Handler;
  readonly delete?: Handler;
}

const METHODS = ['get', 'post', 'put', 'patch', 'delete'] as const;

/** Serve a path of a router. Methods that are not among those given are refused. */
export function serve(router: IRouter, path: string, handlers: Handlers): void {
  const route = router.route(path);
  for (const method of METHODS) {
    const handler = handlers[method];
    if (handler === undefined) continue;
    route[method](async (request: Request, response: Response) => {
      const { scope, signal } = response.locals as Locals;
      await handler({ request, response, scope, signal });
    });
  }
  const allowed = METHODS.filter((method) => handlers[method] !== undefined).map((method) => method.toUpperCase());
  route.all((request: Request, response: Response) => {
    response.set('Allow', ['OPTIONS', ...allowed, ...(handlers.get ? ['HEAD'] : [])].join(', '));
    if (request.method !== 'OPTIONS')
      throw new MethodNotAllowedError(request.method, request.baseUrl + request.path, allowed);
    response.status(204).end();
  });
}

/** A parameter of the path. */
export function parameter({ request }: Call, name: string): string {
  const value = request.params[name];
  // Only of a path with a wildcard it is a list.
  return Array.isArray(value) ? value.join('/') : value;
}
