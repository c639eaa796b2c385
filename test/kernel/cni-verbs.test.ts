import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CniServer } from '../../cni/server.js';
import { CniVerbs } from '../../cni/verbs.js';
import { SUPPORTED_VERSIONS } from '../../cni/versions.js';
import { Attachments } from '../../src/agent/attachments/attachments.js';
import { VethInterfaces } from '../../src/agent/attachments/container-interfaces.js';
import { Networks } from '../../src/agent/attachments/networks.js';
import type { Namespace } from '../../src/datapath/link/namespace.js';
import { Ipam } from '../../src/ipam/ipam.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../src/nsdb/store.js';
import { idFromName } from '../../src/topology/id.js';
import { FakeLocalPorts } from '../agent/fakes.js';
import { runProgram } from '../cni/program.js';
import { FakeStore, FakeTree } from '../ipam/fake-store.js';
import { ip, newNamespace } from './namespaces.js';

const hostId = idFromName('host', 'one');

/** A node with the kernel's interfaces and the C program; what is beyond the interfaces is played. */
class KernelNode {
  readonly store = new FakeStore(new FakeTree());
  localPorts = new FakeLocalPorts();
  readonly home: Namespace;
  interfaces!: VethInterfaces;
  ipam!: Ipam;
  attachments!: Attachments;
  server!: CniServer;

  constructor(
    t: ExecutionContext,
    readonly folder: string,
  ) {
    this.home = newNamespace(t);
  }

  get socket(): string {
    return join(this.folder, 'cni.sock');
  }

  async start(): Promise<void> {
    const warn = () => undefined;
    const repository = new TopologyRepository(this.store as unknown as Store);
    await repository.initialize();
    if ((await repository.get('host', hostId)) === undefined) {
      await repository.create('host', { id: hostId, name: 'one' });
    }
    this.localPorts = new FakeLocalPorts();
    this.interfaces = new VethInterfaces(this.home);
    this.ipam = await Ipam.open({ store: this.store, hostId, folder: join(this.folder, 'pools'), warn });
    const networks = await Networks.open({ repository, folder: join(this.folder, 'networks'), warn });
    this.attachments = await Attachments.open({
      hostId,
      folder: join(this.folder, 'attachments'),
      ipam: this.ipam,
      interfaces: this.interfaces,
      localPorts: this.localPorts,
      warn,
    });
    await this.attachments.recover();
    const verbs = new CniVerbs({
      attachments: this.attachments,
      networks,
      ipam: this.ipam,
      mtu: () => 1450,
      storeConnected: () => true,
    });
    this.server = await CniServer.listen({ path: this.socket, handler: verbs.handle, warn });
  }

  async stop(): Promise<void> {
    await this.server.close();
    await this.ipam.close();
    this.interfaces.close();
  }

  /** Names of the interfaces of the node and of a container, other than what modules of the kernel add. */
  links(...namespaces: Namespace[]): string[][] {
    return [this.home, ...namespaces].map((namespace) =>
      (JSON.parse(ip(namespace, '-json', 'link')) as { ifname: string }[]).map((link) => link.ifname).sort(),
    );
  }

  async call(command: string, variables: Record<string, string>, extra: object = {}) {
    const config = {
      cniVersion: '1.1.0',
      name: 'net',
      type: 'midonet',
      socket: this.socket,
      subnets: [
        { cidr: '10.1.0.0/24', gateway: '10.1.0.1' },
        { cidr: 'fd00:1::/64', gateway: 'fd00:1::1' },
      ],
      ...extra,
    };
    const result = await runProgram({ CNI_COMMAND: command, CNI_PATH: '/x', ...variables }, JSON.stringify(config));
    const output = (result.stdout === '' ? {} : JSON.parse(result.stdout)) as Record<string, unknown>;
    return { ...result, output };
  }
}

