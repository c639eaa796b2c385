/**
 * ZooKeeper's own command-line client, as its script zkCli.sh starts it: the same commands to Apache ZooKeeper and to the
 * embedded server, and what it prints of both.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';
import { until } from '../compliance/store.js';
import { ApacheZookeeper, JAVA, JAVA_OPTIONS } from './apache-zookeeper.js';

const SCRIPT = `
ls /
ls -R /
config
config -s
whoami
create /a one
create /a again
create /none/x
create -e /e x
create /e/child
create -s /a/s- y
create -e -s /a/es- z
create /a/deep
create /a/deep/er text
ls /a
ls -s /a
ls -R /a
ls /none
get /a
get -s /a
get /none
set /a two
set -s /a three
set -v 2 /a four
set -v 0 /a five
stat /a
stat /e
stat /none
getAllChildrenNumber /
getAllChildrenNumber /a
getAllChildrenNumber /none
getEphemerals
getEphemerals /a
getEphemerals /none
sync /a
getAcl /a
getAcl -s /a
getAcl /none
getAcl /zookeeper/config
create /mine x auth::crwda
addauth digest user:word
whoami
create /mine x auth::crwda
getAcl /mine
setAcl /mine world:anyone:rwa
getAcl -s /mine
setAcl -v 9 /mine world:anyone:cdrwa
setAcl -s /mine world:anyone:cdrwa,digest:user:x:r
setAcl /mine world:nobody:r
setAcl /mine what:ever:r
setAcl /mine world:anyone:ra
set /mine y
create /mine/child
get /mine
setAcl /mine world:anyone:a
get /mine
ls /mine
stat /mine
delete /mine
get -w /a
set /a fires
ls -w /a
create /a/fires
stat -w /none
create /none
addWatch -m PERSISTENT /a
create /a/persistent
addWatch -m PERSISTENT_RECURSIVE /a/deep
set /a/deep/er fires
removewatches /a
create /a/silent
delete -v 9 /a/silent
delete /a
delete /a/silent
deleteall /a
ls /a
create -t 1000 /ttl
get
bogus
version
history
printwatches off
printwatches
`;
/** Watches that the script makes fire while they are printed. */
const EVENTS = 8;

/** Milliseconds for all commands: a JVM on a machine that others use, too. */
const PATIENCE = 90_000;

const SILENCE = '(it had ended before)';
const VERSION = /^ZooKeeper CLI version: .*$/m;
/** Lines at the end of the script that keep events from being printed. */
const SILENT = 4;
/** What a watch prints: several lines, and another thread's output may come between any two of them. */
const EVENT = /^WatchedEvent (.*)\n/gm;
const ABOUT_EVENT = /^(?:WATCHER::|WatchedEvent .*|)\n/gm;

interface Transcript {
  /** Each command with what was printed until the next. */
  readonly commands: readonly string[];
  /** What watches printed, which they do whenever they like; sorted. */
  readonly events: readonly string[];
}

/** Runs commands; what differs between any two servers (times, zxids, numbers of sessions) is masked. */
async function zkCli(address: string, commands: readonly string[]): Promise<Transcript> {
  const main = 'org.apache.zookeeper.ZooKeeperMain';
  const words = [JAVA, ...JAVA_OPTIONS, main, '-waitforconnection', '-server', address];
  const child = spawn('sh', ['-c', 'exec "$@" 2>&1', 'sh', ...words], { stdio: ['pipe', 'pipe', 'inherit'] });
  // The version tells where the output of one command ends.
  const lines = ['version', ...commands.flatMap((command) => [command, 'version'])];
  child.stdin.write(`${lines.slice(0, -SILENT).join('\n')}\n`);
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  // Another thread prints the events.
  const printed = () => eventsIn(output).length >= EVENTS || child.exitCode !== null;
  await until('the events are printed', printed, PATIENCE).catch((error: unknown) => {
    child.kill('SIGKILL');
    throw error;
  });
  child.stdin.end(`${lines.slice(-SILENT).join('\n')}\n`);
  await once(child.stdout, 'end');
  const parts = mask(output.replaceAll(ABOUT_EVENT, '')).split(VERSION).slice(1, -1);
  return {
    commands: commands.map((command, i) => `${command}\n${(parts[i] ?? SILENCE).trim()}`),
    events: eventsIn(output).sort(),
  };
}

/** What watches printed but for the state of the connection. */
function eventsIn(output: string): string[] {
  return [...output.matchAll(EVENT)].map((match) => match[1]).filter((event) => !event.includes('type:None'));
}

function mask(output: string): string {
  return output
    .replaceAll(/^(ctime|mtime) = .*$/gm, '$1 = TIME')
    .replaceAll(/^(cZxid|mZxid|pZxid) = 0x[0-9a-f]+$/gm, '$1 = ZXID')
    .replaceAll(/^ephemeralOwner = 0x[0-9a-f]{2,}$/gm, 'ephemeralOwner = SESSION')
    .replaceAll(/^(?:(?:ip|digest): .*\n)+/gm, (users) => `${users.trim().split('\n').sort().join('\n')}\n`)
    .replaceAll(/^\[.*\]$/gm, (list) => `[${list.slice(1, -1).split(', ').sort().join(', ')}]`);
}

function commandsOf(script: string): string[] {
  return script.trim().split('\n');
}

async function embedded(): Promise<{ address: string; close(): Promise<void> }> {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const server = await EmbeddedServer.start({ listen: { host: '127.0.0.1', port: 0 }, dataDir });
  return {
    address: server.address,
    close: async () => {
      await server.close();
      await rm(dataDir, { recursive: true });
    },
  };
}

const check = process.env.MIDONET_SKIP_ZOOKEEPER === '1' ? test.skip : test.serial;

check('zkCli.sh prints the same of the embedded server as of Apache ZooKeeper', async (t) => {
  const transcripts: Transcript[] = [];
  for (const start of [() => ApacheZookeeper.start(), embedded]) {
    const server = await start();
    try {
      transcripts.push(await zkCli(server.address, commandsOf(SCRIPT)));
    } finally {
      await server.close();
    }
  }
  const [apache, ours] = transcripts;
  t.true(apache.commands.includes('create /a one\nCreated /a'), apache.commands.join('\n'));
  t.deepEqual(
    apache.commands.filter((command) => command.endsWith(SILENCE)),
    [],
    'it went on to the last command',
  );
  t.deepEqual(ours.commands, apache.commands);
  t.deepEqual(ours.events, apache.events);
  t.log(`${ours.commands.length} commands, ${ours.events.length} events`);
});
