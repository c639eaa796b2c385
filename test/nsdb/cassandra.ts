import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { cassandraFolder } from '#setup/cassandra.mjs';
import { freePort } from './apache-zookeeper.js';

const START_LIMIT_MS = 100_000;
const READY = 'Starting listening for CQL clients';

/** What Cassandra reaches into that Java 17 keeps to itself. */
const EXPORTS = [
  ...['java.base/jdk.internal.misc', 'java.base/jdk.internal.ref', 'java.base/sun.nio.ch', 'java.sql/java.sql'],
  ...['java.management.rmi/com.sun.jmx.remote.internal.rmi', 'java.rmi/sun.rmi.registry', 'java.rmi/sun.rmi.server'],
];
const OPENS = [
  ...[
    'io',
    'lang',
    'lang.module',
    'lang.reflect',
    'net',
    'nio',
    'util',
    'util.concurrent',
    'util.concurrent.atomic',
  ].map((name) => `java.base/java.${name}`),
  ...['loader', 'math', 'module', 'ref', 'reflect', 'util.jar'].map((name) => `java.base/jdk.internal.${name}`),
  ...['java.base/sun.nio.ch', 'jdk.management/com.sun.management.internal'],
];

const LOGBACK = `<configuration>
  <appender name="STDOUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%level %msg%n</pattern></encoder></appender>
  <root level="WARN"><appender-ref ref="STDOUT"/></root>
  <logger name="org.apache.cassandra.transport" level="INFO"/>
</configuration>
`;

/** One Cassandra on a loopback port, from its jars, with a folder of its own. It can be stopped and started again. */
export class Cassandra {
  #process: ChildProcess | undefined;

  private constructor(
    /** host:port of its native protocol. */
    readonly address: string,
    private readonly folder: string,
  ) {}

  static async start(): Promise<Cassandra> {
    const folder = await mkdtemp(join(tmpdir(), 'midonet-cassandra-'));
    const [port, storagePort] = [await freePort(), await freePort()];
    const settings = {
      cluster_name: 'test',
      num_tokens: 1,
      partitioner: 'org.apache.cassandra.dht.Murmur3Partitioner',
      // It is stopped by SIGKILL, and what was acknowledged must be there afterwards.
      commitlog_sync: 'batch',
      endpoint_snitch: 'SimpleSnitch',
      seed_provider: [
        {
          class_name: 'org.apache.cassandra.locator.SimpleSeedProvider',
          parameters: [{ seeds: `127.0.0.1:${storagePort}` }],
        },
      ],
      listen_address: '127.0.0.1',
      storage_port: storagePort,
      rpc_address: '127.0.0.1',
      native_transport_port: port,
      data_file_directories: [join(folder, 'data')],
      commitlog_directory: join(folder, 'commitlog'),
      hints_directory: join(folder, 'hints'),
      saved_caches_directory: join(folder, 'caches'),
      auto_snapshot: false,
    };
    // JSON is YAML.
    await writeFile(join(folder, 'cassandra.yaml'), JSON.stringify(settings));
    await writeFile(join(folder, 'logback.xml'), LOGBACK);
    const server = new Cassandra(`127.0.0.1:${port}`, folder);
    try {
      await server.resume();
    } catch (error) {
      await server.close();
      throw error;
    }
    return server;
  }

  /** Start it again after {@link stop}; returns when it answers. */
  async resume(): Promise<void> {
    const options = [
      ...[
        '-Xms256m',
        '-Xmx512m',
        '-XX:+UseSerialGC',
        '-XX:TieredStopAtLevel=1',
        '-Djdk.attach.allowAttachSelf=true',
        `-javaagent:${join(cassandraFolder(), 'jamm-0.4.0.jar')}`,
      ],
      ...EXPORTS.flatMap((name) => ['--add-exports', `${name}=ALL-UNNAMED`]),
      ...OPENS.flatMap((name) => ['--add-opens', `${name}=ALL-UNNAMED`]),
      `-Dcassandra.config=file://${join(this.folder, 'cassandra.yaml')}`,
      `-Dcassandra.storagedir=${this.folder}`,
      `-Dlogback.configurationFile=${join(this.folder, 'logback.xml')}`,
      ...[
        '-Dcassandra.ring_delay_ms=100',
        '-Dcassandra.skip_wait_for_gossip_to_settle=0',
        '-Dcassandra-foreground=true',
      ],
      ...['-cp', join(cassandraFolder(), '*'), 'org.apache.cassandra.service.CassandraDaemon'],
    ];
    const child = spawn('java', options, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = child;
    let output = '';
    const read = (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-20_000);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    const end = Date.now() + START_LIMIT_MS;
    while (!output.includes(READY)) {
      if (child.exitCode !== null || Date.now() > end)
        throw new Error(`Cassandra does not start: ${output.slice(-2000)}`);
      await delay(100);
    }
  }

  /** As a crash would. Data stay. */
  async stop(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child !== undefined && child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit');
  }

  async close(): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}
