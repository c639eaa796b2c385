import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { nameOf, type Target } from './connect-string.js';

/** Milliseconds to wait for the answer to a name that was found before, and for one that never was. */
const PATIENCE_KNOWN = 300;
const PATIENCE_UNKNOWN = 3000;

export interface AddressBookOptions {
  readonly targets: readonly Target[];
  /** Every address of a name; the system's resolver unless given. */
  readonly resolve?: (name: string) => Promise<readonly string[]>;
  readonly onError: (error: Error) => void;
}

/**
 * The addresses behind the names of servers. They are asked for anew every time, since they may change. A name service
 * that fails or is slow must not keep a client from servers it has already found: a name then keeps the addresses it had.
 */
export class AddressBook {
  private readonly known = new Map<string, readonly string[]>();
  private readonly asking = new Map<string, Promise<void>>();
  private readonly resolve: (name: string) => Promise<readonly string[]>;

  constructor(private readonly options: AddressBookOptions) {
    this.resolve = options.resolve ?? resolveName;
  }

  /**
   * All addresses of all servers in random order, `last` at the end: one dead address of several must not hide the others, nor
   * be the first to be tried again.
   */
  async addresses(last: Target | undefined, signal: AbortSignal): Promise<Target[]> {
    const found = await Promise.all(this.options.targets.map((target) => this.find(target, signal)));
    const all = found.flat();
    for (let i = all.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [all[i], all[j]] = [all[j], all[i]];
    }
    const isLast = (target: Target) => last !== undefined && nameOf(target) === nameOf(last);
    return [...all.filter((target) => !isLast(target)), ...all.filter(isLast)];
  }

  private async find(target: Target, signal: AbortSignal): Promise<Target[]> {
    if ('path' in target || isIP(target.host) !== 0) return [target];
    const { host: name, port } = target;
    const patience = this.known.has(name) ? PATIENCE_KNOWN : PATIENCE_UNKNOWN;
    await settledWithin(this.ask(name), patience, signal);
    return (this.known.get(name) ?? []).map((host) => ({ host, port, name }));
  }

  /** Settles when the name service has answered; one question at a time for each name. */
  private ask(name: string): Promise<void> {
    let asking = this.asking.get(name);
    if (asking === undefined) {
      asking = this.resolve(name)
        .then(
          (addresses) => {
            if (addresses.length > 0) this.known.set(name, addresses);
          },
          (error: unknown) => this.options.onError(error as Error),
        )
        .finally(() => this.asking.delete(name));
      this.asking.set(name, asking);
    }
    return asking;
  }
}

async function resolveName(name: string): Promise<string[]> {
  return (await lookup(name, { all: true })).map(({ address }) => address);
}

function settledWithin(promise: Promise<void>, milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done, { once: true });
    void promise.then(done);
  });
}
