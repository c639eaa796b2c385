import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { cleanUp } from './clean-up.js';
import { BUSYBOX_IMAGE, busyboxImage } from './image.js';
import { Lab, type LabNode, NETWORK, type Pod, received, run, until } from './lab.js';
import { CniPodman, Containerd, type CtrContainer, prepareRuntimeHost } from './runtimes.js';

/** The issue of this file: container runtimes as they come, each in the namespace of its node, with the CNI program as their plugin. */
let lab: Lab;
let pod: Pod;
let first: CtrContainer;
let second: CtrContainer;
const daemons: Containerd[] = [];
let engine: CniPodman;

const lacks = await CniPodman.lacksCni();
// Not silently: set-up or an upgrade may have broken it.
if (lacks !== undefined && process.env.MIDONET_WITHOUT_PODMAN_CNI !== '1') {
  throw new Error(`podman cannot use CNI (MIDONET_WITHOUT_PODMAN_CNI=1 leaves its tests out): ${lacks}`);
}
const podmanTest = lacks === undefined ? test.serial : test.serial.skip;
const reason = lacks === undefined ? '' : ` (podman cannot use CNI: ${lacks})`;

test.before(async (t) => {
  t.timeout(400_000);
  lab = await Lab.start();
  const image = join(lab.folder, 'busybox.tar');
  await busyboxImage(image);
  const hosts = await Promise.all(
    lab.nodes.map((node) =>
      prepareRuntimeHost(
        join(lab.folder, `runtime-${node.index}`),
        node.namespacePath,
        NETWORK,
        node.networkConfig({ capabilities: { ips: true, mac: true, portMappings: true } }),
      ),
    ),
  );
  for (const host of hosts) daemons.push(await Containerd.start({ host }));
  const images = daemons.map((daemon) => daemon.ctr(['images', 'import', image]));
  if (lacks === undefined) {
    engine = await CniPodman.open(hosts[0]);
    await engine.run('load', '-q', '-i', image);
  }
  await Promise.all(images);
  pod = await lab.nodes[1].addPod('pod');
  first = await daemons[0].runAttached('first', BUSYBOX_IMAGE);
  second = await daemons[1].runAttached('second', BUSYBOX_IMAGE);
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await lab.logs(), ...daemons.map((daemon) => daemon.log));
});

test.after.always(() =>
  cleanUp(
    ...daemons.map((daemon) => () => daemon.killTasks()),
    () => first?.removed,
    () => second?.removed,
    ...daemons.map((daemon) => () => daemon.stop()),
    () => engine?.run('rm', '-f', '-a', '-t', '0'),
    () => engine?.close(),
    () => pod?.remove(),
    () => lab?.close(),
  ),
);

interface Addresses {
  readonly ipv4: string;
  readonly ipv6: string;
  readonly mac: string;
}

/** What eth0 of a container's process has, as the kernel tells it. */
async function addressesOf(pid: number): Promise<Addresses> {
  const { stdout } = await run('nsenter', `--net=/proc/${pid}/ns/net`, 'ip', '-json', 'addr', 'show', 'dev', 'eth0');
  const [link] = JSON.parse(stdout) as {
    address: string;
    addr_info: { family: string; scope: string; local: string; prefixlen: number }[];
  }[];
  const find = (family: string) => {
    const found = link.addr_info.filter((one) => one.family === family && one.scope === 'global');
    return found.map((one) => `${one.local}/${one.prefixlen}`).join(' ');
  };
  return { ipv4: find('inet'), ipv6: find('inet6'), mac: link.address };
}

/** The result of ADD as the runtimes' library keeps it. */
async function cachedResult(containerId: string): Promise<Addresses> {
  const text = await readFile(`/var/lib/cni/results/${NETWORK}-${containerId}-eth0`, 'utf8');
  const { result } = JSON.parse(text) as {
    result: { ips: { address: string }[]; interfaces: { mac: string; sandbox?: string }[] };
  };
  const addresses = result.ips.map((ip) => ip.address);
  return {
    ipv4: addresses.filter((address) => !address.includes(':')).join(' '),
    ipv6: addresses.filter((address) => address.includes(':')).join(' '),
    mac: result.interfaces.find((one) => Boolean(one.sandbox))?.mac ?? '',
  };
}

function withoutPrefix(address: string): string {
  return address.split('/')[0];
}

/** Pings from one container to the addresses of others. */
async function reaches(t: ExecutionContext, pid: number, others: readonly Pick<Addresses, 'ipv4' | 'ipv6'>[]) {
  const addresses = others.flatMap(({ ipv4, ipv6 }) => [withoutPrefix(ipv4), withoutPrefix(ipv6)]);
  await Promise.all(
    addresses.map(async (address) => {
      const ping = ['ping', '-n', '-c', '2', '-i', '0.2', '-W', '2', address];
      const { stdout } = await run('nsenter', `--net=/proc/${pid}/ns/net`, ...ping);
      t.is(received(stdout), 2, `${address} from process ${pid}`);
    }),
  );
}

/** All that attachments leave on a node and in the NSDB, by name. */
async function traces(node: LabNode): Promise<Record<string, string[]>> {
  const repository = lab.repository();
  const hostIds = await repository.list('host');
  const hosts = await Promise.all(hostIds.map(async (id) => (await repository.get('host', id))!.object));
  const { id } = hosts.find((host) => host.name === node.name)!;
  const ofContainers = (names: string[]) => names.filter((name) => name.startsWith('mn') && !name.startsWith('mn-'));
  return {
    links: ofContainers(await node.links()),
    ports: ofContainers(await node.ports()),
    znodes: (await repository.portsOfHost(id)).sort(),
    journal: (await readdir(join(node.stateFolder, 'attachments'))).sort(),
  };
}

