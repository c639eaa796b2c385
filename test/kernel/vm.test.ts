import { execFile } from 'node:child_process';
import { readFile, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { BUSYBOX_IMAGE, busyboxImage } from './image.js';
import { Containerd, podman } from './runtimes.js';

const run = promisify(execFile);

/** From linux/magic.h. */
const TMPFS_MAGIC = 0x01021994;

const image = join(tmpdir(), `busybox-${process.pid}.tar`);

test.before(() => busyboxImage(image));
test.after.always(() => rm(image, { force: true }));

test('the kernel has what the datapath needs, on demand', async (t) => {
  await run('modprobe', ['openvswitch']);
  await run('ip', ['netns', 'add', 'needs']);
  try {
    for (const kind of [
      ['vxlan', 'external', 'dstport', '4789'],
      ['gretap', 'external'],
      ['veth', 'peer', 'name', 'peer'],
      ['bridge'],
    ]) {
      await t.notThrowsAsync(run('ip', ['-n', 'needs', 'link', 'add', `a-${kind[0]}`, 'type', ...kind]));
    }
    const { stdout } = await run('ip', ['-n', 'needs', '-br', 'link']);
    t.regex(stdout, /a-vxlan/);
    t.regex(stdout, /a-gretap/);
  } finally {
    await run('ip', ['netns', 'delete', 'needs']);
  }
});

test('what programs write goes to memory', async (t) => {
  for (const folder of ['/tmp', '/run', '/var/lib/containerd', '/var/lib/containers', '/var/lib/midonet']) {
    t.is((await statfs(folder)).type, TMPFS_MAGIC, folder);
  }
});

test('the address of the loopback interface answers', async (t) => {
  t.regex(await readFile('/proc/net/fib_trie', 'utf8'), /127\.0\.0\.1/);
});

test('containerd runs a container of the busybox image', async (t) => {
  const containerd = await Containerd.start();
  try {
    await containerd.ctr(['images', 'import', image]);
    const out = await containerd.ctr([
      'run',
      '--rm',
      BUSYBOX_IMAGE,
      'hello',
      'sh',
      '-c',
      'echo hello from $(hostname | wc -l)',
    ]);
    t.is(out, 'hello from 1\n');
  } finally {
    await containerd.stop();
  }
});

test('podman runs a container of the busybox image', async (t) => {
  await podman(['load', '-q', '-i', image]);
  t.is(await podman(['run', '--rm', '--network', 'none', BUSYBOX_IMAGE, 'echo', 'hello']), 'hello\n');
});
