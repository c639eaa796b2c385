import * as z from 'zod';
import { ERROR_CODES, type ErrorCode } from '../../errors.js';

/** What the API server and an agent's control endpoint have agreed on. */

/** Who asks. The key is what tells. */
export const CONTROL_IDENTITY = 'midonet-api';

/** Cipher suites whose keys are gone with the connection, whoever learns the pre-shared key later (RFC 7905, RFC 5489). */
export const CONTROL_TLS = {
  ciphers: 'ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES128-CBC-SHA256',
  minVersion: 'TLSv1.2',
  // Of later versions node tells both sides of a connection different things of the key.
  maxVersion: 'TLSv1.2',
} as const;

/** The answer to what an agent could not or would not do. */
export const controlFaultSchema = z.object({
  code: z.enum(Object.keys(ERROR_CODES) as [ErrorCode, ...ErrorCode[]]).catch('MN_INTERNAL'),
  message: z.string(),
  field: z.string().optional(),
  value: z.unknown().optional(),
});

export type ControlFault = z.output<typeof controlFaultSchema>;
