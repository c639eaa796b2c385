import test, { type ExecutionContext } from 'ava';
import type { DatapathHandler, FlowOperation, Upcall } from '../../src/datapath/datapath.js';
import { DatapathError } from '../../src/datapath/errors.js';
import { LinkRequests } from '../../src/datapath/link/requests.js';
import { getFamilies } from '../../src/datapath/netlink/genl.js';
import { LITTLE_ENDIAN, MessageWriter, NLM_F_CREATE, NLM_F_REQUEST } from '../../src/datapath/netlink/message.js';
import { NETLINK_GENERIC, NetlinkSocket } from '../../src/datapath/netlink/socket.js';
import type { UpcallDispatch } from '../../src/datapath/ovs/kernel-datapath.js';
import { OvsDatapath } from '../../src/datapath/ovs/ovs-datapath.js';
import { FLOW_FAMILY, FlowAttr, KeyAttr } from '../../src/datapath/ovs/uapi.js';
import { ClosedError, InvalidInputError, UnsupportedError } from '../../src/errors.js';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { CtState, FlowKey, TunnelFlag } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { OvsLab } from './ovs-lab.js';

const MACS = [0x02aa_0000_0001, 0x02aa_0000_0002] as const;

/** What a handler was told. Packets are copied. */
class Recorder implements DatapathHandler {
  readonly heard: Upcall[] = [];
  readonly batches: number[] = [];
  changes = 0;
  lost = 0;

  upcalls(batch: readonly Upcall[]): void {
    this.batches.push(batch.length);
    for (const upcall of batch) {
      this.heard.push({ ...upcall, packet: upcall.packet.slice() });
    }
  }

  portsChanged(): void {
    this.changes += 1;
  }

  upcallsLost(count: number): void {
    this.lost += count;
  }
}

async function newLab(t: ExecutionContext<unknown>, ...parameters: Parameters<typeof OvsLab.make>): Promise<OvsLab> {
  const lab = await OvsLab.make(...parameters);
  t.teardown(() => lab.close());
  return lab;
}

/** An Ethernet frame with an IPv4 packet without checksums, of a protocol without ports if `port` is undefined. */
function ipv4Frame(payload: string, port?: number): Uint8Array {
  const data = Buffer.from(payload);
  const transport = port === undefined ? 0 : 8;
  const frame = Buffer.alloc(34 + transport + data.length);
  frame.writeUIntBE(MACS[1], 0, 6);
  frame.writeUIntBE(MACS[0], 6, 6);
  frame.writeUInt16BE(0x0800, 12);
  frame.writeUInt8(0x45, 14);
  frame.writeUInt16BE(20 + transport + data.length, 16);
  frame.writeUInt8(64, 22);
  frame.writeUInt8(port === undefined ? 253 : 17, 23);
  frame.writeUInt32BE(0x0a00_0001, 26);
  frame.writeUInt32BE(0x0a00_0002, 30);
  if (port !== undefined) {
    frame.writeUInt16BE(4000, 34);
    frame.writeUInt16BE(port, 36);
    frame.writeUInt16BE(8 + data.length, 38);
  }
  data.copy(frame, 34 + transport);
  return frame;
}

function inPortFlow(id: number, port: number, actions: readonly Action[]): FlowOperation {
  const key = new FlowKey();
  key.inPort = port;
  const mask = new FlowMask();
  mask.seeInPort();
  return { type: 'put', id, key, mask, actions };
}

/** Operations by flow key: UDP destination port, all else wild. */
function udpFlow(id: number, port: number, actions: readonly Action[] = []): FlowOperation {
  const key = new FlowKey();
  key.ethType = 0x0800;
  key.nwProto = 17;
  key.tpDst = port;
  const mask = new FlowMask();
  mask.seeTpDst();
  return { type: 'put', id, key, mask, actions };
}

function submit(datapath: OvsDatapath, operations: readonly FlowOperation[]): Promise<readonly (Error | undefined)[]> {
  return new Promise((resolve) => datapath.submit(operations, resolve));
}

async function succeed(datapath: OvsDatapath, ...operations: FlowOperation[]): Promise<void> {
  for (const error of await submit(datapath, operations)) {
    if (error !== undefined) throw error;
  }
}

async function failure(datapath: OvsDatapath, operation: FlowOperation): Promise<Error> {
  const [error] = await submit(datapath, [operation]);
  if (error === undefined) throw new Error('it succeeded');
  return error;
}

/** The text at the end of each frame. */
function texts(frames: readonly Uint8Array[]): string[] {
  return frames.map((frame) => / ?[\w ]*$/.exec(Buffer.from(frame).toString('latin1'))?.[0] ?? '');
}

