import * as z from 'zod';
import type { Content, ParameterDescription } from '../description/operation.js';
import { PLACES, WATCH_EVENTS } from './watch-routes.js';

/** How streams take the place of answers, in words. */

/** How an operation that reads objects is asked for a stream instead. */
export const WATCH_PARAMETERS: readonly ParameterDescription[] = [
  {
    name: 'watch',
    in: 'query',
    description: 'A stream of what there is and all that changes; so does `Accept: text/event-stream`.',
    schema: z.literal('true'),
  },
  ...PLACES,
];

/** The events of a stream. */
export const WATCH_CONTENT: Content = { schema: z.string(), types: ['text/event-stream'], example: WATCH_EVENTS };
