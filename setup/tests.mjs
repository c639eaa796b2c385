// npm test: lint and types, then ava once on the host and once in the VM for what needs a kernel with openvswitch.
import { spawn, spawnSync } from 'node:child_process';
import { join, relative, resolve } from 'node:path';
import { AvaOutput, countLine, sum } from './ava-output.mjs';
import { callersFolder } from './job.mjs';
import { SetupError, say } from './progress.mjs';
import { buildTypeScript, filesIn } from './project.mjs';
import { runOnKernel } from './run-on-kernel.mjs';

const AVA = 'node_modules/ava/entrypoints/cli.mjs';

/** What runs in the VM, as compiled. */
const KERNEL_TESTS = 'build/test/kernel/';

/** What takes longer hangs: ava waits for ever for a test file that does not exit. */
const HOST_LIMIT_S = 1500;
const VM_LIMIT_S = 4200;

/** Set by Ctrl-C: what has not begun does not begin any more. */
let interrupted = false;

/** @typedef {import('./ava-output.mjs').Count} Count */

/**
 * Runs all tests, or those of these files and folders. Its last line on stdout is the count.
 * @param {string} checkout
 * @param {string[]} words files (source or compiled) and ava's options
 * @returns {Promise<number>} the exit status
 */
export async function runTests(checkout, words) {
  const wanted = words.filter((word) => !word.startsWith('-'));
  const options = words.filter((word) => word.startsWith('-'));
  /** @type {Count[]} */
  const counts = [];
  if (wanted.length === 0) counts.push(check('biome check', () => lint(checkout)));
  counts.push(check('tsc', () => compile(checkout)));
  const all = filesIn(join(checkout, 'build/test')).map((file) => relative(checkout, file));
  const files = selectTests(
    all,
    wanted.map((word) => relative(checkout, resolve(callersFolder(checkout), word))),
  );
  const host = files.filter((file) => !file.startsWith(KERNEL_TESTS));
  const kernel = files.filter((file) => file.startsWith(KERNEL_TESTS));
  if (host.length > 0) {
    say(`${host.length} test files on this machine`);
    counts.push(await runAva(checkout, [...options, ...host], runHere));
  }
  if (interrupted) {
    say('interrupted');
  } else if (kernel.length > 0) {
    say(`${kernel.length} test files in the VM`);
    // One file at a time: each is a small cluster of processes already, and its waits are bounded.
    counts.push(await runAva(checkout, ['--concurrency', '1', ...options, ...kernel], runThere));
  } else if (wanted.length === 0) {
    say('there are no kernel tests');
  }
  const total = sum(counts);
  // Once more, for who sees no more than the end of a long output.
  for (const failure of total.failures) process.stdout.write(`${failure}\n`);
  process.stdout.write(`${countLine(total)}\n`);
  return total.failed === 0 ? 0 : 1;
}

/**
 * The compiled test files that are asked for.
 * @param {string[]} all files, relative to the checkout
 * @param {string[]} wanted files or folders, in test/ or build/test/, relative to the checkout; all when there is none
 */
export function selectTests(all, wanted) {
  const tests = all.filter((file) => file.endsWith('.test.js')).sort();
  if (wanted.length === 0) return tests;
  const chosen = new Set();
  for (const word of wanted) {
    const compiled = word
      .replace(/^(?!build\/)/, 'build/')
      .replace(/\.ts$/, '.js')
      .replace(/\/$/, '');
    const found = tests.filter((file) => file === compiled || file.startsWith(`${compiled}/`));
    if (found.length === 0) throw new SetupError(`no test file is ${word}, or in a folder of that name`);
    for (const file of found) chosen.add(file);
  }
  return tests.filter((file) => chosen.has(file));
}

/** A check that counts only when it fails: it is no test. */
function check(/** @type {string} */ name, /** @type {() => boolean} */ passes) {
  if (passes()) return { passed: 0, failed: 0, skipped: 0, failures: [] };
  say(`${name} failed`);
  return { passed: 0, failed: 1, skipped: 0, failures: [`${name} failed`] };
}

function compile(/** @type {string} */ checkout) {
  const errors = buildTypeScript(checkout);
  if (errors) process.stderr.write(`${errors}\n`);
  return errors === '';
}

function lint(/** @type {string} */ checkout) {
  const biome = ['node_modules/@biomejs/biome/bin/biome', 'check', '.'];
  const types = ['node_modules/typescript/bin/tsc', '-p', 'setup'];
  return [biome, types]
    .map((args) => spawnSync('node', args, { cwd: checkout, stdio: ['ignore', 2, 2] }).status === 0)
    .every(Boolean);
}

/** @typedef {(checkout: string, args: string[], onOutput: (chunk: Buffer) => void) => Promise<number>} Runner */

/** @returns {Promise<Count>} */
async function runAva(/** @type {string} */ checkout, /** @type {string[]} */ args, /** @type {Runner} */ run) {
  const output = new AvaOutput();
  let status = 1;
  try {
    status = await run(checkout, args, (chunk) => {
      output.push(chunk);
      process.stdout.write(chunk);
    });
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(error.message);
  }
  if (status !== 0) say(`ava ended with exit status ${status}`);
  return output.end(status);
}

/** @type {Runner} */
function runHere(checkout, args, onOutput) {
  return new Promise((resolve) => {
    const ava = spawn('node', [AVA, ...args], {
      cwd: checkout,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: avaEnvironment(),
      detached: true,
    });
    // The whole group: the processes of its test files with it.
    const end = () => ava.pid !== undefined && process.kill(-ava.pid, 'SIGKILL');
    const interrupt = () => {
      interrupted = true;
      end();
    };
    const timer = setTimeout(() => {
      say(`ava is ended after ${HOST_LIMIT_S} s`);
      end();
    }, HOST_LIMIT_S * 1000);
    process.once('SIGINT', interrupt).once('SIGTERM', interrupt).once('SIGHUP', interrupt);
    ava.stdout.on('data', onOutput);
    ava.once('error', () => resolve(127));
    ava.once('close', (code) => {
      clearTimeout(timer);
      process.off('SIGINT', interrupt).off('SIGTERM', interrupt).off('SIGHUP', interrupt);
      resolve(code ?? 1);
    });
  });
}

/** @type {Runner} */
function runThere(checkout, args, onOutput) {
  const environment = avaEnvironment();
  return runOnKernel(['node', AVA, ...args], {
    checkout,
    folder: checkout,
    timeout: VM_LIMIT_S,
    onOutput,
    environment,
  });
}

/** ava draws its marks in ASCII, which are not told from other output, where TERM is linux; and colours go where they show. */
function avaEnvironment() {
  const environment = { ...process.env };
  if (!environment.TERM || environment.TERM === 'linux') environment.TERM = 'dumb';
  if (process.stdout.isTTY) environment.FORCE_COLOR ??= '1';
  return environment;
}
