/**
 * Connection tracking as every datapath driver does it, which is as Linux does it. A part of the compliance suite of
 * datapath.ts, under the same rules. What the tests show is told in docs/datapath.md.
 */
import type { ExecutionContext } from 'ava';
import type { TrackedConnection } from '../../src/datapath/datapath.js';
import { DatapathError } from '../../src/datapath/errors.js';
import type { Action, NatSpec } from '../../src/flow/action.js';
import { CtState, FlowKey, Frag, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import { readU16, readU32, readWords, writeU16, writeU32 } from '../../src/packet/big-endian.js';
import { crc32c } from '../../src/packet/checksum.js';
import { buildEthernet, ETHERNET_HEADER, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho, buildIcmpError } from '../../src/packet/icmp.js';
import { buildIcmpv6Echo, buildIcmpv6Error } from '../../src/packet/icmpv6.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildTcp, TcpFlag } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import {
  type Bench,
  checkChecksums,
  type DatapathFactory,
  IP_A,
  IP_B,
  keyOf,
  MAC_A,
  MAC_B,
  PAYLOAD,
  protocolMask,
  runner,
  tcp4,
  udp4,
} from './datapath.js';

export type Family = 4 | 6;
type Ct = Extract<Action, { type: 'ct' }>;

/** An address and a port; for an ICMP echo the identifier is the port of whoever asks, and the other side has none. */
interface Endpoint {
  readonly ip: readonly number[];
  readonly port: number;
}

export interface Conversation {
  readonly family: Family;
  readonly protocol: number;
  readonly client: Endpoint;
  readonly server: Endpoint;
}

export const RESTORE: NatSpec = { kind: 'restore' };
export const ZONE = 9;
const RECIRC_ID = 77;

export const PROTOCOLS: readonly [string, Family, number][] = [
  ['TCP', 4, IpProtocol.TCP],
  ['UDP', 4, IpProtocol.UDP],
  ['SCTP', 4, IpProtocol.SCTP],
  ['ICMP echo', 4, IpProtocol.ICMP],
  ['TCP', 6, IpProtocol.TCP],
  ['UDP', 6, IpProtocol.UDP],
  ['SCTP', 6, IpProtocol.SCTP],
  ['ICMPv6 echo', 6, IpProtocol.ICMPV6],
];

export function isEcho(protocol: number): boolean {
  return protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6;
}

export function address(family: Family, host: number): number[] {
  return family === 4 ? [0x0a00_0000 + host] : [0xfd00_0000, 0, 0, host];
}

export function conversation(family: Family, protocol: number, clientPort = 1000): Conversation {
  const server = { ip: address(family, 2), port: isEcho(protocol) ? 0 : 80 };
  return { family, protocol, client: { ip: address(family, 1), port: clientPort }, server };
}

/** Packets of a conversation: step 0 begins it, 1 answers, 2 is the client's again, 3 the server's. */
export function packet({ family, protocol, client, server }: Conversation, step: 0 | 1 | 2 | 3): Uint8Array {
  const answer = step % 2 === 1;
  const [from, to] = answer ? [server, client] : [client, server];
  return ipFrame(family, protocol, from.ip, to.ip, transport(protocol, from.port, to.port, client.port, step));
}

function ipFrame(
  family: Family,
  protocol: number,
  src: readonly number[],
  dst: readonly number[],
  payload: Uint8Array,
): Uint8Array {
  const ethernet = { dst: MAC_B, src: MAC_A };
  return family === 4
    ? buildEthernet({ ...ethernet, type: EtherType.IPV4 }, buildIpv4({ src: src[0], dst: dst[0], protocol }, payload))
    : buildEthernet({ ...ethernet, type: EtherType.IPV6 }, buildIpv6({ src, dst, protocol }, payload));
}

const TCP_STEPS = [
  { flags: TcpFlag.SYN, seq: 1, ack: 0 },
  { flags: TcpFlag.SYN | TcpFlag.ACK, seq: 100, ack: 2 },
  { flags: TcpFlag.ACK, seq: 2, ack: 101 },
  { flags: TcpFlag.ACK, seq: 101, ack: 2 },
] as const;

function transport(
  protocol: number,
  srcPort: number,
  dstPort: number,
  echoId: number,
  step: 0 | 1 | 2 | 3,
): Uint8Array {
  switch (protocol) {
    case IpProtocol.TCP:
      return buildTcp({ srcPort, dstPort, ...TCP_STEPS[step] });
    case IpProtocol.UDP:
      return buildUdp(srcPort, dstPort, PAYLOAD);
    case IpProtocol.SCTP:
      return sctp(srcPort, dstPort, step);
    case IpProtocol.ICMP:
      return buildIcmpEcho(step % 2 === 1 ? 0 : 8, echoId, 1, PAYLOAD);
    case IpProtocol.ICMPV6:
      return buildIcmpv6Echo(step % 2 === 1 ? 129 : 128, echoId, 1, PAYLOAD);
    default:
      return PAYLOAD;
  }
}

const CLIENT_TAG = 0x1111_1111;
const SERVER_TAG = 0x2222_2222;

