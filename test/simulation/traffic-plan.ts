import fc from 'fast-check';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey, Frag, Word } from '../../src/flow/key.js';
import { MAC_BROADCAST, parseIpv4, parseIpv6 } from '../../src/packet/address.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import { writeU16, writeU32 } from '../../src/packet/big-endian.js';
import { crc32c } from '../../src/packet/checksum.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho, buildIcmpError, IcmpType, UnreachableCode } from '../../src/packet/icmp.js';
import { buildIcmpv6Echo, buildIcmpv6Error, Icmpv6Type, Unreachable6Code } from '../../src/packet/icmpv6.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildNeighborSolicitation } from '../../src/packet/nd.js';
import { buildTcp, TcpFlag } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import { leasedPorts } from './leased-ports.js';
import {
  MAX_MACHINES,
  machineName,
  maybe,
  type NetworkPlan,
  OUTER,
  readable,
  routerAddresses,
  VIP,
  VIP_PORT,
} from './network-plan.js';
import { type Machine, machinesOf, routerMac } from './planned-network.js';

/** What machines send, made at random in the same way as networks are. */

/** What a packet is for. */
export type Destination = { readonly machine: number } | 'vip' | 'outer' | 'router' | 'nowhere';

export interface PacketPlan {
  readonly type: 'packet';
  readonly from: number;
  readonly to: Destination;
  readonly family: 4 | 6;
  readonly protocol: 'tcp' | 'udp' | 'sctp' | 'icmp' | 'other';
  /** `path`: to the machine on the same bridge, or else to a router there. */
  readonly frame: 'path' | 'broadcast' | 'unknown';
  /** Which one of the machine's source ports. */
  readonly srcPort: number;
  readonly dstPort: number;
  readonly ttl: number;
  readonly tos: number;
  readonly vlan: number | null;
  readonly fragment: 'none' | 'first' | 'later';
}

/** Ask who has the address of a machine, or of the first router. */
export interface NeighborPlan {
  readonly type: 'neighbor';
  readonly from: number;
  readonly of: number | 'router';
  readonly family: 4 | 6;
}

/** Say something about a frame that came before, counted from the last one, where it came to: its answer, or that its port is not reachable. */
export interface ReactionPlan {
  readonly type: 'answer' | 'refuse';
  readonly to: number;
}

export type StepPlan = PacketPlan | NeighborPlan | ReactionPlan;

const SERVED_PORTS = [VIP_PORT, 22, 81];
const machine = fc.nat(MAX_MACHINES - 1);
const family = fc.constantFrom(4 as const, 4 as const, 6 as const);

const packets: fc.Arbitrary<PacketPlan> = fc.record({
  type: fc.constant('packet' as const),
  from: machine,
  to: fc.oneof(
    { weight: 6, arbitrary: fc.record({ machine }) },
    { weight: 4, arbitrary: fc.constant('vip' as const) },
    { weight: 3, arbitrary: fc.constantFrom('outer' as const, 'router' as const, 'nowhere' as const) },
  ),
  family,
  protocol: fc.constantFrom(
    'tcp' as const,
    'tcp' as const,
    'udp' as const,
    'udp' as const,
    'icmp' as const,
    'sctp' as const,
    'other' as const,
  ),
  frame: fc.oneof(
    { weight: 8, arbitrary: fc.constant('path' as const) },
    { weight: 2, arbitrary: fc.constantFrom('broadcast' as const, 'unknown' as const) },
  ),
  srcPort: fc.nat(2),
  dstPort: fc.constantFrom(...SERVED_PORTS),
  ttl: fc.constantFrom(64, 64, 64, 63, 2, 1),
  tos: fc.constantFrom(0, 0, 0x20, 0x03),
  vlan: maybe(fc.constantFrom(5, 6), 8),
  fragment: fc.constantFrom(
    'none' as const,
    'none' as const,
    'none' as const,
    'none' as const,
    'first' as const,
    'later' as const,
  ),
});

export const steps: fc.Arbitrary<StepPlan> = fc.oneof(
  { weight: 6, arbitrary: packets },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant('neighbor' as const),
      from: machine,
      of: fc.oneof(machine, fc.constant('router' as const)),
      family,
    }),
  },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('answer' as const), to: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('refuse' as const), to: fc.nat(3) }) },
);

