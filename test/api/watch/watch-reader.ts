import type { IncomingMessage } from 'node:http';
import { ApiClient } from '../../../src/api/client/client.js';
import { readEvents } from '../../../src/api/client/event-stream.js';
import type { Kind, TopologyTypes } from '../../../src/topology/types.js';

interface Told {
  readonly modified: number;
  readonly object: TopologyTypes[Kind];
}

/** A client of watch streams that holds what it was told, and takes up at any server where it was cut off. */
export class WatchReader {
  /** By kind and id. */
  readonly objects = new Map<string, Told>();
  /** The version that was told last, and what was there then. */
  readonly versions: { readonly version: number; readonly objects: ReadonlyMap<string, number> }[] = [];
  readonly counts = { put: 0, delete: 0, current: 0, reset: 0 };
  /** Every object in every state that was told. */
  readonly history: TopologyTypes[Kind][] = [];
  /** What must not happen. */
  readonly faults: string[] = [];
  /** Told as gone, but never as there. */
  readonly goneUnknown: string[] = [];
  private readonly everTold = new Set<string>();
  private readonly newest = new Map<string, number>();
  private lastId: string | undefined;
  private abort = new AbortController();
  private done: Promise<void> = Promise.resolve();
  private gate: Promise<void> = Promise.resolve();
  /** Read on. */
  resume = () => {};

  constructor(
    readonly path: string,
    private readonly query: Readonly<Record<string, string>> = {},
    private readonly token = 'admin',
  ) {}

  /** Begin to read. Rejects if the server refuses. */
  async start(server: string): Promise<IncomingMessage> {
    const client = new ApiClient({ server, token: this.token });
    const headers = { accept: 'text/event-stream', ...(this.lastId !== undefined && { 'last-event-id': this.lastId }) };
    this.abort = new AbortController();
    const stream = await client.stream('GET', this.path, { query: this.query, headers, signal: this.abort.signal });
    this.done = this.read(stream).finally(() => client.close());
    return stream;
  }

  /** Cut the stream, wherever it is. */
  async stop(): Promise<void> {
    this.abort.abort();
    this.resume();
    await this.done;
  }

  /** Read nothing until told so. */
  pause(): void {
    this.gate = new Promise((resolve) => {
      this.resume = resolve;
    });
  }

  /** Settles when the server ends the stream, or it is cut. */
  get ended(): Promise<void> {
    return this.done;
  }

  /** Those told, without what says when: sorted JSON. */
  get contents(): string[] {
    return [...this.objects.values()].map(({ object }) => JSON.stringify(object)).sort();
  }

  private async read(stream: IncomingMessage): Promise<void> {
    try {
      for await (const events of readEvents(stream)) {
        for (const { type, data, id } of events) {
          this.take(type, data === '' ? {} : JSON.parse(data));
          if (id !== undefined && id !== this.lastId) this.onVersion(id);
        }
        await this.gate;
      }
    } catch (error) {
      if (!this.abort.signal.aborted && (error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error;
    }
  }

  private onVersion(id: string): void {
    this.lastId = id;
    if (id === '') return;
    const objects = new Map([...this.objects].map(([key, { modified }]) => [key, modified]));
    this.versions.push({ version: Number.parseInt(id, 10), objects });
  }

  private take(type: string, data: { kind: Kind; id: string; etag: string; object: TopologyTypes[Kind] }): void {
    switch (type) {
      case 'put': {
        const key = `${data.kind} ${data.object.id}`;
        const modified = Number(data.etag.slice(1, -1));
        if (modified < (this.newest.get(key) ?? 0)) this.faults.push(`${key} goes back to ${modified}`);
        this.newest.set(key, modified);
        this.objects.set(key, { modified, object: data.object });
        this.history.push(data.object);
        this.everTold.add(key);
        this.counts.put++;
        break;
      }
      case 'delete':
        this.objects.delete(`${data.kind} ${data.id}`);
        if (!this.everTold.has(`${data.kind} ${data.id}`)) this.goneUnknown.push(data.id);
        this.counts.delete++;
        break;
      case 'reset':
        this.objects.clear();
        this.newest.clear();
        this.counts.reset++;
        break;
      case 'current':
        this.counts.current++;
        break;
    }
  }
}
