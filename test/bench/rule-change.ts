import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectApi } from '../../src/api/client/client.js';
import { idFromName } from '../../src/topology/id.js';
import { until } from '../kernel/lab.js';
import { RoutedLab } from '../kernel/routed-lab.js';
import { last, missing, type Received, type Receiver, type Sender, StreamProgram } from '../kernel/streams.js';
import { freePort } from '../nsdb/apache-zookeeper.js';
import { type Figure, figureAlone } from './figure.js';
import { PROGRAM, ServiceProcess } from './service-process.js';

const ROUNDS = 20;
const QUICK_ROUNDS = 5;
/** Packets a second. */
const RATE = 1000;
const PORT = 7000;
/** So many packets in a row that do not come are no loss, but the rule. */
const SILENCE = 300;
const POLL_MS = 100;

/**
 * How long a rule that is changed over the REST API takes until packets between machines of two nodes obey it: a stream of
 * numbered packets runs all the time, and the number of the first packet that is dropped, or that comes again, says when that was.
 */
export async function benchRuleChange(progress: (text: string) => void, quick: boolean): Promise<Figure[]> {
  const rounds = quick ? QUICK_ROUNDS : ROUNDS;
  const routed = await RoutedLab.start();
  const listen = `127.0.0.1:${await freePort()}`;
  const api = connectApi({ server: `http://${listen}` });
  const config = join(routed.lab.folder, 'cluster.json');
  const command = [process.execPath, PROGRAM, 'cluster', '--config', config];
  const isReady = () => api.request('GET', '/v1/hosts').then(Boolean, () => false);
  const server = new ServiceProcess('midonet cluster', command, isReady);
  const streams: (Sender | Receiver)[] = [];
  try {
    await writeFile(config, JSON.stringify({ nsdb: { connect: routed.lab.nsdbConnect }, api: { listen } }));
    await server.start();
    const [node1, node2] = routed.lab.nodes;
    const network = await routed.addNetwork(1);
    const red = await routed.addMachine(node1, network, 'red', 1);
    const blue = await routed.addMachine(node2, network, 'blue', 2);
    const { object: chain } = await api.chains.create({ name: 'firewall' });
    const rule = { id: randomUUID(), chainId: chain.id, condition: { protocol: 17, destinationPorts: range(PORT) } };
    await api.rules.create({ ...rule, type: 'accept' });
    await api.ports.patch(idFromName('port', blue.name), { outboundFilterId: chain.id });

    const program = await StreamProgram.compile(routed.lab.folder);
    const receiver = await program.receive(blue, PORT);
    streams.push(receiver);
    const sender = await program.send(red, { address: blue.ipv4, port: PORT, first: 0, count: 1, rate: RATE });
    streams.push(sender);
    const sent = async () => (await sender.sent()).get(0)!;
    const received = async () => (await receiver.received()).get(0);
    await until('packets to come', async () => last(await received()) >= 0);

    const puts: number[] = [];
    const dropped: number[] = [];
    const passed: number[] = [];
    for (let round = 1; round <= rounds; round++) {
      for (const type of ['drop', 'accept'] as const) {
        const before = await sent();
        const begin = performance.now();
        await api.rules.replace(rule.id, { ...rule, type });
        puts.push(performance.now() - begin);
        const find = type === 'drop' ? firstDropped : firstPassed;
        let obeys: number | undefined;
        await until(`packets to obey ${type}`, async () => {
          await sleep(POLL_MS);
          const now = await sent();
          obeys = find(await received(), before, now);
          return obeys !== undefined;
        });
        (type === 'drop' ? dropped : passed).push(((obeys! - before) * 1000) / RATE);
      }
      progress(
        `rule-change: ${round} of ${rounds} rounds, dropped after ${dropped.at(-1)} ms, passed after ${passed.at(-1)} ms`,
      );
    }
    return [
      figureAlone('rule-change-put', 'ms', puts),
      figureAlone('rule-change-drop', 'ms', dropped),
      figureAlone('rule-change-pass', 'ms', passed),
    ];
  } finally {
    for (const stream of streams) stream.close();
    api.close();
    await server.stop();
    await routed.close();
  }
}

/** The first packet from `before` on that did not come, when none of those that were sent at last came; undefined until then. */
function firstDropped(received: Received | undefined, before: number, now: number): number | undefined {
  if (now - Math.max(before, last(received)) < SILENCE) return undefined;
  return missing(before, now, [received])[0];
}

/** The first packet from `before` on that came. */
function firstPassed(received: Received | undefined, before: number): number | undefined {
  const range = received?.ranges.find(([, end]) => end >= before);
  return range && Math.max(range[0], before);
}

function range(port: number): { start: number; end: number } {
  return { start: port, end: port };
}
