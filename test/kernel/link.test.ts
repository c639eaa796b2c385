import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import type { Link } from '../../src/datapath/link/link.js';
import { InterfaceExistsError, Links } from '../../src/datapath/link/links.js';
import { LinkMonitor } from '../../src/datapath/link/monitor.js';
import type { Namespace } from '../../src/datapath/link/namespace.js';
import { getTxChecksumOffload, setTxChecksumOffload } from '../../src/datapath/link/offload.js';
import { LinkRequests } from '../../src/datapath/link/requests.js';
import { ensureTunnelDevice, TUNNEL_MTU } from '../../src/datapath/link/tunnel-device.js';
import { findUnderlay } from '../../src/datapath/link/underlay.js';
import { NetlinkError } from '../../src/datapath/netlink/errors.js';
import { parseIpv4, parseIpv6 } from '../../src/packet/address.js';
import { type Ip, parseCidr, parseIp } from '../../src/packet/ip.js';
import { ip, newNamespace } from './namespaces.js';

function newLinks(t: ExecutionContext<unknown>, namespace = newNamespace(t)): { links: Links; namespace: Namespace } {
  const links = new Links(namespace);
  t.teardown(() => links.close());
  return { links, namespace };
}

function address(text: string) {
  const [ipText, prefix] = text.split('/');
  const parsed = parseIp(ipText) as Ip;
  return { ...parsed, prefix: Number(prefix) };
}

