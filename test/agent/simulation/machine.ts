import type { MemoryInterface } from '../../../src/datapath/memory/interface.js';
import { formatIpv4, formatIpv6, formatMac, type Ipv6 } from '../../../src/packet/address.js';
import { ArpOp, buildArpReply, buildGratuitousArp } from '../../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildUdp } from '../../../src/packet/udp.js';

/** A bridge: 10.NUMBER.0.0/16. */
export interface Segment {
  readonly number: number;
  readonly bridgeId: string;
  readonly hasRouter: boolean;
  /** Where machines take the router to be. */
  readonly gatewayMac: number;
}

/** One end of a UDP connection. */
export interface Endpoint {
  readonly ip: number;
  readonly port: number;
}

/** A UDP packet as it came. */
export interface Received {
  readonly text: string;
  readonly from: Endpoint;
  readonly to: Endpoint;
}

/** A machine on the virtual network, whether or not it is plugged in now: 10.SEGMENT.0.NUMBER. */
export class Machine {
  readonly mac: number;
  readonly ip: number;
  readonly ip6: Ipv6;
  readonly interfaceName: string;
  /** Its interface, where it is plugged in. */
  private device: MemoryInterface | undefined;
  private packets: Received[] = [];

  constructor(
    readonly id: string,
    readonly segment: Segment,
    readonly number: number,
    /** Whether the topology is told its addresses. */
    readonly isKnown: boolean,
    /** Whether the topology binds it to a host; otherwise a front end of the host attaches it. */
    readonly isBound: boolean,
  ) {
    this.mac = 0x0200_0000_0000 + number;
    this.ip = 0x0a00_0000 + 0x1_0000 * segment.number + number;
    this.ip6 = [0xfd00_0000, 0, segment.number, number];
    this.interfaceName = `machine${number}`;
  }

  /** Its port, but for where that is bound. */
  get port() {
    const { id, segment } = this;
    const described = { id, bridgeId: segment.bridgeId, adminStateUp: true, addresses: [] };
    if (!this.isKnown) return described;
    return { ...described, mac: formatMac(this.mac), addresses: [formatIpv4(this.ip), formatIpv6(this.ip6)] };
  }

  plug(device: MemoryInterface): void {
    this.device = device;
    device.listen((frame) => this.receive(Buffer.from(frame)));
  }

  unplug(): void {
    this.device = undefined;
    this.packets = [];
  }

  /** Tells everybody where it is. */
  announce(): void {
    this.device?.send(buildGratuitousArp(this.mac, this.ip));
  }

  /** Sends a UDP packet: to a machine of its bridge, or by the gateway. */
  send(neighbor: Machine | undefined, from: Endpoint, to: Endpoint, text: string): void {
    const dst = neighbor?.mac ?? this.segment.gatewayMac;
    const udp = buildUdp(from.port, to.port, Buffer.from(text));
    const packet = buildIpv4({ src: from.ip, dst: to.ip, protocol: IpProtocol.UDP }, udp);
    this.device?.send(buildEthernet({ dst, src: this.mac, type: EtherType.IPV4 }, packet));
  }

  /** The UDP packets that came since this was last asked. */
  received(): Received[] {
    return this.packets.splice(0);
  }

  private receive(frame: Buffer): void {
    const type = frame.readUInt16BE(12);
    if (type === EtherType.ARP) {
      const isQuestion = frame.readUInt16BE(20) === ArpOp.REQUEST && frame.readUInt32BE(38) === this.ip;
      const [mac, ip] = [frame.readUIntBE(22, 6), frame.readUInt32BE(28)];
      if (isQuestion && ip !== this.ip) this.device?.send(buildArpReply(this.mac, this.ip, mac, ip));
    } else if (type === EtherType.IPV4 && frame[23] === IpProtocol.UDP) {
      this.packets.push({
        text: frame.toString('latin1', 42),
        from: { ip: frame.readUInt32BE(26), port: frame.readUInt16BE(34) },
        to: { ip: frame.readUInt32BE(30), port: frame.readUInt16BE(36) },
      });
    }
  }
}