test.serial('a datapath is made, opened again and destroyed', async (t) => {
  const lab = await newLab(t);
  const { namespace } = lab.room;
  const ports = await lab.datapath.ports();
  t.deepEqual(
    ports.map(({ number, name, type }) => ({ number, name, type })),
    [{ number: 0, name: 'dp', type: 'internal' }],
  );
  t.like(await lab.room.links.get('dp'), { index: ports[0].ifindex });
  const again = await OvsDatapath.open('dp', { namespace, create: false });
  t.is(again.ifindex, lab.datapath.ifindex);
  await again.close();
  await OvsDatapath.destroy('dp', { namespace });
  await OvsDatapath.destroy('dp', { namespace });
  await t.throwsAsync(OvsDatapath.open('dp', { namespace, create: false }), {
    instanceOf: DatapathError,
    message: 'there is no datapath dp',
  });
  await t.throwsAsync(lab.datapath.ports(), { message: /^list ports of datapath dp: ENODEV/ });
  const error = await failure(lab.datapath, udpFlow(1, 1));
  t.like(error, { kind: 'not-found' });
  t.regex(error.message, /^put flow 1 \(eth_type=0x0800 .*\) into datapath dp: ENODEV/);
});

test.serial('names that are taken or impossible are refused', async (t) => {
  const lab = await newLab(t);
  const { namespace } = lab.room;
  await lab.connect('veth0');
  const error = await t.throwsAsync(OvsDatapath.open('veth0', { namespace }), { instanceOf: DatapathError });
  t.is(error?.message, 'make datapath veth0: EEXIST: an interface of that name exists');
  await t.throwsAsync(OvsDatapath.open('a name too long for it', { namespace }), { instanceOf: InvalidInputError });
});

test.serial('interfaces become ports, and the errors name what is in the way', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  await lab.connect('veth0');
  const link = await lab.room.links.get('veth0');
  const port = await datapath.addPort('veth0', 'netdev');
  t.deepEqual(port, { number: 1, name: 'veth0', type: 'netdev', ifindex: link?.index as number });
  t.deepEqual(await datapath.addPort('veth0', 'netdev'), port, 'it is there already');
  const internal = await datapath.addPort('in0', 'internal');
  t.like(await lab.room.links.get('in0'), { index: internal.ifindex });
  t.deepEqual(await datapath.addPort('in0', 'internal'), internal);
  t.deepEqual((await datapath.ports()).map(({ name }) => name).sort(), ['dp', 'in0', 'veth0']);

  const other = await OvsDatapath.open('other', { namespace: lab.room.namespace });
  t.teardown(() => other.close());
  await lab.room.links.apply(
    new LinkRequests().addPlain({ name: 'br0', up: true }, 'bridge').addPlain({ name: 'dummy0', up: true }, 'dummy'),
  );
  await lab.room.links.set('dummy0', { master: (await lab.room.links.get('br0'))?.index });
  const refused: [string, string, string][] = [
    [
      'nothing',
      'not-found',
      'add netdev port nothing to datapath other: ENODEV: there is no such interface, or the datapath is gone',
    ],
    ['veth0', 'busy', 'add netdev port veth0 to datapath other: EBUSY: it is a port of datapath dp'],
    ['in0', 'invalid', 'add netdev port in0 to datapath other: EINVAL: it is a port of datapath dp'],
    [
      'dummy0',
      'busy',
      'add netdev port dummy0 to datapath other: EBUSY: the interface belongs to a bridge, bond or other device',
    ],
    [
      'lo',
      'invalid',
      'add netdev port lo to datapath other: EINVAL: loopback interfaces, internal ports of a datapath and those that are not Ethernet cannot be ports',
    ],
  ];
  for (const [name, kind, message] of refused) {
    const error = await t.throwsAsync(other.addPort(name, 'netdev'), { instanceOf: DatapathError });
    t.like(error, { kind, message });
  }
  const error = await t.throwsAsync(other.addPort('dummy0', 'internal'), { instanceOf: DatapathError });
  t.like(error, {
    kind: 'exists',
    message: 'add internal port dummy0 to datapath other: EEXIST: an interface of that name exists',
  });

  await datapath.deletePort('veth0');
  await datapath.deletePort('veth0');
  await datapath.deletePort('in0');
  t.is(await lab.room.links.get('in0'), undefined, 'an internal interface goes with its port');
  t.truthy(await lab.room.links.get('veth0'), 'another one stays');
  t.deepEqual(
    (await datapath.ports()).map(({ name }) => name),
    ['dp'],
  );
  await t.throwsAsync(datapath.deletePort('dp'), {
    message: "delete port dp of datapath dp: EINVAL: port 0 is the datapath's own interface and goes with it",
  });
});

