import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { formatIpv6, linkLocalAddress, parseMac } from '../../src/packet/address.js';
import { linkLayerDuid } from '../../src/packet/dhcpv6.js';
import { idFromName } from '../../src/topology/id.js';
import { cleanUp } from './clean-up.js';
import { Lab, must, NETWORK, type Outcome, type Pod, run, until } from './lab.js';

/** Clients that others wrote ask for their configuration: busybox's and ISC's, and the kernel. One lab serves all tests. */
let lab: Lab;
let gateway: Pod;

const MAC = '02:00:00:00:77:07';
const ADDRESS = '10.88.77.7';
const BRIDGE = idFromName('bridge', NETWORK);
const SUBNET = idFromName('dhcp-subnet', NETWORK);
const SUBNET6 = idFromName('dhcp-v6-subnet', NETWORK);
const SERVER = '10.88.255.253';

test.before(async (t) => {
  t.timeout(300_000);
  lab = await Lab.start({ nodes: 1 });
  const [node] = lab.nodes;
  gateway = await node.addPod('gateway');
  const repository = lab.repository();
  const [hostId] = await repository.list('host');
  await repository.create('dhcp-subnet', {
    id: SUBNET,
    bridgeId: BRIDGE,
    cidr: '10.88.0.0/16',
    serverAddress: SERVER,
    defaultGateway: gateway.ipv4,
    dnsServers: ['10.88.0.53', '10.88.0.54'],
    domainName: 'lab.example',
    leaseSeconds: 3600,
    routes: [{ destination: '172.16.0.0/12', gateway: gateway.ipv4 }],
  });
  await repository
    .members('dhcp-subnet', SUBNET)
    .set(MAC, { address: ADDRESS, name: 'seven', extraOptions: [{ name: 'ntp-server', value: '10.88.0.123' }] });
  const binding = { hostId, interfaceName: 'machine0' };
  await repository.create('port', { id: idFromName('port', 'machine'), bridgeId: BRIDGE, binding });
  await must('ip', 'netns', 'add', machineName());
  const veth = ['machine0', 'type', 'veth', 'peer', 'name', 'eth0', 'address', MAC, 'netns', machineName()];
  await must('ip', '-n', node.name, 'link', 'add', ...veth);
  await must('ip', '-n', node.name, 'link', 'set', 'machine0', 'up');
  await until('the machine to be bound', async () => (await node.ports()).includes('machine0'));
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await lab.logs());
});

test.after.always(() =>
  cleanUp(
    () => run('ip', 'netns', 'delete', machineName()),
    () => gateway?.remove(),
    () => lab?.close(),
  ),
);

function machineName(): string {
  return `machine-${lab.tag}`;
}

/** Run a program on the machine. */
function onMachine(...command: string[]): Promise<Outcome> {
  return run('ip', 'netns', 'exec', machineName(), ...command);
}

/** Start a program on the machine that goes on. */
function startOnMachine(...command: string[]): ChildProcess {
  return spawn('ip', ['netns', 'exec', machineName(), ...command], { stdio: 'ignore' });
}

/** What a client told its script: the environment of each call that is noted to its end, and the event as a name of its own. */
async function told(file: string): Promise<Map<string, string>[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text
    .split('--\n')
    .slice(0, -1)
    .map((call) => new Map(call.split('\n').map((line) => [line.split('=', 1)[0], line.slice(line.indexOf('=') + 1)])));
}

/** A script that notes what it is called with, then does the rest. */
async function script(name: string, event: string, rest: string): Promise<{ path: string; file: string }> {
  const path = join(lab.folder, name);
  const file = `${path}.told`;
  await writeFile(path, `#!/bin/sh\n{ echo "event=${event}"; env; echo --; } >> ${file}\n${rest}\n`);
  await chmod(path, 0o755);
  return { path, file };
}

async function end(client: ChildProcess): Promise<void> {
  if (client.exitCode !== null || client.signalCode !== null) return;
  const exited = once(client, 'exit');
  client.kill('SIGKILL');
  await exited;
}

test.serial('busybox udhcpc gets an address with all that goes with it, and renews it', async (t) => {
  t.timeout(180_000);
  await must('ip', '-n', machineName(), 'link', 'set', 'eth0', 'up');
  const { path, file } = await script(
    'udhcpc.sh',
    '$1',
    'case $1 in bound) ip addr replace $ip/$mask dev $interface; ip link set $interface mtu $mtu;; esac',
  );
  const asked = ['-O', 'mtu', '-O', 'staticroutes', '-O', 'ntpsrv'];
  const client = startOnMachine('busybox', 'udhcpc', '-f', '-i', 'eth0', '-s', path, ...asked);
  try {
    const call = async (event: string) => (await told(file)).find((one) => one.get('event') === event);
    await until('the machine to be bound', async () => (await call('bound')) !== undefined);
    const bound = Object.fromEntries((await call('bound'))!);
    t.like(bound, {
      ip: ADDRESS,
      mask: '16',
      router: gateway.ipv4,
      dns: '10.88.0.53 10.88.0.54',
      domain: 'lab.example',
      hostname: 'seven',
      lease: '3600',
      mtu: '1450',
      serverid: SERVER,
      broadcast: '10.88.255.255',
      ntpsrv: '10.88.0.123',
    });
    t.is(bound.staticroutes, `172.16.0.0/12 ${gateway.ipv4} 0.0.0.0/0 ${gateway.ipv4}`);
    t.true(
      (await onMachine('ping', '-n', '-c', '3', '-i', '0.2', '-W', '10', gateway.ipv4)).stdout.includes(
        ' 0% packet loss',
      ),
    );
    // By unicast to the server, whose MAC address it has to ask for.
    client.kill('SIGUSR1');
    await until('the machine to have renewed', async () => (await call('renew')) !== undefined);
    t.is((await call('renew'))!.get('ip'), ADDRESS);
  } finally {
    await end(client);
  }
  t.true((await gateway.node.metric('midonet_configuration_requests_total')) >= 3);
});

