import { createRequire } from 'node:module';
import * as z from 'zod';
import { within } from '../../deadline.js';
import { PoolLayout, shardName } from '../../ipam/pool-layout.js';
import { addressPoolBlocksPath, hostAlivePath } from '../../nsdb/layout.js';
import type { NsdbStatus } from '../../nsdb/operations/status.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import { StoreUnavailableError } from '../../nsdb/store.js';
import {
  type AddressPool,
  type Host,
  KINDS,
  type Kind,
  type Pool,
  type Port,
  type TopologyTypes,
} from '../../topology/types.js';
import { AgentLink, AgentUnavailableError } from '../explain/agent-link.js';
import { unlessUnreadable } from '../requests/unreadable.js';

const { version: OWN_VERSION } = createRequire(import.meta.url)('#package') as { version: string };

/** Something that is wrong, and what to do about it. */
export interface StatusProblem {
  /** `error`: something does not work. `warning`: it may soon, or for some. */
  readonly severity: 'error' | 'warning';
  readonly what: string;
  /** The object or the part of the system that it is about, as in `host node-1`. */
  readonly where: string;
  readonly advice: string;
}

/** How everything is. */
export interface ClusterStatus {
  readonly healthy: boolean;
  readonly problems: readonly StatusProblem[];
  /** This, ports and flows are absent while the NSDB cannot be read. */
  readonly hosts?: { readonly known: number; readonly alive: number };
  /** Of the hosts whose agents answered, and of those that have none, where no port is active. */
  readonly ports?: { readonly bound: number; readonly active: number };
  readonly flows?: number;
  /** Undefined where nobody can tell. */
  readonly nsdb: Pick<NsdbStatus, 'connect' | 'servers' | 'latency' | 'frozenFor'> | undefined;
  /** What was looked at in part only, a sentence each. */
  readonly partial: readonly string[];
}

export interface StatusOptions {
  readonly repository: TopologyRepository;
  readonly nsdb?: (signal: AbortSignal) => Promise<NsdbStatus>;
  readonly signal: AbortSignal;
}

/** What one look costs at most: objects of a kind that are read, agents that are asked, folders of a pool that are counted. */
const MAX_OBJECTS = 500;
const MAX_AGENTS = 200;
const MAX_FOLDERS = 64;
const AGENT_TIMEOUT_MS = 5000;
/** Ports of one host that are named one by one. */
const MAX_PORTS_NAMED = 20;
const NEARLY_FULL = 0.9;
/** Errors in the log of an agent that are as old as this are no matter any more. */
const RECENT_MS = 600_000;

/** Looks for what is wrong. Never fails for what it finds. */
export async function clusterStatus(options: StatusOptions): Promise<ClusterStatus> {
  return new Look(options).status();
}

/** What is read of an agent's summary, see AgentSummary. */
const summarySchema = z.object({
  version: z.string(),
  fault: z.string().optional(),
  features: z.object({ conntrack: z.boolean() }),
  ports: z.array(z.object({ id: z.string(), interfaceName: z.string(), active: z.boolean() })),
  flows: z.number(),
  nsdbBacklog: z.number(),
  warnings: z.array(z.object({ time: z.string(), level: z.string(), message: z.string() })).default([]),
});

class Look {
  private readonly problems: StatusProblem[] = [];
  private readonly partial: string[] = [];
  private readonly agents: AgentLink;
  private readonly counts = { known: 0, alive: 0, bound: 0, active: 0, flows: 0 };

  constructor(private readonly options: StatusOptions) {
    this.agents = new AgentLink(options.repository.store);
  }

