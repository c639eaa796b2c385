// Debian's kernel for the VM: fetched as a package, unpacked in the cache (never installed), with an initramfs.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, join, relative } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { cpioArchive } from './cpio.mjs';
import { OWN_FOLDERS } from './own-folders.mjs';
import { PLAIN_LANGUAGE, updateLists } from './packages.mjs';
import { SetupError, say, stderrOf } from './progress.mjs';

/** What the initramfs must be able to do before it sees the host's files, and the VM's serial ports. */
const EARLY_MODULES = ['virtio_pci', 'virtio_console', '9pnet_virtio', '9p', 'overlay'];

const GUEST_INIT = new URL('./guest/init.sh', import.meta.url);
const BUSYBOX = '/bin/busybox';

/** What decides, with the kernel, what is in the initramfs. */
const INITRAMFS_SOURCES = [
  GUEST_INIT,
  BUSYBOX,
  ...['./kernel.mjs', './cpio.mjs', './own-folders.mjs'].map((name) => new URL(name, import.meta.url)),
];

/** The folder for what is fetched or found out once per machine. */
export function cacheFolder() {
  if (process.env.MIDONET_CACHE) return process.env.MIDONET_CACHE;
  if (process.getuid?.() === 0) return '/var/cache/midonet-vm';
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'midonet-vm');
}

/**
 * @typedef {object} Kernel
 * @property {string} image path of an ELF kernel (boots by PVH, with nothing to decompress) or of a bzImage
 * @property {string} initrd path of the initramfs
 * @property {string} modules folder of the modules, with modules.dep
 * @property {string} release as in uname -r
 */

/**
 * Fetches, unpacks and prepares the kernel unless the cache has it.
 * @returns {Kernel}
 */
export function prepareKernel() {
  const folder = join(cacheFolder(), 'kernel');
  const ready = join(folder, 'ready.json');
  if (!existsSync(ready)) {
    // Made beside its place: two set-ups may do so at once, or one may be interrupted.
    const part = `${folder}.${process.pid}`;
    try {
      mkdirSync(part, { recursive: true });
      fetchKernel(part);
      writeFileSync(join(part, 'ready.json'), JSON.stringify(describeKernel(part)));
      if (!existsSync(ready)) {
        rmSync(folder, { recursive: true, force: true });
        renameSync(part, folder);
      }
    } finally {
      rmSync(part, { recursive: true, force: true });
    }
  }
  const { image, modules, release } = JSON.parse(readFileSync(ready, 'utf8'));
  const kernel = { image: join(folder, image), modules: join(folder, modules), release, initrd: '' };
  kernel.initrd = prepareInitramfs(kernel);
  return kernel;
}

function fetchKernel(/** @type {string} */ folder) {
  if (process.arch !== 'x64') throw new SetupError(`the VM needs an x86-64 machine, this one is ${process.arch}`);
  let failure = downloadKernel(folder);
  if (failure) {
    // The lists may be missing, or so old that what they name is gone.
    updateLists();
    failure = downloadKernel(folder);
  }
  if (failure) throw new SetupError(`cannot fetch the kernel for the VM: ${failure}`);
  const archive = readdirSync(folder).find((file) => file.endsWith('.deb'));
  if (!archive) throw new SetupError(`apt-get download left no package in ${folder}`);
  say('unpacking the kernel');
  execFileSync('dpkg-deb', ['-x', join(folder, archive), join(folder, 'root')], { env: PLAIN_LANGUAGE });
  rmSync(join(folder, archive));
}

/** @returns {string | undefined} why it failed */
function downloadKernel(/** @type {string} */ folder) {
  try {
    const depends = execFileSync('apt-cache', ['depends', 'linux-image-amd64'], {
      encoding: 'utf8',
      stdio: 'pipe',
      env: PLAIN_LANGUAGE,
    });
    const name = /Depends: (linux-image-\d\S+)/.exec(depends)?.[1];
    if (!name) return 'apt knows no linux-image-amd64; is this Debian?';
    say(`fetching ${name} (about 70 MB)`);
    // As root apt would download as the user _apt, who may not write here.
    execFileSync('apt-get', ['-q', '-o', 'APT::Sandbox::User=root', 'download', name], {
      cwd: folder,
      stdio: 'pipe',
      env: PLAIN_LANGUAGE,
    });
    return undefined;
  } catch (error) {
    return stderrOf(error);
  }
}

/** What ready.json holds; paths are relative to the folder. */
function describeKernel(/** @type {string} */ folder) {
  const root = join(folder, 'root');
  // Before Debian 13 the package has /lib, from then on /usr/lib.
  const library = ['lib/modules', 'usr/lib/modules'].map((path) => join(root, path)).find((path) => existsSync(path));
  const release = library && readdirSync(library)[0];
  if (!library || !release) throw new SetupError(`no modules in ${root}`);
  const modules = join(library, release);
  const base = join(library, '../..');
  if (!existsSync(join(base, 'lib'))) throw new SetupError(`no lib folder in ${base}`);
  execFileSync('/sbin/depmod', ['-b', base, release]);
  const compressed = join(root, 'boot', `vmlinuz-${release}`);
  const plain = join(folder, 'vmlinux');
  let image = compressed;
  try {
    writeFileSync(plain, unpackKernel(readFileSync(compressed)));
    image = plain;
  } catch (error) {
    say(`cannot unpack ${basename(compressed)} (${stderrOf(error)}): the VM will, a second slower`);
  }
  return { image: relative(folder, image), modules: relative(folder, modules), release };
}

