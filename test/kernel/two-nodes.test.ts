import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { Flow } from '../../src/datapath/datapath.js';
import { describeMatch } from '../../src/flow/describe.js';
import { idFromName } from '../../src/topology/id.js';
import { cleanUp } from './clean-up.js';
import { Lab, type LabNode, NETWORK, type Pod, received, until } from './lab.js';

/** The issue of this file: what two nodes show together. One lab serves all tests, one after the other. */
let lab: Lab;
let red: Pod;
let green: Pod;
let blue: Pod;

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start({ agent: { flows: { idleTimeout: 20 } } });
  red = await lab.nodes[0].addPod('red');
  green = await lab.nodes[0].addPod('green');
  blue = await lab.nodes[1].addPod('blue');
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await lab.logs());
});

test.after.always(() => cleanUp(...[red, green, blue].map((pod) => () => pod?.remove()), () => lab?.close()));

function dump(flows: readonly Flow[]): string[] {
  return flows
    .map(
      (flow) =>
        `${describeMatch(flow.key, flow.mask)} -> ${flow.actions.map((action) => action.type).join(', ') || 'drop'}`,
    )
    .sort();
}

test.serial('all pods reach each other over IPv4 and IPv6', async (t) => {
  t.timeout(120_000);
  for (const from of [red, green, blue]) {
    for (const to of [red, green, blue]) {
      if (from === to) continue;
      t.is(await from.ping(to.ipv4, 2), 2, `${from.name} to ${to.name}`);
      t.is(await from.ping(to.ipv6, 2), 2, `${from.name} to ${to.name}`);
    }
  }
});

test.serial('ARP is answered where it is asked and never crosses the underlay', async (t) => {
  t.timeout(120_000);
  await red.run('ip', 'neigh', 'flush', 'all');
  const before = await lab.nodes[0].metric('midonet_packets_answered_total');
  const capture = lab.nodes[0].start('tcpdump', '-lnpei', 'underlay', '-T', 'vxlan', 'udp', 'port', '6677');
  let seen = '';
  for (const stream of [capture.stdout, capture.stderr]) {
    stream?.on('data', (data: Buffer) => {
      seen += data.toString();
    });
  }
  await until('the capture to start', () => seen.includes('listening on'));
  t.is(await red.ping(blue.ipv4, 2), 2);
  await until('the capture to see the ping', () => seen.includes('ICMP echo request'));
  capture.kill('SIGTERM');
  // Linux checks a neighbour that it has just used by a unicast request, which goes to the pod itself.
  t.regex(seen, /\n[0-9a-f:]{17} > [0-9a-f:]{17}, ethertype IPv4/, 'what is inside is shown with its addresses');
  t.notRegex(seen, /\n[0-9a-f:]{17} > ff:ff:ff:ff:ff:ff, ethertype ARP/);
  t.true((await lab.nodes[0].metric('midonet_packets_answered_total')) > before);
});

test.serial('any number of TCP connections uses the same handful of flows', async (t) => {
  t.timeout(180_000);
  const script = join(lab.folder, 'connect.mjs');
  await writeFile(
    script,
    `import net from 'node:net';
     const [address, count] = process.argv.slice(2);
     for (let i = 0; i < Number(count); i++) await new Promise((resolve, reject) => {
       const socket = net.connect(5000, address, () => socket.end('x'));
       socket.on('close', resolve).on('error', reject).resume();
     });`,
  );
  const server = blue.start(
    process.execPath,
    '-e',
    "require('net').createServer((s) => s.end().resume()).listen(5000)",
  );
  try {
    await until('the server to listen', async () => (await blue.run('ss', '-Hltn', 'sport = :5000')).stdout !== '');
    const connect = (count: number) => red.run(process.execPath, script, blue.ipv4, `${count}`);
    t.is((await connect(5)).status, 0);
    const few = await Promise.all(lab.nodes.map(async (node) => dump(await node.flows())));
    const outcome = await connect(500);
    t.is(outcome.status, 0, outcome.stderr);
    const many = await Promise.all(lab.nodes.map(async (node) => dump(await node.flows())));
    for (const [index, node] of lab.nodes.entries()) {
      t.log(`${node.name} after 500 connections:`);
      for (const line of many[index]) t.log(`  ${line}`);
      const added = many[index].filter((line) => !few[index].includes(line));
      t.deepEqual(
        added.filter((line) => /tcp|tp_|src_port|dst_port/i.test(line)),
        [],
        'no flow looks at ports',
      );
      t.true(added.length <= 2, `new flows: ${added.join('; ')}`);
      t.true(many[index].length <= 30);
    }
  } finally {
    server.kill('SIGKILL');
  }
});

test.serial('no packet is lost when the agent is killed and started again', async (t) => {
  t.timeout(180_000);
  const [node] = lab.nodes;
  await red.ping(blue.ipv4, 1);
  const pinging = red.run('ping', '-n', '-i', '0.1', '-c', '100', '-W', '2', blue.ipv4);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await node.stopAgent('SIGKILL');
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await node.startAgent();
  t.is(received((await pinging).stdout), 100);
  // What was adopted goes on to be cared for: a pod that comes now is reached over adopted flows.
  const late = await lab.nodes[1].addPod('late');
  t.is(await red.ping(late.ipv4, 2), 2);
  await late.remove();
});

