import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hostAlivePath, tunnelZoneMemberPath } from '../../src/nsdb/layout.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { MAC_BROADCAST } from '../../src/packet/address.js';
import { buildArpReply, buildArpRequest } from '../../src/packet/arp.js';
import { buildNeighborAdvertisement, buildNeighborSolicitation } from '../../src/packet/nd.js';
import { idFromName } from '../../src/topology/id.js';
import { allPaths } from '../nsdb/embedded-nsdb.js';
import type { Cluster, Pod, TestHost } from './cluster.js';
import { clusterTest } from './cluster-test.js';
import { until } from './until.js';

/** Flows as text, so that two times can be compared. */
function flowsOf(host: TestHost): string[] {
  return host
    .flows()
    .map(({ id, key, mask, actions }) => JSON.stringify([id, [...key.words], [...mask.words], actions]))
    .sort();
}

function upcalls(c: Cluster): number {
  return c.hosts.reduce((sum, host) => sum + host.switch.statistics.missed, 0);
}

for (const zone of ['vxlan', 'gre'] as const) {
  clusterTest(
    `over ${zone}: every pod reaches every other, by one packet to the right host`,
    { hosts: 3, zones: [zone] },
    async (t, c) => {
      const pods = await c.populate(await c.createBridge(), 2);
      await c.eachPair(pods, async (from, to) => {
        c.underlayFrames = [];
        await c.ping(from, to);
        t.is(c.underlayFrames.length, from.host === to.host ? 0 : 1);
      });
      for (const host of c.hosts) {
        t.is(host.agent.metrics.operationErrors, 0);
        // Those that come out of a tunnel are let in by flows that were there before.
        t.is(host.agent.metrics.upcalls, 2 * 5);
      }
      const before = upcalls(c);
      await c.eachPair(pods, (from, to) => c.ping(from, to));
      t.is(upcalls(c), before);
    },
  );
}

clusterTest(
  'ARP and neighbour solicitations for known addresses are answered where they are asked',
  { hosts: 2 },
  async (t, c) => {
    const [a, , , b] = await c.populate(await c.createBridge(), 2);
    c.underlayFrames = [];
    a.send(buildArpRequest(a.mac, a.ip, b.ip));
    await until('the ARP answer is there', () => a.device!.received().length === 1);
    t.deepEqual(a.device!.received()[0], buildArpReply(b.mac, b.ip, a.mac, a.ip));
    a.device!.clear();
    a.send(buildNeighborSolicitation({ src: a.ip6, srcMac: a.mac, target: b.ip6 }));
    await until('the advertisement is there', () => a.device!.received().length === 1);
    t.deepEqual(
      a.device!.received()[0],
      buildNeighborAdvertisement({ target: b.ip6, targetMac: b.mac, dst: a.ip6, dstMac: a.mac }),
    );
    await c.quiet();
    t.is(c.underlayFrames.length, 0);
    t.is(b.device!.received().length, 0);
    t.is(a.host!.agent.metrics.answers, 2);
  },
);

clusterTest(
  'a packet that cannot be simulated is dropped, counted and logged; others pass',
  { hosts: 1 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [x, y, z] = await c.populate(bridge, 3);
    const [host] = c.hosts;
    const entry = host.agent.cache.bridge(bridge).mac(y.mac);
    const broken = () => {
      throw new Error('this fact is broken');
    };
    Object.defineProperty(entry, 'value', { get: broken, configurable: true });
    const lost = c.sendTo(x, y);
    await until('it is counted', () => host.agent.metrics.drops.get('simulation-failed') === 1);
    c.sendTo(x, y);
    await c.ping(x, z);
    await c.ping(z, x);
    await until('the next one is counted', () => (host.agent.metrics.drops.get('simulation-failed') ?? 0) >= 2);
    t.is(y.count(lost), 0);
    t.is(host.warnings.length, 1);
    t.regex(host.warnings[0], /this fact is broken/);
    Reflect.deleteProperty(entry, 'value');
    await c.ping(x, y);
  },
);

