import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { CniError } from '../../cni/errors.js';
import { CniVerbs } from '../../cni/verbs.js';
import { atLeast, SUPPORTED_VERSIONS } from '../../cni/versions.js';
import { Attachments } from '../../src/agent/attachments/attachments.js';
import { Networks } from '../../src/agent/attachments/networks.js';
import { Ipam } from '../../src/ipam/ipam.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../src/nsdb/store.js';
import { idFromName } from '../../src/topology/id.js';
import { FakeInterfaces, FakeLocalPorts } from '../agent/fakes.js';
import { FakeStore, FakeTree } from '../ipam/fake-store.js';

const NAMESPACE = '/run/netns/pod';
const hostId = idFromName('host', 'one');

interface Failure {
  cniVersion: string;
  code: number;
  msg: string;
  details?: string;
}

class Plugin {
  readonly store = new FakeStore(new FakeTree());
  readonly interfaces = new FakeInterfaces(NAMESPACE);
  readonly localPorts = new FakeLocalPorts();
  readonly failures: CniError[] = [];
  fault: string | undefined;
  attachments!: Attachments;
  ipam!: Ipam;
  verbs!: CniVerbs;

  async open(folder: string): Promise<void> {
    const repository = new TopologyRepository(this.store as unknown as Store);
    const { interfaces, localPorts } = this;
    const warn = () => undefined;
    if (!this.store.down) {
      await repository.initialize();
      if ((await repository.get('host', hostId)) === undefined)
        await repository.create('host', { id: hostId, name: 'one' });
    }
    this.ipam = await Ipam.open({ store: this.store, hostId, folder: join(folder, 'pools'), warn });
    const networks = await Networks.open({ repository, folder: join(folder, 'networks'), warn });
    this.attachments = await Attachments.open({
      hostId,
      folder: join(folder, 'attachments'),
      ipam: this.ipam,
      interfaces,
      localPorts,
      warn,
    });
    await this.attachments.recover();
    this.verbs = new CniVerbs({
      attachments: this.attachments,
      networks,
      ipam: this.ipam,
      mtu: () => 1450,
      storeConnected: () => !this.store.down,
      fault: () => this.fault,
      failed: (_request, error) => this.failures.push(error),
    });
  }

  async call(
    command: string,
    config: unknown,
    variables: Record<string, string | undefined> = {},
    signal = new AbortController().signal,
  ): Promise<{ status: number; output: Record<string, unknown>; text: string }> {
    const all: Record<string, string | undefined> = {
      CNI_COMMAND: command,
      CNI_CONTAINERID: 'c1',
      CNI_NETNS: NAMESPACE,
      CNI_IFNAME: 'eth0',
      ...variables,
    };
    const environment = new Map(
      Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== undefined),
    );
    const stdin = typeof config === 'string' ? config : JSON.stringify(config);
    const reply = await this.verbs.handle({ pid: 4711, environment, stdin }, signal);
    const output = reply.stdout === '' ? {} : (JSON.parse(reply.stdout) as Record<string, unknown>);
    return { status: reply.status, output, text: reply.stdout };
  }

  async ok(command: string, config: unknown, variables: Record<string, string | undefined> = {}) {
    const { status, output, text } = await this.call(command, config, variables);
    if (status !== 0) throw new Error(`${command} failed: ${text}`);
    return output;
  }

  async error(command: string, config: unknown, variables: Record<string, string | undefined> = {}): Promise<Failure> {
    const { status, output, text } = await this.call(command, config, variables);
    if (status !== 1) throw new Error(`${command} succeeded: ${text}`);
    return output as unknown as Failure;
  }
}

