import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Cluster } from '../agent/cluster.js';
import { Dice } from '../dice.js';
import { FRAMES_SOURCE } from '../frames.js';
import { cleanUp, removeFolder } from '../kernel/clean-up.js';
import { compare, type Outcome } from './compare.js';
import { LinuxTwin, runProgram, whatIsMissing } from './linux.js';
import { type Network, randomNetwork } from './network.js';
import { OurTwin } from './ours.js';

/** Networks of the topology behave as those of Linux that are built alike: see docs/development.md. */
const BUDGET_MS = 45_000;
/** Not more than may wait for facts at once. */
const PACKETS = 50;

const first = Number(process.env.MIDONET_SEED ?? 1);

const missing = await whatIsMissing();

let cluster: Cluster;
let folder: string;
let program: string;

test.before(async (t) => {
  if (missing !== undefined) return;
  folder = await mkdtemp(join(tmpdir(), 'twin-'));
  program = join(folder, 'frames');
  await runProgram(['cc', '-O2', '-o', program, FRAMES_SOURCE]);
  t.timeout(300_000);
  cluster = await Cluster.start({ hosts: 2, slowness: 10 });
});

test.after.always(() =>
  cleanUp(
    () => cluster?.close(),
    () => folder && removeFolder(folder),
  ),
);

const isAble = missing === undefined ? test : test.skip;
const why = missing === undefined ? '' : ` (needs ${missing})`;

isAble(`random packets through random networks arrive, are dropped and are translated as in Linux${why}`, async (t) => {
  t.timeout(600_000);
  const end = performance.now() + BUDGET_MS;
  let [networks, sent, arrived] = [0, 0, 0];
  for (let seed = first; networks === 0 || performance.now() < end; seed++) {
    const dice = new Dice(seed);
    const network = randomNetwork(dice);
    const outcome = await run(network, dice);
    networks++;
    sent += outcome.sent;
    arrived += outcome.arrived;
    if (outcome.differences.length === 0) continue;
    t.log(JSON.stringify(network));
    for (const host of cluster.hosts) for (const line of host.warnings.slice(-10)) t.log(host.name, line);
    t.fail(
      `MIDONET_SEED=${seed}: ${outcome.differences.length} of ${outcome.sent} packets\n${outcome.differences.join('\n')}`,
    );
  }
  t.log(`${networks} networks from seed ${first}: ${sent} packets, ${arrived} arrivals`);
  t.true(arrived > sent / 4);
});

async function run(network: Network, dice: Dice): Promise<Outcome> {
  const ours = await OurTwin.build(cluster, network);
  let linux: LinuxTwin | undefined;
  try {
    linux = await LinuxTwin.build(network, program);
    return await compare(ours, linux, network, dice, PACKETS);
  } finally {
    await cleanUp(
      () => ours.close(),
      () => linux?.close(),
    );
  }
}
