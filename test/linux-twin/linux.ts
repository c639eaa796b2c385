import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Namespace } from '../../src/datapath/link/namespace.js';
import { Frames } from '../frames.js';
import type { BridgeSpec, Match, NatSpec, Network, RouterPortSpec, RouterSpec, RuleSpec } from './network.js';
import type { Twin } from './twin.js';

/** Nothing has come for so long: what was sent has gone as far as it goes. */
const QUIET_MS = 40;
/** By its path: npm puts a program of the same name, which comes with a package, before it. */
const NFT = '/usr/sbin/nft';
/** Of a question for a neighbour, of which there is one. */
const QUESTION_MS = 20;

/**
 * A {@link Network} of Linux: each router a namespace that forwards, with nftables; each bridge a Linux bridge in a namespace of
 * its own, as each tracks connections by itself; pods are the far ends of cables, without a kernel's opinion of what comes.
 */
export class LinuxTwin implements Twin {
  private readonly tag = `twin-${randomBytes(3).toString('hex')}`;
  private readonly names: string[] = [];
  private readonly arrived: [string, Uint8Array][] = [];
  private lastArrival = 0;
  private frames: Frames | undefined;

  private constructor(private readonly network: Network) {}

  /** @param program compiled from frames.c */
  static async build(network: Network, program: string): Promise<LinuxTwin> {
    const twin = new LinuxTwin(network);
    try {
      const { routers, bridges } = network;
      const places = ['pods', ...bridges.map(({ name }) => name), ...routers.map(({ name }) => name)];
      for (const place of places) twin.names.push(twin.nameOf(place));
      await batch(
        ['ip'],
        places.map((place) => `netns add ${twin.nameOf(place)}`),
      );
      for (const place of places) twin.inside(place, setSystemControls);
      for (const bridge of bridges) await twin.buildBridge(bridge);
      for (const router of routers) await twin.buildRouter(router);
      await twin.startFrames(program);
      return twin;
    } catch (error) {
      await twin.close();
      throw error;
    }
  }

  send(pod: string, frame: Uint8Array): void {
    this.frames!.send(pod, frame);
  }

  async received(): Promise<[string, Uint8Array][]> {
    const began = performance.now();
    while (performance.now() - Math.max(began, this.lastArrival) < QUIET_MS) await sleep(5);
    return this.arrived.splice(0);
  }

  async letNeighborsFail(): Promise<void> {
    await sleep(5 * QUESTION_MS);
  }

  async close(): Promise<void> {
    await this.frames?.close();
    const left = this.names.filter((name) => existsSync(`/run/netns/${name}`));
    await batch(
      ['ip'],
      left.map((name) => `netns delete ${name}`),
    );
  }

  private nameOf(place: string): string {
    return `${this.tag}-${place}`;
  }

  private filter(place: string, rules: string): Promise<void> {
    return runProgram(['ip', 'netns', 'exec', this.nameOf(place), NFT, '-f', '-'], rules);
  }

  /** Does something synchronous in a namespace. */
  private inside(place: string, action: () => void): void {
    const namespace = Namespace.open(`/run/netns/${this.nameOf(place)}`);
    try {
      namespace.run(action);
    } finally {
      namespace.close();
    }
  }

  private async buildBridge({ name }: BridgeSpec): Promise<void> {
    const { pods, routers } = this.network;
    const ends = [
      ...pods.filter(({ bridge }) => bridge === name).map((pod) => ({ name: pod.name, mac: pod.mac, place: 'pods' })),
      ...routers.flatMap((router) =>
        router.ports
          .filter(({ to }) => 'bridge' in to && to.bridge === name)
          .map((port) => ({ name: port.name, mac: port.mac, place: router.name })),
      ),
    ];
    const lines = ['link add bridge type bridge stp_state 0 mcast_snooping 0', 'link set bridge up'];
    for (const end of ends) {
      const peer = `peer name ${end.name} address ${end.mac} netns ${this.nameOf(end.place)}`;
      lines.push(`link add ${end.name} type veth ${peer}`, `link set ${end.name} master bridge up`);
    }
    await batch(['ip', '-n', this.nameOf(name)], lines);
    // Where everybody is, as the topology knows.
    await batch(
      ['bridge', '-n', this.nameOf(name)],
      ends.map((end) => `fdb add ${end.mac} dev ${end.name} master static`),
    );
    await batch(
      ['ip', '-n', this.nameOf('pods')],
      ends.filter(({ place }) => place === 'pods').map((end) => `link set ${end.name} up`),
    );
    const here = pods.filter(({ bridge }) => bridge === name);
    if (here.some(({ inbound, outbound }) => inbound.length + outbound.length > 0)) {
      await this.filter(name, bridgeRules(here));
    }
  }

