import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fourLetterWord } from './four-letter-word.js';

export const JAR = '/usr/share/java/zookeeper.jar';
/** The jar names what else it needs, but not all that TLS does. */
const CLASS_PATH = [JAR, '/usr/share/java/netty-codec.jar', '/usr/share/java/netty-resolver.jar'].join(':');
export const JAVA = '/usr/bin/java';
export const SERVER_CLASS = 'org.apache.zookeeper.server.quorum.QuorumPeerMain';

/** For a quick start (Debian's classes need no verification) and little memory; transaction logs that do not begin with 64 MB. */
export const JAVA_OPTIONS = [
  ...['-XX:+IgnoreUnrecognizedVMOptions', '-XX:+UnlockDiagnosticVMOptions', '-XX:-BytecodeVerificationRemote'],
  ...['-Xmx128m', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-Xshare:auto', '-XX:-UsePerfData'],
  ...['-Dzookeeper.preAllocSize=1024', '-cp', CLASS_PATH],
];

/** What zoo.cfg of every server in the tests has: sessions from 200 ms to 60 s, a tick of 100 ms. */
export const SETTINGS = {
  tickTime: 100,
  minSessionTimeout: 200,
  maxSessionTimeout: 60_000,
  maxClientCnxns: 0,
  'admin.enableServer': false,
  '4lw.commands.whitelist': '*',
};

/** @throws Error that says what to install */
export function requireZookeeper(): void {
  if (!ApacheZookeeper.installed) {
    throw new Error('Apache ZooKeeper is not installed: apt-get install libzookeeper-java default-jre-headless');
  }
}

/** Debian's ZooKeeper on a loopback port, with a folder of its own. */
export class ApacheZookeeper {
  private constructor(
    readonly address: string,
    private readonly process: ChildProcess,
    private readonly folder: string,
  ) {}

  /** What to do when this is false: `apt-get install libzookeeper-java default-jre-headless`. */
  static get installed(): boolean {
    return existsSync(JAR) && existsSync(JAVA);
  }

  /** `more` goes into zoo.cfg. */
  static async start(more: Readonly<Record<string, string | number | boolean>> = {}): Promise<ApacheZookeeper> {
    requireZookeeper();
    const folder = await mkdtemp(join(tmpdir(), 'midonet-zookeeper-'));
    const port = await freePort();
    const settings = {
      ...SETTINGS,
      dataDir: join(folder, 'data'),
      clientPort: port,
      clientPortAddress: '127.0.0.1',
      ...more,
    };
    const text = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
    await writeFile(join(folder, 'zoo.cfg'), text.join(''));
    const child = spawn(JAVA, [...JAVA_OPTIONS, SERVER_CLASS, join(folder, 'zoo.cfg')], { stdio: 'ignore' });
    const server = new ApacheZookeeper(`127.0.0.1:${port}`, child, folder);
    const deadline = Date.now() + 40_000;
    // That one answers is not enough: it could be another test's that was given the same port.
    while ((await fourLetterWord(server.address, 'ruok')) !== 'imok' || child.exitCode !== null) {
      if (Date.now() > deadline || child.exitCode !== null) {
        await server.close();
        throw new Error('Apache ZooKeeper does not start');
      }
      await delay(100);
    }
    return server;
  }

  async close(): Promise<void> {
    if (this.process.exitCode === null && this.process.kill('SIGKILL')) await once(this.process, 'exit');
    await rm(this.folder, { recursive: true, force: true });
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
