import { request } from 'node:http';
import type { ApiServer } from '../../../src/api/server.js';
import { LOCAL_ADMIN } from '../../../src/api/tenancy/caller.js';
import { test } from '../../nsdb/repository/repository-test.js';
import { serveApi } from '../api-server.js';

/** The status of a request for the name of a host, which fetch does not let one choose. */
function statusFor(server: ApiServer, host: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port: server.port, path: '/v1/bridges', headers: { host } }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on('error', reject)
      .end();
  });
}

test.serial('a name that somebody has pointed at this machine does not open the API of this machine', async (t) => {
  const server = await serveApi(t, { anonymous: LOCAL_ADMIN, isLocalOnly: true });
  for (const host of [
    'evil.example',
    'evil.example:8181',
    '127.0.0.1.evil.example',
    'localhost.evil.example',
    '10.0.0.1',
  ]) {
    t.is(await statusFor(server, host), 403, host);
  }
  for (const host of ['localhost', 'LOCALHOST:8181', '127.0.0.1:8181', '127.3.2.1', '[::1]:8181']) {
    t.is(await statusFor(server, host), 200, host);
  }
});

test.serial('where everybody shows who they are, the server may have any name', async (t) => {
  const server = await serveApi(t, { anonymous: LOCAL_ADMIN });
  t.is(await statusFor(server, 'midonet.example'), 200);
});