  private async buildRouter(router: RouterSpec): Promise<void> {
    const { pods, routers } = this.network;
    const lines: string[] = ['link set lo up'];
    const peers = routers.find(({ name }) => name !== router.name)?.ports ?? [];
    const isSecond = router !== routers[0];
    for (const { name, mac, subnets, to } of router.ports) {
      if ('port' in to && !isSecond) {
        const peer = peers.find((port) => port.name === to.port)!;
        const far = `peer name ${peer.name} address ${peer.mac} netns ${this.nameOf(routers[1].name)}`;
        lines.push(`link add ${name} address ${mac} type veth ${far}`);
      }
      lines.push(
        `link set ${name} up`,
        `addr add ${subnets[0]} dev ${name}`,
        `addr add ${subnets[1]} dev ${name} nodad`,
      );
      const neighbors = [
        ...pods
          .filter(({ bridge }) => 'bridge' in to && to.bridge === bridge)
          .map((pod) => [pod.ipv4, pod.ipv6, pod.mac]),
        ...peers
          .filter((port) => areLinked(port.to, to, name))
          .map((port) => [...port.subnets.map(addressOf), port.mac]),
      ];
      for (const [v4, v6, neighbor] of neighbors) {
        for (const address of [v4, v6]) lines.push(`neigh add ${address} lladdr ${neighbor} dev ${name} nud permanent`);
      }
    }
    // Those to its own networks it has by itself.
    const own = new Set(router.ports.flatMap(({ subnets }) => subnets.map(networkOf)));
    for (const { destination, weight, type, port, gateway } of router.routes) {
      if (own.has(destination)) continue;
      const way = gateway === undefined ? `dev ${port}` : `via ${gateway} dev ${port} onlink`;
      const route = type === 'normal' ? `${destination} ${way}` : `${ROUTE_TYPES[type]} ${destination}`;
      lines.push(`route add ${route} metric ${weight}`);
    }
    await batch(['ip', '-n', this.nameOf(router.name)], lines);
    this.inside(router.name, () => {
      for (const { name } of router.ports) askOnce(name);
    });
    await this.filter(router.name, routerRules(router));
  }

  private async startFrames(program: string): Promise<void> {
    const names = this.network.pods.map(({ name }) => name);
    this.frames = await Frames.start(program, this.nameOf('pods'), names, (name, frame) => {
      this.arrived.push([name, frame]);
      this.lastArrival = performance.now();
    });
  }
}

const ROUTE_TYPES = { blackhole: 'blackhole', reject: 'prohibit' } as const;

function addressOf(subnet: string): string {
  return subnet.split('/')[0];
}

/** The network of an address that ends in its last number. */
function networkOf(subnet: string): string {
  const [address, prefix] = subnet.split('/');
  return `${address.includes(':') ? address.replace(/::[0-9a-f]+$/, '::') : address.replace(/\d+$/, '0')}/${prefix}`;
}

/** Whether a port whose other end is `theirs` is reached through the one named `name`, whose other end is `ours`. */
function areLinked(theirs: RouterPortSpec['to'], ours: RouterPortSpec['to'], name: string): boolean {
  if ('port' in theirs) return theirs.port === name;
  return 'bridge' in ours && ours.bridge === theirs.bridge;
}

