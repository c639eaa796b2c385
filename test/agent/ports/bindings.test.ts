import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { InvalidInputError } from '../../../src/errors.js';
import { Cluster, type TestHost } from '../cluster.js';
import { until } from '../until.js';

const CHAIN = '7f1f1c1e-0000-4000-8000-000000000002';

async function setUp(t: ExecutionContext) {
  const c = await Cluster.start({ hosts: 1 });
  t.teardown(() => c.close());
  const [host] = c.hosts;
  const bridge = await c.createBridge();
  return { c, host, bridge };
}

function attached(host: TestHost, name: string): boolean {
  return host.node.interface(name)?.attached !== undefined;
}

test('attaching the same port again changes what it is, and where', async (t) => {
  const { c, host, bridge } = await setUp(t);
  const pod = c.pod(bridge);
  await host.attach(pod);
  const { bindings } = host.agent;
  await c.published();
  const before = await c.repository.get('port', pod.id);
  await bindings.attach({ ...pod.port, owner: 'cni' }, pod.interfaceName);
  await c.published();
  t.deepEqual(await c.repository.get('port', pod.id), before);
  host.node.addInterface('other0');
  await bindings.attach({ ...pod.port, addresses: ['10.9.9.9'], owner: 'cni' }, 'other0');
  await c.published();
  t.false(attached(host, pod.interfaceName));
  t.true(attached(host, 'other0'));
  t.like(await c.repository.get('port', pod.id), {
    object: { addresses: ['10.9.9.9'], binding: { ...before!.object.binding, interfaceName: 'other0' } },
  });
  t.is(bindings.activePorts, 1);
});

test('a port that is detached and attached again at once keeps nothing of what others had set of the one before', async (t) => {
  const { c, host, bridge } = await setUp(t);
  const [x, y] = await c.populate(bridge, 2);
  await c.published();
  await c.repository.create('chain', { id: CHAIN, name: 'former' });
  await c.repository.modify('port', x.id, (port) => ({ ...port, inboundFilterId: CHAIN, adminStateUp: false }));
  const { bindings, publisher } = host.agent;
  publisher.pause();
  await bindings.detach(x.id);
  await bindings.attach({ ...x.port, owner: 'cni' }, x.interfaceName);
  publisher.resume();
  await c.published();
  const stored = await c.repository.get('port', x.id);
  t.true(stored?.object.adminStateUp);
  t.is(stored?.object.inboundFilterId, undefined);
  await c.connects(y, x);
  await bindings.attach({ ...x.port, owner: 'cni' }, x.interfaceName);
  await c.published();
  t.deepEqual(await c.repository.get('port', x.id), stored);
});

test('what cannot be attached is an error, and leaves nothing', async (t) => {
  const { c, host, bridge } = await setUp(t);
  const { bindings } = host.agent;
  const pod = c.pod(bridge);
  await t.throwsAsync(bindings.attach(pod.port, 'nowhere'), { code: 'MN_DATAPATH', message: /nowhere/ });
  host.plug(pod);
  const error = await t.throwsAsync<InvalidInputError>(bindings.attach({ ...pod.port, mac: 'x' }, pod.interfaceName), {
    instanceOf: InvalidInputError,
  });
  t.is(error?.field, 'port.mac');
  await t.throwsAsync(bindings.attach(pod.port, pod.interfaceName, AbortSignal.abort(new Error('given up'))), {
    message: 'given up',
  });
  t.false(attached(host, pod.interfaceName));
  t.is(bindings.activePorts, 0);
  t.false(bindings.isActive(pod.id));
  t.deepEqual(await readdir(join(host.folder, 'tunnel-keys')), []);
  t.is(host.agent.publisher.backlog, 0);
});

test('a port whose interface cannot be detached is still there, to be detached again', async (t) => {
  const { c, host, bridge } = await setUp(t);
  const pod = c.pod(bridge);
  await host.attach(pod);
  await c.published();
  const { bindings } = host.agent;
  await t.throwsAsync(bindings.detach(pod.id, AbortSignal.abort(new Error('given up'))), { message: 'given up' });
  t.truthy(await c.repository.get('port', pod.id));
  await until('it is active again', () => bindings.isActive(pod.id));
  await bindings.detach(pod.id);
  await bindings.detach(pod.id);
  t.false(attached(host, pod.interfaceName));
  await c.published();
  t.is(await c.repository.get('port', pod.id), undefined);
  t.deepEqual(await c.repository.store.children(`/bridges/${bridge}/hosts`), []);
});

test('an interface that goes and comes is the same port, whatever its number', async (t) => {
  const { c, host, bridge } = await setUp(t);
  const [x, y, z] = await c.populate(bridge, 3);
  await c.ping(x, y);
  host.node.removeInterface(y.interfaceName);
  host.node.removeInterface(z.interfaceName);
  await until('it is noticed', () => !host.agent.bindings.isActive(y.id) && !host.agent.bindings.isActive(z.id));
  const lost = c.sendTo(x, y);
  await c.quiet();
  t.is(y.count(lost), 0);
  for (const pod of [z, y]) {
    pod.device = host.node.addInterface(pod.interfaceName);
    host.agent.interfaceChanged(pod.interfaceName);
    await until('it is back', () => host.agent.bindings.isActive(pod.id));
  }
  await c.eachPair([x, y, z], (from, to) => c.connects(from, to));
});

test('a port of an owner that does not know it any more is deleted', async (t) => {
  const { c, host, bridge } = await setUp(t);
  const pod = c.pod(bridge);
  const binding = { hostId: host.id, interfaceName: 'gone0' };
  await c.repository.create('port', { ...pod.port, owner: 'cni', binding });
  await until('it is deleted', async () => (await c.repository.get('port', pod.id)) === undefined);
  t.deepEqual(await c.repository.portsOfHost(host.id), []);
});

test('a tunnel key that an update of the port took away is told again', async (t) => {
  const { c, host, bridge } = await setUp(t);
  const pod = c.pod(bridge);
  host.plug(pod);
  const binding = { hostId: host.id, interfaceName: pod.interfaceName };
  await c.repository.create('port', { ...pod.port, binding });
  const key = async () => (await c.repository.get('port', pod.id))?.object.binding?.tunnelKey;
  await until('it is told', async () => (await key()) !== undefined);
  const before = await key();
  await c.repository.modify('port', pod.id, (port) => ({ ...port, binding }));
  await until('it is told again', async () => (await key()) === before);
  t.true(host.agent.bindings.isActive(pod.id));
});

test('a port may be attached before its bridge or its host is known in the NSDB', async (t) => {
  const { c, host } = await setUp(t);
  const id = '7f1f1c1e-0000-4000-8000-000000000001';
  const [x, y] = [c.pod(id), c.pod(id)];
  await host.attach(x);
  await host.attach(y);
  await c.ping(x, y);
  t.true(host.agent.publisher.backlog > 0);
  await c.repository.create('bridge', { id, name: 'late' });
  await until('it is told', () => host.agent.publisher.backlog === 0);
  t.truthy(await c.repository.get('port', x.id));
  await c.ping(y, x);
});
