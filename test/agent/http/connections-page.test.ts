import test from 'ava';
import { connectionsPage } from '../../../src/agent/http/connections-page.js';
import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import { InvalidInputError } from '../../../src/errors.js';
import type { Action } from '../../../src/flow/action.js';
import { FlowKey } from '../../../src/flow/key.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildIpv6 } from '../../../src/packet/ipv6.js';
import { buildUdp } from '../../../src/packet/udp.js';

const CLIENT = 0x0a01_0005;
const VIP = 0x0a60_0001;
const MEMBER = 0x0a02_0007;

/** A datapath that has tracked a translated connection in zone 17, one over IPv6 in zone 18, and one of the host in zone 0. */
async function source() {
  const node = new MemoryNetwork({ now: () => 1_000_000, automatic: true }).node(0xc0a8_6401);
  node.switch('dp');
  const datapath = node.datapath('dp');
  const track = (type: number, ip: Uint8Array, action: Action) => {
    const packet = buildEthernet({ dst: 0x0200_0000_0001, src: 0x0200_0000_0002, type }, ip);
    const key = new FlowKey();
    return new Promise<void>((resolve, reject) => {
      datapath.submit([{ type: 'execute', key, packet, actions: [action] }], ([error]) =>
        error === undefined ? resolve() : reject(error),
      );
    });
  };
  const udp = buildUdp(40_000, 53, Buffer.from('?'));
  const ipv4 = (src: number, dst: number) => buildIpv4({ src, dst, protocol: IpProtocol.UDP }, udp);
  const six = { src: [0xfd00_0000, 0, 0, 1], dst: [0xfd00_0000, 0, 0, 2], protocol: IpProtocol.UDP } as const;
  const nat = { kind: 'dst', ipMin: [MEMBER], portMin: 5353 } as const;
  await track(EtherType.IPV4, ipv4(CLIENT, VIP), { type: 'ct', zone: 17, commit: true, mark: 1, nat });
  await track(EtherType.IPV6, buildIpv6(six, udp), { type: 'ct', zone: 18, commit: true });
  await track(EtherType.IPV4, ipv4(CLIENT, MEMBER), { type: 'ct', zone: 0, commit: true });
  const owners = new Map([
    [17, 'port p'],
    [18, 'router r'],
  ]);
  return {
    zoneOf: (id: string) => [...owners].find(([, owner]) => owner.endsWith(` ${id}`))?.[0],
    zoneOwner: (zone: number) => owners.get(zone),
    connections: (zone: number | undefined, limit: number) => datapath.connections(zone, limit),
  };
}

test('connections are listed by port and device, with what they are translated to', async (t) => {
  t.is(
    await connectionsPage(await source(), new URLSearchParams()),
    [
      'not of the virtual network, zone 0:',
      '  udp 10.1.0.5:40000 > 10.2.0.7:53, not answered, forgotten in 30 s',
      'port p, zone 17:',
      '  udp 10.1.0.5:40000 > 10.96.0.1:53, translated to 10.1.0.5:40000 > 10.2.0.7:5353, not answered, mark 1, forgotten in 30 s',
      'router r, zone 18:',
      '  udp [fd00::1]:40000 > [fd00::2]:53, not answered, forgotten in 30 s',
      '',
    ].join('\n'),
  );
});

test('those of one port or device can be asked for, and as few as are wanted', async (t) => {
  const from = await source();
  const ask = (query: string) => connectionsPage(from, new URLSearchParams(query));
  t.is(
    await ask('of=r'),
    'router r, zone 18:\n  udp [fd00::1]:40000 > [fd00::2]:53, not answered, forgotten in 30 s\n',
  );
  t.regex(String(await ask('limit=1')), /^\S.*\n {2}udp .*\nthe first 1; there may be more\n$/);
  t.deepEqual(await ask('of=r&format=json'), {
    connections: [
      { owner: 'router r', connection: 'udp [fd00::1]:40000 > [fd00::2]:53, not answered, forgotten in 30 s' },
    ],
    more: false,
  });
  for (const query of ['of=x', 'limit=0', 'limit=all']) {
    const error = await t.throwsAsync(ask(query), { instanceOf: InvalidInputError });
    t.true(error.message.startsWith(`${query.split('=')[0]}: expected`), error.message);
  }
});
