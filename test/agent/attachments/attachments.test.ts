import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import type { AttachmentKey, AttachmentRequest } from '../../../src/agent/attachments/attachment.js';
import { Attachments } from '../../../src/agent/attachments/attachments.js';
import type { Network } from '../../../src/agent/attachments/networks.js';
import { Ipam } from '../../../src/ipam/ipam.js';
import { encodeJson } from '../../../src/nsdb/json.js';
import { macPath, objectPath } from '../../../src/nsdb/layout.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { idFromName } from '../../../src/topology/id.js';
import type { AddressPool } from '../../../src/topology/types.js';
import { FakeStore, FakeTree, seedTree } from '../../ipam/fake-store.js';
import { FakeInterfaces, FakeLocalPorts } from '../fakes.js';

const hostId = idFromName('host', 'one');
const bridgeId = idFromName('bridge', 'net');
const makePool = (cidr: string, blockSize: number, gateway?: string): AddressPool => ({
  id: idFromName('pool', bridgeId, cidr),
  bridgeId,
  cidr,
  blockSize,
  gateway,
});
const POOLS = [makePool('10.1.0.0/24', 28, '10.1.0.1'), makePool('fd00:1::/64', 122)];
const NETWORK: Network = { name: 'net', bridgeId, pools: POOLS };
const NAMESPACE = '/run/netns/pod';

class Crash extends Error {}

/** The host: disk and kernel outlive the agent that {@link start} makes. */
class TestNode {
  readonly tree = new FakeTree();
  readonly store = new FakeStore(this.tree);
  readonly interfaces = new FakeInterfaces(NAMESPACE, '/run/netns/other');
  localPorts = new FakeLocalPorts();
  warnings: string[] = [];
  bootId = 'boot 1';
  ipam!: Ipam;
  attachments!: Attachments;

  constructor(readonly folder: string) {}

  async start(): Promise<void> {
    const warn = (message: string) => this.warnings.push(message);
    this.localPorts = new FakeLocalPorts();
    this.ipam = await Ipam.open({ store: this.store, hostId, folder: join(this.folder, 'pools'), warn });
    this.attachments = await Attachments.open({
      hostId,
      folder: join(this.folder, 'attachments'),
      ipam: this.ipam,
      interfaces: this.interfaces,
      localPorts: this.localPorts,
      repository: new TopologyRepository(this.store as unknown as Store),
      warn,
      bootId: this.bootId,
    });
  }

  async restart(): Promise<void> {
    await this.ipam.close();
    await this.start();
  }

  async files(): Promise<string[]> {
    return (await readdir(join(this.folder, 'attachments'))).sort();
  }

  used(): number {
    return this.ipam.usage().reduce((sum, usage) => sum + usage.used, 0);
  }
}

async function setup(t: ExecutionContext): Promise<TestNode> {
  const folder = await mkdtemp(join(tmpdir(), 'mn-attachments-'));
  const node = new TestNode(folder);
  await seedTree(
    node.tree,
    [hostId],
    POOLS.map((pool) => pool.id),
  );
  await node.start();
  t.teardown(async () => {
    await node.ipam.close();
    await rm(folder, { recursive: true, force: true });
  });
  return node;
}

const request = (overrides: Partial<AttachmentRequest> = {}): AttachmentRequest => ({
  network: NETWORK,
  containerId: 'c1',
  interfaceName: 'eth0',
  namespacePath: NAMESPACE,
  mtu: 1450,
  addresses: [],
  defaultRoute: true,
  owner: 'cni',
  ...overrides,
});
const KEY: AttachmentKey = { network: 'net', containerId: 'c1', interfaceName: 'eth0' };

async function assertNothingLeft(t: ExecutionContext, node: TestNode): Promise<void> {
  t.deepEqual(await node.files(), []);
  t.is(node.interfaces.pairs.size, 0);
  t.is(node.localPorts.attached.size, 0);
  t.is(node.used(), 0);
  t.deepEqual(node.attachments.list(), []);
}

