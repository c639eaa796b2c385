import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** The name under which container runtimes know the image of busyboxImage(). */
export const BUSYBOX_IMAGE = 'docker.io/library/busybox:latest';

/** Applets a test is likely to call by name; any other is `busybox NAME`. */
const APPLETS = ['sh', 'cat', 'echo', 'ls', 'sleep', 'true', 'ip', 'ping', 'nc', 'wget', 'httpd', 'nslookup', 'udhcpc'];

/**
 * Writes an OCI image layout as a tar archive (OCI image-spec 1.0, image-layout.md) that holds the host's static busybox.
 * `ctr images import FILE` and `podman load -i FILE` take it under the name BUSYBOX_IMAGE: no registry, no network.
 *
 * @throws Error when there is no /bin/busybox (package busybox-static)
 */
export async function busyboxImage(file: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'busybox-image-'));
  try {
    const root = join(folder, 'root');
    for (const name of ['bin', 'dev', 'etc', 'proc', 'sys', 'tmp']) await mkdir(join(root, name), { recursive: true });
    await copyFile('/bin/busybox', join(root, 'bin/busybox'));
    await chmod(join(root, 'bin/busybox'), 0o755);
    for (const name of APPLETS) await symlink('busybox', join(root, 'bin', name));
    await writeFile(join(root, 'etc/passwd'), 'root:x:0:0:root:/:/bin/sh\n');
    const layer = join(folder, 'layer.tar');
    await run('tar', ['--owner=0', '--group=0', '--numeric-owner', '-C', root, '-cf', layer, '.']);

    const layout = join(folder, 'layout');
    await mkdir(join(layout, 'blobs/sha256'), { recursive: true });
    const layerBlob = await addBlob(layout, 'application/vnd.oci.image.layer.v1.tar', await readFile(layer));
    const config = await addBlob(
      layout,
      'application/vnd.oci.image.config.v1+json',
      json({
        architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
        os: 'linux',
        config: { Cmd: ['/bin/sh'], Env: ['PATH=/bin'] },
        rootfs: { type: 'layers', diff_ids: [layerBlob.digest] },
      }),
    );
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const manifest = await addBlob(
      layout,
      mediaType,
      json({ schemaVersion: 2, mediaType, config, layers: [layerBlob] }),
    );
    // containerd takes the name from its own annotation, podman from the specification's.
    const annotations = {
      'io.containerd.image.name': BUSYBOX_IMAGE,
      'org.opencontainers.image.ref.name': BUSYBOX_IMAGE,
    };
    await writeFile(join(layout, 'index.json'), json({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }));
    await writeFile(join(layout, 'oci-layout'), json({ imageLayoutVersion: '1.0.0' }));
    await run('tar', ['-C', layout, '-cf', file, 'oci-layout', 'index.json', 'blobs']);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

async function addBlob(layout: string, mediaType: string, data: Buffer): Promise<Descriptor> {
  const digest = createHash('sha256').update(data).digest('hex');
  await writeFile(join(layout, 'blobs/sha256', digest), data);
  return { mediaType, digest: `sha256:${digest}`, size: data.length };
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