/** Lets nothing happen in this thread for so many milliseconds. */
function standStill(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

async function eventually(t: ExecutionContext<unknown>, what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if (condition()) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  t.fail(`it did not come true that ${what}`);
}

test('a new namespace has a loopback interface, which can be brought up', async (t) => {
  const { links } = newLinks(t);
  // Modules loaded elsewhere may add fallback interfaces of theirs.
  const lo = (await links.list()).find((link) => link.name === 'lo') as Link;
  t.like(lo, { index: 1, up: false, loopback: true, kind: undefined });
  await links.set('lo', { up: true });
  t.like(await links.get('lo'), { up: true, carrier: true, mtu: 65536 });
  t.deepEqual(await links.get(1), await links.get('lo'));
});

test('a veth pair with its peer in another namespace, and all it is told', async (t) => {
  const host = newLinks(t);
  const pod = newLinks(t);
  await host.links.apply(
    new LinkRequests().addVeth(
      { name: 'mn0', mtu: 1400, mac: 0x0200_0000_0001, up: true, alias: 'pod a/b' },
      { name: 'eth0', mtu: 1400, mac: 0x0200_0000_0002, namespace: pod.namespace },
    ),
  );
  const [outside, inside] = [(await host.links.get('mn0')) as Link, (await pod.links.get('eth0')) as Link];
  t.like(outside, { kind: 'veth', mtu: 1400, mac: 0x0200_0000_0001, up: true, carrier: false, alias: 'pod a/b' });
  t.like(inside, { kind: 'veth', mtu: 1400, mac: 0x0200_0000_0002, up: false });
  t.is(outside.peer, inside.index);
  t.is(inside.peer, outside.index);
  t.not(outside.peerNamespace, undefined);
  t.regex(ip(pod.namespace, 'link', 'show', 'eth0'), /02:00:00:00:00:02/);

  await pod.links.apply(
    new LinkRequests()
      .setLink(inside.index, { up: true })
      .addAddress(inside.index, address('10.1.2.3/24'))
      .addAddress(inside.index, address('fd00::3/64'))
      .addRoute({
        destination: parseCidr('0.0.0.0/0')!,
        gateway: parseIp('10.1.2.1'),
        index: inside.index,
        mtu: 1350,
        priority: 7,
      })
      .addRoute({ destination: parseCidr('::/0')!, gateway: parseIp('fd00::1'), index: inside.index })
      .addNeighbour({ index: inside.index, ip: parseIp('10.1.2.1')!, mac: 0xacac_acac_acac }),
  );
  t.true((await host.links.get('mn0'))?.carrier);
  t.regex(ip(pod.namespace, 'addr', 'show', 'eth0'), /inet 10\.1\.2\.3\/24/);
  t.regex(ip(pod.namespace, '-6', 'addr', 'show', 'eth0'), /inet6 fd00::3\/64 scope global nodad/);
  t.regex(ip(pod.namespace, 'route'), /default via 10\.1\.2\.1 dev eth0 proto static metric 7 mtu 1350/);
  t.regex(ip(pod.namespace, '-6', 'route'), /default via fd00::1 dev eth0 proto static/);
  t.regex(ip(pod.namespace, 'neigh'), /10\.1\.2\.1 dev eth0 lladdr ac:ac:ac:ac:ac:ac PERMANENT/);

  const listed = await pod.links.addresses(inside.index);
  t.true(listed.some((one) => one.words[0] === parseIpv4('10.1.2.3') && one.prefix === 24 && !one.tentative));
  t.true(
    listed.some((one) => one.words.join() === parseIpv6('fd00::3')!.join() && one.prefix === 64 && !one.tentative),
  );
  const routes = await pod.links.routes(inside.index);
  t.true(
    routes.some(
      ({ destination, gateway, mtu, priority }) =>
        destination.prefix === 0 && gateway?.words[0] === parseIpv4('10.1.2.1') && mtu === 1350 && priority === 7,
    ),
  );
  t.like(await findUnderlay(pod.links, parseIp('10.1.2.3')!), { name: 'eth0', mtu: 1400 });
  t.is(await findUnderlay(pod.links, parseIp('10.1.2.4')!), undefined);
});

test('additions may be repeated, deletions too', async (t) => {
  const { links, namespace } = newLinks(t);
  await links.apply(new LinkRequests().addVeth({ name: 'd0', up: true }, { name: 'peer' }));
  const { index } = (await links.get('d0')) as Link;
  const route = { destination: parseCidr('10.9.0.0/16')!, gateway: parseIp('10.1.0.2'), index };
  const neighbour = { index, ip: parseIp('10.1.0.2')!, mac: 0x0200_0000_0009 };
  for (let i = 0; i < 2; i++) {
    await links.apply(
      new LinkRequests()
        .addAddress(index, address('10.1.0.1/24'))
        .addAddress(index, address('fd00::1/64'))
        .addRoute(route)
        .addNeighbour(neighbour),
    );
  }
  t.is(ip(namespace, 'route', 'show', '10.9.0.0/16').trim().split('\n').length, 1);
  for (let i = 0; i < 2; i++) {
    await links.apply(
      new LinkRequests()
        .deleteNeighbour(neighbour)
        .deleteRoute(route)
        .deleteAddress(index, address('fd00::1/64'))
        .deleteAddress(index, address('10.1.0.1/24')),
    );
    t.is(ip(namespace, 'route'), '');
    t.is(ip(namespace, '-4', 'addr'), '');
    t.is(ip(namespace, 'neigh', 'show', 'nud', 'permanent'), '');
  }
  await links.delete('d0');
  await links.delete('d0');
  await links.delete(index);
  t.is(await links.get('d0'), undefined);
  t.is(await links.get(index), undefined);
});

test('a route to one host through a gateway outside of every subnet', async (t) => {
  const { links, namespace } = newLinks(t);
  await links.apply(new LinkRequests().addVeth({ name: 'd0', up: true }, { name: 'peer' }));
  const { index } = (await links.get('d0')) as Link;
  const gateway = parseIp('169.254.1.1')!;
  const requests = new LinkRequests()
    .addAddress(index, address('10.0.0.5/32'))
    .addRoute({ destination: { ...gateway, prefix: 32 }, index })
    .addRoute({ destination: parseCidr('0.0.0.0/0')!, gateway, index, source: parseIp('10.0.0.5') })
    .addRoute({ destination: parseCidr('10.7.0.0/16')!, gateway: parseIp('192.0.2.1'), index, onlink: true });
  await links.apply(requests);
  const text = ip(namespace, 'route');
  t.regex(text, /169\.254\.1\.1 dev d0 proto static scope link/);
  t.regex(text, /default via 169\.254\.1\.1 dev d0 proto static src 10\.0\.0\.5/);
  t.regex(text, /10\.7\.0\.0\/16 via 192\.0\.2\.1 dev d0 proto static onlink/);
});

test('set: name, MTU, MAC, alias, master, down', async (t) => {
  const { links } = newLinks(t);
  await links.apply(
    new LinkRequests()
      .addPlain({ name: 'br0' }, 'bridge')
      .addVeth({ name: 'd0', up: true, alias: 'first' }, { name: 'peer' }),
  );
  const bridge = (await links.get('br0')) as Link;
  const { index } = (await links.get('d0')) as Link;
  await links.set(index, { up: false });
  await links.set(index, { name: 'd1', mtu: 1234, mac: 0x0200_0000_00aa, alias: 'other', master: bridge.index });
  t.like(await links.get(index), {
    name: 'd1',
    mtu: 1234,
    mac: 0x0200_0000_00aa,
    alias: 'other',
    master: bridge.index,
    up: false,
  });
  await links.set('d1', { alias: '', master: 0, up: true });
  t.like(await links.get(index), { alias: undefined, master: undefined, up: true });
});

test('an interface moves to another namespace', async (t) => {
  const from = newLinks(t);
  const to = newLinks(t);
  await from.links.apply(new LinkRequests().addVeth({ name: 'd0' }, { name: 'peer' }));
  const { index } = (await from.links.get('d0')) as Link;
  await from.links.set(index, { namespace: to.namespace, name: 'moved', mtu: 1300 });
  t.is(await from.links.get('d0'), undefined);
  t.like(await to.links.get('moved'), { kind: 'veth', mtu: 1300 });
});

test('counters count', async (t) => {
  const { links, namespace } = newLinks(t);
  await links.set('lo', { up: true });
  t.like(await links.statistics('lo'), { rxPackets: 0, txBytes: 0 });
  namespace.run(() => execFileSync('bash', ['-c', 'printf x >/dev/udp/127.0.0.1/9']));
  const [seen] = JSON.parse(ip(namespace, '-s', '-j', 'link', 'show', 'lo'));
  t.like(await links.statistics('lo'), {
    rxPackets: seen.stats64.rx.packets,
    rxBytes: seen.stats64.rx.bytes,
    txPackets: seen.stats64.tx.packets,
    txBytes: seen.stats64.tx.bytes,
  });
  t.true(seen.stats64.tx.bytes > seen.stats64.tx.packets);
  t.is(await links.statistics('nosuch'), undefined);
});

test('what exists already, and what the kernel refuses', async (t) => {
  const { links } = newLinks(t);
  await links.apply(new LinkRequests().addVeth({ name: 'd0' }, { name: 'peer' }));
  const again = await t.throwsAsync(links.apply(new LinkRequests().addVeth({ name: 'd0' }, { name: 'peer' })), {
    instanceOf: InterfaceExistsError,
    code: 'MN_INTERFACE_EXISTS',
  });
  t.regex(again.message, /add link d0 \(veth\) with peer peer: EEXIST/);
  const refused = await t.throwsAsync(links.set('d0', { mtu: 1 << 30 }), { instanceOf: NetlinkError });
  t.is(refused.errno, 22);
  t.regex(refused.message, /set link d0 mtu 1073741824: EINVAL \(mtu greater than device maximum/);
  const missing = await t.throwsAsync(links.set('nosuch', { up: true }), { instanceOf: NetlinkError });
  t.is(missing.errnoName, 'ENODEV');
  // The kernel goes on behind an error.
  await t.throwsAsync(
    links.apply(
      new LinkRequests().setLink('nosuch', { up: true }).setLink('d0', { up: true }).setLink(77, { up: true }),
    ),
    { message: /^set link nosuch up: ENODEV/ },
  );
  t.true((await links.get('d0'))?.up);
});

test('a VXLAN interface is made as wanted, kept if it is, replaced if it is not', async (t) => {
  const { links, namespace } = newLinks(t);
  const device = { kind: 'vxlan', name: 'mn-vxlan', port: 4789 } as const;
  const made = await ensureTunnelDevice(links, device);
  t.like(made, { name: 'mn-vxlan', kind: 'vxlan', mtu: TUNNEL_MTU, up: true });
  t.deepEqual(made.tunnel, { external: true, port: 4789, learning: false, zeroChecksum6Receive: true });
  t.regex(ip(namespace, '-d', 'link', 'show', 'mn-vxlan'), /vxlan external .*dstport 4789 nolearning .*udp6zerocsumrx/);

  await links.set(made.index, { up: false, mtu: 1400 });
  t.deepEqual(await ensureTunnelDevice(links, device), made);

  await links.delete('mn-vxlan');
  ip(namespace, 'link', 'add', 'mn-vxlan', 'type', 'vxlan', 'id', '5', 'dstport', '4790');
  const replaced = await ensureTunnelDevice(links, device);
  t.not(replaced.index, made.index);
  t.like(replaced.tunnel, { external: true, port: 4789 });

  const refused = await t.throwsAsync(ensureTunnelDevice(links, { ...device, name: 'second' }), {
    instanceOf: NetlinkError,
  });
  t.regex(refused.message, /UDP port 4789 is taken by interface mn-vxlan/);
  t.is(await links.get('second'), undefined);
});

test('a GRE interface is made as wanted, where the kernel has GRE', async (t) => {
  const { links, namespace } = newLinks(t);
  const device = { kind: 'gretap', name: 'mn-gre' } as const;
  let made: Link;
  try {
    made = await ensureTunnelDevice(links, device);
  } catch (error) {
    if (error instanceof NetlinkError && error.errnoName === 'EOPNOTSUPP') {
      t.log('this kernel has no GRE');
      t.pass();
      return;
    }
    throw error;
  }
  t.like(made, { kind: 'gretap', mtu: TUNNEL_MTU, up: true, tunnel: { external: true } });
  t.regex(ip(namespace, '-d', 'link', 'show', 'mn-gre'), /gretap external/);
  t.deepEqual(await ensureTunnelDevice(links, device), made);
  await t.throwsAsync(ensureTunnelDevice(links, { ...device, name: 'second' }), {
    message: /GRE is taken by interface mn-gre/,
  });
});

test('checksum offload is switched in the namespace it is asked for', async (t) => {
  const host = newLinks(t);
  const pod = newLinks(t);
  await host.links.apply(new LinkRequests().addVeth({ name: 'a0' }, { name: 'b0', namespace: pod.namespace }));
  t.true(getTxChecksumOffload('b0', pod.namespace));
  setTxChecksumOffload('b0', false, pod.namespace);
  t.false(getTxChecksumOffload('b0', pod.namespace));
  t.true(getTxChecksumOffload('a0', host.namespace));
  setTxChecksumOffload('b0', true, pod.namespace);
  t.true(getTxChecksumOffload('b0', pod.namespace));
  t.throws(() => getTxChecksumOffload('b0', host.namespace), { code: 'MN_NETLINK', message: /b0: ENODEV/ });
});

test('the monitor tells what appears, changes and vanishes', async (t) => {
  const { links, namespace } = newLinks(t);
  const told: string[] = [];
  const monitor = await LinkMonitor.start(
    {
      appeared: (link) => told.push(`+${link.name}`),
      changed: (link, before) => told.push(`${before.name}>${link.name} ${link.up}`),
      vanished: (link) => told.push(`-${link.name}`),
      failed: (error) => t.fail(String(error)),
    },
    namespace,
  );
  t.teardown(() => monitor.close());
  t.true(told.includes('+lo'));
  told.length = 0;
  await links.apply(new LinkRequests().addPlain({ name: 'br0' }, 'bridge').addVeth({ name: 'd0' }, { name: 'peer' }));
  await eventually(t, 'all were told of', () => ['+br0', '+d0', '+peer'].every((one) => told.includes(one)));
  const { index } = (await links.get('d0')) as Link;
  await links.set(index, { name: 'd1' });
  await eventually(t, 'd1 is known', () => monitor.getByName('d1') !== undefined);
  t.is(monitor.get(index)?.name, 'd1');
  // Leaving a bridge is told by the kernel in a message that looks like the end of the interface.
  await links.set(index, { master: (await links.get('br0'))?.index });
  await eventually(t, 'it has a master', () => monitor.get(index)?.master !== undefined);
  await links.set(index, { master: 0 });
  await eventually(t, 'it has no master', () => monitor.get(index)?.master === undefined);
  t.is(monitor.get(index)?.name, 'd1');
  t.false(told.includes('-d1'));
  await links.delete('d1');
  await eventually(t, 'd1 is gone', () => told.includes('-d1'));
  t.is(monitor.get(index), undefined);
});

test('the monitor finds out what it missed when events were lost', async (t) => {
  const { links, namespace } = newLinks(t);
  let lost = 0;
  const monitor = await LinkMonitor.start(
    {
      appeared: () => {},
      changed: () => {},
      vanished: () => {},
      resync: () => {
        lost += 1;
      },
      failed: (error) => t.fail(String(error)),
    },
    namespace,
  );
  t.teardown(() => monitor.close());
  await links.apply(new LinkRequests().addPlain({ name: 'gone' }, 'bridge').addVeth({ name: 'd0' }, { name: 'peer' }));
  await eventually(t, 'gone is known', () => monitor.getByName('gone') !== undefined);
  // More events than the socket holds, while the event loop is not given a turn.
  const flood = new LinkRequests();
  for (let i = 0; i < 2500; i++) {
    flood.setLink('d0', { mtu: 1000 + (i % 2) });
  }
  flood.deleteLink('gone').addPlain({ name: 'late' }, 'bridge');
  let isDone = false;
  const done = links.apply(flood).finally(() => {
    isDone = true;
  });
  // What is sent goes on in another thread.
  while (!isDone) {
    standStill(500);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await done;
  await eventually(t, 'events were lost', () => lost > 0);
  await eventually(t, 'late is known', () => monitor.getByName('late') !== undefined);
  t.is(monitor.getByName('gone'), undefined);
  await links.set('late', { up: true });
  await eventually(t, 'events go on', () => monitor.getByName('late')?.up === true);
});

test('nothing is left open', (t) => {
  // In a process of its own: the descriptors of tests beside this one come and go.
  const namespace = newNamespace(t);
  const program = fileURLToPath(new URL('descriptors.js', import.meta.url));
  const [before, after] = execFileSync(process.execPath, [program, namespace.path], { encoding: 'utf8' })
    .trim()
    .split('\n');
  t.deepEqual(after, before);
});
