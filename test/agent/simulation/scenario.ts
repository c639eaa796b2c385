import { randomUUID } from 'node:crypto';
import { describeMatch } from '../../../src/flow/describe.js';
import { formatIpv4 } from '../../../src/packet/address.js';
import { VirtualCluster } from './cluster.js';
import type { Ignores } from './datapath.js';
import type { VirtualHost } from './host.js';
import { type Endpoint, Machine, type Received } from './machine.js';
import { OUTER_IP, Plan, SERVICE, type Truth } from './plan.js';

const EVENTS = 40;
const HOSTS = 3;
const MACHINES = 9;
/** Milliseconds after which all that was retried is done, and what is not used is forgotten. */
const CALM_MS = 30_000;
/** Within which packets arrive, those that wait for facts included. */
const ARRIVAL_MS = 2000;
/** Within which hosts forget what nothing uses; blocks of ports are kept for longest. */
const FORGET_SECONDS = 900;

/** What one machine says to another, or to the service, and what should become of it. */
interface Conversation {
  readonly from: Machine;
  /** Who gets it, though it may have been sent to the service. */
  readonly to: Machine;
  readonly source: Endpoint;
  readonly destination: Endpoint;
  /** The source address as `to` sees it. */
  readonly seenAs: number;
  /** Whether what `from` says arrives, and whether the answer does. */
  readonly arrives: boolean;
  readonly isAnswered: boolean;
}

/** A packet on its way. */
interface Packet {
  readonly from: Machine;
  readonly to: Machine;
  readonly text: string;
  readonly arrives: boolean;
  /** The source address that it should have in the end. */
  readonly seenAs: number;
}

/** What happens to a cluster, and what is known of how it should be. */
export class Scenario {
  readonly cluster: VirtualCluster;
  /** What was done, for people. */
  readonly history: string[] = [];
  private plan!: Plan;
  private machines: readonly Machine[] = [];
  /** Where machines are plugged in. */
  private readonly places = new Map<Machine, VirtualHost>();
  /** Whether the service is used: hosts then lease ports for a long time. */
  private usesService = false;
  /** Changes of the topology come one after the other. */
  private lastChange: Promise<unknown> = Promise.resolve();
  private texts = 0;
  private sourcePort = 10_000;

  constructor(
    readonly seed: number,
    ignores: Ignores = () => false,
  ) {
    this.cluster = new VirtualCluster(seed, ignores);
  }

  private get dice() {
    return this.cluster.world.events.dice;
  }

  async run(): Promise<void> {
    const { cluster, dice } = this;
    this.usesService = dice.chance(15);
    await cluster.start(HOSTS);
    const before = await this.nodes();
    await this.build();
    for (let i = 0; i < EVENTS; i++) {
      await this.step();
      await cluster.world.advance(dice.below(dice.chance(10) ? 10_000 : 200));
    }
    await this.calm();
    const truth = await this.truth();
    await this.converse(truth);
    if (dice.chance(40)) {
      await this.checkFlows();
      await this.converse(truth);
    }
    await this.clear();
    await this.checkNothingLeft(before);
  }

  private note(text: string): void {
    this.history.push(`${(this.cluster.world.events.now / 1000).toFixed(3)} ${text}`);
    this.cluster.world.events.trace(text);
  }

  private async build(): Promise<void> {
    const { cluster, dice } = this;
    await cluster.change('the topology is made', async () => {
      this.plan = new Plan(cluster.repository);
      await this.plan.build();
      this.machines = Array.from({ length: MACHINES }, (_, i) => {
        return new Machine(randomUUID(), this.plan.segments[i % 3], i + 1, i % 5 !== 4, i % 4 === 3);
      });
    });
    for (const machine of this.machines) if (dice.chance(80)) this.plug(machine, dice.pick(cluster.hosts)!);
  }

  // What happens

  private async step(): Promise<void> {
    const { dice, cluster } = this;
    const host = dice.pick(cluster.hosts)!;
    const free = dice.pick(this.machines.filter((machine) => !this.places.has(machine)));
    const plugged = dice.pick([...this.places.keys()]);
    switch (dice.below(14)) {
      case 0:
      case 1:
        if (free !== undefined) this.plug(free, host);
        break;
      case 2:
        if (plugged !== undefined) this.unplug(plugged);
        break;
      case 3:
        if (plugged !== undefined) {
          this.unplug(plugged);
          this.plug(plugged, host);
        }
        break;
      case 4:
        if (host.isStarted) this.kill(host);
        else this.start(host);
        break;
      case 5:
        if (host.isUp) await this.stop(host);
        else if (!host.isStarted) this.start(host);
        break;
      case 6:
        this.note(`${host.name} loses its way to the NSDB`);
        cluster.world.network.setWay(host.way, dice.chance(50) ? 'cut' : 'silent');
        break;
      case 7:
        this.note(`${host.name} has its way to the NSDB`);
        cluster.world.network.setWay(host.way, 'up');
        break;
      case 8:
        if (!cluster.nsdbIsUp) this.startNsdb();
        else if (dice.chance(30)) this.stopNsdb();
        break;
      case 9:
        this.loseFrames();
        break;
      case 10:
      case 11: {
        const [what, make] = this.plan.change(dice, this.machines);
        this.note(what);
        this.changeTopology(what, make);
        break;
      }
      default:
        this.chat();
    }
  }

