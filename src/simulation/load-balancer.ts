import type { NatSpec } from '../flow/action.js';
import { Frag, Word } from '../flow/key.js';
import { EtherType } from '../packet/ethernet.js';
import { formatIp } from '../packet/ip.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import type { SimulationContext } from './context.js';
import type { BalancedMember, Fact, LoadBalancerFact, PoolFact, SourceNatFact, VipFact } from './fact.js';
import { isHealthPort, isToHealthPort, takeHealthAnswer } from './health-answer.js';
import { type Outcome, RESTORE, reverseHere, translateDestination, translateToAddress } from './nat.js';
import type { ChosenMember, TraceStep } from './trace.js';

/** A device that a load balancer may serve. */
export interface BalancedDevice {
  readonly loadBalancer?: Fact<LoadBalancerFact>;
  readonly sourceNat?: SourceNatFact;
}

/**
 * A packet comes to a device: one to a VIP of its load balancer goes to a member from here on. The connections of a VIP
 * are translated where they came in (see connection.ts), so answers have the VIP's address again when they leave there. For
 * that they have to be known as answers wherever they pass, which takes that packets at the device are tracked.
 *
 * `done`: it is for a member. `pass`: it has nothing to do with a VIP. `wait`: it does not go on here.
 */
export function balance(context: SimulationContext, device: BalancedDevice): Outcome {
  if (device.loadBalancer === undefined) return 'pass';
  const balancer = context.read(device.loadBalancer);
  if (balancer === undefined) return 'wait';
  if (balancer === null) return 'pass';
  if (!balancer.adminStateUp) {
    context.trace?.push({ type: 'load-balancer-off', loadBalancer: balancer.id });
    return 'pass';
  }
  const answer = balancer.vip(context.packet, context.mask);
  const vip = answer === undefined ? null : context.read(answer);
  if (vip === undefined) return 'wait';
  if (vip !== null) context.trace?.push(vipStep(balancer, vip));
  if (vip !== null && vip !== 'tracked' && !vip.adminStateUp) return 'pass';
  const isAnswer = vip === 'tracked' && isToHealthPort(context.packet);
  if (isAnswer && takeHealthAnswer(context, balancer) !== false) return 'wait';
  context.tracking.track();
  if (vip === null) return 'pass';
  return vip === 'tracked' ? followConnection(context, balancer, device) : toMember(context, vip, device);
}

/** To an address of a VIP, but only the connection can tell whether it is the VIP's business. */
function followConnection(
  context: SimulationContext,
  balancer: LoadBalancerFact,
  { sourceNat }: BalancedDevice,
): Outcome {
  // The answer of a member to itself: see `toItself`.
  if (sourceNat !== undefined) {
    const outcome = reverseHere(context, sourceNat);
    if (outcome !== 'unmade') return outcome;
  }
  const outcome = translateDestination(context, () => RESTORE);
  if (outcome === 'wait' || outcome === 'done') return outcome;
  return isIcmp(context) && takeHealthError(context, balancer) ? 'wait' : 'pass';
}

function isIcmp({ packet }: SimulationContext): boolean {
  const protocol = packet.ethType === EtherType.IPV4 ? IpProtocol.ICMP : IpProtocol.ICMPV6;
  return packet.nwProto === protocol && packet.nwFrag === Frag.NONE;
}

/** An ICMP error about no connection may be about what a member was asked. Returns whether it is, or whether that is not known yet. */
function takeHealthError(context: SimulationContext, balancer: LoadBalancerFact): boolean {
  if (balancer.checker === undefined || context.read(balancer.checker) === null) return false;
  const port = context.answeredPort();
  return port !== null && isHealthPort(port) && takeHealthAnswer(context, balancer) !== false;
}

