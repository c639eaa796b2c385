import test from 'ava';
import { pino } from 'pino';
import { MemberConnections } from '../../../src/agent/health/member-connections.js';
import type { TrackedConnection } from '../../../src/datapath/datapath.js';
import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { until } from '../until.js';

const VIP = [1];

/** Of a client that asked the VIP, or the server itself. */
function connectionTo(server: number, client: number, asked: readonly number[]): TrackedConnection {
  return {
    zone: 1,
    family: 4,
    protocol: IpProtocol.UDP,
    original: { src: [client], dst: asked, srcPort: 1000, dstPort: 53 },
    reply: { src: [server], dst: [client], srcPort: 53, dstPort: 1000 },
    answered: true,
    mark: 0,
    timeoutMs: 600_000,
    tcpState: undefined,
  };
}

test('connections to members that failed are forgotten, also when the datapath does not answer at first', async (t) => {
  const network = new MemoryNetwork({ now: () => 0, automatic: true });
  const datapath = network.node(1).datapath('dp');
  const all = [connectionTo(10, 20, VIP), connectionTo(11, 21, VIP), connectionTo(10, 22, [10])];
  await datapath.changeConnections(all.map((connection) => ({ type: 'create', connection }) as const));
  let failures = 1;
  const lines: string[] = [];
  const members = new MemberConnections(
    {
      features: datapath.features,
      connections: async (...range) => {
        if (failures-- > 0) throw new Error('no memory');
        return datapath.connections(...range);
      },
      changeConnections: (operations) => datapath.changeConnections(operations),
    },
    pino({ base: null, level: 'warn' }, { write: (line) => lines.push(line) }),
  );
  t.teardown(() => members.close());
  members.memberDown({ protocol: IpProtocol.UDP, words: [10], port: 53 });
  await until('the connection has moved', async () => (await datapath.connections()).length < 3);
  const clients = (await datapath.connections()).map(({ original }) => original.src[0]);
  t.deepEqual(clients.sort(), [21, 22], 'other members keep theirs, and so does who did not ask the VIP');
  t.is(lines.length, 1);
  t.true(lines[0].includes('no memory'));
});
