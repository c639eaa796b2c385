import test from 'ava';
import { formatIpv6, type Ipv6, parseIpv6 } from '../../src/packet/address.js';
import { readU16, readWords } from '../../src/packet/big-endian.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpv6Error, Icmpv6Type } from '../../src/packet/icmpv6.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildTcp, TcpFlag } from '../../src/packet/tcp.js';
import type { RuleSpec } from './filters.js';
import { Hosts, ROUTER_MACS } from './hosts.js';
import { unsoundFlow } from './simulated-host.js';

const MACHINES = [
  { name: 'client', side: 'inside', host: 0 },
  { name: 'server', side: 'outside', host: 0 },
  { name: 'remote', side: 'outside', host: 1 },
] as const;
const VIP = 'fd00:0:0:2::c8';
const OUTER = 'fd00:0:0:2::fa';
const IP = 14;
const TCP = 54;

interface Segment {
  readonly at: string;
  readonly src: string;
  readonly dst: string;
  readonly srcPort: number;
  readonly dstPort: number;
  readonly frame: Uint8Array;
}

function received([at, frame]: [string, Uint8Array]): Segment {
  const [src, dst] = [8, 24].map((offset) => formatIpv6(readWords(frame, IP + offset) as Ipv6));
  return { at, src, dst, srcPort: readU16(frame, TCP), dstPort: readU16(frame, TCP + 2), frame };
}

function send(network: Hosts, from: string, packet: Uint8Array): Segment[] {
  const { mac, side } = network.machine(from);
  const frame = buildEthernet({ dst: ROUTER_MACS[side], src: mac, type: EtherType.IPV6 }, packet);
  return network.send(from, frame).map(received);
}

function segment(src: Ipv6, dst: Ipv6, srcPort: number, dstPort: number, flags: number = TcpFlag.SYN): Uint8Array {
  return buildIpv6({ src, dst, protocol: IpProtocol.TCP }, buildTcp({ srcPort, dstPort, flags }));
}

const onlyAnswers: RuleSpec[] = [{ type: 'accept', if: { matchReturnFlow: true } }, { type: 'drop' }];

for (const peer of ['server', 'remote'] as const) {
  test(`IPv6: ${peer} behind DNAT and SNAT, answers and errors, through a stateful firewall`, (t) => {
    const i = MACHINES.findIndex(({ name }) => name === peer);
    const member = `fd00:0:0:2::${2 + i}`;
    const network = new Hosts({
      machines: MACHINES,
      ports: { client: { outbound: onlyAnswers } },
      router: {
        inbound: [
          {
            type: 'dnat',
            targets: [{ start: member, end: member, ports: { start: 8080, end: 8080 } }],
            action: 'accept',
            if: { destination: `${VIP}/128` },
          },
          { type: 'reverse-snat', action: 'accept', if: { destination: `${OUTER}/128` } },
        ],
        outbound: [
          {
            type: 'snat',
            targets: [{ start: OUTER, end: OUTER, ports: { start: 1024, end: 65535 } }],
            action: 'accept',
            if: { source: 'fd00:0:0:1::/64' },
          },
        ],
      },
    });
    const client = network.machine('client').ipv6;
    const vip = parseIpv6(VIP)!;
    const [there] = send(network, 'client', segment(client, vip, 1000, 80));
    t.deepEqual([there?.at, there?.src, there?.dst, there?.dstPort], [peer, OUTER, member, 8080]);
    const answer = segment(parseIpv6(member)!, parseIpv6(OUTER)!, 8080, there.srcPort, TcpFlag.SYN | TcpFlag.ACK);
    const [back] = send(network, peer, answer);
    t.deepEqual([back?.at, back?.src, back?.dst], ['client', VIP, formatIpv6(client)]);
    t.deepEqual([back.srcPort, back.dstPort], [80, 1000]);
    t.deepEqual(send(network, peer, segment(parseIpv6(member)!, client, 9, 9)), []);
    const error = buildIcmpv6Error(Icmpv6Type.UNREACHABLE, 4, Uint32Array.from(parseIpv6(member)!), there.frame, IP)!;
    const [told] = send(network, peer, error);
    t.deepEqual([told?.at, told?.src, told?.dst], ['client', VIP, formatIpv6(client)]);
    const quoted = TCP + 8;
    t.is(formatIpv6(readWords(told.frame, quoted + 8) as Ipv6), formatIpv6(client));
    t.is(formatIpv6(readWords(told.frame, quoted + 24) as Ipv6), VIP);
    for (const host of network.hosts) t.is(unsoundFlow(host), undefined);
  });
}
