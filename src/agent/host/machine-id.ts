import { readFile, readlink, stat } from 'node:fs/promises';

/**
 * Tells an agent that was restarted from one that has a copy of its state folder: the kernel's run (proc(5),
 * /proc/sys/kernel/random/boot_id), the network namespace in it, and the folder. A copied machine differs in the first, a
 * copied container in the second. A host that was rebooted differs from what it was, too, until its former session ends.
 */
export async function machineId(stateFolder: string): Promise<string> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const namespace = await readlink('/proc/self/ns/net');
  const { ino } = await stat(stateFolder);
  return `${boot} ${namespace} ${ino}`;
}