  private plug(machine: Machine, host: VirtualHost): void {
    this.note(`${machine.interfaceName} comes to ${host.name}`);
    this.places.set(machine, host);
    machine.plug(host.node.addInterface(machine.interfaceName));
    if (machine.isBound) {
      this.changeTopology(`${machine.interfaceName} is bound`, () => this.bind(machine, host));
      if (host.isUp) host.interfaceChanged(machine.interfaceName);
    } else {
      host.journal.add(machine);
      if (host.isUp) host.attach(machine);
    }
  }

  /** The machine is there no more; whoever has plugged it in says so, if that is possible. */
  private unplug(machine: Machine): void {
    const host = this.places.get(machine)!;
    this.note(`${machine.interfaceName} leaves ${host.name}`);
    this.places.delete(machine);
    machine.unplug();
    host.node.removeInterface(machine.interfaceName);
    if (machine.isBound) {
      const { repository } = this.cluster;
      this.changeTopology(`${machine.interfaceName} is not bound`, () => repository.delete('port', machine.id));
    } else {
      host.journal.delete(machine);
      if (host.isUp) host.detach(machine);
    }
  }

  private async bind(machine: Machine, host: VirtualHost): Promise<void> {
    const { repository } = this.cluster;
    const binding = { hostId: host.id, interfaceName: machine.interfaceName };
    if ((await repository.get('port', machine.id)) === undefined) {
      await repository.create('port', { ...machine.port, binding });
    } else {
      await repository.modify('port', machine.id, (port) => ({ ...port, binding }));
    }
  }

  /** Begins a change. It may fail, as the NSDB may be away, and objects may not be there. */
  private changeTopology(what: string, make: () => Promise<unknown>): void {
    this.cluster.attempt(what, async () => {
      const made = this.lastChange.then(make);
      // Who waits for it is told if it fails; the next one is made all the same.
      this.lastChange = made.catch(() => {});
      await made;
    });
  }

  private start(host: VirtualHost): void {
    this.note(`${host.name} starts`);
    host.start();
  }

  private kill(host: VirtualHost): void {
    this.note(`${host.name} is killed`);
    host.kill();
  }

  private async stop(host: VirtualHost): Promise<void> {
    this.note(`${host.name} stops`);
    await host.stop();
  }

  private startNsdb(): void {
    this.note('the NSDB starts');
    this.cluster.startNsdb();
  }

  private stopNsdb(): void {
    const byPowerLoss = this.dice.chance(50);
    this.note(`the NSDB ${byPowerLoss ? 'loses its power' : 'is killed'}`);
    this.cluster.stopNsdb(byPowerLoss);
  }

  /** Of what all hosts send each other, or a pair of them. */
  private loseFrames(): void {
    const { dice, cluster } = this;
    const percent = dice.pick([0, 30, 100])!;
    const pair = dice.chance(50) ? undefined : [dice.pick(cluster.hosts)!.address, dice.pick(cluster.hosts)!.address];
    this.note(
      `the underlay loses ${percent} of 100 frames ${pair === undefined ? '' : `between ${pair.map(formatIpv4)}`}`,
    );
    cluster.network.setUnderlay((from, to) => {
      const isConcerned = pair === undefined || (pair.includes(from) && pair.includes(to));
      return !isConcerned || !dice.chance(percent);
    });
  }

  private chat(): void {
    const plugged = [...this.places.keys()];
    for (let i = 0; i < 10 && plugged.length > 0; i++) {
      const from = this.dice.pick(plugged)!;
      const source = { ip: from.ip, port: 1000 + i };
      if (this.usesService && this.dice.chance(20)) {
        from.send(undefined, source, SERVICE, this.text());
      } else {
        const to = this.dice.pick(this.machines)!;
        from.send(neighborOf(from, to), source, { ip: to.ip, port: 2000 }, this.text());
      }
    }
  }

  /** One that is nobody else's. */
  private text(about = ''): string {
    return `packet ${++this.texts} ${about}`;
  }

