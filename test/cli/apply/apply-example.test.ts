import test, { type ExecutionContext } from 'ava';
import type { AnyObject } from '../../../src/cli/objects/names.js';
import { TestCli } from '../cli-test.js';

const EXAMPLE = new URL('../../../../docs/examples/two-tenants.yaml', import.meta.url).pathname;

async function start(t: ExecutionContext): Promise<TestCli> {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  return cli;
}

test('two tenants are applied with one command, and nothing is left to change', async (t) => {
  const cli = await start(t);
  const dry = await cli.midonet('apply', '-f', EXAMPLE, '--dry-run');
  t.regex(dry, /^\+ bridge clients\n {4}tenant: red$/m);
  t.regex(
    dry,
    /^\+ rule firewall\/ping-from-clients\n(.*\n)*? {4}condition: ether-type=ipv4,protocol=icmp,source=10.0.0.0\/24$/m,
  );
  t.regex(dry, /^\+ ip-address-group admins: address 10\.0\.0\.12$/m);
  t.notRegex(dry, / $/m);
  t.regex(dry, /\d+ to make, 0 to change, 0 to delete$/);
  t.deepEqual(await cli.json('bridge', 'list'), []);

  t.is(await cli.midonet('apply', '-f', EXAMPLE), dry);
  t.is(await cli.midonet('apply', '-f', EXAMPLE), 'nothing to change');
  t.is(await cli.midonet('apply', '-f', EXAMPLE, '--prune'), 'nothing to change');

  const [red, blue] = await Promise.all(
    ['red', 'blue'].map((tenant) => cli.json<AnyObject>('port', 'show', 'clients/client1', '--tenant', tenant)),
  );
  t.not(red.id, blue.id);
  t.deepEqual(red.addresses, blue.addresses);
  const rules = await cli.json<AnyObject[]>('rule', 'list', '--chain', 'firewall', '--tenant', 'red');
  t.deepEqual(
    rules.map(({ name }) => name),
    ['replies', 'web', 'ping-from-clients', 'ssh-from-admins', 'else'],
  );
});

test('what was applied is exported as a file that changes nothing, and makes the same elsewhere', async (t) => {
  const cli = await start(t);
  await cli.midonet('apply', '-f', EXAMPLE);
  await cli.midonet('health-monitor', 'create', '--delay', '5', '--timeout', '2', '--max-retries', '3');
  const exported = await cli.midonet('export');
  t.is((await cli.run(['apply', '-f', '-'], { input: exported })).out, 'nothing to change');
  t.is(
    (await cli.run(['apply', '-f', '-'], { input: await cli.midonet('export', '--tenant', 'red') })).out,
    'nothing to change',
  );

  const other = await start(t);
  await other.run(['apply', '-f', '-'], { input: exported });
  t.is(await other.midonet('export'), exported);
});

test("a tenant's file is applied elsewhere without what is others', of which the export tells", async (t) => {
  const cli = await start(t);
  await cli.midonet('apply', '-f', EXAMPLE);
  const { out, notes } = await cli.run(['export', '--tenant', 'blue']);
  t.regex(notes, /^left out: the link of port edge\/uplink to a port of others, [0-9a-f-]{36}$/m);
  t.notRegex(out, /etherType: \d|protocol: \d|start:|^ .*tenant:/m);
  t.is((await cli.run(['apply', '-f', '-'], { input: out })).out, 'nothing to change');

  const other = await start(t);
  t.is((await other.run(['apply', '-f', '-'], { input: out })).error, undefined);
  t.is(await other.midonet('export'), out);
});

test('what ports are attached to is left out of a file for other hosts', async (t) => {
  const cli = await start(t);
  await cli.midonet('apply', '-f', EXAMPLE);
  await cli.midonet('host', 'create', 'node-1');
  await cli.midonet(
    ...['port', 'bind', 'clients/client1', '--tenant', 'blue', '--host', 'node-1', '--interface', 'eth1'],
  );
  t.regex(await cli.midonet('export'), /host: node-1/);
  const exported = await cli.midonet('export', '--no-bindings');
  t.notRegex(exported, /binding/);
  t.is((await cli.run(['apply', '-f', '-'], { input: exported })).out, 'nothing to change');

  const other = await start(t);
  t.is((await other.run(['apply', '-f', '-'], { input: exported })).error, undefined);
});
