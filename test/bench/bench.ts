import { benchApi } from './api.js';
import { benchCni } from './cni.js';
import type { Figure } from './figure.js';
import { benchNsdb } from './nsdb.js';
import { benchRuleChange } from './rule-change.js';
import { benchSimulate } from './simulate.js';
import { benchThroughput } from './throughput.js';

const BENCHES: Readonly<Record<string, (progress: (text: string) => void, quick: boolean) => Promise<Figure[]>>> = {
  api: benchApi,
  cni: benchCni,
  nsdb: benchNsdb,
  'rule-change': benchRuleChange,
  simulate: benchSimulate,
  throughput: benchThroughput,
};

const words = process.argv.slice(2).filter((word) => word !== '--');
const json = words.includes('--json');
const quick = words.includes('--quick');
const names = words.filter((word) => !word.startsWith('--'));
if (words.includes('--help') || names.length !== 1 || BENCHES[names[0]] === undefined) {
  process.stderr.write(
    `usage: npm run bench -- NAME [--json] [--quick]\n\nNAME is ${Object.keys(BENCHES).join(', ')}. --quick: fewer and shorter rounds, where a benchmark has them.\n\nExample:\n  $ npm run bench -- cni --json\n`,
  );
  process.exit(words.includes('--help') ? 0 : 2);
}
const figures = await BENCHES[names[0]]((text) => process.stderr.write(`${text}\n`), quick);
for (const figure of figures) {
  if (json) process.stdout.write(`${JSON.stringify(figure)}\n`);
  else {
    const { bench, unit, ours, peer, ratio } = figure;
    const against = peer === undefined ? '' : `, ${peer.name} ${peer.p50} (p99 ${peer.p99}), ratio ${ratio}`;
    process.stdout.write(`${bench}: ours ${ours.p50} ${unit} (p99 ${ours.p99})${against}\n`);
  }
}
process.exit(0);
