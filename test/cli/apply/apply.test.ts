import test, { type ExecutionContext } from 'ava';
import type { AnyObject } from '../../../src/cli/objects/names.js';
import { tenantAdmin, tenantReader } from '../../api/api-test.js';
import { TestCli } from '../cli-test.js';

const EXAMPLE = new URL('../../../../docs/examples/two-tenants.yaml', import.meta.url).pathname;

async function start(t: ExecutionContext): Promise<TestCli> {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  return cli;
}

/** Applies a text that is to be accepted. @returns the difference that it shows */
async function apply(cli: TestCli, text: string, ...options: string[]): Promise<string> {
  const { out, error } = await cli.run(['apply', '-f', '-', ...options], { input: text });
  if (error !== undefined) throw new Error(error);
  return out;
}

const FIREWALL = (rules: string) => `
kind: chain
name: firewall
tenant: blue
rules: ${rules}
`;

test('rules stand in the order of the file, and only those that have to are moved', async (t) => {
  const cli = await start(t);
  const names = async () =>
    (await cli.json<AnyObject[]>('rule', 'list', '--chain', 'firewall')).map(({ name }) => name);
  const rule = (name: string, source = '10.0.0.0/8') =>
    `{ name: ${name}, type: drop, condition: { source: ${source} } }`;
  await apply(cli, FIREWALL(`[${rule('a')}, ${rule('b')}, ${rule('c')}]`));
  t.deepEqual(await names(), ['a', 'b', 'c']);
  t.is(
    await apply(cli, FIREWALL(`[${rule('c')}, ${rule('a')}, ${rule('new')}, ${rule('b')}]`)),
    `~ rule firewall/c
    moved
+ rule firewall/new
    chain: firewall
    condition: source=10.0.0.0/8
    type: drop

1 to make, 1 to change, 0 to delete`,
  );
  t.deepEqual(await names(), ['c', 'a', 'new', 'b']);
  t.is(
    await apply(cli, FIREWALL(`[${rule('c')}, ${rule('a', '10.1.0.0/16')}, ${rule('new')}, ${rule('b')}]`)),
    `~ rule firewall/a
    condition: source=10.0.0.0/8 → source=10.1.0.0/16

0 to make, 1 to change, 0 to delete`,
  );
});

test('what is not in the file is deleted only if that is asked for', async (t) => {
  const cli = await start(t);
  await apply(cli, FIREWALL('[{ type: accept, condition: { protocol: tcp } }, { type: drop }]'));
  await cli.midonet('bridge', 'create', 'kept', '--tenant', 'red');
  await cli.midonet('bridge', 'create', 'old', '--tenant', 'blue');
  await cli.midonet('port', 'create', 'vm', '--bridge', 'old');
  const text = FIREWALL('[{ type: drop }]');
  const { out, notes } = await cli.run(['apply', '-f', '-'], { input: text });
  t.is(out, 'nothing to change');
  t.regex(notes, /^also there: rule .*; --prune would delete it/m);
  t.is((await cli.json<unknown[]>('rule', 'list')).length, 2);
  const pruned = await apply(cli, text, '--prune');
  t.regex(pruned, /^- rule /m);
  t.regex(pruned, /^- bridge old with 1 port$/m);
  t.regex(pruned, /^0 to make, 0 to change, 2 to delete$/m);
  t.is((await cli.json<unknown[]>('rule', 'list')).length, 1);
  t.deepEqual(
    (await cli.json<AnyObject[]>('bridge', 'list')).map(({ name }) => name),
    ['kept'],
  );
});

test('nothing is changed when the question is answered with no', async (t) => {
  const cli = await start(t);
  const input = '{ kind: bridge, name: web }';
  const refused = await cli.run(['apply', '-f', '-'], { input, answer: false });
  t.is(refused.exitCode, 1);
  t.regex(refused.notes, /Apply these changes\?\nnothing was changed/);
  t.deepEqual(await cli.json('bridge', 'list'), []);
  await cli.run(['apply', '-f', '-'], { input, answer: true });
  t.is((await cli.json<unknown[]>('bridge', 'list')).length, 1);
});

test('what others have changed since the difference was shown is not lost', async (t) => {
  const cli = await start(t);
  const text = (source: string) => FIREWALL(`[{ name: a, type: drop, condition: { source: ${source} } }]`);
  await apply(cli, text('10.1.0.0/16'));
  const { error } = await cli.run(['apply', '-f', '-'], {
    input: text('10.2.0.0/16'),
    answer: true,
    meanwhile: () => cli.midonet('rule', 'update', 'firewall/a', '--source', '10.3.0.0/16'),
  });
  t.regex(error ?? 'applied', /^rule firewall\/a: .*it was changed since that version; nothing was changed$/);
  t.like(await cli.json('rule', 'show', 'firewall/a'), { condition: { source: '10.3.0.0/16' } });
  t.regex(await apply(cli, text('10.2.0.0/16')), /source=10\.3\.0\.0\/16 → source=10\.2\.0\.0\/16/);
});

test('changes that name each other are made together, each in the version that was shown', async (t) => {
  const cli = await start(t);
  const text = (a: string, b: string) => `
- { kind: bridge, name: web, ports: [{ name: a, peer: ${a}, adminStateUp: ${a !== 'null'} }] }
- { kind: router, name: edge, ports: [{ name: b, peer: ${b}, adminStateUp: ${b !== 'null'} }] }
`;
  await apply(cli, text('null', 'null'));
  t.regex(await apply(cli, text('edge/b', 'web/a')), /^0 to make, 2 to change/m);
  t.regex(await apply(cli, text('null', 'null')), /^0 to make, 2 to change/m);
});

