import type { Request, Response } from 'express';
import { ipKeyGenerator, MemoryStore, type RateLimitInfo, rateLimit } from 'express-rate-limit';
import { TooManyRequestsError } from './errors.js';

const WINDOW_MS = 60_000;

/**
 * Counts the requests of an address that were not who they said. Over the limit nobody there is asked about any more, until a
 * minute after the first; callers who are known already are not concerned.
 */
export class FailureLimit {
  private readonly store = new MemoryStore();
  private readonly limiter: ReturnType<typeof rateLimit>;

  constructor(private readonly perMinute: number) {
    this.limiter = rateLimit({
      // Requests are counted here, not by Express: what it looks for does not apply.
      validate: false,
      store: this.store,
      windowMs: WINDOW_MS,
      limit: perMinute,
      keyGenerator: addressOf,
      standardHeaders: false,
      legacyHeaders: false,
      handler: (request, response, next) => {
        // Of an answer under way it is asked again whose it is.
        if (!response.headersSent) response.set('Retry-After', String(WINDOW_MS / 1000));
        const reason = `expected at most ${perMinute} requests a minute that are not authenticated`;
        next(new TooManyRequestsError(reason, isRepeated(request)));
      },
    });
  }

  /** @throws TooManyRequestsError */
  async check(request: Request, response: Response): Promise<void> {
    const failures = await this.limiter.getKey(addressOf(request));
    // Counted as well, to know which is the first one refused.
    if (failures !== undefined && failures.totalHits >= this.perMinute) await this.count(request, response);
  }

  /** Another one. @throws TooManyRequestsError if that is one too many */
  count(request: Request, response: Response): Promise<void> {
    return new Promise((resolve, reject) => {
      this.limiter(request, response, (error?: unknown) => (error === undefined ? resolve() : reject(error)));
    });
  }

  close(): void {
    this.store.shutdown();
  }
}

/** Of an IPv6 address the network: one machine has all of it. */
function addressOf(request: Request): string {
  return ipKeyGenerator(request.socket.remoteAddress ?? '', 64);
}

/** Whether a request over a limit is not the first one over it in its window of time. */
export function isRepeated(request: Request): boolean {
  const { used, limit } = (request as Request & { readonly rateLimit: RateLimitInfo }).rateLimit;
  return used > limit + 1;
}
