import type { TunnelTarget } from '../../simulation/fact.js';
import type { BridgePort, Port } from '../../topology/types.js';

/** A port that is to be on this host. */
export interface WantedPort {
  port: Port;
  readonly interfaceName: string;
  /** The port with what others have set of it in the NSDB, such as filters; undefined while that is not known. */
  complete: BridgePort | undefined;
  /** Attached by this host's own front ends, which need no NSDB; otherwise bound in the NSDB. */
  readonly local: boolean;
  /** Datapath port number while the interface is attached. */
  number: number | undefined;
  /** In which its connections are tracked, once it was attached; null when the kernel tracks none. */
  zone: number | null;
  /** Whether the interface was ever attached for this port. */
  attached: boolean;
}

/** @param local whether a front end of this host attaches it */
export function wantedPort(port: Port, interfaceName: string, local: boolean): WantedPort {
  return { port, interfaceName, complete: undefined, local, number: undefined, zone: null, attached: false };
}

/** Where packets go that come for these ports, which are attached and take whatever comes. */
export function targetOf(wanted: readonly WantedPort[]): TunnelTarget {
  const outputs = wanted.map(({ number }) => number!);
  const zones = wanted.flatMap(({ zone }) => (zone === null ? [] : [zone]));
  return { outputs, zones: zones.length < wanted.length ? undefined : zones, ports: [] };
}

/** Whether a packet that is flooded may not leave at the port, or not as it is. */
export function dependsOnPacket({ port, local, complete }: WantedPort): boolean {
  if (local && complete === undefined) return true;
  const { isolated, outboundFilterId } = complete ?? port;
  const { outboundMirrorIds, preOutFilterMirrorIds, insertionIds, serviceInsertionIds } = complete ?? port;
  const lists = [outboundMirrorIds, preOutFilterMirrorIds, insertionIds, serviceInsertionIds];
  return isolated === true || outboundFilterId !== undefined || lists.some((ids = []) => ids.length > 0);
}
