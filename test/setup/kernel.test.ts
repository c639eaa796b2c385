import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { cpioArchive } from '#setup/cpio.mjs';
import { hashOf, modulesInOrder } from '#setup/kernel.mjs';
import { SetupError } from '#setup/progress.mjs';
import { checkVmPath } from '#setup/vm.mjs';

test('modules come after those they need, once each; what is built in is left out', (t) => {
  const dep = [
    'kernel/fs/9p/9p.ko.xz: kernel/fs/fscache.ko.xz kernel/net/9p/9pnet.ko.xz',
    'kernel/fs/fscache.ko.xz: kernel/fs/netfs.ko.xz',
    'kernel/fs/netfs.ko.xz:',
    'kernel/net/9p/9pnet.ko.xz:',
    'kernel/net/9p/9pnet-virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/drivers/virtio/virtio.ko.xz',
    'kernel/drivers/virtio/virtio.ko.xz:',
    'kernel/other.ko.xz:',
  ].join('\n');
  t.deepEqual(modulesInOrder(dep, ['9pnet_virtio', '9p', 'built_in']), [
    'kernel/net/9p/9pnet.ko.xz',
    'kernel/drivers/virtio/virtio.ko.xz',
    'kernel/net/9p/9pnet-virtio.ko.xz',
    'kernel/fs/netfs.ko.xz',
    'kernel/fs/fscache.ko.xz',
    'kernel/fs/9p/9p.ko.xz',
  ]);
});

test('busybox reads the archive', (t) => {
  const archive = cpioArchive([
    { name: 'folder', mode: 0o40755, data: Buffer.alloc(0) },
    { name: 'folder/odd', mode: 0o100644, data: Buffer.from('12345') },
    { name: 'last', mode: 0o100755, data: Buffer.from('#!/bin/sh\n') },
  ]);
  const read = (...args: string[]) =>
    execFileSync('busybox', ['cpio', '-i', ...args], {
      input: archive,
      encoding: 'utf8',
      stdio: ['pipe', 'pipe', 'ignore'],
    });
  t.deepEqual(read('-t').trim().split('\n'), ['folder', 'folder/odd', 'last']);
  t.is(read('--to-stdout', 'folder/odd'), '12345');
});

test('the stamp of the initramfs differs when any of its sources does', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'stamp-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const files = ['a', 'b'].map((name) => join(folder, name));
  const hash = (...texts: string[]) => {
    texts.forEach((text, at) => {
      writeFileSync(files[at], text);
    });
    return hashOf(files);
  };
  t.is(hash('one', 'two'), hash('one', 'two'));
  t.is(new Set([hash('one', 'two'), hash('onet', 'wo'), hash('one', 'twO'), hash('two', 'one')]).size, 4);
});

test('a path that the VM cannot be told of is refused by name', (t) => {
  for (const path of ['/home/me/midonet', '/srv/Ä+b@c:d~e_f-1.2/midonet']) {
    t.notThrows(() => checkVmPath('the checkout', path));
  }
  for (const path of ['/home/me/my code', '/a,b', '/a"b', '/a*', '/a\n']) {
    t.throws(() => checkVmPath('the checkout', path), {
      instanceOf: SetupError,
      message: /in the path of the checkout/,
    });
  }
  t.throws(() => checkVmPath('TMPDIR', `/${'x'.repeat(107)}`, 107), { message: /more than 107 bytes for TMPDIR/ });
});
