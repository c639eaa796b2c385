import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { Zones } from '../../../src/agent/numbers/zones.js';
import type { DatapathFeatures } from '../../../src/datapath/datapath.js';

const ALL_FEATURES: DatapathFeatures = { conntrack: true, zones: true, nat: true, labels: true, meters: 0 };

class World {
  now = 1_000_000;
  features = ALL_FEATURES;
  readonly flushed: number[][] = [];
  fault: Error | undefined;
  readonly errors: string[] = [];

  private constructor(readonly folder: string) {}

  static async make(t: ExecutionContext): Promise<World> {
    const made = await mkdtemp(join(tmpdir(), 'midonet-zones-'));
    t.teardown(() => rm(made, { recursive: true }));
    return new World(join(made, 'zones'));
  }

  open(): Promise<Zones> {
    return Zones.open({
      folder: this.folder,
      datapath: {
        features: this.features,
        flushZones: async (zones) => {
          if (this.fault !== undefined) throw this.fault;
          this.flushed.push([...zones].sort((a, b) => a - b));
          return 0;
        },
      },
      clock: () => this.now,
      log: pino({ base: null }, { write: (line: string) => this.errors.push(JSON.parse(line).msg) }),
    });
  }

  async pass(zones: Zones, milliseconds: number): Promise<void> {
    this.now += milliseconds;
    zones.tick();
    await new Promise(setImmediate);
  }
}

test('an owner has one zone, no two share one, none is that of the host, and all are the same after a restart', async (t) => {
  const world = await World.make(t);
  const zones = await world.open();
  const owners = Array.from({ length: 50 }, (_, i) => `port ${i}`);
  const taken = owners.map((owner) => zones.take(owner));
  t.is(new Set(taken).size, 50);
  for (const zone of taken) t.true(zone !== undefined && zone >= 1 && zone <= 0xffff);
  t.deepEqual(
    owners.map((owner) => zones.take(owner)),
    taken,
  );
  const again = await world.open();
  t.deepEqual(
    owners.map((owner) => again.take(owner)),
    taken,
  );
  t.deepEqual(
    taken.map((zone) => again.ownerOf(zone!)),
    owners,
  );
  t.deepEqual([...again.allOwners()].sort(), owners.sort());
});

test('a zone that was given back is forgotten after a while, and only then given to another', async (t) => {
  const world = await World.make(t);
  const zones = await world.open();
  const zone = zones.take('port a')!;
  zones.release('port a');
  zones.release('port a');
  // Where it goes on is chosen at random; here, at this zone.
  (zones as unknown as { next: number }).next = zone;
  t.not(zones.take('port b'), zone);
  await world.pass(zones, 4000);
  t.deepEqual(world.flushed, []);
  await world.pass(zones, 1000);
  t.deepEqual(world.flushed, [[zone]]);
  t.is(zones.ownerOf(zone), undefined);
  t.deepEqual(await readdir(world.folder), [String(zones.take('port b'))]);
  (zones as unknown as { next: number }).next = zone;
  t.is(zones.take('port c'), zone);
});

test('zones that were given back together are forgotten together, also when a restart came between', async (t) => {
  const world = await World.make(t);
  const first = await world.open();
  const given = [1, 2, 3].map((i) => first.take(`port ${i}`)!).sort((a, b) => a - b);
  for (const i of [1, 2, 3]) first.release(`port ${i}`);
  await first.close();
  const zones = await world.open();
  t.is(zones.size, 3);
  await world.pass(zones, 0);
  t.deepEqual(world.flushed, [given]);
  t.is(zones.size, 0);
});

test('what cannot be forgotten is tried again, and told once', async (t) => {
  const world = await World.make(t);
  const zones = await world.open();
  zones.take('port a');
  zones.release('port a');
  world.fault = new Error('ENOBUFS');
  await world.pass(zones, 5000);
  await world.pass(zones, 1000);
  t.deepEqual(world.errors, ['could not forget the connections of zones']);
  t.is(zones.size, 1);
  world.fault = undefined;
  await world.pass(zones, 1000);
  t.is(zones.size, 0);
});

test('what is left of the last run: files that are no zones are removed, of two with one owner one is given back', async (t) => {
  const world = await World.make(t);
  await (await world.open()).take('port a');
  await writeFile(join(world.folder, '0'), 'port z');
  await writeFile(join(world.folder, '65536'), 'port z');
  await writeFile(join(world.folder, 'notes'), 'port z');
  await writeFile(join(world.folder, '70'), 'port b');
  await writeFile(join(world.folder, '71'), 'port b');
  const zones = await world.open();
  t.deepEqual([...zones.allOwners()].sort(), ['port a', 'port b']);
  await world.pass(zones, 0);
  t.is(world.flushed.length, 1);
  t.is((await readdir(world.folder)).length, 2);
});

test('a zone that could not be written is not given', async (t) => {
  const world = await World.make(t);
  const zones = await world.open();
  await rm(world.folder, { recursive: true });
  t.is(zones.take('port a'), undefined);
  t.deepEqual(world.errors, ['could not write down a conntrack zone']);
  t.deepEqual([...zones.allOwners()], []);
});

test('a zone can be given back though that cannot be written down', async (t) => {
  const world = await World.make(t);
  const zones = await world.open();
  zones.take('port a');
  await rm(world.folder, { recursive: true });
  zones.release('port a');
  t.deepEqual(world.errors, ['could not write down that a zone is free']);
  await world.pass(zones, 5000);
  t.is(world.flushed.length, 1);
  t.is(zones.size, 0);
});

test('when all zones are in use, nobody gets one', async (t) => {
  const world = await World.make(t);
  const zones = await world.open();
  const owners = (zones as unknown as { owners: Map<number, string> }).owners;
  for (let zone = 1; zone <= 0xffff; zone++) owners.set(zone, 'port x');
  owners.delete(17);
  t.is(zones.take('port a'), 17);
  t.is(zones.take('port b'), undefined);
  t.deepEqual(world.errors, ['all conntrack zones of this host are in use']);
});

test('a kernel without zones has one for all, and one that tracks no connections has none', async (t) => {
  const world = await World.make(t);
  world.features = { ...ALL_FEATURES, zones: false };
  const zones = await world.open();
  t.deepEqual([zones.take('port a'), zones.take('port b')], [0, 0]);
  zones.release('port a');
  t.deepEqual(await readdir(world.folder), []);
  world.features = { ...ALL_FEATURES, conntrack: false, zones: false };
  t.is((await world.open()).take('port a'), undefined);
});