  /** Everything is put right, and all agents run. */
  private async calm(): Promise<void> {
    const { cluster } = this;
    this.note('calm');
    if (!cluster.nsdbIsUp) cluster.startNsdb();
    cluster.network.setUnderlay(() => true);
    for (const host of cluster.hosts) {
      cluster.world.network.setWay(host.way, 'up');
      if (!host.isStarted) host.start();
    }
    await cluster.settled();
    await cluster.change('the topology says where machines are bound', async () => {
      await this.lastChange;
      for (const machine of this.machines.filter(({ isBound }) => isBound)) {
        const host = this.places.get(machine);
        if (host !== undefined) await this.bind(machine, host);
        else await cluster.repository.deleteIf('port', machine.id, () => true);
      }
    });
    await cluster.world.advance(CALM_MS);
    for (const machine of this.machines) if (!machine.isKnown) machine.announce();
    await cluster.world.advance(ARRIVAL_MS);
    for (const machine of this.machines) machine.received();
  }

  // How it should be

  /** What the NSDB says, which must be where machines are. */
  private async truth(): Promise<Truth> {
    const truth = await this.cluster.change('the topology is read', () => this.plan.read(this.machines));
    for (const machine of this.machines) {
      const host = this.places.get(machine);
      const hostId = truth.ports.get(machine.id)?.binding?.hostId;
      if (hostId !== host?.id) {
        throw new Error(`${machine.interfaceName} is on ${host?.name}, the NSDB says on ${hostId}`);
      }
      if (host !== undefined && !host.agent.bindings.isActive(machine.id)) {
        throw new Error(`${machine.interfaceName} is on ${host.name}, whose agent does not know it`);
      }
    }
    return truth;
  }

  private conversations(truth: Truth): Conversation[] {
    const found: Conversation[] = [];
    const plugged = [...this.places.keys()];
    for (const from of plugged) {
      for (const to of plugged) if (from !== to) found.push(this.conversation(truth, from, to));
      if (this.usesService && from.segment.number === 1) {
        const server = plugged.find(({ ip }) => formatIpv4(ip) === truth.server);
        if (server !== undefined) found.push(this.serviceConversation(truth, from, server));
      }
    }
    return found;
  }

  private conversation(truth: Truth, from: Machine, to: Machine): Conversation {
    const [source, destination] = [this.newSource(from), { ip: to.ip, port: 2000 }];
    const { plan } = this;
    const isNear = from.segment === to.segment;
    const way = isNear || (truth.routed.has(from.segment.number) && truth.routed.has(to.segment.number));
    const arrives =
      way && plan.passes(truth, from, 'in', from.ip, true) && plan.passes(truth, to, 'out', from.ip, true);
    const isAnswered = plan.passes(truth, to, 'in', to.ip, false) && plan.passes(truth, from, 'out', to.ip, false);
    return { from, to, source, destination, seenAs: from.ip, arrives, isAnswered };
  }

  /** Through the service both addresses are translated. */
  private serviceConversation(truth: Truth, from: Machine, to: Machine): Conversation {
    const { plan } = this;
    const way = truth.routed.has(1) && truth.routed.has(2);
    const arrives =
      way && plan.passes(truth, from, 'in', from.ip, true) && plan.passes(truth, to, 'out', OUTER_IP, true);
    const isAnswered = plan.passes(truth, to, 'in', to.ip, false) && plan.passes(truth, from, 'out', to.ip, false);
    return { from, to, source: this.newSource(from), destination: SERVICE, seenAs: OUTER_IP, arrives, isAnswered };
  }

  private newSource({ ip }: Machine): Endpoint {
    return { ip, port: ++this.sourcePort };
  }

  /** Every machine opens a connection to each other, those that hear of it answer, and more is said. */
  private async converse(truth: Truth): Promise<void> {
    const conversations = this.conversations(truth);
    const opened = await this.exchange(conversations.map((conversation) => this.open(conversation)));
    const answers = conversations.flatMap((conversation, i): Packet[] => {
      const packet = opened[i];
      if (packet === undefined) return [];
      const { from, to, destination, isAnswered } = conversation;
      const text = this.text(`the answer of ${to.interfaceName} to ${from.interfaceName}`);
      to.send(neighborOf(to, from), packet.to, packet.from, text);
      return [{ from: to, to: from, text, arrives: isAnswered, seenAs: destination.ip }];
    });
    await this.exchange(answers);
    await this.exchange(conversations.map((conversation) => this.open(conversation)));
  }

  private open({ from, to, source, destination, arrives, seenAs }: Conversation): Packet {
    const text = this.text(`of ${from.interfaceName} to ${to.interfaceName}`);
    from.send(destination.ip === to.ip ? neighborOf(from, to) : undefined, source, destination, text);
    return { from, to, text, arrives, seenAs };
  }

