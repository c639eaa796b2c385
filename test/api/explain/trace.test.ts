import { randomUUID } from 'node:crypto';
import { ApiError } from '../../../src/api/client/client.js';
import { formatIpv4, formatMac } from '../../../src/packet/address.js';
import type { Cluster } from '../../agent/cluster.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { until } from '../../agent/until.js';
import { ExplainingApi } from './explaining-api.js';

/** Two bridges, a pod each on hosts of their own, and a router between them with a firewall at the first pod. */
async function network(c: Cluster) {
  const { repository } = c;
  const routerId = (await repository.create('router', { id: randomUUID(), name: 'edge' })).id;
  const bridges: string[] = [];
  for (const [i, name] of ['near', 'far'].entries()) {
    const bridgeId = (await repository.create('bridge', { id: randomUUID(), name })).id;
    bridges.push(bridgeId);
    const subnet = `10.${i + 1}.0.0/16`;
    const link = { id: randomUUID(), routerId, subnets: [`10.${i + 1}.0.254/16`] };
    const atRouter = await repository.create('port', link);
    await repository.create('port', { id: randomUUID(), bridgeId, peerId: atRouter.id });
    const route = {
      id: randomUUID(),
      routerId,
      type: 'normal',
      destination: subnet,
      nextHopPortId: atRouter.id,
    } as const;
    await repository.create('route', route);
  }
  const chainId = await c.createChain([
    { type: 'drop', name: 'no-ssh', condition: { protocol: 6, destinationPorts: { start: 22, end: 22 } } },
    { type: 'accept', condition: { source: '10.1.0.0/16' } },
  ]);
  await repository.modify('chain', chainId, (chain) => ({ ...chain, name: 'firewall' }));
  const a = c.pod(bridges[0]);
  const b = Object.assign(c.pod(bridges[1]), { ip: 0x0a02_0002 });
  await c.hosts[0].attach(a);
  await c.hosts.at(-1)!.attach(b);
  await c.published();
  await repository.modify('port', a.id, (port) => ({ ...port, inboundFilterId: chainId, name: 'web' }));
  return { a, b, chainId, bridges };
}

