import type { Request } from 'express';

const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS']);
/** What others than these methods ask for without changing anything. */
const PATHS: ReadonlySet<string> = new Set(['/v1/trace']);

/** Whether the request changes nothing, whatever comes of it. */
export function isReading({ method, originalUrl }: Request): boolean {
  return METHODS.has(method) || PATHS.has(originalUrl.split('?', 1)[0]);
}
