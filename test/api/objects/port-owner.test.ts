import { randomUUID } from 'node:crypto';
import test from 'ava';
import { problemIn, type Reply, tenantAdmin } from '../api-test.js';
import { sharedApi } from '../shared-api.js';

const shared = sharedApi();

/** A port of tenant acme that a front end has made on a host. */
async function makePort(): Promise<{ id: string; bridgeId: string; binding: object; owner: string }> {
  const { repository } = shared.api;
  const [hostId, bridgeId] = [randomUUID(), randomUUID()];
  await repository.create('host', { id: hostId, name: 'node-1' });
  await repository.create('bridge', { id: bridgeId, name: 'web', tenantId: 'acme' });
  const port = { id: randomUUID(), bridgeId, binding: { hostId, interfaceName: 'eth5' }, owner: 'cni' };
  await repository.create('port', port);
  return port;
}

test('a port with an owner is neither deleted nor moved nor given to another, but for an admin who says force', async (t) => {
  const port = await makePort();
  const path = `/v1/ports/${port.id}`;
  const { admin } = shared.api;
  const refused = (reply: Reply) => {
    t.is(reply.status, 409);
    t.true(problemIn(reply).detail.includes('belongs to cni'), problemIn(reply).detail);
  };
  const elsewhere = { binding: { ...port.binding, interfaceName: 'eth6' } };
  const deletion = { op: 'delete', kind: 'port', id: port.id };
  refused(await admin.delete(path));
  refused(await shared.api.as(tenantAdmin('acme')).delete(path));
  refused(await admin.patch(path, { binding: null }));
  refused(await admin.patch(path, elsewhere));
  refused(await admin.patch(path, { owner: null }));
  refused(await admin.put(path, { bridgeId: port.bridgeId }));
  refused(await admin.post('/v1/batch', { operations: [deletion] }));
  t.like((await shared.api.repository.get('port', port.id))?.object, port);

  t.is((await admin.patch(path, { adminStateUp: false })).status, 200);
  t.is((await admin.patch(`${path}?force=true`, elsewhere)).status, 200);
  t.is((await admin.post('/v1/batch', { operations: [{ ...deletion, force: true }] })).status, 200);
  t.is((await admin.get(path)).status, 404);
  const other = await makePort();
  t.is((await admin.delete(`/v1/ports/${other.id}?force=true`)).status, 204);
});

test('force is for admins, and for ports', async (t) => {
  const { id } = await makePort();
  const tenant = shared.api.as(tenantAdmin('acme'));
  t.is((await tenant.delete(`/v1/ports/${id}?force=true`)).status, 403);
  const operations = [{ op: 'delete', kind: 'port', id, force: true }];
  t.is((await tenant.post('/v1/batch', { operations })).status, 403);
  t.is((await shared.api.admin.delete(`/v1/ports/${id}?force=yes`)).status, 400);
  t.is((await shared.api.admin.delete(`/v1/bridges/${id}?force=true`)).status, 400);
});
