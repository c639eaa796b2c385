import { setTimeout as delay } from 'node:timers/promises';
import { AccessTokens } from '../../../src/api/authentication/access-tokens.js';
import { NoRoleError, UnauthenticatedError } from '../../../src/api/authentication/errors.js';
import { FEED_LIMITS } from '../../../src/api/feeds/feeds.js';
import { LOCAL_ADMIN } from '../../../src/api/tenancy/caller.js';
import type { Store } from '../../../src/nsdb/store.js';
import { allPaths } from '../../nsdb/embedded-nsdb.js';
import { test } from '../../nsdb/repository/repository-test.js';
import { ADMIN_TOKEN, ask, makeToken, serveApi } from '../api-server.js';

const decoder = new TextDecoder();

test.serial('who does not say who they are is refused, and told how to', async (t) => {
  const server = await serveApi(t);
  const { status, headers, body } = await ask(server, undefined, 'GET', '/v1/bridges');
  t.is(status, 401);
  t.is(headers.get('www-authenticate'), 'Bearer realm="midonet"');
  t.is(headers.get('content-type'), 'application/problem+json; charset=utf-8');
  t.is(body.code, 'MN_UNAUTHENTICATED');
  t.regex(body.detail, /Authorization: Bearer/);
});

for (const authorization of [
  'Bearer',
  'Bearer ',
  'Bearer wrong',
  `Bearer ${ADMIN_TOKEN}x`,
  `Bearer ${ADMIN_TOKEN} x`,
  `Basic ${ADMIN_TOKEN}`,
  ADMIN_TOKEN,
  `Bearer midonet_${'A'.repeat(43)}`,
  'Bearer a.b.c',
  'Bearer ../../hosts',
]) {
  test.serial(`"${authorization}" is refused, and not repeated in the answer`, async (t) => {
    const server = await serveApi(t);
    const { status, body } = await ask(server, undefined, 'GET', '/v1/bridges', undefined, { authorization });
    t.is(status, 401);
    const secret = authorization.slice(7);
    t.false(secret.length > 4 && JSON.stringify(body).includes(secret));
  });
}

test.serial('where nobody needs to say who they are, a token that is shown must be good all the same', async (t) => {
  const server = await serveApi(t, { anonymous: LOCAL_ADMIN });
  t.is((await ask(server, undefined, 'GET', '/v1/bridges')).status, 200);
  t.is((await ask(server, 'wrong', 'GET', '/v1/bridges')).status, 401);
});

test.serial(
  'a token is told once, and neither it nor its hash in the NSDB lets anybody in who reads that',
  async (t) => {
    const server = await serveApi(t);
    const made = await makeToken(server, { role: 'admin' }, 'ci');
    t.regex(made.token, /^midonet_[\w-]{43}$/);
    t.is((await ask(server, made.token, 'GET', '/v1/bridges')).status, 200);
    t.is((await ask(server, made.id, 'GET', '/v1/bridges')).status, 401);
    const { body } = await ask(server, ADMIN_TOKEN, 'GET', '/v1/access-tokens');
    t.is(body.items.length, 1);
    t.like(body.items[0], { id: made.id, name: 'ci', role: 'admin', createdBy: 'admin-token' });
    t.false(JSON.stringify(body).includes(made.token));
    const { store } = t.context;
    for (const path of await allPaths(store)) {
      const node = await store.get(path);
      t.false(`${path} ${decoder.decode(node?.data)}`.includes(made.token.slice(8)), path);
    }
  },
);

test.serial('only an admin sees, makes and deletes access tokens', async (t) => {
  const server = await serveApi(t);
  const { id } = await makeToken(server, { role: 'admin' });
  for (const role of ['tenant-admin', 'tenant-reader']) {
    const { token } = await makeToken(server, { role, tenantId: 'blue' });
    const forged = { name: 'more', role: 'admin' };
    for (const [method, path, body] of [
      ['GET', '/v1/access-tokens', undefined],
      ['GET', `/v1/access-tokens/${id}`, undefined],
      ['POST', '/v1/access-tokens', forged],
      ['DELETE', `/v1/access-tokens/${id}`, undefined],
    ] as const) {
      const answer = await ask(server, token, method, path, body);
      t.is(answer.status, 403, `${role} ${method} ${path}`);
      t.is(answer.body.code, 'MN_FORBIDDEN');
    }
  }
  t.is((await ask(server, ADMIN_TOKEN, 'GET', `/v1/access-tokens/${id}`)).status, 200);
});