clusterTest('what becomes of a packet, in a sentence and step by step', { hosts: 2 }, async (t, c) => {
  const { a, b, chainId, bridges } = await network(c);
  const api = await ExplainingApi.serve(c);
  try {
    const ask = (packet: string, more: object = {}) => api.trace({ portId: a.id, packet, ...more });
    await until('the agents know the chain', async () => {
      const answer = await ask('tcp 10.1.0.1:999 > 10.2.0.2:80');
      return answer.passes[0].steps.some(({ type }) => type === 'rule');
    });
    const there = await ask('tcp 10.1.0.1:999 > 10.2.0.2:80');
    t.deepEqual(there.outcome, {
      verdict: 'delivered',
      text: `Delivered out of port pod2 on host-2 of bridge far, through the tunnel to ${formatIpv4(c.hosts[1].address)}. It is let pass by rule 2 of chain firewall.`,
      portIds: [b.id],
      ruleIds: [there.passes[0].steps.flatMap((step) => ('rule' in step ? [step.rule as string] : []))[0]],
    });
    const short = (text: string) => text.replaceAll(/[0-9a-f]{8} to/g, 'ID to').replaceAll(/ac:[0-9a-f:]+/g, 'MAC');
    t.deepEqual(there.passes[0].steps.map(({ text, depth }) => short(`${'  '.repeat(depth)}${text}`)).slice(0, -1), [
      'in at port near/web (pod1 on host-1) of bridge near',
      '  chain firewall',
      '    rule 2 — from 10.1.0.0/16: accept',
      'bridge near',
      '  MAC is behind port ID to router edge',
      '  out at port ID to router edge',
      'in at port ID to bridge near of router edge',
      'router edge',
      '  route to 10.2.0.0/16 weight 100: sent on',
      '  10.2.0.2 has 02:00:00:00:00:02',
      '  set MAC addresses to MAC > 02:00:00:00:00:02',
      '  set TTL to 63',
      '  out at port ID to bridge far',
      'in at port ID to router edge of bridge far',
      'bridge far',
      '  02:00:00:00:00:02 is behind port pod2 on host-2',
      '  out at port pod2 on host-2',
    ]);
    t.regex(there.passes[0].flow!.match!, /nw_dst=10\.2\.0\.2/);
    t.true(there.passes[0].flow!.tags.includes(`chain ${chainId}`));
    t.like(there.names, { [a.id]: 'near/web', [chainId]: 'firewall' });
    t.is(there.assumed.length, 2);
    t.like(there, { port: { id: a.id, name: 'near/web' }, host: { id: c.hosts[0].id, name: 'host-1' } });

    const routed = await ask('icmp 10.1.0.1 > 10.1.0.254');
    t.deepEqual(
      routed.passes[0].steps.filter(({ type }) => type === 'route').map(({ text }) => short(text)),
      ["route 10.1.0.254/16 of port ID to bridge near: the router's own address"],
    );

    const outcomes: [packet: string, verdict: string, text: string][] = [
      [
        'tcp 10.1.0.1:999 > 10.2.0.2:22',
        'dropped',
        'Dropped by rule 1 no-ssh of chain firewall, at port near/web (pod1 on host-1): tcp, to port 22: drop.',
      ],
      [
        'tcp 10.1.0.1:999 > 10.9.0.2:80',
        'dropped',
        'Dropped at router edge: it has no route to 10.9.0.2, and its sender is told so (ICMP type 3 code 0).',
      ],
      [
        'icmp 10.1.0.1 > 10.2.0.2 ttl 1',
        'dropped',
        'Dropped at router edge: its TTL ends here, and its sender is told so (ICMP type 11 code 0).',
      ],
      [
        'icmp 10.1.0.1 > 10.1.0.254',
        'answered',
        'Answered by the router itself out of port ID to bridge near: echo reply.',
      ],
      [
        'arp 10.1.0.1 > 10.1.0.254',
        'answered',
        'Answered by the virtual network out of port near/web (pod1 on host-1): it knows who has the address.',
      ],
      [
        'udp 10.1.0.1 > 10.1.0.9 to 02:00:00:00:00:99',
        'dropped',
        'Dropped as nobody knows 02:00:00:00:00:99, and no copy of it gets through, at router edge: its destination MAC address is not that of router edge.',
      ],
    ];
    for (const [packet, verdict, text] of outcomes) {
      const { outcome } = await ask(packet);
      t.deepEqual([outcome.verdict, short(outcome.text)], [verdict, text], packet);
    }

    // Of the other port's host, or of a port without one, another is asked.
    const back = await ask('tcp 10.2.0.2:80 > 10.1.0.1:999', { portId: b.id, connection: 'reply' });
    t.like(back, { host: { name: 'host-2' }, outcome: { verdict: 'delivered', portIds: [a.id] } });
    const unbound = await c.repository.create('port', { id: randomUUID(), bridgeId: bridges[0] });
    const seen = await ask('tcp 10.1.0.1:1 > 10.2.0.2:80 from 02:00:00:00:00:77', { portId: unbound.id });
    t.is(seen.outcome.verdict, 'delivered');
    t.regex(seen.assumed.at(-1)!, /^asked host-[12]: the port is on no host/);
  } finally {
    await api.close();
  }
});

clusterTest('a packet that comes back from the datapath is followed to its end', { hosts: 1 }, async (t, c) => {
  const { repository } = c;
  const bridgeId = await c.createBridge();
  const [a, b] = await c.populate(bridgeId, 2);
  const target = { start: formatIpv4(b.ip), end: formatIpv4(b.ip), ports: { start: 8080, end: 8080 } };
  const chainId = await c.createChain([
    { type: 'accept', condition: { matchReturnFlow: true } },
    { type: 'dnat', action: 'accept', targets: [target], condition: { destination: '10.1.0.99/32' } },
    { type: 'reject' },
  ]);
  await repository.modify('port', a.id, (port) => ({ ...port, inboundFilterId: chainId }));
  const api = await ExplainingApi.serve(c);
  try {
    const ask = (packet: string, connection = 'new') =>
      api.trace({ portId: a.id, packet: `${packet} to ${formatMac(b.mac)}`, connection });
    await until('the agent knows the chain', async () => {
      const answer = await ask('tcp 10.1.0.1:999 > 10.1.0.99:80');
      return answer.passes.length > 1;
    });
    const translated = await ask('tcp 10.1.0.1:999 > 10.1.0.99:80');
    t.is(
      translated.outcome.text,
      'Delivered out of port pod2 on host-1 of bridge blue, as tcp 10.1.0.1:999 > 10.1.0.2:8080. It is let pass by rule 2 of chain chain.',
    );
    const ping = await ask('icmp 10.1.0.1 > 10.1.0.99 echo-request');
    t.true(ping.outcome.text.includes('as icmp type 8 code 0, 10.1.0.1 > 10.1.0.2.'), ping.outcome.text);
    t.deepEqual(
      translated.passes.slice(1).map(({ from }) => from),
      translated.passes.slice(1).map((_, i) => i),
    );
    const rejected = await ask('tcp 10.1.0.1:999 > 10.1.0.2:80');
    t.is(
      rejected.outcome.text,
      'Dropped by rule 3 of chain chain, at port pod1 on host-1 of bridge blue: any packet: reject.',
    );
    const reply = await ask('tcp 10.1.0.1:999 > 10.1.0.2:80', 'reply');
    t.regex(reply.outcome.text, /^Delivered out of port pod2 on host-1 .* by rule 1 of chain chain\.$/);

    // At a port that is on no host the same becomes of them.
    const mac = '02:00:00:00:00:77';
    const unbound = await repository.create('port', { id: randomUUID(), bridgeId, mac, inboundFilterId: chainId });
    for (const [packet, connection, expected] of [
      ['tcp 10.1.0.1:999 > 10.1.0.99:80', 'new', translated],
      ['tcp 10.1.0.1:999 > 10.1.0.2:80', 'reply', reply],
    ] as const) {
      const { outcome, passes } = await api.trace({
        portId: unbound.id,
        packet: `${packet} to ${formatMac(b.mac)}`,
        connection,
      });
      t.deepEqual(outcome, expected.outcome, packet);
      t.regex(passes[0].flow!.match!, /^in_port=none /);
    }
  } finally {
    await api.close();
  }
});