/**
 * The ELF kernel in a bzImage: header fields setup_sects, payload_offset and payload_length of Documentation/x86/boot.rst.
 * Decompressing it once here saves a second or more at every boot under emulation.
 */
function unpackKernel(/** @type {Buffer} */ bzImage) {
  if (bzImage.toString('latin1', 0x202, 0x206) !== 'HdrS') throw new Error('not a bzImage');
  const start = ((bzImage[0x1f1] || 4) + 1) * 512 + bzImage.readUInt32LE(0x248);
  // The last four bytes are the decompressed size, appended by the kernel's build.
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(0x24c) - 4);
  const kernel = decompress(payload);
  if (kernel.toString('latin1', 1, 4) !== 'ELF') throw new Error('no ELF file in it');
  return kernel;
}

function decompress(/** @type {Buffer} */ data) {
  const options = { input: data, maxBuffer: 1 << 29 };
  if (data.readUInt16BE(0) === 0x1f8b) return gunzipSync(data);
  if (data.readUInt32BE(0) === 0xfd377a58) return execFileSync('xz', ['-dcq', '--single-stream'], options);
  if (data.readUInt32BE(0) === 0x28b52ffd) return execFileSync('zstd', ['-dcq'], options);
  throw new Error(`unknown compression ${data.toString('hex', 0, 4)}`);
}

/** The initramfs holds busybox, the early modules in the order of insertion and guest/init.sh; made again when one changes. */
function prepareInitramfs(/** @type {Kernel} */ kernel) {
  const path = join(cacheFolder(), 'kernel', 'initramfs.gz');
  const stamp = join(cacheFolder(), 'kernel', 'initramfs.sha256');
  const hash = hashOf(INITRAMFS_SOURCES);
  if (existsSync(path) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return path;
  const folder = (/** @type {string} */ name) => ({ name, mode: 0o40755, data: Buffer.alloc(0) });
  const order = modulesInOrder(readFileSync(join(kernel.modules, 'modules.dep'), 'utf8'), EARLY_MODULES);
  const names = order.map((file) => basename(file).replace(/\.(xz|gz|zst)$/, ''));
  const entries = [
    ...['bin', 'dev', 'proc', 'modules', 'host', 'layer', 'root'].map(folder),
    { name: 'dev/console', mode: 0o20600, data: Buffer.alloc(0), device: /** @type {[number, number]} */ ([5, 1]) },
    { name: 'bin/busybox', mode: 0o100755, data: readFileSync(BUSYBOX) },
    { name: 'init', mode: 0o100755, data: readFileSync(GUEST_INIT) },
    { name: 'own-folders', mode: 0o100644, data: lines(OWN_FOLDERS) },
    { name: 'modules/order', mode: 0o100644, data: lines(names) },
    ...order.map((file, index) => {
      const data = readFileSync(join(kernel.modules, file));
      return { name: `modules/${names[index]}`, mode: 0o100644, data: file.endsWith('.ko') ? data : decompress(data) };
    }),
  ];
  writeAtomically(path, gzipSync(cpioArchive(entries), { level: 1 }));
  writeAtomically(stamp, hash);
  return path;
}

function lines(/** @type {string[]} */ words) {
  return Buffer.from(words.map((word) => `${word}\n`).join(''));
}

/** SHA-256 of files, with where each ends. */
export function hashOf(/** @type {(string | URL)[]} */ files) {
  const hash = createHash('sha256');
  for (const file of files) {
    const data = readFileSync(file);
    hash.update(`${data.length}:`).update(data);
  }
  return hash.digest('hex');
}

/**
 * The files to insert for these modules, each after those it depends on. A module built into the kernel has none.
 * @param {string} dep the text of modules.dep
 * @param {string[]} wanted module names
 */
export function modulesInOrder(dep, wanted) {
  /** @type {Map<string, {file: string, needs: string[]}>} */
  const byName = new Map();
  const nameOf = (/** @type {string} */ file) =>
    basename(file)
      .replace(/\.ko(\.\w+)?$/, '')
      .replaceAll('-', '_');
  for (const line of dep.split('\n')) {
    const colon = line.indexOf(':');
    if (colon < 0) continue;
    const file = line.slice(0, colon);
    const needs = line
      .slice(colon + 1)
      .split(' ')
      .filter(Boolean);
    byName.set(nameOf(file), { file, needs });
  }
  /** @type {Set<string>} */
  const order = new Set();
  const add = (/** @type {string} */ name) => {
    const module = byName.get(name);
    if (!module || order.has(module.file)) return;
    for (const needed of module.needs) add(nameOf(needed));
    order.add(module.file);
  };
  for (const name of wanted) add(name.replaceAll('-', '_'));
  return [...order];
}

/** Two set-ups may run at once: neither may see half a file. */
export function writeAtomically(/** @type {string} */ path, /** @type {Buffer | string} */ data) {
  const part = `${path}.${process.pid}`;
  const file = openSync(part, 'w');
  try {
    writeFileSync(file, data);
  } finally {
    closeSync(file);
  }
  renameSync(part, path);
}