clusterTest(
  'a flood goes once to each host that has ports of the bridge, and there to each port',
  { hosts: 4 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const pods: Pod[] = [];
    for (const host of c.hosts.slice(0, 3)) {
      for (let i = 0; i < 2; i++) {
        const pod = c.pod(bridge);
        await host.attach(pod);
        pods.push(pod);
      }
    }
    await c.hosts[3].attach(c.pod(await c.createBridge()));
    await c.published();
    for (const mac of [0x0200_0000_ffff, MAC_BROADCAST]) {
      c.underlayFrames = [];
      const text = c.sendTo(pods[0], { mac, ip: 1 });
      await until('all have it', () => pods.slice(1).every((pod) => pod.count(text) === 1));
      await c.quiet();
      t.deepEqual(c.underlayFrames.map(({ to }) => to).sort(), [c.hosts[1].address, c.hosts[2].address]);
      t.deepEqual(
        pods.map((pod) => pod.count(text)),
        [0, 1, 1, 1, 1, 1],
      );
    }
  },
);

clusterTest(
  'MACs that the topology does not know are learned, move with their owner and are forgotten',
  { hosts: 3 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [x, y, z] = c.hosts.map(() => c.pod(bridge, false));
    for (const [i, pod] of [x, y, z].entries()) await c.hosts[i].attach(pod);
    await c.published();
    const first = c.sendTo(x, y);
    await until('it is flooded', () => y.count(first) === 1 && z.count(first) === 1);
    await c.ping(y, x);
    t.is(z.count(''), 1);
    // Now the MAC of y is known, too: the flow of x is revisited.
    z.device!.clear();
    await until('x knows where y is', async () => {
      c.underlayFrames = [];
      await c.ping(x, y);
      return c.underlayFrames.length === 1;
    });
    // A machine behind y that takes over the address of x.
    const impostor = { mac: x.mac, ip: x.ip };
    y.send(Uint8Array.from(buildArpRequest(impostor.mac, impostor.ip, 7)));
    await until('z sends to y what was for x', async () => {
      const text = c.sendTo(z, impostor);
      await c.quiet();
      return y.count(text) === 1 && x.count(text) === 0;
    });
    const held = () => allPaths(c.repository.store, `/bridges/${bridge}/macs`);
    const macs = async () => (await held()).filter((path) => path.includes(':'));
    t.is((await macs()).length, 3);
    for (let i = 0; i < 3; i++) await c.advance(61_000);
    await until('all are forgotten', async () => (await macs()).length === 0);
  },
);

clusterTest('a port moves to another host', { hosts: 3 }, async (t, c) => {
  const pods = await c.populate(await c.createBridge(), 1);
  await c.eachPair(pods, (from, to) => c.ping(from, to));
  const [x, y, z] = pods;
  await c.hosts[0].detach(x);
  await c.hosts[2].attach(x);
  for (const other of [y, z]) {
    await c.connects(other, x);
    await c.connects(x, other);
  }
  c.underlayFrames = [];
  await c.ping(y, x);
  t.deepEqual(
    c.underlayFrames.map(({ to }) => to),
    [c.hosts[2].address],
  );
  await until('the old host is off the bridge', async () => {
    const hosts = await c.repository.store.children(`/bridges/${x.bridgeId}/hosts`);
    return hosts?.length === 2 && !hosts.includes(c.hosts[0].id);
  });
});

