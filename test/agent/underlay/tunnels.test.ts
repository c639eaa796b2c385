import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { type TunnelDevices, Tunnels, type TunnelType } from '../../../src/agent/underlay/tunnels.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { parseIpv4 } from '../../../src/packet/address.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { until } from '../until.js';

class FakeDevices implements TunnelDevices {
  readonly ensured: TunnelType[] = [];
  readonly ports = new Map<TunnelType, number>([
    ['vxlan', 11],
    ['gre', 12],
  ]);
  failures = 0;
  mtus = new Map<string, number>();

  async ensure(type: TunnelType): Promise<number> {
    this.ensured.push(type);
    if (this.failures-- > 0) throw new Error('no such module');
    return this.ports.get(type)!;
  }

  concerns(): boolean {
    return true;
  }

  async underlayMtu(address: string): Promise<number | undefined> {
    return this.mtus.get(address);
  }
}

async function setUp(t: ExecutionContext) {
  const nsdb = await EmbeddedNsdb.start();
  const repository = new TopologyRepository(nsdb.store());
  await repository.initialize();
  const [here, there] = [randomUUID(), randomUUID()];
  for (const id of [here, there]) await repository.create('host', { id, name: 'h' });
  const zone = async (name: string, type: TunnelType) =>
    (await repository.create('tunnel-zone', { id: randomUUID(), name, type })).id;
  const devices = new FakeDevices();
  const lines: string[] = [];
  const changed: string[] = [];
  let endpointChanges = 0;
  const tunnels = new Tunnels({
    hostId: here,
    repository: new TopologyRepository(nsdb.store()),
    devices,
    onEndpoints: () => endpointChanges++,
    onChange: (cell) => changed.push(cell.tag),
    log: pino({ level: 'warn' }, { write: (line: string) => lines.push(line) }),
  });
  t.teardown(async () => {
    tunnels.close();
    await nsdb.close();
  });
  return {
    nsdb,
    repository,
    here,
    there,
    zone,
    devices,
    tunnels,
    lines,
    changed,
    endpointChanges: () => endpointChanges,
  };
}

test('the way to a host goes through the first zone by name that both are in', async (t) => {
  const { repository, here, there, zone, tunnels } = await setUp(t);
  const [b, a, c] = [await zone('b', 'vxlan'), await zone('a', 'gre'), await zone('c', 'vxlan')];
  await repository.joinTunnelZone(b, here, '192.0.2.1');
  await repository.joinTunnelZone(a, here, '198.51.100.1');
  await repository.joinTunnelZone(b, there, '192.0.2.2');
  await repository.joinTunnelZone(c, there, '203.0.113.2');
  tunnels.start();
  await tunnels.ready;
  t.deepEqual(tunnels.devicePorts().sort(), [11, 12]);
  t.deepEqual(
    tunnels.endpoints().sort((x, y) => x.port - y.port),
    [
      { port: 11, address: parseIpv4('192.0.2.1')! },
      { port: 12, address: parseIpv4('198.51.100.1')! },
    ],
  );
  const cell = tunnels.path(there);
  t.is(tunnels.path(there), cell);
  cell.start();
  const throughB = { output: 11, src: parseIpv4('192.0.2.1')!, dst: parseIpv4('192.0.2.2')! };
  await until('it is known', () => cell.value !== undefined);
  t.deepEqual(cell.value, throughB);
  await repository.joinTunnelZone(a, there, '198.51.100.2');
  await until('it goes through a', () => cell.value?.output === 12);
  t.is(cell.value?.dst, parseIpv4('198.51.100.2'));
  await repository.joinTunnelZone(a, there, '198.51.100.3');
  await until('the address is another', () => cell.value?.dst === parseIpv4('198.51.100.3'));
  await repository.leaveTunnelZone(a, here);
  await until('it goes through b again', () => cell.value?.output === 11);
  t.deepEqual(cell.value, throughB);
  await repository.delete('tunnel-zone', b);
  await until('there is no way', () => cell.value === null);
  cell.stop();
  t.is(cell.value, undefined);
});

