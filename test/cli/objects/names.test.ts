import { tmpdir } from 'node:os';
import test, { type ExecutionContext } from 'ava';
import type { AnyObject } from '../../../src/cli/objects/names.js';
import { hostAlivePath } from '../../../src/nsdb/layout.js';
import { TestCli } from '../cli-test.js';

async function start(t: ExecutionContext): Promise<TestCli> {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  return cli;
}

const ID = '0badcafe-0000-4000-8000-000000000001';

test('an object is called by name, by its identifier or the beginning of that, or by what it is a part of', async (t) => {
  const cli = await start(t);
  await cli.midonet('bridge', 'create', 'web', '--id', ID);
  await cli.midonet('bridge', 'create', 'db');
  for (const text of ['web', ID, ID.toUpperCase(), '0badcafe', '0badcafe-00']) {
    t.like(await cli.json('bridge', 'show', text), { id: ID }, text);
  }
  await cli.midonet('port', 'create', 'vm', '--bridge', 'web');
  await cli.midonet('port', 'create', 'vm', '--bridge', 'db');
  t.like(await cli.json('port', 'show', 'web/vm'), { name: 'vm', bridgeId: ID });
  t.regex(await cli.midonet('port', 'list', '--bridge', 'web'), /^ID +NAME +DEVICE +UP\n[0-9a-f]{8} +vm +web +true$/);
});

test('a name of several objects is refused with their identifiers, and a tenant tells which is meant', async (t) => {
  const cli = await start(t);
  const ids = await Promise.all(
    ['red', 'blue'].map(async (tenant) => (await cli.json<AnyObject>('chain', 'create', 'fw', '--tenant', tenant)).id),
  );
  const { error } = await cli.run(['chain', 'show', 'fw']);
  t.regex(error!, /several are the chain fw, say which by its id or by --tenant: /);
  for (const id of ids) t.true(error!.includes(id));
  t.regex(error!, /fw of tenant red/);
  t.like(await cli.json('chain', 'show', 'fw', '--tenant', 'blue'), { tenantId: 'blue' });
  await cli.midonet('chain', 'create', 'shared');
  t.like(await cli.json('chain', 'show', 'shared', '--tenant', 'blue'), { name: 'shared' });
  t.regex(
    (await cli.run(['chain', 'show', 'other', '--tenant', 'blue'])).error!,
    /no chain called other of tenant blue;/,
  );

  for (const tenant of ['red', 'blue']) {
    await cli.midonet('bridge', 'create', 'web', '--tenant', tenant);
    await cli.midonet('port', 'create', 'vm', '--bridge', 'web', '--tenant', tenant);
  }
  const part = await cli.run(['port', 'show', 'web/vm']);
  t.regex(
    part.error!,
    /by its id or by --tenant: .*\(web\/vm of tenant (red|blue)\), .*\(web\/vm of tenant (red|blue)\)$/,
  );
  t.is((await cli.run(['port', 'show', 'web/vm', '--tenant', 'red'])).error, undefined);
});

test('a name that nothing has is answered with one that is near', async (t) => {
  const cli = await start(t);
  await cli.midonet('bridge', 'create', 'frontend');
  t.is(
    (await cli.run(['bridge', 'show', 'frontned'])).error,
    'there is no bridge called frontned; did you mean frontend?',
  );
  t.is(
    (await cli.run(['port', 'create', '--bridge', 'x'])).error,
    '--bridge: there is no bridge called x; `midonet bridge list` tells what there is',
  );
  t.regex(
    (await cli.run(['get', 'brdiges'])).error!,
    /kind: there are no objects called brdiges; did you mean bridges\?/,
  );
  t.regex((await cli.run(['help', 'brdige'])).notes, /unknown command 'brdige'/);
  t.regex((await cli.run(['get', 'addresses', '-w'])).error!, /not to be watched; .*list-addresses GROUP/);
  t.regex((await cli.run(['get', 'mac-table'])).error!, /not to be watched; GET \/v1\/bridges\/ID\/mac-table/);
  t.regex((await cli.run(['get', 'bridges', '-w', '--limit', '3'])).error!, /^--limit: expected none with --watch/);
  t.regex((await cli.run(['bridge', 'creat'])).notes, /Did you mean create\?/);
  t.regex((await cli.run(['bridge', 'create', 'a', '--admin-state', 'up'])).notes, /Did you mean --admin-state-up\?/);
});