test('when the server goes in the middle it is told how far the changes came', async (t) => {
  const cli = await start(t);
  const { error } = await cli.run(['apply', '-f', '-'], {
    input: '{ kind: bridge, name: web }',
    answer: true,
    meanwhile: () => cli.api.close(),
  });
  t.regex(error ?? 'applied', /; whether these were made is not known, 0 of 1 changes were made before; apply again/);
});

test('what is wrong in a file is told with the object and the field', async (t) => {
  const cli = await start(t);
  const refused = async (input: string, message: RegExp) => {
    const { error } = await cli.run(['apply', '-f', '-'], { input });
    t.regex(error ?? 'accepted', message, input);
  };
  await refused('kind: brige\nname: web', /document 1\.kind: there are no objects called brige; did you mean bridge\?/);
  await refused('kind: bridge', /document 1: expected a name/);
  await refused('kind: bridge\nname: web\nmtu: 9000', /bridge web\.mtu: expected one of .*ports/);
  await refused(
    'kind: bridge\nname: web\nports: [{ name: a, mac: nonsense }]',
    /port web\/a\.mac: expected a MAC address/,
  );
  await refused('kind: bridge\nname: web\ninboundFilter: fw', /bridge web\.inboundFilter: there is no chain called fw/);
  await refused('kind: rule\ntype: drop', /expected below its chain/);
  await refused('kind: bridge\nname: web\n---\nkind: bridge\nname: web', /expected each bridge once/);
  await refused('kind: bridge\n name: web', /^-: /);
  await refused('kind: host\nname: node-1', /hosts enter themselves/);
  t.deepEqual(await cli.json('bridge', 'list'), []);
});

test('fields that others set stay as they are, unless the file says that there shall be none', async (t) => {
  const cli = await start(t);
  const text = (more = '') => `{ kind: bridge, name: web, ports: [{ name: a, mac: "02:00:00:00:00:01"${more} }] }`;
  await apply(cli, text());
  await cli.midonet('host', 'create', 'node-1');
  await cli.midonet('port', 'bind', 'web/a', '--host', 'node-1', '--interface', 'eth1');
  t.is(await apply(cli, text()), 'nothing to change');
  t.is(await apply(cli, text(', binding: { host: node-1, interfaceName: eth1 }')), 'nothing to change');
  t.regex(await apply(cli, text(', binding: null')), /binding: host=node-1,interface-name=eth1 → \(none\)/);
  t.false('binding' in (await cli.json<AnyObject>('port', 'show', 'web/a')));
});

test('a tenant keeps what is its own in a file, and gets to know of nothing else', async (t) => {
  const cli = await start(t);
  await cli.midonet('apply', '-f', EXAMPLE);
  const red = { caller: tenantAdmin('red') };
  const mine = await cli.run(['export'], red);
  t.is(mine.error, undefined);
  t.notRegex(mine.out, /blue|provider|203\.0\.113/);
  t.is((await cli.run(['apply', '-f', '-', '--prune'], { input: mine.out, ...red })).out, 'nothing to change');

  const input = 'kind: bridge\nname: extra\nports: [{ name: a, mac: "02:00:00:00:00:09" }]';
  t.regex((await cli.run(['apply', '-f', '-'], { input, ...red })).out, /^2 to make/m);
  t.is((await cli.run(['apply', '-f', '-'], { input, ...red })).out, 'nothing to change');
  t.is((await cli.run(['whoami'], red)).out, 'red-admin: tenant-admin of red');
  t.like(await cli.json('bridge', 'show', 'extra'), { tenantId: 'red' });
  const theirs = await cli.run(['bridge', 'show', 'clients'], { caller: tenantAdmin('blue') });
  t.regex(theirs.out, /tenant: +blue/);
  t.regex((await cli.run(['router', 'show', 'provider'], red)).error!, /no router called provider/);
  const refused = await cli.run(['bridge', 'create', 'x'], { caller: tenantReader('red') });
  t.regex(refused.error!, /may not|reader|reads/);
});

test('what does not fit into one transaction is made in several', async (t) => {
  const cli = await start(t);
  const ports = Array.from({ length: 300 }, (_, i) => ({
    name: `p${i}`,
    addresses: [`10.0.${i >> 8}.${i & 255}`],
    mac: macOf(i),
  }));
  const input = JSON.stringify({ kind: 'bridge', name: 'large', tenant: 'blue', ports });
  t.regex(await apply(cli, input), /^301 to make/m);
  t.is((await cli.json<unknown[]>('port', 'list', '--bridge', 'large')).length, 300);
  t.is(await apply(cli, input), 'nothing to change');
});

function macOf(i: number): string {
  const hex = i.toString(16).padStart(4, '0');
  return `02:00:00:00:${hex.slice(0, 2)}:${hex.slice(2)}`;
}

test('objects may name each other', async (t) => {
  const cli = await start(t);
  const text = `
- { kind: bridge, name: web, inboundMirrors: [tap], ports: [{ name: analyser }, { name: a, peer: edge/b }] }
- { kind: mirror, name: tap, toPort: web/analyser }
- { kind: router, name: edge, ports: [{ name: b, peer: web/a }] }
`;
  t.regex(await apply(cli, text), /^6 to make/m);
  t.is(await apply(cli, text), 'nothing to change');
  t.regex(await cli.midonet('port', 'list', '--bridge', 'web'), /port edge\/b/);
});
