import { formatIpv4, parseIpv4, parseMac } from '../../../src/packet/address.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildUdp } from '../../../src/packet/udp.js';
import { routerPortMac } from '../../../src/topology/types.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { until } from '../../agent/until.js';
import { ExplainingApi } from '../../api/explain/explaining-api.js';
import { runMidonet } from '../cli-test.js';

const EXAMPLE = new URL('../../../../docs/examples/two-tenants.yaml', import.meta.url).pathname;
const ETHERNET = 14;

clusterTest('the example with two tenants forwards, translates and filters as it says', { hosts: 2 }, async (t, c) => {
  t.timeout(120_000);
  const api = await ExplainingApi.serve(c);
  const midonet = async (...words: string[]) => {
    const { out, error } = await runMidonet(words, { server: api.server });
    if (error !== undefined) throw new Error(`midonet ${words.join(' ')}: ${error}`);
    return out;
  };
  try {
    await midonet('apply', '-f', EXAMPLE);
    const [near, far] = c.hosts;
    const bind = async (tenant: string, port: string, host: typeof near, name: string) => {
      const device = host.node.addInterface(name);
      const tenantOption = tenant === '' ? [] : ['--tenant', tenant];
      await midonet('port', 'bind', port, ...tenantOption, '--host', host.name, '--interface', name);
      return device;
    };
    const world = await bind('', 'world/web-site', far, 'world');
    const machines = ['clients/client1', 'clients/client2', 'servers/server1', 'servers/server2'];
    const clients = new Map<string, typeof world>();
    for (const tenant of ['red', 'blue']) {
      for (const [i, machine] of machines.entries()) {
        const device = await bind(tenant, machine, i % 2 === 0 ? near : far, `${tenant}${i}`);
        if (i === 0) clients.set(tenant, device);
      }
    }

    const outcome = async (tenant: string, from: string, packet: string) =>
      (await midonet('trace', '--tenant', tenant, '--from', `clients/${from}`, '--packet', packet)).split('\n')[0];
    const expected = async (tenant: string, from: string, packet: string, outcomeIs: RegExp) => {
      let last = '';
      await until(
        `${packet} of ${tenant} ends with ${outcomeIs}`,
        async () => {
          last = await outcome(tenant, from, packet);
          return outcomeIs.test(last);
        },
        60_000,
      ).catch(() => t.regex(last, outcomeIs, packet));
    };
    for (const tenant of ['red', 'blue']) {
      await expected(tenant, 'client1', 'icmp 10.0.0.11 > 10.0.1.21', /^✔ Delivered out of port servers\/server1/);
      await expected(
        tenant,
        'client1',
        'tcp 10.0.0.11:1234 > 10.0.9.1:80',
        /^✔ Delivered out of port servers\/server[12]/,
      );
      await expected(
        tenant,
        'client1',
        'tcp 10.0.0.11:1234 > 10.0.1.21:22',
        /^✘ Dropped by rule 5 else of chain firewall/,
      );
      await expected(tenant, 'client2', 'tcp 10.0.0.12:1234 > 10.0.1.21:22', /^✔ Delivered/);
      await expected(
        tenant,
        'client1',
        'tcp 10.0.0.11:1234 > 203.0.113.10:80',
        /^✔ Delivered out of port world\/web-site/,
      );
    }

    for (const [i, [tenant, device]] of [...clients].entries()) {
      const [{ id }] = JSON.parse(
        await midonet('port', 'list', '--tenant', tenant, '--router', 'edge', '--name', 'to-clients', '--json'),
      ) as { id: string }[];
      const gateway = (await c.repository.get('port', id))!.object;
      const packet = buildEthernet(
        {
          src: parseMac(`02:00:00:00:0${i + 1}:11`)!,
          dst: parseMac(routerPortMac(gateway))!,
          type: EtherType.IPV4,
        },
        buildIpv4(
          { src: parseIpv4('10.0.0.11')!, dst: parseIpv4('203.0.113.10')!, protocol: IpProtocol.UDP },
          buildUdp(1234, 80, Buffer.from(tenant)),
        ),
      );
      const arrived = () => world.received().find((frame) => Buffer.from(frame).includes(tenant));
      await until(
        `a packet of ${tenant} reaches the world`,
        async () => {
          device.send(packet);
          await new Promise((resolve) => setTimeout(resolve, 5));
          return arrived() !== undefined;
        },
        60_000,
      );
      // Inside both have the same address, outside each its own.
      t.is(formatIpv4(Buffer.from(arrived()!).readUInt32BE(ETHERNET + 12)), `198.51.100.${4 * i + 2}`);
    }
  } finally {
    await api.close();
  }
});
