import type { Datapath } from '../datapath/datapath.js';
import { DatapathError } from '../datapath/errors.js';

const INTERVAL_MS = 3000;

/** Looks every few seconds whether the datapath is still there. Close it. */
export class DatapathWatch {
  /** Rejects with a DatapathError when the datapath is gone. Never resolves. */
  readonly failed: Promise<never>;
  readonly #closing = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(datapath: Pick<Datapath, 'ports'>, name: string, interval = INTERVAL_MS) {
    this.failed = new Promise((_, reject) => {
      const look = async () => {
        try {
          await datapath.ports(this.#closing.signal);
        } catch (error) {
          // Other errors pass: the kernel may be short of memory. Agent.fault tells of them.
          if (error instanceof DatapathError && error.kind === 'not-found') {
            const message = `datapath "${name}" is gone: somebody has removed it (${error.message})`;
            reject(new DatapathError('not-found', message, { cause: error }));
            return;
          }
        }
        if (!this.#closing.signal.aborted) this.#timer = setTimeout(look, interval);
      };
      this.#timer = setTimeout(look, interval);
    });
    // Nobody may be waiting for it yet.
    this.failed.catch(() => undefined);
  }

  close(): void {
    this.#closing.abort();
    clearTimeout(this.#timer);
  }
}
