import test from 'ava';
import { TestCli } from './cli-test.js';

test('access tokens are made, listed and deleted on the command line', async (t) => {
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  const create = ['access-token', 'create'];
  const token = await cli.midonet(...create, 'ci', '--role', 'tenant-admin', '--tenant', 'blue', '--expires', '30d');
  t.regex(token, /^midonet_[\w-]{43}$/);
  await cli.midonet(...create, 'ops', '--role', 'admin');
  await cli.midonet(...create, 'ops', '--role', 'admin');
  const listed = await cli.json<{ id: string; name: string; createdAt: number; expiresAt?: number }[]>(
    'access-token',
    'list',
  );
  t.deepEqual(
    listed.map(({ name }) => name),
    ['ci', 'ops', 'ops'],
  );
  t.is(listed[0].expiresAt, listed[0].createdAt + 30 * 24 * 3600 * 1000);
  const table = await cli.midonet('access-token', 'list');
  t.regex(table, /^ID +NAME +ROLE +TENANT +EXPIRES +MADE BY\n[0-9a-f]{12} +ci +tenant-admin +blue +20\d\d-.*local$/m);
  t.false(table.includes(token));
  t.regex((await cli.run(['access-token', 'delete', 'ops'])).error ?? '', /expected the id of one of them: /);
  t.regex((await cli.run(['access-token', 'delete', 'nobody'])).error ?? '', /there is no access token called nobody/);
  await cli.midonet('access-token', 'delete', 'ci', listed[1].id.slice(0, 12));
  t.is((await cli.run(['access-token', 'delete', 'ops'], { answer: false })).exitCode, 0);
  t.is((await cli.json<unknown[]>('access-token', 'list')).length, 1);
  const tenant = await cli.run([...create, 'a', '--role', 'admin', '--tenant', 'blue']);
  t.regex(tenant.error ?? '', /^--tenant: /);
  for (const expires of ['30', 'd', '0d', '-1d', '1.5h']) {
    const { error } = await cli.run([...create, 'a', '--role', 'admin', `--expires=${expires}`]);
    t.regex(error ?? '', /^--expires: expected a number and s, m, h or d/);
  }
  t.regex((await cli.run([...create, 'a', '--role', 'tenant-reader'])).error ?? '', /^--tenant: expected the tenant/);
});