/** What is sent in a network, one after the other. */
export function traffic(maxLength: number): fc.Arbitrary<readonly StepPlan[]> {
  return fc
    .noBias(fc.array(steps, { minLength: 1, maxLength }))
    .map(readable((list) => list.map(describeStep).join('\n')));
}

export function describeStep(step: StepPlan): string {
  switch (step.type) {
    case 'packet': {
      const { from, to, family, protocol, frame, srcPort, dstPort, ttl, tos, vlan, fragment } = step;
      return [
        `  ${machineName(from)} sends ${protocol} over IPv${family} to ${typeof to === 'string' ? to : machineName(to.machine)}`,
        `port ${srcPort} > ${dstPort}`,
        ...(frame === 'path' ? [] : [`in a frame to ${frame === 'unknown' ? 'an unknown MAC' : 'all'}`]),
        ...(ttl === 64 ? [] : [`ttl ${ttl}`]),
        ...(tos === 0 ? [] : [`tos ${tos}`]),
        ...(vlan === null ? [] : [`vlan ${vlan}`]),
        ...(fragment === 'none' ? [] : [`${fragment} fragment`]),
      ].join(', ');
    }
    case 'neighbor': {
      const of = typeof step.of === 'number' ? machineName(step.of) : 'the router';
      return `  ${machineName(step.from)} asks for the MAC address of ${of} over IPv${step.family}`;
    }
    case 'answer':
      return `  frame ${step.to} before the last one is answered`;
    case 'refuse':
      return `  frame ${step.to} before the last one is refused`;
  }
}

/** A frame that came to a machine. */
export interface Arrival {
  readonly at: number;
  readonly frame: Uint8Array;
}

/** Makes frames of steps in one network. Machines are taken modulo how many there are. */
export class Talk {
  private readonly machines: readonly Machine[];

  constructor(
    private readonly plan: NetworkPlan,
    /** Of fragments: those of other conversations are not put together with them. */
    private readonly fragmentId = 1,
  ) {
    this.machines = machinesOf(plan);
  }

  /** Who sends what; undefined where there is nothing to say. `arrived`: what came before, oldest first. */
  frameOf(step: StepPlan, arrived: readonly Arrival[]): { from: number; frame: Uint8Array } | undefined {
    switch (step.type) {
      case 'packet':
        return { from: this.machine(step.from).index, frame: this.packet(step) };
      case 'neighbor':
        return { from: this.machine(step.from).index, frame: this.question(step) };
      default: {
        const about = arrived[arrived.length - 1 - (step.to % Math.max(1, arrived.length))];
        if (about === undefined) return undefined;
        const frame = step.type === 'answer' ? this.answer(about) : this.refusal(about);
        return frame === undefined ? undefined : { from: about.at, frame };
      }
    }
  }

  private machine(index: number): Machine {
    return this.machines[index % this.machines.length];
  }

  private packet(step: PacketPlan): Uint8Array {
    const from = this.machine(step.from);
    const isIpv4 = step.family === 4;
    const ip = this.destination(step.to, from);
    const dst = isIpv4 ? [ip.ipv4] : ip.ipv6;
    const src = isIpv4 ? [from.ipv4] : from.ipv6;
    // Of those that the host may translate to, and of no other machine: so they stay what they are, and every driver has the same.
    const srcPort = leasedPorts(from.plan.host).first + 8 * from.index + step.srcPort;
    const { protocol, bytes } = payload(step, srcPort);
    const fields = { src, dst, protocol, ttl: step.ttl, tos: step.tos };
    const dstMac =
      step.frame === 'broadcast' ? MAC_BROADCAST : step.frame === 'unknown' ? UNKNOWN_MAC : this.nextHop(step.to, from);
    return buildEthernet(
      {
        dst: dstMac,
        src: from.mac,
        type: isIpv4 ? EtherType.IPV4 : EtherType.IPV6,
        vlans: step.vlan === null ? [] : [{ id: step.vlan }],
      },
      buildIp(fields, bytes, step.fragment, this.fragmentId),
    );
  }