function set(name: string, value: string): void {
  writeFileSync(`/proc/sys/net/${name}`, value);
}

function setSystemControls(): void {
  set('ipv4/ip_forward', '1');
  set('ipv6/conf/all/forwarding', '1');
  for (const which of ['all', 'default']) {
    set(`ipv4/conf/${which}/rp_filter`, '0');
    set(`ipv4/conf/${which}/send_redirects`, '0');
    set(`ipv6/conf/${which}/accept_dad`, '0');
    set(`ipv6/conf/${which}/dad_transmits`, '0');
    set(`ipv6/conf/${which}/router_solicitations`, '0');
  }
  // What errors come from, and how many.
  set('ipv4/icmp_errors_use_inbound_ifaddr', '1');
  set('ipv4/icmp_ratelimit', '0');
  set('ipv4/icmp_ratemask', '0');
  set('ipv6/icmp/ratelimit', '0');
  set('ipv6/icmp/ratemask', '\n');
}

/** What this machine lacks for networks of Linux; undefined where there is all. */
export async function whatIsMissing(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'root';
  const name = `twin-${randomBytes(3).toString('hex')}`;
  try {
    await batch(['ip'], [`netns add ${name}`]);
    try {
      await batch(['ip', '-n', name], ['link add bridge type bridge', 'link add near type veth peer name far']);
      const rules = table('inet twin', [chain('own', 'type filter hook prerouting priority filter;', RETURN)]);
      await runProgram(['ip', 'netns', 'exec', name, NFT, '-f', '-'], rules);
    } finally {
      await batch(['ip'], [`netns delete ${name}`]);
    }
  } catch (error) {
    return `ip, nft and a kernel with bridges: ${(error as Error).message.split('\n')[0]}`;
  }
  return undefined;
}

/** Has neighbours at an interface asked for once. */
function askOnce(device: string): void {
  for (const family of ['ipv4', 'ipv6']) {
    set(`${family}/neigh/${device}/mcast_solicit`, '1');
    set(`${family}/neigh/${device}/retrans_time_ms`, String(QUESTION_MS));
  }
}

/** Pings are answered; whatever else is for the router comes to nothing. */
const OWN = `chain own {
  type filter hook input priority filter; policy drop;
  icmp type echo-request accept
  icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept
}`;

function routerRules({ ports, inbound, outbound, nat }: RouterSpec): string {
  const filtered = (side: 'inbound' | 'outbound') => ports.filter((port) => port[side].length > 0);
  const own = (side: 'inbound' | 'outbound', name: 'iifname' | 'oifname') =>
    filtered(side).map((port) => `${name} ${port.name} jump ${side}_${port.name}`);
  const chains = (side: 'inbound' | 'outbound') =>
    filtered(side).map((port) => chain(`${side}_${port.name}`, '', port[side].map(ruleText)));
  // A port filters what comes in before addresses are translated, and what goes out behind that.
  return table('inet twin', [
    OWN,
    ...chains('inbound'),
    ...chains('outbound'),
    chain('ports_in', 'type filter hook prerouting priority mangle;', own('inbound', 'iifname')),
    chain('router_in', 'type filter hook prerouting priority filter;', inbound.map(ruleText)),
    chain('router_out', 'type filter hook postrouting priority filter;', outbound.map(ruleText)),
    chain('ports_out', 'type filter hook postrouting priority srcnat + 10;', own('outbound', 'oifname')),
    chain('destinations', 'type nat hook prerouting priority dstnat;', nat.flatMap(destinationTexts)),
    chain('sources', 'type nat hook postrouting priority srcnat;', nat.flatMap(sourceTexts)),
  ]);
}

