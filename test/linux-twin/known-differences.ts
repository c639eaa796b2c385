import { formatMac } from '../../src/packet/address.js';
import { cidrContains, formatIp, type Ip, parseCidr } from '../../src/packet/ip.js';
import type { Network, PodSpec, RouterPortSpec, RouterSpec, RouteSpec } from './network.js';
import { describePacket, isNearby, type Packet, type Seen, type Sent } from './packets.js';

/** What a pod got because of what a pod sent. */
interface Case {
  readonly network: Network;
  readonly sent: Sent;
  /** Who got it. */
  readonly pod: PodSpec;
  readonly packet: Packet;
}

interface Difference {
  readonly why: string;
  /** What is compared in place of the packet; undefined where nothing is. The packet itself where the difference is none. */
  readonly comparable: (one: Case) => Packet | undefined;
}

/** Where ours and Linux may differ, and why that is right. */
export const KNOWN_DIFFERENCES: readonly Difference[] = [
  {
    why: 'which port or identifier a source is translated to is up to the router',
    comparable: ({ network, packet }) => withoutChosenPorts(network, packet),
  },
  {
    why: 'ours quote the packet as it came into the virtual network, Linux as it came to the router, or one hop later',
    comparable: ({ packet }) => withoutQuotedTtl(packet),
  },
  {
    why: 'Linux answers pings of all nodes, ours take no part in groups',
    comparable: ({ sent, packet }) => (isGroup(sent.packet.destination) && isEchoReply(packet) ? undefined : packet),
  },
  {
    why: 'ours do not forward to 0.0.0.0/8, and to IPv6 addresses that begin with 96 zero bits, which RFC 4291 made obsolete',
    comparable: ({ sent, packet }) =>
      isIn('0.0.0.0/8', sent.packet.destination) || isIn('::/96', sent.packet.destination) ? undefined : packet,
  },
  {
    why: 'Linux says nothing about what a rule rejects of a protocol that it does not know, as if its checksum were wrong',
    comparable: ({ sent, packet }) =>
      sent.packet.content.type === 'other' && isProhibited(packet) ? undefined : packet,
  },
  {
    why: 'errors about packets that open no connection and are of none count as answers here, and for Linux they do not',
    comparable: (one) => {
      const { content } = one.sent.packet;
      const opensNone = content.type === 'icmp' || (content.type === 'echo' && content.isReply);
      return opensNone && isRouterAnswer(one) && hasStatefulFilter(one.network) ? undefined : one.packet;
    },
  },
  {
    why: 'our routers answer to where the packet came from, Linux routes the answer to its source',
    comparable: (one) => (isRouterAnswer(one) && !comesBack(one.network, one.sent) ? undefined : one.packet),
  },
  {
    why: 'that nobody is there ours say to the translated source (docs/nat.md, Limits)',
    comparable: ({ network, sent, packet }) => {
      const isTranslated = network.routers.some(({ nat }) =>
        nat.some((rule) => rule.type === 'snat' && isIn(rule.source, sent.packet.source)),
      );
      return isNobodyThere(packet) && isTranslated ? undefined : packet;
    },
  },
  {
    why: 'pings of an address that sources are translated to go to the host that has leased it, as if they were answers',
    comparable: ({ network, sent, packet }) => {
      const { destination, content } = sent.packet;
      const isAsking = content.type === 'icmp' || (content.type === 'echo' && !content.isReply);
      return isAsking && sourcesOf(network).has(formatIp(destination)) ? undefined : packet;
    },
  },
  {
    why: 'ours look for the next hop before a port filters what goes out of it, Linux when it has',
    comparable: ({ network, packet }) => {
      const isFiltered = network.routers.some(({ ports }) => ports.some(({ outbound }) => outbound.length > 0));
      return isNobodyThere(packet) && isFiltered ? undefined : packet;
    },
  },
  {
    why: 'an error about a packet to an address of the router, or to one that it translates, comes from there or from the port',
    comparable: ({ network, packet }) => {
      if (packet.content.type !== 'error') return packet;
      const { destination } = packet.content.quoted;
      const text = formatIp(destination);
      const isOfRouter = network.routers.some(({ ports }) =>
        ports.some(({ subnets }) => subnets.some((subnet) => subnet.split('/')[0] === text)),
      );
      return isOfRouter || destinationsOf(network).has(text) ? { ...packet, source: destination } : packet;
    },
  },
  {
    why: 'ours translate answers back where they leave at the port that the connection came in at, Linux in the router',
    comparable: ({ network, sent, pod, packet }) => {
      const translated = network.routers.flatMap(({ nat }) =>
        nat.flatMap((rule) => (rule.type === 'dnat' ? [rule.target, rule.destination] : [])),
      );
      const { source, destination, content } = packet;
      const spoken = content.type === 'error' ? content.quoted.destination : source;
      const isAround = !isOf(pod, destination) || isNearby(pod, sent.packet.source);
      return isAround && translated.includes(formatIp(spoken)) ? undefined : packet;
    },
  },
];

function isOf({ ipv4, ipv6 }: PodSpec, address: Ip): boolean {
  const text = formatIp(address);
  return text === ipv4 || text === ipv6;
}