  async status(): Promise<ClusterStatus> {
    const { nsdb, signal } = this.options;
    const server = await nsdb?.(signal);
    for (const { problem, advice, about } of server?.problems ?? []) {
      if (about !== 'hosts') this.error(problem, 'NSDB', advice);
    }
    // Without a round trip there is no use in waiting for other answers.
    const isRead = (server === undefined || server.latency !== undefined) && (await this.lookAtTopology());
    if (!isRead)
      this.partial.push('the NSDB cannot be read: hosts, ports and all else were not looked at, or in part only');
    const { known, alive, bound, active, flows } = this.counts;
    // What does not work comes first.
    this.problems.sort((a, b) => Number(b.severity === 'error') - Number(a.severity === 'error'));
    return {
      healthy: this.problems.length === 0,
      problems: this.problems,
      ...(isRead && { hosts: { known, alive }, ports: { bound, active }, flows }),
      nsdb: server && {
        connect: server.connect,
        servers: server.servers,
        latency: server.latency,
        frozenFor: server.frozenFor,
      },
      partial: this.partial,
    };
  }

  /** @returns whether the NSDB could be read */
  private async lookAtTopology(): Promise<boolean> {
    const { signal } = this.options;
    try {
      const hosts = await this.some('host');
      await this.lookAtHosts(hosts);
      await this.lookAtTunnelZones(hosts);
      await readAhead(await this.some('pool'), signal, (pool) => this.lookAtPool(pool));
      await readAhead(await this.some('address-pool'), signal, (pool) => this.lookAtAddressPool(pool));
      const seen = new Set<Kind>(['host', 'tunnel-zone', 'pool', 'address-pool']);
      for (const kind of KINDS) if (!seen.has(kind)) await this.some(kind);
      return true;
    } catch (error) {
      if (!(error instanceof StoreUnavailableError)) throw error;
      this.error(error.message, 'NSDB', 'see that its servers run and can be reached from the API server');
      return false;
    }
  }

  private error(what: string, where: string, advice: string): void {
    this.problems.push({ severity: 'error', what, where, advice });
  }

  private warn(what: string, where: string, advice: string): void {
    this.problems.push({ severity: 'warning', what, where, advice });
  }

  /** The first objects of a kind. What cannot be read is told of. */
  private async some<K extends Kind>(kind: K): Promise<TopologyTypes[K][]> {
    const { repository, signal } = this.options;
    const onUnreadable = (id: string, error: Error) =>
      this.error(
        `cannot be read: ${error.message}`,
        `${kind} ${id}`,
        'if a newer version of midonet has written it, bring this one up to date; else mend or delete it, see `midonet nsdb fsck`',
      );
    const { items, next } = await repository.page({ kind, limit: MAX_OBJECTS, signal, onUnreadable });
    if (next !== undefined) this.partial.push(`of kind ${kind} only the first ${items.length} objects were looked at`);
    return items.map(({ object }) => object);
  }

  private async lookAtHosts(hosts: readonly Host[]): Promise<void> {
    const { repository, signal } = this.options;
    if (hosts.length === 0) {
      this.error(
        'no host is known',
        'cluster',
        'start `midonet agent` on each node, with nsdb.connect set to this NSDB',
      );
    }
    const alive: Host[] = [];
    await readAhead(hosts, signal, async (host, signal) => {
      if ((await repository.store.exists(hostAlivePath(host.id), { signal })) !== undefined) alive.push(host);
      else await this.deadHost(host);
    });
    this.counts.known = hosts.length;
    this.counts.alive = alive.length;
    if (alive.length > MAX_AGENTS) this.partial.push(`of ${alive.length} agents only ${MAX_AGENTS} were asked`);
    await readAhead(alive.slice(0, MAX_AGENTS), signal, (host) => this.lookAtAgent(host));
  }

  private async deadHost({ id, name }: Host): Promise<void> {
    const ports = (await this.options.repository.portsOfHost(id, this.options.signal)).length;
    this.counts.bound += ports;
    const bound = ports === 0 ? '' : `; ${ports} port${ports === 1 ? ' is' : 's are'} bound there`;
    this.error(
      `no agent runs there${bound}`,
      `host ${name}`,
      'start `midonet agent` on it and look at its log; one that has only just been started again may need half a minute; if the machine is gone for good, `midonet host delete` it',
    );
  }