function bridgeRules(pods: Network['pods']): string {
  const both = (side: 'inbound' | 'outbound', name: 'iifname' | 'oifname') => {
    const filtered = pods.filter((pod) => pod[side].length > 0);
    const own = filtered.map((pod) => chain(`${side}_${pod.name}`, '', pod[side].map(ruleText)));
    const jumps = filtered.map((pod) => `${name} ${pod.name} jump ${side}_${pod.name}`);
    const priority = side === 'inbound' ? 'filter' : 'filter + 10';
    return [...own, chain(`pods_${side}`, `type filter hook forward priority ${priority};`, jumps)];
  };
  return table('bridge twin', [...both('inbound', 'iifname'), ...both('outbound', 'oifname')]);
}

function table(name: string, chains: readonly string[]): string {
  return `table ${name} {\n${chains.join('\n')}\n}\n`;
}

function chain(name: string, type: string, rules: readonly string[]): string {
  return `chain ${name} {\n${[type, ...rules].map((line) => `  ${line}\n`).join('')}}`;
}

/** Answers, and errors about connections, whichever way they go. */
const RETURN = ['ct state related accept', 'ct direction reply accept'];

function ruleText({ verdict, if: match }: RuleSpec): string {
  if (match.isReturn) return RETURN.join('\n  ');
  return `${matchText(match)} ${verdict === 'reject' ? 'reject with icmpx admin-prohibited' : verdict}`;
}

function matchText(match: Match): string {
  const { family, source, destination, protocol, sourcePorts, destinationPorts, icmpType } = match;
  const ip = family === 4 ? 'ip' : 'ip6';
  const words: string[] = [];
  const range = ({ start, end }: { start: number; end: number }) => (start === end ? `${start}` : `${start}-${end}`);
  if (family !== undefined) words.push(`meta protocol ${ip}`);
  if (source !== undefined) words.push(`${ip} saddr ${match.isSourceInverted ? '!= ' : ''}${source}`);
  if (destination !== undefined) words.push(`${ip} daddr ${match.isDestinationInverted ? '!= ' : ''}${destination}`);
  if (protocol !== undefined) words.push(`meta l4proto ${protocol === 'icmpv6' ? 'ipv6-icmp' : protocol}`);
  if (sourcePorts !== undefined) words.push(`th sport ${range(sourcePorts)}`);
  if (destinationPorts !== undefined) words.push(`th dport ${range(destinationPorts)}`);
  if (icmpType !== undefined) words.push(`@th,0,8 ${range(icmpType)}`);
  return words.join(' ');
}

function destinationTexts(nat: NatSpec): string[] {
  if (nat.type === 'snat') return [];
  const [ip, icmp] = families(nat.target);
  const target = ip === 'ip6' ? `[${nat.target}]` : nat.target;
  const match = `${ip} daddr ${nat.destination} meta l4proto`;
  return [`${match} { tcp, udp } dnat ${ip} to ${target}:${nat.port}`, `${match} ${icmp} dnat ${ip} to ${nat.target}`];
}

function sourceTexts(nat: NatSpec): string[] {
  if (nat.type === 'dnat') return [];
  const [ip, icmp] = families(nat.address);
  const address = ip === 'ip6' ? `[${nat.address}]` : nat.address;
  const match = `oifname ${nat.port} ${ip} saddr ${nat.source} meta l4proto`;
  return [`${match} { tcp, udp } snat ${ip} to ${address}:1024-65535`, `${match} ${icmp} snat ${ip} to ${nat.address}`];
}

function families(address: string): [ip: 'ip' | 'ip6', icmp: string] {
  return address.includes(':') ? ['ip6', 'ipv6-icmp'] : ['ip', 'icmp'];
}

/** Runs ip(8) or bridge(8) once for all lines. */
async function batch(command: readonly string[], lines: readonly string[]): Promise<void> {
  if (lines.length > 0) await runProgram([...command, '-batch', '-'], `${lines.join('\n')}\n`);
}

/** Runs a program that must succeed. */
export async function runProgram([program, ...parameters]: readonly string[], input = ''): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const child = execFile(program, parameters, (error, _, stderr) => {
      if (error === null) resolve();
      else reject(new Error(`${program} ${parameters.join(' ')}: ${stderr}, of\n${input}`, { cause: error }));
    });
    child.stdin!.end(input);
  });
}
