import type { Datapath } from '../../datapath/datapath.js';
import type { Links } from '../../datapath/link/links.js';
import { ensureTunnelDevice, type TunnelDevice } from '../../datapath/link/tunnel-device.js';
import { findUnderlay } from '../../datapath/link/underlay.js';
import { parseIp } from '../../packet/ip.js';
import type { TunnelDevices, TunnelType } from './tunnels.js';

/** Names of the tunnel devices. */
export const VXLAN_DEVICE = 'mn-vxlan';
export const GRE_DEVICE = 'mn-gre';

/** Tunnel devices of the kernel, attached to the datapath. */
export class KernelTunnelDevices implements TunnelDevices {
  /** Which interface has each underlay address that was asked for. */
  private readonly underlays = new Map<string, string | undefined>();

  constructor(
    private readonly links: Links,
    private readonly datapath: Datapath,
    private readonly vxlanPort: number,
  ) {}

  async ensure(type: TunnelType, signal?: AbortSignal): Promise<number> {
    const device: TunnelDevice =
      type === 'vxlan'
        ? { kind: 'vxlan', name: VXLAN_DEVICE, port: this.vxlanPort }
        : { kind: 'gretap', name: GRE_DEVICE };
    await ensureTunnelDevice(this.links, device, signal);
    const port = await this.datapath.addPort(device.name, 'netdev', signal);
    return port.number;
  }

  async underlayMtu(address: string, signal?: AbortSignal): Promise<number | undefined> {
    const link = await findUnderlay(this.links, parseIp(address)!, signal);
    this.underlays.set(address, link?.name);
    return link?.mtu;
  }

  concerns(interfaceName: string): boolean {
    if (interfaceName === VXLAN_DEVICE || interfaceName === GRE_DEVICE) return true;
    for (const underlay of this.underlays.values()) {
      // An address that no interface has may come with any.
      if (underlay === undefined || underlay === interfaceName) return true;
    }
    return false;
  }
}
