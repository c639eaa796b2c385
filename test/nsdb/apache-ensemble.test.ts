import test from 'ava';
import { storeCompliance } from '../compliance/store.js';
import { ApacheEnsemble } from './apache-ensemble.js';

/** Clients are spread over the three servers: what one wrote another may read only after a sync. */
if (process.env.MIDONET_SKIP_ZOOKEEPER === '1') {
  test.skip('an ensemble of Apache ZooKeeper', () => {});
} else {
  storeCompliance(test, async () => {
    const ensemble = await ApacheEnsemble.start();
    const { followers } = await ensemble.roles();
    return { address: ensemble.address, member: followers[0].address, close: () => ensemble.close() };
  });
}
