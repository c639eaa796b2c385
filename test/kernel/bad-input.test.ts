import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Namespace } from '../../src/datapath/link/namespace.js';
import { OvsDatapath } from '../../src/datapath/ovs/ovs-datapath.js';
import { type Inventory, takeInventory } from './inventory.js';
import { DATAPATH, Lab, type LabNode, must, type Outcome, type Pod, PROGRAM, run, until } from './lab.js';

/** The issue of this file: mistakes and misfortune get a clear answer, and leave nothing. One lab serves all tests. */
let lab: Lab;
let node: LabNode;

const TINY = { name: 'tiny', subnets: [{ cidr: '10.99.0.0/29' }] };
/** Of 8 addresses the first and the last are not handed out. */
const TINY_SIZE = 6;

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start({ nodes: 1, agent: { flows: { idleTimeout: 3 } } });
  [node] = lab.nodes;
  // Networks stay once they were used.
  for (const more of [{}, TINY]) {
    const pod = await node.addPod('first', more);
    await pod.remove();
  }
});

test.afterEach(async (t) => {
  // What a hook logs is not shown unless it fails itself.
  if (!t.passed) process.stderr.write((await lab.logs()).slice(-20_000));
});

test.after.always(() => lab?.close());

/** Blocks come when they are needed, and go after a while. */
function withoutBlocks(inventory: Inventory): Inventory {
  return { ...inventory, nsdb: inventory.nsdb.filter((path) => !/\/(blocks|leases)\//.test(path)) };
}

/** Run `action`; afterwards everything must be as it was. Flows may take a while to become idle. */
async function leavesNothing<T>(t: ExecutionContext, action: () => Promise<T>): Promise<T> {
  await until('flows to become idle', async () => (await node.flows()).length === 0);
  await until('everything to be told', async () => (await node.metric('midonet_nsdb_backlog')) === 0);
  // A zone is kept until a while after its port, and until the kernel has forgotten its connections.
  const zonesWithoutPort = async () =>
    (await node.metric('midonet_conntrack_zones')) - (await node.metric('midonet_ports'));
  await until('the zones of ports that are gone to be free', async () => (await zonesWithoutPort()) === 0);
  const before = withoutBlocks(await takeInventory(lab));
  const result = await action();
  let after = withoutBlocks(await takeInventory(lab));
  const same = async () => {
    after = withoutBlocks(await takeInventory(lab));
    return JSON.stringify(after) === JSON.stringify(before);
  };
  await until('everything to be as before', same).catch(() => t.deepEqual(after, before));
  return result;
}

function answer({ stdout }: Outcome): { code?: number; msg?: string; details?: string } {
  return JSON.parse(stdout);
}

async function newNamespace(t: ExecutionContext, name: string): Promise<string> {
  const full = `${name}-${lab.tag}`;
  await must('ip', 'netns', 'add', full);
  t.teardown(() => run('ip', 'netns', 'delete', full));
  return full;
}

/** Two pods that come, reach each other and go. */
async function assertWorks(t: ExecutionContext, at: LabNode = node): Promise<void> {
  const pods = [await at.addPod('left'), await at.addPod('right')];
  t.is(await pods[0].ping(pods[1].ipv4, 2), 2);
  for (const pod of pods) await pod.remove();
}

async function timed<T>(action: () => Promise<T>): Promise<[T, number]> {
  const began = Date.now();
  return [await action(), Date.now() - began];
}

test.serial('ADD refuses interfaces and namespaces that will not do, by name, and leaves nothing', async (t) => {
  t.timeout(180_000);
  const namespace = await newNamespace(t, 'taken');
  await must('ip', '-n', namespace, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'inner');
  const file = join(lab.folder, 'plain');
  await writeFile(file, '');
  const namespaceLinks = await must('ip', '-n', namespace, 'link');
  await leavesNothing(t, async () => {
    for (const [netns, code, message] of [
      [`/run/netns/${namespace}`, 100, /CNI_IFNAME.*eth0/],
      ['/run/netns/does-not-exist', 8, /CNI_NETNS.*does-not-exist.*not found/],
      [file, 8, /CNI_NETNS.*plain.*not a network namespace/],
      [node.namespacePath, 8, /CNI_NETNS.*the agent runs in/],
    ] as const) {
      const call = { containerId: 'bad', netns, ifname: 'eth0' };
      const outcome = await node.cni('ADD', call);
      t.is(outcome.status, 1);
      t.is(answer(outcome).code, code, outcome.stdout);
      t.regex(answer(outcome).msg ?? '', message);
      const removal = await node.cni('DEL', call);
      t.is(removal.status, 0, removal.stdout);
    }
  });
  t.is(await must('ip', '-n', namespace, 'link'), namespaceLinks, 'what was there is untouched');
});

test.serial('an exhausted pool: ADD says so, STATUS is 50, and a DEL helps', async (t) => {
  t.timeout(240_000);
  const config = node.networkConfig(TINY);
  const status = () => node.cni('STATUS', { config });
  await leavesNothing(t, async () => {
    t.is((await status()).status, 0);
    const pods: Pod[] = [];
    for (let i = 0; i < TINY_SIZE; i++) pods.push(await node.addPod(`tiny${i}`, TINY));
    t.is(new Set(pods.map((pod) => pod.ipv4)).size, TINY_SIZE);
    const links = await node.links();
    const namespace = await newNamespace(t, 'late');
    const call = { containerId: 'late', netns: `/run/netns/${namespace}`, ifname: 'eth0', config };
    for (let i = 0; i < 3; i++) {
      const refused = await node.cni('ADD', call);
      t.is(answer(refused).code, 11, refused.stdout);
      t.is(answer(refused).details, 'MN_POOL_EXHAUSTED');
      t.regex(
        answer(refused).msg ?? '',
        /pool 10\.99\.0\.0\/29 .*has no free address: all 2 blocks.*6 addresses are in use/,
      );
    }
    t.is(answer(await status()).code, 50);
    t.deepEqual(await node.links(), links);
    t.is(await node.metric('midonet_pool_addresses_used'), TINY_SIZE);
    const freed = pods.pop()!;
    await freed.remove();
    t.is((await status()).status, 0);
    const added = await node.cni('ADD', call);
    t.is(added.status, 0, added.stdout);
    t.true(added.stdout.includes(`"${freed.ipv4}/29"`), 'the address that was free');
    t.is((await node.cni('DEL', call)).status, 0);
    await must('ip', 'netns', 'delete', namespace);
    for (const pod of pods) await pod.remove();
  });
});

test.serial('the NSDB away: without an address left, and at the first use of a network, try again later', async (t) => {
  t.timeout(240_000);
  await leavesNothing(t, async () => {
    // One of the two blocks of the network, so that the next address would need the other.
    const pods: Pod[] = [];
    await lab.stopNsdb('SIGKILL');
    const namespace = await newNamespace(t, 'nowhere');
    const call = { containerId: 'nowhere', netns: `/run/netns/${namespace}`, ifname: 'eth0' };
    for (let i = 0; ; i++) {
      const pod = await node.addPod(`away${i}`, { ...TINY }).catch((error: Error) => error);
      if (pod instanceof Error) {
        t.regex(pod.message, /"code":11.*MN_STORE_UNAVAILABLE/);
        const failed = `away${i}-${lab.tag}`;
        const removal = await node.cni('DEL', {
          containerId: failed,
          ifname: 'eth0',
          config: node.networkConfig(TINY),
        });
        t.is(removal.status, 0, removal.stdout);
        await must('ip', 'netns', 'delete', failed);
        break;
      }
      pods.push(pod);
      // All the blocks may be here from before.
      if (pods.length === TINY_SIZE) break;
    }
    t.true(pods.length > 0, 'addresses of this host need no NSDB');
    const config = node.networkConfig({ name: 'unseen', subnets: [{ cidr: '10.98.0.0/24' }] });
    const [outcome, milliseconds] = await timed(() => node.cni('ADD', { ...call, config }));
    t.is(answer(outcome).code, 11, outcome.stdout);
    t.is(answer(outcome).details, 'MN_STORE_UNAVAILABLE');
    t.true(milliseconds < 20_000, `${milliseconds} ms`);
    t.is(answer(await node.cni('STATUS', { config })).code, 50);
    t.is((await node.cni('DEL', { ...call, config })).status, 0);
    await must('ip', 'netns', 'delete', namespace);
    for (const pod of pods) await pod.remove();
    await lab.startNsdb();
    await until('the NSDB to be used again', async () => (await node.metric('midonet_nsdb_connected')) === 1);
  });
  await leavesNothing(t, () => assertWorks(t));
});

test.serial('the agent away: code 11 within 2 s, STATUS 50 at once, VERSION as ever', async (t) => {
  t.timeout(180_000);
  await leavesNothing(t, async () => {
    const pod = await node.addPod('orphan');
    await node.stopAgent('SIGKILL');
    const namespace = await newNamespace(t, 'fresh');
    const call = { containerId: 'fresh', netns: `/run/netns/${namespace}`, ifname: 'eth0' };
    for (const [command, given, code] of [
      ['ADD', call, 11],
      ['DEL', pod.call, 11],
      ['CHECK', { ...pod.call, config: { ...pod.config, prevResult: pod.result } }, 11],
      ['STATUS', {}, 50],
    ] as const) {
      const [outcome, milliseconds] = await timed(() => node.cni(command, given));
      t.is(outcome.status, 1);
      t.is(answer(outcome).code, code, outcome.stdout);
      t.regex(answer(outcome).msg ?? '', /agent at .*cannot be reached/);
      t.true(milliseconds < (command === 'STATUS' ? 1000 : 2000), `${command} took ${milliseconds} ms`);
    }
    t.true((await node.cni('VERSION', {})).stdout.includes('supportedVersions'));
    await node.startAgent();
    await pod.remove();
    await must('ip', 'netns', 'delete', namespace);
  });
});

test.serial('STATUS is 51 while a tunnel device cannot be had, and 0 again', async (t) => {
  t.timeout(180_000);
  await leavesNothing(t, async () => {
    t.is((await node.cni('STATUS', {})).status, 0);
    await node.run('ip', 'addr', 'delete', `${node.address}/24`, 'dev', 'underlay');
    await node.run('ip', 'link', 'set', 'underlay', 'mtu', '1400');
    await until('STATUS to tell', async () => answer0(await node.cni('STATUS', {})) === 51);
    t.regex(
      answer(await node.cni('STATUS', {})).msg ?? '',
      new RegExp(`no interface of this host has ${node.address}`),
    );
    await node.run('ip', 'addr', 'add', `${node.address}/24`, 'dev', 'underlay');
    await node.run('ip', 'link', 'set', 'underlay', 'mtu', '1500');
    await until('STATUS to be well', async () => answer0(await node.cni('STATUS', {})) === 0);
  });
});

/** The code of an error, 0 when there is none. */
function answer0(outcome: Outcome): number {
  return outcome.status === 0 ? 0 : (answer(outcome).code ?? -1);
}

interface Start {
  readonly what: string;
  /** Changes of the agent's configuration. */
  readonly config: Record<string, unknown>;
  readonly message: RegExp;
}

const somewhereElse = (name: string) => ({
  datapath: { name },
  stateFolder: join(lab.folder, name),
  cni: { socket: join(lab.folder, `${name}.sock`) },
  http: { port: 0 },
});

const STARTS: readonly (() => Start)[] = [
  () => ({
    what: 'NSDB servers',
    config: { ...somewhereElse('other1'), nsdb: { connect: 'a:b:c' } },
    message: /connect.*expected host\[:port\].*"a:b:c"/,
  }),
  () => ({
    what: 'a port in use for HTTP',
    config: { ...somewhereElse('other2'), http: { port: 7300 } },
    message: /config\.http: .*nobody else listens on, got "127\.0\.0\.1:7300"/,
  }),
  () => ({
    what: "a datapath of another interface's name",
    config: somewhereElse('underlay'),
    message: /underlay/,
  }),
  () => ({
    what: "another agent's datapath",
    config: { ...somewhereElse('x'), datapath: { name: 'midonet' } },
    message: /config\.datapath\.name: another agent runs/,
  }),
  () => ({
    what: "another agent's state folder",
    config: { ...somewhereElse('other3'), stateFolder: node.stateFolder },
    message: /is in use by another process \(process \d+\)/,
  }),
  () => ({
    what: "another agent's CNI socket",
    config: { ...somewhereElse('other4'), cni: { socket: node.cniSocket } },
    message: /cni-1\.sock.*another process listens there/,
  }),
  () => ({
    what: 'a CNI socket that is a file',
    config: { ...somewhereElse('other5'), cni: { socket: node.configFile } },
    message: /something else than a socket/,
  }),
];

test.serial('midonet agent ends with a clear error where it cannot start, and harms no agent that runs', async (t) => {
  t.timeout(300_000);
  const running = JSON.parse(await readFile(node.configFile, 'utf8')) as object;
  const file = join(lab.folder, 'wrong.yaml');
  await leavesNothing(t, async () => {
    for (const start of STARTS) {
      const { what, config, message } = start();
      await writeFile(file, JSON.stringify({ ...running, ...config }));
      const outcome = await node.run(process.execPath, PROGRAM, 'agent', '--config', file);
      t.is(outcome.status, 1, `${what}: ${outcome.stdout}`);
      t.regex(outcome.stderr, /^midonet: .* \(MN_[A-Z_]+\)\n$/, `${what}: one line`);
      t.regex(outcome.stderr, message, what);
    }
    // A datapath and a tunnel device may have been made by then: an agent leaves what forwards.
    for (const name of ['other1', 'other2', 'other3', 'other4', 'other5']) await removeDatapath(name);
    await assertWorks(t);
  });
});

async function removeDatapath(name: string): Promise<void> {
  const namespace = Namespace.open(node.namespacePath);
  try {
    await OvsDatapath.destroy(name, { namespace });
  } finally {
    namespace.close();
  }
}

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value >>> 0, 4 * i);
  return bytes;
}