test.serial('changes of ports are told, also when an interface is deleted under them', async (t) => {
  const lab = await newLab(t);
  const recorder = new Recorder();
  lab.datapath.start(recorder);
  await lab.connect('veth0');
  await lab.datapath.addPort('veth0', 'netdev');
  await lab.settle();
  t.is(recorder.changes, 0, 'its own changes are no news');
  await lab.room.links.delete('veth0');
  await lab.settle();
  await lab.settle();
  t.true(recorder.changes >= 1);
  t.deepEqual(
    (await lab.datapath.ports()).map(({ name }) => name),
    ['dp'],
  );
});

for (const dispatch of ['per-cpu', 'per-port'] satisfies UpcallDispatch[]) {
  test.serial(`upcalls come ${dispatch}, to whoever started last`, async (t) => {
    const lab = await newLab(t, { dispatch, upcallSockets: 3 });
    const { datapath } = lab;
    t.is(datapath.dispatch, dispatch);
    const machines = [await lab.connect('veth0'), await lab.connect('veth1')];
    const before = await datapath.addPort('veth0', 'netdev');
    const first = new Recorder();
    datapath.start(first);
    const after = await datapath.addPort('veth1', 'netdev');
    for (const machine of machines) {
      machine.send(ipv4Frame(`from ${machine.name}`, 53));
    }
    await lab.settle();
    t.deepEqual(
      first.heard
        .map(({ key, reason, complete }) => ({ port: key.inPort, reason, complete }))
        .sort((a, b) => a.port - b.port),
      [
        { port: before.number, reason: 'miss', complete: true },
        { port: after.number, reason: 'miss', complete: true },
      ],
    );
    t.deepEqual(Buffer.from(first.heard[0].packet), Buffer.from(ipv4Frame('from veth0', 53)));
    t.like(first.heard[0].key, { ethType: 0x0800, nwProto: 17, tpDst: 53, ipv4Src: 0x0a00_0001, nwTtl: 64 });

    // A userspace action, with and without data.
    await succeed(
      datapath,
      inPortFlow(1, before.number, [
        { type: 'userspace', userdata: Uint8Array.of(1, 2, 3, 4, 5) },
        { type: 'userspace' },
      ]),
    );
    machines[0].send(ipv4Frame('again', 53));
    await lab.settle();
    t.deepEqual(
      first.heard.slice(2).map(({ reason, userdata }) => [reason, userdata && [...userdata]]),
      [
        ['action', [1, 2, 3, 4, 5]],
        ['action', undefined],
      ],
    );

    const heir = (await lab.reopen()) as OvsDatapath;
    t.teardown(() => heir.close());
    const second = new Recorder();
    heir.start(second);
    machines[1].send(ipv4Frame('to the heir', 53));
    await lab.settle();
    t.is(first.heard.length, 4);
    t.deepEqual(texts(second.heard.map(({ packet }) => packet)), ['to the heir']);
    t.throws(() => heir.start(second), { message: 'datapath dp was started before' });
  });
}

test.serial('in per-port dispatch, ports that others attach are listened to', async (t) => {
  const lab = await newLab(t, { dispatch: 'per-port' });
  const recorder = new Recorder();
  lab.datapath.start(recorder);
  const other = (await lab.reopen()) as OvsDatapath;
  t.teardown(() => other.close());
  const machine = await lab.connect('veth0');
  await other.addPort('veth0', 'netdev');
  await lab.settle();
  machine.send(ipv4Frame('hello', 53));
  await lab.settle();
  t.is(recorder.heard.length, 1);
});

