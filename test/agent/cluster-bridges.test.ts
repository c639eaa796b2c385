import { randomUUID } from 'node:crypto';
import { formatMac, MAC_BROADCAST, parseIpv6 } from '../../src/packet/address.js';
import { buildArpRequest, buildGratuitousArp } from '../../src/packet/arp.js';
import { buildEthernet } from '../../src/packet/ethernet.js';
import { buildNeighborSolicitation, newNeighborMessage, parseNeighborMessage } from '../../src/packet/nd.js';
import { popTag, pushTag } from '../../src/packet/vlan.js';
import type { Cluster, Pod } from './cluster.js';
import { clusterTest } from './cluster-test.js';
import { until } from './until.js';

/** Bridges that are linked, on hosts that share an NSDB. */
/** Everything that was sent has gone as far as it can, and what waited for the NSDB, too. */
async function quiet(c: Cluster): Promise<void> {
  await c.quiet();
  await until('no packet waits', () => c.hosts.every((host) => host.agent.forwarder.waitingPackets === 0));
  await c.quiet();
}

const VLAN = 10;

/** An outer bridge with a trunk on each host, and one for VLAN 10 with a pod on each host. */
async function trunked(c: Cluster) {
  const [outer, inner] = [await c.createBridge(), await c.createBridge()];
  const link = randomUUID();
  await c.repository.create('port', { id: link, bridgeId: outer, vlanId: VLAN });
  await c.repository.create('port', { id: randomUUID(), bridgeId: inner, peerId: link });
  const trunks: Pod[] = [];
  for (const host of c.hosts) {
    const trunk = c.pod(outer, false);
    await host.attach(trunk);
    trunks.push(trunk);
  }
  return { outer, inner, trunks, pods: await c.populate(inner, 1) };
}

/** A frame that holds a text of its own. */
function frameOf(src: number, dst: number, tag = 0): { frame: Uint8Array; text: string } {
  const text = randomUUID();
  const frame = buildEthernet({ src, dst, type: 0x9999 }, Buffer.from(text.padEnd(46)));
  return { frame: tag === 0 ? frame : pushTag(frame, 0x8100, tag), text };
}

/** Frames with this text, as they came. */
function received(pod: Pod, text: string): Uint8Array[] {
  return pod.device!.received().filter((frame) => Buffer.from(frame).includes(text));
}

/** The VLANs of the frames with this text. */
function tags(pod: Pod, text: string): number[] {
  return received(pod, text).map((frame) => (popTag(frame) === undefined ? 0 : ((frame[14] << 8) | frame[15]) & 0xfff));
}

clusterTest('a VLAN of a trunk is a bridge of its own, on every host', { hosts: 2 }, async (t, c) => {
  const { trunks, pods } = await trunked(c);
  const [here, there] = trunks;
  const outside = 0x0200_0000_7000;
  const reach = async (from: Pod, src: number, dst: number, tag: number) => {
    const { frame, text } = frameOf(src, dst, tag);
    from.send(frame);
    await until('the frame has come', () => pods.some((pod) => received(pod, text).length > 0));
    await quiet(c);
    return text;
  };
  await until('hosts know each other', async () => {
    const { frame, text } = frameOf(outside, MAC_BROADCAST, VLAN);
    here.send(frame);
    await quiet(c);
    return received(pods[1], text).length > 0 && received(there, text).length > 0;
  });

  let text = await reach(here, outside, MAC_BROADCAST, VLAN);
  t.deepEqual(tags(there, text), [VLAN]);
  for (const pod of pods) t.deepEqual(tags(pod, text), [0]);
  t.deepEqual(tags(here, text), []);

  // What the pods answer goes to that trunk alone, with the tag.
  for (const pod of pods) {
    await until('the address is known everywhere', async () => {
      const { frame, text: answer } = frameOf(pod.mac, outside);
      pod.send(frame);
      await quiet(c);
      return tags(here, answer).length === 1 && tags(there, answer).length === 0;
    });
    const { frame, text: answer } = frameOf(pod.mac, outside);
    pod.send(frame);
    await until('the answer has come', () => received(here, answer).length > 0);
    t.deepEqual([tags(here, answer), tags(there, answer)], [[VLAN], []]);
  }
  // And back to the pod alone.
  text = await reach(here, outside, pods[1].mac, VLAN);
  t.deepEqual([tags(pods[0], text), tags(pods[1], text)], [[], [0]]);
  // Other VLANs do not go there.
  const { frame, text: other } = frameOf(outside, MAC_BROADCAST, 11);
  here.send(frame);
  await until('the other trunk has it', () => received(there, other).length > 0);
  for (const pod of pods) t.deepEqual(tags(pod, other), []);

  // Switches behind the trunks hear of each other.
  const bpdu = frameOf(outside, 0x0180_c200_0000);
  await until('the spanning tree is made', async () => {
    here.send(bpdu.frame);
    await quiet(c);
    return received(there, bpdu.text).length > 0;
  });
  for (const pod of pods) t.deepEqual(tags(pod, bpdu.text), []);

  // The machine moves from one trunk to the other.
  there.send(frameOf(outside, MAC_BROADCAST, VLAN).frame);
  for (const pod of pods) {
    await until('frames follow it', async () => {
      const { frame: next, text: moved } = frameOf(pod.mac, outside);
      pod.send(next);
      await quiet(c);
      return tags(there, moved).length === 1 && tags(here, moved).length === 0;
    });
  }
});

