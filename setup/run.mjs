#!/usr/bin/env node
// npm run demo | npm test | npm run bench | npm run vm: sets up what is missing, then does it.
import { spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { prepareCassandra } from './cassandra.mjs';
import { callersFolder } from './job.mjs';
import { BUILD_PACKAGES, installPackages, RUNTIME_PACKAGES, TEST_PACKAGES, VM_PACKAGES } from './packages.mjs';
import { SetupError, say } from './progress.mjs';
import { buildNative, buildTypeScript, checkNode, installModules } from './project.mjs';
import { onHost, runOnKernel } from './run-on-kernel.mjs';
import { runTests } from './tests.mjs';

const USAGE = `usage:
  npm run demo [-- ARGUMENTS]
  npm test [-- FILE... | FOLDER... | OPTIONS OF AVA]
  npm run bench -- NAME [--json] [--quick]
  npm run vm [-- [--timeout SECONDS] [--memory MB] [--cpus N] COMMAND ARGUMENTS...]`;

/** Benchmarks of programs that need no kernel of their own: on this machine they have its disk and all its processors. */
const HOST_BENCHES = new Set(['api', 'nsdb', 'simulate']);

const checkout = dirname(dirname(fileURLToPath(import.meta.url)));

/** @returns {Promise<number>} the exit status */
async function main(/** @type {string[]} */ words) {
  const [what, ...rest] = words;
  switch (what) {
    case 'demo':
      setUp(kernelPackages());
      return runProgram('build/test/demo/demo.js', rest);
    case 'bench':
      if (rest.some((word) => HOST_BENCHES.has(word))) {
        setUp(TEST_PACKAGES);
        build();
        return runHere([`${checkout}/build/test/bench/bench.js`, ...rest]);
      }
      setUp(kernelPackages());
      return runProgram('build/test/bench/bench.js', rest);
    case 'test':
      setUp([...kernelPackages(), ...TEST_PACKAGES]);
      prepareCassandra();
      return runTests(checkout, rest);
    case 'vm': {
      const { command, options } = vmArguments(rest);
      setUp(kernelPackages());
      build();
      return runOnKernel(command, { checkout, folder: callersFolder(checkout), ...options });
    }
    default:
      throw new SetupError(USAGE);
  }
}

/** For what runs on a kernel with openvswitch. */
function kernelPackages() {
  return [...(onHost() ? ['kmod'] : VM_PACKAGES), ...RUNTIME_PACKAGES];
}

/** All but TypeScript. */
function setUp(/** @type {string[]} */ packages) {
  checkNode(checkout);
  installPackages([...BUILD_PACKAGES, ...packages]);
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

/** On this machine as it is: Ctrl-C reaches both, and the program decides. */
function runHere(/** @type {string[]} */ words) {
  const { status, signal } = spawnSync(process.execPath, words, { stdio: 'inherit' });
  return status ?? 128 + constants.signals[signal ?? 'SIGKILL'];
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