test.serial('flows forward, count, and come back as they were put', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  const [left, right] = [await lab.connect('veth0'), await lab.connect('veth1')];
  const [from, to] = [await datapath.addPort('veth0', 'netdev'), await datapath.addPort('veth1', 'netdev')];
  const key = new FlowKey();
  key.inPort = from.number;
  key.ethType = 0x0800;
  key.nwProto = 17;
  key.tpDst = 53;
  const mask = new FlowMask();
  mask.seeInPort();
  mask.seeTpDst();
  const set = new FlowKey();
  set.ethSrc = 0x02aa_0000_0099;
  set.ethType = 0x0800;
  set.nwTtl = 63;
  const bits = new FlowKey();
  bits.ethSrc = 0xffff_ffff_ffff;
  bits.nwTtl = 0xff;
  const actions: Action[] = [
    { type: 'set', key: set, mask: bits },
    { type: 'output', port: to.number },
  ];
  await succeed(datapath, { type: 'put', id: 2 ** 40 + 7, key, mask, actions });
  t.is((await datapath.flow(2 ** 40 + 7))?.idleMs, undefined);
  left.send(ipv4Frame('one', 53));
  left.send(ipv4Frame('two', 53));
  await lab.settle();
  t.deepEqual(texts(right.received()), ['one', 'two']);
  const frame = Buffer.from(right.received()[0]);
  t.is(frame.readUIntBE(6, 6), 0x02aa_0000_0099);
  t.is(frame.readUInt8(22), 63);

  const [flow, ...more] = await datapath.flows();
  t.is(more.length, 0);
  t.is(flow.id, 2 ** 40 + 7);
  t.true(flow.complete);
  t.true(actionsEqual(flow.actions, actions));
  t.is(flow.packets, 2);
  t.is(flow.bytes, 2 * ipv4Frame('one', 53).length);
  t.true(flow.idleMs !== undefined && flow.idleMs >= 0 && flow.idleMs < 10_000, `idle for ${flow.idleMs} ms`);
  t.true(flow.key.equalsMasked(key, mask));
  // What the kernel always matches: that there is no VLAN tag.
  const narrowed = mask.clone();
  narrowed.vlanTci = 0xffff;
  narrowed.vlanTpid = 0xffff;
  t.true(flow.mask.equals(narrowed));

  // In place, with its counters; then gone.
  await succeed(datapath, { type: 'put', id: 2 ** 40 + 7, key, mask, actions: [] });
  const replaced = await datapath.flow(2 ** 40 + 7);
  t.deepEqual(replaced?.actions, []);
  t.is(replaced?.packets, 2);
  await succeed(datapath, { type: 'delete', id: 2 ** 40 + 7 }, { type: 'delete', id: 2 ** 40 + 7 });
  t.is(await datapath.flow(2 ** 40 + 7), undefined);
});

test.serial('every kind of action is taken and given back by the kernel', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  await lab.connect('veth0');
  const { number } = await datapath.addPort('veth0', 'netdev');
  const v6 = new FlowKey();
  v6.ethType = 0x86dd;
  v6.nwProto = 6;
  v6.words.set([0x2001_0db8, 0, 0, 1], 25);
  v6.tpDst = 8080;
  const v6Bits = new FlowKey();
  v6Bits.words.fill(0xffff_ffff, 25, 29);
  v6Bits.tpDst = 0xffff;
  const v4 = new FlowKey();
  v4.ethType = 0x0800;
  v4.nwProto = 17;
  v4.ipv4Dst = 0x0a00_0005;
  v4.tpSrc = 99;
  v4.skbMark = 7;
  v4.ethDst = MACS[0];
  const v4Bits = new FlowKey();
  v4Bits.ipv4Dst = 0xffff_ff00;
  v4Bits.tpSrc = 0xffff;
  v4Bits.skbMark = 0xff;
  v4Bits.ethDst = 0xffff_ffff_ffff;
  const tunnel = { id: 5, src: 0, dst: 0x0a00_0001, tos: 4, ttl: 64, flags: TunnelFlag.KEY | TunnelFlag.DONT_FRAGMENT };
  const lists: Record<string, { ethType: number; proto: number; actions: Action[] }> = {
    v4: {
      ethType: 0x0800,
      proto: 17,
      actions: [
        { type: 'set', key: v4, mask: v4Bits },
        { type: 'output', port: number },
      ],
    },
    v6: {
      ethType: 0x86dd,
      proto: 6,
      actions: [
        { type: 'set', key: v6, mask: v6Bits },
        { type: 'output', port: 0 },
      ],
    },
    tunnel: {
      ethType: 0x0806,
      proto: 1,
      actions: [
        { type: 'set-tunnel', tunnel },
        { type: 'output', port: number },
      ],
    },
    ct: {
      ethType: 0x0800,
      proto: 6,
      actions: [
        { type: 'ct', zone: 7, nat: { kind: 'restore' } },
        { type: 'ct', zone: 8, commit: true, mark: 1, markMask: 3 },
        { type: 'ct', zone: 9, forceCommit: true },
        {
          type: 'ct',
          zone: 8,
          commit: true,
          nat: {
            kind: 'src',
            ipMin: [0x0a00_0001],
            ipMax: [0x0a00_0003],
            portMin: 1024,
            portMax: 2047,
            persistent: true,
          },
        },
        { type: 'ct-clear' },
        { type: 'recirc', id: 0x1234_5678 },
      ],
    },
    ct6: {
      ethType: 0x86dd,
      proto: 17,
      actions: [
        { type: 'ct', zone: 1, commit: true, nat: { kind: 'dst', ipMin: [0x2001_0db8, 0, 0, 2], portMin: 53 } },
      ],
    },
    rest: {
      ethType: 0x0800,
      proto: 1,
      actions: [
        { type: 'hash', basis: 3 },
        { type: 'push-vlan', tpid: 0x8100, tci: 0x1005 },
        { type: 'pop-vlan' },
        { type: 'trunc', maxLength: 100 },
        {
          type: 'clone',
          actions: [
            { type: 'output', port: number },
            { type: 'userspace', userdata: Uint8Array.of(9) },
          ],
        },
        { type: 'userspace' },
        { type: 'recirc', id: 1 },
      ],
    },
  };
  let id = 0;
  for (const [name, { ethType, proto, actions }] of Object.entries(lists)) {
    const key = new FlowKey();
    key.ethType = ethType;
    key.nwProto = proto;
    const mask = new FlowMask();
    mask.seeNwProto();
    await succeed(datapath, { type: 'put', id: ++id, key, mask, actions });
    const flow = await datapath.flow(id);
    t.true(flow?.complete, name);
    t.true(flow !== undefined && actionsEqual(flow.actions, actions), `${name}: ${JSON.stringify(flow?.actions)}`);
  }
});