clusterTest('flows follow when bridges are linked and parted', { hosts: 2 }, async (t, c) => {
  const [a, b] = [await c.createBridge(), await c.createBridge()];
  const [x, y] = [...(await c.populate(a, 1)).slice(0, 1), ...(await c.populate(b, 1)).slice(1)];
  const arrives = async () => {
    const { frame, text } = frameOf(x.mac, MAC_BROADCAST);
    x.send(frame);
    await quiet(c);
    return received(y, text).length;
  };
  t.is(await arrives(), 0);
  const link = randomUUID();
  await c.repository.create('port', { id: link, bridgeId: a });
  await c.repository.create('port', { id: randomUUID(), bridgeId: b, peerId: link });
  await until('they are linked', async () => (await arrives()) === 1);
  await c.repository.modify('port', link, (port) => ({ ...port, adminStateUp: false }));
  await until('they are parted', async () => (await arrives()) === 0);
  await c.repository.modify('port', link, (port) => ({ ...port, adminStateUp: true }));
  await until('they are linked again', async () => (await arrives()) === 1);
  await c.repository.delete('port', link);
  await until('they are parted for good', async () => (await arrives()) === 0);
});

clusterTest('isolated ports reach only those that are not, on their host and on others', { hosts: 2 }, async (t, c) => {
  const bridge = await c.createBridge();
  const [open, ...clients] = [c.pod(bridge), ...c.hosts.map(() => c.pod(bridge))];
  await c.hosts[1].attach(open);
  for (const [i, pod] of clients.entries()) {
    c.hosts[i].plug(pod);
    await c.hosts[i].agent.bindings.attach({ ...pod.port, isolated: true }, pod.interfaceName);
  }
  await c.published();
  await c.connects(clients[0], open);
  await c.connects(open, clients[0]);
  const arrives = async (from: Pod, dst: number) => {
    const { frame, text } = frameOf(from.mac, dst);
    from.send(frame);
    await quiet(c);
    return [open, ...clients].filter((pod) => received(pod, text).length > 0);
  };
  await until('the other host tells isolated ports apart', async () => {
    return (await arrives(clients[0], MAC_BROADCAST)).length === 1;
  });
  t.deepEqual(await arrives(clients[0], MAC_BROADCAST), [open]);
  t.deepEqual(await arrives(clients[1], MAC_BROADCAST), [open]);
  t.deepEqual(await arrives(clients[0], clients[1].mac), []);
  t.deepEqual(await arrives(open, MAC_BROADCAST), clients);
  t.deepEqual(await arrives(open, clients[0].mac), [clients[0]]);
  await c.hosts[1].agent.bindings.detach(clients[1].id);
  await c.published();
  await c.hosts[1].agent.bindings.attach(clients[1].port, clients[1].interfaceName);
  await until('it is not isolated any more', async () => (await arrives(clients[0], MAC_BROADCAST)).length === 2);
  await c.repository.modify('port', clients[1].id, (port) => ({ ...port, isolated: true }));
  await until('it is isolated again', async () => (await arrives(clients[0], MAC_BROADCAST)).length === 1);
  t.deepEqual(await arrives(clients[1], clients[0].mac), []);
  t.deepEqual(await arrives(open, MAC_BROADCAST), clients);
});

clusterTest('a bridge knows the addresses of routers that are linked to it', { hosts: 2 }, async (t, c) => {
  const bridge = await c.createBridge();
  const [pod, other] = await c.populate(bridge, 1);
  const router = (await c.repository.create('router', { id: randomUUID(), name: 'r' })).id;
  const routerMac = 0x0200_0000_6000;
  const routerPort = { id: randomUUID(), routerId: router, mac: formatMac(routerMac) };
  const [gateway, gateway6] = [0x0a01_0801, parseIpv6('fd00::9')!];
  await c.repository.create('port', { ...routerPort, subnets: ['10.1.8.1/16', 'fd00::9/64'] });
  const link = randomUUID();
  await c.repository.create('port', { id: link, bridgeId: bridge, peerId: routerPort.id });
  /** Sends a question; tells how many answers came from the router, and what went to the other host. */
  const ask = async (question: Uint8Array) => {
    pod.device!.clear();
    other.device!.clear();
    pod.send(question);
    await quiet(c);
    const answers = pod.device!.received().filter((frame) => Buffer.from(frame).readUIntBE(6, 6) === routerMac);
    return { answers, flooded: other.device!.received().length };
  };
  const arp = buildArpRequest(pod.mac, pod.ip, gateway);
  await until('the router answers', async () => (await ask(arp)).answers.length === 1);
  t.like(await ask(arp), { answers: { length: 1 }, flooded: 0 });
  const { answers, flooded } = await ask(
    buildNeighborSolicitation({ src: pod.ip6, srcMac: pod.mac, target: gateway6 }),
  );
  t.is(flooded, 0);
  const message = newNeighborMessage();
  t.true(parseNeighborMessage(answers[0], 54, answers[0].length, message));
  t.true(message.router, 'who takes it for its gateway must not give that up');
  const toRouter = frameOf(pod.mac, routerMac).frame;
  t.is((await ask(toRouter)).flooded, 0);

  await c.repository.modify('port', routerPort.id, (port) => ({ ...port, subnets: ['10.1.8.2/16'] }));
  const arpNew = buildArpRequest(pod.mac, pod.ip, gateway + 1);
  await until('its other address is known', async () => (await ask(arpNew)).answers.length === 1);
  await until('the first one is forgotten', async () => (await ask(arp)).answers.length === 0);
  await c.repository.delete('port', link);
  await until('they are parted', async () => (await ask(arpNew)).answers.length === 0);
  await until('nobody knows where the router is', async () => (await ask(toRouter)).flooded === 1);
});

