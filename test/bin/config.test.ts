import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { loadConfig, parseListen } from '../../src/bin/config.js';
import { flowStateSettings } from '../../src/bin/flow-state-settings.js';
import { InvalidInputError } from '../../src/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'config-'));
test.after.always(() => rmSync(folder, { recursive: true }));

let files = 0;
function file(text: string): string {
  const path = join(folder, `${files++}.yaml`);
  writeFileSync(path, text);
  return path;
}

test('the empty file gives the defaults', async (t) => {
  const config = await loadConfig(file(''), {});
  t.is(config.nsdb.connect, '127.0.0.1:2181');
  t.is(config.flows.maxFlows, 200_000);
  t.deepEqual(config.tunnels.zones, []);
  t.not(config.host.name, '');
});

test('a field of the file replaces its default and no other', async (t) => {
  const config = await loadConfig(file('flows: { idleTimeout: 5 }\nhttp:\n  port: 0\n'), {});
  t.is(config.flows.idleTimeout, 5);
  t.is(config.flows.maxFlows, 200_000);
  t.is(config.http.port, 0);
});

test('the environment comes before the file', async (t) => {
  const config = await loadConfig(file('http: { port: 1, host: "::1" }'), {
    MIDONET_HTTP_PORT: '2',
    MIDONET_LOG_LEVEL: 'debug',
  });
  t.is(config.http.port, 2);
  t.is(config.http.host, '::1');
  t.is(config.log.level, 'debug');
});

test('MIDONET_CONFIG names the file', async (t) => {
  const config = await loadConfig(undefined, { MIDONET_CONFIG: file('datapath: { name: other }') });
  t.is(config.datapath.name, 'other');
});

test('flow state is archived in the NSDB, or in the Cassandra that is named, with its password from a file', async (t) => {
  t.deepEqual(flowStateSettings((await loadConfig(file(''), {})).flowState), { archive: 'nsdb' });
  const password = file('secret\n');
  chmodSync(password, 0o600);
  const cassandra = `contactPoints: ["c1:9042", "[fd00::1]:9042"], replication: { dc1: 3 }, user: midonet`;
  const load = async (more: string) =>
    (await loadConfig(file(`flowState: { archive: cassandra, cassandra: { ${cassandra}${more} } }`), {})).flowState;
  t.deepEqual(flowStateSettings(await load(`, passwordFile: ${password}`)), {
    archive: 'cassandra',
    cassandra: {
      contactPoints: ['c1:9042', '[fd00::1]:9042'],
      localDataCenter: 'datacenter1',
      keyspace: 'midonet_flow_state',
      replication: { dc1: 3 },
      consistency: 'localQuorum',
      operationTimeout: 5000,
      credentials: { user: 'midonet', password: 'secret' },
    },
  });
  const alone = await load('');
  t.throws(() => flowStateSettings(alone), { message: /^config\.flowState\.cassandra\.passwordFile/ });
});

const wrong: [text: string, field: string, value: string][] = [
  ['host: { id: 7 }', 'config.host.id', '7'],
  ['host: { name: "a b" }', 'config.host.name', 'a b'],
  ['host: []', 'config.host', '[]'],
  ['stateFolder: var', 'config.stateFolder', 'var'],
  ['log: { level: loud }', 'config.log.level', 'loud'],
  ['nsdb: { connect: "" }', 'config.nsdb.connect', '""'],
  ['nsdb: { listen: 2181 }', 'config.nsdb.listen', '2181'],
  ['nsdb: { dataFolder: here }', 'config.nsdb.dataFolder', 'here'],
  ['nsdb: { sessionTimeout: 1 }', 'config.nsdb.sessionTimeout', '1'],
  ['flowState: { archive: file }', 'config.flowState.archive', 'file'],
  ['flowState: { cassandra: { contactPoints: [] } }', 'config.flowState.cassandra.contactPoints', '[]'],
  ['flowState: { cassandra: { contactPoints: ["a b"] } }', 'config.flowState.cassandra.contactPoints[0]', 'a b'],
  ['flowState: { cassandra: { keyspace: "x; DROP" } }', 'config.flowState.cassandra.keyspace', 'DROP'],
  ['flowState: { cassandra: { consistency: some } }', 'config.flowState.cassandra.consistency', 'some'],
  ['datapath: { name: "much-too-long-a-name" }', 'config.datapath.name', 'much-too-long-a-name'],
  ['tunnels: { vxlanPort: 70000 }', 'config.tunnels.vxlanPort', '70000'],
  ['tunnels: { zones: [{ name: "", type: vxlan, address: 10.0.0.1 }] }', 'config.tunnels.zones[0].name', '""'],
  ['tunnels: { zones: [{ name: a, type: stt, address: 10.0.0.1 }] }', 'config.tunnels.zones[0].type', 'stt'],
  ['tunnels: { zones: [{ name: a, type: gre, address: 10.0.0 }] }', 'config.tunnels.zones[0].address', '10.0.0'],
  ['tunnels: { zones: [{ name: a, type: gre, address: 10.0.0.1, mtu: 1 }] }', 'config.tunnels.zones[0].mtu', '1'],
  ['flows: { idleTimeout: 0 }', 'config.flows.idleTimeout', '0'],
  ['flows: { maxFlows: 1.5 }', 'config.flows.maxFlows', '1.5'],
  ['cni: { socket: relative.sock }', 'config.cni.socket', 'relative.sock'],
  ['http: { host: "" }', 'config.http.host', '""'],
  ['http: { port: -1 }', 'config.http.port', '-1'],
  ['colour: blue', 'config.colour', 'blue'],
];
for (const [text, field, value] of wrong) {
  test(`${text} is refused by name`, async (t) => {
    const error = await t.throwsAsync(() => loadConfig(file(text), {}), { instanceOf: InvalidInputError });
    t.true(error.message.startsWith(`${field}: `), error.message);
    t.true(error.message.includes(value), error.message);
  });
}

