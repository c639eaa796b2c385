import test from 'ava';
import { storeCompliance } from '../compliance/store.js';
import { ApacheZookeeper } from './apache-zookeeper.js';

/** Set where ZooKeeper cannot be installed; without it a machine that lacks ZooKeeper fails, as it should. */
if (process.env.MIDONET_SKIP_ZOOKEEPER === '1') {
  test.skip('Apache ZooKeeper', () => {});
} else {
  storeCompliance(test, () => ApacheZookeeper.start());
}