test('add makes the interface with address, route and MAC, and attaches the port', async (t) => {
  const node = await setup(t);
  const attachment = await node.attachments.add(request());
  t.regex(attachment.hostInterface, /^mn[0-9a-f]{10}$/);
  t.regex(attachment.mac, /^02(:[0-9a-f]{2}){5}$/);
  t.regex(attachment.hostMac, /^06(:[0-9a-f]{2}){5}$/);
  const pair = node.interfaces.pairs.get(attachment.hostInterface)!;
  t.is(pair.name, 'eth0');
  t.is(pair.mtu, 1450);
  t.is(pair.mac, attachment.mac);
  t.deepEqual(
    pair.routes.map((route) => ({ ...route })),
    [{ destination: '0.0.0.0/0', gateway: '10.1.0.1' }],
  );
  t.deepEqual(
    pair.addresses.map(({ prefix }) => prefix),
    [24, 64],
  );
  const { port, interfaceName } = node.localPorts.attached.get(attachment.port.id)!;
  t.is(interfaceName, attachment.hostInterface);
  t.is(port.id, idFromName('port', 'net', 'c1', 'eth0'));
  t.deepEqual(
    port.addresses,
    attachment.addresses.map(({ address }) => address),
  );
  t.is(port.mac, attachment.mac);
  t.deepEqual(port.binding, { hostId, interfaceName });
  t.deepEqual(await node.files(), [`${port.id}.json`]);
  await node.attachments.remove(KEY);
  await assertNothingLeft(t, node);
});

test('requested addresses and MAC are used; no default route without a gateway or when it is not wanted', async (t) => {
  const node = await setup(t);
  const attachment = await node.attachments.add(
    request({ addresses: ['fd00:1::AA', '10.1.0.77'], mac: '02:aa:00:00:00:01', defaultRoute: false }),
  );
  t.deepEqual(
    attachment.addresses.map(({ address }) => address),
    ['10.1.0.77', 'fd00:1::aa'],
  );
  t.is(attachment.mac, '02:aa:00:00:00:01');
  t.deepEqual(attachment.routes, []);
  await t.throwsAsync(node.attachments.add(request({ containerId: 'c2', addresses: ['10.1.0.77'] })), {
    code: 'MN_ADDRESS_IN_USE',
  });
  await t.throwsAsync(node.attachments.add(request({ containerId: 'c2', addresses: ['10.9.0.1'] })), {
    code: 'MN_INVALID_INPUT',
    message: /ips.*10\.9\.0\.1/,
  });
  await t.throwsAsync(node.attachments.add(request({ containerId: 'c2', addresses: ['10.1.0.7', '10.1.0.8'] })), {
    code: 'MN_INVALID_INPUT',
    message: /one address of 10\.1\.0\.0\/24/,
  });
  t.is(node.attachments.list().length, 1);
  t.is(node.used(), 2);
});

test('a MAC that another attachment of the bridge has is refused by name', async (t) => {
  const node = await setup(t);
  const mac = '02:aa:00:00:00:01';
  await node.attachments.add(request({ mac }));
  const second = { containerId: 'c2', namespacePath: '/run/netns/other', mac };
  await t.throwsAsync(node.attachments.add(request(second)), {
    code: 'MN_ADDRESS_IN_USE',
    message: /02:aa:00:00:00:01.*eth0 of container c1 in network net/,
  });
  t.is(node.used(), 2);
  const elsewhere = { ...NETWORK, name: 'elsewhere', bridgeId: idFromName('bridge', 'elsewhere') };
  await node.attachments.add(request({ ...second, network: elsewhere }));
  await node.attachments.remove(KEY);
  await node.attachments.add(request({ ...second, interfaceName: 'eth1' }));
  t.is(node.attachments.list().length, 2);
});

