import fc from 'fast-check';
import type { Ipv6 } from '../../src/packet/address.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import {
  addressList,
  buildDhcpV6,
  identityAssociation,
  leasedAddress,
  linkLayerDuid,
} from '../../src/packet/dhcpv6.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho, buildIcmpError } from '../../src/packet/icmp.js';
import { buildIcmpv6Echo, buildIcmpv6Error } from '../../src/packet/icmpv6.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildNeighborAdvertisement, buildNeighborSolicitation } from '../../src/packet/nd.js';
import { buildRouterAdvertisement } from '../../src/packet/router-advertisement.js';
import { buildTcp } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import { dhcpRequest } from './dhcp-frames.js';

const MAC_A = 0x02aa_0000_0001;
const MAC_B = 0x02aa_0000_0002;
const A: Ipv6 = [0xfd00_0000, 0, 0, 1];
const B: Ipv6 = [0xfd00_0000, 0, 0, 2];

const udp = buildUdp(1, 2, new Uint8Array(9));
const tcp = buildTcp({ srcPort: 1, dstPort: 2, flags: 0x12, options: new Uint8Array([2, 4, 5, 180]) });
const v4 = (protocol: number, payload: Uint8Array) =>
  buildIpv4({ src: 0x0a00_0001, dst: 0x0a00_0002, protocol }, payload);
const v6 = (protocol: number, payload: Uint8Array) => buildIpv6({ src: A, dst: B, protocol }, payload);
const frame = (type: number, payload: Uint8Array) => buildEthernet({ dst: MAC_B, src: MAC_A, type }, payload);
const chained = buildIpv6(
  {
    src: A,
    dst: B,
    protocol: IpProtocol.TCP,
    extensions: [
      { type: IpProtocol.HOP_BY_HOP, body: new Uint8Array(6) },
      { type: IpProtocol.IPV6_ROUTING, body: new Uint8Array(14) },
      { type: IpProtocol.AH, body: new Uint8Array(22) },
      { type: IpProtocol.DESTINATION_OPTIONS, body: new Uint8Array(6) },
    ],
    fragment: { offset: 0, more: false, id: 5 },
  },
  tcp,
);

const dhcpV6 = buildDhcpV6({
  type: 1,
  transaction: 7,
  options: [
    { code: 1, value: linkLayerDuid(MAC_A) },
    identityAssociation({
      code: 3,
      id: 1,
      t1: 0,
      t2: 0,
      options: [leasedAddress({ address: A, preferred: 1, valid: 2 })],
    }),
    { code: 23, value: addressList([A, B]) },
  ],
});
const advertisement = {
  hopLimit: 64,
  managed: true,
  other: true,
  lifetime: 1800,
  mac: MAC_B,
  mtu: 1450,
  prefixes: [{ address: A, prefix: 64, onLink: true, autonomous: true, valid: 2, preferred: 1 }],
  dnsServers: [A],
  domainSearch: ['example.org'],
  dnsLifetime: 1800,
};

/** A valid frame of every kind that the parsers know. */
export const VALID_FRAMES: readonly Uint8Array[] = [
  buildArpRequest(MAC_A, 0x0a00_0001, 0x0a00_0002),
  frame(EtherType.IPV4, v4(IpProtocol.UDP, udp)),
  frame(EtherType.IPV4, v4(IpProtocol.TCP, tcp)),
  frame(EtherType.IPV4, v4(IpProtocol.ICMP, buildIcmpEcho(8, 1, 2, new Uint8Array(5)))),
  frame(EtherType.IPV4, buildIcmpError(3, 1, 0x0a00_0009, v4(IpProtocol.TCP, tcp), 0)!),
  frame(
    EtherType.IPV4,
    buildIpv4({ src: 1, dst: 2, protocol: 17, options: new Uint8Array(8), fragment: { offset: 0, more: true } }, udp),
  ),
  buildEthernet({ dst: MAC_B, src: MAC_A, type: EtherType.IPV4, vlans: [{ id: 7 }] }, v4(IpProtocol.TCP, tcp)),
  buildEthernet(
    { dst: MAC_B, src: MAC_A, type: EtherType.IPV6, vlans: [{ tpid: 0x88a8, id: 7 }, { id: 8 }] },
    v6(17, udp),
  ),
  frame(EtherType.IPV6, v6(IpProtocol.TCP, tcp)),
  frame(EtherType.IPV6, chained),
  frame(EtherType.IPV6, v6(IpProtocol.ICMPV6, buildIcmpv6Echo(128, 1, 2))),
  frame(EtherType.IPV6, buildIcmpv6Error(1, 0, B, v6(17, udp), 0)!),
  buildNeighborSolicitation({ src: A, srcMac: MAC_A, target: B }),
  buildNeighborAdvertisement({ target: B, targetMac: MAC_B, dst: A, dstMac: MAC_A }),
  dhcpRequest(1, MAC_A, 99, new Map([[55, new Uint8Array([1, 3, 6])]])),
  frame(EtherType.IPV6, v6(IpProtocol.UDP, buildUdp(546, 547, dhcpV6))),
  buildRouterAdvertisement(advertisement, { src: B, dst: A, dstMac: MAC_A }),
  frame(20, new Uint8Array([0xaa, 0xaa, 3, 0, 0, 0, 8, 0, ...v4(17, udp)])),
];

/** Random bytes, and valid frames cut short or with some bytes changed. */
export function arbitraryFrame(): fc.Arbitrary<Uint8Array> {
  const changes = fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 6 });
  const mutated = fc.tuple(fc.constantFrom(...VALID_FRAMES), changes, fc.nat(400)).map(([valid, list, length]) => {
    const bytes = valid.slice(0, length);
    for (const [at, value] of list) if (at < bytes.length) bytes[at] = value;
    return bytes;
  });
  return fc.oneof(fc.uint8Array({ maxLength: 120, size: 'max' }), mutated);
}
