import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { loadConfig } from '../../src/bin/config.js';
import { nsdbConnection, readTls } from '../../src/bin/nsdb-connection.js';
import { InvalidInputError } from '../../src/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'nsdb-connection-'));
test.after.always(() => rmSync(folder, { recursive: true }));

let files = 0;
function file(text: string, mode = 0o600): string {
  const path = join(folder, String(files++));
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

const nothing = file('');

async function nsdb(environment: Record<string, string>) {
  return (await loadConfig(nothing, environment)).nsdb;
}

test('a password file makes credentials, without the line feed at its end', async (t) => {
  const password = file('a pass:word \n');
  const connection = nsdbConnection(await nsdb({ MIDONET_NSDB_PASSWORD_FILE: password }));
  t.deepEqual(connection.credentials, { user: 'midonet', password: 'a pass:word ' });
  const other = nsdbConnection(await nsdb({ MIDONET_NSDB_PASSWORD_FILE: password, MIDONET_NSDB_USER: 'other' }));
  t.is(other.credentials?.user, 'other');
});

test('there are no credentials without a password file, nor with authentication off', async (t) => {
  t.is(nsdbConnection(await nsdb({})).credentials, undefined);
  const environment = { MIDONET_NSDB_PASSWORD_FILE: file('secret'), MIDONET_NSDB_AUTHENTICATION: 'off' };
  t.is(nsdbConnection(await nsdb(environment)).credentials, undefined);
});

const unusable: [what: string, path: () => string, expected: RegExp][] = [
  ['is not there', () => join(folder, 'none'), /ENOENT/],
  ['is empty', () => file(''), /a password in it/],
  ['holds only a line feed', () => file('\n'), /a password in it/],
  ['anybody may read', () => file('secret', 0o604), /chmod 600/],
  ['anybody may write', () => file('secret', 0o602), /chmod 600/],
];
for (const [what, path, expected] of unusable) {
  test(`a password file that ${what} is refused by name`, async (t) => {
    const place = path();
    const config = await nsdb({ MIDONET_NSDB_PASSWORD_FILE: place });
    const error = t.throws(() => nsdbConnection(config), { instanceOf: InvalidInputError, message: expected });
    t.is(error.field, 'config.nsdb.passwordFile');
    t.is(error.value, place);
  });
}

test('the files of TLS are read, and the key must be a secret', async (t) => {
  const environment = {
    MIDONET_NSDB_TLS_CA: file('authority', 0o644),
    MIDONET_NSDB_TLS_CERTIFICATE: file('certificate', 0o644),
    MIDONET_NSDB_TLS_KEY: file('key'),
  };
  t.deepEqual(readTls(await nsdb(environment)), { ca: 'authority', certificate: 'certificate', key: 'key' });
  const open = await nsdb({ ...environment, MIDONET_NSDB_TLS_KEY: file('key', 0o644) });
  t.throws(() => readTls(open), { instanceOf: InvalidInputError, message: /^config\.nsdb\.tls\.key: .*chmod 600/ });
});

test('an empty file of TLS is refused by name', async (t) => {
  const environment = {
    MIDONET_NSDB_TLS_CA: file('authority'),
    MIDONET_NSDB_TLS_CERTIFICATE: file('certificate'),
    MIDONET_NSDB_TLS_KEY: file('key'),
  };
  for (const name of ['ca', 'certificate', 'key']) {
    const empty = file('\n');
    const config = await nsdb({ ...environment, [`MIDONET_NSDB_TLS_${name.toUpperCase()}`]: empty });
    const error = t.throws(() => readTls(config), { instanceOf: InvalidInputError, message: /empty/ });
    t.is(error.field, `config.nsdb.tls.${name}`);
    t.is(error.value, empty);
  }
});

test('a certificate without its key is refused, and a key without its certificate', async (t) => {
  const certificate = await nsdb({ MIDONET_NSDB_TLS_CERTIFICATE: file('certificate') });
  t.throws(() => readTls(certificate), { message: /^config\.nsdb\.tls\.key: / });
  const key = await nsdb({ MIDONET_NSDB_TLS_KEY: file('key') });
  t.throws(() => readTls(key), { message: /^config\.nsdb\.tls\.certificate: / });
});

test('a user name that would not fit into an access list is refused', async (t) => {
  for (const name of ['a:b', 'a b', 'a/b', '', 'x'.repeat(65)]) {
    const user = name === '' ? { nsdb: { user: '' } } : { nsdb: { user: name } };
    await t.throwsAsync(() => loadConfig(file(JSON.stringify(user)), {}), { message: /^config\.nsdb\.user: / });
  }
});
