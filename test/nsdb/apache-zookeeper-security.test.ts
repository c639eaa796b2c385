import test from 'ava';
import { type ServerSettings, storeSecurityCompliance } from '../compliance/store-security.js';
import { ApacheZookeeper, freePort } from './apache-zookeeper.js';

if (process.env.MIDONET_SKIP_ZOOKEEPER === '1') {
  test.skip('the security of Apache ZooKeeper', () => {});
} else {
  storeSecurityCompliance(test, async ({ credentials, tls }) => {
    const enforced = { 'enforce.auth.enabled': true, 'enforce.auth.schemes': 'digest' };
    const settings = { enforceQuota: true, ...(credentials === undefined ? {} : enforced) };
    if (tls === undefined) return ApacheZookeeper.start(settings);
    const port = await freePort();
    const server = await ApacheZookeeper.start({ ...settings, ...(await tlsSettings(port, tls)) });
    return { address: `127.0.0.1:${port}`, close: () => server.close() };
  });
}

async function tlsSettings(port: number, { authority, server }: Required<ServerSettings>['tls']) {
  return {
    secureClientPort: port,
    secureClientPortAddress: '127.0.0.1',
    serverCnxnFactory: 'org.apache.zookeeper.server.NettyServerCnxnFactory',
    'ssl.keyStore.location': await authority.keyStore('server', server),
    'ssl.keyStore.type': 'PEM',
    'ssl.trustStore.location': authority.certificateFile,
    'ssl.trustStore.type': 'PEM',
    'ssl.clientAuth': 'need',
  };
}