test.serial('the NSDB can be away: traffic goes on, pods are attached, and all is told when it is back', async (t) => {
  t.timeout(240_000);
  const [node1, node2] = lab.nodes;
  await red.ping(blue.ipv4, 1);
  const pinging = red.run('ping', '-n', '-i', '0.2', '-c', '60', '-W', '2', blue.ipv4);
  await lab.stopNsdb('SIGKILL');
  const mint = await node1.addPod('mint');
  t.is(await mint.ping(red.ipv4, 2), 2, 'a pod attached without the NSDB reaches its node');
  await node1.stopAgent('SIGKILL');
  await node1.startAgent();
  t.is(await mint.ping(red.ipv4, 2), 2, 'also after the agent was started without the NSDB');
  t.is(received((await pinging).stdout), 60, 'traffic was not disturbed');
  await lab.startNsdb();
  await until('the new pod to be known everywhere', async () => (await blue.ping(mint.ipv4)) === 1);
  t.is(await mint.ping(blue.ipv6, 2), 2);
  await mint.remove();
  t.is(await node2.metric('midonet_nsdb_connected'), 1);
});

test.serial('a plain interface joins the bridge by a binding that comes before or after it', async (t) => {
  t.timeout(120_000);
  const [, node2] = lab.nodes;
  const repository = lab.repository();
  const bridgeId = idFromName('bridge', NETWORK);
  const id = idFromName('port', 'plain');
  const hosts = await Promise.all(
    (await repository.list('host')).map(async (hostId) => (await repository.get('host', hostId))!.object),
  );
  const hostId = hosts.find((host) => host.name === node2.name)!.id;
  await repository.create('port', { id, bridgeId, binding: { hostId, interfaceName: 'plain0' } });
  await node2.run('ip', 'link', 'add', 'plain0', 'type', 'veth', 'peer', 'name', 'inner');
  await node2.run('ip', 'link', 'set', 'plain0', 'up');
  await node2.run('ip', 'addr', 'add', '10.88.255.7/16', 'dev', 'inner');
  await node2.run('ip', 'link', 'set', 'inner', 'mtu', '1450', 'up');
  await until('the binding', async () => (await node2.ports()).includes('plain0'));
  // Its addresses are not known: ARP is flooded, its MAC learned.
  t.true((await red.ping('10.88.255.7', 5)) >= 3);
  await node2.run('ip', 'link', 'delete', 'plain0');
  await until('the port to go', async () => !(await node2.ports()).includes('plain0'));
  await node2.run('ip', 'link', 'add', 'plain0', 'type', 'veth', 'peer', 'name', 'inner');
  await until('the interface to be bound again', async () => (await node2.ports()).includes('plain0'));
  await repository.delete('port', id);
  await until('the binding to end', async () => !(await node2.ports()).includes('plain0'));
  await node2.run('ip', 'link', 'delete', 'plain0');
});

/** Packets that left a node through a device; -1 while there is none. */
async function sent(node: LabNode, device: string): Promise<number> {
  const { status, stdout } = await node.run('cat', `/sys/class/net/${device}/statistics/tx_packets`);
  return status === 0 ? Number(stdout) : -1;
}

test.serial('the tunnel zone changes its type under the pods', async (t) => {
  t.timeout(120_000);
  const repository = lab.repository();
  for (const [type, device] of [
    ['gre', 'mn-gre'],
    ['vxlan', 'mn-vxlan'],
  ] as const) {
    await repository.modify('tunnel-zone', idFromName('tunnel-zone', 'lab'), (zone) => ({ ...zone, type }));
    await until(`${type} on both nodes`, async () => {
      const [there, back] = await Promise.all([lab.nodes[0], lab.nodes[1]].map((node) => sent(node, device)));
      await red.ping(blue.ipv4);
      return (await sent(lab.nodes[0], device)) > there && (await sent(lab.nodes[1], device)) > back;
    });
    t.is(await blue.ping(red.ipv4, 3), 3);
    // 1450 less the headers of IP and ICMP.
    const large = await red.run('ping', '-n', '-c', '2', '-M', 'do', '-s', '1422', blue.ipv4);
    t.is(received(large.stdout), 2, `packets as large as the MTU fit through ${type}`);
  }
});

test.serial('idle flows leave the kernel, those of tunnel keys stay', async (t) => {
  t.timeout(180_000);
  const [node] = lab.nodes;
  const tunnelled = (await node.flows()).filter((flow) => flow.key.tunDst !== 0).map((flow) => flow.id);
  t.true(tunnelled.length >= 3, 'two pods and the flooding of their bridge');
  await until(
    'idle flows to be removed',
    async () => (await node.flows()).every((flow) => flow.key.tunDst !== 0),
    150_000,
  );
  const left = (await node.flows()).map((flow) => flow.id);
  for (const id of tunnelled) t.true(left.includes(id));
});