async function setup(t: ExecutionContext): Promise<KernelNode> {
  const folder = await mkdtemp(join(tmpdir(), 'mn-kernel-cni-'));
  const node = new KernelNode(t, folder);
  await node.start();
  t.teardown(async () => {
    await node.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return node;
}

const variables = (namespace: Namespace, id = 'c1') => ({
  CNI_CONTAINERID: id,
  CNI_NETNS: namespace.path,
  CNI_IFNAME: 'eth0',
});

for (const cniVersion of SUPPORTED_VERSIONS) {
  test(`${cniVersion}: ADD makes what it reports, CHECK finds it, DEL leaves nothing`, async (t) => {
    const node = await setup(t);
    const pod = newNamespace(t);
    const before = node.links(pod);
    const added = await node.call('ADD', variables(pod), { cniVersion });
    t.is(added.status, 0, added.stdout);
    const { interfaces, ips } = added.output as {
      interfaces: { name: string; mac: string; sandbox?: string }[];
      ips: { address: string; interface: number }[];
    };
    t.is(interfaces[ips[0].interface].sandbox, pod.path);
    const [inside] = JSON.parse(ip(pod, '-json', 'address', 'show', 'eth0')) as {
      address: string;
      mtu: number;
      flags: string[];
      addr_info: { local: string; prefixlen: number; nodad?: boolean; tentative?: boolean }[];
    }[];
    t.is(inside.address, interfaces[1].mac);
    t.is(inside.mtu, 1450);
    // The operational state follows some time after the carrier.
    for (const flag of ['UP', 'LOWER_UP']) t.true(inside.flags.includes(flag), flag);
    const addresses = inside.addr_info.map((one) => `${one.local}/${one.prefixlen}`);
    for (const { address } of ips) t.true(addresses.includes(address), address);
    t.true(inside.addr_info.every((one) => one.local.startsWith('fe80') || one.tentative !== true));
    t.regex(ip(pod, 'route'), /default via 10\.1\.0\.1 dev eth0/);
    t.regex(ip(pod, '-6', 'route'), /default via fd00:1::1 dev eth0/);
    const [outside] = JSON.parse(ip(node.home, '-json', 'link', 'show', interfaces[0].name)) as {
      address: string;
      flags: string[];
      ifalias: string;
    }[];
    t.like(outside, { address: interfaces[0].mac, ifalias: 'eth0 c1 net' });
    for (const flag of ['UP', 'LOWER_UP']) t.true(outside.flags.includes(flag), flag);

    if (cniVersion !== '0.3.0' && cniVersion !== '0.3.1') {
      const checked = await node.call('CHECK', variables(pod), { cniVersion, prevResult: added.output });
      t.is(checked.status, 0, checked.stdout);
      execFileSync('ip', ['-n', pod.path.split('/').at(-1)!, 'address', 'delete', ips[0].address, 'dev', 'eth0']);
      const damaged = await node.call('CHECK', variables(pod), { cniVersion, prevResult: added.output });
      t.is(damaged.output.code, 101);
      t.true((damaged.output.msg as string).includes(ips[0].address));
    }
    for (const extra of [{ prevResult: added.output }, {}]) {
      t.is((await node.call('DEL', variables(pod), { cniVersion, ...extra })).status, 0);
    }
    t.deepEqual(node.links(pod), before);
    t.deepEqual(await readdir(join(node.folder, 'attachments')), []);
    t.is(node.localPorts.attached.size, 0);
    t.true(node.ipam.usage().every((usage) => usage.used === 0));
  });
}

test('CHECK finds no fault in what the plugins tuning and sbr have changed', async (t) => {
  const node = await setup(t);
  for (const [type, settings] of [
    ['tuning', { mac: '02:00:00:00:00:77' }],
    ['tuning', { mtu: 1400 }],
    ['sbr', {}],
  ] as const) {
    const pod = newNamespace(t);
    const given = { cniVersion: '0.4.0', subnets: [{ cidr: '10.1.0.0/24', gateway: '10.1.0.1' }] };
    const added = await node.call('ADD', variables(pod), given);
    const chained = execFileSync(`/usr/lib/cni/${type}`, {
      env: { CNI_COMMAND: 'ADD', CNI_PATH: '/usr/lib/cni', ...variables(pod) },
      input: JSON.stringify({
        cniVersion: '0.4.0',
        name: 'net',
        type,
        dataDir: node.folder,
        ...settings,
        prevResult: added.output,
      }),
      encoding: 'utf8',
      stdio: 'pipe',
    });
    if (type === 'sbr') t.is(ip(pod, 'route', 'show', 'default'), '', 'it is in another table');
    // Setting the address takes the interface down, and the kernel forgets its routes; some versions put them back.
    if ('mac' in settings) ip(pod, 'route', 'replace', 'default', 'via', '10.1.0.1', 'dev', 'eth0');
    const checked = await node.call('CHECK', variables(pod), { ...given, prevResult: JSON.parse(chained) as object });
    t.is(checked.status, 0, `${type} ${JSON.stringify(settings)}: ${checked.stdout}`);
    t.is((await node.call('DEL', variables(pod), given)).status, 0);
  }
});

test('failures of ADD name their cause and leave nothing', async (t) => {
  const node = await setup(t);
  const pod = newNamespace(t);
  ip(pod, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'other');
  const before = node.links(pod);
  for (const [environment, code, message] of [
    [variables(pod), 100, /CNI_IFNAME.*eth0/],
    [{ ...variables(pod), CNI_NETNS: '/run/netns/mn-does-not-exist' }, 8, /CNI_NETNS.*not found/],
    [{ ...variables(pod), CNI_NETNS: '/etc/hostname' }, 8, /CNI_NETNS.*not a network namespace/],
    [{ ...variables(pod), CNI_NETNS: '/proc/self/ns/uts' }, 8, /CNI_NETNS.*not a network namespace/],
    [{ ...variables(pod), CNI_NETNS: node.home.path }, 8, /CNI_NETNS.*the agent runs in/],
  ] as const) {
    const result = await node.call('ADD', environment);
    t.is(result.status, 1);
    t.is(result.output.code, code, result.stdout);
    t.regex(result.output.msg as string, message);
  }
  t.deepEqual(node.links(pod), before);
  t.deepEqual(await readdir(join(node.folder, 'attachments')), []);
  t.true(node.ipam.usage().every((usage) => usage.used === 0));
});

test('a port that the datapath refuses leaves nothing', async (t) => {
  const node = await setup(t);
  const pod = newNamespace(t);
  const before = node.links(pod);
  node.localPorts.fault = (at) => {
    if (at === 'attach') throw new Error('refused');
  };
  t.is((await node.call('ADD', variables(pod))).output.code, 999);
  t.deepEqual(node.links(pod), before);
});

test('the namespace vanishing takes the interface along; DEL, and an ADD in a new one, succeed', async (t) => {
  const node = await setup(t);
  const name = `mntest-gone-${process.pid}`;
  execFileSync('ip', ['netns', 'add', name]);
  const environment = { CNI_CONTAINERID: 'c1', CNI_NETNS: `/run/netns/${name}`, CNI_IFNAME: 'eth0' };
  t.is((await node.call('ADD', environment)).status, 0);
  execFileSync('ip', ['netns', 'delete', name]);
  t.is((await node.call('DEL', environment)).status, 0);
  t.is((await node.call('DEL', { ...environment, CNI_NETNS: '' })).status, 0);
  t.is((await node.call('ADD', variables(newNamespace(t)))).status, 0);
});

test('two interfaces in one container, and many containers at once', async (t) => {
  const node = await setup(t);
  const pods = Array.from({ length: 8 }, () => newNamespace(t));
  const results = await Promise.all(
    pods.flatMap((pod, i) =>
      ['eth0', 'net1'].map((name) => node.call('ADD', { ...variables(pod, `c${i}`), CNI_IFNAME: name })),
    ),
  );
  t.deepEqual(
    results.filter((result) => result.status !== 0).map((result) => result.stdout),
    [],
  );
  const addresses = results.flatMap((result) => (result.output.ips as { address: string }[]).map((one) => one.address));
  t.is(new Set(addresses).size, 32);
  const valid = [{ containerID: 'c0', ifname: 'net1' }];
  t.is((await node.call('GC', {}, { 'cni.dev/valid-attachments': valid })).status, 0);
  t.is(node.attachments.list().length, 1);
  t.is(
    node
      .links()
      .flat()
      .filter((name) => name.startsWith('mn')).length,
    1,
  );
});

test('a restart attaches again what is there and removes what nobody knows of', async (t) => {
  const node = await setup(t);
  const [one, two] = [newNamespace(t), newNamespace(t)];
  await node.call('ADD', variables(one, 'one'));
  await node.call('ADD', variables(two, 'two'));
  const [first, second] = ['one', 'two'].map(
    (containerId) => node.attachments.get({ network: 'net', containerId, interfaceName: 'eth0' })!,
  );
  await node.stop();
  await rm(join(node.folder, 'attachments', `${second.port.id}.json`));
  await node.start();
  t.deepEqual([...node.localPorts.attached.keys()], [first.port.id]);
  t.deepEqual(
    node
      .links()
      .flat()
      .filter((name) => name.startsWith('mn')),
    [first.hostInterface],
  );
  t.is((await node.call('DEL', variables(two, 'two'))).status, 0);
  t.is((await node.call('CHECK', variables(one, 'one'), { prevResult: {} })).output.code, 101);
});
