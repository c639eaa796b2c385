import { randomUUID } from 'node:crypto';
import test from 'ava';
import { addressPacket } from '../../../src/api/explain/trace-macs.js';
import { InvalidInputError } from '../../../src/errors.js';
import { formatPacket, parsePacket } from '../../../src/flow/packet-text.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { SharedTable } from '../../../src/nsdb/tables/shared-table.js';
import { NEIGHBOR_TABLE } from '../../../src/nsdb/tables/tables.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';

const { signal } = new AbortController();

/** Two machines on 10.1.0.0/24, of which a router at .1 leads on, and an uplink of that. */
async function network(t: { teardown(end: () => Promise<void>): void }) {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const repository = new TopologyRepository(nsdb.store());
  await repository.initialize();
  const { id: bridgeId } = await repository.create('bridge', { id: randomUUID(), name: 'near' });
  const { id: routerId } = await repository.create('router', { id: randomUUID(), name: 'edge' });
  const machine = (n: number) => ({
    id: randomUUID(),
    bridgeId,
    mac: `02:00:00:00:00:0${n}`,
    addresses: [`10.1.0.1${n}`, `fd01::1${n}`],
  });
  const a = await repository.create('port', machine(1));
  const b = await repository.create('port', machine(2));
  const unknown = await repository.create('port', { id: randomUUID(), bridgeId });
  const link = { id: randomUUID(), routerId, mac: '02:00:00:00:01:01', subnets: ['10.1.0.1/24', 'fd01::1/64'] };
  const atRouter = await repository.create('port', link);
  const atBridge = await repository.create('port', { id: randomUUID(), bridgeId, peerId: atRouter.id });
  const uplink = await repository.create('port', { id: randomUUID(), routerId, mac: '02:00:00:00:02:01' });
  const fill = async (port: { id: string }, text: string) => {
    const { object } = (await repository.get('port', port.id))!;
    const { packet, assumed } = await addressPacket(repository, object, parsePacket(text), signal);
    return { text: formatPacket(packet), assumed };
  };
  const textOf = async (port: { id: string }, text: string) => (await fill(port, text)).text;
  return { repository, bridgeId, a, b, unknown, atRouter, atBridge, uplink, fill, textOf };
}

test('MAC addresses that nobody gave are those that the machine would use', async (t) => {
  const { repository, bridgeId, a, b, unknown, atBridge, uplink, fill, textOf } = await network(t);
  const near = await fill(a, 'tcp 10.1.0.11 > 10.1.0.12:80');
  t.is(near.text, 'tcp 10.1.0.11 > 10.1.0.12:80 from 02:00:00:00:00:01 to 02:00:00:00:00:02');
  t.deepEqual(near.assumed, [
    "from MAC 02:00:00:00:00:01: the port's own",
    "to MAC 02:00:00:00:00:02: who has 10.1.0.12, by the bridge's IP table",
  ]);
  const far = await fill(b, 'udp 10.1.0.12 > 10.9.0.9:53');
  t.is(far.text, 'udp 10.1.0.12 > 10.9.0.9:53 from 02:00:00:00:00:02 to 02:00:00:00:01:01');
  t.is(far.assumed[1], 'to MAC 02:00:00:00:01:01: the gateway 10.1.0.1, a router linked to the bridge');
  t.regex(await textOf(a, 'icmp 10.1.0.11 > 10.1.0.1'), /to 02:00:00:00:01:01$/);
  t.regex(await textOf(a, 'tcp fd01::11 > fd01::12'), /to 02:00:00:00:00:02$/);
  t.regex(await textOf(a, 'tcp fd01::11 > fd09::1'), /to 02:00:00:00:01:01$/);
  t.regex(await textOf(unknown, 'tcp 10.1.0.12 > 10.1.0.11'), /from 02:00:00:00:00:02 to 02:00:00:00:00:01$/);
  t.is(await textOf(a, 'arp 10.1.0.11 > 10.1.0.12'), 'arp 10.1.0.11 > 10.1.0.12 from 02:00:00:00:00:01');
  t.regex(await textOf(a, 'udp 10.1.0.11 > 255.255.255.255'), /to ff:ff:ff:ff:ff:ff$/);
  t.regex(await textOf(a, 'udp 10.1.0.11 > 239.129.2.3'), /to 01:00:5e:01:02:03$/);
  t.regex(await textOf(a, 'udp fd01::11 > ff02::fb'), /to 33:33:00:00:00:fb$/);
  t.regex(await textOf(atBridge, 'tcp 10.9.0.9 > 10.1.0.12'), /from 02:00:00:00:01:01 to 02:00:00:00:00:02$/);
  t.regex(await textOf(uplink, 'tcp 10.9.0.9 > 10.1.0.12'), /from 02:00:00:00:00:fe to 02:00:00:00:02:01$/);
  await new SharedTable(repository.store, NEIGHBOR_TABLE, uplink.id).put('10.9.0.9', { mac: '02:00:00:00:09:09' });
  t.regex(await textOf(uplink, 'tcp 10.9.0.9 > 10.1.0.12'), /from 02:00:00:00:09:09 to/);
  const given = 'tcp 10.1.0.11 > 10.1.0.99 from 02:00:00:00:00:07 to 02:00:00:00:00:08';
  const assumed = ["from MAC 02:00:00:00:00:07: not the port's own, which is 02:00:00:00:00:01"];
  t.deepEqual(await fill(a, given), { text: given, assumed });
  const own = given.replace(':07', ':01');
  t.deepEqual(await fill(a, own), { text: own, assumed: [] });

  const routes = [{ destination: '10.9.0.0/16', gateway: '10.1.0.12' }];
  await repository.create('dhcp-subnet', { id: randomUUID(), bridgeId, cidr: '10.1.0.0/24', routes });
  t.regex(await textOf(a, 'udp 10.1.0.11 > 10.9.0.9:53'), /to 02:00:00:00:00:02$/);
});

test('what nobody knows has to be said', async (t) => {
  const { a, unknown, fill } = await network(t);
  await t.throwsAsync(fill(a, 'tcp 10.1.0.11 > 10.1.0.99'), {
    instanceOf: InvalidInputError,
    message:
      /expected `to MAC`, as nobody on the bridge is known to have 10\.1\.0\.99: .* with arp 10\.1\.0\.11 > 10\.1\.0\.99, got/,
  });
  await t.throwsAsync(fill(a, 'tcp fd01::11 > fd01::99'), { message: /have fd01::99: .* by neighbour discovery, got/ });
  await t.throwsAsync(fill(unknown, 'tcp 10.1.0.77 > 10.1.0.11'), {
    instanceOf: InvalidInputError,
    message: /expected `from MAC`/,
  });
});
