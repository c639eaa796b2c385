import { readAhead } from '../../nsdb/read-ahead.js';
import type { PlainStep } from '../../simulation/explain.js';
import { describeRule } from '../../topology/rule-text.js';
import { KINDS, type Kind, type Port, type Rule, type TopologyTypes } from '../../topology/types.js';
import { unlessUnreadable } from '../requests/unreadable.js';
import type { Scope } from '../tenancy/tenancy.js';

/** What an answer names is read up to this many objects of it; the rest keep their identifiers. */
const MAX_OBJECTS = 500;
/** Rules of longer chains are not counted. */
const MAX_RULES_COUNTED = 200;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** The part of a tag that names an object. */
const NAMED_BY_TAG = /\b([a-z]+(?:[ -][a-z]+)*) ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/g;
/** How a route to an address of the router's own at a port is called. */
const LOCAL_ROUTE = /^(\S+) of port (\S+)$/;

export interface Named {
  readonly kind: Kind;
  readonly id: string;
}

/** The objects that a trace speaks of, and what people call them. */
export class TraceNames {
  private readonly objects = new Map<string, { readonly kind: Kind; readonly object: TopologyTypes[Kind] }>();
  /** Where a rule stands in its chain, from 1 on. */
  private readonly places = new Map<string, number>();

  /** @param scope what it does not show keeps its identifier */
  constructor(
    private readonly scope: Scope,
    private readonly signal: AbortSignal,
  ) {}

  /** Read the objects, and what is needed to name them. */
  async loadFor(wanted: readonly Named[]): Promise<void> {
    await this.load(wanted);
    const ports = this.all('port');
    await this.load([
      ...ports.flatMap(({ bridgeId, routerId, binding, peerId }) => [
        ...named('bridge', bridgeId),
        ...named('router', routerId),
        ...named('host', binding?.hostId),
        ...named('port', peerId),
      ]),
      ...this.all('rule').flatMap(namedByRule),
      ...this.all('route').flatMap(({ nextHopPortId }) => named('port', nextHopPortId)),
    ]);
    await this.load(
      this.all('port').flatMap(({ bridgeId, routerId, binding }) => [
        ...named('bridge', bridgeId),
        ...named('router', routerId),
        ...named('host', binding?.hostId),
      ]),
    );
    const chains = new Set(this.all('rule').map(({ chainId }) => chainId));
    await readAhead([...chains], this.signal, (id) => this.countRules(id));
  }

  private async load(wanted: readonly Named[]): Promise<void> {
    const missing = new Map(wanted.filter(({ id }) => !this.objects.has(id)).map((one) => [one.id, one]));
    const some = [...missing.values()].slice(0, Math.max(0, MAX_OBJECTS - this.objects.size));
    await readAhead(some, this.signal, async ({ kind, id }) => {
      const found = await this.scope.find(kind, id).catch(unlessUnreadable);
      if (found !== undefined) this.objects.set(id, { kind, object: found.object });
    });
  }

  private async countRules(chainId: string): Promise<void> {
    const ids = await this.scope.repository.holders('rule', 'chainId', chainId, this.signal);
    if (ids.length > MAX_RULES_COUNTED) return;
    const rules = await this.scope.repository.rulesOf(chainId, this.signal).catch(unlessUnreadable);
    for (const [i, { id }] of rules?.entries() ?? []) this.places.set(id, i + 1);
  }

  get<K extends Kind>(kind: K, id: string): TopologyTypes[K] | undefined {
    const found = this.objects.get(id);
    return found?.kind === kind ? (found.object as TopologyTypes[K]) : undefined;
  }

  /** The name that it was given, of a port with its device's (`near/web`); or else what tells it from others. */
  readonly of = (kind: Kind, id: string): string => {
    const object = this.get(kind, id);
    const name = object !== undefined && 'name' in object ? object.name : undefined;
    if (kind !== 'port') return name ?? shortId(id);
    if (name === undefined) return this.portPlace(id);
    const { bridgeId, routerId } = object as Port;
    const device = this.get('bridge', bridgeId ?? '') ?? this.get('router', routerId ?? '');
    return device === undefined ? name : `${device.name}/${name}`;
  };

  private portPlace(id: string): string {
    const port = this.get('port', id);
    if (port?.binding !== undefined) {
      const { hostId, interfaceName } = port.binding;
      return this.get('host', hostId) === undefined ? interfaceName : `${interfaceName} on ${this.of('host', hostId)}`;
    }
    const peer = port?.peerId === undefined ? undefined : this.get('port', port.peerId);
    const device = peer && this.deviceOf(peer);
    return device === undefined ? shortId(id) : `${shortId(id)} to ${device}`;
  }

  /** `port near/web (eth0 on node1)`: with where it is, also if it has a name. */
  port(id: string): string {
    const port = this.get('port', id);
    const place = port?.name !== undefined && port.binding !== undefined ? ` (${this.portPlace(id)})` : '';
    return `port ${this.of('port', id)}${place}`;
  }

