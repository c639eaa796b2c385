import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect } from 'node:tls';
import { pino } from 'pino';
import { ApiServer } from '../../src/api/server.js';
import { readServerTls } from '../../src/bin/api-settings.js';
import { CertificateWatch } from '../../src/bin/certificate-watch.js';
import { Authority } from '../nsdb/certificates.js';
import { test } from '../nsdb/repository/repository-test.js';

/** The name in the certificate that a server shows. */
async function nameOf(server: ApiServer, ca: string): Promise<string | readonly string[] | undefined> {
  const socket = connect({ host: '127.0.0.1', port: server.port, ca });
  await once(socket, 'secureConnect');
  const { CN } = socket.getPeerCertificate().subject;
  socket.destroy();
  return CN;
}

test('new connections are shown the certificate that is in the files by then, unless it cannot be used', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'certificate-watch-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const authority = await Authority.make(folder, 'authority');
  const first = await authority.issue('first', 'IP:127.0.0.1');
  const second = await authority.issue('second', 'IP:127.0.0.1');
  const files = { certificate: join(folder, 'certificate'), key: join(folder, 'key') };
  const put = async (certificate: string, key: string) => {
    await writeFile(files.key, key, { mode: 0o600 });
    await writeFile(files.certificate, certificate);
  };
  await put(first.certificate, first.key);
  const tls = readServerTls(files);
  const { repository } = t.context;
  const server = await ApiServer.listen({
    listen: { host: '127.0.0.1', port: 0 },
    tls,
    repository,
    log: pino({ level: 'silent' }),
  });
  t.teardown(() => server.close());
  const told: string[] = [];
  const log = pino({}, { write: (line) => void told.push(JSON.parse(line).msg) });
  const watch = new CertificateWatch(files, tls, server, log, 10);
  t.teardown(() => watch.close());
  t.is(await nameOf(server, first.ca), 'first');
  await put('no certificate', first.key);
  while (told.length === 0) await delay(5);
  await delay(50);
  t.is(await nameOf(server, first.ca), 'first');
  await put(second.certificate, second.key);
  while (told.length < 2 || !told.at(-1)?.includes('was renewed')) await delay(5);
  t.is(await nameOf(server, first.ca), 'second');
});