  private destination(to: Destination, from: Machine): { ipv4: number; ipv6: ArrayLike<number> } {
    if (typeof to !== 'string') return this.machine(to.machine);
    const addresses = {
      vip: VIP,
      outer: OUTER,
      router: routerAddresses(0, from.bridge),
      nowhere: { ipv4: '10.77.0.1', ipv6: 'fd77::1' },
    }[to];
    return { ipv4: parseIpv4(addresses.ipv4)!, ipv6: parseIpv6(addresses.ipv6)! };
  }

  private nextHop(to: Destination, from: Machine): number {
    const target = typeof to === 'string' ? undefined : this.machine(to.machine);
    if (target?.bridge === from.bridge) return target.mac;
    const count = this.plan.bridges.length;
    const router = this.plan.routers.findIndex(({ bridges }) => bridges.some((at) => at % count === from.bridge));
    return router < 0 ? (target?.mac ?? UNKNOWN_MAC) : routerMac(router, from.bridge);
  }

  private question({ from: index, of, family }: NeighborPlan): Uint8Array {
    const from = this.machine(index);
    const target = this.destination(of === 'router' ? of : { machine: of }, from);
    return family === 4
      ? buildArpRequest(from.mac, from.ipv4, target.ipv4)
      : buildNeighborSolicitation({ src: from.ipv6, srcMac: from.mac, target: target.ipv6 });
  }

  /** The other way round, from whoever got the frame. */
  private answer({ at, frame }: Arrival): Uint8Array | undefined {
    const key = new FlowKey();
    extractKey(frame, key);
    if (key.nwFrag !== Frag.NONE) return undefined;
    const isIpv4 = key.ethType === EtherType.IPV4;
    if (!isIpv4 && key.ethType !== EtherType.IPV6) return undefined;
    const bytes = answerPayload(key, frame);
    if (bytes === undefined) return undefined;
    const count = isIpv4 ? 1 : 4;
    const packet = buildIp(
      {
        src: key.words.slice(Word.NW_DST, Word.NW_DST + count),
        dst: key.words.slice(Word.NW_SRC, Word.NW_SRC + count),
        protocol: key.nwProto,
        ttl: 64,
        tos: 0,
      },
      bytes,
      'none',
    );
    return this.back(at, key, packet);
  }

  private refusal({ at, frame }: Arrival): Uint8Array | undefined {
    const key = new FlowKey();
    extractKey(frame, key);
    const from = this.machines[at];
    const offset = key.vlanTci === 0 ? 14 : 18;
    const error =
      key.ethType === EtherType.IPV4
        ? buildIcmpError(IcmpType.UNREACHABLE, UnreachableCode.PORT, from.ipv4, frame, offset)
        : key.ethType === EtherType.IPV6
          ? buildIcmpv6Error(Icmpv6Type.UNREACHABLE, Unreachable6Code.PORT, from.ipv6, frame, offset)
          : undefined;
    return error && this.back(at, key, error);
  }

  private back(at: number, { vlanTci, ethSrc, ethType }: FlowKey, packet: Uint8Array): Uint8Array {
    const vlans = vlanTci === 0 ? [] : [{ id: vlanTci & 0xfff }];
    return buildEthernet({ dst: ethSrc, src: this.machines[at].mac, type: ethType, vlans }, packet);
  }
}

const UNKNOWN_MAC = 0x0200_0000_00ff;
/** GRE: has no ports that a key holds. */
const OTHER_PROTOCOL = 47;

interface IpFields {
  readonly src: ArrayLike<number>;
  readonly dst: ArrayLike<number>;
  readonly protocol: number;
  readonly ttl: number;
  readonly tos: number;
}