clusterTest(
  'a port bound in the NSDB works like one attached here, before and after its interface comes',
  { hosts: 2 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [x, y] = c.hosts;
    const early = c.pod(bridge);
    const late = c.pod(bridge);
    x.plug(early);
    for (const [host, pod] of [
      [x, early],
      [y, late],
    ] as const) {
      await c.repository.create('port', {
        ...pod.port,
        binding: { hostId: host.id, interfaceName: pod.interfaceName },
      });
    }
    await until('the first is attached', () => x.agent.bindings.isActive(early.id));
    t.false(y.agent.bindings.isActive(late.id));
    y.plug(late);
    y.agent.interfaceChanged(late.interfaceName);
    await until('the second is attached', () => y.agent.bindings.isActive(late.id));
    await c.connects(early, late);
    await c.connects(late, early);

    // Down: neither in nor out, nor by flood. Up again: all back.
    const floods = async () => {
      const text = c.sendTo(early, { mac: MAC_BROADCAST, ip: 1 });
      await c.quiet();
      return late.count(text);
    };
    t.is(await floods(), 1);
    await c.repository.modify('port', late.id, (port) => ({ ...port, adminStateUp: false }));
    await until('the port is down', async () => {
      const texts = [c.sendTo(early, late), c.sendTo(late, early)];
      await c.quiet();
      return late.count(texts[0]) === 0 && early.count(texts[1]) === 0 && (await floods()) === 0;
    });
    await c.repository.modify('port', late.id, (port) => ({ ...port, adminStateUp: true }));
    await until('the port is up', async () => (await floods()) === 1);
    await c.connects(early, late);
    await c.connects(late, early);

    // Another interface, then none, then the port is gone.
    y.node.addInterface('other0');
    await c.repository.modify('port', late.id, (port) => ({
      ...port,
      binding: { ...port.binding!, interfaceName: 'other0' },
    }));
    await until('the other interface is attached', () => y.node.interface('other0')!.attached !== undefined);
    t.is(late.device!.attached, undefined);
    const text = 'to the other interface';
    await until('packets come out of it', async () => {
      early.send(Buffer.concat([buildArpReply(early.mac, early.ip, late.mac, late.ip), Buffer.from(text)]));
      await c.quiet();
      return y.node
        .interface('other0')!
        .received()
        .some((frame) => Buffer.from(frame).includes(text));
    });
    await c.repository.delete('port', late.id);
    await until('it is detached', () => y.node.interface('other0')!.attached === undefined);
    await until('its key is given back', async () => (await readdir(join(y.folder, 'tunnel-keys'))).length === 0);
    const lost = c.sendTo(early, late);
    await c.quiet();
    t.is(late.count(lost), 0);
  },
);

clusterTest(
  'of two ports that are bound to one interface the first keeps it, and the second has it then',
  { hosts: 1 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [one, two, three] = [c.pod(bridge), c.pod(bridge), c.pod(bridge)];
    const [host] = c.hosts;
    host.node.addInterface('eth1');
    const binding = { hostId: host.id, interfaceName: 'eth1' };
    await c.repository.create('port', { ...one.port, binding });
    await until('it is attached', () => host.agent.bindings.isActive(one.id));
    await c.repository.create('port', { ...two.port, binding });
    await until('that is reported', () => host.warnings.some((line) => line.includes('two ports are bound')));
    await t.throwsAsync(host.agent.bindings.attach(three.port, 'eth1'), { message: /eth1 is bound to port/ });
    t.true(host.agent.bindings.isActive(one.id));
    await c.repository.delete('port', one.id);
    await until('the second has it', () => host.agent.bindings.isActive(two.id));
    t.truthy(host.node.interface('eth1')!.attached);
  },
);

clusterTest(
  'admin state of a bridge, also when it was changed while nobody used the bridge',
  { hosts: 2 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [x, y] = await c.populate(bridge, 1);
    await c.ping(x, y);
    const setState = (adminStateUp: boolean) =>
      c.repository.modify('bridge', bridge, (old) => ({ ...old, adminStateUp }));
    const passes = async () => {
      const text = c.sendTo(x, y);
      await c.quiet();
      return y.count(text) === 1;
    };
    await setState(false);
    await until('nothing passes', async () => !(await passes()));
    await setState(true);
    await until('it passes', passes);
    for (let i = 0; i < 4; i++) await c.advance(61_000);
    t.is(x.host!.agent.metrics.expired > 0, true);
    await setState(false);
    await until('nothing passes', async () => !(await passes()));
    await until('that is counted', () => (x.host!.agent.metrics.drops.get('bridge-down') ?? 0) > 0);
  },
);

