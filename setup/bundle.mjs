// Makes the installed program from the compiled one: a few files instead of some 400, so that it starts in half the time.
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const output = fileURLToPath(new URL('../build/', import.meta.url));
const folder = join(output, 'bundle');

const { metafile } = await build({
  // The database's snapshots are written by a worker thread, which is found beside the program.
  entryPoints: [join(output, 'src/bin/midonet.js'), join(output, 'src/nsdb/embedded/snapshot-worker.js')],
  entryNames: '[name]',
  chunkNames: 'chunk-[hash]',
  outdir: folder,
  metafile: true,
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  sourcemap: true,
  legalComments: 'linked',
  logLevel: 'warning',
  // It finds the addon by its own place.
  external: [join(output, 'src/datapath/netlink/native.js')],
  // Packages in CommonJS ask for Node's own modules by require().
  banner: {
    js: "import { createRequire as requireFrom } from 'node:module';const require = requireFrom(import.meta.url);",
  },
});

// Parts are named after their content, so that a program that was started before the build, and loads some of them only
// when it needs them, still finds its own. What neither this build nor the one before has made goes.
const list = join(folder, 'files.json');
const made = Object.keys(metafile.outputs).map((path) => basename(path));
const kept = new Set([...made, ...filesOfLastBuild(), basename(list)]);
for (const name of readdirSync(folder)) if (!kept.has(name)) rmSync(join(folder, name));
// A list that is cut off would stop every build to come.
writeFileSync(`${list}.new`, JSON.stringify(made));
renameSync(`${list}.new`, list);

/** @returns {string[]} all there are, if no build has left a list */
function filesOfLastBuild() {
  try {
    return JSON.parse(readFileSync(list, 'utf8'));
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ENOENT') throw error;
    return readdirSync(folder);
  }
}
