import { randomUUID } from 'node:crypto';
import test from 'ava';
import { AgentLink } from '../../../src/api/explain/agent-link.js';
import { hostToAsk } from '../../../src/api/explain/host-to-ask.js';
import { encodeJson } from '../../../src/nsdb/json.js';
import { hostAlivePath } from '../../../src/nsdb/layout.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';

/** Hosts whose agents do not run. */
const DEAD = 100;
const { signal } = new AbortController();

test('of many hosts the one that has an agent is found, and where there is none that is said', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  try {
    const store = nsdb.store();
    const repository = new TopologyRepository(store);
    await repository.initialize();
    const bridge = await repository.create('bridge', { id: randomUUID(), name: 'web' });
    const port = await repository.create('port', { id: randomUUID(), bridgeId: bridge.id });
    const ask = () => hostToAsk(repository, new AgentLink(store), port, signal);
    const none = (message: RegExp) => t.throwsAsync(ask, { code: 'MN_AGENT_UNAVAILABLE', message });
    await none(/^there is no host .*: start midonet agent/);
    for (let i = 0; i < DEAD; i++) await repository.create('host', { id: randomUUID(), name: `host-${i}` });
    await none(/^of all 100 hosts none has an agent/);
    const last = (await repository.list('host')).at(-1)!;
    const control = { host: '127.0.0.1', port: 7302, key: '0'.repeat(64) };
    const alive = { since: '2026-01-01T00:00:00Z', name: 'last', machine: 'm', control };
    await store.create(hostAlivePath(last), encodeJson(alive), { ephemeral: true });
    t.is(await ask(), last);
  } finally {
    await nsdb.close();
  }
});