/** INIT, INIT ACK, COOKIE ECHO and COOKIE ACK (RFC 9260 section 3). */
function sctp(srcPort: number, dstPort: number, step: 0 | 1 | 2 | 3): Uint8Array {
  const type = [1, 2, 10, 11][step];
  const tag = [0, CLIENT_TAG, SERVER_TAG, CLIENT_TAG][step];
  const body = new Uint8Array(step < 2 ? 16 : 0);
  if (step < 2) {
    writeU32(body, 0, step === 0 ? CLIENT_TAG : SERVER_TAG);
    writeU32(body, 4, 65536);
    writeU16(body, 8, 1);
    writeU16(body, 10, 1);
  }
  return sctpChunk(srcPort, dstPort, type, tag, body);
}

function sctpChunk(srcPort: number, dstPort: number, type: number, tag: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16 + body.length);
  writeU16(bytes, 0, srcPort);
  writeU16(bytes, 2, dstPort);
  writeU32(bytes, 4, tag);
  bytes[12] = type;
  writeU16(bytes, 14, 4 + body.length);
  bytes.set(body, 16);
  writeSctpChecksum(bytes, 0);
  return bytes;
}

function writeSctpChecksum(bytes: Uint8Array, at: number): void {
  writeU32(bytes, at + 8, 0);
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(at + 8, crc32c(bytes, at, bytes.length), true);
}

function checkTransport(t: ExecutionContext, frame: Uint8Array): void {
  const key = keyOf(frame, 0);
  if (key.nwProto !== IpProtocol.SCTP) {
    checkChecksums(t, frame);
    return;
  }
  const again = frame.slice();
  writeSctpChecksum(again, ETHERNET_HEADER + (key.ethType === EtherType.IPV4 ? 20 : 40));
  t.deepEqual(Buffer.from(frame), Buffer.from(again), 'SCTP checksum');
}

/** Who a packet is from and to, as the tests name endpoints. */
function endpoints(frame: Uint8Array): { from: Endpoint; to: Endpoint } {
  return ipEndpoints(frame, ETHERNET_HEADER);
}

function ipEndpoints(bytes: Uint8Array, at: number): { from: Endpoint; to: Endpoint } {
  const v4 = bytes[at] >>> 4 === 4;
  const protocol = v4 ? bytes[at + 9] : bytes[at + 6];
  const src = v4 ? [readU32(bytes, at + 12)] : [...readWords(bytes, at + 8)];
  const dst = v4 ? [readU32(bytes, at + 16)] : [...readWords(bytes, at + 24)];
  const payload = at + (v4 ? 20 : 40);
  if (!isEcho(protocol)) {
    return { from: { ip: src, port: readU16(bytes, payload) }, to: { ip: dst, port: readU16(bytes, payload + 2) } };
  }
  const asks = bytes[payload] === 8 || bytes[payload] === 128;
  const id = readU16(bytes, payload + 4);
  return { from: { ip: src, port: asks ? id : 0 }, to: { ip: dst, port: asks ? 0 : id } };
}

function names(state: number): string {
  return Object.entries(CtState)
    .filter(([, bit]) => (state & bit) !== 0)
    .map(([name]) => name.toLowerCase())
    .join(' ');
}

interface Seen {
  readonly state: string;
  readonly key: FlowKey;
  readonly frame: Uint8Array;
  readonly from: Endpoint;
  readonly to: Endpoint;
}

/** Run actions on a packet and have it sent up behind them: what they made of it. */
export async function after(bench: Bench, frame: Uint8Array, ...actions: Action[]): Promise<Seen> {
  const key = new FlowKey();
  await bench.ok({ type: 'execute', key, packet: frame, actions: [...actions, { type: 'recirc', id: RECIRC_ID }] });
  const upcall = await bench.upcall();
  bench.t.is(upcall.key.recircId, RECIRC_ID);
  // The key holds what the headers say: nothing is stale.
  const read = keyOf(upcall.packet, 0);
  for (let word = Word.ETH_SRC; word < upcall.key.words.length; word++) {
    bench.t.is(upcall.key.words[word], read.words[word], `word ${word} of the key`);
  }
  const state = names(upcall.key.ctState);
  return { state, key: upcall.key, frame: upcall.packet, ...endpoints(upcall.packet) };
}

export function ct(more: Partial<Ct> = {}): Ct {
  return { type: 'ct', zone: ZONE, ...more };
}

/** From one address and, where there are any, one port. */
export function toOne(kind: 'src' | 'dst', { protocol }: Conversation, { ip, port }: Endpoint): NatSpec {
  const hasPort = kind === 'src' || !isEcho(protocol);
  return { kind, ipMin: ip, ipMax: ip, ...(hasPort ? { portMin: port, portMax: port } : {}) };
}

function withoutTimeout({ timeoutMs, ...rest }: TrackedConnection): Omit<TrackedConnection, 'timeoutMs'> {
  return rest;
}