function buildIp(
  { src, dst, protocol, ttl, tos }: IpFields,
  payload: Uint8Array,
  part: PacketPlan['fragment'],
  id = 0,
): Uint8Array {
  const isIpv4 = src.length === 1;
  // A checksum is of the whole datagram, so that what is put together again is right.
  const build = (bytes: Uint8Array, fragment?: { offset: number; more: boolean }) =>
    isIpv4
      ? buildIpv4({ src: src[0], dst: dst[0], protocol, ttl, tos, id, fragment }, bytes)
      : buildIpv6(
          { src, dst, protocol, hopLimit: ttl, trafficClass: tos, fragment: fragment && { ...fragment, id } },
          bytes,
        );
  const whole = build(payload);
  if (part === 'none') return whole;
  const data = whole.slice(whole.length - payload.length);
  const cut = 24;
  return part === 'first'
    ? build(data.slice(0, cut), { offset: 0, more: true })
    : build(data.slice(cut), { offset: cut, more: false });
}

const DATA = new Uint8Array(32);

function payload({ protocol, family, dstPort }: PacketPlan, srcPort: number): { protocol: number; bytes: Uint8Array } {
  switch (protocol) {
    case 'tcp':
      return { protocol: IpProtocol.TCP, bytes: buildTcp({ srcPort, dstPort, flags: TcpFlag.SYN, seq: 1 }, DATA) };
    case 'udp':
      return { protocol: IpProtocol.UDP, bytes: buildUdp(srcPort, dstPort, DATA) };
    case 'sctp':
      return { protocol: IpProtocol.SCTP, bytes: sctp(srcPort, dstPort, 1, 0) };
    case 'icmp':
      return family === 4
        ? { protocol: IpProtocol.ICMP, bytes: buildIcmpEcho(IcmpType.ECHO_REQUEST, srcPort, 1, DATA) }
        : { protocol: IpProtocol.ICMPV6, bytes: buildIcmpv6Echo(Icmpv6Type.ECHO_REQUEST, srcPort, 1, DATA) };
    case 'other':
      return { protocol: OTHER_PROTOCOL, bytes: DATA };
  }
}

/** What answers a packet with this key; undefined where nothing does. */
function answerPayload(key: FlowKey, frame: Uint8Array): Uint8Array | undefined {
  const { tpSrc, tpDst } = key;
  switch (key.nwProto) {
    case IpProtocol.TCP: {
      const flags = TcpFlag.SYN | TcpFlag.ACK;
      return buildTcp({ srcPort: tpDst, dstPort: tpSrc, flags, seq: 100, ack: 2 + DATA.length });
    }
    case IpProtocol.UDP:
      return buildUdp(tpDst, tpSrc, DATA);
    case IpProtocol.SCTP:
      return sctp(tpDst, tpSrc, 2, 0x1111_1111);
    case IpProtocol.ICMP:
      if (tpSrc !== IcmpType.ECHO_REQUEST) return undefined;
      return buildIcmpEcho(IcmpType.ECHO_REPLY, echoId(frame), 1, DATA);
    case IpProtocol.ICMPV6:
      if (tpSrc !== Icmpv6Type.ECHO_REQUEST) return undefined;
      return buildIcmpv6Echo(Icmpv6Type.ECHO_REPLY, echoId(frame), 1, DATA);
    case OTHER_PROTOCOL:
      return DATA;
    default:
      return undefined;
  }
}

/** The identifier of an echo message, which {@link DATA} is behind. */
function echoId(frame: Uint8Array): number {
  const at = frame.length - DATA.length - 4;
  return (frame[at] << 8) | frame[at + 1];
}

/** INIT or INIT ACK (RFC 9260 sections 3.3.2 and 3.3.3). */
function sctp(srcPort: number, dstPort: number, chunk: 1 | 2, tag: number): Uint8Array {
  const bytes = new Uint8Array(12 + 20);
  writeU16(bytes, 0, srcPort);
  writeU16(bytes, 2, dstPort);
  writeU32(bytes, 4, tag);
  bytes[12] = chunk;
  writeU16(bytes, 14, 20);
  writeU32(bytes, 16, chunk === 1 ? 0x1111_1111 : 0x2222_2222);
  writeU32(bytes, 20, 65_535);
  writeU16(bytes, 24, 1);
  writeU16(bytes, 26, 1);
  const sum = crc32c(bytes, 0, bytes.length);
  // Least significant byte first (RFC 9260 appendix A).
  for (let i = 0; i < 4; i++) bytes[8 + i] = (sum >>> (8 * i)) & 0xff;
  return bytes;
}
