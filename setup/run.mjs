#!/usr/bin/env node
// npm run demo | npm test | npm run bench | npm run vm: sets up what is missing, then does it.
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SetupError, say } from './progress.mjs';
import { callersFolder, runInVm } from './vm.mjs';

const checkout = dirname(dirname(fileURLToPath(import.meta.url)));

/** @returns {Promise<number>} */
async function main(/** @type {string[]} */ words) {
  const [what, ...rest] = words;
  if (what === 'vm') return runInVm(rest.length > 0 ? rest : ['bash'], { checkout, folder: callersFolder(checkout) });
  throw new SetupError(`usage: node setup/run.mjs demo|test|bench|vm [ARGUMENTS], not ${what}`);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(error.message);
  process.exitCode = 1;
}
