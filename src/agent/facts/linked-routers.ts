import { parseMac } from '../../packet/address.js';
import { type Port, routerPortMac } from '../../topology/types.js';
import type { BridgeNode } from './bridge-node.js';
import type { Cell } from './cell.js';
import type { TopologySource } from './topology-source.js';

/**
 * Tells bridges what follows from the routers that are linked to them: which port the router's MAC address is behind, and
 * what addresses it has. That needs no learning and no ARP. It holds for as long as both ports are in hand.
 */
export class LinkedRouters {
  /** Interior ports in hand. */
  private readonly ports = new Map<string, Port>();
  /** What bridges were told, by port of a router. */
  private readonly told = new Map<string, ReadonlySet<Cell<unknown>>>();

  constructor(
    private readonly source: TopologySource,
    private readonly bridge: (id: string) => BridgeNode,
  ) {}

  /** A port is in hand, or has changed; undefined: it is not any more. */
  portChanged(id: string, port: Port | undefined): void {
    const peerId = port?.peerId ?? this.ports.get(id)?.peerId;
    if (port?.peerId === undefined) this.ports.delete(id);
    else this.ports.set(id, port);
    this.tell(id);
    if (peerId !== undefined) this.tell(peerId);
  }

  /** Leave what bridges were told as it is. */
  close(): void {
    this.ports.clear();
    this.told.clear();
  }

  private tell(id: string): void {
    const router = this.ports.get(id);
    const bridgePort = router?.peerId === undefined ? undefined : this.ports.get(router.peerId);
    const cells = new Set<Cell<unknown>>();
    if (router?.routerId !== undefined && bridgePort?.peerId === id && bridgePort.bridgeId !== undefined) {
      const bridge = this.bridge(bridgePort.bridgeId);
      const mac = parseMac(routerPortMac(router))!;
      const entry = bridge.mac(mac, bridgePort.vlanId);
      entry.setLocal({ port: this.source.port(bridgePort.id) });
      cells.add(entry as Cell<unknown>);
      // The IP table is about packets without a tag.
      const subnets = bridgePort.vlanId === undefined ? (router.subnets ?? []) : [];
      for (const subnet of subnets) {
        const neighbor = bridge.neighbor(subnet.slice(0, subnet.indexOf('/')));
        neighbor.setLocal({ mac, isRouter: true });
        cells.add(neighbor as Cell<unknown>);
      }
    }
    for (const cell of this.told.get(id) ?? []) if (!cells.has(cell)) this.source.clearLocal(cell);
    if (cells.size > 0) this.told.set(id, cells);
    else this.told.delete(id);
  }
}
