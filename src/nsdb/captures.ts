import * as z from 'zod';
import { conditionSchema } from '../topology/chains.js';
import { MAX_TUNNEL_KEY } from '../topology/devices.js';

/**
 * What the ephemeral node of a capture holds, see capturePath in layout.ts: all hosts send a host copies of what crosses a port in one direction,
 * for as long as the agent there keeps the node.
 */
export const captureSchema = z.object({
  /** Captures of both directions have two nodes. */
  captureId: z.uuid(),
  portId: z.uuid(),
  /** Into the device of the port, or out of it. */
  direction: z.enum(['in', 'out']),
  /** Where the copies go. */
  hostId: z.uuid(),
  tunnelKey: z.int().min(1).max(MAX_TUNNEL_KEY),
  /** What one of them matches is copied. */
  conditions: z.array(conditionSchema).min(1),
  /** When it began, as ISO 8601. */
  since: z.string(),
});

export type StoredCapture = z.output<typeof captureSchema>;
export type CaptureDirection = StoredCapture['direction'];
