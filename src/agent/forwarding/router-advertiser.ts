import type { Datapath } from '../../datapath/datapath.js';
import { FlowKey } from '../../flow/key.js';
import { IPV6_UNSPECIFIED } from '../../packet/address.js';
import type { TunnelTarget } from '../../simulation/fact.js';
import {
  type Advertised,
  type AdvertisedSubnet,
  advertise,
  advertisedOn,
  gatewayFact,
  NOT_ADVERTISED,
  withdrawal,
} from '../../simulation/router-advertisement.js';
import type { BridgeNode } from '../facts/bridge-node.js';
import type { Cell } from '../facts/cell.js';
import type { ForwarderMetrics } from './metrics.js';

/** Between two advertisements at most and at least, in seconds (MaxRtrAdvInterval, RFC 4861 section 6.2.1). */
const LONGEST_INTERVAL = 600;
const SHORTEST_INTERVAL = 4;
/** Two may be lost before a lifetime ends. */
const PER_LIFETIME = 3;
/** Copies that surely fit in one action list. */
const OUTPUTS_AT_ONCE = 512;
/** Machines that have no address yet hear it too. */
const EVERYBODY = { mac: 0, address: IPV6_UNSPECIFIED };

export interface RouterAdvertiserOptions {
  /** Bridges with ports on this host. */
  readonly bridges: () => Iterable<BridgeNode>;
  /** Begin to read a fact. */
  readonly load: (cell: Cell<unknown>) => void;
  /** Watch a fact for so many seconds, though no flow needs it. */
  readonly keep: (cell: Cell<unknown>, seconds: number) => void;
  /** Of the largest packet that fits the underlay, encapsulated. */
  readonly mtu: () => number;
  readonly datapath: Datapath;
  readonly metrics: ForwarderMetrics;
  /** Milliseconds. */
  readonly clock: () => number;
}

/** What the machines of a bridge were last told, and when they are told again. */
interface Said {
  readonly advertised: Advertised;
  /** To be compared by identity. */
  readonly subnets: unknown;
  readonly nextAt: number;
}

/**
 * Advertises routers and prefixes to the machines of this host without being asked: again before the time is over for
 * which they hold, and at once when they change, as machines ask only when they come up (RFC 4861 section 6.2.4).
 */
export class RouterAdvertiser {
  private readonly said = new Map<BridgeNode, Said>();

  constructor(private readonly options: RouterAdvertiserOptions) {}

  /** To be called once a second. */
  tick(): void {
    const present = new Set(this.options.bridges());
    for (const bridge of this.said.keys()) if (!present.has(bridge)) this.said.delete(bridge);
    for (const bridge of present) {
      // At the start of the agent it takes a moment until it is known which ports there are.
      if (bridge.localPorts.value === undefined) continue;
      if (bridge.served.value?.advertisements || this.said.has(bridge)) this.advertise(bridge);
    }
  }

  private advertise(bridge: BridgeNode): void {
    const { clock, load, keep } = this.options;
    const { value: subnets } = bridge.dhcpV6Subnets;
    const before = this.said.get(bridge);
    if (before !== undefined && before.subnets === subnets && clock() < before.nextAt) return;
    const advertised = advertisedOn(bridge);
    if ('missing' in advertised) {
      for (const fact of advertised.missing) load(fact as Cell<unknown>);
      return;
    }
    const withdrawn = withdrawal(before?.advertised ?? NOT_ADVERTISED, advertised);
    if (withdrawn !== undefined) this.send(bridge, withdrawn);
    if (advertised.subnets.length === 0) {
      this.said.delete(bridge);
      return;
    }
    this.send(bridge, advertised);
    const interval = intervalOf(advertised.subnets);
    for (const { gateway } of advertised.subnets) {
      if (gateway !== undefined) keep(gatewayFact(bridge, gateway) as Cell<unknown>, 2 * interval);
    }
    this.said.set(bridge, { advertised, subnets, nextAt: clock() + 1000 * interval });
  }

  /** To all machines of the bridge on this host. */
  private send(bridge: BridgeNode, advertised: Advertised): void {
    const { datapath, mtu, metrics } = this.options;
    const outputs = outputsOf(bridge.localPorts.value);
    const packet = advertise(advertised, EVERYBODY, mtu());
    metrics.routerAdvertisements += outputs.length;
    for (let i = 0; i < outputs.length; i += OUTPUTS_AT_ONCE) {
      const actions = outputs.slice(i, i + OUTPUTS_AT_ONCE).map((port) => ({ type: 'output', port }) as const);
      datapath.submit([{ type: 'execute', key: new FlowKey(), packet, actions }]);
    }
  }
}

/** The datapath ports of a bridge's ports on this host, those with filters too: no filter is asked about the agent's own packets. */
function outputsOf(target: TunnelTarget | null | undefined): number[] {
  const filtered = (target?.ports ?? []).flatMap(({ value }) => {
    const output = value?.location?.type === 'local' ? value.location.output.value : undefined;
    return output === undefined || output === null ? [] : [output];
  });
  return [...(target?.outputs ?? []), ...filtered];
}

/** How long what is said of the subnets can go without being said again, in seconds. */
function intervalOf(subnets: readonly AdvertisedSubnet[]): number {
  const lifetimes = subnets.flatMap(({ gateway, advertisement }) => [
    gateway === undefined || advertisement.routerLifetime === 0 ? LONGEST_INTERVAL : advertisement.routerLifetime,
    advertisement.preferredLifetime,
  ]);
  return Math.max(SHORTEST_INTERVAL, Math.min(LONGEST_INTERVAL, Math.floor(Math.min(...lifetimes) / PER_LIFETIME)));
}