test.serial('a token for a tenant names the tenant, and one for an admin none', async (t) => {
  const server = await serveApi(t);
  const post = (body: object) => ask(server, ADMIN_TOKEN, 'POST', '/v1/access-tokens', body);
  for (const [body, field] of [
    [{ name: 'a', role: 'tenant-admin' }, 'tenantId'],
    [{ name: 'a', role: 'admin', tenantId: 'blue' }, 'tenantId'],
    [{ name: 'a', role: 'root' }, 'role'],
    [{ name: '', role: 'admin' }, 'name'],
    [{ name: 'a', role: 'admin', expiresInSeconds: 0 }, 'expiresInSeconds'],
    [{ name: 'a', role: 'admin', token: 'mine' }, 'token'],
  ] as const) {
    const answer = await post(body);
    t.is(answer.status, 400, JSON.stringify(body));
    t.true(`${answer.body.field} ${answer.body.detail}`.includes(field), answer.body.detail);
  }
  t.is((await post({ name: 'a', role: 'tenant-reader', tenantId: 'blue' })).status, 201);
});

test.serial('a token that has expired is refused, and its remains are removed', async (t) => {
  let now = Date.now();
  const server = await serveApi(t, { clock: () => now });
  // The routes have a clock of their own, which is the real one.
  const { token, id } = await makeToken(server, { role: 'admin', expiresInSeconds: 60 });
  t.is((await ask(server, token, 'GET', '/v1/bridges')).status, 200);
  now += 61_000;
  t.is((await ask(server, token, 'GET', '/v1/bridges')).status, 401);
  const { store } = t.context;
  const tokens = new AccessTokens(store, () => now);
  t.deepEqual(await tokens.list(), []);
  t.truthy(await store.get(`/access-tokens/${id}`), 'looking changes nothing');
  await tokens.create({ name: 'next', role: 'admin' }, 'admin');
  t.is(await store.get(`/access-tokens/${id}`), undefined);
});

test.serial('a token that cannot be read hides no others, and keeps nobody from making more', async (t) => {
  const { store } = t.context;
  const tokens = new AccessTokens(store);
  const { accessToken } = await tokens.create({ name: 'first', role: 'admin' }, 'admin');
  const broken = 'f'.repeat(64);
  await store.create(`/access-tokens/${broken}`, Buffer.from('{"name": "of a newer program", "colour": "red"}'));
  t.deepEqual(await tokens.list(), [accessToken]);
  const { accessToken: second } = await tokens.create({ name: 'second', role: 'admin' }, 'admin');
  t.deepEqual(await tokens.list(), [accessToken, second]);
  await tokens.delete(broken);
  t.is(await store.get(`/access-tokens/${broken}`), undefined);
});

test.serial(
  'a token is good for at most a few seconds after it was deleted, and not at all at its expiry',
  async (t) => {
    let now = Date.now();
    const server = await serveApi(t, { clock: () => now });
    const { token, id } = await makeToken(server, { role: 'admin' });
    const brief = await makeToken(server, { role: 'admin', expiresInSeconds: 2 });
    t.is((await ask(server, token, 'GET', '/v1/bridges')).status, 200);
    t.is((await ask(server, brief.token, 'GET', '/v1/bridges')).status, 200);
    t.is((await ask(server, ADMIN_TOKEN, 'DELETE', `/v1/access-tokens/${id}`)).status, 204);
    t.is((await ask(server, ADMIN_TOKEN, 'DELETE', `/v1/access-tokens/${id}`)).status, 204);
    t.is((await ask(server, ADMIN_TOKEN, 'GET', `/v1/access-tokens/${id}`)).status, 404);
    now += 2500;
    t.is((await ask(server, brief.token, 'GET', '/v1/bridges')).status, 401);
    now += 1000;
    t.is((await ask(server, token, 'GET', '/v1/bridges')).status, 401);
  },
);

test.serial('an id that is none is refused by name, and leads nowhere else', async (t) => {
  const server = await serveApi(t);
  for (const id of ['1', '..%2fhosts', 'G'.repeat(64)]) {
    const { status, body } = await ask(server, ADMIN_TOKEN, 'DELETE', `/v1/access-tokens/${id}`);
    t.is(status, 400);
    t.regex(body.detail, /SHA-256/);
  }
});