clusterTest('a change of the zone type changes flows in place', { hosts: 2, zones: ['vxlan'] }, async (t, c) => {
  const pods = await c.populate(await c.createBridge(), 1);
  await c.eachPair(pods, (from, to) => c.ping(from, to));
  const ids = c.hosts.map((host) => host.flows().map(({ id }) => id));
  await c.repository.modify('tunnel-zone', idFromName('tunnel-zone', 'zone-0'), (zone) => ({ ...zone, type: 'gre' }));
  for (const host of c.hosts) {
    await until('the flow goes to the other device', () => {
      const port = host.node.interface('mn-gre')?.attached?.port;
      return host.flows().some(({ actions }) => actions.some((one) => one.type === 'output' && one.port === port));
    });
  }
  const before = upcalls(c);
  await c.eachPair(pods, (from, to) => c.ping(from, to));
  t.is(upcalls(c), before);
  for (const [i, host] of c.hosts.entries()) {
    const now = host.flows().map(({ id }) => id);
    t.true(ids[i].every((id) => now.includes(id)));
  }
});

clusterTest('a host that leaves the zone is not sent to, and is again when it is back', { hosts: 2 }, async (t, c) => {
  const [x, y] = await c.populate(await c.createBridge(), 1);
  await c.ping(x, y);
  const zoneId = idFromName('tunnel-zone', 'zone-0');
  const host = c.hosts[1];
  await c.repository.leaveTunnelZone(zoneId, host.id);
  t.is(await c.repository.store.get(tunnelZoneMemberPath(zoneId, host.id)), undefined);
  await until('nothing is sent', async () => {
    c.underlayFrames = [];
    c.sendTo(x, y);
    await c.quiet();
    return c.underlayFrames.length === 0;
  });
  await c.repository.joinTunnelZone(zoneId, host.id, '192.168.100.2');
  await c.connects(x, y);
  await c.connects(y, x);
});

