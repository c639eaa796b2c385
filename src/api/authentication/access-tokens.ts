import { createHash, randomBytes } from 'node:crypto';
import * as z from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { deleteIfThere } from '../../nsdb/delete-if.js';
import { decodeJson, encodeJson } from '../../nsdb/json.js';
import { ACCESS_TOKENS_PATH, accessTokenPath } from '../../nsdb/layout.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import type { Store } from '../../nsdb/store.js';
import { nameSchema } from '../../topology/fields.js';
import { validate } from '../../topology/validate.js';
import { unlessUnreadable } from '../requests/unreadable.js';
import { checkTenant, grantSchema } from './roles.js';

/** What tokens of this program begin with, so that they are found where they should not be. */
export const TOKEN_PREFIX = 'midonet_';
const TOKEN_BYTES = 32;
const MAX_TOKENS = 1000;
const MAX_LIFE_SECONDS = 10 * 365 * 24 * 3600;

/** What an admin asks for. */
export const newAccessTokenSchema = z
  .strictObject({
    name: nameSchema,
    ...grantSchema.shape,
    /** For ever when absent. */
    expiresInSeconds: z
      .int('expected a whole number')
      .min(1, 'expected at least 1')
      .max(MAX_LIFE_SECONDS, `expected at most ${MAX_LIFE_SECONDS} (ten years)`)
      .optional(),
  })
  .superRefine(checkTenant);

const storedSchema = z.strictObject({
  name: nameSchema,
  ...grantSchema.shape,
  /** Who made it, as the audit log names them. */
  createdBy: z.string(),
  /** Milliseconds since 1970. */
  createdAt: z.int(),
  expiresAt: z.int().optional(),
});

/** An access token without what makes it one. */
export const accessTokenSchema = z.strictObject({
  /** The SHA-256 of the token, 64 hexadecimal digits. */
  id: z.string(),
  ...storedSchema.shape,
});
export type AccessToken = z.output<typeof accessTokenSchema>;

/**
 * The bearer tokens that admins have made, in the NSDB. Only the SHA-256 of a token is there: who reads the NSDB cannot use
 * it. A token has 256 random bits, so neither guessing it nor a slower hash is of any use.
 */
export class AccessTokens {
  constructor(
    private readonly store: Store,
    private readonly clock: () => number = Date.now,
  ) {}

  /**
   * Make a token. It is told this once. Those that have expired are deleted.
   * @throws InvalidInputError, TooManyTokensError
   */
  async create(
    input: unknown,
    createdBy: string,
    signal?: AbortSignal,
  ): Promise<{ readonly accessToken: AccessToken; readonly token: string }> {
    const { expiresInSeconds, ...grant } = validate(newAccessTokenSchema, input, 'accessToken');
    const createdAt = this.clock();
    const expiry = expiresInSeconds === undefined ? {} : { expiresAt: createdAt + expiresInSeconds * 1000 };
    const stored = { ...grant, createdBy, createdAt, ...expiry };
    if ((await this.removeExpired(signal)) >= MAX_TOKENS) throw new TooManyTokensError();
    const token = `${TOKEN_PREFIX}${randomBytes(TOKEN_BYTES).toString('base64url')}`;
    const id = tokenHash(token);
    await this.store.ensure(ACCESS_TOKENS_PATH, { signal });
    await this.store.create(accessTokenPath(id), encodeJson(stored), { signal });
    return { accessToken: { id, ...stored }, token };
  }

  /** What the token allows; undefined for one that was never made, was deleted, or has expired. */
  find(token: string, signal?: AbortSignal): Promise<AccessToken | undefined> {
    return this.get(tokenHash(token), signal);
  }

  /** @throws InvalidInputError for an id that is none */
  async get(id: string, signal?: AbortSignal): Promise<AccessToken | undefined> {
    const accessToken = await this.read(parseId(id), signal);
    return accessToken === undefined || this.isExpired(accessToken) ? undefined : accessToken;
  }

  /** All that there are and have not expired, by name. One that cannot be read is left out. */
  async list(signal?: AbortSignal): Promise<AccessToken[]> {
    const ids = (await this.store.children(ACCESS_TOKENS_PATH, { signal })) ?? [];
    const found = await readAhead(ids, signal, (id, signal) => this.get(id, signal).catch(unlessUnreadable));
    return found.filter((one) => one !== undefined).sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Succeeds when there is none. */
  async delete(id: string, signal?: AbortSignal): Promise<void> {
    await deleteIfThere(this.store, accessTokenPath(parseId(id)), signal);
  }

  /** Returns how many are left. */
  private async removeExpired(signal?: AbortSignal): Promise<number> {
    const ids = (await this.store.children(ACCESS_TOKENS_PATH, { signal })) ?? [];
    const isLeft = await readAhead(ids, signal, async (id, signal) => {
      const accessToken = await this.read(id, signal).catch(unlessUnreadable);
      if (accessToken === undefined || !this.isExpired(accessToken)) return true;
      // Nobody changes a token: what has expired stays so.
      await this.delete(id, signal);
      return false;
    });
    return isLeft.filter(Boolean).length;
  }

  private async read(id: string, signal?: AbortSignal): Promise<AccessToken | undefined> {
    const path = accessTokenPath(id);
    const node = await this.store.get(path, { signal });
    return node && { id, ...decodeJson(storedSchema, node.data, path) };
  }

  private isExpired({ expiresAt }: AccessToken): boolean {
    return expiresAt !== undefined && expiresAt <= this.clock();
  }
}

/** 64 hexadecimal digits. */
export function tokenHash(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

function parseId(id: string): string {
  if (!/^[0-9a-f]{64}$/.test(id)) {
    throw new InvalidInputError('accessToken.id', id, 'expected the 64 hexadecimal digits of a SHA-256');
  }
  return id;
}

class TooManyTokensError extends MidonetError {
  constructor() {
    super('MN_QUOTA_EXCEEDED', `there are ${MAX_TOKENS} access tokens, the most there may be: delete some`);
  }
}