clusterTest(
  'what is for a router whose port is down goes nowhere, the first packet included',
  { hosts: 2 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [pod, other] = await c.populate(bridge, 1);
    await c.connects(pod, other);
    const router = (await c.repository.create('router', { id: randomUUID(), name: 'r' })).id;
    const mac = 0x0200_0000_6000;
    const port = { id: randomUUID(), routerId: router, mac: formatMac(mac), adminStateUp: false };
    await c.repository.create('port', port);
    await c.repository.create('port', { id: randomUUID(), bridgeId: bridge, peerId: port.id });
    await until('the packet is dropped', async () => {
      pod.send(frameOf(pod.mac, mac).frame);
      await quiet(c);
      return c.hosts[0].agent.metrics.drops.get('port-down') === 1;
    });
    t.deepEqual(other.device!.received(), []);
  },
);

clusterTest(
  'an address that a machine announces is known on every host, until it moves or is heard of no more',
  { hosts: 2 },
  async (t, c) => {
    const bridge = await c.createBridge();
    const [first, second] = await c.populate(bridge, 1);
    const asker = c.pod(bridge);
    await c.hosts[0].attach(asker);
    const shared = 0x0a01_0900;
    /** Who answers, and how many others are asked. */
    const ask = async (ip: number) => {
      for (const pod of [asker, first, second]) pod.device!.clear();
      asker.send(buildArpRequest(asker.mac, asker.ip, ip));
      await quiet(c);
      const frames = asker.device!.received().map((frame) => Buffer.from(frame));
      const answers = frames
        .filter((frame) => frame.readUIntBE(0, 6) === asker.mac)
        .map((frame) => frame.readUIntBE(6, 6));
      return { answers, flooded: first.device!.received().length + second.device!.received().length };
    };
    await c.connects(asker, second);
    await until('nobody knows it', async () => (await ask(shared)).flooded === 2);
    for (const pod of [second, first, second]) {
      pod.send(buildGratuitousArp(pod.mac, shared));
      await until('the bridge knows it', async () => (await ask(shared)).answers[0] === pod.mac);
      t.deepEqual(await ask(shared), { answers: [pod.mac], flooded: 0 });
    }
    // What the topology says counts more.
    first.send(buildGratuitousArp(first.mac, second.ip));
    await quiet(c);
    t.deepEqual((await ask(second.ip)).answers, [second.mac]);
    await c.advance(59_000);
    await until('it is known still', async () => (await ask(shared)).answers[0] === second.mac);
    await c.advance(1000);
    for (const host of c.hosts) host.agent.addresses.expire();
    await until('it is not known any more', async () => (await ask(shared)).flooded === 2);
  },
);

clusterTest('a router may be linked to one VLAN of a trunk', { hosts: 1 }, async (t, c) => {
  const outer = await c.createBridge();
  const trunk = c.pod(outer, false);
  await c.hosts[0].attach(trunk);
  const router = (await c.repository.create('router', { id: randomUUID(), name: 'r' })).id;
  const routerMac = 0x0200_0000_6000;
  const port = { id: randomUUID(), routerId: router, mac: formatMac(routerMac), subnets: ['10.1.8.1/16'] };
  await c.repository.create('port', port);
  await c.repository.create('port', { id: randomUUID(), bridgeId: outer, vlanId: VLAN, peerId: port.id });
  const question = buildArpRequest(0x0200_0000_7000, 0x0a01_0005, 0x0a01_0801);
  const answers = async (frame: Uint8Array) => {
    trunk.device!.clear();
    trunk.send(frame);
    await quiet(c);
    return trunk
      .device!.received()
      .map((answer) => ((answer[12] << 8) | answer[13]) === 0x8100 && ((answer[14] << 8) | answer[15]) & 0xfff);
  };
  for (let i = 0; i < 2; i++) t.deepEqual(await answers(pushTag(question, 0x8100, VLAN)), [VLAN]);
  t.deepEqual(await answers(question), [], 'it is not there without a tag');
  t.deepEqual(await answers(pushTag(question, 0x8100, VLAN + 1)), []);
});
