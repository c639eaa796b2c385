/**
 * Connections that are made, changed and watched from outside, as every datapath driver does it. A part of the compliance suite of
 * datapath.ts, under the same rules.
 */
import type { ConnectionEvent, ConnectionOperation, TrackedConnection } from '../../src/datapath/datapath.js';
import { DatapathError } from '../../src/datapath/errors.js';
import type { NatSpec } from '../../src/flow/action.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { type Bench, type DatapathFactory, runner } from './datapath.js';
import {
  address,
  after,
  type Conversation,
  conversation,
  ct,
  isEcho,
  PROTOCOLS,
  packet,
  RESTORE,
  toOne,
} from './datapath-conntrack.js';

/** Where packets of the connection come in, and where they are made known. */
const HERE = 11;
const THERE = 12;

async function connectionIn(bench: Bench, zone: number): Promise<TrackedConnection> {
  const [connection, ...none] = await bench.datapath.connections(zone);
  bench.t.deepEqual(none, []);
  return connection;
}

async function change(bench: Bench, ...operations: ConnectionOperation[]): Promise<void> {
  for (const error of await bench.datapath.changeConnections(operations)) if (error !== undefined) throw error;
}

async function refusal(bench: Bench, operation: ConnectionOperation): Promise<string | undefined> {
  const [error] = await bench.datapath.changeConnections([operation]);
  return error instanceof DatapathError ? error.kind : undefined;
}