test('what the API refuses is told with the field', async (t) => {
  const cli = await start(t);
  await cli.midonet('bridge', 'create', 'web');
  t.regex(
    (await cli.run(['port', 'create', '--bridge', 'web', '--mac', 'zz'])).error!,
    /^--mac: expected a MAC address/,
  );
  t.regex((await cli.run(['port', 'create', 'vm'])).error!, /^--bridge: expected a bridge or a router, got nothing/);
  await cli.midonet('chain', 'create', 'fw');
  const wrongSource = await cli.run(['rule', 'create', '--chain', 'fw', '--type', 'drop', '--source', '10.0.0.300/8']);
  t.regex(wrongSource.error!, /^--source: expected an address range/);
  t.regex((await cli.run(['bridge', 'create', 'no/slash'])).error!, /name: expected letters/);
  t.regex((await cli.run(['bridge', 'create', 'x'.repeat(5000)])).error!, /128 at most, .*, got "x{1,200}…$/);
  t.regex((await cli.run(['apply', '-f', tmpdir()])).error!, /^file: expected a file, not a folder, got/);
  t.regex((await cli.run(['bridge', 'list', '--token-file', tmpdir()])).error!, /^file: expected a file, not a folder/);
  t.regex((await cli.run(['bridge', 'update', 'web'])).error!, /nothing to change/);
  t.regex((await cli.run(['bridge', 'update', 'web', '--set', 'mtu=9000'])).error!, /--set: expected one of .*name/);
  t.regex((await cli.run(['bridge', 'list', '--where', 'web'])).error!, /--where: expected FIELD=VALUE/);
});

test('hosts are listed with what is known of their agents, however many they are', async (t) => {
  const cli = await start(t);
  for (const name of ['node-1', 'node-2']) await cli.midonet('host', 'create', name);
  const { id } = await cli.json<AnyObject>('host', 'show', 'node-2');
  await cli.api.store.create(hostAlivePath(id), new Uint8Array(), { ephemeral: true });
  const lines = (await cli.midonet('host', 'list')).split('\n');
  t.regex(lines[0], / AGENT\b/);
  t.regex(lines[1], /node-1 +none/);
  t.regex(lines[2], /node-2 +runs/);
});

test('a list takes the values that the API can be asked for, and no others', async (t) => {
  const cli = await start(t);
  await cli.midonet('host', 'create', 'node-1');
  await cli.midonet('bridge', 'create', 'web');
  await cli.midonet('port-group', 'create', 'uplinks');
  await cli.midonet('port', 'create', 'vm', '--bridge', 'web', '--binding', 'host=node-1,interface-name=eth1');
  await cli.midonet('port', 'create', 'up', '--bridge', 'web', '--port-groups', 'uplinks');
  const named = async (where: string) =>
    (await cli.json<AnyObject[]>('port', 'list', '--where', where)).map(({ name }) => name);
  t.deepEqual(await named('bridge=web'), ['up', 'vm']);
  t.deepEqual(await named('binding.host=node-1'), ['vm']);
  t.deepEqual(await named('port-groups=uplinks'), ['up']);
  await cli.midonet('tunnel-zone', 'create', 'underlay', '--type', 'vxlan');
  await cli.midonet('host', 'update', 'node-1', '--tunnel-zones', 'zone=underlay,address=10.0.0.11');
  t.regex(await cli.midonet('host', 'list', '--where', 'tunnel-zones.zone=underlay'), /node-1/);
  t.regex((await cli.run(['port', 'list', '--where', 'addresses=10.0.0.2'])).error!, /^--where: .* one of .*bridgeId/);
  // Nobody shall guess at a secret.
  t.regex((await cli.run(['bgp-peer', 'list', '--password', 'x'])).error!, /unknown option '--password'/);
  t.regex((await cli.run(['bgp-peer', 'list', '--where', 'password=x'])).error!, /^--where: expected FIELD=VALUE/);
});

test('fields are changed and taken away one by one, and deleting asks first', async (t) => {
  const cli = await start(t);
  await cli.midonet('chain', 'create', 'fw');
  await cli.midonet('bridge', 'create', 'web', '--inbound-filter', 'fw', '--admin-state-up', 'false');
  t.regex(await cli.midonet('bridge', 'show', 'web'), /^inboundFilter: +fw \([0-9a-f-]{36}\)$/m);
  await cli.midonet('bridge', 'update', 'web', '--set', 'admin-state-up=yes', '--unset', 'inbound-filter');
  const changed = await cli.json<AnyObject>('bridge', 'show', 'web');
  t.true(changed.adminStateUp);
  t.false('inboundFilterId' in changed);

  const kept = await cli.run(['bridge', 'delete', 'web'], { answer: false });
  t.is(kept.exitCode, 1);
  t.regex(kept.notes, /^Delete bridge web \([0-9a-f-]+\)\?\nnothing was deleted$/);
  for (const name of ['a', 'b']) await cli.midonet('port', 'create', name, '--bridge', 'web');
  await cli.midonet('dhcp-subnet', 'create', '--bridge', 'web', '--cidr', '10.0.0.0/24');
  const asked = await cli.run(['bridge', 'delete', 'web'], { answer: false });
  t.regex(asked.notes, /^Delete bridge web \([0-9a-f-]+\) with 2 ports, 1 dhcp-subnet\?/);
  t.like(await cli.json('bridge', 'show', 'web'), { name: 'web' });
  t.regex((await cli.run(['bridge', 'delete', 'web'], { answer: true })).out, /^deleted bridge web/);
  t.deepEqual(await cli.json('get', 'bridges'), []);
});

test('rules are put where the command says, with conditions in words', async (t) => {
  const cli = await start(t);
  await cli.midonet('chain', 'create', 'fw');
  const rule = (name: string, ...options: string[]) =>
    cli.midonet('rule', 'create', name, '--chain', 'fw', '--type', 'drop', ...options);
  await rule('b', '--protocol', 'tcp', '--destination-ports', '80-90', '--inverted', 'destination-ports');
  await rule('c', '--untagged', 'true', '--ether-type', 'arp');
  await rule('a', '--before', 'fw/b');
  await rule('first', '--first');
  await rule('between', '--after', 'fw/b');
  const rules = await cli.json<AnyObject[]>('rule', 'list', '--chain', 'fw');
  t.deepEqual(
    rules.map(({ name }) => name),
    ['first', 'a', 'b', 'between', 'c'],
  );
  t.deepEqual(rules[2].condition, {
    inverted: ['destinationPorts'],
    protocol: 6,
    destinationPorts: { start: 80, end: 90 },
  });
  t.deepEqual(rules[4].condition, { noVlan: true, etherType: 0x806 });
  await cli.midonet('rule', 'update', 'fw/b', '--protocol', 'udp', '--unset', 'condition.inverted');
  t.deepEqual((await cli.json<AnyObject>('rule', 'show', 'fw/b')).condition, {
    protocol: 17,
    destinationPorts: { start: 80, end: 90 },
  });
});

test('ports are linked, and bound to interfaces', async (t) => {
  const cli = await start(t);
  await cli.midonet('host', 'create', 'node-1');
  await cli.midonet('bridge', 'create', 'web');
  await cli.midonet('router', 'create', 'edge');
  const inside = await cli.json<AnyObject>('port', 'create', 'inside', '--router', 'edge', '--subnets', '10.0.0.1/24');
  const vm = await cli.json<AnyObject>('port', 'create', 'vm', '--bridge', 'web');
  await cli.midonet('port', 'bind', 'vm', '--host', 'node-1', '--interface', 'eth1');
  t.like(await cli.json('port', 'show', 'vm'), { binding: { interfaceName: 'eth1' } });
  t.regex(await cli.midonet('port', 'list', '--bridge', 'web'), /node-1:eth1/);
  await cli.midonet('port', 'unbind', 'vm');
  await cli.midonet('port', 'link', 'edge/inside', 'web/vm');
  t.is((await cli.json<AnyObject>('port', 'show', 'vm')).peerId, inside.id);
  t.is((await cli.json<AnyObject>('port', 'show', 'inside')).peerId, vm.id);
  t.regex(await cli.midonet('port', 'list', '--router', 'edge'), /port web\/vm/);
  t.regex(
    (await cli.run(['port', 'bind', 'vm', '--host', 'node-1', '--interface', 'eth1'])).error!,
    /one that is not linked/,
  );
  t.like(await cli.json('port', 'link', 'vm', 'inside'), { id: vm.id, peerId: inside.id });
  t.false('peerId' in (await cli.json<AnyObject>('port', 'unlink', 'inside')));
  t.like(await cli.json('port', 'bind', 'vm', '--host', 'node-1', '--interface', 'eth2'), {
    binding: { interfaceName: 'eth2' },
  });
  t.false('binding' in (await cli.json<AnyObject>('port', 'unbind', 'vm')));
  t.false('peerId' in (await cli.json<AnyObject>('port', 'show', 'vm')));
});

test('what cannot be without a name is not made without one', async (t) => {
  const cli = await start(t);
  t.regex((await cli.run(['bridge', 'create'])).error!, /missing required argument 'name'/);
  t.regex(await cli.midonet('bridge', 'create', '--help'), /bridge create \[options\] <name>/);
  t.regex(await cli.midonet('port', 'create', '--help'), /port create \[options\] \[name\]/);
});

test('files that are not there, or are there already, are told of in words', async (t) => {
  const cli = await start(t);
  t.is(
    (await cli.run(['apply', '-f', '/none/such.yaml'])).error,
    'file: expected one that is there, got "/none/such.yaml"',
  );
  const taken = import.meta.filename;
  t.is((await cli.run(['support-bundle', taken])).error, `file: expected one that is not there yet, got "${taken}"`);
  t.is(
    (await cli.run(['support-bundle', '/none/such.tar.gz'])).error,
    'file: expected one in a folder that is there, got "/none/such.tar.gz"',
  );
});