test.serial('every kind of key is taken, and matches again when it comes back', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  const keys: Record<string, (key: FlowKey) => void> = {
    arp: (key) => {
      key.ethType = 0x0806;
      key.nwProto = 2;
      key.ipv4Src = 1;
      key.arpSha = MACS[0];
    },
    rarp: (key) => {
      key.ethType = 0x8035;
    },
    icmp: (key) => {
      key.ethType = 0x0800;
      key.nwProto = 1;
      key.tpSrc = 8;
    },
    sctp: (key) => {
      key.ethType = 0x0800;
      key.nwProto = 132;
      key.tpSrc = 9;
    },
    'later fragment': (key) => {
      key.ethType = 0x0800;
      key.nwProto = 6;
      key.nwFrag = 2;
    },
    solicitation: (key) => {
      key.ethType = 0x86dd;
      key.nwProto = 58;
      key.tpSrc = 135;
      key.words.set([1, 2, 3, 4], 41);
      key.ipv6Label = 5;
    },
    'tcp in a service VLAN': (key) => {
      key.vlanTci = 0x1064;
      key.vlanTpid = 0x88a8;
      key.ethType = 0x0800;
      key.nwProto = 6;
      key.tcpFlags = 2;
    },
    'an unknown type in a VLAN': (key) => {
      key.vlanTci = 0x1064;
      key.vlanTpid = 0x8100;
      key.ethType = 0x88cc;
    },
    'a frame with a length': (key) => {
      key.ethType = 0x05ff;
    },
    mpls: (key) => {
      key.ethType = 0x8847;
    },
    tunnelled: (key) => {
      key.ethType = 0x0800;
      key.tunId = 77;
      key.tunDst = 0x0a00_0001;
      key.tunSrc = 0x0a00_0002;
      key.tunTtl = 63;
      key.tunFlags = TunnelFlag.KEY;
    },
    tracked: (key) => {
      key.ethType = 0x0800;
      key.recircId = 5;
      key.ctState = CtState.TRACKED | CtState.ESTABLISHED;
      key.ctZone = 4;
      key.ctMark = 3;
      key.dpHash = 12;
      key.words[8] = 0x0102_0304;
    },
  };
  let id = 0;
  for (const [name, change] of Object.entries(keys)) {
    for (const mask of [FlowMask.exact(), new FlowMask()]) {
      const key = new FlowKey();
      change(key);
      id += 1;
      await succeed(datapath, { type: 'put', id, key, mask, actions: [] });
      const flow = await datapath.flow(id);
      // Of MPLS, a key cannot say the labels; without the EtherType there are none.
      t.is(flow?.complete, name !== 'mpls' || mask.ethType === 0, name);
      if (flow === undefined) continue;
      t.true(flow.key.equalsMasked(key, flow.mask), name);
      if (mask.inPort !== 0) {
        t.deepEqual(flow.key.words, key.words, name);
      }
      // What was dumped can be put again.
      await succeed(datapath, { type: 'delete', id }, { type: 'put', id, key: flow.key, mask: flow.mask, actions: [] });
      const again = await datapath.flow(id);
      t.deepEqual(again?.mask.words, flow.mask.words, name);
      t.deepEqual(again?.key.words, flow.key.words, name);
      await succeed(datapath, { type: 'delete', id });
    }
  }
});

