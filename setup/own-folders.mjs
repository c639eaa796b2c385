/** Folders that the VM starts empty, and a command on the host's kernel gets empty ones of. */
export const OWN_FOLDERS = [
  '/run',
  '/var/lib/midonet',
  '/var/lib/midonet-test',
  '/var/lib/containerd',
  '/var/lib/containers',
  '/var/lib/docker',
  '/var/lib/cni',
];
