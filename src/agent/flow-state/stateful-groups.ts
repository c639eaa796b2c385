import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Watch } from '../../nsdb/store.js';

export interface StatefulGroupsOptions {
  readonly hostId: string;
  readonly repository: TopologyRepository;
  /** Groups, zones or hosts are others now. */
  readonly onChange: () => void;
  readonly invalid: (error: Error) => void;
}

/** A group that a port of this host is in. */
interface Group {
  /** Of the ports of this host that are in it, by port. */
  readonly zones: Map<string, number>;
  readonly watch: Watch;
  /** While the group is stateful: its ports, as the NSDB has them. */
  holders: Watch | undefined;
  /** Where the ports are that are bound to other hosts, by port. */
  readonly hosts: Map<string, string>;
}

/** The stateful port groups that ports of this host are in, and on which hosts their other ports are. */
export class StatefulGroups {
  private readonly groups = new Map<string, Group>();
  /** By port of this host. */
  private readonly portGroups = new Map<string, readonly string[]>();

  constructor(private readonly options: StatefulGroupsOptions) {}

  /** Which groups a port of this host is in: none when it is not attached, or has no zone. */
  setPort(portId: string, groupIds: readonly string[], zone: number | null): void {
    const wanted = zone === null ? [] : groupIds;
    const before = this.portGroups.get(portId) ?? [];
    let isChanged = false;
    for (const groupId of before) {
      if (wanted.includes(groupId)) continue;
      const group = this.groups.get(groupId)!;
      isChanged ||= group.holders !== undefined;
      group.zones.delete(portId);
      if (group.zones.size > 0) continue;
      group.watch.close();
      group.holders?.close();
      this.groups.delete(groupId);
    }
    for (const groupId of wanted) {
      const group = this.groups.get(groupId) ?? this.follow(groupId);
      if (group.zones.get(portId) === zone) continue;
      group.zones.set(portId, zone!);
      isChanged ||= group.holders !== undefined;
    }
    if (wanted.length === 0) this.portGroups.delete(portId);
    else this.portGroups.set(portId, wanted);
    if (isChanged) this.options.onChange();
  }

  /** The stateful ones. */
  ids(): string[] {
    return [...this.groups].filter(([, { holders }]) => holders !== undefined).map(([id]) => id);
  }

  /** Of the ports of this host in a stateful group. */
  zonesOf(groupId: string): number[] {
    const group = this.groups.get(groupId);
    return group?.holders === undefined ? [] : [...group.zones.values()];
  }

  /** Other hosts with ports in a stateful group. */
  hostsOf(groupId: string): Set<string> {
    const group = this.groups.get(groupId);
    return new Set(group?.holders === undefined ? [] : group.hosts.values());
  }

  close(): void {
    for (const { watch, holders } of this.groups.values()) {
      watch.close();
      holders?.close();
    }
    this.groups.clear();
  }

  private follow(groupId: string): Group {
    const { repository, invalid } = this.options;
    const setStateful = (isStateful: boolean) => {
      if (isStateful === (group.holders !== undefined)) return;
      group.holders?.close();
      group.hosts.clear();
      group.holders = isStateful ? this.followPorts(groupId, group.hosts) : undefined;
      this.options.onChange();
    };
    const group: Group = {
      zones: new Map(),
      hosts: new Map(),
      holders: undefined,
      watch: repository.watch('port-group', groupId, (found) => setStateful(found?.stateful === true), invalid),
    };
    this.groups.set(groupId, group);
    return group;
  }

  private followPorts(groupId: string, hosts: Map<string, string>): Watch {
    const { repository, hostId, onChange, invalid } = this.options;
    return repository.watchHolders(
      'port',
      'portGroupIds',
      groupId,
      (portId, port) => {
        const boundTo = port?.binding?.hostId;
        const host = boundTo === hostId ? undefined : boundTo;
        if (hosts.get(portId) === host) return;
        if (host === undefined) hosts.delete(portId);
        else hosts.set(portId, host);
        onChange();
      },
      invalid,
      onChange,
    );
  }
}