function counts(found: Readonly<Record<string, string[]>>): Record<string, number> {
  return Object.fromEntries(Object.entries(found).map(([kind, names]) => [kind, names.length]));
}

function startInPodman(name: string, ...options: string[]): Promise<number> {
  return engine.start(name, ['--network', NETWORK, ...options], BUSYBOX_IMAGE, 'sleep', '86400');
}

test.serial(
  'containers of containerd on two nodes have the addresses of the result and reach each other',
  async (t) => {
    t.timeout(180_000);
    for (const container of [first, second]) {
      const expected = await cachedResult(container.id);
      t.regex(expected.ipv4, /^10\.88\.\d+\.\d+\/16$/);
      t.regex(expected.ipv6, /^fd00:88::[0-9a-f:]+\/64$/);
      t.deepEqual(await addressesOf(container.pid), expected);
    }
    const there = await addressesOf(second.pid);
    await reaches(t, first.pid, [pod, there]);
    await reaches(t, second.pid, [pod]);
    // Once with the image's own program and the container's own rights.
    const ping = ['ping', '-c', '2', withoutPrefix(there.ipv4)];
    t.regex(await daemons[0].ctr(['task', 'exec', '--exec-id', 'ping', 'first', ...ping]), /2 packets received/);
  },
);

podmanTest(`a container of podman reaches those of containerd${reason}`, async (t) => {
  t.timeout(180_000);
  const pid = await startInPodman('third');
  await reaches(t, pid, [pod, await addressesOf(first.pid), await addressesOf(second.pid)]);
  const format =
    '{{range .NetworkSettings.Networks}}{{.IPAddress}}/{{.IPPrefixLen}} {{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} {{.MacAddress}}{{end}}';
  const { ipv4, ipv6, mac } = await addressesOf(pid);
  t.is((await engine.run('inspect', '--format', format, 'third')).trim(), `${ipv4} ${ipv6} ${mac}`);
  t.regex(await engine.run('exec', 'third', 'ping', '-c', '2', pod.ipv4), /2 packets received/);
});

podmanTest(`podman restarts a container: one attachment before and after${reason}`, async (t) => {
  t.timeout(180_000);
  const before = await engine.pid('third');
  await engine.run('restart', '-t', '0', 'third');
  const after = await engine.pid('third');
  t.not(after, before);
  await reaches(t, after, [pod, await addressesOf(first.pid), await addressesOf(second.pid)]);
  await until('the old port to leave the NSDB', async () => (await traces(lab.nodes[0])).znodes.length === 2);
  t.deepEqual(counts(await traces(lab.nodes[0])), { links: 2, ports: 2, znodes: 2, journal: 2 });
});

podmanTest(`podman removes a container and all of its attachment${reason}`, async (t) => {
  t.timeout(240_000);
  const { ipv4, mac } = await addressesOf(await engine.pid('third'));
  await engine.run('rm', '-f', '-t', '0', 'third');
  await until('the port to leave the NSDB', async () => (await traces(lab.nodes[0])).znodes.length === 1);
  t.deepEqual(counts(await traces(lab.nodes[0])), { links: 1, ports: 1, znodes: 1, journal: 1 });
  // Only an address that was released can be asked for.
  const heir = await startInPodman('heir', '--ip', withoutPrefix(ipv4));
  const found = await addressesOf(heir);
  t.is(found.ipv4, ipv4);
  t.is(found.mac, mac, 'what others remember of the address stays right');
  await reaches(t, heir, [pod, await addressesOf(second.pid)]);
});

podmanTest(`podman asks for two addresses and a MAC address${reason}`, async (t) => {
  t.timeout(240_000);
  const ips = ['--ip', '10.88.200.8', '--ip6', 'fd00:88::beef'];
  const pid = await startInPodman('fourth', ...ips, '--mac-address', '02:00:5e:00:53:07');
  const found = await addressesOf(pid);
  t.deepEqual(found, { ipv4: '10.88.200.8/16', ipv6: 'fd00:88::beef/64', mac: '02:00:5e:00:53:07' });
  await reaches(t, pid, [pod]);
});

podmanTest(`an address in use and published ports are refused by name, without a trace${reason}`, async (t) => {
  t.timeout(240_000);
  const before = await traces(lab.nodes[0]);
  const taken = await t.throwsAsync(startInPodman('fifth', '--ip', '10.88.200.8'));
  t.regex(taken.message, /10\.88\.200\.8 is taken/);
  const published = await t.throwsAsync(startInPodman('sixth', '-p', '8080:80'));
  t.regex(published.message, /portMappings: not supported/);
  t.deepEqual(await traces(lab.nodes[0]), before);
});

test.serial('ctr removes a container and all of its attachment', async (t) => {
  t.timeout(180_000);
  const { ipv4 } = await addressesOf(second.pid);
  const [, node] = lab.nodes;
  t.deepEqual(counts(await traces(node)), { links: 2, ports: 2, znodes: 2, journal: 2 });
  await daemons[1].ctr(['task', 'kill', '-s', 'SIGKILL', 'second']);
  t.is(await second.removed, '', 'ctr has nothing to complain of');
  t.is(await daemons[1].ctr(['container', 'list', '-q']), '');
  await until('the port to leave the NSDB', async () => (await traces(node)).znodes.length === 1);
  t.deepEqual(counts(await traces(node)), { links: 1, ports: 1, znodes: 1, journal: 1 });
  const heir = await node.addPod('heir', { args: { cni: { ips: [ipv4] } } });
  t.is(`${heir.ipv4}/16`, ipv4);
  await heir.remove();
});
