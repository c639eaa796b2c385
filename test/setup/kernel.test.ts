import { execFileSync } from 'node:child_process';
import test from 'ava';
import { cpioArchive } from '#setup/cpio.mjs';
import { modulesInOrder } from '#setup/kernel.mjs';

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
