import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Dice } from '../dice.js';
import { allPaths } from '../nsdb/embedded-nsdb.js';
import { Cluster, type Pod, type TestHost } from './cluster.js';
import { until } from './until.js';

const EVENTS = 120;

/** A cluster to which things happen, and what the test knows of its state. */
class Turmoil {
  readonly history: string[] = [];
  readonly pods: Pod[] = [];
  readonly bound = new Set<Pod>();
  private readonly shut = new Set<TestHost>();
  private nsdbUp = true;

  constructor(
    readonly c: Cluster,
    private readonly dice: Dice,
  ) {}

  async step(): Promise<void> {
    const { dice, c } = this;
    const host = dice.pick(c.hosts)!;
    const running = host.isRunning;
    const free = dice.pick(this.pods.filter((pod) => pod.host === undefined));
    const here = dice.pick([...host.journal.values()]);
    switch (dice.below(12)) {
      case 0:
      case 1:
        if (running && free !== undefined) await this.note('attach', host, free, () => host.attach(free));
        break;
      case 2:
        if (running && here !== undefined) await this.note('detach', host, here, () => host.detach(here));
        break;
      case 3:
        if (this.nsdbUp && free !== undefined) await this.note('bind', host, free, () => this.bind(host, free));
        break;
      case 4: {
        const pod = dice.pick([...this.bound]);
        if (this.nsdbUp && pod !== undefined) await this.note('unbind', pod.host!, pod, () => this.unbind(pod));
        break;
      }
      case 5:
        if (!running) await this.note('start', host, undefined, () => host.start());
        else if (dice.below(2) === 0) await this.note('crash', host, undefined, () => this.crash(host));
        else await this.note('stop', host, undefined, () => host.stop());
        break;
      case 6:
        // The machine behind a port goes while no agent runs; the runtime forgets it.
        if (!running && here !== undefined) {
          await this.note('vanish', host, here, async () => {
            host.journal.delete(here.id);
            host.unplug(here);
          });
        }
        break;
      case 7:
        if (this.shut.delete(host)) await this.note('reopen', host, undefined, async () => host.gate.reopen());
        else {
          this.shut.add(host);
          await this.note('shut', host, undefined, async () => host.gate.shut());
        }
        break;
      case 8:
        if (dice.below(3) !== 0) break;
        if (this.nsdbUp) await this.note('stop the NSDB', host, undefined, () => this.c.nsdb.stop());
        else await this.note('resume the NSDB', host, undefined, () => this.c.nsdb.resume());
        this.nsdbUp = !this.nsdbUp;
        break;
      case 9:
        await c.advance(10_000);
        break;
      default:
        this.packets(10);
        await c.quiet();
    }
  }

  /** Everything is put right and all agents run. */
  async calm(): Promise<void> {
    if (!this.nsdbUp) await this.c.nsdb.resume();
    for (const host of this.shut) host.gate.reopen();
    for (const host of this.c.hosts) if (!host.isRunning) await host.start();
    await until('all are connected', () => this.c.hosts.every((host) => host.store.state === 'connected'));
    await this.c.published();
  }

  async bind(host: TestHost, pod: Pod): Promise<void> {
    // Its last host may not have told the NSDB yet that it is gone.
    if ((await this.c.repository.get('port', pod.id)) !== undefined) return;
    host.plug(pod);
    this.bound.add(pod);
    await this.c.repository.create('port', {
      ...pod.port,
      binding: { hostId: host.id, interfaceName: pod.interfaceName },
    });
    if (host.isRunning) host.agent.interfaceChanged(pod.interfaceName);
  }

  async unbind(pod: Pod): Promise<void> {
    this.bound.delete(pod);
    await this.c.repository.delete('port', pod.id);
    pod.host!.unplug(pod);
  }

  private async crash(host: TestHost): Promise<void> {
    await host.crash();
    this.shut.delete(host);
  }

