// The project's own set-up: npm's packages, the native parts, TypeScript. Each is left alone when it is up to date.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SetupError, say } from './progress.mjs';

/** Folders whose TypeScript is compiled to a folder of the same name in build/. */
const SOURCES = ['src', 'cni', 'test'];

/** Refuses a Node.js that is too old, by package.json. */
export function checkNode(/** @type {string} */ checkout) {
  const wanted = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8')).engines.node.replace('>=', '');
  const [major = 0, minor = 0] = wanted.split('.').map(Number);
  const [ourMajor = 0, ourMinor = 0] = process.versions.node.split('.').map(Number);
  if (ourMajor < major || (ourMajor === major && ourMinor < minor)) {
    throw new SetupError(`Node.js ${wanted} or later is needed, this is ${process.versions.node}`);
  }
}

/** Installs npm's packages unless node_modules holds just those of package-lock.json. */
export function installModules(/** @type {string} */ checkout) {
  const locked = packagesOf(join(checkout, 'package-lock.json'));
  if (modulesFit(locked, packagesOf(join(checkout, 'node_modules/.package-lock.json')))) return;
  say('npm ci');
  run('npm', ['ci', '--no-audit', '--no-fund'], checkout, 'npm ci failed: is the network there?');
}

/** @returns {Record<string, {version?: string, optional?: boolean, peer?: boolean}>} */
function packagesOf(/** @type {string} */ path) {
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')).packages ?? {}) : {};
}

/**
 * Whether the installed packages are those locked. Optional ones may be absent: they are for other machines.
 * @param {Record<string, {version?: string, optional?: boolean}>} locked
 * @param {Record<string, {version?: string}>} installed
 */
export function modulesFit(locked, installed) {
  if (Object.keys(installed).length === 0) return false;
  return Object.entries(locked).every(([path, { version, optional }]) => {
    if (path === '') return true;
    return installed[path] ? installed[path].version === version : optional === true;
  });
}

/** Compiles the C and C++ parts; native/build.mjs knows by itself what has changed. */
export function buildNative(/** @type {string} */ checkout) {
  run('node', ['native/build.mjs'], checkout, 'the native parts do not compile');
}

/**
 * Compiles TypeScript when a source has changed since the last time that succeeded.
 * @returns {string} the type errors; there is output in any case
 */
export function buildTypeScript(/** @type {string} */ checkout) {
  const stamp = join(checkout, 'build/.sources');
  const state = sourcesState(checkout);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === state) return '';
  say('compiling TypeScript');
  removeOrphans(checkout);
  const result = spawnSync('node', ['node_modules/typescript/bin/tsc', '-p', '.'], {
    cwd: checkout,
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
  });
  if (result.error) throw new SetupError(`cannot run tsc: ${result.error.message}`);
  run('node', ['setup/bundle.mjs'], checkout, 'the program cannot be bundled');
  if (result.status !== 0) return result.stdout.trim() || `tsc ended with ${result.signal ?? result.status}`;
  writeFileSync(stamp, state);
  return '';
}

/** A digest of names, sizes and times of all that tsc reads of ours. */
function sourcesState(/** @type {string} */ checkout) {
  const hash = createHash('sha256');
  const files = SOURCES.flatMap((folder) => filesIn(join(checkout, folder))).filter((file) => /\.m?[jt]s$/.test(file));
  for (const file of [...files.sort(), ...['tsconfig.json', 'package-lock.json'].map((name) => join(checkout, name))]) {
    const { size, mtimeMs } = statSync(file);
    hash.update(`${file} ${size} ${mtimeMs}\n`);
  }
  return hash.digest('hex');
}

/** Removes output whose source is gone: ava would run the test of a file that was deleted or renamed. */
function removeOrphans(/** @type {string} */ checkout) {
  for (const folder of SOURCES) {
    const built = join(checkout, 'build', folder);
    for (const file of filesIn(built)) {
      const source = file.slice(built.length).replace(/\.js(\.map)?$/, '.ts');
      if (/\.js(\.map)?$/.test(file) && !existsSync(join(checkout, folder, source))) rmSync(file);
    }
  }
}

/** @returns {string[]} all files below a folder, which need not exist */
export function filesIn(/** @type {string} */ folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesIn(path) : [path];
  });
}

/** Runs a command whose output is part of the progress, not of the result. */
function run(
  /** @type {string} */ command,
  /** @type {string[]} */ args,
  /** @type {string} */ folder,
  /** @type {string} */ failure,
) {
  const result = spawnSync(command, args, { cwd: folder, stdio: ['ignore', 2, 2] });
  if (result.error) throw new SetupError(`${failure} (${result.error.message})`);
  if (result.status !== 0) throw new SetupError(failure);
}