  /** Also with its device if it has no name that says so: `port eth0 on node1 of bridge near`. */
  portOfDevice(id: string): string {
    const port = this.get('port', id);
    const device = port?.name === undefined ? port && this.deviceOf(port) : undefined;
    return `${this.port(id)}${device === undefined ? '' : ` of ${device}`}`;
  }

  /** `bridge near`. */
  device(kind: 'bridge' | 'router', id: string): string {
    return `${kind} ${this.of(kind, id)}`;
  }

  /** The bridge or router that a port is of. */
  deviceOf({ bridgeId, routerId }: Port): string | undefined {
    if (bridgeId !== undefined) return this.device('bridge', bridgeId);
    return routerId === undefined ? undefined : this.device('router', routerId);
  }

  /** `rule 3 no-ssh`: where it stands, and its name. */
  rule(id: string): string {
    const place = this.places.get(id);
    const rule = this.get('rule', id);
    const name = rule !== undefined && 'name' in rule ? rule.name : undefined;
    const parts = [place, name].filter((part) => part !== undefined);
    return `rule ${parts.length === 0 ? shortId(id) : parts.join(' ')}`;
  }

  /** What a rule says; undefined when it is not there any more. */
  ruleText(id: string): string | undefined {
    const rule = this.get('rule', id);
    return rule && describeRule(rule, this.of);
  }

  /** `10.2.0.0/24 via 10.1.0.1`. */
  route(id: string): string {
    const route = this.get('route', id);
    const [, subnet, portId] = LOCAL_ROUTE.exec(id) ?? [];
    if (subnet !== undefined) return `${subnet} of ${this.port(portId)}`;
    if (route === undefined) return shortId(id);
    const { source, destination, gateway, weight } = route;
    const parts = [`to ${destination}`];
    if (source !== undefined) parts.push(`from ${source}`);
    if (gateway !== undefined) parts.push(`via ${gateway}`);
    parts.push(`weight ${weight}`);
    return parts.join(' ');
  }

  /** What is to be called how, by identifier. */
  record(named: readonly Named[]): Record<string, string> {
    return Object.fromEntries(named.map(({ kind, id }) => [id, this.of(kind, id)]));
  }

  private all<K extends Kind>(kind: K): TopologyTypes[K][] {
    const found = [...this.objects.values()].filter((one) => one.kind === kind);
    return found.map(({ object }) => object as TopologyTypes[K]);
  }
}

function shortId(id: string): string {
  return UUID.test(id) ? id.slice(0, 8) : id;
}

/** Nothing where it is no identifier. */
export function named(kind: Kind, id: string | null | undefined): Named[] {
  return id === null || id === undefined || !UUID.test(id) ? [] : [{ kind, id }];
}

function namedByRule(rule: Rule): Named[] {
  const { condition } = rule;
  return [
    ...named('chain', rule.chainId),
    ...(rule.type === 'jump' ? named('chain', rule.jumpChainId) : []),
    ...(rule.type === 'l2-transform' ? named('port', rule.targetPortId) : []),
    ...[...(condition.inPortIds ?? []), ...(condition.outPortIds ?? [])].flatMap((id) => named('port', id)),
    ...[condition.portGroupId, condition.inPortGroupId, condition.outPortGroupId].flatMap((id) =>
      named('port-group', id),
    ),
    ...[condition.sourceAddressGroupId, condition.destinationAddressGroupId].flatMap((id) =>
      named('ip-address-group', id),
    ),
    ...(condition.traversedBridgeIds ?? []).flatMap((id) => named('bridge', id)),
    ...(condition.traversedRouterIds ?? []).flatMap((id) => named('router', id)),
  ];
}

/** The objects that a flow's tag speaks of. */
export function namedByTag(tag: string): Named[] {
  return Array.from(tag.matchAll(NAMED_BY_TAG)).flatMap(([, words, id]) => {
    const kind = KINDS.find((one) => words === one || words.endsWith(` ${one}`));
    return kind === undefined ? [] : [{ kind, id }];
  });
}

/** The objects that a step speaks of. */
export function namedIn(step: PlainStep): Named[] {
  switch (step.type) {
    case 'in':
    case 'out':
    case 'answer':
    case 'reply':
    case 'mac':
    case 'learn':
      return named('port', step.port);
    case 'device':
      return named(step.device, step.id);
    case 'chain':
      return named('chain', step.id);
    case 'circle':
    case 'chain-end':
      return named('chain', step.chain);
    case 'rule':
      return [...named('chain', step.chain), ...named('rule', step.rule)];
    case 'route':
      return [...named('route', step.route), ...named('port', LOCAL_ROUTE.exec(step.route)?.[2])];
    case 'mirror':
    case 'mirrored':
      return named('mirror', step.id);
    case 'vip':
      return [...named('load-balancer', step.loadBalancer), ...named('vip', step.vip)];
    case 'load-balancer-off':
      return named('load-balancer', step.loadBalancer);
    case 'member':
      return [...named('pool', step.pool), ...named('pool-member', step.member?.id)];
    default:
      return [];
  }
}