async function setup(t: ExecutionContext): Promise<{ plugin: Plugin; folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'mn-verbs-'));
  const plugin = new Plugin();
  await plugin.open(folder);
  t.teardown(async () => {
    await plugin.ipam.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { plugin, folder };
}

const SUBNETS = [
  { cidr: '10.1.0.0/24', gateway: '10.1.0.1' },
  { cidr: 'fd00:1::/64', gateway: 'fd00:1::1' },
];
const config = (extra: object = {}) => ({
  cniVersion: '1.1.0',
  name: 'net',
  type: 'midonet',
  subnets: SUBNETS,
  ...extra,
});

function assertNothingLeft(t: ExecutionContext, plugin: Plugin, message?: string): void {
  t.is(plugin.interfaces.pairs.size, 0, message);
  t.is(plugin.localPorts.attached.size, 0, message);
  t.is(
    plugin.ipam.usage().reduce((sum, usage) => sum + usage.used, 0),
    0,
    message,
  );
  t.deepEqual(plugin.attachments.list(), [], message);
}

for (const cniVersion of SUPPORTED_VERSIONS) {
  test(`${cniVersion}: ADD, CHECK, DEL, GC, STATUS and the form of the result`, async (t) => {
    const { plugin } = await setup(t);
    const given = config({ cniVersion });
    const result = await plugin.ok('ADD', given);
    const attachment = plugin.attachments.list()[0];
    const mtu = cniVersion === '1.1.0' ? { mtu: 1450 } : {};
    const [v4, v6] = attachment.addresses.map(({ address }) => address);
    const old = !atLeast(cniVersion, '1.0.0');
    t.deepEqual(result, {
      cniVersion,
      interfaces: [
        { name: attachment.hostInterface, mac: attachment.hostMac, ...mtu },
        { name: 'eth0', mac: attachment.mac, ...mtu, sandbox: NAMESPACE },
      ],
      ips: [
        { ...(old ? { version: '4' } : {}), address: `${v4}/24`, gateway: '10.1.0.1', interface: 1 },
        { ...(old ? { version: '6' } : {}), address: `${v6}/64`, gateway: 'fd00:1::1', interface: 1 },
      ],
      routes: [
        { dst: '0.0.0.0/0', gw: '10.1.0.1' },
        { dst: '::/0', gw: 'fd00:1::1' },
      ],
    });

    const second = await plugin.error('ADD', given);
    t.like(second, { cniVersion, code: 100 });
    t.regex(second.msg, /CNI_IFNAME.*eth0/);

    if (atLeast(cniVersion, '0.4.0')) {
      t.deepEqual(await plugin.ok('CHECK', { ...given, prevResult: result }), {});
      t.like(await plugin.error('CHECK', given), { code: 7 });
      t.like(await plugin.error('CHECK', { ...given, prevResult: { ...result, ips: [] } }), { cniVersion, code: 101 });
    } else {
      const failure = await plugin.error('CHECK', { ...given, prevResult: result });
      t.like(failure, { cniVersion, code: 1 });
      t.regex(failure.msg, /CHECK needs 0\.4\.0/);
    }
    for (const command of ['STATUS', 'GC']) {
      const extra = { 'cni.dev/valid-attachments': [{ containerID: 'c1', ifname: 'eth0' }] };
      if (cniVersion === '1.1.0') t.deepEqual(await plugin.ok(command, { ...given, ...extra }), {});
      else t.like(await plugin.error(command, { ...given, ...extra }), { cniVersion, code: 1 });
    }
    t.is(plugin.attachments.list().length, 1);

    t.deepEqual(await plugin.ok('DEL', { ...given, prevResult: result }), {});
    assertNothingLeft(t, plugin);
    t.deepEqual(await plugin.ok('DEL', given, { CNI_NETNS: undefined }), {}, 'again, and without a namespace');
    if (atLeast(cniVersion, '0.4.0')) {
      t.like(await plugin.error('CHECK', { ...given, prevResult: result }), { cniVersion, code: 101 });
    }
  });

  test(`${cniVersion}: a chain: what earlier plugins made is kept`, async (t) => {
    const { plugin } = await setup(t);
    const version = atLeast(cniVersion, '1.0.0') ? {} : { version: '4' };
    const prevResult = {
      cniVersion,
      interfaces: [{ name: 'lo', mac: '00:00:00:00:00:00', sandbox: NAMESPACE }],
      ips: [{ ...version, address: '127.0.0.1/8', interface: 0 }],
      routes: [{ dst: '192.0.2.0/24', gw: '127.0.0.2' }],
      dns: { nameservers: ['192.0.2.53'], domain: 'before.example' },
      extra: 'kept',
    };
    const given = config({
      cniVersion,
      prevResult,
      dns: { domain: 'example.org', search: ['a'] },
      defaultRoute: false,
    });
    const result = await plugin.ok('ADD', given);
    const attachment = plugin.attachments.list()[0];
    t.like(result, {
      extra: 'kept',
      routes: prevResult.routes,
      dns: { nameservers: ['192.0.2.53'], domain: 'example.org', search: ['a'] },
    });
    const { interfaces, ips } = result as { interfaces: object[]; ips: object[] };
    t.deepEqual(interfaces[0], prevResult.interfaces[0]);
    t.like(interfaces[2], { name: 'eth0', mac: attachment.mac });
    t.deepEqual(ips[0], prevResult.ips[0]);
    t.like(ips[1], { interface: 2 });
    t.is(interfaces.length, 3);
    t.is(ips.length, 3);
  });
}

test('VERSION', async (t) => {
  const { plugin } = await setup(t);
  t.deepEqual(await plugin.ok('VERSION', '{"cniVersion":"0.4.0"}'), {
    cniVersion: '0.4.0',
    supportedVersions: [...SUPPORTED_VERSIONS],
  });
  t.like(await plugin.ok('VERSION', ''), { cniVersion: '1.1.0' });
});

test('versions that are not spoken: code 1', async (t) => {
  const { plugin } = await setup(t);
  for (const cniVersion of ['', '0.1.0', '0.2.0', '1.2.0', '2.0.0', 'x']) {
    t.like(await plugin.error('ADD', config({ cniVersion })), { cniVersion, code: 1 });
  }
  t.like(await plugin.error('ADD', config({ cniVersion: undefined })), { cniVersion: '1.1.0', code: 1 });
  t.like(await plugin.error('ADD', config({ cniVersion: 1 })), { code: 1 });
  assertNothingLeft(t, plugin);
});

test('input that is not JSON: code 6', async (t) => {
  const { plugin } = await setup(t);
  for (const text of ['', '{', '[]', 'null', '"x"', '{"a":1,}']) {
    t.like(await plugin.error('ADD', text), { cniVersion: '1.1.0', code: 6 }, text);
  }
});

test('environment: code 4, all missing names at once, wrong values by name', async (t) => {
  const { plugin } = await setup(t);
  const missing = await plugin.error('ADD', config(), {
    CNI_CONTAINERID: undefined,
    CNI_NETNS: '',
    CNI_IFNAME: undefined,
  });
  t.is(missing.code, 4);
  for (const name of ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME']) t.true(missing.msg.includes(name));
  const del = await plugin.error('DEL', config(), { CNI_CONTAINERID: '', CNI_NETNS: undefined, CNI_IFNAME: undefined });
  t.is(del.code, 4);
  t.false(del.msg.includes('CNI_NETNS'));
  for (const [name, value] of [
    ['CNI_COMMAND', 'FOO'],
    ['CNI_COMMAND', ''],
    ['CNI_CONTAINERID', '-x'],
    ['CNI_CONTAINERID', 'a/b'],
    ['CNI_CONTAINERID', 'ä'],
    ['CNI_IFNAME', '.'],
    ['CNI_IFNAME', '..'],
    ['CNI_IFNAME', 'a/b'],
    ['CNI_IFNAME', 'a:b'],
    ['CNI_IFNAME', 'a b'],
    ['CNI_IFNAME', 'sixteen-bytes-xx'],
    ['CNI_IFNAME', 'ääääääää'],
    ['CNI_NETNS', 'relative'],
    ['CNI_ARGS', 'novalue'],
    ['CNI_ARGS', '=x'],
    ['CNI_ARGS', 'FOO=bar'],
    ['CNI_ARGS', 'IP=10.9.9.9'],
    ['CNI_ARGS', 'IP=nonsense'],
    ['CNI_ARGS', 'MAC=01:00:00:00:00:01'],
    ['CNI_ARGS', 'MAC=xx'],
  ]) {
    const failure = await plugin.error('ADD', config(), { [name]: value });
    t.is(failure.code, 4, `${name}=${value}`);
    t.true(failure.msg.includes(name), failure.msg);
  }
  assertNothingLeft(t, plugin);
});

test('what Kubernetes passes in CNI_ARGS is accepted', async (t) => {
  const { plugin } = await setup(t);
  await plugin.ok('ADD', config(), {
    CNI_ARGS: 'K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=1-2-3',
  });
  await plugin.ok('ADD', config(), { CNI_ARGS: 'IgnoreUnknown=1;FOO=bar', CNI_CONTAINERID: 'c2', CNI_IFNAME: 'eth1' });
  t.is(plugin.attachments.list().length, 2);
});

test('every field of the configuration that is wrong is named, with its value: code 7', async (t) => {
  const { plugin } = await setup(t);
  const cases: [object, string, string][] = [
    [{ name: undefined }, 'config.name', 'nothing'],
    [{ name: '' }, 'config.name', '""'],
    [{ name: '../x' }, 'config.name', '"../x"'],
    [{ type: 'bridge' }, 'config.type', '"bridge"'],
    [{ subnets: undefined }, 'config.subnets', 'nothing'],
    [{ subnets: {} }, 'config.subnets', '{}'],
    [{ subnets: [] }, 'config.subnets', '[]'],
    [{ subnets: [{}] }, 'config.subnets[0].cidr', 'nothing'],
    [{ subnets: [{ cidr: '10.0.0.0' }] }, 'config.subnets[0].cidr', '"10.0.0.0"'],
    [{ subnets: [{ cidr: '10.0.0.1/24' }] }, 'config.subnets[0].cidr', '"10.0.0.1/24"'],
    [{ subnets: [{ cidr: '10.0.0.0/33' }] }, 'config.subnets[0].cidr', '"10.0.0.0/33"'],
    [{ subnets: [{ cidr: '10.0.0.0/24' }, { cidr: '10.0.1.0/24' }] }, 'config.subnets[1].cidr', '"10.0.1.0/24"'],
    [{ subnets: [{ cidr: '10.0.0.0/24', gateway: '10.0.1.1' }] }, 'config.subnets[0].gateway', '"10.0.1.1"'],
    [{ subnets: [{ cidr: '10.0.0.0/24', gateway: 'x' }] }, 'config.subnets[0].gateway', '"x"'],
    [{ subnets: [{ cidr: '10.0.0.0/24', blockSize: 23 }] }, 'config.subnets[0].blockSize', '23'],
    [{ subnets: [{ cidr: '10.0.0.0/8', blockSize: 15 }] }, 'config.subnets[0].blockSize', '15'],
    [{ subnets: [{ cidr: '10.0.0.0/24', blockSize: '26' }] }, 'config.subnets[0].blockSize', '"26"'],
    [{ subnets: [{ cidr: '10.0.0.0/24', rangeStart: '10.0.0.5' }] }, 'config.subnets[0].rangeStart', '"10.0.0.5"'],
    [{ mtu: 67 }, 'config.mtu', '67'],
    [{ mtu: 1279 }, 'config.mtu', '1279'],
    [{ mtu: 1451 }, 'config.mtu', '1451'],
    [{ mtu: '1450' }, 'config.mtu', '"1450"'],
    [{ defaultRoute: 'yes' }, 'config.defaultRoute', '"yes"'],
    [{ defaultRoute: true, subnets: [{ cidr: '10.0.0.0/24' }] }, 'config.defaultRoute', 'true'],
    [{ dns: 'x' }, 'config.dns', '"x"'],
    [{ dns: { nameservers: 'x' } }, 'config.dns.nameservers', '"x"'],
    [{ capabilities: [] }, 'config.capabilities', '[]'],
    [{ runtimeConfig: { ips: '10.1.0.5' } }, 'config.runtimeConfig.ips', '"10.1.0.5"'],
    [{ runtimeConfig: { ips: ['10.9.0.5'] } }, 'config.runtimeConfig.ips[0]', '"10.9.0.5"'],
    [{ runtimeConfig: { ips: ['10.1.0.5/16'] } }, 'config.runtimeConfig.ips[0]', '"10.1.0.5/16"'],
    [{ runtimeConfig: { mac: 'ff:ff:ff:ff:ff:ff' } }, 'config.runtimeConfig.mac', '"ff:ff:ff:ff:ff:ff"'],
    [{ args: { cni: { ips: ['x'] } } }, 'config.args.cni.ips[0]', '"x"'],
    [{ prevResult: [] }, 'config.prevResult', '[]'],
    [{ prevResult: { ips: [{}] } }, 'config.prevResult.ips[0].address', 'nothing'],
  ];
  for (const [extra, field, value] of cases) {
    const failure = await plugin.error('ADD', config(extra));
    t.is(failure.code, 7, `${field}: ${failure.msg}`);
    t.true(failure.msg.startsWith(`${field}: `), `${field}: ${failure.msg}`);
    t.true(failure.msg.endsWith(`got ${value}`), failure.msg);
  }
  assertNothingLeft(t, plugin);
  t.deepEqual(plugin.store.tree.childrenOf('/bridges'), []);
});

test('every field that is not supported is refused by name and value: code 2', async (t) => {
  const { plugin } = await setup(t);
  for (const [extra, field, value] of [
    [{ ipMasq: true }, 'config.ipMasq', 'true'],
    [{ isGateway: false }, 'config.isGateway', 'false'],
    [{ ipam: { type: 'host-local' } }, 'config.ipam', '{"type":"host-local"}'],
    [{ bridge: 'cni0' }, 'config.bridge', '"cni0"'],
    [{ runtimeConfig: { portMappings: [{ hostPort: 80 }] } }, 'config.runtimeConfig.portMappings', '[{"hostPort":80}]'],
    [{ runtimeConfig: { bandwidth: { ingressRate: 5 } } }, 'config.runtimeConfig.bandwidth', '{"ingressRate":5}'],
    [{ runtimeConfig: { ipRanges: [[{ subnet: 'x' }]] } }, 'config.runtimeConfig.ipRanges', '[[{"subnet":"x"}]]'],
  ] as [object, string, string][]) {
    const failure = await plugin.error('ADD', config(extra));
    t.is(failure.code, 2, failure.msg);
    t.true(failure.msg.startsWith(`${field}: `) && failure.msg.endsWith(`got ${value}`), failure.msg);
  }
  assertNothingLeft(t, plugin);
});

test('fields that libcni has for all plugins, and empty capabilities, are accepted', async (t) => {
  const { plugin } = await setup(t);
  await plugin.ok(
    'ADD',
    config({
      socket: '/run/midonet/cni.sock',
      capabilities: { ips: true, mac: true, portMappings: true, bandwidth: true },
      cniVersions: ['1.0.0', '1.1.0'],
      disableCheck: false,
      disableGC: true,
      loadOnlyInlinedPlugins: true,
      args: { cni: { labels: [{ key: 'a', value: 'b' }] }, other: 1 },
      runtimeConfig: { portMappings: [], bandwidth: {}, ips: null, mac: '', dns: { servers: ['192.0.2.1'] } },
      prevResult: null,
      'cni.dev/valid-attachments': null,
    }),
  );
  t.is(plugin.attachments.list().length, 1);
});

test('addresses and MAC asked for in each way', async (t) => {
  const { plugin } = await setup(t);
  const address = async (id: string, extra: object, variables: Record<string, string> = {}) => {
    const result = await plugin.ok('ADD', config(extra), { CNI_CONTAINERID: id, CNI_IFNAME: id, ...variables });
    const { ips, interfaces } = result as { ips: { address: string }[]; interfaces: { mac: string }[] };
    return { ips: ips.map((ip) => ip.address), mac: interfaces[1].mac };
  };
  t.is((await address('a', { runtimeConfig: { ips: ['10.1.0.100'] } })).ips[0], '10.1.0.100/24');
  t.deepEqual((await address('b', { runtimeConfig: { ips: ['10.1.0.101/24', 'FD00:1::0101/64'] } })).ips, [
    '10.1.0.101/24',
    'fd00:1::101/64',
  ]);
  t.is((await address('c', { args: { cni: { ips: ['10.1.0.102'] } } })).ips[0], '10.1.0.102/24');
  t.is((await address('d', {}, { CNI_ARGS: 'IP=10.1.0.103' })).ips[0], '10.1.0.103/24');
  t.is((await address('e', { runtimeConfig: { mac: '02:AA:bb:00:00:01' } })).mac, '02:aa:bb:00:00:01');
  t.is((await address('f', {}, { CNI_ARGS: 'MAC=02:00:00:00:00:09' })).mac, '02:00:00:00:00:09');
  const taken = await plugin.error('ADD', config({ runtimeConfig: { ips: ['10.1.0.100'] } }));
  t.is(taken.code, 11);
  t.is(taken.details, 'MN_ADDRESS_IN_USE');
  for (const reserved of ['10.1.0.0', '10.1.0.1', '10.1.0.255', 'fd00:1::', 'fd00:1::1']) {
    t.is((await plugin.error('ADD', config({ runtimeConfig: { ips: [reserved] } }))).code, 7);
  }
});

test('CHECK compares with what prevResult lists: later plugins may have changed it', async (t) => {
  const { plugin } = await setup(t);
  const result = await plugin.ok('ADD', config());
  const [host, inner] = result.interfaces as { mac: string; mtu: number }[];
  const { hostInterface } = plugin.attachments.list()[0];
  const pair = plugin.interfaces.pairs.get(hostInterface)!;
  const set = (change: object) => plugin.interfaces.pairs.set(hostInterface, { ...pair, ...change });
  const check = (change: object) => plugin.call('CHECK', config({ prevResult: { ...result, ...change } }));
  const listing = (change: object) => ({ interfaces: [host, { ...inner, ...change }] });
  const faults = async (change: object, message: RegExp) => {
    const { output } = await check(change);
    t.is(output.code, 101);
    t.regex(output.msg as string, message);
  };

  set({ mac: '02:00:00:00:00:77' });
  t.is((await check(listing({ mac: '02:00:00:00:00:77' }))).status, 0, 'tuning: the MAC address');
  await faults({}, /MAC address is 02:00:00:00:00:77, expected/);
  set({});
  await faults(listing({ mac: '02:00:00:00:00:77' }), /expected 02:00:00:00:00:77/);
  t.is((await check(listing({ mac: inner.mac.toUpperCase() }))).status, 0);

  set({ mtu: 1400 });
  t.is((await check({})).status, 0, 'tuning: the MTU, which it does not list');
  set({ mtu: 1500 });
  await faults({}, /MTU is 1500, expected at most 1450/);
  t.is((await check(listing({ mtu: 1500 }))).status, 0);

  set({ routes: [] });
  await faults({}, /route 0\.0\.0\.0\/0 via 10\.1\.0\.1 is missing/);
  t.is((await check({ routes: undefined })).status, 0, 'routes that are not listed are not looked for');
  await faults({ routes: [{ dst: '0::/0', gw: 'FD00:1::1' }] }, /route ::\/0 via fd00:1::1 is missing/);
});

test('a namespace that is missing: code 8 naming CNI_NETNS; DEL succeeds', async (t) => {
  const { plugin } = await setup(t);
  const failure = await plugin.error('ADD', config(), { CNI_NETNS: '/run/netns/gone' });
  t.is(failure.code, 8);
  t.regex(failure.msg, /CNI_NETNS.*\/run\/netns\/gone.*not found/);
  assertNothingLeft(t, plugin);
  await plugin.ok('DEL', config(), { CNI_NETNS: '/run/netns/gone' });
});

test("/proc/self in CNI_NETNS is the program's", async (t) => {
  const { plugin } = await setup(t);
  plugin.interfaces.namespaces.set('/proc/4711/ns/net', 'x');
  await plugin.ok('ADD', config(), { CNI_NETNS: '/proc/self/ns/net' });
  t.is(plugin.attachments.list()[0].namespacePath, '/proc/4711/ns/net');
});

test('no gateway, no default route', async (t) => {
  const { plugin } = await setup(t);
  const result = await plugin.ok('ADD', config({ subnets: [{ cidr: '10.1.0.0/24' }] }));
  t.is(result.routes, undefined);
  t.is((result.ips as { gateway?: string }[])[0].gateway, undefined);
});

test('a network of the name with other subnets: code 7', async (t) => {
  const { plugin } = await setup(t);
  await plugin.ok('ADD', config());
  const failure = await plugin.error(
    'ADD',
    config({ subnets: [{ cidr: '10.1.0.0/24', gateway: '10.1.0.2' }, SUBNETS[1]] }),
    {
      CNI_CONTAINERID: 'c2',
    },
  );
  t.is(failure.code, 7);
  t.regex(failure.msg, /subnets\[0\]\.gateway.*10\.1\.0\.2/);
});

test('DEL needs only version and name: what an older agent accepted can be removed', async (t) => {
  const { plugin } = await setup(t);
  await plugin.ok('ADD', config());
  await plugin.ok('DEL', { cniVersion: '1.1.0', name: 'net', ipMasq: true, subnets: 'nonsense', prevResult: {} });
  assertNothingLeft(t, plugin);
});

test('GC removes what is not valid; without a list it does nothing', async (t) => {
  const { plugin } = await setup(t);
  for (const id of ['a', 'b', 'c']) {
    plugin.interfaces.namespaces.set(`/run/netns/${id}`, id);
    await plugin.ok('ADD', config(), { CNI_CONTAINERID: id, CNI_NETNS: `/run/netns/${id}` });
  }
  t.is((await plugin.error('GC', config())).code, 7);
  t.is((await plugin.error('GC', config({ 'cni.dev/valid-attachments': [{ containerID: 5 }] }))).code, 7);
  t.is(plugin.attachments.list().length, 3);
  await plugin.ok('GC', config({ 'cni.dev/valid-attachments': [{ containerID: 'b', ifname: 'eth0' }] }), {
    CNI_CONTAINERID: undefined,
    CNI_NETNS: undefined,
    CNI_IFNAME: undefined,
  });
  t.deepEqual(
    plugin.attachments.list().map((one) => one.containerId),
    ['b'],
  );
  plugin.interfaces.fault = (at) => {
    if (at === 'remove') throw new Error('busy');
  };
  const failure = await plugin.error('GC', config({ 'cni.dev/valid-attachments': [] }));
  t.is(failure.code, 102);
  t.regex(failure.details!, /busy/);
});

test('GC with null for the list, which is how libcni writes an empty one, removes everything', async (t) => {
  const { plugin } = await setup(t);
  await plugin.ok('ADD', config());
  t.is((await plugin.error('GC', config())).code, 7, 'no list is not an empty one');
  t.is(plugin.attachments.list().length, 1);
  await plugin.ok('GC', config({ 'cni.dev/valid-attachments': null, 'cni.dev/attachments': null }));
  assertNothingLeft(t, plugin);
});

test('bandwidth limits that are all zero are none', async (t) => {
  const { plugin } = await setup(t);
  const bandwidth = { ingressRate: 0, ingressBurst: 0, egressRate: 0, egressBurst: 0 };
  await plugin.ok('ADD', config({ runtimeConfig: { bandwidth } }));
  const refused = await plugin.error(
    'ADD',
    config({ runtimeConfig: { bandwidth: { ...bandwidth, egressBurst: 8 } } }),
    {
      CNI_CONTAINERID: 'c2',
    },
  );
  t.is(refused.code, 2);
  t.regex(refused.msg, /bandwidth.*"egressBurst":8/);
});

test('STATUS: 0, 50 and 51', async (t) => {
  const { plugin } = await setup(t);
  const small = config({ name: 'small', subnets: [{ cidr: '10.2.0.0/29', gateway: '10.2.0.1' }] });
  await plugin.ok('STATUS', small);
  plugin.store.down = true;
  t.like(await plugin.error('STATUS', small), { code: 50 });
  plugin.store.down = false;
  for (let i = 0; i < 5; i++) await plugin.ok('ADD', small, { CNI_CONTAINERID: `c${i}`, CNI_IFNAME: `eth${i}` });
  const exhausted = await plugin.error('STATUS', small);
  t.is(exhausted.code, 50);
  t.regex(exhausted.msg, /10\.2\.0\.0\/29.*no free address/);
  t.like(await plugin.error('ADD', small, { CNI_CONTAINERID: 'c9', CNI_IFNAME: 'eth9' }), {
    code: 11,
    details: 'MN_POOL_EXHAUSTED',
  });
  await plugin.ok('DEL', small, { CNI_CONTAINERID: 'c0', CNI_IFNAME: 'eth0' });
  await plugin.ok('STATUS', small);
  plugin.store.down = true;
  await plugin.ok('STATUS', small);
  plugin.fault = 'the datapath is gone';
  t.like(await plugin.error('STATUS', small), { code: 51, msg: 'the datapath is gone' });
});

test('without the NSDB: a known network works, also after a restart; an unknown one: code 11', async (t) => {
  const { plugin, folder } = await setup(t);
  await plugin.ok('ADD', config());
  await plugin.ipam.close();
  plugin.store.down = true;
  await plugin.open(folder);
  await plugin.ok('ADD', config(), { CNI_CONTAINERID: 'c2', CNI_IFNAME: 'eth1' });
  t.like(await plugin.error('ADD', config({ name: 'new' }), { CNI_CONTAINERID: 'c3', CNI_IFNAME: 'eth2' }), {
    code: 11,
  });
  await plugin.ok('DEL', config());
  t.is(plugin.attachments.list().length, 1);
});

test('a program that goes away in the middle of ADD leaves nothing', async (t) => {
  const { plugin } = await setup(t);
  const gone = new AbortController();
  plugin.interfaces.fault = () => gone.abort(new Error('the program is gone'));
  const { status, output } = await plugin.call('ADD', config(), {}, gone.signal);
  t.is(status, 1);
  t.is(output.code, 11);
  assertNothingLeft(t, plugin);
});

test('an error nobody foresaw: code 999', async (t) => {
  const { plugin } = await setup(t);
  plugin.interfaces.fault = () => {
    throw new TypeError('oops');
  };
  const failure = await plugin.error('ADD', config());
  t.is(failure.code, 999);
  t.is(failure.msg, 'internal error: oops');
  t.is(plugin.failures.length, 1);
  plugin.interfaces.fault = () => {};
  await plugin.ok('DEL', config());
  assertNothingLeft(t, plugin);
});