test.serial('garbage on the sockets of CNI and NSDB, and connections left open, do no harm', async (t) => {
  t.timeout(180_000);
  const magic = Buffer.from('MNC1');
  const pieces: readonly [socket: string, bytes: Buffer][] = [
    [node.cniSocket, Buffer.alloc(0)],
    [node.cniSocket, randomBytes(1)],
    [node.cniSocket, randomBytes(65_536)],
    [node.cniSocket, magic.subarray(0, 3)],
    [node.cniSocket, Buffer.concat([magic, u32(1, 0xffff_ffff, 0xffff_ffff)])],
    [node.cniSocket, Buffer.concat([magic, u32(1, 100, 100), randomBytes(10)])],
    [node.cniSocket, Buffer.concat([magic, u32(0, 0, 2), Buffer.from('{}')])],
    [node.cniSocket, Buffer.concat([magic, u32(0, 8, 3), randomBytes(11)])],
    [node.cniSocket, Buffer.concat([magic, u32(0, 0, 2), Buffer.from('{}more')])],
    [lab.nsdbSocket, Buffer.alloc(0)],
    [lab.nsdbSocket, randomBytes(3)],
    [lab.nsdbSocket, randomBytes(65_536)],
    [lab.nsdbSocket, u32(0)],
    [lab.nsdbSocket, u32(0xffff_ffff)],
    [lab.nsdbSocket, u32(0x7fff_ffff)],
    [lab.nsdbSocket, Buffer.concat([u32(44), randomBytes(20)])],
    [lab.nsdbSocket, Buffer.concat([u32(44), Buffer.alloc(44)])],
    // A session, then requests that are none.
    [lab.nsdbSocket, Buffer.concat([u32(45), Buffer.alloc(45), u32(12), randomBytes(12)])],
    [lab.nsdbSocket, Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    [lab.nsdbSocket, Buffer.from('ruo')],
  ];
  await leavesNothing(t, async () => {
    const dropped = await node.metric('midonet_cni_connections_dropped_total');
    const open: Socket[] = [];
    for (let round = 0; round < 3; round++) {
      for (const [path, bytes] of pieces) {
        const socket = connect(path);
        socket.on('error', () => socket.destroy());
        socket.resume();
        socket.write(bytes);
        open.push(socket);
      }
    }
    await sleep(500);
    await assertWorks(t);
    for (const socket of open) socket.destroy();
    t.true((await node.metric('midonet_cni_connections_dropped_total')) >= dropped + 9);
    await assertWorks(t);
  });
});

const HTTP_GARBAGE = `
  const net = require('node:net');
  const pieces = ['', 'G', 'GET / HTTP/1.1\\r\\nHost: x\\r\\n', 'POST /metrics HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1000000\\r\\n\\r\\nx',
    'GET /' + 'a'.repeat(100000), '\\r\\n'.repeat(1000), require('node:crypto').randomBytes(65536)];
  for (let i = 0; i < 70; i++) {
    const socket = net.connect(7300, '127.0.0.1', () => socket.write(pieces[i % pieces.length]));
    socket.on('error', () => socket.destroy()).resume();
  }
  setTimeout(() => console.log('sent'), 500);
  setTimeout(() => process.exit(), 60000);`;

test.serial('garbage on the HTTP port does no harm', async (t) => {
  t.timeout(180_000);
  await leavesNothing(t, async () => {
    const garbage = node.start(process.execPath, '-e', HTTP_GARBAGE);
    try {
      await new Promise((resolve) => garbage.stdout?.once('data', resolve));
      const status = async (...words: string[]) =>
        (await node.run('curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', ...words)).stdout;
      const url = 'http://127.0.0.1:7300';
      t.is(await status(`${url}/healthz`), '200');
      t.is(await status(`${url}/readyz`), '200');
      t.is(await status(`${url}/metrics?x`), '200');
      t.is(await status(`${url}/nothing`), '404');
      t.is(await status('-X', 'DELETE', `${url}/metrics`), '405');
      await assertWorks(t);
    } finally {
      garbage.kill('SIGKILL');
    }
  });
});

test.serial('midonet standalone is NSDB and agent in one process', async (t) => {
  t.timeout(240_000);
  const namespace = await newNamespace(t, 'alone');
  await must('ip', '-n', namespace, 'link', 'set', 'lo', 'up');
  const folder = join(lab.folder, 'alone');
  await mkdir(folder);
  const file = join(folder, 'midonet.yaml');
  const socket = join(folder, 'cni.sock');
  await writeFile(
    file,
    [
      'host: { name: alone }',
      `stateFolder: ${folder}/state`,
      `nsdb: { connect: "unix:${folder}/nsdb.sock", listen: "unix:${folder}/nsdb.sock", dataFolder: ${folder}/nsdb }`,
      `cni: { socket: ${socket} }`,
    ].join('\n'),
  );
  const inside = (...command: string[]) => ['ip', 'netns', 'exec', namespace, ...command] as const;
  for (let start = 0; start < 2; start++) {
    const [program, ...words] = inside(process.execPath, PROGRAM, 'standalone', '--config', file);
    const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'inherit'] });
    const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
    let log = '';
    child.stdout.on('data', (data: Buffer) => {
      log += data.toString();
    });
    try {
      await until('it to be ready', () => log.includes('"ready"'));
      const pods = ['one', 'two'].map((name) => `alone-${name}-${lab.tag}`);
      const addresses: string[] = [];
      for (const pod of pods) {
        await must('ip', 'netns', 'add', pod);
        const outcome = await node.cni('ADD', {
          containerId: pod,
          netns: `/run/netns/${pod}`,
          ifname: 'eth0',
          config: node.networkConfig({ socket }),
        });
        t.is(outcome.status, 0, outcome.stdout);
        addresses.push((JSON.parse(outcome.stdout) as { ips: { address: string }[] }).ips[0].address.split('/')[0]);
      }
      const ping = await run('ip', 'netns', 'exec', pods[0], 'ping', '-n', '-c', '2', '-W', '5', addresses[1]);
      t.is(ping.status, 0, ping.stdout);
      for (const pod of pods) {
        const call = { containerId: pod, ifname: 'eth0', config: node.networkConfig({ socket }) };
        t.is((await node.cni('DEL', call)).status, 0);
        await must('ip', 'netns', 'delete', pod);
      }
    } finally {
      child.kill('SIGTERM');
    }
    const [status, milliseconds] = await timed(() => exited);
    t.is(status, 0, log);
    t.true(milliseconds < 5000, `${milliseconds} ms to end`);
  }
  const links = JSON.parse(await must('ip', '-n', namespace, '-json', 'link')) as { ifname: string }[];
  t.deepEqual(
    links.map((link) => link.ifname).filter((name) => name.startsWith('mn')),
    [],
  );
});

