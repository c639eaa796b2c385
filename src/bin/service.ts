import type { Logger } from 'pino';

/** Something that runs until it is closed. */
export interface Service {
  /** Resolves when it can do its work, or was closed before; absent: it can from the start. */
  readonly ready?: Promise<void>;
  /** Rejects when the service can go on no longer. Never resolves. */
  readonly failed: Promise<never>;
  close(): Promise<void>;
}

type Log = Pick<Logger, 'info' | 'warn' | 'error'>;

/** What to close, the last first. */
export class Closers {
  readonly #closers: (() => void | Promise<void>)[] = [];

  constructor(private readonly log: Log) {}

  add(closer: () => void | Promise<void>): void {
    this.#closers.push(closer);
  }

  /** One that fails is logged, and the rest closed all the same. */
  async close(): Promise<void> {
    for (let closer = this.#closers.pop(); closer !== undefined; closer = this.#closers.pop()) {
      try {
        await closer();
      } catch (error) {
        this.log.error({ error: messageOf(error) }, 'could not close a part of the service');
      }
    }
  }
}

/** How long a service that has failed may take to close. */
const CLOSE_AFTER_FAILURE_MS = 5000;

/**
 * Run a service until `stop` is aborted, also while it starts. What was opened is closed.
 * @throws what the start or the service failed with, unless it was to stop
 */
export async function serve(
  start: (signal: AbortSignal) => Promise<Service>,
  log: Log,
  stop: AbortSignal,
): Promise<void> {
  const stopped = new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    else stop.addEventListener('abort', () => resolve(), { once: true });
  });
  let service: Service;
  try {
    service = await start(stop);
  } catch (error) {
    if (!stop.aborted) throw error;
    if (error !== stop.reason) log.warn({ error: messageOf(error) }, 'stopped while starting');
    return;
  }
  // It may fail when nobody waits for that any more.
  service.failed.catch(() => undefined);
  const tellReady = () => {
    if (!stop.aborted) log.info('ready');
  };
  if (service.ready === undefined) tellReady();
  else service.ready.then(tellReady);
  try {
    await Promise.race([stopped, service.failed]);
  } catch (error) {
    log.error({ error: messageOf(error) }, 'the service has failed');
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_AFTER_FAILURE_MS);
    });
    // What it failed with counts.
    const closed = service.close().catch((after: unknown) => log.error({ error: messageOf(after) }, 'could not close'));
    await Promise.race([closed, late]);
    clearTimeout(timer);
    throw error;
  }
  log.info('stopping');
  await service.close();
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