  /** Waits for packets that were sent; returns them as they came. @throws if they came otherwise than they should */
  private async exchange(packets: readonly Packet[]): Promise<(Received | undefined)[]> {
    await this.cluster.world.advance(ARRIVAL_MS);
    const byText = new Map<string, { readonly at: Machine; readonly packet: Received }[]>();
    for (const at of this.machines) {
      for (const packet of at.received()) byText.set(packet.text, [...(byText.get(packet.text) ?? []), { at, packet }]);
    }
    return packets.map(({ from, to, text, arrives, seenAs }) => {
      const arrivals = byText.get(text) ?? [];
      const there = arrivals.filter(({ at }) => at === to);
      // What is for a machine that the topology does not know may be flooded, and so may be what is for a router that is not there.
      const isFlooded = !to.isKnown || (from.segment !== to.segment && !from.segment.hasRouter);
      const astray = !isFlooded ? arrivals.filter(({ at }) => at !== to) : [];
      const faults = astray.map(({ at }) => `came to ${at.interfaceName}`);
      if (there.length !== (arrives ? 1 : 0)) faults.push(`came ${there.length} times instead of ${arrives ? 1 : 0}`);
      for (const { packet } of there)
        if (packet.from.ip !== seenAs) faults.push(`came from ${formatIpv4(packet.from.ip)}`);
      if (faults.length > 0) {
        const places = [from, to].map((machine) => this.places.get(machine)!.name);
        throw new Error(`${text} (${places.join(' to ')}) ${faults.join(', ')}`);
      }
      return there[0]?.packet;
    });
  }

  /** Agents that are started again find no flow that should do something else. */
  private async checkFlows(): Promise<void> {
    const { cluster } = this;
    const before = this.flows();
    for (const line of before) cluster.world.events.trace(line);
    for (const host of cluster.hosts) {
      host.kill();
      host.start();
    }
    await cluster.settled();
    await cluster.world.advance(ARRIVAL_MS);
    // One may be gone: until all is known again some decisions depend on more of a packet than before.
    const others = this.flows().filter((flow) => !before.includes(flow));
    if (others.length > 0)
      throw new Error(`after a restart flows are others: ${others.join('; ')} of ${before.join('; ')}`);
  }

  private flows(): string[] {
    return this.cluster.hosts.flatMap(({ name, switch: datapath }) =>
      datapath
        .flows()
        .map(({ id, key, mask, actions }) => `${name} ${id} ${describeMatch(key, mask)} ${JSON.stringify(actions)}`),
    );
  }

  private async clear(): Promise<void> {
    const { cluster } = this;
    this.note('everything is taken away');
    for (const machine of [...this.places.keys()]) this.unplug(machine);
    await cluster.world.advance(5000);
    await cluster.change('the topology is removed', () => this.plan.remove());
    for (let seconds = 0; seconds < FORGET_SECONDS && this.leftovers() !== ''; seconds += 10) {
      await cluster.world.advance(10_000);
    }
  }

  /** Nodes but for the folders of shards and of the index of names, which stay. */
  private async nodes(): Promise<string[]> {
    return (await this.cluster.paths()).filter((path) => !/\/[0-9a-f]{2}$|^\/names\/[a-z0-9-]+$/.test(path));
  }

  /** What hosts hold that belongs to no machine, as text. */
  private leftovers(): string {
    const { cluster } = this;
    const found: string[] = [];
    for (const { name, agent, switch: datapath, folder } of cluster.hosts) {
      const counts = {
        flows: datapath.flows().length,
        'flows known': agent.forwarder.flows.size,
        recirculations: agent.forwarder.recirculations.size,
        'tunnel keys': cluster.world.files.readdir(`${folder}/tunnel-keys`).length,
        zones: agent.zones.size,
        'waiting packets': agent.forwarder.waitingPackets,
        'cached devices': agent.cache.size,
      };
      for (const [what, count] of Object.entries(counts)) if (count > 0) found.push(`${name} has ${what}: ${count}`);
    }
    return found.join('; ');
  }

  private async checkNothingLeft(before: readonly string[]): Promise<void> {
    const after = await this.nodes();
    const differences = [
      ...this.cluster.world.faults,
      ...this.cluster.hosts.flatMap(({ name, errors }) => errors.map((error) => `${name}: ${error}`)),
      this.leftovers(),
      ...after.filter((path) => !before.includes(path)).map((path) => `${path} is left in the NSDB`),
      ...before.filter((path) => !after.includes(path)).map((path) => `${path} is missing in the NSDB`),
    ].filter((text) => text !== '');
    if (differences.length > 0) throw new Error(differences.join('; '));
  }
}

/** The machine itself if it is on the same bridge: others are reached by the gateway. */
function neighborOf(from: Machine, to: Machine): Machine | undefined {
  return from.segment === to.segment ? to : undefined;
}
