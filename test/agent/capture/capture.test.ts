import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { ExecutionContext } from 'ava';
import { pino } from 'pino';
import { startAgentControl } from '../../../src/agent/control/agent-control.js';
import type { ControlServer } from '../../../src/agent/control/control-server.js';
import { CAPTURE_LIMIT } from '../../../src/agent/facts/capture-cells.js';
import { AgentLink, AgentUnavailableError } from '../../../src/api/explain/agent-link.js';
import { CAPTURES_PATH } from '../../../src/nsdb/layout.js';
import { formatIpv4, formatMac, MAC_BROADCAST } from '../../../src/packet/address.js';
import { type CapturedPacket, type CaptureItem, PcapngReader } from '../../../src/packet/pcap.js';
import type { Cluster, Pod, TestHost } from '../cluster.js';
import { clusterTest } from '../cluster-test.js';
import { until } from '../until.js';

const GATEWAY_MAC = 0x0a00_0000_0001;

/** What comes of a stream, and how to end it. */
class Client {
  readonly items: CaptureItem[] = [];
  ended = false;

  constructor(private readonly stream: IncomingMessage) {
    const reader = new PcapngReader();
    stream.on('data', (piece: Buffer) => this.items.push(...reader.read(piece)));
    stream.once('end', () => {
      this.ended = true;
    });
    // It is cut short when the agent goes.
    stream.once('error', () => {});
  }

  /** The directions in which packets with this text came. */
  directions(text: string): (string | undefined)[] {
    const packets = this.items.filter((item): item is CapturedPacket => 'bytes' in item);
    return packets.filter(({ bytes }) => Buffer.from(bytes).includes(text)).map(({ direction }) => direction);
  }

  get count(): number {
    return this.items.filter((item) => 'bytes' in item).length;
  }

  close(): void {
    this.stream.destroy();
  }
}

async function control(t: ExecutionContext, c: Cluster, host: TestHost): Promise<[AgentLink, ControlServer]> {
  const server = startAgentControl({
    agent: host.agent,
    host: '127.0.0.1',
    port: 0,
    log: pino({ level: 'silent' }),
  });
  t.teardown(() => server.close());
  const link = new AgentLink(c.repository.store);
  await until('the agent can be asked', () =>
    link.agentOf(host.id).then(
      () => true,
      (error: Error) => {
        if (error instanceof AgentUnavailableError) return false;
        throw error;
      },
    ),
  );
  return [link, server];
}

/** How many captures the NSDB knows of, in each direction one. */
async function stored(c: Cluster): Promise<number> {
  return (await c.repository.store.children(CAPTURES_PATH))?.length ?? 0;
}

/** Nothing of captures is left anywhere. */
async function isClean(c: Cluster): Promise<boolean> {
  const isCopied = c.hosts.some((host) =>
    host.flows().some(({ actions }) => JSON.stringify(actions).includes('userspace')),
  );
  const hasKeys = c.hosts.some(({ agent }) =>
    [...agent.tunnelTargets.owners()].some((owner) => owner.startsWith('capture')),
  );
  return !isCopied && !hasKeys && (await stored(c)) === 0;
}

/** Two networks behind a router, and the ports of the router there. */
async function routed(c: Cluster): Promise<{ pods: Pod[]; ports: string[] }> {
  const routerId = (await c.repository.create('router', { id: randomUUID(), name: 'edge' })).id;
  const pods: Pod[] = [];
  const ports: string[] = [];
  for (const host of c.hosts.slice(0, 2)) {
    const bridgeId = await c.createBridge();
    const pod = c.pod(bridgeId);
    const port = { id: randomUUID(), routerId, mac: formatMac(GATEWAY_MAC), subnets: [`10.1.1.${pods.length}/32`] };
    await c.repository.create('port', port);
    await c.repository.create('port', { id: randomUUID(), bridgeId, peerId: port.id });
    const destination = `${formatIpv4(pod.ip)}/32`;
    const route = { id: randomUUID(), routerId, type: 'normal', destination, nextHopPortId: port.id } as const;
    await c.repository.create('route', route);
    await host.attach(pod);
    pods.push(pod);
    ports.push(port.id);
  }
  await c.published();
  return { pods, ports };
}

clusterTest(
  'what crosses a port of a router is captured on a third host, in both directions, for as long as somebody looks',
  { hosts: 3 },
  async (t, c) => {
    const { pods, ports } = await routed(c);
    const [a, b] = pods;
    const [link] = await control(t, c, c.hosts[2]);
    const client = new Client(await link.open(c.hosts[2].id, `/capture?port=${ports[0]}`));
    t.is(await stored(c), 2);
    const via = (to: Pod) => ({ mac: GATEWAY_MAC, ip: to.ip });
    const isCaptured = (from: Pod, to: Pod, direction: string) =>
      until(`a packet is captured that goes ${direction}`, async () => {
        const text = c.sendTo(from, via(to));
        await c.quiet();
        const directions = client.directions(text);
        // Once each, and it goes where it would.
        if (directions.length > 0) {
          t.deepEqual(directions, [direction]);
          t.is(to.count(text), 1);
        }
        return directions.length > 0;
      });
    await isCaptured(a, b, 'in');
    await isCaptured(b, a, 'out');
    client.close();
    await until('nothing is left', () => isClean(c));
    const text = c.sendTo(a, via(b));
    await until('packets go on', () => b.count(text) === 1);
  },
);

