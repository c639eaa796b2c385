import type { BridgePort } from '../../topology/types.js';

/**
 * What the agent offers to whoever attaches containers on this host (src/agent/attachments, for CNI and Docker). Both calls
 * take effect on this host at once and in the NSDB as soon as it can be reached: they never wait for it.
 */
export interface LocalPorts {
  /**
   * Bind `port` to the interface `interfaceName`, which exists on this host: attach it to the datapath, install its
   * tunnel-key flow, seed the tables of its bridge. `port.id` decides identity: a second call replaces the first.
   * @throws DatapathError if the interface cannot be attached
   */
  attach(port: BridgePort, interfaceName: string, signal?: AbortSignal): Promise<void>;
  /** Undo {@link attach}; succeeds when there is no such port. The interface may be gone already. */
  detach(portId: string, signal?: AbortSignal): Promise<void>;
}
