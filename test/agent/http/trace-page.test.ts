import { randomUUID } from 'node:crypto';
import test from 'ava';
import type { TracedPacket } from '../../../src/agent/forwarding/tracer.js';
import { type Explainer, tracePage } from '../../../src/agent/http/trace-page.js';
import { InvalidInputError } from '../../../src/errors.js';
import { describePacket } from '../../../src/flow/describe.js';
import { formatMac } from '../../../src/packet/address.js';
import { udpFrame } from '../../simulation/world.js';
import { Cluster, type Pod } from '../cluster.js';

const PORT = randomUUID();
const signal = new AbortController().signal;

/** What the page asks for, in words. */
async function asked(query: string): Promise<{ packet: TracedPacket; text: string }> {
  let packet: TracedPacket | undefined;
  const explainer: Explainer = {
    async explain(traced) {
      packet = traced;
      return [];
    },
  };
  await tracePage(explainer, new URLSearchParams(query), signal);
  return { packet: packet!, text: describePacket(packet!.key) };
}

const MACS = 'from 02:00:00:00:00:01 to 02:00:00:00:00:02';

test('packets are described in words or as a whole', async (t) => {
  const of = (packet: string) => asked(new URLSearchParams({ port: PORT, packet }).toString());
  const tail = ', ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:02';
  t.is((await of(`tcp 10.0.0.1 > 10.0.0.2:80 ${MACS}`)).text, `tcp 10.0.0.1:0 > 10.0.0.2:80${tail}`);
  const bytes = udpFrame({ srcMac: 0x0200_0000_0001, dstMac: 0x0200_0000_0002 });
  const { packet, text } = await asked(
    `port=${PORT}&frame=${Buffer.from(bytes).toString('hex')}&connection=reply&hash=5`,
  );
  t.is(text, `udp 10.1.0.1:1000 > 10.1.0.2:2000${tail}`);
  t.deepEqual(Buffer.from(packet.bytes!), Buffer.from(bytes));
  t.like(packet, { portId: PORT, connection: 'reply', hash: 5 });
});

test('what is no packet is refused with the name of the field', async (t) => {
  const good: Record<string, string> = { port: PORT, packet: `tcp 10.0.0.1 > 10.0.0.2 ${MACS}` };
  const bad: [field: string, value: string][] = [
    ['port', '../hosts'],
    ['packet', ''],
    ['packet', 'tcp 10.0.0.1 > 10.0.0.2'],
    ['packet', `tcp 10.0.0 > 10.0.0.2 ${MACS}`],
    ['connection', 'old'],
    ['format', 'xml'],
    ['hash', '-1'],
    ['hash', '1.5'],
    ['frame', 'abc'],
    ['frame', '00'],
  ];
  for (const [field, value] of bad) {
    const error = await t.throwsAsync(asked(new URLSearchParams({ ...good, [field]: value }).toString()), {
      instanceOf: InvalidInputError,
    });
    t.is(error?.field, field, `${field}=${value}`);
  }
  await t.throwsAsync(asked(new URLSearchParams({ ...good, sport: '1' }).toString()), { message: /sport/ });
});

test('an agent gets the facts that a packet needs, and sends nothing', async (t) => {
  const cluster = await Cluster.start({ hosts: 2 });
  t.teardown(() => cluster.close());
  const bridgeId = await cluster.createBridge();
  const [a, b] = await cluster.populate(bridgeId, 1);
  const { agent } = cluster.hosts[0];
  const flows = agent.forwarder.flows.size;
  cluster.underlayFrames = [];
  const ask = (destination: Pod, format: string) => {
    const packet = `tcp 10.1.0.1 > 10.1.0.2 from ${formatMac(a.mac)} to ${formatMac(destination.mac)}`;
    const fields = { port: a.id, packet, format };
    return tracePage(agent.tracer, new URLSearchParams(fields), signal);
  };
  const text = (await ask(b, 'text')) as string;
  t.true(
    text.includes(`
in at port ${a.id} of a bridge
bridge ${bridgeId}
  ${formatMac(b.mac)} is behind port ${b.id}
  out at port ${b.id}
  sent: set-tunnel(key `),
    text,
  );
  const { passes } = (await ask(b, 'json')) as { passes: { steps: { type: string }[]; actions: string }[] };
  t.deepEqual(
    passes[0].steps.map(({ type }) => type),
    ['in', 'device', 'mac', 'out', 'output'],
  );
  t.regex(passes[0].actions, /^set-tunnel\(.*\), output\([0-9]+\)$/);
  await cluster.quiet();
  t.deepEqual(cluster.underlayFrames, []);
  t.is(agent.forwarder.flows.size, flows);

  const fields = { port: randomUUID(), packet: `tcp 10.1.0.1 > 10.1.0.2 ${MACS}` };
  t.regex((await tracePage(agent.tracer, new URLSearchParams(fields), signal)) as string, /dropped: no-port/);
});
