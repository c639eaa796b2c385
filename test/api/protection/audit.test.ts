import { readFile, rename, stat, symlink, unlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ExecutionContext } from 'ava';
import { type AuditEntry, AuditError, AuditFile, type AuditLog } from '../../../src/api/requests/audit-log.js';
import { InvalidInputError } from '../../../src/errors.js';
import { type Context, test } from '../../nsdb/repository/repository-test.js';
import { ADMIN_TOKEN, ask, makeToken, serveApi } from '../api-server.js';

const BRIDGE = '6ecd32a4-64e7-4a2a-bd3c-2b1f8dc3a1f0';

function entry(path: string): AuditEntry {
  return { time: '2026-01-31T12:00:00.000Z', method: 'POST', path, status: 201, milliseconds: 1 };
}

/** The entries of a file. */
async function linesOf(path: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(path, 'utf8');
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

function newAudit(t: ExecutionContext<Context>): { audit: AuditFile; path: string } {
  const path = join(t.context.nsdb.folder, 'audit.jsonl');
  const audit = new AuditFile(path);
  t.teardown(() => audit.close());
  return { audit, path };
}

test.serial('every change is recorded: who, what, which version, and what came of it', async (t) => {
  const { audit, path } = newAudit(t);
  const server = await serveApi(t, { audit });
  const { id: tokenId, token } = await makeToken(server, { role: 'tenant-admin', tenantId: 'blue' }, 'ci');
  const secret = 'not-for-the-log';
  const bridge = { id: BRIDGE, name: secret };
  const made = await ask(server, token, 'POST', '/v1/bridges?', bridge);
  t.is(made.status, 201);
  const etag = made.headers.get('etag') ?? '';
  const changed = await ask(server, token, 'PATCH', `/v1/bridges/${BRIDGE}`, { name: 'b' }, { 'if-match': etag });
  t.is(changed.status, 200);
  t.is((await ask(server, token, 'PATCH', `/v1/bridges/${BRIDGE}`, {}, { 'if-match': etag })).status, 412);
  t.is((await ask(server, token, 'GET', `/v1/bridges/${BRIDGE}`)).status, 200);
  const operations = [{ op: 'create', kind: 'router', body: { name: 'r' } }];
  const batch = await ask(server, token, 'POST', '/v1/batch', { operations });
  t.is(batch.status, 200);
  t.is((await ask(server, token, 'DELETE', `/v1/bridges/${BRIDGE}`)).status, 204);

  const lines = await linesOf(path);
  const who = { caller: 'token:ci', role: 'tenant-admin', tenantId: 'blue', address: '127.0.0.1' };
  const what = { kind: 'bridge', id: BRIDGE };
  t.is(lines.length, 6);
  t.like(lines[0], { caller: 'admin-token', role: 'admin', path: '/v1/access-tokens', status: 201, id: tokenId });
  t.like(lines[1], { ...who, ...what, method: 'POST', path: '/v1/bridges', status: 201, etag });
  t.like(lines[2], { ...who, ...what, method: 'PATCH', status: 200, ifMatch: etag });
  t.is(lines[2].etag, changed.headers.get('etag'));
  t.like(lines[3], { ...who, ...what, method: 'PATCH', status: 412, code: 'MN_PRECONDITION_FAILED', ifMatch: etag });
  const { kind, id, result, etag: made2 } = batch.body.results[0];
  t.deepEqual(lines[4].changes, [{ kind, id, result, etag: made2 }]);
  t.like(lines[5], { ...who, ...what, method: 'DELETE', status: 204 });
  for (const line of lines) t.true(Number.isInteger(line.milliseconds) && Date.parse(String(line.time)) > 0);
  const text = await readFile(path, 'utf8');
  for (const hidden of [secret, token, ADMIN_TOKEN]) t.false(text.includes(hidden));
  t.is((await stat(path)).mode & 0o077, 0);
});

test.serial('refused requests are recorded, whatever they wanted', async (t) => {
  const { audit, path } = newAudit(t);
  const server = await serveApi(t, { audit, failuresPerMinute: 4 });
  const { token } = await makeToken(server, { role: 'tenant-reader', tenantId: 'blue' }, 'eyes');
  t.is((await ask(server, token, 'POST', '/v1/bridges', { name: 'a' })).status, 403);
  for (let i = 0; i < 20; i++) await ask(server, 'wrong', 'GET', `/v1/hosts?token=${ADMIN_TOKEN}`);
  t.is((await ask(server, token, 'GET', '/v1/bridges')).status, 200);
  const lines = (await linesOf(path)).slice(1);
  t.like(lines[0], { caller: 'token:eyes', role: 'tenant-reader', status: 403, code: 'MN_FORBIDDEN' });
  const statuses = lines.slice(1).map(({ status }) => status);
  // Of the many that are not looked at only the first.
  t.deepEqual(statuses, [401, 401, 401, 401, 429]);
  t.like(lines[1], { address: '127.0.0.1', method: 'GET', path: '/v1/hosts', code: 'MN_UNAUTHENTICATED' });
  t.false('caller' in lines[1]);
});

test.serial('a path cannot make a line of its own, nor a long one', async (t) => {
  const { audit, path } = newAudit(t);
  const server = await serveApi(t, { audit });
  await ask(server, undefined, 'GET', '/v1/%0a{"caller":"x"}');
  await ask(server, undefined, 'GET', `/v1/${'a'.repeat(5000)}`);
  const lines = await linesOf(path);
  t.is(lines.length, 2);
  t.is(String(lines[1].path).length, 1000);
});

test.serial('a change whose client went away is recorded with what came of it', async (t) => {
  const { audit, path } = newAudit(t);
  const server = await serveApi(t, { audit });
  const body = JSON.stringify({ id: BRIDGE, name: 'a' });
  const socket = connect(server.port, '127.0.0.1');
  socket.write(
    `POST /v1/bridges HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${ADMIN_TOKEN}\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    () => socket.destroy(),
  );
  let lines = await linesOf(path);
  for (; lines.length === 0; lines = await linesOf(path)) await delay(5);
  t.like(lines[0], { method: 'POST', path: '/v1/bridges', caller: 'admin-token' });
  t.is(typeof lines[0].status, 'number');
});

/** An audit log that fails when it is told to. */
class FaultyAudit implements AuditLog {
  fault: string | undefined;
  recorded = 0;

  check(): void {
    if (this.fault !== undefined) throw new AuditError('a', this.fault);
  }

  record(): void {
    this.check();
    this.recorded++;
  }
}

test.serial('changes are refused while they cannot be recorded, and reading goes on', async (t) => {
  const audit = new FaultyAudit();
  const server = await serveApi(t, { audit });
  audit.fault = 'disk full';
  const refused = await ask(server, ADMIN_TOKEN, 'POST', '/v1/bridges', { id: BRIDGE, name: 'a' });
  t.is(refused.status, 503);
  t.is(refused.body.code, 'MN_AUDIT_FAILED');
  t.is((await ask(server, ADMIN_TOKEN, 'GET', `/v1/bridges/${BRIDGE}`)).status, 404);
  audit.fault = undefined;
  t.is((await ask(server, ADMIN_TOKEN, 'POST', '/v1/bridges', { id: BRIDGE, name: 'a' })).status, 201);
});

test.serial('a change that was made but could not be recorded is not told as a success', async (t) => {
  const audit = new FaultyAudit();
  audit.check = () => undefined;
  audit.record = () => {
    throw new AuditError('a', 'disk full');
  };
  const server = await serveApi(t, { audit });
  const { status, body, headers } = await ask(server, ADMIN_TOKEN, 'POST', '/v1/bridges', { id: BRIDGE, name: 'a' });
  t.is(status, 503);
  t.regex(headers.get('content-type') ?? '', /^application\/problem\+json/);
  t.is(headers.get('location'), null);
  t.regex(body.detail, /disk full\. What was asked for may have been done/);
});

test.serial('changes that are refused as they could not be recorded are counted, and not kept', async (t) => {
  const { folder } = t.context.nsdb;
  const path = join(folder, 'audit');
  await symlink('/dev/full', path);
  const audit = new AuditFile(path);
  t.teardown(() => audit.close());
  const server = await serveApi(t, { audit });
  const post = () => ask(server, ADMIN_TOKEN, 'POST', '/v1/bridges', { name: 'a' });
  t.regex((await post()).body.detail, /may have been done/);
  for (let i = 0; i < 3; i++) t.notRegex((await post()).body.detail, /may have been done/);
  await unlink(path);
  await symlink(join(folder, 'disk-with-room'), path);
  t.is((await post()).status, 201);
  const lines = await linesOf(path);
  t.deepEqual(
    lines.map(({ status, refusalsNotRecorded }) => status ?? refusalsNotRecorded),
    [201, 3, 201],
  );
});

test.serial('nobody fills the disk with requests that are refused', async (t) => {
  const { audit, path } = newAudit(t);
  const server = await serveApi(t, { audit });
  const socket = connect(server.port, '127.0.0.1');
  let answers = 0;
  socket.on('data', (data) => {
    answers += data.toString().split('HTTP/1.1 403').length - 1;
  });
  for (let sent = 0; sent < 700; sent++) {
    socket.write('POST /v1/bridges HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n');
    while (answers <= sent) await delay(0);
  }
  socket.destroy();
  t.is((await linesOf(path)).length, 600);
});

test.serial('a file that somebody has moved away is made anew', async (t) => {
  const { audit, path } = newAudit(t);
  audit.record(entry('/1'), true);
  await rename(path, `${path}.1`);
  for (let i = 0; ; i++) {
    audit.record(entry('/2'), true);
    if (await stat(path).catch(() => undefined)) break;
    t.true(i < 1000);
    await delay(20);
  }
  t.is((await linesOf(path))[0].path, '/2');
  t.is((await linesOf(`${path}.1`))[0].path, '/1');
});

test.serial('lines are added to those of the program that ran before', async (t) => {
  const path = join(t.context.nsdb.folder, 'old.jsonl');
  await writeFile(path, '{"path":"/0"}\n');
  const audit = new AuditFile(path);
  audit.record(entry('/1'), true);
  audit.close();
  t.deepEqual(
    (await linesOf(path)).map(({ path }) => path),
    ['/0', '/1'],
  );
});

test.serial('a file that cannot be opened is an error that names the field', (t) => {
  const error = t.throws(() => new AuditFile('/nowhere/audit.jsonl', 'config.api.auditFile'), {
    instanceOf: InvalidInputError,
  });
  t.is(error.field, 'config.api.auditFile');
});

test.serial('what a full disk does not take is kept, and comes first when there is room', async (t) => {
  const { folder } = t.context.nsdb;
  const path = join(folder, 'audit');
  await symlink('/dev/full', path);
  const audit = new AuditFile(path);
  t.teardown(() => audit.close());
  t.notThrows(() => audit.check());
  t.throws(() => audit.record(entry('/1'), true), { instanceOf: AuditError, message: /ENOSPC/ });
  t.regex(audit.fault ?? '', /ENOSPC/);
  t.throws(() => audit.check(), { instanceOf: AuditError });
  audit.record(entry('/refused'), false);
  audit.record(entry('/refused'), false);
  await unlink(path);
  await symlink(join(folder, 'disk-with-room'), path);
  audit.check();
  t.is(audit.fault, undefined);
  audit.record(entry('/2'), true);
  const [first, second, third] = await linesOf(path);
  t.is(first.path, '/1');
  t.is(second.refusalsNotRecorded, 2);
  t.is(third.path, '/2');
});