test('without zones there is no way to anybody, and that is known', async (t) => {
  const { there, tunnels } = await setUp(t);
  const cell = tunnels.path(there);
  cell.start();
  t.is(cell.value, undefined);
  tunnels.start();
  await tunnels.ready;
  t.is(cell.value, null);
  const other = tunnels.path(randomUUID());
  other.start();
  t.is(other.value, null);
  t.deepEqual(tunnels.endpoints(), []);
});

test('it is not ready before the zones of this host and their devices are known', async (t) => {
  const { nsdb, repository, here, zone, tunnels, devices } = await setUp(t);
  await repository.joinTunnelZone(await zone('z', 'vxlan'), here, '192.0.2.1');
  devices.failures = 1;
  t.deepEqual(devices.ensured, []);
  let ready = false;
  tunnels.ready.then(() => {
    ready = true;
  });
  await nsdb.stop();
  tunnels.start();
  tunnels.refresh();
  await delay(20);
  t.false(ready);
  await nsdb.resume();
  await until('the device was tried', () => devices.ensured.length >= 1, 10_000);
  t.false(ready);
  await until('it was tried again', () => ready, 5000);
  t.deepEqual(tunnels.endpoints(), [{ port: 11, address: parseIpv4('192.0.2.1')! }]);
});

test('a device that came back with another port number takes the ways along', async (t) => {
  const { repository, here, there, zone, tunnels, devices, changed, endpointChanges } = await setUp(t);
  const z = await zone('z', 'vxlan');
  await repository.joinTunnelZone(z, here, '192.0.2.1');
  await repository.joinTunnelZone(z, there, '192.0.2.2');
  tunnels.start();
  const cell = tunnels.path(there);
  cell.start();
  await until('it is known', () => cell.value?.output === 11);
  devices.ports.set('vxlan', 15);
  changed.length = 0;
  const before = endpointChanges();
  tunnels.refresh();
  await until('the way goes through the new port', () => cell.value?.output === 15);
  t.deepEqual(changed, [cell.tag]);
  await until('the endpoints are told', () => endpointChanges() > before);
  t.deepEqual(tunnels.devicePorts(), [15]);
});

test('the MTU is that of the smallest underlay, less what the encapsulation takes', async (t) => {
  const { repository, here, zone, tunnels, devices, lines } = await setUp(t);
  devices.mtus.set('192.0.2.1', 1500);
  devices.mtus.set('198.51.100.1', 1480);
  t.is(tunnels.mtu, 1500);
  await repository.joinTunnelZone(await zone('a', 'vxlan'), here, '192.0.2.1');
  tunnels.start();
  await until('it is that of VXLAN', () => tunnels.mtu === 1450);
  await repository.joinTunnelZone(await zone('b', 'gre'), here, '198.51.100.1');
  await until('it is that of GRE', () => tunnels.mtu === 1438);
  t.deepEqual(lines, []);
  await repository.joinTunnelZone(await zone('c', 'gre'), here, '203.0.113.1');
  await until('the address that is nowhere is reported', () => lines.length > 0);
  t.true(lines[0].includes('203.0.113.1'));
  t.is(tunnels.mtu, 1438);
});

test('the way to a host is forgotten when it is not watched and nothing leads to it', async (t) => {
  const { tunnels, there, here } = await setUp(t);
  tunnels.start();
  const [used, watched, taken] = [tunnels.path(there), tunnels.path(here), tunnels.path(randomUUID())];
  const idle = tunnels.path(randomUUID());
  watched.start();
  taken.flows.add(1);
  tunnels.forgetUnused(new Set([used]));
  t.is(tunnels.path(there), used);
  t.is(tunnels.path(here), watched);
  t.is(tunnels.path(taken.tag.slice(-36)), taken);
  t.not(tunnels.path(idle.tag.slice(-36)), idle);
  watched.stop();
  tunnels.forgetUnused(new Set());
  t.not(tunnels.path(here), watched);
});
