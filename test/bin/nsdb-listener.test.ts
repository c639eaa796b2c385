import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { loadConfig } from '../../src/bin/config.js';
import { nsdbListener } from '../../src/bin/nsdb-listener.js';
import { InvalidInputError } from '../../src/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'nsdb-listener-'));
test.after.always(() => rmSync(folder, { recursive: true }));
const empty = join(folder, 'empty.yaml');
writeFileSync(empty, '');
const password = join(folder, 'password');
writeFileSync(password, 'secret\n', { mode: 0o600 });

async function nsdb(environment: Record<string, string>) {
  return (await loadConfig(empty, environment)).nsdb;
}

for (const listen of ['127.0.0.1:2181', '127.9.9.9:1', '[::1]:2181', 'localhost:2181', 'unix:/run/nsdb.sock']) {
  test(`on ${listen} no password is needed, and one that is there counts`, async (t) => {
    t.is(nsdbListener(await nsdb({ MIDONET_NSDB_LISTEN: listen })).credentials, undefined);
    const secured = await nsdb({ MIDONET_NSDB_LISTEN: listen, MIDONET_NSDB_PASSWORD_FILE: password });
    t.deepEqual(nsdbListener(secured).credentials, { user: 'midonet', password: 'secret' });
    const demanded = await nsdb({ MIDONET_NSDB_LISTEN: listen, MIDONET_NSDB_AUTHENTICATION: 'required' });
    t.throws(() => nsdbListener(demanded), { instanceOf: InvalidInputError });
  });
}

for (const listen of [
  '0.0.0.0:2181',
  '10.0.0.10:2181',
  '[::]:2181',
  '[fd00::1]:2181',
  'node-1:2181',
  '[::ffff:10.0.0.1]:1',
]) {
  test(`on ${listen} there must be a password, or an answer for its absence`, async (t) => {
    const open = await nsdb({ MIDONET_NSDB_LISTEN: listen });
    const error = t.throws(() => nsdbListener(open), { instanceOf: InvalidInputError });
    t.is(error.field, 'config.nsdb.passwordFile');
    for (const word of [listen, '/dev/urandom', 'nsdb.authentication'])
      t.true(error.message.includes(word), error.message);
    const secured = await nsdb({ MIDONET_NSDB_LISTEN: listen, MIDONET_NSDB_PASSWORD_FILE: password });
    t.is(nsdbListener(secured).credentials?.password, 'secret');
    const off = await nsdb({ MIDONET_NSDB_LISTEN: listen, MIDONET_NSDB_AUTHENTICATION: 'off' });
    t.is(nsdbListener(off).credentials, undefined);
  });
}

test('TLS on a Unix socket is refused', async (t) => {
  const config = await nsdb({ MIDONET_NSDB_LISTEN: 'unix:/run/nsdb.sock', MIDONET_NSDB_TLS_CA: password });
  t.throws(() => nsdbListener(config), { message: /^config\.nsdb\.tls: / });
});