test.serial(
  'SIGTERM ends agent and NSDB with status 0 within seconds, whether the other is there or not',
  async (t) => {
    t.timeout(240_000);
    await leavesNothing(t, async () => {
      const pod = await node.addPod('stays');
      const endAgent = async () => {
        const [status, milliseconds] = await timed(() => node.stopAgent('SIGTERM'));
        t.is(status, 0);
        t.true(milliseconds < 6000, `agent: ${milliseconds} ms`);
      };
      const endNsdb = async () => {
        const [status, milliseconds] = await timed(() => lab.stopNsdb('SIGTERM'));
        t.is(status, 0);
        t.true(milliseconds < 6000, `NSDB: ${milliseconds} ms`);
      };
      await endAgent();
      t.true((await node.ports()).length > 2, 'the datapath stays');
      await node.startAgent();
      await endNsdb();
      await endAgent();
      await node.startAgent();
      await endAgent();
      await lab.startNsdb();
      await node.startAgent();
      await pod.remove();
    });
    await leavesNothing(t, () => assertWorks(t));
  },
);

test.serial('an agent whose datapath is removed ends with status 1, and the next one makes it again', async (t) => {
  t.timeout(120_000);
  const pod = await node.addPod('stays');
  await removeDatapath(DATAPATH);
  await until('the agent to end', () => node.exitCode !== null);
  t.is(node.exitCode, 1);
  t.regex(await lab.logs(), /midonet: datapath "[^"]+" is gone: .*\(MN_DATAPATH\)/);
  await node.startAgent();
  await assertWorks(t);
  t.is((await node.cni('CHECK', { ...pod.call, config: { ...pod.config, prevResult: pod.result } })).status, 0);
  await pod.remove();
});