export function connectionsCompliance(driver: string, factory: DatapathFactory): void {
  const run = runner(driver, factory);

  for (const [title, family, protocol] of PROTOCOLS) {
    if (protocol === IpProtocol.SCTP) continue;
    run(
      `${title} over IPv${family}: a connection is made as it is in another zone, translations included`,
      async (bench, t) => {
        for (const [i, kind] of (['none', 'src', 'dst'] as const).entries()) {
          const [here, there] = [HERE + 2 * i, THERE + 2 * i];
          const talk = conversation(family, protocol);
          const other = { ip: address(family, 99), port: kind === 'src' ? 40000 : isEcho(protocol) ? 0 : 8080 };
          const outside: Conversation =
            kind === 'src' ? { ...talk, client: other } : kind === 'dst' ? { ...talk, server: other } : talk;
          const nat: NatSpec | undefined = kind === 'none' ? undefined : toOne(kind, talk, other);
          await after(bench, packet(talk, 0), ct({ zone: here, commit: true, nat, mark: 5 }));
          const known = await connectionIn(bench, here);
          const made = { ...known, zone: there };
          await change(bench, { type: 'create', connection: made });
          const { timeoutMs, tcpState, ...lasting } = made;
          t.like(await connectionIn(bench, there), lasting);

          for (const step of [1, 3] as const) {
            const reply = await after(bench, packet(outside, step), ct({ zone: there, nat: RESTORE }));
            t.regex(reply.state, /^established reply tracked/, kind);
            t.is(reply.key.ctMark, 5);
            t.deepEqual([reply.from, reply.to], [talk.server, talk.client], kind);
          }
          // What has been answered elsewhere is answered.
          for (const connection of [known, made]) {
            const { zone } = connection;
            await change(bench, { type: 'change', connection, answered: true });
            const later = await after(bench, packet(talk, 2), ct({ zone, nat: RESTORE }));
            t.regex(later.state, /^established tracked/, kind);
            t.deepEqual([later.from, later.to], [outside.client, outside.server], kind);
            t.true((await connectionIn(bench, zone)).answered);
          }
        }
      },
    );
  }

  run('both ends of a connection that is made are translated', async (bench, t) => {
    const talk = conversation(4, IpProtocol.UDP);
    const member = { ip: address(4, 50), port: 8080 };
    const masked = { ip: address(4, 51), port: 30000 };
    const connection: TrackedConnection = {
      zone: THERE,
      family: 4,
      protocol: IpProtocol.UDP,
      original: { src: talk.client.ip, dst: talk.server.ip, srcPort: talk.client.port, dstPort: talk.server.port },
      reply: { src: member.ip, dst: masked.ip, srcPort: member.port, dstPort: masked.port },
      answered: true,
      tcpState: undefined,
      mark: 0,
      timeoutMs: 60_000,
    };
    await change(bench, { type: 'create', connection });
    const forth = await after(bench, packet(talk, 0), ct({ zone: THERE, nat: RESTORE }));
    t.deepEqual([forth.from, forth.to], [masked, member]);
    const back = await after(
      bench,
      packet({ ...talk, client: masked, server: member }, 1),
      ct({ zone: THERE, nat: RESTORE }),
    );
    t.deepEqual([back.from, back.to], [talk.server, talk.client]);
    t.deepEqual((await connectionIn(bench, THERE)).reply, connection.reply);
  });

  run('connections are found by the packets of either direction, and changed bit by bit', async (bench, t) => {
    const { datapath } = bench;
    const talk = conversation(6, IpProtocol.UDP);
    await after(bench, packet(talk, 0), ct({ zone: HERE, commit: true, mark: 0x11 }));
    const connection = await connectionIn(bench, HERE);
    t.like(await datapath.connection(connection), { original: connection.original });
    t.like(await datapath.connection({ ...connection, original: connection.reply }), { original: connection.original });
    t.is(await datapath.connection({ ...connection, zone: THERE }), undefined);

    await change(bench, { type: 'change', connection, mark: 0x2f, markMask: 0x0f, timeoutMs: 7000 });
    const changed = (await datapath.connection(connection))!;
    t.is(changed.mark, 0x1f);
    t.true(changed.timeoutMs <= 7000 && changed.timeoutMs > 0);
    t.false(changed.answered);
    await change(bench, { type: 'forget', connection }, { type: 'forget', connection });
    t.is(await datapath.connection(connection), undefined);
    t.is(await refusal(bench, { type: 'change', connection, answered: true }), 'not-found');
  });

  run('no connection is made where another has its tuples, in whatever direction', async (bench, t) => {
    const talk = conversation(4, IpProtocol.TCP);
    await after(bench, packet(talk, 0), ct({ zone: HERE, commit: true }));
    const connection = await connectionIn(bench, HERE);
    const turned = { ...connection, original: connection.reply, reply: connection.original };
    t.is(await refusal(bench, { type: 'create', connection }), 'exists');
    t.is(await refusal(bench, { type: 'create', connection: turned }), 'exists');
    const { srcPort } = connection.original;
    const hidden = { ...connection, original: { ...connection.original, srcPort: srcPort + 1 } };
    t.is(await refusal(bench, { type: 'create', connection: hidden }), 'exists');
    const redirected = { ...connection, original: { ...connection.original, dst: address(4, 77), dstPort: 90 } };
    t.is(await refusal(bench, { type: 'create', connection: redirected }), 'exists');
    t.is(
      await refusal(bench, { type: 'create', connection: { ...connection, protocol: IpProtocol.SCTP } }),
      'unsupported',
    );
    t.is((await bench.datapath.connections()).length, 1);
    await change(bench, { type: 'forget', connection }, { type: 'create', connection: turned });
    t.deepEqual((await connectionIn(bench, HERE)).original, turned.original);
  });

  run('who watches is told what happens to the connections of a zone, until told no more', async (bench, t) => {
    const { datapath } = bench;
    const told: ConnectionEvent[] = [];
    const end = datapath.watchConnections({
      concerns: (zone) => zone === HERE,
      events: (batch) => told.push(...batch),
      lost: () => t.fail(),
    });
    const talk = conversation(4, IpProtocol.UDP);
    for (const zone of [HERE, THERE]) {
      await after(bench, packet(talk, 0), ct({ zone, commit: true, mark: 3 }));
      await after(bench, packet(talk, 1), ct({ zone, commit: true }));
    }
    await bench.until('two events', () => told.length >= 2);
    const connection = await connectionIn(bench, HERE);
    t.deepEqual(
      told.map(({ type, connection: { original, reply, mark, answered } }) => ({
        type,
        original,
        reply,
        mark,
        answered,
      })),
      (['begun', 'changed'] as const).map((type) => ({
        type,
        original: connection.original,
        reply: connection.reply,
        mark: 3,
        answered: type === 'changed',
      })),
    );
    await change(bench, { type: 'forget', connection }, { type: 'create', connection: { ...connection, mark: 9 } });
    await bench.until('two more', () => told.length >= 4);
    t.deepEqual(
      told.slice(2).map(({ type, connection: { mark } }) => ({ type, mark })),
      [
        { type: 'ended', mark: 3 },
        { type: 'begun', mark: 9 },
      ],
    );
    t.is(await datapath.flushZones(new Set([HERE, THERE])), 2);
    await bench.until('its end', () => told.length >= 5);
    t.like(told[4], { type: 'ended', connection: { zone: HERE, mark: 9 } });
    end();
    await after(bench, packet(talk, 0), ct({ zone: HERE, commit: true }));
    await bench.lab.settle();
    t.is(told.length, 5);
  });
}
