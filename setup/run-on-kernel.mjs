// A kernel with openvswitch for a command: the VM's, or this machine's own where MIDONET_VM=host asks for it.
import { spawn, spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { quote } from './job.mjs';
import { OWN_FOLDERS } from './own-folders.mjs';
import { SetupError } from './progress.mjs';
import { runInVm, TIMED_OUT } from './vm.mjs';

/** Whether commands run on this machine's own kernel. */
export function onHost() {
  const told = process.env.MIDONET_VM ?? 'qemu';
  if (told !== 'host' && told !== 'qemu') throw new SetupError(`MIDONET_VM must be host or qemu, not ${told}`);
  return told === 'host';
}

/**
 * Runs a command and resolves to its exit status.
 * @param {string[]} command
 * @param {import('./vm.mjs').VmOptions} options
 * @returns {Promise<number>}
 */
export function runOnKernel(command, options) {
  return onHost() ? runOnHost(command, options) : runInVm(command, options);
}

/**
 * Runs a command in fresh network, mount, process and host name namespaces; what it starts ends with it.
 * @param {string[]} command
 * @param {import('./vm.mjs').VmOptions} options
 * @returns {Promise<number>}
 */
function runOnHost(command, options) {
  if (process.getuid?.() !== 0) throw new SetupError('MIDONET_VM=host needs root');
  if (spawnSync('modprobe', ['openvswitch']).status !== 0) {
    throw new SetupError('MIDONET_VM=host needs a kernel with the openvswitch module, which modprobe does not find');
  }
  const script = [
    'set -e',
    'mount -t sysfs sys /sys && { mount -t cgroup2 cgroup2 /sys/fs/cgroup || true; }',
    ...OWN_FOLDERS.map((folder) => `mkdir -p ${folder} && mount -t tmpfs -o mode=755 tmpfs ${folder}`),
    'ip link set lo up',
    'echo 1 > /proc/sys/net/ipv4/ip_forward',
    `cd ${quote(options.folder)}`,
    `MIDONET_IN_VM=1 exec ${command.map(quote).join(' ')}`,
  ].join('\n');
  const namespaces = ['--mount', '--net', '--pid', '--uts', '--fork', '--kill-child', '--mount-proc'];
  return new Promise((resolve, reject) => {
    const child = spawn('unshare', [...namespaces, 'sh', '-c', script], {
      stdio: options.onOutput ? ['ignore', 'pipe', 'inherit'] : 'inherit',
      env: options.environment ?? process.env,
      timeout: (options.timeout ?? 0) * 1000,
      killSignal: 'SIGKILL',
    });
    const { onOutput } = options;
    if (onOutput) child.stdout?.on('data', onOutput);
    // Ctrl-C reaches the command from the terminal: it decides, and this process stays to tell its status.
    const stay = () => {};
    const pass = () => child.kill('SIGTERM');
    process.on('SIGINT', stay).on('SIGTERM', pass);
    child.once('error', (error) => reject(new SetupError(`cannot run unshare: ${error.message}`)));
    child.once('close', (code, signal) => {
      process.off('SIGINT', stay).off('SIGTERM', pass);
      if (options.timeout && signal === 'SIGKILL') resolve(TIMED_OUT);
      else resolve(code ?? 128 + constants.signals[signal ?? 'SIGKILL']);
    });
  });
}
