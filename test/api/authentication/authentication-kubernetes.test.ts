import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TokenReviewer, type TokenReviewOptions } from '../../../src/api/authentication/token-review.js';
import type { Tls } from '../../../src/nsdb/store.js';
import { Authority } from '../../nsdb/certificates.js';
import { test } from '../../nsdb/repository/repository-test.js';
import { ask, serveApi } from '../api-server.js';
import { TokenReviewServer } from './token-review-server.js';

const CONTROLLER = 'header.controller.signature';
const APP = 'header.app.signature';
const STRANGER = 'header.stranger.signature';
const UNKNOWN = 'header.unknown.signature';

let folder: string;
let tls: Required<Tls>;
let kubernetes: TokenReviewServer;

test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'midonet-api-'));
  const authority = await Authority.make(folder, 'kubernetes-ca');
  tls = await authority.issue('kubernetes', 'IP:127.0.0.1');
});
test.after.always(() => rm(folder, { recursive: true }));

test.beforeEach(async () => {
  kubernetes = await TokenReviewServer.listen(tls, 'may-ask');
  kubernetes.tokens.set(CONTROLLER, { username: 'system:serviceaccount:midonet:controller', audiences: ['midonet'] });
  kubernetes.tokens.set(APP, { username: 'system:serviceaccount:blue:app', groups: ['system:serviceaccounts:blue'] });
  kubernetes.tokens.set(STRANGER, {
    username: 'system:serviceaccount:red:app',
    groups: ['system:serviceaccounts:red'],
  });
});
test.afterEach.always(() => kubernetes.close());

const roles = [
  { kubernetes: { username: 'system:serviceaccount:midonet:controller' }, role: 'admin' },
  { kubernetes: { group: 'system:serviceaccounts:blue' }, role: 'tenant-reader', tenantId: 'blue' },
] as const;

async function reviewer(options: Partial<TokenReviewOptions> = {}, token?: string): Promise<TokenReviewer> {
  const kubeconfig = join(folder, 'kubeconfig');
  await writeFile(kubeconfig, kubernetes.kubeconfig(token));
  return TokenReviewer.open({ kubeconfig, audiences: [], timeout: 20_000, ...options });
}

const path = '/v1/access-tokens';

test.serial('an account has the role of the first rule about its name or one of its groups', async (t) => {
  const server = await serveApi(t, { roles, tokenReviewer: await reviewer() });
  const app = await ask(server, APP, 'GET', path);
  t.is(app.status, 403);
  t.regex(app.body.detail, /only an admin may/);
  const stranger = await ask(server, STRANGER, 'GET', path);
  t.is(stranger.status, 403);
  t.regex(stranger.body.detail, /kubernetes:system:serviceaccount:red:app has no role/);
  const unknown = await ask(server, UNKNOWN, 'GET', path);
  t.is(unknown.status, 401);
  t.false(JSON.stringify(unknown.body).includes(UNKNOWN));
});

test.serial('with audiences only tokens made for one of them are taken', async (t) => {
  const server = await serveApi(t, { roles, tokenReviewer: await reviewer({ audiences: ['midonet'] }) });
  t.is((await ask(server, CONTROLLER, 'GET', path)).status, 200);
  t.is((await ask(server, APP, 'GET', path)).status, 401);
});

test.serial('a server that knows nothing of audiences is not believed when there are any', async (t) => {
  kubernetes.knowsAudiences = false;
  const server = await serveApi(t, { roles, tokenReviewer: await reviewer({ audiences: ['midonet'] }) });
  t.is((await ask(server, CONTROLLER, 'GET', path)).status, 401);
});

test.serial('an answer is remembered for a minute, and asked for once by many requests', async (t) => {
  let now = 0;
  const server = await serveApi(t, {
    roles,
    tokenReviewer: await reviewer({ audiences: ['midonet'] }),
    clock: () => now,
  });
  await Promise.all(Array.from({ length: 10 }, () => ask(server, CONTROLLER, 'GET', path)));
  t.is(kubernetes.reviews, 1);
  now += 59_000;
  t.is((await ask(server, CONTROLLER, 'GET', path)).status, 200);
  t.is(kubernetes.reviews, 1);
  kubernetes.tokens.delete(CONTROLLER);
  now += 2000;
  t.is((await ask(server, CONTROLLER, 'GET', path)).status, 401);
  t.is(kubernetes.reviews, 2);
});

test.serial('while Kubernetes does not answer nobody is told that a token is wrong', async (t) => {
  const server = await serveApi(t, { roles, tokenReviewer: await reviewer({ audiences: ['midonet'], timeout: 300 }) });
  for (const behaviour of ['silent', 503] as const) {
    kubernetes.behaviour = behaviour;
    const { status, body } = await ask(server, CONTROLLER, 'GET', path);
    t.is(status, 503);
    t.is(body.code, 'MN_AUTHENTICATION_UNAVAILABLE');
    t.false(JSON.stringify(body).includes(CONTROLLER));
  }
  await kubernetes.close();
  t.is((await ask(server, CONTROLLER, 'GET', path)).status, 503);
  kubernetes = await TokenReviewServer.listen(tls, 'may-ask');
});

test.serial('an account that may not ask is the fault of nobody who shows a token', async (t) => {
  const server = await serveApi(t, { roles, tokenReviewer: await reviewer({}, 'may-not-ask') });
  const { status, body } = await ask(server, APP, 'GET', path);
  t.is(status, 503);
  t.regex(body.detail, /status 401/);
});

test.serial('what cannot be a token of Kubernetes is not shown to it', async (t) => {
  const server = await serveApi(t, { roles, tokenReviewer: await reviewer() });
  for (const token of ['midonet_a.b.c', 'some-token', 'a.b', 'a.b.c.d', 'a.b/c.d']) {
    t.is((await ask(server, token, 'GET', path)).status, 401, token);
  }
  t.is(kubernetes.reviews, 0);
});

test.serial('a kubeconfig file that is not there is an error at the start', async (t) => {
  await t.throwsAsync(TokenReviewer.open({ kubeconfig: join(folder, 'none'), audiences: [], timeout: 1000 }), {
    message: /ENOENT/,
  });
});

test.serial('an account without a role is asked about only so often', async (t) => {
  const server = await serveApi(t, { roles, tokenReviewer: await reviewer(), failuresPerMinute: 3 });
  const statuses: number[] = [];
  for (let i = 0; i < 6; i++) statuses.push((await ask(server, STRANGER, 'GET', path)).status);
  t.deepEqual(statuses, [403, 403, 403, 429, 429, 429]);
  t.is(kubernetes.reviews, 3);
});