  private async lookAtAgent(host: Host): Promise<void> {
    const { signal } = this.options;
    const where = `host ${host.name}`;
    let summary: z.output<typeof summarySchema>;
    try {
      const patience = within(AGENT_TIMEOUT_MS, signal);
      summary = await this.agents.ask(host.id, '/summary', summarySchema, patience);
    } catch (error) {
      signal.throwIfAborted();
      const reason =
        error instanceof AgentUnavailableError
          ? error.message
          : `its agent does not answer: ${(error as Error).message}`;
      return this.warn(
        reason,
        where,
        'see that the agent runs, is of this version, and that its control port (config.control) can be reached from here',
      );
    }
    const { version, fault, features, ports, nsdbBacklog } = summary;
    const inactive = ports.filter(({ active }) => !active);
    this.counts.bound += ports.length;
    this.counts.active += ports.length - inactive.length;
    this.counts.flows += summary.flows;
    if (fault !== undefined) this.error(fault, where, "look at the agent's log, and at the kernel module openvswitch");
    if (version !== OWN_VERSION) {
      this.warn(`its agent is of version ${version}, this is ${OWN_VERSION}`, where, 'bring all to one version');
    }
    if (!features.conntrack) {
      this.warn(
        'its kernel does not track connections: stateful rules, NAT and load balancers drop what they are asked about',
        where,
        'load nf_conntrack, or use a kernel with CONFIG_OPENVSWITCH and CONFIG_NF_CONNTRACK',
      );
    }
    if (nsdbBacklog > 0) {
      this.warn(`${nsdbBacklog} writes have not reached the NSDB yet`, where, 'look again; if it stays, see its log');
    }
    const since = Date.now() - RECENT_MS;
    const errors = summary.warnings.filter(({ level, time }) => level === 'error' && Date.parse(time) > since);
    const last = errors.at(-1);
    if (last !== undefined) {
      const count = errors.length === 1 ? 'an error' : `${errors.length} errors`;
      this.warn(
        `its log has ${count} of the last minutes, the last: ${last.message}`,
        where,
        "look at the agent's log",
      );
    }
    for (const port of inactive.slice(0, MAX_PORTS_NAMED)) await this.inactivePort(host, port);
    if (inactive.length > MAX_PORTS_NAMED) {
      const more = inactive.length - MAX_PORTS_NAMED;
      this.error(`${more} more ports are bound there and not active`, where, 'see `midonet port list --host`');
    }
  }

  private async inactivePort(host: Host, { id, interfaceName }: { id: string; interfaceName: string }): Promise<void> {
    const { repository, signal } = this.options;
    const port = await repository.get('port', id, signal).catch(unlessUnreadable);
    const name = port === undefined ? id : await this.portName(port.object);
    this.error(
      `bound to ${interfaceName} on ${host.name}, and not active: there is no such interface, or the datapath has not taken it`,
      `port ${name}`,
      `see \`ip link show ${interfaceName}\` on ${host.name} and the agent's log, or bind the port to another interface`,
    );
  }

  /** With that of its device: `near/web`. */
  private async portName({ id, name, bridgeId, routerId }: Port): Promise<string> {
    const { repository, signal } = this.options;
    if (name === undefined) return id;
    const [kind, deviceId] = bridgeId === undefined ? (['router', routerId] as const) : (['bridge', bridgeId] as const);
    const device =
      deviceId === undefined ? undefined : await repository.get(kind, deviceId, signal).catch(unlessUnreadable);
    return device === undefined ? name : `${device.object.name}/${name}`;
  }