test('of two that ask for one MAC at once one gets it', async (t) => {
  const node = await setup(t);
  const results = await Promise.allSettled(
    ['c1', 'c2'].map((containerId, i) =>
      node.attachments.add(request({ containerId, interfaceName: `eth${i}`, mac: '02:aa:00:00:00:01' })),
    ),
  );
  t.deepEqual(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  t.is(node.used(), 2);
});

test('a MAC that is seeded for another port in the NSDB is refused, unless that port is one of here that has gone', async (t) => {
  const node = await setup(t);
  const mac = '02:aa:00:00:00:01';
  const portId = idFromName('port', 'net', 'far', 'eth0');
  const seed = async (path: string, value: unknown) => {
    await node.store.ensure(path);
    node.tree.nodes.set(path, { data: encodeJson(value), version: 0 });
  };
  const seedPort = (binding: string) =>
    seed(objectPath('port', portId), {
      id: portId,
      bridgeId,
      mac,
      addresses: [],
      adminStateUp: true,
      owner: 'cni',
      binding: { hostId: binding, interfaceName: 'mn0000000000' },
    });
  await seed(macPath(bridgeId, mac), { portId });
  const far = idFromName('host', 'far');
  await seedPort(far);
  await t.throwsAsync(node.attachments.add(request({ mac })), {
    code: 'MN_ADDRESS_IN_USE',
    message: new RegExp(`${mac}.*port ${portId} of host ${far}`),
  });
  await assertNothingLeft(t, node);
  await seedPort(hostId);
  await node.attachments.add(request({ mac }));
  await node.attachments.remove(KEY);
  await seedPort(far);
  node.store.down = true;
  t.is((await node.attachments.add(request({ mac }))).mac, mac, 'without the NSDB nobody is asked');
});

test('a second add of the same attachment is refused and harms nothing', async (t) => {
  const node = await setup(t);
  const first = await node.attachments.add(request());
  await t.throwsAsync(node.attachments.add(request()), { code: 'MN_INTERFACE_EXISTS', message: /eth0/ });
  t.deepEqual(node.attachments.get(KEY), first);
  t.true(node.localPorts.attached.has(first.port.id));
});

test('an attachment whose interface has died may be added again', async (t) => {
  const node = await setup(t);
  const first = await node.attachments.add(request());
  node.interfaces.pairs.clear();
  const second = await node.attachments.add(request());
  t.is(second.port.id, first.port.id);
  t.is(node.used(), 2);
});

test('an interface of the name in the container is an error that leaves nothing', async (t) => {
  const node = await setup(t);
  node.interfaces.pairs.set('foreign', {
    hostName: 'foreign',
    hostMac: '06:00:00:00:00:01',
    alias: '',
    namespacePath: NAMESPACE,
    name: 'eth0',
    mac: '02:00:00:00:00:01',
    mtu: 1500,
    addresses: [],
    routes: [],
  });
  await t.throwsAsync(node.attachments.add(request()), { code: 'MN_INTERFACE_EXISTS', message: /eth0/ });
  t.deepEqual([...node.interfaces.pairs.keys()], ['foreign']);
  node.interfaces.pairs.clear();
  await assertNothingLeft(t, node);
});

test('a namespace that is not there is an error that touches nothing', async (t) => {
  const node = await setup(t);
  await t.throwsAsync(node.attachments.add(request({ namespacePath: '/run/netns/gone' })), { code: 'MN_NAMESPACE' });
  t.deepEqual(node.interfaces.calls, []);
  await assertNothingLeft(t, node);
});

test('remove succeeds however often, and for what never was', async (t) => {
  const node = await setup(t);
  await node.attachments.remove({ ...KEY, containerId: 'never' });
  await node.attachments.add(request());
  node.interfaces.namespaces.clear();
  node.interfaces.pairs.clear();
  await node.attachments.remove(KEY);
  await node.attachments.remove(KEY);
  await assertNothingLeft(t, node);
});

test('add and remove of one attachment run one after the other; others run beside', async (t) => {
  const node = await setup(t);
  const results = await Promise.allSettled([
    node.attachments.add(request()),
    node.attachments.add(request()),
    node.attachments.remove(KEY),
    node.attachments.add(request()),
    ...Array.from({ length: 20 }, (_, i) => {
      node.interfaces.namespaces.set(`/run/netns/${i}`, `${i}`);
      return node.attachments.add(request({ containerId: `other${i}`, namespacePath: `/run/netns/${i}` }));
    }),
  ]);
  t.deepEqual(
    results.slice(0, 4).map((result) => result.status),
    ['fulfilled', 'rejected', 'fulfilled', 'fulfilled'],
  );
  t.true(results.slice(4).every((result) => result.status === 'fulfilled'));
  t.is(node.attachments.list().length, 21);
  t.is(new Set(node.attachments.list().flatMap((one) => one.addresses.map(({ address }) => address))).size, 42);
});

for (const step of ['create', 'created', 'attach', 'attached'] as const) {
  test(`a failure at "${step}" undoes everything`, async (t) => {
    const node = await setup(t);
    const fault = (at: string) => {
      if (at === step) throw new Error('injected');
    };
    node.interfaces.fault = fault;
    node.localPorts.fault = fault;
    await t.throwsAsync(node.attachments.add(request()), { message: 'injected' });
    await assertNothingLeft(t, node);
  });
}

test('an abort in the middle undoes everything', async (t) => {
  const node = await setup(t);
  const abort = new AbortController();
  node.interfaces.fault = () => abort.abort(new Error('gone'));
  await t.throwsAsync(node.attachments.add(request(), abort.signal), { message: 'gone' });
  await assertNothingLeft(t, node);
});

test('what cannot be undone stays in the journal, is reported, and is tried again', async (t) => {
  const node = await setup(t);
  node.localPorts.fault = (at) => {
    if (at === 'attach') throw new Error('injected');
  };
  node.interfaces.fault = (at) => {
    if (at === 'remove') throw new Error('busy');
  };
  await t.throwsAsync(node.attachments.add(request()), { message: 'injected' });
  t.is((await node.files()).length, 1);
  t.is(node.used(), 2, 'its addresses may be in use');
  t.is(node.warnings.length, 1);
  t.is(node.attachments.get(KEY), undefined);
  node.interfaces.fault = () => {};
  await node.attachments.remove(KEY);
  await assertNothingLeft(t, node);
});

test('recovery attaches again what is there, keeps what is dead, undoes what is half, removes strays', async (t) => {
  const node = await setup(t);
  const alive = await node.attachments.add(request());
  const dead = await node.attachments.add(request({ containerId: 'dead', namespacePath: '/run/netns/other' }));
  node.interfaces.pairs.delete(dead.hostInterface);
  node.localPorts.fault = (at) => {
    if (at === 'attach') throw new Crash();
  };
  node.interfaces.namespaces.set('/run/netns/half', 'half');
  node.interfaces.fault = (at) => {
    if (at === 'remove') throw new Crash();
  };
  await t.throwsAsync(node.attachments.add(request({ containerId: 'half', namespacePath: '/run/netns/half' })), {
    instanceOf: Crash,
  });
  node.interfaces.fault = () => {};
  node.interfaces.pairs.set('mn0123456789', {
    ...node.interfaces.pairs.get(alive.hostInterface)!,
    hostName: 'mn0123456789',
  });
  node.interfaces.pairs.set('mnt-other', { ...node.interfaces.pairs.get(alive.hostInterface)!, hostName: 'mnt-other' });

  node.store.down = true;
  await node.restart();
  const recovery = await node.attachments.recover();
  t.deepEqual(recovery, { attached: 1, dead: 1, undone: 1, strays: 1 });
  t.deepEqual([...node.localPorts.attached.keys()], [alive.port.id]);
  t.deepEqual([...node.interfaces.pairs.keys()].sort(), [alive.hostInterface, 'mnt-other'].sort());
  t.is((await node.files()).length, 2);
  t.is(node.used(), 4);
  await node.attachments.remove({ ...KEY, containerId: 'dead' });
  t.is(node.used(), 2);
});

test('what recovery cannot detach does not end it, and is tried again', async (t) => {
  const node = await setup(t);
  const dead = await node.attachments.add(request());
  const alive = await node.attachments.add(request({ containerId: 'alive', namespacePath: '/run/netns/other' }));
  node.interfaces.pairs.delete(dead.hostInterface);
  await node.restart();
  let detached = 0;
  node.localPorts.fault = (at) => {
    if (at === 'detach' && ++detached === 1) throw new Error('busy');
  };
  t.like(await node.attachments.recover(), { attached: 1, dead: 1 });
  t.true(node.localPorts.attached.has(alive.port.id));
  t.regex(node.warnings.join(), /c1.*cannot be detached/);
  await node.attachments.retry();
  t.is(detached, 2);
});

test('after a boot nothing of before is left', async (t) => {
  const node = await setup(t);
  await node.attachments.add(request());
  node.interfaces.pairs.clear();
  node.bootId = 'boot 2';
  await node.restart();
  t.like(await node.attachments.recover(), { undone: 1, attached: 0, dead: 0 });
  await assertNothingLeft(t, node);
});

test('a damaged record is moved aside and its interface removed', async (t) => {
  const node = await setup(t);
  const attachment = await node.attachments.add(request());
  const path = join(node.folder, 'attachments', `${attachment.port.id}.json`);
  for (const content of ['', '{"state":', '{}', JSON.stringify({ ...attachment, state: 'sleeping' })]) {
    await writeFile(path, content);
    node.warnings = [];
    await node.restart();
    t.is(node.warnings.length, 1);
    t.deepEqual(await node.files(), [`${attachment.port.id}.json.damaged`]);
  }
  t.is((await node.attachments.recover()).strays, 1);
  await node.attachments.remove(KEY);
});

test('check finds whatever is missing', async (t) => {
  const node = await setup(t);
  const attachment = await node.attachments.add(request());
  const check = () => node.attachments.check(KEY, NAMESPACE);
  t.deepEqual(await check(), attachment);
  const pair = node.interfaces.pairs.get(attachment.hostInterface)!;
  const set = (change: object) => node.interfaces.pairs.set(attachment.hostInterface, { ...pair, ...change });
  for (const [change, message] of [
    [{ mac: '02:00:00:00:00:00' }, /MAC address is 02:00:00:00:00:00/],
    [{ mtu: 1500 }, /MTU is 1500, expected at most 1450/],
    [{ addresses: pair.addresses.slice(1) }, /address 10\.1\.0\.\d+\/24 is missing/],
    [{ routes: [] }, /route 0\.0\.0\.0\/0 via 10\.1\.0\.1 is missing/],
    [{ name: 'eth1' }, /interface eth0 is missing/],
  ] as const) {
    set(change);
    await t.throwsAsync(check(), { code: 'MN_CONFLICT', message });
  }
  set({ addresses: [...pair.addresses, { address: '10.99.0.1', prefix: 32 }] });
  await t.notThrowsAsync(check(), 'what later plugins added is no fault');
  set({ mtu: 1400 });
  await t.notThrowsAsync(check(), 'nor is a smaller MTU');
  node.interfaces.namespaces.set(NAMESPACE, 'another');
  await t.throwsAsync(check(), { message: /another network namespace/ });
  node.interfaces.namespaces.delete(NAMESPACE);
  await t.throwsAsync(check(), { code: 'MN_NAMESPACE' });
  await t.throwsAsync(node.attachments.check({ ...KEY, containerId: 'x' }, NAMESPACE), { code: 'MN_NOT_FOUND' });
});

test('garbage collection removes what is not valid, in this network only, and goes on after errors', async (t) => {
  const node = await setup(t);
  const other: Network = { ...NETWORK, name: 'other' };
  for (const id of ['a', 'b', 'c', 'd']) {
    node.interfaces.namespaces.set(`/run/netns/${id}`, id);
    await node.attachments.add(request({ containerId: id, namespacePath: `/run/netns/${id}` }));
  }
  await node.attachments.add(
    request({ network: other, containerId: 'a', interfaceName: 'eth1', namespacePath: '/run/netns/a' }),
  );
  const doomed = node.attachments.get({ ...KEY, containerId: 'b' })!;
  const remove = node.interfaces.remove.bind(node.interfaces);
  node.interfaces.remove = (name) => (name === doomed.hostInterface ? Promise.reject(new Error('busy')) : remove(name));
  const valid = [{ containerId: 'a', interfaceName: 'eth0' }];
  const errors = await node.attachments.collectGarbage('net', valid);
  t.deepEqual(
    errors.map((error) => (error as Error).message),
    ['busy'],
  );
  t.deepEqual(
    node.attachments
      .list()
      .map((one) => `${one.network} ${one.containerId}`)
      .sort(),
    ['net a', 'other a'],
  );
  node.interfaces.remove = remove;
  t.deepEqual(await node.attachments.collectGarbage('net', valid), []);
  t.is(node.used(), 4);
});

test('property: a crash at any point leaks nothing after recovery', async (t) => {
  const steps = ['create', 'created', 'attach', 'attached', 'detach', 'remove', 'none'] as const;
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({ verb: fc.constantFrom('add', 'remove'), id: fc.nat({ max: 3 }), crash: fc.constantFrom(...steps) }),
        { maxLength: 12 },
      ),
      async (plan) => {
        const node = await setup(t);
        await node.attachments.recover();
        const expected = new Set<string>();
        for (const { verb, id, crash } of plan) {
          const containerId = `c${id}`;
          node.interfaces.namespaces.set(`/run/netns/${id}`, String(id));
          let dead = false;
          // From the crash on the process does nothing more: every call fails, whatever it is.
          const fault = (at: string) => {
            dead ||= at === crash;
            if (dead) throw new Crash();
          };
          node.interfaces.fault = fault;
          node.localPorts.fault = fault;
          const work =
            verb === 'add'
              ? node.attachments.add(request({ containerId, namespacePath: `/run/netns/${id}` }))
              : node.attachments.remove({ ...KEY, containerId });
          const outcome = await work.then(
            () => true,
            () => false,
          );
          if (outcome) verb === 'add' ? expected.add(containerId) : expected.delete(containerId);
          else if (dead && verb === 'remove') expected.delete(containerId);
          node.interfaces.fault = () => {};
          node.localPorts.fault = () => {};
          if (dead) {
            await node.restart();
            await node.attachments.recover();
          }
        }
        const names = node.attachments.list().map((one) => one.containerId);
        if (names.sort().join() !== [...expected].sort().join())
          throw new Error(`${names} instead of ${[...expected]}`);
        if (node.used() !== expected.size * 2) throw new Error(`${node.used()} addresses for ${expected.size}`);
        if (node.interfaces.pairs.size !== expected.size) throw new Error('interfaces leaked');
        if (node.localPorts.attached.size !== expected.size) throw new Error('ports leaked');
        if ((await node.files()).length !== expected.size) throw new Error('files leaked');
        await node.ipam.close();
      },
    ),
    { numRuns: 60 },
  );
  t.pass();
});

