import test from 'ava';
import { TestCli } from '../cli-test.js';

test('addresses of groups and machines of subnets come and go one by one', async (t) => {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  await cli.midonet('ip-address-group', 'create', 'admins');
  t.is(
    await cli.midonet('ip-address-group', 'add-address', 'admins', '10.0.0.1', 'FD00::0:1'),
    'added address 10.0.0.1 to ip-address-group admins\nadded address fd00::1 to ip-address-group admins',
  );
  await cli.midonet('ip-address-group', 'remove-address', 'admins', '10.0.0.1');
  t.is(await cli.midonet('ip-address-group', 'list-addresses', 'admins'), 'ADDRESS\nfd00::1');
  t.regex((await cli.run(['ip-address-group', 'add-address', 'admins', '10.0.0'])).error!, /expected an address/);

  await cli.midonet('bridge', 'create', 'web');
  await cli.midonet('dhcp-subnet', 'create', 'v4', '--bridge', 'web', '--cidr', '10.0.0.0/24');
  const host = ['dhcp-subnet', 'add-host', 'v4', '02:00:00:00:00:0A', '--address', '10.0.0.10'];
  await cli.midonet(...host, '--name', 'vm', '--option', 'domain-name=example.org');
  t.deepEqual(await cli.json('dhcp-subnet', 'list-hosts', 'web/v4'), [
    {
      mac: '02:00:00:00:00:0a',
      address: '10.0.0.10',
      name: 'vm',
      extraOptions: [{ name: 'domain-name', value: 'example.org' }],
    },
  ]);
  await cli.midonet('dhcp-subnet', 'remove-host', 'v4', '02:00:00:00:00:0a');
  t.is((await cli.run(['dhcp-subnet', 'list-hosts', 'v4'])).notes, 'no hosts');

  await cli.midonet('dhcp-v6-subnet', 'create', 'v6', '--bridge', 'web', '--prefix', 'fd00::/64');
  await cli.midonet('dhcp-v6-subnet', 'add-host', 'v6', '00:03:00:01:02:00:00:00:00:0a', '--address', 'fd00::a');
  t.regex(await cli.midonet('dhcp-v6-subnet', 'list-hosts', 'v6'), /^CLIENTID +ADDRESS\n\S+ +fd00::a$/);

  await cli.midonet('bridge', 'create', 'tenants', '--tenant', 'blue');
  t.is(await cli.midonet('tenant', 'list'), 'blue');
});
