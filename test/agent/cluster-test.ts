import test, { type ExecutionContext } from 'ava';
import { Cluster, type ClusterOptions } from './cluster.js';

/** A test with a cluster of its own, which is closed behind it. One after the other. If it fails its log says what the hosts warned of. */
export function clusterTest(
  title: string,
  options: ClusterOptions,
  run: (t: ExecutionContext, c: Cluster) => Promise<void>,
): void {
  test.serial(title, async (t) => {
    const started = await Cluster.start(options);
    try {
      await run(t, started);
    } catch (error) {
      for (const host of started.hosts) for (const line of host.warnings.slice(-20)) t.log(host.name, line);
      throw error;
    } finally {
      await started.close();
    }
  });
}