clusterTest('direction, filter and count say what is captured', { hosts: 1 }, async (t, c) => {
  const bridgeId = await c.createBridge();
  const [a, b] = await c.populate(bridgeId, 2);
  await c.connects(a, b);
  const [host] = c.hosts;
  const [link] = await control(t, c, host);
  const filter = encodeURIComponent(`udp ${formatIpv4(a.ip)} > ${formatIpv4(b.ip)}:53`);
  const open = async (query: string) => new Client(await link.open(host.id, `/capture?port=${b.id}&${query}`));
  const clients = [await open(`filter=${filter}`), await open('direction=in'), await open('count=3')];
  await until('all see their packets', async () => {
    const other = c.sendTo(a, b, 1000, 80);
    const asked = c.sendTo(a, b, 1000, 53);
    const answered = c.sendTo(b, a, 53, 1000);
    await c.quiet();
    const [filtered, inbound] = clients.map((client) =>
      [other, asked, answered].map((text) => client.directions(text).join()),
    );
    if (filtered.join('') === '' || inbound.join('') === '' || !clients[2].ended) return false;
    t.deepEqual(filtered, ['', 'out', 'in']);
    t.deepEqual(inbound, ['', '', 'in']);
    return true;
  });
  t.is(clients[2].count, 3);
  t.true(clients[2].items.some((item) => 'leftOut' in item));
  for (const query of ['count=0', 'direction=up', 'filter=tcp', 'format=text', 'speed=1']) {
    const error = await t.throwsAsync(open(query));
    t.like(error, { code: 'MN_INVALID_INPUT' });
  }
  await t.throwsAsync(link.open(host.id, `/capture?port=${randomUUID()}`), { code: 'MN_NOT_FOUND' });
  for (const client of clients) client.close();
  await until('nothing is left', () => isClean(c));
});

clusterTest(
  'packets that are too many are left out and counted, and go where they would',
  { hosts: 1 },
  async (t, c) => {
    const bridgeId = await c.createBridge();
    const [a, b] = await c.populate(bridgeId, 2);
    await c.connects(a, b);
    const [host] = c.hosts;
    const [link] = await control(t, c, host);
    const client = new Client(await link.open(host.id, `/capture?port=${a.id}&direction=in&count=500`));
    await until('a packet is captured', async () => {
      c.sendTo(a, b);
      await c.quiet();
      return client.count > 0;
    });
    const before = b.device!.received().length;
    // Time stands still, so the meter gets no more tokens than it has.
    const sent = CAPTURE_LIMIT.burst + 500;
    for (let i = 0; i < sent; i++) c.sendTo(a, b);
    await until('the capture has ended', () => client.ended);
    t.is(b.device!.received().length - before, sent);
    t.is(client.count, 500);
    const leftOut = client.items.findLast((item) => 'leftOut' in item) as { leftOut: number };
    t.true(leftOut.leftOut >= 500, String(leftOut.leftOut));
  },
);

clusterTest('flooded packets are captured where they leave', { hosts: 2 }, async (t, c) => {
  const bridgeId = await c.createBridge();
  const [a, b] = await c.populate(bridgeId, 1);
  await c.connects(a, b);
  const [link] = await control(t, c, c.hosts[0]);
  const client = new Client(await link.open(c.hosts[0].id, `/capture?port=${b.id}`));
  await until('a flooded packet is captured', async () => {
    const text = c.sendTo(a, { mac: MAC_BROADCAST, ip: 0xffff_ffff });
    await c.quiet();
    t.is(b.count(text), 1);
    return client.directions(text).join() === 'out';
  });
  client.close();
  await until('nothing is left', () => isClean(c));
});

clusterTest('nothing is left of a capture that can be begun in one direction only', { hosts: 1 }, async (t, c) => {
  const bridgeId = await c.createBridge();
  const [a, b] = await c.populate(bridgeId, 2);
  const { captures, tunnelTargets } = c.hosts[0].agent;
  const take = tunnelTargets.takeKey.bind(tunnelTargets);
  tunnelTargets.takeKey = (owner) => {
    if (owner.endsWith(',out')) throw new Error('no space left on device');
    return take(owner);
  };
  const request = { portId: a.id, directions: ['in', 'out'], conditions: [{}] } as const;
  const opened = captures.open(request, () => {}, new AbortController().signal);
  await t.throwsAsync(opened, { message: /no space left/ });
  t.is(captures.size, 0);
  await until('nothing is left', () => isClean(c));
  await c.connects(a, b);
});

clusterTest('a capture ends with the agent that it goes to', { hosts: 2 }, async (t, c) => {
  const bridgeId = await c.createBridge();
  const [a, b] = await c.populate(bridgeId, 1);
  await c.connects(a, b);
  const [first, second] = c.hosts;
  const [link] = await control(t, c, second);
  const client = new Client(await link.open(second.id, `/capture?port=${a.id}`));
  await until('a packet is captured', async () => {
    const text = c.sendTo(a, b);
    await c.quiet();
    return client.directions(text).length > 0;
  });
  await second.crash();
  await second.start();
  await until('nothing is left', () => isClean(c), 15_000);
  t.true(first.isRunning);
  await c.connects(a, b);
  client.close();
});
