import type { MemoryInterface } from '../../../src/datapath/memory/interface.js';
import { formatIpv4, formatIpv6, formatMac, type Ipv6 } from '../../../src/packet/address.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildUdp } from '../../../src/packet/udp.js';

/** A bridge of which the machines are reached through a router, if it has one. */
export interface Segment {
  readonly number: number;
  readonly bridgeId: string;
  readonly gatewayMac: number;
}

/** A machine on the virtual network, whether or not it is plugged in now: 10.SEGMENT.0.NUMBER. */
export class Machine {
  readonly mac: number;
  readonly ip: number;
  readonly ip6: Ipv6;
  readonly interfaceName: string;
  /** Its interface, where it is plugged in. */
  device: MemoryInterface | undefined;

  constructor(
    readonly id: string,
    readonly segment: Segment,
    readonly number: number,
    /** Whether the topology is told its addresses. */
    readonly isKnown: boolean,
  ) {
    this.mac = 0x0200_0000_0000 + number;
    this.ip = 0x0a00_0000 + 0x1_0000 * segment.number + number;
    this.ip6 = [0xfd00_0000, 0, segment.number, number];
    this.interfaceName = `machine${number}`;
  }

  /** As a front end describes it. */
  get port() {
    const { id, segment } = this;
    const described = { id, bridgeId: segment.bridgeId, adminStateUp: true, addresses: [] };
    if (!this.isKnown) return described;
    return { ...described, mac: formatMac(this.mac), addresses: [formatIpv4(this.ip), formatIpv6(this.ip6)] };
  }

  /** Sends a UDP packet; to another bridge by the gateway. */
  send(to: Machine, srcPort: number, dstPort: number, text: string): void {
    const dst = to.segment === this.segment ? to.mac : this.segment.gatewayMac;
    const udp = buildUdp(srcPort, dstPort, Buffer.from(text));
    const packet = buildIpv4({ src: this.ip, dst: to.ip, protocol: IpProtocol.UDP }, udp);
    this.device?.send(buildEthernet({ dst, src: this.mac, type: EtherType.IPV4 }, packet));
  }

  /** The texts of the packets that came since this was last asked. */
  received(): string[] {
    const frames = this.device?.received() ?? [];
    this.device?.clear();
    return frames.map((frame) => /<[^>]*>/.exec(Buffer.from(frame).toString('latin1'))?.[0] ?? 'other');
  }
}
