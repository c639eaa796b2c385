import test from 'ava';
import { clusterStatus } from '../../../src/api/status/status.js';
import { statusLines } from '../../../src/cli/explain/status.js';
import { status } from '../../../src/nsdb/operations/status.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';

const { signal } = new AbortController();

test('a status says so when the NSDB cannot be reached, and what to do about it', async (t) => {
  const down = await EmbeddedNsdb.start();
  try {
    const store = down.store({ operationTimeout: 200 });
    const repository = new TopologyRepository(store);
    await repository.initialize();
    await down.stop();
    const connect = `unix:${down.folder}/socket`;
    const nsdb = () => status({ connect, store, server: store, askServers: true, signal });
    for (const asked of [nsdb, undefined]) {
      const found = await clusterStatus({ repository, nsdb: asked, signal });
      t.false(found.healthy);
      t.deepEqual([found.hosts, found.ports, found.flows], [undefined, undefined, undefined]);
      t.true(found.problems.every(({ severity, where }) => severity === 'error' && where === 'NSDB'));
      const text = [...statusLines(found)].join('\n');
      t.regex(text, /✘ NSDB: .*\n {4}→ .*servers run/);
      t.regex(text, /all else were not looked at/);
      t.notRegex(text, /^(hosts|ports|flows)/m);
    }
  } finally {
    await down.close();
  }
});