/** What has come to a pod, in a line that is the same for both unless they differ; undefined where nothing is compared. */
export function comparable(
  network: Network,
  sent: Sent,
  pod: PodSpec,
  { srcMac, dstMac, packet }: Seen,
): string | undefined {
  let compared: Packet | undefined = packet;
  for (const difference of KNOWN_DIFFERENCES) {
    compared = compared && difference.comparable({ network, sent, pod, packet: compared });
  }
  return compared && `${pod.name} ${formatMac(srcMac)} > ${formatMac(dstMac)} ${describePacket(compared)}`;
}

function withoutChosenPorts(network: Network, packet: Packet): Packet {
  const chosen = sourcesOf(network);
  const isChosen = (ip: Ip) => chosen.has(formatIp(ip));
  const { source, destination, content } = packet;
  switch (content.type) {
    case 'tcp':
    case 'udp': {
      const srcPort = isChosen(source) ? 0 : content.srcPort;
      return { ...packet, content: { ...content, srcPort, dstPort: isChosen(destination) ? 0 : content.dstPort } };
    }
    case 'echo':
      return isChosen(source) || isChosen(destination) ? { ...packet, content: { ...content, identifier: 0 } } : packet;
    case 'error':
      return { ...packet, content: { ...content, quoted: withoutChosenPorts(network, content.quoted) } };
    default:
      return packet;
  }
}

function withoutQuotedTtl(packet: Packet): Packet {
  const { content } = packet;
  if (content.type !== 'error') return packet;
  return { ...packet, content: { ...content, quoted: { ...content.quoted, ttl: 0 } } };
}

function isGroup({ family, words }: Ip): boolean {
  return family === 6 && words[0] >>> 24 === 0xff;
}

function isEchoReply({ content }: Packet): boolean {
  return content.type === 'echo' && content.isReply;
}

function isProhibited({ source, content }: Packet): boolean {
  if (content.type !== 'error') return false;
  const { icmpType, icmpCode } = content;
  return source.family === 4 ? icmpType === 3 && icmpCode === 13 : icmpType === 1 && icmpCode === 1;
}

/** Whether something asks for answers to let them out of a router, or to a pod. */
function hasStatefulFilter({ routers, pods }: Network): boolean {
  const ports = routers.flatMap((router) => router.ports);
  const places = [...routers, ...ports, ...pods].map(({ outbound }) => outbound);
  return places.some((rules) => rules.some((rule) => rule.if.isReturn));
}

/** Of IPv4: network unreachable, or prohibited. */
export function isSaidByRoute({ source, content }: Packet): boolean {
  return (
    source.family === 4 && content.type === 'error' && content.icmpType === 3 && [0, 13].includes(content.icmpCode)
  );
}

/** Host unreachable, or address unreachable. */
export function isNobodyThere({ source, content }: Packet): boolean {
  if (content.type !== 'error') return false;
  const { icmpType, icmpCode } = content;
  return source.family === 4 ? icmpType === 3 && icmpCode === 1 : icmpType === 1 && icmpCode === 3;
}

/** Whether a router says this, and not a pod. */
function isRouterAnswer({ sent, packet }: Case): boolean {
  if (packet.content.type === 'error') return sent.packet.content.type !== 'error';
  const asked = sent.packet.content;
  return isEchoReply(packet) && asked.type === 'echo' && !asked.isReply;
}

/** What sources are translated to. */
function sourcesOf(network: Network): Set<string> {
  return new Set(
    network.routers.flatMap(({ nat }) => nat.flatMap((rule) => (rule.type === 'snat' ? [rule.address] : []))),
  );
}

/** What is translated to other destinations. */
function destinationsOf(network: Network): Set<string> {
  return new Set(
    network.routers.flatMap(({ nat }) => nat.flatMap((rule) => (rule.type === 'dnat' ? [rule.destination] : []))),
  );
}

/** Whether all routers have a route to the source of the packet that leads to its pod, on the only way there is. */
function comesBack(network: Network, { pod, packet: { source, destination } }: Sent): boolean {
  if (!isOf(pod, source)) return false;
  // A translated destination may lie back at a router that the packet has passed.
  if (network.routers.length > 1 && destinationsOf(network).has(formatIp(destination))) return false;
  return network.routers.every((router) => leadsTo(network, router, pod, source));
}

function leadsTo({ routers }: Network, router: RouterSpec, pod: PodSpec, address: Ip): boolean {
  const route = bestRoute(router.routes, address);
  if (route === undefined) return false;
  const port = router.ports.find(({ name }) => name === route.port);
  const isHere = ({ to }: RouterPortSpec) => 'bridge' in to && to.bridge === pod.bridge;
  if (port !== undefined && isHere(port)) return route.gateway === undefined;
  // Whoever is not at the pod's bridge knows the way by the other router.
  const others = routers.flatMap(({ ports }) => (ports === router.ports ? [] : ports));
  const isByOther = others.some(({ subnets }) => subnets.some((subnet) => subnet.split('/')[0] === route.gateway));
  return isByOther && !router.ports.some(isHere);
}

function bestRoute(routes: readonly RouteSpec[], address: Ip): RouteSpec | undefined {
  const length = ({ destination }: RouteSpec) => Number(destination.split('/')[1]);
  return routes
    .filter(({ destination }) => isIn(destination, address))
    .sort((a, b) => length(b) - length(a) || a.weight - b.weight)[0];
}

function isIn(range: string, address: Ip): boolean {
  return cidrContains(parseCidr(range)!, address);
}