test.serial('a put over a flow of another id is refused, one over an unknown flow of the same id is not', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  await succeed(datapath, udpFlow(1, 53, [{ type: 'output', port: 0 }]));
  const error = await failure(datapath, udpFlow(2, 53));
  t.like(error, { kind: 'exists' });
  t.is(
    error.message,
    'put flow 2 (eth_type=0x0800 nw_proto=17 nw_frag=0 tp_dst=53) into datapath dp: a flow of another id matches such packets',
  );
  t.is((await datapath.flow(1))?.actions.length, 1, 'it was left alone');
  t.is(await datapath.flow(2), undefined);

  const heir = (await lab.reopen()) as OvsDatapath;
  t.teardown(() => heir.close());
  await succeed(heir, udpFlow(1, 53, []), udpFlow(3, 54));
  t.is((await datapath.flow(1))?.actions.length, 0);
  // Removed behind its back.
  await succeed(heir, { type: 'delete', id: 1 });
  await succeed(datapath, udpFlow(1, 53));
  t.truthy(await heir.flow(1));
  // Put and deleted in one batch by somebody who did not know of it.
  const third = (await lab.reopen()) as OvsDatapath;
  t.teardown(() => third.close());
  await succeed(third, udpFlow(3, 54), { type: 'delete', id: 3 });
  t.is(await third.flow(3), undefined);
});

test.serial('an id keeps its key and mask until it is deleted', async (t) => {
  const { datapath } = await newLab(t);
  await succeed(datapath, udpFlow(1, 53));
  const error = await failure(datapath, udpFlow(1, 54, [{ type: 'output', port: 0 }]));
  t.like(error, { kind: 'invalid' });
  t.regex(
    error.message,
    /^put flow 1 \(.*tp_dst=54.*\) into datapath dp: the flow of this id has another key or mask$/,
  );
  t.deepEqual((await datapath.flow(1))?.actions, []);
  await datapath.flows();
  await succeed(datapath, udpFlow(1, 53), { type: 'delete', id: 1 }, udpFlow(1, 54));
  t.is((await datapath.flow(1))?.key.tpDst, 54);
});

test.serial('errors of a batch name what was asked, and stop nothing', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  const overlong = Array.from({ length: 5000 }, () => ({ type: 'output', port: 0 }) as const);
  t.true(datapath.actionsLength(overlong) > datapath.maxActionsLength);
  const setMac = new FlowKey();
  const tooMuch = new FlowKey();
  tooMuch.nwProto = 1;
  const errors = await submit(datapath, [
    udpFlow(1, 1),
    udpFlow(0, 2),
    udpFlow(2, 3, [{ type: 'output', port: 70_000 }]),
    udpFlow(3, 4, overlong),
    udpFlow(4, 5, [{ type: 'set', key: setMac, mask: tooMuch }]),
    { type: 'execute', key: new FlowKey(), packet: new Uint8Array(5), actions: [] },
    udpFlow(5, 6),
  ]);
  t.deepEqual(
    errors.map((error) => error && [error.constructor, error.message]),
    [
      undefined,
      [InvalidInputError, 'flow id: a whole number from 1 to 2^48 - 1 is needed, got 0'],
      [
        DatapathError,
        'put flow 2 (eth_type=0x0800 nw_proto=17 nw_frag=0 tp_dst=3) into datapath dp: EINVAL: the kernel does not take these key, mask or actions; its log may say why',
      ],
      [DatapathError, 'datapath dp takes 32768 bytes of actions, these are 40004'],
      [
        UnsupportedError,
        "action set of NW_PROTO: the kernel cannot rewrite it in a packet of EtherType 0x0000, protocol 0 (the action's key must name both)",
      ],
      [InvalidInputError, 'packet: at least the 14 bytes of an Ethernet header, got 5'],
      undefined,
    ],
  );
  t.deepEqual((await datapath.flows()).map(({ id }) => id).sort(), [1, 5]);
});

test.serial('an execute runs actions on a packet, with its metadata and its hash', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  const recorder = new Recorder();
  datapath.start(recorder);
  const [left, right] = [await lab.connect('veth0'), await lab.connect('veth1')];
  await datapath.addPort('veth0', 'netdev');
  const to = await datapath.addPort('veth1', 'netdev');
  left.send(ipv4Frame('bounce', 53));
  await lab.settle();
  const [{ key, packet, origin }] = recorder.heard;
  t.truthy(origin);
  const hashes: number[] = [];
  for (const with_ of [origin, { hashHigh: 3, hashLow: 0x1234_5678, maxFragment: 0 }]) {
    await succeed(datapath, {
      type: 'execute',
      key,
      packet,
      origin: with_,
      actions: [
        { type: 'output', port: to.number },
        { type: 'hash', basis: 0 },
        { type: 'recirc', id: 42 },
      ],
    });
    await lab.settle();
    const last = recorder.heard.at(-1) as Upcall;
    t.is(last.key.recircId, 42);
    t.is(last.key.inPort, key.inPort);
    t.not(last.key.dpHash, 0);
    hashes.push(last.key.dpHash);
  }
  t.not(hashes[0], hashes[1], 'the hash of the origin is used');
  t.deepEqual(texts(right.received()), ['bounce', 'bounce']);
});