  private packets(count: number): void {
    const plugged = this.pods.filter((pod) => pod.device !== undefined);
    for (let i = 0; i < count && plugged.length > 0; i++) {
      this.c.sendTo(this.dice.pick(plugged)!, this.dice.pick(this.pods)!, 1000 + i);
    }
  }

  private async note(what: string, host: TestHost, pod: Pod | undefined, act: () => Promise<void>): Promise<void> {
    this.history.push(`${what} ${host.name} ${pod?.interfaceName ?? ''}`);
    await act();
  }
}

/** Nodes but for shard folders, which stay, and what is ephemeral. */
async function nodes(c: Cluster): Promise<string> {
  return (await allPaths(c.repository.store)).filter((path) => !/\/[0-9a-f]{2}$/.test(path)).join('\n');
}

function sizeOf(owner: object, field: string): number {
  return (Reflect.get(owner, field) as { size: number }).size;
}

async function run(t: ExecutionContext, c: Cluster, turmoil: Turmoil): Promise<void> {
  const bridges = [await c.createBridge(), await c.createBridge()];
  const before = await nodes(c);
  for (let i = 0; i < 12; i++) turmoil.pods.push(c.pod(bridges[i % 2], i % 3 !== 2));
  for (let i = 0; i < EVENTS; i++) await turmoil.step();
  await turmoil.calm();

  const plugged = turmoil.pods.filter((pod) => pod.host !== undefined);
  for (const pod of plugged) {
    await until(`${pod.interfaceName} is active`, () => pod.host!.agent.bindings.isActive(pod.id));
  }
  await c.eachPair(plugged, async (from, to) => {
    if (from.bridgeId === to.bridgeId) await c.connects(from, to);
  });
  for (const from of plugged) {
    for (const to of plugged) {
      if (from.bridgeId === to.bridgeId) continue;
      const text = c.sendTo(from, to);
      await c.quiet();
      t.is(to.count(text), 0);
    }
  }

  for (const pod of plugged) {
    if (turmoil.bound.has(pod)) await turmoil.unbind(pod);
    else await pod.host!.detach(pod);
  }
  await c.published();
  for (let i = 0; i < 4; i++) await c.advance(61_000);
  await until('the NSDB is as it was', async () => (await nodes(c)) === before).catch(async (error) => {
    t.log((await nodes(c)).split('\n').filter((path) => !before.includes(path)));
    throw error;
  });
  for (const host of c.hosts) {
    const { agent } = host;
    await until(`no flow is left on ${host.name}`, () => host.flows().length === 0);
    t.is(agent.forwarder.flows.size, 0);
    await until('keys are given back', async () => (await readdir(join(host.folder, 'tunnel-keys'))).length === 0);
    t.is(agent.zones.size, 0);
    t.is(agent.forwarder.waitingPackets, 0);
    t.is(agent.cache.size, 0);
    t.is(sizeOf(agent.cache, 'ports'), 0);
    for (const bridge of bridges) t.true(agent.cache.bridge(bridge).isIdle);
    for (const field of ['wanted', 'byInterface', 'outputs', 'zones', 'bridges', 'bound']) {
      t.is(sizeOf(agent.bindings, field), 0, field);
    }
    // This host, its zone and its membership of it, its own ports, that it is alive, and captures.
    t.is(host.store.metrics.tracked, 6);
    const ports = host.switch.ports().map(({ name }) => name);
    t.deepEqual(
      ports.filter((name) => name.startsWith('pod')),
      [],
    );
  }
}

// With real sockets, files and timers; very many more seeds run in simulation/.
for (const seed of [1, 2]) {
  test.serial(
    `whatever happens, in the end all reach each other and nothing is left over (seed ${seed})`,
    async (t) => {
      const c = await Cluster.start({ hosts: 3 });
      const turmoil = new Turmoil(c, new Dice(seed * 7919));
      try {
        await run(t, c, turmoil);
      } catch (error) {
        t.log(turmoil.history.join('; '));
        for (const host of c.hosts) for (const line of host.warnings.slice(-15)) t.log(host.name, line);
        throw error;
      } finally {
        await c.close();
      }
    },
  );
}
