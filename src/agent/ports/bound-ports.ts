import type { Logger } from 'pino';
import { hostPortsPath } from '../../nsdb/layout.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Watch } from '../../nsdb/store.js';
import type { Port } from '../../topology/types.js';

export interface BoundPortsOptions {
  readonly hostId: string;
  readonly repository: TopologyRepository;
  /** Whether this host knows the port better than the NSDB does, so that it need not be read. */
  readonly isOwn: (portId: string) => boolean;
  /** A port as it is now; undefined: it is not, or not listed for this host any more. */
  readonly onPort: (portId: string, port: Port | undefined) => void;
  /** Everything that was listed has been told for the first time. */
  readonly onRead: () => void;
  readonly log: Logger;
}

/** The ports that the NSDB lists for this host, watched. */
export class BoundPorts {
  private readonly watches = new Map<string, Watch>();
  private list: Watch | undefined;
  private read = false;

  constructor(private readonly options: BoundPortsOptions) {}

  /** How many there are. */
  get size(): number {
    return this.watches.size;
  }

  /** Whether everything that was listed at the start has been told. */
  get isRead(): boolean {
    return this.read;
  }

  start(): void {
    const { repository, hostId } = this.options;
    this.list = repository.store.watchChildren(hostPortsPath(hostId), (ids = []) => this.listed(ids));
  }

  close(): void {
    this.list?.close();
    for (const watch of this.watches.values()) watch.close();
    this.watches.clear();
  }

  private listed(ids: readonly string[]): void {
    const { repository, isOwn, onPort, onRead, log } = this.options;
    const listed = new Set(ids);
    for (const [id, watch] of this.watches) {
      if (listed.has(id)) continue;
      watch.close();
      this.watches.delete(id);
      onPort(id, undefined);
    }
    const unknown: Promise<void>[] = [];
    for (const id of listed) {
      if (this.watches.has(id) || isOwn(id)) continue;
      const watch = repository.watch(
        'port',
        id,
        (port) => onPort(id, port),
        (error) => log.error({ error: error.message, port: id }, 'a port bound to this host is not valid'),
      );
      this.watches.set(id, watch);
      unknown.push(watch.ready);
    }
    if (this.read) return;
    Promise.all(unknown).then(() => {
      this.read = true;
      onRead();
    });
  }
}