test('all that a node needs can come from the environment', async (t) => {
  const config = await loadConfig(file('tunnels: { vxlanPort: 4789 }\nflows: { maxFlows: 99 }'), {
    MIDONET_TUNNEL_ZONES: 'rack-1=vxlan:10.0.0.12, wide=gre:192.0.2.1',
    MIDONET_FLOW_IDLE_TIMEOUT: '2.5',
    MIDONET_MAX_FLOWS: '1000',
    MIDONET_NSDB_SESSION_TIMEOUT: '5000',
  });
  t.deepEqual(config.tunnels, {
    vxlanPort: 4789,
    zones: [
      { name: 'rack-1', type: 'vxlan', address: '10.0.0.12' },
      { name: 'wide', type: 'gre', address: '192.0.2.1' },
    ],
  });
  t.deepEqual(config.flows, { idleTimeout: 2.5, maxFlows: 1000 });
  t.is(config.nsdb.sessionTimeout, 5000);
});

test('wrong values in the environment are refused by field and value', async (t) => {
  for (const [variable, text, field, value] of [
    ['MIDONET_TUNNEL_ZONES', 'rack-1', 'config.tunnels.zones', '"rack-1"'],
    ['MIDONET_TUNNEL_ZONES', 'rack-1=vxlan', 'config.tunnels.zones', '"rack-1=vxlan"'],
    ['MIDONET_TUNNEL_ZONES', 'a=gre:10.0.0.1,', 'config.tunnels.zones', '""'],
    ['MIDONET_TUNNEL_ZONES', 'a=gre:10.0.0.1,b=stt:10.0.0.2', 'config.tunnels.zones[1].type', '"stt"'],
    ['MIDONET_TUNNEL_ZONES', 'a=gre:10.0.0', 'config.tunnels.zones[0].address', '"10.0.0"'],
    ['MIDONET_TUNNEL_ZONES', 'a b=gre:10.0.0.1', 'config.tunnels.zones[0].name', '"a b"'],
    ['MIDONET_FLOW_IDLE_TIMEOUT', 'soon', 'config.flows.idleTimeout', '"soon"'],
    ['MIDONET_FLOW_IDLE_TIMEOUT', '0', 'config.flows.idleTimeout', '0'],
    ['MIDONET_MAX_FLOWS', '1e9', 'config.flows.maxFlows', '"1e9"'],
    ['MIDONET_NSDB_SESSION_TIMEOUT', '10', 'config.nsdb.sessionTimeout', '10'],
  ]) {
    const error = await t.throwsAsync(() => loadConfig(file(''), { [variable]: text }), {
      instanceOf: InvalidInputError,
    });
    t.true(error.message.startsWith(`${field}: `) && error.message.endsWith(`got ${value}`), error.message);
  }
});

test('a wrong value in the environment is refused by its field', async (t) => {
  const error = await t.throwsAsync(() => loadConfig(file(''), { MIDONET_HTTP_PORT: 'many' }), {
    instanceOf: InvalidInputError,
  });
  t.true(error.message.startsWith('config.http.port: '), error.message);
  t.true(error.message.includes('many'), error.message);
});

test('files that cannot be read or are no mapping are refused', async (t) => {
  await t.throwsAsync(() => loadConfig(join(folder, 'none.yaml'), {}), { message: /none\.yaml.*|cannot be read/ });
  await t.throwsAsync(() => loadConfig(file('a: ['), {}), { message: /is not YAML/ });
  await t.throwsAsync(() => loadConfig(file('{"a": '), {}), { message: /is not YAML or JSON/ });
  await t.throwsAsync(() => loadConfig(file('- 1'), {}), { message: /expected a mapping/ });
});

test('where the NSDB listens', (t) => {
  t.deepEqual(parseListen('config.nsdb.listen', '127.0.0.1:2181'), { host: '127.0.0.1', port: 2181 });
  t.deepEqual(parseListen('config.nsdb.listen', '[::1]:0'), { host: '::1', port: 0 });
  t.deepEqual(parseListen('config.nsdb.listen', 'unix:/run/a.sock'), { path: '/run/a.sock' });
  for (const text of ['2181', 'a:', 'a:99999', 'unix:relative', ':2181']) {
    t.throws(() => parseListen('config.nsdb.listen', text), {
      instanceOf: InvalidInputError,
      message: /^config\.nsdb\.listen: /,
    });
  }
});
