import { randomUUID } from 'node:crypto';
import { VirtualCluster } from './cluster.js';
import type { VirtualHost } from './host.js';
import { Machine, type Segment } from './machine.js';

const EVENTS = 40;
const HOSTS = 3;
const MACHINES = 8;
/** What happens long enough after everything was put right that all that was retried has been. */
const CALM_MS = 20_000;
/** Within which hosts forget what nothing uses. */
const FORGET_SECONDS = 120;

/** What happens to a cluster, and what is known of how it should be. */
export class Scenario {
  readonly cluster: VirtualCluster;
  /** What was done, for people. */
  readonly history: string[] = [];
  private readonly segments: Segment[] = [];
  private readonly machines: Machine[] = [];
  /** Where machines are plugged in. */
  private readonly places = new Map<Machine, VirtualHost>();
  private texts = 0;

  constructor(readonly seed: number) {
    this.cluster = new VirtualCluster(seed);
  }

  private get dice() {
    return this.cluster.world.events.dice;
  }

  async run(): Promise<void> {
    const { cluster } = this;
    await cluster.start(HOSTS);
    const before = await this.nodes();
    await this.build();
    for (let i = 0; i < EVENTS; i++) {
      await this.step();
      await cluster.world.advance(this.dice.below(this.dice.chance(10) ? 10_000 : 200));
    }
    await this.calm();
    await this.checkReachability();
    await this.checkReachability();
    this.traceFlows();
    await this.clear();
    await this.checkNothingLeft(before);
  }

  private note(text: string): void {
    this.history.push(`${(this.cluster.world.events.now / 1000).toFixed(3)} ${text}`);
    this.cluster.world.events.trace(text);
  }

  private async build(): Promise<void> {
    const { cluster } = this;
    await cluster.change('the topology is made', async () => {
      for (const number of [1, 2]) {
        const { id } = await cluster.repository.create('bridge', { id: randomUUID(), name: `bridge-${number}` });
        this.segments.push({ number, bridgeId: id, gatewayMac: 0x0a00_0000_0000 + number });
      }
      for (let i = 1; i <= MACHINES; i++) {
        this.machines.push(new Machine(randomUUID(), this.segments[i % 2], i, i < MACHINES));
      }
    });
    for (const machine of this.machines) if (this.dice.chance(70)) this.attach(machine, this.dice.pick(cluster.hosts)!);
  }

  private async step(): Promise<void> {
    const { dice, cluster } = this;
    const host = dice.pick(cluster.hosts)!;
    const free = dice.pick(this.machines.filter((machine) => machine.device === undefined));
    const here = dice.pick([...host.journal]);
    switch (dice.below(12)) {
      case 0:
      case 1:
      case 2:
        if (free !== undefined && host.isUp) this.attach(free, host);
        break;
      case 3:
        if (here !== undefined && host.isUp) this.detach(here, host);
        break;
      case 4:
        if (!host.isStarted) this.startHost(host);
        else this.kill(host);
        break;
      case 5:
        if (host.isUp && dice.chance(50)) await this.stop(host);
        else if (!host.isStarted && here !== undefined) this.vanish(here, host);
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
      default:
        this.packets();
    }
  }

  private attach(machine: Machine, host: VirtualHost): void {
    this.note(`${machine.interfaceName} comes to ${host.name}`);
    host.plug(machine);
    host.journal.add(machine);
    this.places.set(machine, host);
    const { port, interfaceName } = machine;
    const { agent } = host;
    this.cluster.world.begin(host.process, () => agent.bindings.attach({ ...port, owner: 'cni' }, interfaceName));
  }

  /** Its interface goes when the agent has let go of it, or right away. */
  private detach(machine: Machine, host: VirtualHost): void {
    this.note(`${machine.interfaceName} leaves ${host.name}`);
    host.journal.delete(machine);
    const { agent } = host;
    this.cluster.world.begin(host.process, () => agent.bindings.detach(machine.id));
    this.unplug(machine, host);
  }

  private vanish(machine: Machine, host: VirtualHost): void {
    this.note(`${machine.interfaceName} vanishes from ${host.name}`);
    host.journal.delete(machine);
    this.unplug(machine, host);
  }

  private unplug(machine: Machine, host: VirtualHost): void {
    host.unplug(machine);
    this.places.delete(machine);
  }

  private startHost(host: VirtualHost): void {
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
    this.note('the NSDB stops');
    this.cluster.stopNsdb(this.dice.chance(50));
  }

  private loseFrames(): void {
    const { dice, cluster } = this;
    const percent = dice.pick([0, 30, 100])!;
    this.note(`the underlay loses ${percent} of 100 frames`);
    cluster.network.setUnderlay(() => !dice.chance(percent));
  }

  private packets(): void {
    const plugged = [...this.places.keys()];
    for (let i = 0; i < 10 && plugged.length > 0; i++) {
      this.send(this.dice.pick(plugged)!, this.dice.pick(this.machines)!);
    }
  }

  /** Sends a packet of which the text is nobody else's. */
  private send(from: Machine, to: Machine): string {
    const text = `<${++this.texts}>`;
    from.send(to, 1000, 2000, text);
    return text;
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
    await cluster.world.advance(CALM_MS);
    for (const machine of this.machines) machine.received();
  }

  /** Sends packets from each machine to each other, and looks what has come where. */
  private async checkReachability(): Promise<void> {
    const sent: { from: Machine; to: Machine; text: string }[] = [];
    for (const from of this.places.keys()) {
      for (const to of this.places.keys()) if (from !== to) sent.push({ from, to, text: this.send(from, to) });
    }
    await this.cluster.world.advance(1000);
    const received = new Map([...this.places.keys()].map((machine) => [machine, machine.received()]));
    for (const { from, to, text } of sent) {
      const expected = this.reaches(from, to) ? 1 : 0;
      const count = received.get(to)!.filter((other) => other === text).length;
      if (count !== expected) {
        const names = `${from.interfaceName} on ${this.places.get(from)!.name} to ${to.interfaceName} on ${this.places.get(to)!.name}`;
        throw new Error(`from ${names}: ${count} packets came instead of ${expected}`);
      }
    }
  }

  private reaches(from: Machine, to: Machine): boolean {
    return from.segment === to.segment;
  }

  private traceFlows(): void {
    const { events } = this.cluster.world;
    for (const host of this.cluster.hosts) {
      for (const { id, key, mask, actions } of host.switch.flows()) {
        events.trace(`${host.name} ${id} ${key.words} ${mask.words} ${JSON.stringify(actions)}`);
      }
    }
  }

  private async clear(): Promise<void> {
    const { cluster } = this;
    this.note('everything is taken away');
    for (const [machine, host] of [...this.places]) this.detach(machine, host);
    await cluster.world.advance(5000);
    await cluster.change('the topology is removed', async () => {
      for (const { bridgeId } of this.segments) await cluster.repository.delete('bridge', bridgeId);
    });
    for (let seconds = 0; seconds < FORGET_SECONDS && this.leftovers() !== ''; seconds++)
      await cluster.world.advance(1000);
  }

  /** Nodes but for shard folders, which stay. */
  private async nodes(): Promise<string[]> {
    return (await this.cluster.paths()).filter((path) => !/\/[0-9a-f]{2}$/.test(path));
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
      this.leftovers(),
      ...after.filter((path) => !before.includes(path)).map((path) => `${path} is left in the NSDB`),
      ...before.filter((path) => !after.includes(path)).map((path) => `${path} is missing in the NSDB`),
    ].filter((text) => text !== '');
    if (differences.length > 0) throw new Error(differences.join('; '));
  }
}