test('what could not be attached again, or undone, is tried again', async (t) => {
  const node = await setup(t);
  const { port } = await node.attachments.add(request());
  await node.restart();
  node.localPorts.fault = (at) => {
    if (at === 'attach') throw new Error('refused');
  };
  t.like(await node.attachments.recover(), { attached: 0, dead: 1 });
  node.interfaces.fault = (at) => {
    if (at === 'remove') throw new Error('refused');
  };
  await t.throwsAsync(node.attachments.add(request({ containerId: 'c2', namespacePath: '/run/netns/other' })));
  t.is(node.used(), 4, 'addresses of what is still there stay reserved');
  await node.attachments.retry();
  t.is(node.localPorts.attached.size, 0);
  t.is((await node.files()).length, 2);
  node.localPorts.fault = () => {};
  node.interfaces.fault = () => {};
  await node.attachments.retry();
  t.deepEqual([...node.localPorts.attached.keys()], [port.id]);
  t.deepEqual(await node.files(), [`${port.id}.json`]);
  t.is(node.used(), 2);
  await node.attachments.remove(KEY);
  await node.attachments.retry();
  await assertNothingLeft(t, node);
});

test('without the NSDB add works while addresses are free, also after a restart', async (t) => {
  const node = await setup(t);
  await node.attachments.add(request());
  node.store.down = true;
  await node.restart();
  await node.attachments.recover();
  await node.attachments.add(request({ containerId: 'c2', namespacePath: '/run/netns/other' }));
  t.is(node.attachments.list().length, 2);
});
