import { Agent, type IncomingMessage, request } from 'node:http';
import test from 'ava';
import { segmentOf } from '../../../src/api/description/resources.js';
import { openApiDocument } from '../../../src/api/document/openapi.js';
import { type Caller, LOCAL_ADMIN } from '../../../src/api/tenancy/caller.js';
import { findFaults } from '../../../src/nsdb/repository/integrity.js';
import { Dice } from '../../dice.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { TestApi, tenantAdmin, tenantReader } from '../api-test.js';
import { type FuzzRequest, RequestMaker, TenantObjects } from './fuzz-requests.js';

/** Another run: `MIDONET_SEED=7 node node_modules/ava/entrypoints/cli.mjs build/test/api/document/fuzz.test.js` */
const SEED = Number(process.env.MIDONET_SEED ?? 1);
const REQUESTS = Number(process.env.MIDONET_REQUESTS ?? 10_000);
/** In all that belongs to the tenant that nobody here may look at. */
const MARKER = 'no-business-of-yours';
const AT_ONCE = 8;
const SLOW_MS = 5000;
/** They look at the whole cluster: how long that takes goes with its size. */
const LARGE = /^\/v1\/(status|support-bundle)\b/;
/** How long a stream is read. */
const STREAM_MS = 50;

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly milliseconds: number;
}

test('no request that the document leads to breaks the server, makes it hang or tells what is another tenant’s', async (t) => {
  t.timeout(600_000);
  const nsdb = await EmbeddedNsdb.start();
  const api = await TestApi.start(nsdb.store());
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  t.teardown(async () => {
    agent.destroy();
    await api.close();
    await nsdb.close();
  });
  const [blue, green, red] = [new TenantObjects('blue', MARKER), new TenantObjects('green'), new TenantObjects('red')];
  for (const { kind, object } of [...blue.objects, ...green.objects, ...red.objects]) {
    const { status, body } = await api.admin.post(`/v1/${segmentOf(kind)}`, object);
    t.is(status, 201, JSON.stringify(body));
  }
  const etags = () =>
    Promise.all(
      blue.objects.map(async ({ kind, object }) =>
        (await api.admin.get(`/v1/${segmentOf(kind)}/${object.id}`)).headers.get('etag'),
      ),
    );
  const before = await etags();

  const dice = new Dice(SEED);
  const document = openApiDocument();
  const made = (own: TenantObjects, foreign: TenantObjects) => new RequestMaker(document, dice, own, foreign);
  const asAdmin = made(red, green);
  const asGreen = made(green, blue);
  const callers: readonly { caller: Caller; maker: RequestMaker }[] = [
    ...Array.from({ length: 3 }, () => ({ caller: LOCAL_ADMIN, maker: asAdmin })),
    ...Array.from({ length: 4 }, () => ({ caller: tenantAdmin('green'), maker: asGreen })),
    { caller: tenantReader('green'), maker: asGreen },
    { caller: tenantAdmin('nobody'), maker: asGreen },
  ];
  const statuses = new Map<number, number>();
  const faults: string[] = [];
  let slowest = { milliseconds: 0, about: '' };
  let left = REQUESTS;
  const sendAll = async () => {
    while (left-- > 0) {
      const { caller, maker } = dice.pick(callers)!;
      const asked = maker.next();
      const about = `MIDONET_SEED=${SEED}, ${caller.name}: ${asked.method} ${asked.path.slice(0, 300)} ${asked.body?.toString().slice(0, 500)}`;
      const { status, text, milliseconds } = await send(api.address, agent, caller, asked).catch((error: Error) => {
        throw new Error(`${about}: ${error}`, { cause: error });
      });
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      const isTimed = !LARGE.test(asked.path);
      if (isTimed && milliseconds > slowest.milliseconds) slowest = { milliseconds, about: about.slice(0, 300) };
      // No agents run here.
      if (status >= 500 && !text.includes('MN_AGENT_UNAVAILABLE')) faults.push(`${about}: ${status} ${text}`);
      if (isTimed && milliseconds > SLOW_MS) faults.push(`${about}: ${milliseconds} ms`);
      if (caller.role !== 'admin' && text.includes(MARKER)) faults.push(`${about}: told ${text.slice(0, 2000)}`);
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: AT_ONCE }, sendAll));
  const seconds = Math.round((performance.now() - started) / 1000);
  const counts = [...statuses].sort(([a], [b]) => a - b).map(([status, count]) => `${count} × ${status}`);
  t.log(
    `${REQUESTS} requests in ${seconds} s, ${counts.join(', ')}; ${Math.round(slowest.milliseconds)} ms for the slowest, ${slowest.about}`,
  );

  t.is(faults.length, 0, faults.slice(0, 10).join('\n\n'));
  t.deepEqual(await etags(), before, 'what belongs to blue has been changed');
  for await (const fault of findFaults(api.store)) t.fail(JSON.stringify(fault));
  for (const status of [200, 201, 204])
    t.true((statuses.get(status) ?? 0) > REQUESTS / 100, `few were good for ${status}`);
});

function send(address: string, agent: Agent | false, caller: Caller, asked: FuzzRequest): Promise<Answer> {
  const started = performance.now();
  return new Promise((resolve, reject) => {
    const own = { 'x-test-caller': JSON.stringify(caller) };
    const sent = request(`${address}${asked.path}`, {
      agent,
      method: asked.method,
      headers: { ...asked.headers, ...own },
    });
    sent.once('error', (error) => {
      // The server may close a connection that was silent for some seconds just now: a fresh one tells whether it was that.
      if (agent !== false && sent.reusedSocket) resolve(send(address, false, caller, asked));
      else reject(error);
    });
    sent.once('response', (answer) => {
      const milliseconds = performance.now() - started;
      read(answer).then((text) => {
        const isStream = answer.headers['content-type']?.startsWith('text/event-stream');
        const took = isStream ? milliseconds : performance.now() - started;
        resolve({ status: answer.statusCode!, text: `${JSON.stringify(answer.headers)} ${text}`, milliseconds: took });
      }, reject);
    });
    sent.end(asked.body);
  });
}

/** The whole answer, or the beginning of one that goes on. */
async function read(answer: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  const isStream = answer.headers['content-type']?.startsWith('text/event-stream');
  const timer = isStream ? setTimeout(() => answer.destroy(), STREAM_MS) : undefined;
  try {
    for await (const part of answer as AsyncIterable<Buffer>) parts.push(part);
  } catch (error) {
    if (!isStream) throw error;
  }
  clearTimeout(timer);
  return Buffer.concat(parts).toString();
}