  private async lookAtTunnelZones(hosts: readonly Host[]): Promise<void> {
    const members = new Map<string, Host[]>();
    for (const host of hosts) {
      for (const { zoneId } of host.tunnelZones) members.set(zoneId, [...(members.get(zoneId) ?? []), host]);
      if (host.tunnelZones.length === 0 && hosts.length > 1) {
        this.error(
          'is in no tunnel zone: it exchanges packets with no other host',
          `host ${host.name}`,
          'name a zone and its address there in tunnelZones of its configuration',
        );
      }
    }
    for (const { id, name } of await this.some('tunnel-zone')) {
      const of = members.get(id) ?? [];
      if (of.length === 1 && hosts.length > 1) {
        this.warn(
          `only host ${of[0].name} is in it`,
          `tunnel zone ${name}`,
          'name it in tunnelZones of the other hosts, too: hosts reach each other by a zone that both are in',
        );
      }
      const addresses = of.map((host) => host.tunnelZones.find(({ zoneId }) => zoneId === id)!.address);
      for (const again of new Set(addresses.filter((address, i) => addresses.indexOf(address) < i))) {
        const names = of.filter((_, i) => addresses[i] === again).map((host) => host.name);
        this.error(
          `hosts ${names.join(' and ')} have the same address ${again}`,
          `tunnel zone ${name}`,
          'give each host an address of its own in tunnelZones of its configuration',
        );
      }
    }
  }

  private async lookAtPool({ id, name = id, adminStateUp }: Pool): Promise<void> {
    const { repository, signal } = this.options;
    const vips = await repository.holders('vip', 'poolId', id, signal);
    if (!adminStateUp || vips.length === 0) return;
    const ids = await repository.holders('pool-member', 'poolId', id, signal);
    if (ids.length > MAX_OBJECTS) this.partial.push(`of pool ${name} only ${MAX_OBJECTS} members were looked at`);
    const found = await readAhead(ids.slice(0, MAX_OBJECTS), signal, (member) =>
      repository.get('pool-member', member, signal).catch(unlessUnreadable),
    );
    const members = found.flatMap((member) => (member === undefined ? [] : [member.object]));
    const working = members.filter((member) => member.adminStateUp && member.status === 'active');
    const down = members.filter((member) => member.adminStateUp && member.status === 'inactive');
    const where = `pool ${name}`;
    const listed = down.map(({ address, protocolPort }) => `${address} port ${protocolPort}`).join(', ');
    if (working.length === 0) {
      const why = down.length === 0 ? 'has no member that is switched on' : `none of its members works: ${listed}`;
      this.error(
        `${why}; connections to its VIPs are dropped`,
        where,
        'start the servers, or add others with `midonet pool-member create`',
      );
    } else if (down.length > 0) {
      this.warn(
        `${down.length} of ${members.length} members do not work: ${listed}`,
        where,
        'look at these servers; the health monitor tries them again',
      );
    }
  }

  private async lookAtAddressPool(pool: AddressPool): Promise<void> {
    const { repository, signal } = this.options;
    const layout = new PoolLayout(pool);
    const folders = Math.min(layout.shardCount, MAX_FOLDERS);
    if (folders < layout.shardCount)
      this.partial.push(`of address pool ${pool.cidr} only a part of the blocks was counted`);
    const counts = await readAhead(
      Array.from({ length: folders }, (_, n) => n),
      signal,
      async (n, signal) => {
        const blocks = await repository.store.children(addressPoolBlocksPath(pool.id, shardName(n)), { signal });
        return blocks?.length ?? 0;
      },
    );
    const taken = counts.reduce((sum, count) => sum + count, 0);
    const there = Math.ceil((layout.blockCount * folders) / layout.shardCount);
    const where = `address pool ${pool.name ?? pool.cidr}`;
    const advice = 'add another address pool to the bridge, or delete hosts that are gone, whose blocks are then free';
    if (taken >= there)
      this.error(
        `all ${there} blocks belong to hosts: a host whose own are full gets no more addresses`,
        where,
        advice,
      );
    else if (taken > NEARLY_FULL * there) this.warn(`${taken} of ${there} blocks belong to hosts`, where, advice);
  }
}