clusterTest('what a reply is translated back to is not made up', { hosts: 1 }, async (t, c) => {
  const { a, b } = await network(c);
  const { repository } = c;
  const target = { start: '10.2.0.254', end: '10.2.0.254', ports: { start: 30000, end: 40000 } };
  const outbound = await c.createChain([{ type: 'snat', action: 'accept', targets: [target] }]);
  const inbound = await c.createChain([{ type: 'reverse-snat', action: 'accept' }]);
  const [{ object: edge }] = (await repository.page({ kind: 'router', name: 'edge', limit: 1 })).items;
  const filters = { inboundFilterId: inbound, outboundFilterId: outbound };
  await repository.modify('router', edge.id, (router) => ({ ...router, ...filters }));
  const api = await ExplainingApi.serve(c);
  try {
    let source = '';
    await until('the agent translates', async () => {
      const { outcome } = await api.trace({ portId: a.id, packet: 'tcp 10.1.0.1:999 > 10.2.0.2:80' });
      source = /as tcp (10\.2\.0\.254:\d+) >/.exec(outcome.text)?.[1] ?? '';
      return source !== '';
    });
    const reply = { portId: b.id, packet: `tcp 10.2.0.2:80 > ${source}`, connection: 'reply' };
    t.like((await api.trace(reply)).outcome, {
      verdict: 'undecided',
      text: 'Undecided: only the kernel knows what 10.2.0.254 is translated back to at router edge. Trace the reply to the address that it is for.',
    });
    // Of a packet that is no reply the same is known for certain.
    t.is((await api.trace({ ...reply, connection: 'new' })).outcome.verdict, 'dropped');
    const known = { ...reply, packet: 'tcp 10.2.0.2:80 > 10.1.0.1:999' };
    t.like((await api.trace(known)).outcome, { verdict: 'delivered', portIds: [a.id] });
  } finally {
    await api.close();
  }
});

clusterTest('a tenant sees what its own devices do, and nothing of others', { hosts: 2 }, async (t, c) => {
  const { a, b, chainId, bridges } = await network(c);
  const { repository } = c;
  await repository.modify('bridge', bridges[0], (bridge) => ({ ...bridge, tenantId: 'a' }));
  await repository.modify('bridge', bridges[1], (bridge) => ({ ...bridge, tenantId: 'b' }));
  await repository.modify('chain', chainId, (chain) => ({ ...chain, tenantId: 'a' }));
  const secret = await c.createChain([{ type: 'drop', name: 'secret', condition: { protocol: 17 } }]);
  await repository.modify('port', b.id, (port) => ({ ...port, outboundFilterId: secret, name: 'victim' }));
  const api = await ExplainingApi.serve(c);
  try {
    const ask = (packet: string, portId = a.id) => api.trace({ portId, packet });
    await until('the agents know the chains', async () => {
      const answers = [await ask('udp 10.1.0.1:999 > 10.2.0.2:80'), await ask('tcp 10.1.0.1:999 > 10.2.0.2:22')];
      return answers.every(({ outcome }) => outcome.reason === 'filtered');
    });
    api.caller = { name: 'a', role: 'tenant-reader', tenantId: 'a' };
    const own = await ask('tcp 10.1.0.1:999 > 10.2.0.2:22');
    t.regex(
      own.outcome.text,
      /^Dropped by rule 1 no-ssh of chain firewall, at port near\/web \(pod1\): tcp, to port 22/,
    );
    const sent = await ask('tcp 10.1.0.1:999 > 10.2.0.2:80');
    t.is(sent.outcome.text, 'Delivered out of a port of somebody else. It is let pass by rule 2 of chain firewall.');
    const dropped = await ask('udp 10.1.0.1:999 > 10.2.0.2:80');
    t.is(dropped.outcome.text, 'Dropped by a device of somebody else.');
    const lost = await ask('tcp 10.1.0.1:999 > 10.9.0.2:80');
    t.like(lost, { outcome: { verdict: 'dropped' } });
    for (const answer of [own, sent, dropped, lost]) {
      const text = JSON.stringify(answer);
      for (const theirs of ['edge', 'far', 'secret', 'victim', secret, b.id, bridges[1], '192.168.', c.hosts[1].id]) {
        t.false(text.includes(theirs), `${theirs} in ${text}`);
      }
      t.is(answer.host, undefined);
    }
    await t.throwsAsync(ask('tcp 10.2.0.2 > 10.1.0.1', b.id), { code: 'MN_NOT_FOUND' });
  } finally {
    await api.close();
  }
});