test.serial('many requests with a token cost one reading of the NSDB', async (t) => {
  const { store } = t.context;
  let reads = 0;
  const counting = new Proxy(store, {
    get(target, name) {
      const value = Reflect.get(target, name);
      if (name === 'get') reads++;
      return typeof value === 'function' ? value.bind(target) : value;
    },
  }) as Store;
  const server = await serveApi(t, { accessTokens: new AccessTokens(counting), clock: () => 0 });
  const { token } = await makeToken(server, { role: 'tenant-reader', tenantId: 'blue' });
  const answers = Array.from({ length: 50 }, () => ask(server, token, 'GET', '/v1/access-tokens'));
  t.true((await Promise.all(answers)).every(({ status }) => status === 403));
  t.is(reads, 1);
});

test.serial('while the NSDB is away nobody is told that a token is wrong', async (t) => {
  const store = t.context.nsdb.store({ operationTimeout: 300 });
  const server = await serveApi(t, { accessTokens: new AccessTokens(store) });
  const { token } = await makeToken(server, { role: 'admin' });
  await t.context.nsdb.stop();
  const until = async (isConnected: boolean) => {
    while ((store.state === 'connected') !== isConnected) await delay(5);
  };
  await until(false);
  const { status, body } = await ask(server, token, 'GET', '/v1/access-tokens');
  t.is(status, 503);
  t.is(body.code, 'MN_STORE_UNAVAILABLE');
  await t.context.nsdb.resume();
  await until(true);
  t.is((await ask(server, token, 'GET', '/v1/access-tokens')).status, 200);
});

test.serial(
  'an address from which many wrong tokens come is refused without looking, but not callers who are known',
  async (t) => {
    let looks = 0;
    const store = new Proxy(t.context.store, {
      get(target, name) {
        const value = Reflect.get(target, name);
        if (name === 'get') looks++;
        return typeof value === 'function' ? value.bind(target) : value;
      },
    }) as Store;
    const server = await serveApi(t, { accessTokens: new AccessTokens(store), failuresPerMinute: 5, clock: () => 0 });
    const { token } = await makeToken(server, { role: 'tenant-admin', tenantId: 'blue' });
    t.is((await ask(server, token, 'GET', '/v1/access-tokens')).status, 403);
    const statuses: number[] = [];
    for (let i = 0; i < 12; i++) statuses.push((await ask(server, `midonet_${i}`, 'GET', '/v1/bridges')).status);
    t.deepEqual(statuses, [401, 401, 401, 401, 401, 429, 429, 429, 429, 429, 429, 429]);
    t.is(looks, 6);
    t.is((await ask(server, token, 'GET', '/v1/access-tokens')).status, 403);
    t.is((await ask(server, ADMIN_TOKEN, 'GET', '/v1/bridges')).status, 200);
    t.truthy((await ask(server, 'midonet_x', 'GET', '/v1/bridges')).headers.get('retry-after'));
  },
);

test.serial('whoever guesses tokens does not lock out others of the same address', async (t) => {
  let now = 0;
  const server = await serveApi(t, { failuresPerMinute: 5, clock: () => now });
  const { token } = await makeToken(server, { role: 'tenant-admin', tenantId: 'blue' });
  t.is((await ask(server, token, 'GET', '/v1/bridges')).status, 200);
  for (let i = 0; i < 7; i++) await ask(server, `midonet_${i}`, 'GET', '/v1/bridges');
  now += 60_000;
  t.is((await ask(server, 'midonet_x', 'GET', '/v1/bridges')).status, 429);
  t.is((await ask(server, token, 'GET', '/v1/bridges')).status, 200);
});

for (const [what, error] of [
  ['has lost its role', () => new NoRoleError('kubernetes:ann')],
  ['is not known any more', () => new UnauthenticatedError('gone')],
] as const) {
  test.serial(`a stream ends when its caller ${what}`, async (t) => {
    let isRefused = false;
    const server = await serveApi(t, {
      authenticate: async () => {
        if (isRefused) throw error();
        return { name: 'ann', role: 'tenant-reader', tenantId: 'blue' };
      },
    });
    const stream = await fetch(`http://127.0.0.1:${server.port}/v1/watch?kinds=bridge`);
    isRefused = true;
    await t.throwsAsync(stream.text());
  });
}

test.serial('a stream ends with its token, however many wrong tokens its owner sends', async (t) => {
  const server = await serveApi(t, { failuresPerMinute: 1 });
  const { token, id } = await makeToken(server, { role: 'tenant-reader', tenantId: 'blue' });
  const headers = { authorization: `Bearer ${token}` };
  const stream = await fetch(`http://127.0.0.1:${server.port}/v1/watch?kinds=bridge`, { headers });
  for (let i = 0; i < 5; i++) await ask(server, `midonet_${i}`, 'GET', '/v1/bridges');
  await ask(server, ADMIN_TOKEN, 'DELETE', `/v1/access-tokens/${id}`);
  await t.throwsAsync(stream.text());
});