test.serial('flows of others are listed without id, and what they have that we cannot say', async (t) => {
  const lab = await newLab(t);
  const { datapath, room } = lab;
  await succeed(datapath, udpFlow(1, 53));
  const socket = new NetlinkSocket({ protocol: NETLINK_GENERIC, namespaceFd: room.namespace.fd });
  t.teardown(() => socket.close());
  const [family] = await getFamilies(socket, [FLOW_FAMILY]);
  const writer = new MessageWriter();
  writer.begin(family.id, NLM_F_REQUEST | NLM_F_CREATE);
  writer.genl(1, 1);
  writer.view.setInt32(writer.reserve(4), datapath.ifindex, LITTLE_ENDIAN);
  const key = writer.nest(FlowAttr.KEY);
  writer.attribute(KeyAttr.ETHERNET, 12);
  writer.be16(KeyAttr.ETHERTYPE, 0x0806);
  writer.attribute(KeyAttr.ARP, 24);
  writer.endNest(key);
  const actions = writer.nest(FlowAttr.ACTIONS);
  const at = writer.attribute(9, 8); // push_mpls
  writer.view.setUint16(at + 4, 0x8847);
  writer.u32(1, 0);
  writer.endNest(actions);
  await socket.request(writer, 'make a flow');
  const flows = await datapath.flows();
  const foreign = flows.find(({ id }) => id === undefined);
  t.is(flows.length, 2);
  t.is(foreign?.key.ethType, 0x0806);
  t.false(foreign?.complete);
  await datapath.flushFlows();
  t.deepEqual(await datapath.flows(), []);
  // The ids are free again.
  await succeed(datapath, udpFlow(1, 53));
});

test.serial('a flow with a list of actions too long for a dump is listed with them', async (t) => {
  const lab = await newLab(t);
  const actions = Array.from({ length: 4000 }, () => ({ type: 'output', port: 0 }) as const);
  await succeed(lab.datapath, udpFlow(1, 53, actions), udpFlow(2, 54, actions), udpFlow(3, 55));
  const flows = await lab.datapath.flows();
  t.deepEqual(flows.map(({ id, actions, complete }) => [id, actions.length, complete]).sort(), [
    [1, 4000, true],
    [2, 4000, true],
    [3, 0, true],
  ]);
});

for (const kind of ['vxlan', 'gretap'] as const) {
  test.serial(`a packet crosses a ${kind} tunnel, with its key`, async (t) => {
    const [near, far] = await OvsLab.makePair(kind);
    t.teardown(async () => {
      await near.close();
      await far.close();
    });
    const [left, right] = [await near.connect('veth0'), await far.connect('veth0')];
    const recorder = new Recorder();
    far.datapath.start(recorder);
    const [from, out] = [
      await near.datapath.addPort('veth0', 'netdev'),
      await near.datapath.addPort(await near.tunnel(), 'netdev'),
    ];
    const [to, into] = [
      await far.datapath.addPort('veth0', 'netdev'),
      await far.datapath.addPort(await far.tunnel(), 'netdev'),
    ];
    const tunnel = { id: 4711, src: near.underlay, dst: far.underlay, tos: 0, ttl: 64, flags: TunnelFlag.KEY };
    await succeed(
      near.datapath,
      inPortFlow(1, from.number, [
        { type: 'set-tunnel', tunnel },
        { type: 'output', port: out.number },
      ]),
    );
    left.send(ipv4Frame('first'));
    await far.settle();
    t.is(recorder.heard.length, 1);
    const [{ key, complete, packet }] = recorder.heard;
    t.true(complete);
    t.like(key, {
      inPort: into.number,
      tunId: 4711,
      tunSrc: near.underlay,
      tunDst: far.underlay,
      tunTtl: 64,
      ethType: 0x0800,
    });
    t.not(key.tunFlags & TunnelFlag.KEY, 0);
    t.deepEqual(texts([packet]), ['first']);

    // As an egress host does: by tunnel key alone, from a key that no packet brought.
    const byKey = new FlowKey();
    byKey.inPort = into.number;
    byKey.tunId = 4711;
    byKey.tunDst = far.underlay;
    byKey.tunTtl = 1;
    const mask = new FlowMask();
    mask.seeInPort();
    mask.seeTunId();
    await succeed(far.datapath, {
      type: 'put',
      id: 1,
      key: byKey,
      mask,
      actions: [{ type: 'output', port: to.number }],
    });
    left.send(ipv4Frame('second'));
    await far.settle();
    t.is(recorder.heard.length, 1);
    t.deepEqual(texts(right.received()), ['second']);
    // From the key of the packet, exactly.
    await succeed(
      far.datapath,
      { type: 'delete', id: 1 },
      {
        type: 'put',
        id: 2,
        key,
        mask: FlowMask.exact(),
        actions: [{ type: 'output', port: to.number }],
      },
    );
    left.send(ipv4Frame('first'));
    await far.settle();
    t.deepEqual(texts(right.received()), ['second', 'first']);
  });
}

