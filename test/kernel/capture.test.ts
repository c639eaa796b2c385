import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import test from 'ava';
import { AgentLink } from '../../src/api/explain/agent-link.js';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey, Word } from '../../src/flow/key.js';
import { CAPTURES_PATH } from '../../src/nsdb/layout.js';
import { parseIpv4 } from '../../src/packet/address.js';
import { IcmpType } from '../../src/packet/icmp.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { type CapturedPacket, PcapngReader } from '../../src/packet/pcap.js';
import { idFromName } from '../../src/topology/id.js';
import { must, until } from './lab.js';
import { type Machine, RoutedLab } from './routed-lab.js';

/** Machines on two nodes behind a router. What crosses a port of the router, which is on no node, is captured by the second. */
let routed: RoutedLab;
let red: Machine;
let blue: Machine;
let link: AgentLink;

const AT_ROUTER = idFromName('port', 'router to network 1');

test.before(async (t) => {
  t.timeout(300_000);
  routed = await RoutedLab.start();
  const { lab } = routed;
  const [node1, node2] = lab.nodes;
  red = await routed.addMachine(node1, await routed.addNetwork(1), 'red', 1);
  blue = await routed.addMachine(node2, await routed.addNetwork(2), 'blue', 3);
  // This process asks the agents over the underlay.
  await must('ip', 'addr', 'add', '172.31.0.254/24', 'dev', `ul-${lab.tag}`);
  link = new AgentLink(lab.repository().store);
  await until('the first way to be known', async () => (await red.ping(blue.ipv4, 1)) === 1);
});

test.afterEach(async (t) => {
  if (!t.passed) t.log(await routed.lab.logs());
});

test.after.always(() => routed?.close());

interface Echo {
  readonly direction: CapturedPacket['direction'];
  readonly type: number;
  readonly src: number;
  readonly dst: number;
  readonly ttl: number;
}

/** The echoes among what comes of a stream. */
function echoesOf(stream: IncomingMessage): Echo[] {
  const reader = new PcapngReader();
  const echoes: Echo[] = [];
  stream.on('data', (piece: Buffer) => {
    for (const item of reader.read(piece)) {
      if (!('bytes' in item)) continue;
      const key = new FlowKey();
      extractKey(item.bytes, key);
      if (key.nwProto !== IpProtocol.ICMP) continue;
      const { words, nwTtl, tpSrc } = key;
      const [src, dst] = [words[Word.NW_SRC], words[Word.NW_DST]];
      echoes.push({ direction: item.direction, type: tpSrc, src, dst, ttl: nwTtl });
    }
  });
  return echoes;
}

async function isCopied(): Promise<boolean> {
  const flows = await Promise.all(routed.lab.nodes.map((node) => node.flows()));
  return JSON.stringify(flows.flat().map(({ actions }) => actions)).includes('userspace');
}

test.serial('both directions are seen at a port of the router, and nothing is left when nobody looks', async (t) => {
  t.timeout(180_000);
  const { lab } = routed;
  const hostId = await routed.hostId(lab.nodes[1]);
  const stream = await link.open(hostId, `/capture?port=${AT_ROUTER}`);
  const echoes = echoesOf(stream);
  const [here, there] = [red, blue].map(({ ipv4 }) => parseIpv4(ipv4)!);
  const has = (direction: string, type: number) =>
    echoes.some((echo) => echo.direction === direction && echo.type === type);
  await until('both directions', async () => {
    await red.ping(blue.ipv4, 1);
    return has('in', IcmpType.ECHO_REQUEST) && has('out', IcmpType.ECHO_REPLY);
  });
  for (const echo of echoes) {
    const isRequest = echo.type === IcmpType.ECHO_REQUEST;
    t.is(echo.direction, isRequest ? 'in' : 'out');
    t.deepEqual([echo.src, echo.dst], isRequest ? [here, there] : [there, here]);
    // As it comes to the router, and as it leaves it.
    t.is(echo.ttl, isRequest ? 64 : 63);
  }
  t.true(await isCopied());
  const before = echoes.length;
  t.is(await red.ping(blue.ipv4, 5), 5);
  await until('each packet once', () => echoes.length >= before + 10);
  t.is(echoes.length, before + 10);

  stream.destroy();
  await until('nothing to be copied', async () => !(await isCopied()));
  t.deepEqual(await lab.repository().store.children(CAPTURES_PATH), []);
  t.is(await red.ping(blue.ipv4), 2);
});

test.serial('a capture ends by itself, and sees what the filter says', async (t) => {
  t.timeout(180_000);
  const hostId = await routed.hostId(routed.lab.nodes[0]);
  const filter = encodeURIComponent(`icmp ${red.ipv4} > ${blue.ipv4} echo-request`);
  const stream = await link.open(hostId, `/capture?port=${AT_ROUTER}&filter=${filter}&count=3`);
  const echoes = echoesOf(stream);
  const ended = once(stream, 'end');
  await until('three packets', async () => {
    await red.ping(blue.ipv4, 1);
    return stream.readableEnded;
  });
  await ended;
  t.deepEqual(
    echoes.map(({ direction, type }) => [direction, type]),
    Array.from({ length: 3 }, () => ['in', IcmpType.ECHO_REQUEST]),
  );
});
