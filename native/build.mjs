// Compiles what is not TypeScript: native/*.cc to build/native/midonet.node and cni/*.c to build/cni/midonet. Does nothing
// where the outputs are newer than their sources. Runs as npm's install script, so it needs npm's packages and a compiler only.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Files of a folder of the project whose names end in one of `extensions`. */
function sources(folder, extensions) {
  const path = join(root, folder);
  if (!existsSync(path)) {
    return [];
  }
  return readdirSync(path)
    .filter((name) => extensions.some((extension) => name.endsWith(extension)))
    .sort()
    .map((name) => join(path, name));
}

/** The include folder of an npm package. */
function includes(name, folder) {
  const path = join(root, 'node_modules', name, folder);
  if (!existsSync(path)) {
    throw new Error(`${relative(root, path) || path} is missing: run "npm ci" first`);
  }
  return path;
}

function isFresh(output, inputs) {
  if (!existsSync(output)) {
    return false;
  }
  const built = statSync(output).mtimeMs;
  return inputs.every((input) => statSync(input).mtimeMs < built);
}

function compile(compiler, compilerArguments, output, inputs) {
  if (isFresh(output, inputs)) {
    return;
  }
  mkdirSync(dirname(output), { recursive: true });
  const unfinished = `${output}.${process.pid}`;
  try {
    const [command, ...first] = compiler.split(' ');
    const result = spawnSync(command, [...first, ...compilerArguments, '-o', unfinished], { stdio: 'inherit' });
    if (result.error?.code === 'ENOENT') {
      throw new Error(`no compiler: "${command}" was not found. On Debian: apt-get install g++, or set CXX and CC`);
    }
    if (result.error) {
      throw result.error;
    }
    if (result.status !== 0) {
      throw new Error(
        `${compiler} could not compile ${relative(root, output)} (${result.signal ?? `exit code ${result.status}`})`,
      );
    }
    renameSync(unfinished, output);
  } finally {
    rmSync(unfinished, { force: true });
  }
}

function buildAddon() {
  const units = sources('native', ['.cc']);
  const inputs = [...units, ...sources('native', ['.h']), fileURLToPath(import.meta.url)];
  const output = join(root, 'build/native/midonet.node');
  compile(
    process.env.CXX || 'c++',
    [
      ...['-O2', '-std=c++17', '-shared', '-fPIC', '-fvisibility=hidden', '-fno-exceptions', '-Wall', '-Wextra'],
      ...['-DNAPI_VERSION=8', '-DNODE_ADDON_API_DISABLE_CPP_EXCEPTIONS', '-DNODE_GYP_MODULE_NAME=midonet'],
      ...['-isystem', includes('node-addon-api', '.'), '-isystem', includes('node-api-headers', 'include')],
      ...units,
    ],
    output,
    inputs,
  );
}

function buildCni() {
  const units = sources('cni', ['.c']);
  if (units.length > 0) {
    const inputs = [...units, ...sources('cni', ['.h']), fileURLToPath(import.meta.url)];
    const output = join(root, 'build/cni/midonet');
    compile(
      process.env.CC || 'cc',
      ['-Os', '-std=gnu11', '-static', '-s', '-Wall', '-Wextra', ...units],
      output,
      inputs,
    );
  }
}

try {
  buildAddon();
  buildCni();
} catch (error) {
  console.error(`native/build.mjs: ${error.message}`);
  process.exitCode = 1;
}
