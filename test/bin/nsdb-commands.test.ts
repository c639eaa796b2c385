import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { loadConfig } from '../../src/bin/config.js';
import { nsdbConnection } from '../../src/bin/nsdb-connection.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { until } from '../agent/until.js';
import { freePort } from '../nsdb/apache-zookeeper.js';
import { Authority } from '../nsdb/certificates.js';

const PROGRAM = fileURLToPath(new URL('../../src/bin/midonet.js', import.meta.url));

interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

function midonet(...words: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    // Nothing of this machine's own configuration.
    const env = { PATH: process.env.PATH, MIDONET_CONFIG: '/dev/null' };
    execFile(process.execPath, [PROGRAM, 'nsdb', ...words], { env }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

/** `midonet nsdb serve`, as a process, on a Unix socket. */
class Served {
  private constructor(
    readonly connect: string,
    readonly config: string,
    private readonly process: ChildProcess,
  ) {}

  static async start(
    t: ExecutionContext,
    settings: { listen?: string } & Record<string, unknown> = {},
  ): Promise<Served> {
    const folder = await mkdtemp(join(tmpdir(), 'nsdb-commands-'));
    const config = join(folder, 'midonet.json');
    const connect = settings.listen ?? `unix:${folder}/socket`;
    const nsdb = { listen: connect, connect, dataFolder: join(folder, 'data'), http: { port: 0 }, ...settings };
    await writeFile(config, JSON.stringify({ nsdb }));
    const child = spawn(process.execPath, [PROGRAM, 'nsdb', 'serve', '--config', config], { stdio: 'ignore' });
    t.teardown(async () => {
      if (child.exitCode === null && child.kill('SIGTERM')) await once(child, 'exit');
      await rm(folder, { recursive: true });
    });
    return new Served(connect, config, child);
  }

  /** The topology, when the server answers. */
  async repository(t: ExecutionContext): Promise<TopologyRepository> {
    const store = new ZookeeperStore({ connect: this.connect, operationTimeout: 60_000 });
    t.teardown(() => store.close());
    await store.sync();
    t.is(this.process.exitCode, null);
    return new TopologyRepository(store);
  }
}

const BRIDGE = '11111111-2222-4333-8444-555555555555';

test('an NSDB is filled, looked at, saved, restored elsewhere and moved, by commands', async (t) => {
  const [first, second] = [await Served.start(t), await Served.start(t)];
  const repository = await first.repository(t);
  await repository.initialize();
  await repository.create('bridge', { id: BRIDGE, name: 'blue' });

  const status = await midonet('status', '--config', first.config);
  t.is(status.status, 0, status.stderr);
  t.regex(status.stdout, /standalone.*healthy\n$/s);
  t.like(JSON.parse((await midonet('status', '--connect', first.connect, '--json')).stdout), {
    healthy: true,
    problems: [],
    servers: [{ state: 'serving', mode: 'standalone' }],
    hosts: { alive: 0, known: 0 },
  });

  const tree = await midonet('tree', '/bridges', '--data', '--config', first.config);
  t.is(tree.status, 0, tree.stderr);
  t.regex(tree.stdout, new RegExp(`^/bridges \\(1 child\\)\\n└── ${BRIDGE} \\(\\d children, \\d+ bytes\\) {.*"blue"`));
  const missing = await midonet('tree', '/nothing', '--config', first.config);
  t.is(missing.status, 1);
  t.regex(missing.stderr, /no node \/nothing \(MN_NOT_FOUND\)/);

  const well = await midonet('fsck', '--config', first.config);
  t.deepEqual([well.status, well.stdout], [0, 'nothing is wrong\n']);
  await repository.store.delete(`/bridges/${BRIDGE}/hosts`);
  const ill = await midonet('fsck', '--config', first.config);
  t.is(ill.status, 2);
  t.regex(ill.stdout, /incomplete-object: no folder hosts\n {2}→ --repair mends it\n1 finding, 0 mended, 1 left/);
  const mended = await midonet('fsck', '--repair', '--json', '--config', first.config);
  t.is(mended.status, 0);
  t.deepEqual(JSON.parse(mended.stdout), { found: 1, mended: 1, left: [] });

  const file = join(first.config, '..', 'backup.gz');
  const saved = await midonet('backup', file, '--config', first.config, '--json');
  t.is(saved.status, 0, saved.stderr);
  const { nodes } = JSON.parse(saved.stdout) as { nodes: number };
  const store = (await second.repository(t)).store;
  t.like(JSON.parse((await midonet('status', '--config', second.config, '--json')).stdout), {
    healthy: false,
    problems: [{ problem: 'the NSDB is empty' }],
  });
  const restored = await midonet('restore', file, '--config', second.config, '--json');
  t.is(restored.status, 0, restored.stderr);
  t.like(JSON.parse(restored.stdout), { nodes, differences: { created: nodes, changed: 0, deleted: 0 } });
  t.truthy(await new TopologyRepository(store).get('bridge', BRIDGE));

  await store.set(`/bridges/${BRIDGE}`, Buffer.from('{}'));
  const refused = await midonet('restore', file, '--config', second.config);
  t.is(refused.status, 1);
  t.regex(refused.stderr, /the NSDB is not empty: 0 nodes would be deleted and 1 changed.*MN_ALREADY_EXISTS/);
  const moved = await midonet('copy', '--from', first.connect, '--to', second.connect, '--replace', '--freeze');
  t.is(moved.status, 0, moved.stderr);
  t.regex(moved.stdout, /source and destination are the same/);
  await t.throwsAsync(repository.delete('bridge', BRIDGE), { code: 'MN_STORE_FROZEN' });
  const frozen = await midonet('status', '--config', first.config);
  t.is(frozen.status, 2);
  t.true(frozen.stdout.includes(`its data are moved to ${second.connect}`));
  t.is((await midonet('copy', '--from', first.connect, '--undo')).status, 0);
  await repository.delete('bridge', BRIDGE);
});

test('over TLS and with a password it is looked at, saved, checked and moved, and without them nothing of it is told', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'nsdb-commands-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const authority = await Authority.make(folder, 'authority');
  const secured = async (name: string): Promise<Served> => {
    await authority.issue(name, 'IP:127.0.0.1');
    const files = { key: join(folder, `${name}.key`), passwordFile: join(folder, `${name}.password`) };
    await chmod(files.key, 0o600);
    await writeFile(files.passwordFile, `secret of ${name}\n`, { mode: 0o600 });
    return Served.start(t, {
      listen: `127.0.0.1:${await freePort()}`,
      passwordFile: files.passwordFile,
      tls: { ca: authority.certificateFile, certificate: join(folder, `${name}.pem`), key: files.key },
    });
  };
  const [first, second] = await Promise.all([secured('first'), secured('second')]);
  const { nsdb } = await loadConfig(first.config, {});
  const store = new ZookeeperStore({ ...nsdbConnection(nsdb), operationTimeout: 60_000 });
  t.teardown(() => store.close());
  await store.sync();
  const repository = new TopologyRepository(store);
  await repository.initialize();
  await repository.create('bridge', { id: BRIDGE, name: 'blue' });

  const status = await midonet('status', '--config', first.config, '--json');
  t.is(status.status, 0, status.stderr);
  t.like(JSON.parse(status.stdout), { healthy: true, servers: [{ state: 'silent' }] });
  const file = join(folder, 'backup.gz');
  t.is((await midonet('backup', file, '--config', first.config)).status, 0);
  t.is((await stat(file)).mode & 0o777, 0o600);
  const both = ['--from', first.connect, '--config', first.config, '--to', second.connect];
  const stranger = await midonet('copy', ...both);
  t.is(stranger.status, 1);
  t.regex(stranger.stderr, /MN_/);
  const moved = await midonet('copy', ...both, '--to-config', second.config, '--freeze');
  t.is(moved.status, 0, moved.stderr);
  const there = await midonet('tree', '/bridges', '--config', second.config, '--data');
  t.regex(there.stdout, /"blue"/, there.stderr);
  const well = await midonet('fsck', '--config', second.config);
  t.deepEqual([well.status, well.stdout], [0, 'nothing is wrong\n']);
  const open = await midonet('tree', '--connect', second.connect);
  t.deepEqual([open.status, open.stdout], [1, '']);
  for (const { stdout, stderr } of [status, stranger, moved, there, open]) t.notRegex(stdout + stderr, /secret of/);
});

test('without a server commands end with a clear error, and status says what is wrong', async (t) => {
  const nobody = `127.0.0.1:${await freePort()}`;
  const [status, tree] = await Promise.all([
    midonet('status', '--connect', nobody),
    midonet('tree', '--connect', nobody),
  ]);
  t.is(status.status, 2);
  t.regex(status.stdout, /cannot be reached: connect ECONNREFUSED/);
  t.is(tree.status, 1);
  t.regex(tree.stderr, /ECONNREFUSED.*MN_STORE_UNAVAILABLE/s);
});

test('an interrupted command says so, and leaves no file', async (t) => {
  const server = await Served.start(t);
  await server.repository(t);
  const file = join(server.config, '..', 'backup.gz');
  const child = spawn(process.execPath, [PROGRAM, 'nsdb', 'backup', file, '--connect', '127.0.0.1:1'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (data: Buffer) => {
    stderr += data.toString();
  });
  await until('it has tried to connect', () => stderr.includes('ECONNREFUSED'), 30_000);
  child.kill('SIGINT');
  const [status] = await once(child, 'close');
  t.is(status, 1);
  t.regex(stderr, /interrupted by SIGINT/);
  await t.throwsAsync(readFile(file), { code: 'ENOENT' });
});

test('every command has help with an example, and refuses what it does not know', async (t) => {
  for (const command of ['serve', 'status', 'backup', 'restore', 'copy', 'tree', 'fsck']) {
    const { status, stdout } = await midonet(command, '--help');
    t.is(status, 0);
    t.regex(stdout, new RegExp(`Example:\\n  \\$ .*midonet nsdb ${command}`));
  }
  for (const words of [[], ['run'], ['status', '--conf'], ['backup'], ['tree', '--depth', 'x'], ['copy']]) {
    const { status, stderr } = await midonet(...words);
    t.is(status, 1, words.join(' '));
    t.regex(stderr, /Usage: midonet nsdb/);
  }
});
