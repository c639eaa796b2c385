// Debian packages: which are missing, and their installation.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { SetupError, say, stderrOf } from './progress.mjs';

/** For apt and dpkg: what they say is read here, or shown, and shall not depend on the user's language. */
export const PLAIN_LANGUAGE = { ...process.env, LC_ALL: 'C' };

/** To build the project. */
export const BUILD_PACKAGES = ['g++', 'gcc', 'make', 'libc6-dev', 'ca-certificates'];

/** To run the VM; kmod for depmod here and for the modules that the VM's kernel asks for by itself. */
export const VM_PACKAGES = ['qemu-system-x86', 'kmod', 'xz-utils', 'zstd'];

/**
 * What the demo, benchmarks and kernel tests run, in the VM (whose init is busybox, too) or on the host. crun because podman
 * is content with it, runc because containerd is not.
 */
export const RUNTIME_PACKAGES = [
  ...['busybox-static', 'curl', 'iproute2', 'iputils-ping', 'iperf3', 'tcpdump', 'ethtool', 'procps'],
  // A client of DHCPv6; busybox has one of DHCP.
  ...['isc-dhcp-client'],
  ...['containerd', 'runc', 'podman', 'crun', 'containernetworking-plugins'],
];

/**
 * What the tests run on the host: the ZooKeeper server as a jar (the package of that name would bring a desktop's Java),
 * openssl for certificates, nftables and iproute2 for networks of Linux that ours are compared to.
 */
export const TEST_PACKAGES = ['libzookeeper-java', 'default-jre-headless', 'openssl', 'nftables', 'iproute2'];

/**
 * The packages of these that are not installed.
 * @param {string[]} wanted
 * @returns {string[]}
 */
export function missingPackages(wanted) {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
  const query = spawnSync('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Status}\n', ...wanted], {
    encoding: 'utf8',
    env: PLAIN_LANGUAGE,
  });
  if (query.error)
    throw new SetupError('this is not Debian: there is no dpkg-query. The set-up needs Debian 12 or later');
  const installed = new Set(
    query.stdout
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.split(' ')[0]),
  );
  return wanted.filter((name) => !installed.has(name));
}

/** Installs what is missing of these packages, without starting what they would start. */
export function installPackages(/** @type {string[]} */ wanted) {
  const missing = missingPackages(wanted);
  if (missing.length === 0) return;
  const root = rootCommand(`to install ${missing.join(' ')}`);
  say(`installing ${missing.join(' ')}`);
  if (!haveLists()) updateLists();
  const install = () => {
    // A policy-rc.d that says 101 keeps packages from starting their daemons on this machine (invoke-rc.d(8)).
    const script = `
      policy=/usr/sbin/policy-rc.d
      if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        # dash runs no EXIT trap when a signal ends it.
        trap 'exit 130' INT
        trap 'exit 143' TERM
        trap 'exit 129' HUP
        printf '#!/bin/sh\\nexit 101\\n' > $policy && chmod 755 $policy
      fi
      DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 install "$@"`;
    return run([...root, 'sh', '-c', script, 'sh', ...missing]);
  };
  let failure = install();
  if (failure) {
    // Most likely the lists are old and name versions that are gone.
    updateLists();
    failure = install();
  }
  const still = missingPackages(wanted);
  if (still.length > 0)
    throw new SetupError(`cannot install ${still.join(' ')}: ${failure ?? 'apt-get left them out'}`);
}

/** Fetches apt's lists of packages. That it failed is told by what needs them. */
export function updateLists() {
  say('apt-get update');
  run([...rootCommand('to update the lists of packages'), 'apt-get', '-q', 'update']);
}

/** @returns {string[]} what to put before a command to run it as root */
function rootCommand(/** @type {string} */ purpose) {
  if (process.getuid?.() === 0) return [];
  if (spawnSync('sudo', ['-V'], { stdio: 'ignore' }).error) throw new SetupError(`neither root nor sudo ${purpose}`);
  // With a terminal sudo may ask for a password; without one it must not wait for it.
  const options = process.stdin.isTTY ? [] : ['-n'];
  if (spawnSync('sudo', [...options, 'true'], { stdio: 'inherit' }).status !== 0) {
    throw new SetupError(`sudo is refused, and root is needed ${purpose}`);
  }
  return ['sudo', ...options];
}

function haveLists() {
  const folder = '/var/lib/apt/lists';
  return existsSync(folder) && readdirSync(folder).some((name) => name.includes('_Packages'));
}

/** @returns {string | undefined} why it failed */
function run(/** @type {string[]} */ [command, ...args]) {
  try {
    execFileSync(command ?? '', args, {
      stdio: ['inherit', 'ignore', 'pipe'],
      maxBuffer: 1 << 26,
      env: PLAIN_LANGUAGE,
    });
    return undefined;
  } catch (error) {
    return stderrOf(error);
  }
}