test.serial('a pod is told the addresses that its runtime gave it', async (t) => {
  t.timeout(120_000);
  const { path, file } = await script('pod.sh', '$1', '');
  const { status, stderr } = await gateway.run('busybox', 'udhcpc', '-n', '-q', '-f', '-i', 'eth0', '-s', path);
  t.is(status, 0, stderr);
  const bound = (await told(file)).find((one) => one.get('event') === 'bound');
  t.is(bound?.get('ip'), gateway.ipv4);
});

/** The machine's IPv6 addresses but for the link-local one. */
async function addresses6(): Promise<string[]> {
  const { stdout } = await run(
    'ip',
    '-n',
    machineName(),
    '-6',
    '-json',
    'addr',
    'show',
    'dev',
    'eth0',
    'scope',
    'global',
  );
  const links = JSON.parse(stdout) as { addr_info?: { local?: string; deprecated?: boolean }[] }[];
  return links.flatMap(({ addr_info = [] }) =>
    addr_info.flatMap(({ local, deprecated }) =>
      local === undefined ? [] : deprecated ? `${local} deprecated` : local,
    ),
  );
}

async function defaultRoute6(): Promise<string> {
  return (await run('ip', '-n', machineName(), '-6', 'route', 'show', 'default')).stdout;
}

test.serial('the kernel makes an address of what is advertised, and gives it up when that is taken back', async (t) => {
  t.timeout(180_000);
  const repository = lab.repository();
  await repository.create('dhcp-v6-subnet', {
    id: SUBNET6,
    bridgeId: BRIDGE,
    prefix: 'fd00:77::/64',
    addressing: 'slaac',
    gateway: gateway.ipv6,
    advertisement: { routerLifetime: 1800 },
  });
  // Advertised unasked: the machine's interface is up already.
  const own = 'fd00:77::ff:fe00:7707';
  await until('the machine to have made an address', async () => (await addresses6()).includes(own));
  const router = formatIpv6(linkLocalAddress(parseMac(gateway.mac)!));
  t.true((await defaultRoute6()).includes(`via ${router} dev eth0 proto ra`), await defaultRoute6());
  await gateway.run('ip', '-6', 'route', 'add', 'fd00:77::/64', 'dev', 'eth0');
  const { stdout } = await onMachine('ping', '-n', '-c', '3', '-i', '0.2', '-W', '10', gateway.ipv6);
  t.true(stdout.includes(' 0% packet loss'), stdout);

  // Asked for when the interface comes up.
  await must('ip', '-n', machineName(), 'link', 'set', 'eth0', 'down');
  t.deepEqual(await addresses6(), []);
  const before = await gateway.node.metric('midonet_router_advertisements_total');
  await must('ip', '-n', machineName(), 'link', 'set', 'eth0', 'up');
  await until('the machine to have asked', async () => (await addresses6()).includes(own));
  t.is(await gateway.node.metric('midonet_router_advertisements_total'), before, 'it was the answer');
  const mtu = await onMachine('cat', '/proc/sys/net/ipv6/conf/eth0/mtu');
  t.is(mtu.stdout.trim(), '1450');

  await repository.delete('dhcp-v6-subnet', SUBNET6);
  await until('the router to be gone', async () => (await defaultRoute6()) === '');
  t.deepEqual(await addresses6(), [`${own} deprecated`]);
});

test.serial('ISC dhclient gets an address by DHCPv6, and the rest alone where there are no addresses', async (t) => {
  t.timeout(180_000);
  const repository = lab.repository();
  await repository.create('dhcp-v6-subnet', {
    id: SUBNET6,
    bridgeId: BRIDGE,
    prefix: 'fd00:88::/64',
    dnsServers: ['fd00:88::53'],
    domainSearch: ['lab.example'],
  });
  const duid = Buffer.from(linkLayerDuid(parseMac(MAC)!)).toString('hex');
  await repository.members('dhcp-v6-subnet', SUBNET6).set(duid, { address: 'fd00:88::7:7' });
  const dhclient = async (name: string, ...options: string[]) => {
    const { path, file } = await script(name, '$reason', '');
    const state = ['-lf', `${path}.leases`, '-pf', `${path}.pid`, '-cf', '/dev/null', '-sf', path];
    const client = startOnMachine('dhclient', '-6', '-d', '-D', 'LL', ...options, ...state, 'eth0');
    try {
      const answer = (calls: Map<string, string>[]) => calls.find((one) => one.has('new_dhcp6_name_servers'));
      await until(`an answer to dhclient ${options}`, async () => answer(await told(file)) !== undefined);
      return Object.fromEntries(answer(await told(file))!);
    } finally {
      await end(client);
    }
  };
  t.like(await dhclient('stateful.sh'), {
    reason: 'BOUND6',
    new_ip6_address: 'fd00:88::7:7',
    new_dhcp6_name_servers: 'fd00:88::53',
    new_max_life: '86400',
    new_preferred_life: '43200',
  });
  const information = await dhclient('stateless.sh', '-S');
  t.is(information.new_dhcp6_domain_search, 'lab.example.');
  t.false('new_ip6_address' in information);
});
