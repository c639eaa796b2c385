#!/usr/bin/env node
// npm run demo | npm test | npm run bench | npm run vm: sets up what is missing, then does it.
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { callersFolder } from './job.mjs';
import { BUILD_PACKAGES, installPackages, RUNTIME_PACKAGES, TEST_PACKAGES, VM_PACKAGES } from './packages.mjs';
import { SetupError, say } from './progress.mjs';
import { buildNative, buildTypeScript, checkNode, installModules } from './project.mjs';
import { onHost, runOnKernel } from './run-on-kernel.mjs';
import { runTests } from './tests.mjs';

const USAGE = `usage:
  npm run demo [-- ARGUMENTS]
  npm test [-- FILE... | FOLDER... | OPTIONS OF AVA]
  npm run bench -- NAME [--json]
  npm run vm [-- [--timeout SECONDS] [--memory MB] [--cpus N] COMMAND ARGUMENTS...]`;

const checkout = dirname(dirname(fileURLToPath(import.meta.url)));

/** @returns {Promise<number>} the exit status */
async function main(/** @type {string[]} */ words) {
  const [what, ...rest] = words;
  switch (what) {
    case 'demo':
      setUp([]);
      return runProgram('build/test/demo/demo.js', rest);
    case 'bench':
      setUp([]);
      return runProgram('build/test/bench/bench.js', rest);
    case 'test':
      setUp(TEST_PACKAGES);
      return runTests(checkout, rest);
    case 'vm': {
      const { command, options } = vmArguments(rest);
      setUp([]);
      build();
      return runOnKernel(command, { checkout, folder: callersFolder(checkout), ...options });
    }
    default:
      throw new SetupError(USAGE);
  }
}

/** All but TypeScript. */
function setUp(/** @type {string[]} */ packages) {
  checkNode(checkout);
  installPackages([...BUILD_PACKAGES, ...(onHost() ? ['kmod'] : VM_PACKAGES), ...RUNTIME_PACKAGES, ...packages]);
  installModules(checkout);
  buildNative(checkout);
}

/** Type errors do not keep a program from running: there is output in any case. */
function build() {
  const errors = buildTypeScript(checkout);
  if (errors) say(`going on with type errors, of which ${errors.split('\n')[0]} is the first: see npm run build`);
}

function runProgram(/** @type {string} */ path, /** @type {string[]} */ words) {
  build();
  return runOnKernel(['node', `${checkout}/${path}`, ...words], { checkout, folder: callersFolder(checkout) });
}

/** The launcher's own options come before the command. */
function vmArguments(/** @type {string[]} */ words) {
  /** @type {{timeout?: number, memory?: number, cpus?: number}} */
  const options = {};
  const rest = [...words];
  while (rest[0]?.startsWith('-')) {
    const [word = '', inline] = (rest.shift() ?? '').split('=');
    if (word === '--') break;
    if (word !== '--timeout' && word !== '--memory' && word !== '--cpus')
      throw new SetupError(`unknown option ${word}\n${USAGE}`);
    const text = inline ?? rest.shift();
    const value = Number(text);
    if (!Number.isInteger(value) || value <= 0)
      throw new SetupError(`${word} must be a positive whole number, not ${text}`);
    options[/** @type {'timeout' | 'memory' | 'cpus'} */ (word.slice(2))] = value;
  }
  return { command: rest.length > 0 ? rest : [process.env.SHELL || 'bash'], options };
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(error.message);
  process.exitCode = 1;
}
