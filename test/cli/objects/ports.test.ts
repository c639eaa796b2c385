import test, { type ExecutionContext } from 'ava';
import type { AnyObject } from '../../../src/cli/objects/names.js';
import { tenantAdmin } from '../../api/api-test.js';
import { TestCli } from '../cli-test.js';

async function start(t: ExecutionContext): Promise<TestCli> {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  return cli;
}

test('a port that a front end made is changed and deleted only with --force', async (t) => {
  const cli = await start(t);
  await cli.midonet('host', 'create', 'node-1');
  await cli.midonet('bridge', 'create', 'web', '--tenant', 'blue');
  const binding = ['--binding', 'host=node-1,interface-name=eth1'];
  await cli.midonet('port', 'create', 'pod', '--bridge', 'web', '--owner', 'cni', ...binding);
  const onlyForced = async (...words: string[]) => {
    t.regex((await cli.run(words)).error ?? 'accepted', /belongs to cni/, words.join(' '));
    await cli.midonet(...words, '--force');
  };
  await onlyForced('port', 'bind', 'pod', '--host', 'node-1', '--interface', 'eth2');
  t.like(await cli.json('port', 'show', 'pod'), { binding: { interfaceName: 'eth2' } });
  await onlyForced('port', 'update', 'pod', '--set', 'binding.interface-name=eth3');
  t.like(await cli.json('port', 'show', 'pod'), { binding: { interfaceName: 'eth3' } });
  await onlyForced('port', 'unbind', 'pod');
  t.false('binding' in (await cli.json<AnyObject>('port', 'show', 'pod')));
  const caller = tenantAdmin('blue');
  t.regex((await cli.run(['port', 'delete', 'pod', '--force'], { caller })).error ?? 'accepted', /^force: .*admin/);
  await onlyForced('port', 'delete', 'pod');
  t.deepEqual(await cli.json('port', 'list'), []);
  t.regex((await cli.run(['bridge', 'delete', 'web', '--force'])).error ?? 'accepted', /unknown option '--force'/);
});

test('a port is taken from the one that it is linked to only with --force', async (t) => {
  const cli = await start(t);
  await cli.midonet('bridge', 'create', 'web');
  for (const name of ['a', 'b', 'c', 'd']) await cli.midonet('port', 'create', name, '--bridge', 'web');
  const links = async () => {
    const ports = await cli.json<AnyObject[]>('port', 'list');
    const nameOf = (id: unknown) => ports.find((port) => port.id === id)?.name ?? '-';
    return ports.map(({ peerId }) => nameOf(peerId)).join('');
  };
  await cli.midonet('port', 'link', 'a', 'b');
  await cli.midonet('port', 'link', 'b', 'a');
  await cli.midonet('port', 'link', 'c', 'd');
  t.is(await links(), 'badc');
  const taken = 'port a is linked to port web/b; --force undoes that link';
  t.is((await cli.run(['port', 'link', 'a', 'c'])).error, taken);
  t.is(
    (await cli.run(['port', 'link', 'web/d', 'a'])).error,
    'port web/d is linked to port web/c; --force undoes that link',
  );
  t.is(await links(), 'badc');
  await cli.midonet('port', 'link', 'a', 'b', '--force');
  t.is(await links(), 'badc');
  await cli.midonet('port', 'link', 'a', 'c', '--force');
  t.is(await links(), 'c-a-');
  t.is((await cli.run(['port', 'link', 'b', 'a'])).error, 'port a is linked to port web/c; --force undoes that link');
  await cli.midonet('port', 'link', 'b', 'a', '--force');
  t.is(await links(), 'ba--');
});
