import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { LOCAL_ADMIN } from '../../src/api/tenancy/caller.js';
import { apiSettings } from '../../src/bin/api-settings.js';
import { loadConfig } from '../../src/bin/config.js';
import { InvalidInputError } from '../../src/errors.js';
import { Authority } from '../nsdb/certificates.js';

const folder = mkdtempSync(join(tmpdir(), 'api-settings-'));
test.after.always(() => rmSync(folder, { recursive: true }));

let files = 0;
function file(text: string, mode = 0o600): string {
  const path = join(folder, String(files++));
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

const TOKEN = 'x'.repeat(32);
const tokenFile = file(`${TOKEN}\n`);
let otherKey: string;
let tls: { certificate: string; key: string; clientCa: string };

test.before(async () => {
  const authority = await Authority.make(folder, 'authority');
  const { certificate, key, ca } = await authority.issue('server', 'IP:10.0.0.10');
  otherKey = file((await authority.issue('other', 'IP:10.0.0.11')).key);
  tls = { certificate: file(certificate), key: file(key), clientCa: file(ca) };
});

async function settings(api: object) {
  return apiSettings((await loadConfig(file(JSON.stringify({ api })), {})).api);
}

test('on loopback nobody has to show who they are, and names of other machines are refused', async (t) => {
  for (const listen of ['127.0.0.1:8181', '[::1]:8181', 'localhost:0', 'unix:/run/api.sock']) {
    const { anonymous, isLocalOnly } = await settings({ listen });
    t.is(anonymous, LOCAL_ADMIN, listen);
    t.true(isLocalOnly, listen);
  }
});

test('on loopback too they have to where there is a way', async (t) => {
  const { adminToken, anonymous, isLocalOnly } = await settings({ adminTokenFile: tokenFile });
  t.is(adminToken, TOKEN);
  t.is(anonymous, undefined);
  t.false(isLocalOnly);
  t.is((await settings({ kubernetes: {} })).anonymous, undefined);
  t.is((await settings({ tls })).anonymous, undefined);
  const { clientCa: _, ...own } = tls;
  t.is((await settings({ tls: own })).anonymous, LOCAL_ADMIN);
  t.is((await settings({ adminTokenFile: tokenFile, authentication: 'off' })).anonymous, LOCAL_ADMIN);
});

for (const listen of ['0.0.0.0:8181', '10.0.0.10:8181', '[::]:8181', 'node-1:8181']) {
  test(`on ${listen} there must be a way to show who one is, and encryption`, async (t) => {
    const { clientCa: _, ...own } = tls;
    const noWay = { message: /^config\.api\.adminTokenFile: .*head -c 32 .*api\.authentication to off/ };
    await t.throwsAsync(settings({ listen }), noWay);
    await t.throwsAsync(settings({ listen, tls: own }), noWay);
    await t.throwsAsync(settings({ listen, authentication: 'required' }), noWay);
    const inTheClear = { instanceOf: InvalidInputError, message: /^config\.api\.tls: .*for everybody to read/ };
    await t.throwsAsync(settings({ listen, adminTokenFile: tokenFile }), inTheClear);
    await t.throwsAsync(settings({ listen, kubernetes: {} }), inTheClear);
    t.is((await settings({ listen, tls })).anonymous, undefined);
    t.is((await settings({ listen, tls: own, adminTokenFile: tokenFile })).adminToken, TOKEN);
  });

  test(`on ${listen} everything is open to everybody only if that is said aloud`, async (t) => {
    const { anonymous, isLocalOnly } = await settings({ listen, authentication: 'off' });
    t.is(anonymous, LOCAL_ADMIN);
    t.false(isLocalOnly);
  });
}

test('a Unix socket is not encrypted', async (t) => {
  await t.throwsAsync(settings({ listen: 'unix:/run/api.sock', tls }), { message: /^config\.api\.tls: / });
});

test('files that cannot be used are refused by name', async (t) => {
  const { certificate, key } = tls;
  for (const [api, field, expected] of [
    [{ adminTokenFile: join(folder, 'none') }, 'config.api.adminTokenFile', /ENOENT/],
    [{ adminTokenFile: file('short') }, 'config.api.adminTokenFile', /at least 32/],
    [{ adminTokenFile: file(`${TOKEN}\n${TOKEN}`) }, 'config.api.adminTokenFile', /one line/],
    [{ adminTokenFile: file(TOKEN, 0o644) }, 'config.api.adminTokenFile', /chmod 600/],
    [{ tls: { certificate } }, 'config.api.tls.key', /go together/],
    [{ tls: { key } }, 'config.api.tls.certificate', /go together/],
    [{ tls: { certificate: file(''), key } }, 'config.api.tls.certificate', /PEM/],
    [{ tls: { certificate, key, clientCa: file('\n') } }, 'config.api.tls.clientCa', /PEM/],
    [{ tls: { certificate, key, clientCa: file('no authority') } }, 'config.api.tls.clientCa', /PEM/],
    [{ tls: { certificate, key: file('no key') } }, 'config.api.tls.key', /PEM/],
    [{ tls: { certificate, key: otherKey } }, 'tls', /the key that of the certificate/],
    [{ tls: { certificate: key, key: file('a', 0o644) } }, 'config.api.tls.key', /chmod 600/],
  ] as const) {
    const error = await t.throwsAsync(settings(api), { instanceOf: InvalidInputError, message: expected });
    t.is(error?.field, field);
  }
});

test('a rule says who has which role, and of which tenant', async (t) => {
  const certificate = { commonName: 'ops' };
  for (const [rule, field] of [
    [{ role: 'admin' }, 'config.api.roles[0]'],
    [{ role: 'admin', certificate: {} }, 'config.api.roles[0]'],
    [{ role: 'admin', certificate, kubernetes: { username: 'a' } }, 'config.api.roles[0]'],
    [{ role: 'root', certificate }, 'config.api.roles[0].role'],
    [{ role: 'tenant-admin', certificate }, 'config.api.roles[0].tenantId'],
    [{ role: 'admin', certificate, tenantId: 'blue' }, 'config.api.roles[0].tenantId'],
    [{ role: 'admin', certificate: { commonname: 'ops' } }, 'config.api.roles[0].certificate.commonname'],
  ] as const) {
    const error = await t.throwsAsync(settings({ roles: [rule] }), { instanceOf: InvalidInputError });
    t.is(error?.field, field, error?.message);
  }
  await t.notThrowsAsync(settings({ roles: [{ role: 'tenant-reader', tenantId: 'a', certificate }] }));
});
