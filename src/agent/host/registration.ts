import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import * as z from 'zod';
import { type ControlAddress, type HostAlive, hostAliveSchema } from '../../nsdb/host-alive.js';
import { decodeJson, encodeJson } from '../../nsdb/json.js';
import { hostAlivePath } from '../../nsdb/layout.js';
import { ObjectExistsError, type TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { EphemeralNode, EphemeralState, StoreNode } from '../../nsdb/store.js';
import { readStateFolder, writeDurableStateFile } from '../../state-file.js';
import { idFromName } from '../../topology/id.js';
import { type Kind, nameSchema, type SCHEMAS } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import type { TunnelType } from '../underlay/tunnels.js';
import { machineId } from './machine-id.js';
import { Publisher } from './publisher.js';

/** A tunnel zone that this host is to be in. Hosts that name the same zone reach each other through it. */
export interface ZoneMembership {
  readonly name: string;
  readonly type: TunnelType;
  /** This host's IPv4 address in the underlay. */
  readonly address: string;
}

/** The zone that all hosts mean that name it in their configuration. */
export function zoneIdOf(name: string): string {
  return idFromName('tunnel-zone', name);
}

const joinedSchema = z.strictObject({ name: nameSchema });

export interface RegistrationOptions {
  readonly hostId: string;
  readonly hostName: string;
  readonly tunnelZones: readonly ZoneMembership[];
  /** Folder for what must survive a restart. */
  readonly stateFolder: string;
  readonly repository: TopologyRepository;
  /** Paused except while this agent is known to be the only one of its host. */
  readonly publisher: Publisher;
  /** There is a new session: the NSDB may be another than before, emptied or restored. */
  readonly onNewSession: () => void;
  readonly log: Logger;
}

/**
 * This host in the NSDB: its object, the sign that its agent runs, and its tunnel zones. Of two agents with the same host
 * identity (a machine was copied with its state folder) the one that came first has it. The other changes nothing of the
 * host in the NSDB until the first has gone.
 */
export class Registration {
  private alive: EphemeralNode | undefined;
  /** When the host was first told of. */
  private since: string | undefined;
  private control: ControlAddress | undefined;
  /** What the node of another machine says of it. */
  private holder = '';
  /** Goes on while {@link RegistrationOptions.publisher} is paused. */
  private readonly own: Publisher;
  private unsubscribe = () => {};
  private sessionLost = false;

  private constructor(
    private readonly options: RegistrationOptions,
    private readonly machine: string,
    /** Zones that were joined because the configuration named them, by id. */
    private readonly joined: Map<string, z.output<typeof joinedSchema>>,
  ) {
    this.own = new Publisher(options.repository.store, options.log);
    options.publisher.pause();
  }

  /** Pauses the publisher; {@link start} must follow. The state folder must exist. */
  static async open(options: RegistrationOptions): Promise<Registration> {
    const { stateFolder, log } = options;
    const joined = await readStateFolder(
      join(stateFolder, 'tunnel-zones'),
      (value, name) => validate(joinedSchema, value, name),
      ({ path, movedTo }) => log.warn({ path, movedTo }, 'a file is damaged: a tunnel zone may not be left'),
    );
    return new Registration(options, await machineId(stateFolder), joined);
  }

  /** Tell the NSDB of this host, now or when it can be reached. */
  start(): void {
    const { repository, onNewSession } = this.options;
    this.unsubscribe = repository.store.onState((event) => {
      if (event === 'session-lost') this.sessionLost = true;
      if (event !== 'connected' || !this.sessionLost) return;
      this.sessionLost = false;
      this.register();
      onNewSession();
    });
    this.register();
  }

  /** What is wrong when another machine has this host's identity, or undefined. */
  get fault(): string | undefined {
    if (this.alive?.state !== 'conflict') return undefined;
    return `host ${this.options.hostId} is in use by another machine: ${this.holder}`;
  }

  /** Tell where the agent can be asked; undefined: nowhere. */
  setControl(control: ControlAddress | undefined): void {
    this.control = control;
    if (this.since !== undefined) this.alive?.set(this.aliveData(this.since));
  }

  async close(): Promise<void> {
    this.unsubscribe();
    this.own.close();
    await this.alive?.close();
  }

  private register(): void {
    const { hostId, hostName, repository, publisher } = this.options;
    this.own.publish('host', async (signal) => {
      await Promise.all([
        repository.initialize(signal),
        this.createIfAbsent('host', { id: hostId, name: hostName }, signal),
      ]);
      this.since ??= new Date().toISOString();
      this.alive ??= repository.store.ephemeral(hostAlivePath(hostId), this.aliveData(this.since), {
        takeOver: (current) => this.isOurs(current),
        onState: (state) => this.aliveChanged(state),
      });
    });
    publisher.publish('tunnel zones', (signal) => this.publishZones(signal));
  }

  private aliveData(since: string): Uint8Array {
    const { machine, control } = this;
    return encodeJson({ since, name: this.options.hostName, machine, control } satisfies HostAlive);
  }

  /** Whether the node was left by an earlier run of this agent. */
  private isOurs(node: StoreNode): boolean {
    try {
      const { since, name, machine } = decodeJson(hostAliveSchema, node.data, hostAlivePath(this.options.hostId));
      this.holder = `${name}, since ${since}`;
      return machine === this.machine;
    } catch (error) {
      this.holder = (error as Error).message;
      return false;
    }
  }

  private aliveChanged(state: EphemeralState): void {
    const { publisher, log, hostId } = this.options;
    if (state === 'held') publisher.resume();
    else publisher.pause();
    if (state !== 'conflict') return;
    log.error(
      { host: hostId, holder: this.holder },
      'an agent of another machine, or of this one before it was booted, has the identity of this host; until its session ends nothing is published. A copied machine needs a host id of its own',
    );
  }

  private async publishZones(signal: AbortSignal): Promise<void> {
    const { hostId, tunnelZones, stateFolder, repository, log } = this.options;
    const file = (id: string) => join(stateFolder, 'tunnel-zones', `${id}.json`);
    const configured = new Set<string>();
    for (const { name, type, address } of tunnelZones) {
      const id = zoneIdOf(name);
      configured.add(id);
      const zone = await repository.get('tunnel-zone', id, signal);
      if (zone === undefined) await this.createIfAbsent('tunnel-zone', { id, name, type }, signal);
      else if (zone.object.type !== type) {
        log.error({ zone: name, configured: type, type: zone.object.type }, 'the tunnel zone is of another type');
      }
      if (!this.joined.has(id)) {
        await writeDurableStateFile(file(id), { name });
        this.joined.set(id, { name });
      }
      await repository.joinTunnelZone(id, hostId, address, signal);
    }
    for (const [id, { name }] of this.joined) {
      if (configured.has(id)) continue;
      await repository.leaveTunnelZone(id, hostId, signal);
      await rm(file(id), { force: true });
      this.joined.delete(id);
      log.info({ zone: name }, 'left a tunnel zone that is not configured any more');
    }
  }

  private async createIfAbsent<K extends Kind>(
    kind: K,
    object: z.input<(typeof SCHEMAS)[K]>,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      await this.options.repository.create(kind, object, signal);
    } catch (error) {
      if (!(error instanceof ObjectExistsError)) throw error;
    }
  }
}