test.serial('a caller who makes too many requests is told when to go on, and others are not concerned', async (t) => {
  const server = await serveApi(t, { requestsPerSecond: 1 });
  const { token } = await makeToken(server, { role: 'tenant-admin', tenantId: 'blue' });
  const other = await makeToken(server, { role: 'tenant-admin', tenantId: 'red' });
  const answers = await Promise.all(Array.from({ length: 30 }, () => ask(server, token, 'GET', '/v1/access-tokens')));
  t.is(answers.filter(({ status }) => status === 403).length, 10);
  const refused = answers.filter(({ status }) => status === 429);
  t.is(refused.length, 20);
  t.true(refused.every(({ headers, body }) => Number(headers.get('retry-after')) > 0 && body.status === 429));
  t.is((await ask(server, other.token, 'GET', '/v1/access-tokens')).status, 403);
});

test.serial('tokens of two tenants that have one name do not share the limit of streams', async (t) => {
  const server = await serveApi(t, { feedLimits: { ...FEED_LIMITS, streamsPerCaller: 1 } });
  const watch = async (tenantId: string) => {
    const { token } = await makeToken(server, { role: 'tenant-reader', tenantId }, 'ci');
    const headers = { authorization: `Bearer ${token}` };
    return (await fetch(`http://127.0.0.1:${server.port}/v1/watch?kinds=bridge`, { headers })).status;
  };
  t.deepEqual([await watch('blue'), await watch('red'), await watch('red')], [200, 200, 429]);
});

test.serial('answers tell browsers to be careful with them', async (t) => {
  const server = await serveApi(t);
  for (const path of ['/v1/bridges', '/nowhere']) {
    const { headers } = await ask(server, undefined, 'GET', path);
    t.is(headers.get('x-content-type-options'), 'nosniff');
    t.is(headers.get('x-frame-options'), 'DENY');
    t.regex(headers.get('content-security-policy') ?? '', /default-src 'none'/);
    t.is(headers.get('access-control-allow-origin'), null);
    t.is(headers.get('x-powered-by'), null);
  }
});

test.serial('pages of other sites may not use the API, whoever looks at them', async (t) => {
  const server = await serveApi(t, { anonymous: LOCAL_ADMIN, isLocalOnly: true });
  const body = { name: 'a', role: 'admin' };
  const from = (headers: Record<string, string>) => ask(server, undefined, 'POST', '/v1/access-tokens', body, headers);
  t.is((await from({ origin: 'https://evil.example' })).status, 403);
  t.is((await from({ origin: 'null' })).status, 403);
  t.is((await from({ origin: `http://127.0.0.1:${server.port}` })).status, 201);
});

test.serial('a token has its role among the objects of its tenant', async (t) => {
  const server = await serveApi(t);
  const ofTenant = async (tenantId: string) => {
    const { body } = await ask(server, ADMIN_TOKEN, 'POST', '/v1/bridges', { name: 'web', tenantId });
    const admin = (await makeToken(server, { role: 'tenant-admin', tenantId })).token;
    const reader = (await makeToken(server, { role: 'tenant-reader', tenantId })).token;
    return { path: `/v1/bridges/${body.id}`, admin, reader };
  };
  const [blue, red] = [await ofTenant('blue'), await ofTenant('red')];
  const names = async (token: string) => {
    const { body } = await ask(server, token, 'GET', '/v1/bridges');
    return body.items.map(({ tenantId }: { tenantId: string }) => tenantId).sort();
  };
  t.deepEqual(await names(ADMIN_TOKEN), ['blue', 'red']);
  for (const token of [blue.admin, blue.reader]) {
    t.deepEqual(await names(token), ['blue']);
    t.is((await ask(server, token, 'GET', blue.path)).status, 200);
    t.is((await ask(server, token, 'GET', red.path)).status, 404);
  }
  const patch = { name: 'other' };
  t.is((await ask(server, blue.reader, 'PATCH', blue.path, patch)).status, 403);
  t.is((await ask(server, blue.reader, 'DELETE', blue.path)).status, 403);
  t.is((await ask(server, blue.admin, 'PATCH', red.path, patch)).status, 404);
  t.is((await ask(server, blue.admin, 'PATCH', blue.path, patch)).status, 200);
  await ask(server, blue.admin, 'DELETE', red.path);
  t.is((await ask(server, red.admin, 'GET', red.path)).status, 200);
});
