import * as z from 'zod';

/** Where the agent of a host can be asked, and the key that proves that whoever asks may read the NSDB. */
export const controlAddressSchema = z.object({
  host: z.string(),
  port: z.int().min(1).max(65535),
  /** 32 bytes, in hexadecimal; another at each start of the agent. */
  key: z.string().regex(/^[0-9a-f]{64}$/),
});

/** What the node holds that is there while a host's agent runs, see hostAlivePath in layout.ts. */
export const hostAliveSchema = z.object({
  /** When the agent began, as ISO 8601. */
  since: z.string(),
  /** The host's. */
  name: z.string(),
  /** Tells machines apart that have the same host id. */
  machine: z.string(),
  /** Absent while the agent cannot be asked. */
  control: controlAddressSchema.optional(),
});

export type ControlAddress = z.output<typeof controlAddressSchema>;
export type HostAlive = z.output<typeof hostAliveSchema>;
