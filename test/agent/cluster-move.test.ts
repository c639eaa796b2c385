import { copy } from '../../src/nsdb/operations/copy.js';
import { fsck } from '../../src/nsdb/operations/fsck.js';
import { compareImages, readTree } from '../../src/nsdb/operations/image.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { parseConnectString } from '../../src/nsdb/zookeeper/connect-string.js';
import { ApacheEnsemble } from '../nsdb/apache-ensemble.js';
import { PairWriters } from '../nsdb/operations/pair-writers.js';
import { apacheTest } from '../nsdb/operations/servers.js';
import { Cluster, type Pod } from './cluster.js';

apacheTest('a cluster at work moves from the embedded server to an ensemble without losing an object', async (t) => {
  t.timeout(120_000);
  const cluster = await Cluster.start({ hosts: 3 });
  t.teardown(() => cluster.close());
  const ensemble = await ApacheEnsemble.start();
  t.teardown(() => ensemble.close());
  const bridgeId = await cluster.createBridge();
  const pods = await cluster.populate(bridgeId, 2);
  const source = cluster.nsdb.store();
  const writers = await PairWriters.start([cluster.nsdb.store(), cluster.nsdb.store()], 2);
  // Pods come and go all the time, on every host.
  let churning = true;
  const churn = Promise.all(
    cluster.hosts.map(async (host) => {
      for (let last: Pod | undefined; churning; ) {
        const pod = cluster.pod(bridgeId);
        await host.attach(pod);
        if (last !== undefined) await host.detach(last);
        last = pod;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }),
  );

  const connect = ensemble.address;
  const destination = new ZookeeperStore({ connect });
  t.teardown(() => destination.close());
  const report = await copy({
    source,
    destination,
    move: { server: source, movedTo: connect },
    replace: false,
    force: false,
    timeout: 60_000,
  });
  t.log(report);
  await writers.stop();
  const copied = (await readTree(destination)).image;
  t.deepEqual(compareImages((await readTree(source)).image, copied), SAME);
  for (const [pair, number] of writers.acknowledged) {
    t.is(copied.get(`/left/${pair}`)?.toString(), number?.toString(), `${pair}: what was acknowledged is there`);
  }

  // Traffic goes on while nothing can be written, and so does the coming and going of pods.
  await cluster.eachPair(pods, (from, to) => cluster.ping(from, to));
  churning = false;
  await churn;
  const attachedWhileFrozen = cluster.pod(bridgeId);
  await cluster.hosts[0].attach(attachedWhileFrozen);

  // Agents are restarted with the other connect string, one after the other.
  for (const [i, host] of cluster.hosts.entries()) {
    const [target] = parseConnectString(ensemble.members[i].address).targets;
    await host.stop();
    host.gate.target = target;
    await host.start();
  }
  await cluster.published();
  const repository = new TopologyRepository(destination);
  const attached = cluster.hosts.flatMap((host) => [...host.journal.values()]);
  t.is(attached.length, 6 + 3 + 1);
  for (const pod of attached) {
    const port = await repository.get('port', pod.id);
    t.is(port?.object.binding?.hostId, pod.host!.id, `${pod.interfaceName} is bound where it is`);
  }
  await cluster.eachPair([...pods, attachedWhileFrozen], (from, to) => cluster.connects(from, to));
  for (const path of ['/left', '/right']) await removeAll(destination, path);
  const { left } = await fsck({ store: destination, repair: false });
  t.deepEqual(left, []);
});

const SAME = { created: 0, changed: 0, deleted: 0, example: undefined };

async function removeAll(store: ZookeeperStore, path: string): Promise<void> {
  for (const name of (await store.children(path)) ?? []) await removeAll(store, `${path}/${name}`);
  await store.delete(path);
}