function toMember(context: SimulationContext, vip: VipFact, device: BalancedDevice): Outcome {
  const { packet } = context;
  const isIpv4 = packet.ethType === EtherType.IPV4;
  const address = packet.words.slice(Word.NW_DST, Word.NW_DST + (isIpv4 ? 1 : 4));
  const outcome = translateDestination(context, () => {
    const member = choose(context, vip);
    if (member === undefined) return undefined;
    // Connections that have a member keep it, also one that takes no others.
    return member === null ? RESTORE : destination(member);
  });
  if (outcome === 'unmade') {
    context.drop('no-member');
    return 'wait';
  }
  if (outcome !== 'done') return outcome;
  return isToItself(context) ? toItself(context, address, device) : 'done';
}

/** Who takes a new connection; null when nobody does, undefined when that is not known yet. */
function choose(context: SimulationContext, vip: VipFact): BalancedMember | null | undefined {
  const pool = context.read(vip.pool);
  if (pool === undefined) return undefined;
  if (pool === null) return null;
  if (!pool.adminStateUp) {
    context.trace?.push({ type: 'member', pool: pool.id, member: null });
    return null;
  }
  if (pool.members.isDecided) {
    const member = pool.members.ofBucket(0) ?? null;
    context.trace?.push(memberStep(pool, member, 'alone'));
    return member;
  }
  if (vip.isSticky) {
    const member = pool.members.ofClient(...seeClient(context)) ?? null;
    context.trace?.push(memberStep(pool, member, 'client'));
    return member;
  }
  const bucket = context.tracking.bucket(pool.members.bits);
  if (bucket === undefined) return undefined;
  const member = pool.members.ofBucket(bucket) ?? null;
  context.trace?.push(memberStep(pool, member, pool.members.dealtTo(bucket) === member ? 'bucket' : 'stand-in'));
  return member;
}

function vipStep(balancer: LoadBalancerFact, vip: VipFact | 'tracked'): TraceStep {
  const found = vip === 'tracked' ? { vip: null, isOn: true } : { vip: vip.id, isOn: vip.adminStateUp };
  return { type: 'vip', loadBalancer: balancer.id, ...found };
}

function memberStep(pool: PoolFact, member: BalancedMember | null, by: ChosenMember['by']): TraceStep {
  if (member === null) return { type: 'member', pool: pool.id, member };
  const { id, address: words, port } = member;
  const address = formatIp({ family: words.length === 1 ? 4 : 6, words: [...words] });
  return { type: 'member', pool: pool.id, member: { id, address, port, by } };
}

function seeClient({ packet, mask }: SimulationContext): [words: Uint32Array, offset: number, count: number] {
  const isIpv4 = packet.ethType === EtherType.IPV4;
  if (isIpv4) mask.seeIpv4Src();
  else mask.seeIpv6Src();
  return [packet.words, Word.NW_SRC, isIpv4 ? 1 : 4];
}

function destination({ address, port }: BalancedMember): NatSpec {
  const ip = Array.from(address);
  return { kind: 'dst', ipMin: ip, ipMax: ip, portMin: port, portMax: port };
}

/** Whether a member is its own client. As many bits are seen as prove that it is not. */
function isToItself({ packet, mask }: SimulationContext): boolean {
  const { words } = packet;
  const isIpv4 = packet.ethType === EtherType.IPV4;
  const count = isIpv4 ? 1 : 4;
  let equal = 0;
  for (let i = 0; i < count && equal === 32 * i; i++) {
    equal += Math.clz32(words[Word.NW_SRC + i] ^ words[Word.NW_DST + i]);
  }
  const bits = Math.min(equal + 1, 32 * count);
  if (isIpv4) {
    mask.seeIpv4Src(bits);
    mask.seeIpv4Dst(bits);
  } else {
    mask.seeIpv6Src(bits);
    mask.seeIpv6Dst(bits);
  }
  return equal === 32 * count;
}

/** No machine takes packets from its own address, so a member that asks its VIP is asked by the VIP. */
function toItself(context: SimulationContext, vip: Uint32Array, { sourceNat }: BalancedDevice): Outcome {
  if (sourceNat === undefined) {
    context.drop('no-connection-state');
    return 'wait';
  }
  return translateToAddress(context, sourceNat, vip);
}