export function conntrackCompliance(driver: string, factory: DatapathFactory): void {
  const run = runner(driver, factory);

  for (const [title, family, protocol] of PROTOCOLS) {
    run(`${title} over IPv${family}: new, established, and not mixed up with others`, async (bench, t) => {
      const talk = conversation(family, protocol);
      t.is((await after(bench, packet(talk, 1), ct())).state, isUdp(protocol) ? 'new tracked' : 'invalid tracked');
      t.is((await after(bench, packet(talk, 0), ct())).state, 'new tracked');
      t.deepEqual(await bench.datapath.connections(), []);
      t.is((await after(bench, packet(talk, 0), ct({ commit: true }))).state, 'new tracked');
      t.is((await after(bench, packet(talk, 0), ct())).state, 'new tracked');
      t.is((await after(bench, packet(talk, 1), ct())).state, 'established reply tracked');
      t.is((await after(bench, packet(talk, 2), ct())).state, 'established tracked');
      t.is((await after(bench, packet(talk, 3), ct())).state, 'established reply tracked');
      t.is((await after(bench, packet(conversation(family, protocol, 1001), 0), ct())).state, 'new tracked');
      const [connection, ...none] = await bench.datapath.connections(ZONE);
      t.deepEqual(none, []);
      t.like(connection, { zone: ZONE, family, protocol, answered: true, mark: 0 });
      t.is(connection.tcpState, protocol === IpProtocol.TCP ? 'ESTABLISHED' : undefined);
      t.true(connection.timeoutMs > 0);
    });
  }

  run('SCTP: heartbeats begin an association on a second path, data does not', async (bench, t) => {
    const { client, server } = conversation(4, IpProtocol.SCTP);
    const chunk = (from: Endpoint, to: Endpoint, type: number, tag: number): Uint8Array =>
      ipFrame(4, IpProtocol.SCTP, from.ip, to.ip, sctpChunk(from.port, to.port, type, tag, new Uint8Array(4)));
    t.is((await after(bench, chunk(client, server, 0, SERVER_TAG), ct({ commit: true }))).state, 'invalid tracked');
    t.is((await after(bench, chunk(client, server, 4, SERVER_TAG), ct({ commit: true }))).state, 'new tracked');
    const answer = await after(bench, chunk(server, client, 5, CLIENT_TAG), ct());
    t.is(answer.state, 'established reply tracked');
    t.is((await after(bench, chunk(client, server, 0, SERVER_TAG), ct())).state, 'established tracked');
    t.is((await after(bench, chunk(client, server, 0, CLIENT_TAG), ct())).state, 'invalid tracked');
  });

  for (const [title, family, protocol] of PROTOCOLS) {
    for (const kind of ['src', 'dst'] as const) {
      run(`${title} over IPv${family}: ${kind} is translated in both directions`, async (bench, t) => {
        const talk = conversation(family, protocol);
        const echo = isEcho(protocol);
        const other = { ip: address(family, 99), port: kind === 'src' ? 40000 : echo ? 0 : 8080 };
        const outside: Conversation = kind === 'src' ? { ...talk, client: other } : { ...talk, server: other };
        const nat = toOne(kind, talk, other);
        const there = kind === 'src' ? 'new tracked snat' : 'new tracked snat dnat';
        const back = kind === 'src' ? 'dnat' : 'snat';
        const forth = kind === 'src' ? 'snat' : 'snat dnat';

        const first = await after(bench, packet(talk, 0), ct({ commit: true, nat }));
        t.is(first.state, there);
        t.deepEqual([first.from, first.to], [outside.client, outside.server]);
        checkTransport(t, first.frame);
        // Sent once more before the answer, it needs the translation once more.
        t.deepEqual((await after(bench, packet(talk, 0), ct({ commit: true, nat }))).from, outside.client);
        const raw = await after(bench, packet(talk, 0), ct({ nat: RESTORE }));
        t.is(raw.state, 'new tracked');
        t.deepEqual([raw.from, raw.to], [talk.client, talk.server]);

        for (const step of [1, 3] as const) {
          const reply = await after(bench, packet(outside, step), ct({ nat: RESTORE }));
          t.is(reply.state, `established reply tracked ${back}`);
          t.deepEqual([reply.from, reply.to], [talk.server, talk.client]);
          checkTransport(t, reply.frame);
          const later = await after(bench, packet(talk, 2), ct({ nat: RESTORE }));
          t.is(later.state, `established tracked ${forth}`);
          t.deepEqual([later.from, later.to], [outside.client, outside.server]);
          checkTransport(t, later.frame);
        }
        // Without nat the state is told, and nothing translated.
        const untranslated = await after(bench, packet(talk, 2), ct());
        t.is(untranslated.state, 'established tracked');
        t.deepEqual([untranslated.from, untranslated.to], [talk.client, talk.server]);

        const [connection] = await bench.datapath.connections(ZONE);
        const asks = family === 4 ? 8 << 8 : 128 << 8;
        const answers = family === 4 ? 0 : 129 << 8;
        t.deepEqual(connection.original, {
          src: talk.client.ip,
          dst: talk.server.ip,
          srcPort: talk.client.port,
          dstPort: echo ? asks : talk.server.port,
        });
        t.deepEqual(connection.reply, {
          src: outside.server.ip,
          dst: outside.client.ip,
          srcPort: echo ? outside.client.port : outside.server.port,
          dstPort: echo ? answers : outside.client.port,
        });
      });
    }
  }

  for (const family of [4, 6] as const) {
    for (const kind of ['src', 'dst'] as const) {
      run(`ICMP errors about ${kind} translated IPv${family} packets are translated, inside too`, async (bench, t) => {
        const talk = conversation(family, IpProtocol.UDP);
        const other = { ip: address(family, 99), port: 5555 };
        const outside: Conversation = kind === 'src' ? { ...talk, client: other } : { ...talk, server: other };
        await after(bench, packet(talk, 0), ct({ commit: true, nat: toOne(kind, talk, other) }));
        await after(bench, packet(outside, 1), ct({ nat: RESTORE }));

        const aboutRequest = errorAbout(packet(outside, 0), address(family, 200));
        const inward = await after(bench, aboutRequest, ct({ nat: RESTORE }));
        t.is(inward.state, `related reply tracked ${kind === 'src' ? 'dnat' : 'snat'}`);
        t.deepEqual(inward.to.ip, talk.client.ip);
        t.deepEqual(quoted(inward.frame), { from: talk.client, to: talk.server });
        checkChecksums(t, inward.frame);

        // In the direction of whoever began the connection, an error is translated only along with a commit.
        const aboutAnswer = errorAbout(packet(talk, 1), address(family, 201));
        const plain = await after(bench, aboutAnswer, ct({ nat: RESTORE }));
        t.is(plain.state, 'related tracked');
        t.deepEqual(quoted(plain.frame), { from: talk.server, to: talk.client });
        const outward = await after(bench, aboutAnswer, ct({ commit: true, nat: RESTORE }));
        t.is(outward.state, `related tracked ${kind === 'src' ? 'snat' : 'snat dnat'}`);
        t.deepEqual(outward.to.ip, outside.server.ip);
        t.deepEqual(quoted(outward.frame), { from: outside.server, to: outside.client });
        checkChecksums(t, outward.frame);
        t.is((await bench.datapath.connections()).length, 1);
      });
    }
  }

  run('an ICMP error about nothing known is invalid', async (bench, t) => {
    const error = errorAbout(packet(conversation(4, IpProtocol.UDP), 0), address(4, 200));
    t.is((await after(bench, error, ct({ nat: RESTORE }))).state, 'invalid tracked');
    t.is((await after(bench, error, ct({ commit: true }))).state, 'invalid tracked');
    t.deepEqual(await bench.datapath.connections(), []);
  });

  run('a packet passes two zones in one list, and is known in each', async (bench, t) => {
    const talk = conversation(4, IpProtocol.UDP);
    const both = (commit: boolean): Action[] => [
      ct({ zone: 1, commit }),
      ct({ zone: 2, commit, mark: commit ? 5 : undefined }),
    ];
    const first = await after(bench, packet(talk, 0), ...both(true));
    t.is(first.state, 'new tracked');
    t.is(first.key.ctZone, 2);
    t.is(first.key.ctMark, 5);
    for (const zone of [1, 2]) {
      t.is((await bench.datapath.connections(zone)).length, 1);
      const reply = await after(bench, packet(talk, 1), ct({ zone }));
      t.is(reply.state, 'established reply tracked');
      t.is(reply.key.ctMark, zone === 1 ? 0 : 5);
    }
    const later = await after(bench, packet(talk, 2), ...both(false));
    t.is(later.state, 'established tracked');
    t.is((await after(bench, packet(talk, 2), ct({ zone: 3 }))).state, 'new tracked');
  });

  run(
    'what one zone translates, the next one sees translated, and tells no NAT of the one before',
    async (bench, t) => {
      const talk = conversation(4, IpProtocol.TCP);
      const other = { ip: address(4, 99), port: 40000 };
      const outside = { ...talk, client: other };
      const nat = toOne('src', talk, other);
      const first = await after(
        bench,
        packet(talk, 0),
        ct({ zone: 1, commit: true, nat }),
        ct({ zone: 2, commit: true }),
      );
      t.is(first.state, 'new tracked');
      t.deepEqual(first.from, other);
      const [second] = await bench.datapath.connections(2);
      t.deepEqual(second.original.src, other.ip);
      t.is(second.original.srcPort, other.port);
      const reply = await after(bench, packet(outside, 1), ct({ zone: 2 }), ct({ zone: 1, nat: RESTORE }));
      t.is(reply.state, 'established reply tracked dnat');
      t.deepEqual(reply.to, talk.client);
      const later = await after(bench, packet(talk, 2), ct({ zone: 1, nat: RESTORE }), ct({ zone: 2 }));
      t.is(later.state, 'established tracked');
      t.deepEqual(later.from, other);
    },
  );

  run('destination and source are translated in one zone each, in one list', async (bench, t) => {
    const talk = conversation(4, IpProtocol.TCP);
    const member = { ip: address(4, 50), port: 8080 };
    const masked = { ip: address(4, 51), port: 30000 };
    const outside: Conversation = { ...talk, client: masked, server: member };
    const first = await after(
      bench,
      packet(talk, 0),
      ct({ zone: 1, commit: true, nat: toOne('dst', talk, member) }),
      ct({ zone: 2, commit: true, nat: toOne('src', talk, masked) }),
    );
    t.deepEqual([first.from, first.to], [masked, member]);
    checkChecksums(t, first.frame);
    const reply = await after(bench, packet(outside, 1), ct({ zone: 2, nat: RESTORE }), ct({ zone: 1, nat: RESTORE }));
    t.deepEqual([reply.from, reply.to], [talk.server, talk.client]);
    t.is(reply.state, 'established reply tracked snat');
    checkChecksums(t, reply.frame);
  });

  run('the state of a packet that comes back from a recirculation goes on', async (bench, t) => {
    // As flows do it: track, look at the state, commit with a translation, track in the next zone, go out.
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const talk = conversation(4, IpProtocol.UDP);
    const other = { ip: address(4, 99), port: 40000 };
    const frame = packet(talk, 0);
    await bench.put(keyOf(frame, a), protocolMask(), [ct({ nat: RESTORE }), { type: 'recirc', id: 1 }]);
    const isNew = keyOf(frame, a);
    isNew.recircId = 1;
    isNew.ctState = CtState.TRACKED | CtState.NEW;
    const mask = protocolMask();
    mask.seeCtState(CtState.NEW | CtState.ESTABLISHED | CtState.INVALID);
    await bench.put(isNew, mask, [
      ct({ commit: true, nat: toOne('src', talk, other), mark: 1 }),
      ct({ zone: 10, commit: true }),
      { type: 'output', port: b },
    ]);
    const known = isNew.clone();
    known.ctState = CtState.TRACKED | CtState.ESTABLISHED;
    known.ctMark = 1;
    const established = mask.clone();
    established.seeCtMark(1);
    const id = await bench.put(known, established, [ct({ zone: 10 }), { type: 'output', port: b }]);
    await bench.send('a0', frame);
    await bench.send('a0', frame);
    for (const out of await bench.frames('b0', 2)) {
      t.deepEqual(endpoints(out).from, other);
      checkChecksums(t, out);
    }
    t.is((await bench.datapath.flow(id))?.packets, 0);
    await after(bench, packet({ ...talk, client: other }, 1), ct({ nat: RESTORE }));
    await bench.send('a0', frame);
    t.deepEqual(endpoints(await bench.frame('b0')).from, other);
    t.is((await bench.datapath.flow(id))?.packets, 1);
    t.is((await bench.datapath.connections()).length, 2);
  });

  run('to commit what is committed changes nothing but the mark', async (bench, t) => {
    const talk = conversation(4, IpProtocol.TCP);
    const other = { ip: address(4, 99), port: 40000 };
    await after(bench, packet(talk, 0), ct({ commit: true, mark: 0x0f }));
    await after(bench, packet(talk, 1), ct());
    await after(bench, packet(talk, 2), ct());
    const [before] = await bench.datapath.connections();
    const again = await after(bench, packet(talk, 2), ct({ commit: true, nat: toOne('src', talk, other) }));
    // There is no translation to give to a connection that has none already, but the flag says that one was tried.
    t.is(again.state, 'established tracked snat');
    t.deepEqual(again.from, talk.client);
    t.is(again.key.ctMark, 0x0f);
    t.deepEqual((await bench.datapath.connections()).map(withoutTimeout), [withoutTimeout(before)]);
    const marked = await after(bench, packet(talk, 1), ct({ commit: true, mark: 0xa0, markMask: 0xf0 }));
    t.is(marked.state, 'established reply tracked');
    t.is(marked.key.ctMark, 0xaf);
    t.is((await bench.datapath.connections())[0].mark, 0xaf);
  });

  run('a forced commit makes the direction of the packet the original one', async (bench, t) => {
    const talk = conversation(4, IpProtocol.UDP);
    await after(bench, packet(talk, 0), ct({ commit: true, mark: 3 }));
    const kept = await after(bench, packet(talk, 2), ct({ forceCommit: true }));
    t.is(kept.key.ctMark, 3);
    const turned = await after(bench, packet(talk, 1), ct({ forceCommit: true }));
    t.is(turned.state, 'new tracked');
    t.is(turned.key.ctMark, 0);
    const [connection, ...none] = await bench.datapath.connections();
    t.deepEqual(none, []);
    t.deepEqual(connection.original.src, talk.server.ip);
    t.is((await after(bench, packet(talk, 2), ct())).state, 'established reply tracked');
  });

  run('tracking in a clone stays there', async (bench, t) => {
    const b = await bench.attach('b0');
    const talk = conversation(4, IpProtocol.UDP);
    const other = { ip: address(4, 99), port: 40000 };
    const clone: Action = {
      type: 'clone',
      actions: [ct({ zone: 2, commit: true, nat: toOne('src', talk, other), mark: 7 }), { type: 'output', port: b }],
    };
    const seen = await after(bench, packet(talk, 0), ct({ commit: true, mark: 1 }), clone);
    t.is(seen.state, 'new tracked');
    t.is(seen.key.ctZone, ZONE);
    t.is(seen.key.ctMark, 1);
    t.deepEqual(seen.from, talk.client);
    t.deepEqual(endpoints(await bench.frame('b0')).from, other);
    const cleared = await after(bench, packet(talk, 0), ct(), { type: 'clone', actions: [{ type: 'ct-clear' }] });
    t.is(cleared.state, 'new tracked');
    t.is((await after(bench, packet(talk, 0), ct(), { type: 'ct-clear' })).state, '');
  });

  run('recirculation amid a list leaves the rest of the list its packet', async (bench, t) => {
    const b = await bench.attach('b0');
    const talk = conversation(4, IpProtocol.UDP);
    const other = { ip: address(4, 99), port: 40000 };
    const key = new FlowKey();
    const actions: Action[] = [
      ct(),
      { type: 'recirc', id: 5 },
      ct({ commit: true, nat: toOne('src', talk, other) }),
      { type: 'hash', basis: 0 },
      { type: 'recirc', id: 6 },
      { type: 'output', port: b },
    ];
    await bench.ok({ type: 'execute', key, packet: packet(talk, 0), actions });
    await bench.until('two upcalls', () => bench.upcalls.length >= 2);
    const [first, second] = bench.upcalls;
    t.is(first.key.recircId, 5);
    t.is(names(first.key.ctState), 'new tracked');
    t.is(first.key.dpHash, 0);
    t.deepEqual(endpoints(first.packet).from, talk.client);
    t.is(second.key.recircId, 6);
    t.is(names(second.key.ctState), 'new tracked snat');
    t.not(second.key.dpHash, 0);
    t.deepEqual(endpoints(second.packet).from, other);
    t.deepEqual(endpoints(await bench.frame('b0')).from, other);
  });

  run('the hash of a packet chooses one of several targets by its low bits', async (bench, t) => {
    const a = await bench.attach('a0');
    const outs = [await bench.attach('b0'), await bench.attach('c0')];
    await bench.put(keyOf(udp4(1, 80), a), protocolMask(), [
      ct(),
      { type: 'hash', basis: 0 },
      { type: 'recirc', id: 3 },
    ]);
    for (const [bucket, port] of outs.entries()) {
      const key = keyOf(udp4(1, 80), a);
      key.recircId = 3;
      key.dpHash = bucket;
      key.ctState = CtState.TRACKED | CtState.NEW;
      const mask = protocolMask();
      mask.seeDpHash(1);
      mask.seeCtState(CtState.NEW);
      await bench.put(key, mask, [ct({ commit: true }), { type: 'output', port }]);
    }
    for (let port = 1; port <= 32; port++) await bench.send('a0', udp4(port, 80));
    let left = 0;
    let right = 0;
    await bench.until('32 frames', () => {
      left += bench.fresh('b0').length;
      right += bench.fresh('c0').length;
      return left + right >= 32;
    });
    t.true(left > 0 && right > 0, `${left} and ${right}`);
    t.is(left + right, 32);
    t.is((await bench.datapath.connections(ZONE)).length, 32);
  });

  run('source ports come from the range, each once for one peer', async (bench, t) => {
    const nat: NatSpec = { kind: 'src', ipMin: address(4, 99), ipMax: address(4, 99), portMin: 40000, portMax: 40003 };
    const ports: number[] = [];
    for (let i = 0; i < 4; i++) {
      const talk = conversation(4, IpProtocol.TCP, 1000 + i);
      ports.push((await after(bench, packet(talk, 0), ct({ commit: true, nat }))).from.port);
    }
    t.deepEqual(ports.sort(), [40000, 40001, 40002, 40003]);

    // No port is left: the packet is dropped by the commit.
    const fifth = packet(conversation(4, IpProtocol.TCP, 1004), 0);
    const error = await bench.fails({
      type: 'execute',
      key: new FlowKey(),
      packet: fifth,
      actions: [ct({ commit: true, nat }), { type: 'recirc', id: 1 }],
    });
    t.is(error instanceof DatapathError ? error.kind : String(error), 'invalid');
    await bench.quiet();
    t.is((await bench.datapath.connections()).length, 4);
    // To another server the same ports are free.
    const elsewhere = { ...conversation(4, IpProtocol.TCP, 1004), server: { ip: address(4, 3), port: 80 } };
    t.is((await after(bench, packet(elsewhere, 0), ct({ commit: true, nat }))).state, 'new tracked snat');
  });

  run('a flow whose commit fails drops the packet', async (bench, t) => {
    const a = await bench.attach('a0');
    await bench.attach('b0');
    const nat: NatSpec = { kind: 'src', ipMin: address(4, 99), portMin: 40000, portMax: 40000 };
    const frame = packet(conversation(4, IpProtocol.UDP, 1001), 0);
    await after(bench, packet(conversation(4, IpProtocol.UDP), 0), ct({ commit: true, nat }));
    await bench.put(keyOf(frame, a), protocolMask(), [ct({ commit: true, nat }), { type: 'output', port: a }]);
    await bench.send('a0', frame);
    await bench.quiet('a0');
    t.is((await bench.datapath.connections()).length, 1);
  });

  run('without a translation, a source port that is taken gives way', async (bench, t) => {
    // Two clients' connections would look the same behind the translated destination.
    const talk = conversation(4, IpProtocol.UDP);
    const member = { ip: address(4, 50), port: 8080 };
    const direct = { ...talk, server: member };
    await after(bench, packet(direct, 0), ct({ commit: true }));
    const seen = await after(bench, packet(talk, 0), ct({ commit: true, nat: toOne('dst', talk, member) }));
    t.deepEqual(seen.to, member);
    t.deepEqual(seen.from.ip, talk.client.ip);
    t.not(seen.from.port, talk.client.port);
    t.is(seen.state, 'new tracked snat dnat');
    const reply = await after(bench, packet({ ...talk, client: seen.from, server: member }, 1), ct({ nat: RESTORE }));
    t.deepEqual([reply.from, reply.to], [talk.server, talk.client]);
    t.is(reply.state, 'established reply tracked snat dnat');
  });

  run('what no connection can begin with is invalid, passes, and is not remembered', async (bench, t) => {
    const badTcp = tcp4(IP_A, IP_B, 1, 2, 0);
    const badChecksum = udp4(1, 2);
    badChecksum[ETHERNET_HEADER + 20 + 6] ^= 0x55;
    const badLength = udp4(1, 2);
    writeU16(badLength, ETHERNET_HEADER + 20 + 4, 200);
    const short = buildEthernet(
      { dst: MAC_B, src: MAC_A, type: EtherType.IPV4 },
      buildIpv4({ src: IP_A, dst: IP_B, protocol: IpProtocol.TCP }, new Uint8Array(10)),
    );
    const noInit = packet(conversation(4, IpProtocol.SCTP), 2);
    const badSctp = packet(conversation(4, IpProtocol.SCTP), 0);
    badSctp[ETHERNET_HEADER + 20 + 8] ^= 0x55;
    for (const [title, frame] of Object.entries({ badTcp, badChecksum, badLength, short, noInit, badSctp })) {
      const key = new FlowKey();
      const nat: NatSpec = { kind: 'src', ipMin: address(4, 99) };
      const actions: Action[] = [ct({ commit: true, mark: 5, nat }), { type: 'recirc', id: 1 }];
      await bench.ok({ type: 'execute', key, packet: frame, actions });
      const upcall = await bench.upcall();
      t.is(names(upcall.key.ctState), 'invalid tracked', title);
      t.is(upcall.key.ctZone, ZONE, title);
      t.is(upcall.key.ctMark, 0, title);
      t.deepEqual(Buffer.from(upcall.packet), Buffer.from(frame), title);
    }
    t.deepEqual(await bench.datapath.connections(), []);
  });

  run('a connection may be picked up in its middle, as it may have been before a restart', async (bench, t) => {
    const talk = conversation(4, IpProtocol.TCP);
    t.is((await after(bench, packet(talk, 2), ct({ commit: true }))).state, 'new tracked');
    t.is((await after(bench, packet(talk, 3), ct())).state, 'established reply tracked');
  });

  run('protocols without ports are tracked by their addresses', async (bench, t) => {
    for (const family of [4, 6] as const) {
      const talk: Conversation = { ...conversation(family, 253), client: { ip: address(family, 1), port: 0 } };
      const nat: NatSpec = { kind: 'src', ipMin: address(family, 99), ipMax: address(family, 99) };
      const first = await after(bench, packet(talk, 0), ct({ commit: true, nat }));
      t.is(first.state, 'new tracked snat');
      t.deepEqual(first.from.ip, address(family, 99));
      const outside = { ...talk, client: { ip: address(family, 99), port: 0 } };
      const reply = await after(bench, packet(outside, 1), ct({ nat: RESTORE }));
      t.is(reply.state, 'established reply tracked dnat');
      t.deepEqual(reply.to.ip, talk.client.ip);
    }
  });

  run('only IP is tracked: other flows are refused', async (bench, t) => {
    const a = await bench.attach('a0');
    const frame = buildArpRequest(MAC_A, IP_A, IP_B);
    const refused = await bench.fails({
      type: 'put',
      id: 5,
      key: keyOf(frame, a),
      mask: protocolMask(),
      actions: [ct()],
    });
    t.is(refused instanceof DatapathError ? refused.kind : String(refused), 'invalid');
    const failed = await bench.fails({ type: 'execute', key: new FlowKey(), packet: frame, actions: [ct()] });
    t.is(failed instanceof DatapathError ? failed.kind : String(failed), 'invalid');
    // The EtherType has to be matched, not only to be there.
    const any = new FlowMask();
    any.seeInPort();
    const loose = await bench.fails({ type: 'put', id: 5, key: keyOf(udp4(1, 2), a), mask: any, actions: [ct()] });
    t.is(loose instanceof DatapathError ? loose.kind : String(loose), 'invalid');
    t.deepEqual(await bench.datapath.flows(), []);
  });

  for (const family of [4, 6] as const) {
    run(`IPv${family} fragments are translated as one packet`, async (bench, t) => {
      const b = await bench.attach('b0');
      const talk = conversation(family, IpProtocol.UDP);
      const other = { ip: address(family, 99), port: 40000 };
      const data = Uint8Array.from({ length: 2000 }, (_, i) => i);
      const whole = ipFrame(family, IpProtocol.UDP, talk.client.ip, talk.server.ip, buildUdp(1000, 80, data));
      const payload = whole.subarray(ETHERNET_HEADER + (family === 4 ? 20 : 40));
      const part = (offset: number, end: number): Uint8Array => {
        const more = end < payload.length;
        const [src, dst] = [talk.client.ip, talk.server.ip];
        const piece = payload.subarray(offset, end);
        const protocol = IpProtocol.UDP;
        return family === 4
          ? buildEthernet(
              { dst: MAC_B, src: MAC_A, type: EtherType.IPV4 },
              buildIpv4({ src: src[0], dst: dst[0], protocol, id: 0x77, fragment: { offset, more } }, piece),
            )
          : buildEthernet(
              { dst: MAC_B, src: MAC_A, type: EtherType.IPV6 },
              buildIpv6({ src, dst, protocol, fragment: { id: 0x7777, offset, more } }, piece),
            );
      };
      const nat = toOne('src', talk, other);
      const actions: Action[] = [ct({ commit: true, nat }), { type: 'recirc', id: 4 }, { type: 'output', port: b }];
      const execute = (frame: Uint8Array) => bench.ok({ type: 'execute', key: new FlowKey(), packet: frame, actions });
      await execute(part(0, 1200));
      await bench.quiet('b0');
      await execute(part(1200, payload.length));
      const { key, packet: assembled } = await bench.upcall();
      t.is(names(key.ctState), 'new tracked snat');
      t.is(key.nwFrag, Frag.NONE);
      t.is(key.tpSrc, 40000);
      t.deepEqual(endpoints(assembled).from, other);
      checkChecksums(t, assembled);
      const out = await bench.frames('b0', 2);
      t.is(endpoints(out[0]).from.ip.join(), other.ip.join());
      for (const frame of out) t.not(keyOf(frame, 0).nwFrag, Frag.NONE);
    });
  }

  run('the connections of one zone are listed and forgotten, those of others stay', async (bench, t) => {
    const { datapath } = bench;
    for (let i = 0; i < 20; i++) {
      const talk = conversation(i % 2 === 0 ? 4 : 6, i % 3 === 0 ? IpProtocol.TCP : IpProtocol.UDP, 2000 + i);
      for (const zone of [0, 1, 0xffff]) await after(bench, packet(talk, 0), ct({ zone, commit: true }));
    }
    const echo = conversation(4, IpProtocol.ICMP);
    await after(bench, packet(echo, 0), ct({ zone: 1, commit: true }));
    const count = async (zone?: number): Promise<number> => (await datapath.connections(zone)).length;
    t.deepEqual(
      [await count(0), await count(1), await count(2), await count(0xffff), await count()],
      [20, 21, 0, 20, 61],
    );
    t.is((await datapath.connections(1, 5)).length, 5);
    t.is((await datapath.connections(undefined, 7)).length, 7);

    t.is(await datapath.flushZones(new Set([2])), 0);
    t.is(await datapath.flushZones(new Set([1, 2])), 21);
    t.deepEqual([await count(0), await count(1), await count(0xffff)], [20, 0, 20]);
    t.is((await after(bench, packet(echo, 1), ct({ zone: 1 }))).state, 'invalid tracked');
    t.is(await datapath.flushZones(new Set([0])), 20);
    t.is(await count(), 20);
    await t.throwsAsync(datapath.flushZones(new Set([0xffff]), AbortSignal.abort()), { any: true, name: 'AbortError' });
    t.is(await count(), 20);
  });

  run('a zone that is forgotten begins anew, with another translation', async (bench, t) => {
    const talk = conversation(4, IpProtocol.UDP);
    const one = { ip: address(4, 98), port: 40000 };
    const two = { ip: address(4, 99), port: 50000 };
    await after(bench, packet(talk, 0), ct({ commit: true, nat: toOne('src', talk, one) }));
    await after(bench, packet({ ...talk, client: one }, 1), ct({ nat: RESTORE }));
    t.is(await bench.datapath.flushZones(new Set([ZONE])), 1);
    const again = await after(bench, packet(talk, 2), ct({ commit: true, nat: toOne('src', talk, two) }));
    t.is(again.state, 'new tracked snat');
    t.deepEqual(again.from, two);
    t.is((await after(bench, packet({ ...talk, client: one }, 1), ct({ nat: RESTORE }))).state, 'new tracked');
  });
}

function isUdp(protocol: number): boolean {
  return protocol === IpProtocol.UDP;
}

/** "Destination unreachable" about a packet, sent to its source by a router with this address. */
function errorAbout(frame: Uint8Array, router: readonly number[]): Uint8Array {
  const v4 = router.length === 1;
  const error = v4
    ? buildIcmpError(3, 1, router[0], frame, ETHERNET_HEADER)
    : buildIcmpv6Error(1, 3, router, frame, ETHERNET_HEADER);
  if (error === undefined) throw new Error('no ICMP error was built');
  return buildEthernet({ dst: MAC_B, src: MAC_A, type: v4 ? EtherType.IPV4 : EtherType.IPV6 }, error);
}

/** Who the packet in an ICMP error is from and to. */
function quoted(frame: Uint8Array): { from: Endpoint; to: Endpoint } {
  const v4 = readU16(frame, 12) === EtherType.IPV4;
  return ipEndpoints(frame, ETHERNET_HEADER + (v4 ? 20 : 40) + 8);
}