for (const death of ['stop', 'crash'] as const) {
  clusterTest(
    `after a ${death} of its agent a host forwards on; the next one adopts the flows as they are`,
    { hosts: 2 },
    async (t, c) => {
      const bridge = await c.createBridge();
      const pods = await c.populate(bridge, 2);
      const bound = c.pod(bridge);
      c.hosts[0].plug(bound);
      const binding = { hostId: c.hosts[0].id, interfaceName: bound.interfaceName };
      await c.repository.create('port', { ...bound.port, binding });
      await until('the bound port is up', () => c.hosts[0].agent.bindings.isActive(bound.id));
      await c.published();
      pods.push(bound);
      await c.eachPair(pods, (from, to) => c.connects(from, to));
      await c.quiet();
      const [host] = c.hosts;
      const before = flowsOf(host);
      const missed = upcalls(c);
      await host[death]();
      host.deviceDelay = 100;
      await c.eachPair(pods, (from, to) => c.ping(from, to));
      // What happens while it is away: one flow is wrong, another lost.
      const [x] = pods;
      const wrong = host.flows().find(({ actions, key }) => actions.length === 1 && key.tunId === 0)!;
      host.switch.operate({ type: 'put', ...wrong, id: wrong.id!, actions: [] });
      const watching: string[] = [];
      await host.start();
      const end = performance.now() + 400;
      while (performance.now() < end) {
        // At no moment is a flow that was right another.
        watching.push(...flowsOf(host).filter((flow) => !before.includes(flow)));
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      await until('all is as before', () => flowsOf(host).join() === before.join()).catch((error) => {
        const now = flowsOf(host);
        t.log(
          'gone',
          before.filter((flow) => !now.includes(flow)),
        );
        t.log(
          'new',
          now.filter((flow) => !before.includes(flow)),
        );
        throw error;
      });
      t.true(new Set(watching).size <= 1, watching.join('\n'));
      await c.published();
      await c.eachPair(pods, (from, to) => c.ping(from, to));
      t.is(upcalls(c), missed);
      t.is(host.agent.metrics.operationErrors, 0);
      // New things work.
      const next = c.pod(bridge);
      await host.attach(next);
      await c.connects(next, x);
      await c.connects(pods[3], next);
    },
  );
}

clusterTest('ports that went while the agent was away leave nothing', { hosts: 2 }, async (t, c) => {
  const bridge = await c.createBridge();
  const base = (await allPaths(c.repository.store)).filter((path) => !/\/\w\w$/.test(path));
  const pods = await c.populate(bridge, 2);
  await c.eachPair(pods, (from, to) => c.ping(from, to));
  const [host] = c.hosts;
  await host.crash();
  for (const pod of pods.slice(0, 2)) {
    host.unplug(pod);
    host.journal.delete(pod.id);
  }
  await host.start();
  for (const pod of pods.slice(2)) await c.hosts[1].detach(pod);
  await until('the NSDB is as before', async () => {
    const now = (await allPaths(c.repository.store)).filter((path) => !/\/\w\w$/.test(path));
    return now.join() === base.join();
  }).catch(async (error) => {
    t.log((await allPaths(c.repository.store)).filter((path) => !base.includes(path)));
    throw error;
  });
  for (const one of c.hosts) {
    await until('keys are given back', async () => (await readdir(join(one.folder, 'tunnel-keys'))).length === 0);
    t.is(one.agent.bindings.activePorts, 0);
  }
});

clusterTest(
  'without the NSDB traffic goes on and local pods come and go; when it is back it is told',
  { hosts: 2 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const pods = await c.populate(bridge, 1);
    await c.eachPair(pods, (from, to) => c.ping(from, to));
    await c.nsdb.stop();
    await until('all have noticed', () => c.hosts.every((host) => host.store.state !== 'connected'));
    await c.eachPair(pods, (from, to) => c.ping(from, to));
    const [host] = c.hosts;
    const one = c.pod(bridge);
    const two = c.pod(bridge);
    const brief = c.pod(bridge);
    for (const pod of [one, two, brief]) await host.attach(pod);
    await c.eachPair([one, two, pods[0]], (from, to) => c.ping(from, to));
    one.send(buildArpRequest(one.mac, one.ip, two.ip));
    await until('ARP is answered', () => one.device!.received().length === 1);
    await host.detach(brief);
    t.true(host.agent.publisher.backlog > 0);
    await c.nsdb.resume();
    await until('it is told', () => host.agent.publisher.backlog === 0, 10_000);
    t.is(await c.repository.get('port', brief.id), undefined);
    for (const pod of [one, two]) {
      await c.connects(pods[1], pod);
      await c.connects(pod, pods[1]);
    }
  },
);

clusterTest(
  'an agent that starts without the NSDB keeps the flows, and serves its own pods',
  { hosts: 2 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const pods = await c.populate(bridge, 2);
    await c.eachPair(pods, (from, to) => c.ping(from, to));
    const [host] = c.hosts;
    const before = flowsOf(host);
    await host.crash();
    await c.nsdb.stop();
    await host.start();
    await c.quiet();
    await c.eachPair(pods, (from, to) => c.ping(from, to));
    t.deepEqual(flowsOf(host), before);
    const next = c.pod(bridge);
    await host.attach(next);
    await c.ping(next, pods[0]);
    await c.ping(pods[0], next);
    await c.nsdb.resume();
    await until('it is told', () => host.agent.publisher.backlog === 0, 10_000);
    await c.connects(pods[3], next);
    await c.connects(next, pods[3]);
  },
);

clusterTest('1,000 connections need no flow and no mask beyond those of the first', { hosts: 2 }, async (t, c) => {
  const [x, y] = await c.populate(await c.createBridge(), 1);
  await c.ping(x, y);
  await c.ping(y, x);
  const sizes = () =>
    c.hosts.map((host) => [host.flows().length, host.switch.maskCount, host.agent.forwarder.flows.size]);
  const before = sizes();
  const missed = upcalls(c);
  for (let port = 1; port <= 1000; port++) {
    c.sendTo(x, y, port);
    c.sendTo(y, x, port);
  }
  await until('all have come', () => x.device!.received().length === 1000 && y.device!.received().length === 1000);
  t.deepEqual(sizes(), before);
  t.is(upcalls(c), missed);
});

clusterTest(
  'when the table is full the flow that was not used for longest goes',
  { hosts: 1, flows: { maxFlows: 20 } },
  async (t, c) => {
    const pods = await c.populate(await c.createBridge(), 5);
    await c.eachPair(pods, (from, to) => c.ping(from, to));
    const [host] = c.hosts;
    t.is(host.agent.forwarder.flows.size, 20);
    await until('the datapath agrees', () => host.flows().length === 20);
    t.true(host.agent.metrics.evictions >= 12);
    await c.eachPair(pods, (from, to) => c.ping(from, to));
  },
);

clusterTest(
  'flows that nothing uses expire, those in use and the ways in from tunnels stay',
  { hosts: 2 },
  async (t, c) => {
    const [x, y] = await c.populate(await c.createBridge(), 1);
    await c.ping(x, y);
    await c.ping(y, x);
    for (let i = 0; i < 6; i++) {
      await c.advance(20_000);
      await c.ping(x, y);
    }
    const unpinned = (host: TestHost) => host.flows().filter(({ key }) => key.tunId === 0).length;
    t.is(unpinned(x.host!), 1);
    t.is(unpinned(y.host!), 0);
    for (let i = 0; i < 4; i++) await c.advance(61_000);
    t.is(unpinned(x.host!), 0);
    for (const host of c.hosts) {
      // A port and a bridge; for each, packets that are not tracked, IPv4 and IPv6.
      t.is(host.flows().length, 6);
      // The bridge, the ports that it is linked by, and its subnets of either kind.
      t.true(host.agent.cache.size <= 4);
    }
    const missed = y.host!.switch.statistics.missed;
    await c.ping(x, y);
    t.is(y.host!.switch.statistics.missed, missed);
  },
);

clusterTest(
  'packets that wait for facts are bounded in number and in time, and all go when the facts come',
  { hosts: 2 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [x, y] = await c.populate(bridge, 1);
    const host = x.host!;
    await host.agent.close();
    await host.stop();
    host.gate.shut();
    await host.start();
    for (let i = 0; i < 20; i++) c.sendTo(x, y);
    await until('they wait', () => host.agent.forwarder.waitingPackets === 16);
    t.is(host.agent.metrics.drops.get('waiting-room-full'), 4);
    host.gate.reopen();
    await until('they arrive, in spite of it all', () => y.device!.received().length === 16);
    t.is(host.agent.forwarder.waitingPackets, 0);
    // Those of the tunnel keys were adopted.
    t.is(host.agent.metrics.installed, 1);

    host.gate.shut();
    await until('it has noticed', () => host.store.state !== 'connected');
    // What it reads by itself, each second, is not for packets.
    host.agent.healthChecks.tick();
    const watched = host.agent.cache.size;
    for (let i = 0; i < 1100; i++) c.sendTo(x, { mac: 0x0200_0100_0000 + i, ip: i });
    await until('the rest is dropped', () => host.agent.metrics.drops.get('waiting-room-full')! > 500);
    await c.quiet();
    t.is(host.agent.forwarder.waitingPackets, 64, 'a port has a share of the room');
    // Health checks may begin meanwhile, and read what is linked to the bridge.
    t.true(host.agent.cache.size <= watched + 65, 'and asks for no more than that');
    t.true(host.agent.cache.bridge(bridge).macCount < 70, 'nor keeps more');
    await c.advance(5001);
    t.is(host.agent.forwarder.waitingPackets, 0);
    t.is(host.agent.metrics.drops.get('waited-too-long'), 64);
  },
);

clusterTest('packets of one kind that come at once make one flow', { hosts: 1 }, async (t, c) => {
  const [x, y] = await c.populate(await c.createBridge(), 2);
  const { metrics } = c.hosts[0].agent;
  const installed = metrics.installed;
  for (let i = 0; i < 50; i++) c.sendTo(x, y, 1000 + i);
  await until('all arrive', () => y.device!.received().length === 50);
  t.is(metrics.installed, installed + 1);
  t.is(metrics.duplicates, metrics.upcalls - 1);
  t.is(metrics.operationErrors, 0);
});

clusterTest('flows of others and flows that went behind its back are dealt with', { hosts: 1 }, async (t, c) => {
  const [x, y] = await c.populate(await c.createBridge(), 2);
  await c.ping(x, y);
  const [host] = c.hosts;
  const [own] = host.flows().filter(({ key }) => key.tunId === 0);
  host.switch.operate({ type: 'delete', id: own.id! });
  host.switch.operate({ type: 'put', ...own, id: 424_242, actions: [] });
  const lost = c.sendTo(x, y);
  await c.quiet();
  t.is(y.count(lost), 0);
  // Its own flow is gone, so it expires; the next packet of that kind finds the stranger in its way.
  await c.advance(61_000);
  host.switch.operate({ type: 'delete', id: 424_242 });
  await c.ping(x, y);
});

clusterTest(
  'a port number that is used again leads to nobody it led to before, NSDB or not',
  { hosts: 1 },
  async (t, c) => {
    const [blue, red] = [await c.createBridge(), await c.createBridge()];
    const [host] = c.hosts;
    const [a, b, stranger] = [c.pod(blue), c.pod(blue), c.pod(red)];
    await host.attach(a);
    await host.attach(b);
    await c.published();
    await c.ping(b, a);
    await c.ping(a, b);
    host.gate.shut();
    await until('it has noticed', () => host.store.state !== 'connected');
    await host.detach(a);
    await host.attach(stranger);
    const toGone = c.sendTo(b, a);
    const asGone = c.sendTo(Object.assign(Object.create(stranger), { mac: a.mac, ip: a.ip }), b);
    await c.quiet();
    await c.advance(1000);
    t.is(stranger.count(toGone), 0);
    t.is(b.count(asGone), 0);
    host.gate.reopen();
  },
);

clusterTest('nor does a flood of before a restart', { hosts: 1 }, async (t, c) => {
  const [blue, red] = [await c.createBridge(), await c.createBridge()];
  const [host] = c.hosts;
  const [a, b, stranger] = [c.pod(blue), c.pod(blue), c.pod(red)];
  await host.attach(a);
  await host.attach(b);
  await c.published();
  const nobody = { mac: 0x0200_00ff_0001, ip: 0x0aff_0001 };
  c.sendTo(b, nobody);
  await until('there is a flow for it', () => host.flows().some(({ key }) => key.ethDst === nobody.mac));
  await host.crash();
  host.gate.shut();
  await host.start();
  await host.detach(a);
  await host.attach(stranger);
  const flooded = c.sendTo(b, nobody);
  await c.quiet();
  await c.advance(1000);
  t.is(stranger.count(flooded), 0);
  host.gate.reopen();
});

clusterTest('flows that somebody flushed come back, those of tunnel keys too', { hosts: 2 }, async (t, c) => {
  const [x, y] = await c.populate(await c.createBridge(), 1);
  await c.ping(x, y);
  const host = y.host!;
  for (const flow of host.flows()) host.switch.operate({ type: 'delete', id: flow.id! });
  await c.advance(2000);
  const before = host.agent.metrics.upcalls;
  for (let i = 0; i < 5; i++) {
    const text = c.sendTo(x, y);
    await until('it arrives', () => y.count(text) === 1);
    await c.quiet();
  }
  t.is(host.agent.metrics.upcalls, before + 1);
});

clusterTest('a flow whose replacement is refused does not go on as it was', { hosts: 1 }, async (t, c) => {
  const [host] = c.hosts;
  const [x, y] = await c.populate(await c.createBridge(), 2);
  await c.ping(x, y);
  host.refusePuts = true;
  await host.agent.bindings.attach({ ...y.port, adminStateUp: false }, y.interfaceName);
  await until('it was refused', () => host.agent.metrics.operationErrors > 0);
  host.refusePuts = false;
  await c.quiet();
  const text = c.sendTo(x, y);
  await c.quiet();
  t.is(y.count(text), 0);
  t.true(host.flows().every((flow) => host.agent.forwarder.flows.get(flow.id!) !== undefined));
});

clusterTest(
  'two machines with one identity: the first keeps it, the second leaves the NSDB alone',
  { hosts: 2 },
  async (t, c) => {
    const bridgeId = await c.createBridge();
    const pods = await c.populate(bridgeId, 2);
    const [host] = c.hosts;
    const before = await allPaths(c.repository.store);
    const copy = await c.addHost({}, host.id);
    await copy.start();
    await until('the copy knows', async () =>
      /in use by another machine: host-1/.test((await copy.agent.fault()) ?? ''),
    );
    t.is(await host.agent.fault(), undefined);
    const pod = c.pod(bridgeId);
    await copy.attach(pod);
    await until('the copy has read the list of ports', () => copy.agent.bindings.isComplete);
    await new Promise((resolve) => setTimeout(resolve, 300));
    t.deepEqual(await allPaths(c.repository.store), before);
    t.is(copy.warnings.filter((line) => line.includes('has the identity of this host')).length, 1);
    t.is(host.warnings.filter((line) => line.includes('has the identity of this host')).length, 0);
    const zone = await c.repository.store.get(tunnelZoneMemberPath(idFromName('tunnel-zone', 'zone-0'), host.id));
    t.true(Buffer.from(zone!.data).includes(host.zones[0].address), 'its address in the zone is its own');
    await c.eachPair(pods, (from, to) => c.ping(from, to));

    await host.stop();
    await until('the copy is the host', async () => (await copy.agent.fault()) === undefined);
    await until('it has told of its pod', async () => (await c.repository.get('port', pod.id)) !== undefined);
  },
);

clusterTest('an agent that is killed and started again has its identity at once', { hosts: 1 }, async (t, c) => {
  const [host] = c.hosts;
  for (let i = 0; i < 3; i++) {
    await host.crash();
    await host.start();
    await c.published();
  }
  t.is(host.warnings.filter((line) => line.includes('has the identity of this host')).length, 0);
  t.is(await host.agent.fault(), undefined);
});

clusterTest('tunnel zones follow the configuration', { hosts: 1, zones: ['vxlan', 'gre'] }, async (t, c) => {
  const [host] = c.hosts;
  const id = (i: number) => idFromName('tunnel-zone', `zone-${i}`);
  const manual = await c.repository.create('tunnel-zone', {
    id: idFromName('tunnel-zone', 'm'),
    name: 'm',
    type: 'gre',
  });
  await c.repository.joinTunnelZone(manual.id, host.id, '192.0.2.1');
  await host.stop();
  host.zones = [{ ...host.zones[0], address: '192.0.2.7' }];
  await host.start();
  await c.published();
  const member = await c.repository.store.get(tunnelZoneMemberPath(id(0), host.id));
  t.is(Buffer.from(member!.data).toString(), '{"address":"192.0.2.7"}');
  t.is(await c.repository.store.get(tunnelZoneMemberPath(id(1), host.id)), undefined);
  const zones = (await c.repository.get('host', host.id))?.object.tunnelZones.map(({ zoneId }) => zoneId);
  t.deepEqual(zones, [id(0), manual.id], 'one that the configuration never named is kept');
  t.deepEqual(await readdir(join(host.folder, 'tunnel-zones')), [`${id(0)}.json`]);
});

clusterTest('an NSDB that was emptied hears of hosts, ports and bridges again', { hosts: 2 }, async (t, c) => {
  const bridgeId = await c.createBridge();
  const pods = await c.populate(bridgeId, 2);
  const relevant = (paths: string[]) => paths.filter((path) => !/\/(macs|ips)\//.test(path));
  const before = relevant(await allPaths(c.repository.store));
  await c.nsdb.stop();
  await rm(join(c.nsdb.folder, 'data'), { recursive: true });
  await c.nsdb.resume();
  const store = c.nsdb.store();
  const alive = async () => Promise.all(c.hosts.map((host) => store.exists(hostAlivePath(host.id))));
  await until('the hosts are back', async () => (await alive()).every((stat) => stat !== undefined), 10_000);
  await new TopologyRepository(store).create('bridge', { id: bridgeId, name: 'blue' });
  await until('all is told', async () => relevant(await allPaths(store)).length === before.length, 10_000);
  t.deepEqual(relevant(await allPaths(store)), before);
  await c.eachPair(pods, (from, to) => c.connects(from, to));
});

clusterTest(
  'what is told again does not take a port back that another host has attached since',
  { hosts: 2 },
  async (t, c) => {
    const [former, latter] = c.hosts;
    const pod = c.pod(await c.createBridge());
    await former.attach(pod);
    await c.published();
    await latter.attach(pod);
    await c.published();
    former.agent.bindings.republish();
    await c.published();
    t.is((await c.repository.get('port', pod.id))?.object.binding?.hostId, latter.id);
  },
);
