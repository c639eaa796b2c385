import {
  ObjectExistsError,
  ObjectNotFoundError,
  type TopologyRepository,
} from '../../nsdb/repository/topology-repository.js';
import type { Port } from '../../topology/types.js';
import { mergedPort } from '../facts/local-port.js';
import type { Publisher } from '../host/publisher.js';

/** What the NSDB is told of the ports of this host, and so the other hosts. */
export class PortPublications {
  /** Ports that are not on this host any more, which the NSDB may not know. */
  private readonly undeleted = new Set<string>();

  constructor(
    private readonly hostId: string,
    private readonly repository: TopologyRepository,
    private readonly publisher: Publisher,
  ) {}

  /** Whether the NSDB has not been told all of a port yet. */
  isPending(portId: string): boolean {
    return this.publisher.isPending(publicationOf(portId));
  }

  /** A port that a front end of this host has attached. What others have set of it stays, such as filters. */
  attached(port: Port): void {
    this.publish(port, () => true);
  }

  /** The same, unless it was attached to another host since: then it is that host's. */
  attachedStill(port: Port): void {
    this.publish(port, ({ binding }) => binding?.hostId === this.hostId);
  }

  /** A front end of this host has detached the port, or has forgotten it. */
  detached(portId: string): void {
    this.undeleted.add(portId);
    this.publisher.publish(publicationOf(portId), (signal) => this.deleteOld(portId, signal));
  }

  /**
   * Tell the tunnel key of a port that is bound here in the NSDB, or that it has none.
   * @param tunnelKey gives the key when it is written; null: it is not to be told any more
   */
  key(portId: string, tunnelKey: () => number | undefined | null): void {
    const change = (port: Port): Port | undefined => {
      const key = tunnelKey();
      if (key === null || port.binding?.hostId !== this.hostId || port.binding.tunnelKey === key) return undefined;
      return { ...port, binding: { ...port.binding, tunnelKey: key } };
    };
    this.publisher.publish(publicationOf(portId), async (signal) => {
      try {
        await this.repository.modify('port', portId, change, signal);
      } catch (error) {
        // Deleted meanwhile: the watch tells.
        if (!(error instanceof ObjectNotFoundError && error.id === portId)) throw error;
      }
    });
  }

  /** @param replaces whether a port that the NSDB has under this id is replaced */
  private publish(port: Port, replaces: (current: Port) => boolean): void {
    const { repository } = this;
    this.publisher.publish(publicationOf(port.id), async (signal) => {
      // What the NSDB has under this id was another port, of which nothing is to be kept.
      if (this.undeleted.has(port.id)) await this.deleteOld(port.id, signal);
      try {
        await repository.create('port', port, signal);
      } catch (error) {
        if (!(error instanceof ObjectExistsError) || error.field !== 'port.id') throw error;
        const change = (current: Port) => {
          const merged = mergedPort(port, current);
          return samePort(current, merged) || !replaces(current) ? undefined : merged;
        };
        await repository.modify('port', port.id, change, signal);
      }
    });
  }

  private async deleteOld(portId: string, signal: AbortSignal): Promise<void> {
    // When it was attached to another host since, it is not ours to delete any more.
    const isOurs = ({ binding }: Port) => binding === undefined || binding.hostId === this.hostId;
    await this.repository.deleteIf('port', portId, isOurs, signal);
    this.undeleted.delete(portId);
  }
}

/** One for each port: of what is to be told of it only the newest counts. */
function publicationOf(portId: string): string {
  return `port ${portId}`;
}

function samePort(a: Port, b: Port): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
