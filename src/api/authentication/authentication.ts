import { createHash, timingSafeEqual } from 'node:crypto';
import type { Request, Response } from 'express';
import type { Caller } from '../tenancy/caller.js';
import { type AccessTokens, TOKEN_PREFIX, tokenHash } from './access-tokens.js';
import { clientCertificate } from './client-certificate.js';
import { NoRoleError, UnauthenticatedError } from './errors.js';
import { FailureLimit } from './failure-limit.js';
import { callerOfCertificate, callerOfKubernetes, type RoleRule } from './roles.js';
import { TokenReviewer } from './token-review.js';

export interface AuthenticationOptions {
  readonly accessTokens: AccessTokens;
  /** One that is always good, an admin's: it makes the first access tokens. */
  readonly adminToken?: string;
  readonly roles: readonly RoleRule[];
  /** Undefined: tokens of Kubernetes are not taken. */
  readonly tokenReviewer?: Pick<TokenReviewer, 'review'>;
  /** Who makes requests that do not say who makes them; undefined: those are refused. */
  readonly anonymous?: Caller;
  /** Of one address that are not authenticated; more are refused without looking. */
  readonly failuresPerMinute: number;
  readonly clock?: () => number;
}

/** Milliseconds for which what a token allows is remembered; a deleted token may be used for as long. */
const ACCESS_TOKEN_MS = 3000;
const KUBERNETES_TOKEN_MS = 60_000;
const MAX_REMEMBERED = 10_000;

interface Remembered {
  readonly caller: Promise<Caller>;
  /** Infinity while it is being looked up. */
  until: number;
}

/** Finds out who makes requests. A bearer token (RFC 6750) comes before the certificate of the connection. */
export class Authentication {
  /** By the token's hash, the longest remembered first. */
  private readonly remembered = new Map<string, Remembered>();
  private readonly failures: FailureLimit;
  private readonly clock: () => number;

  constructor(private readonly options: AuthenticationOptions) {
    this.failures = new FailureLimit(options.failuresPerMinute);
    this.clock = options.clock ?? Date.now;
  }

  /** @throws UnauthenticatedError, NoRoleError, TooManyRequestsError, AuthenticationUnavailableError, StoreUnavailableError */
  async authenticate(request: Request, response: Response): Promise<Caller> {
    try {
      return await this.callerOf(request, () => this.failures.check(request, response));
    } catch (error) {
      // Somebody without a role is not remembered either, and would be asked about each time.
      if (error instanceof UnauthenticatedError || error instanceof NoRoleError)
        await this.failures.count(request, response);
      throw error;
    }
  }

  close(): void {
    this.failures.close();
  }

  /** @param beforeLookUp called before anybody is asked about a token that was not good the last time, or never seen */
  private async callerOf(request: Request, beforeLookUp: () => Promise<void>): Promise<Caller> {
    const { authorization } = request.headers;
    if (authorization !== undefined) {
      const token = /^Bearer +([\x21-\x7e]+)$/i.exec(authorization)?.[1];
      if (token === undefined) throw new UnauthenticatedError('authorization: expected "Bearer" and a token');
      return this.callerWithToken(token, beforeLookUp);
    }
    const subject = clientCertificate(request.socket, this.clock());
    if (subject !== undefined) return callerOfCertificate(this.options.roles, subject);
    if (this.options.anonymous !== undefined) return this.options.anonymous;
    throw new UnauthenticatedError('expected a header "Authorization: Bearer TOKEN", or a client certificate');
  }

  private async callerWithToken(token: string, beforeLookUp: () => Promise<void>): Promise<Caller> {
    const { adminToken } = this.options;
    if (adminToken !== undefined && isSame(token, adminToken)) return ADMIN_TOKEN_CALLER;
    const hash = tokenHash(token);
    const known = this.remembered.get(hash);
    if (known !== undefined && this.clock() < known.until) return known.caller;
    // One that was good a moment ago is no guess: whoever guesses from the same address must not lock it out.
    if (known === undefined) await beforeLookUp();
    return this.lookUp(hash, token);
  }

  /** Requests with the same token wait for the same answer. Only good tokens are remembered. */
  private lookUp(hash: string, token: string): Promise<Caller> {
    const under = this.remembered.get(hash);
    if (under !== undefined && this.clock() < under.until) return under.caller;
    const found = this.find(token);
    const entry: Remembered = { caller: found.then(({ caller }) => caller), until: Number.POSITIVE_INFINITY };
    this.remembered.delete(hash);
    this.remembered.set(hash, entry);
    for (const oldest of this.remembered.keys()) {
      if (this.remembered.size <= MAX_REMEMBERED) break;
      this.remembered.delete(oldest);
    }
    const forget = () => this.remembered.get(hash) === entry && this.remembered.delete(hash);
    found.then(({ until }) => {
      entry.until = until;
    }, forget);
    return entry.caller;
  }

  private async find(token: string): Promise<{ caller: Caller; until: number }> {
    const { accessTokens, tokenReviewer, roles } = this.options;
    if (token.startsWith(TOKEN_PREFIX)) {
      // What it allows is as of now, not as of when the answer comes.
      const asked = this.clock();
      const accessToken = await accessTokens.find(token);
      if (accessToken === undefined) throw new UnauthenticatedError(NOT_GOOD);
      const { name, role, tenantId, expiresAt = Number.POSITIVE_INFINITY } = accessToken;
      return { caller: { name: `token:${name}`, role, tenantId }, until: Math.min(asked + ACCESS_TOKEN_MS, expiresAt) };
    }
    if (tokenReviewer !== undefined && TokenReviewer.couldBe(token)) {
      const asked = this.clock();
      const user = await tokenReviewer.review(token);
      if (user === undefined) throw new UnauthenticatedError(NOT_GOOD);
      return { caller: callerOfKubernetes(roles, user), until: asked + KUBERNETES_TOKEN_MS };
    }
    throw new UnauthenticatedError(NOT_GOOD);
  }
}

const NOT_GOOD = 'the bearer token is not known here, or has expired';
const ADMIN_TOKEN_CALLER: Caller = { name: 'admin-token', role: 'admin', tenantId: undefined };

/** In a time that does not depend on where they differ. */
function isSame(a: string, b: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}
