import { MidonetError } from '../../errors.js';
import { type Caller, callerKey } from './caller.js';

/** The caller has as many as they may at a time. */
export class TooManyAtOnceError extends MidonetError {
  constructor({ name }: Caller, what: string, limit: number) {
    super('MN_TOO_MANY_REQUESTS', `${name} has ${limit} ${what} open, which is the limit`);
  }
}

/** Counts what each caller has open, of what goes on for as long as they want. */
export class CallerPlaces {
  private readonly taken = new Map<string, number>();

  constructor(
    /** Such as `watch streams`. */
    private readonly what: string,
    private readonly limit: number,
  ) {}

  /** @throws TooManyAtOnceError */
  take(caller: Caller): void {
    const key = callerKey(caller);
    const count = this.taken.get(key) ?? 0;
    if (count >= this.limit) throw new TooManyAtOnceError(caller, this.what, this.limit);
    this.taken.set(key, count + 1);
  }

  free(caller: Caller): void {
    const key = callerKey(caller);
    const count = this.taken.get(key)! - 1;
    if (count === 0) this.taken.delete(key);
    else this.taken.set(key, count);
  }
}