test.serial('a flood loses upcalls, says so, and goes on', async (t) => {
  const lab = await newLab(t, { upcallSockets: 1, upcallBuffer: 32 * 1024 });
  const { datapath } = lab;
  const recorder = new Recorder();
  datapath.start(recorder);
  const machine = await lab.connect('veth0');
  const port = await datapath.addPort('veth0', 'netdev');
  const sent = 2000;
  // All in one turn of the event loop: nobody reads meanwhile.
  for (let i = 0; i < sent; i++) {
    machine.send(ipv4Frame(`flood ${i}`, 53));
  }
  await lab.settle();
  t.true(recorder.lost > 0);
  t.true(recorder.heard.length < sent && recorder.heard.length > 0);
  t.is(recorder.heard.length + recorder.lost, sent, 'every packet was heard or counted as lost');
  t.true(Math.max(...recorder.batches) <= 64);
  const heard = recorder.heard.length;
  machine.send(ipv4Frame('afterwards', 53));
  await lab.settle();
  t.deepEqual(texts(recorder.heard.slice(heard).map(({ packet }) => packet)), ['afterwards']);
  await succeed(datapath, inPortFlow(1, port.number, []));
});

test.serial('ten thousand flows', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  const count = 10_000;
  const time = async <T>(what: string, action: () => Promise<T>): Promise<T> => {
    const start = process.hrtime();
    const result = await action();
    const [seconds, nanoseconds] = process.hrtime(start);
    t.log(`${what}: ${Math.round(count / (seconds + nanoseconds / 1e9))} flows/s`);
    return result;
  };
  const puts = Array.from({ length: count }, (_, i) => udpFlow(i + 1, i + 1, [{ type: 'output', port: 0 }]));
  await time('put, batches of 50', async () => {
    for (let i = 0; i < count; i += 50) await succeed(datapath, ...puts.slice(i, i + 50));
  });
  await time('put again in one batch', () => succeed(datapath, ...puts));
  const flows = await time('dump', () => datapath.flows());
  t.is(new Set(flows.map(({ id }) => id)).size, count);
  t.is((await datapath.statistics()).flows, count);
  t.is((await datapath.statistics()).masks, 1);
  await time('delete', () =>
    succeed(datapath, ...flows.map(({ id }) => ({ type: 'delete', id: id as number }) as const)),
  );
  t.deepEqual(await datapath.flows(), []);
});

test.serial('a closed datapath says so, and what it left behind goes on', async (t) => {
  const lab = await newLab(t);
  const { datapath } = lab;
  const [left, right] = [await lab.connect('veth0'), await lab.connect('veth1')];
  const [from, to] = [await datapath.addPort('veth0', 'netdev'), await datapath.addPort('veth1', 'netdev')];
  await succeed(datapath, inPortFlow(1, from.number, [{ type: 'output', port: to.number }]));
  datapath.start(new Recorder());
  await datapath.close();
  await datapath.close();
  t.throws(() => datapath.submit([]), { instanceOf: ClosedError, message: 'datapath dp is closed' });
  await t.throwsAsync(datapath.ports(), { instanceOf: ClosedError });
  left.send(ipv4Frame('still', 53));
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.deepEqual(texts(right.received()), ['still']);
});

test.serial('an aborted request rejects with the reason', async (t) => {
  const lab = await newLab(t);
  const signal = AbortSignal.abort(new Error('enough'));
  await t.throwsAsync(lab.datapath.ports(signal), { message: 'enough' });
  await t.throwsAsync(lab.datapath.flows(signal), { message: 'enough' });
  await t.throwsAsync(lab.datapath.addPort('veth0', 'netdev', signal), { message: 'enough' });
  await t.throwsAsync(OvsDatapath.open('dp2', { namespace: lab.room.namespace, signal }), { message: 'enough' });
});