clusterTest(
  'copies that mirrors make are no part of the outcome, and what is redirected goes where it is sent',
  { hosts: 1 },
  async (t, c) => {
    const { repository } = c;
    const bridgeId = await c.createBridge();
    const [a, b, spy, inspector] = await c.populate(bridgeId, 4);
    const mirror = await repository.create('mirror', {
      id: randomUUID(),
      toPortId: spy.id,
      conditions: [{}],
      name: 'copy',
    });
    const redirect = { type: 'l2-transform', action: 'redirect', targetPortId: inspector.id } as const;
    const chainId = await c.createChain([{ ...redirect, condition: { protocol: 17 } }]);
    const inbound = { inboundMirrorIds: [mirror.id], inboundFilterId: chainId };
    await repository.modify('port', a.id, (port) => ({ ...port, ...inbound }));
    const api = await ExplainingApi.serve(c);
    try {
      const ask = (protocol: string) => api.trace({ portId: a.id, packet: `${protocol} 10.1.0.1:1 > 10.1.0.2:2` });
      await until('the agent knows the port as it is', async () => {
        const { steps } = (await ask('udp')).passes[0];
        return steps.some(({ type }) => type === 'mirror') && steps.some(({ type }) => type === 'rule');
      });
      const copied = await ask('tcp');
      t.is(copied.outcome.text, 'Delivered out of port pod2 on host-1 of bridge blue.');
      t.deepEqual(copied.outcome.portIds, [b.id]);
      t.true(copied.passes[0].steps.some(({ text }) => text === 'copied by mirror copy'));
      const redirected = await ask('udp');
      t.is(redirected.outcome.text, 'Delivered out of port pod4 on host-1 of bridge blue.');
      const flooded = await api.trace({ portId: a.id, packet: 'tcp 10.1.0.1 > 10.1.0.9 to ff:ff:ff:ff:ff:ff' });
      t.is(flooded.outcome.verdict, 'flooded');
      t.regex(flooded.outcome.text, /^Flooded: a copy goes to [0-9] ports of the host, 0 other hosts/);
    } finally {
      await api.close();
    }
  },
);

clusterTest('what cannot be traced is refused with the field', { hosts: 1 }, async (t, c) => {
  const bridgeId = await c.createBridge();
  const [a] = await c.populate(bridgeId, 1);
  const api = await ExplainingApi.serve(c, []);
  const refused = async (body: object) => (await t.throwsAsync(api.trace(body), { instanceOf: ApiError }))!;
  try {
    const packet = 'tcp 10.1.0.1 > 10.1.0.2:80';
    t.like(await refused({ portId: randomUUID(), packet }), { status: 404 });
    t.like(await refused({ portId: a.id, packet: 'tcp 10.1.0.1 < 10.1.0.2' }), { status: 400, field: 'packet' });
    t.regex((await refused({ portId: a.id, packet })).message, /nobody on the bridge/);
    t.like(await refused({ portId: 'web', packet }), { status: 400 });
    t.like(await refused({ portId: a.id, packet, via: 1 }), { status: 400 });
    const whole = { portId: a.id, packet: `${packet} to 02:00:00:00:00:99` };
    t.like(await refused(whole), { status: 503, code: 'MN_AGENT_UNAVAILABLE' });
  } finally {
    await api.close();
  }
});
