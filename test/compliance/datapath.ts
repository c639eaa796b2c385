/**
 * The compliance suite that every datapath driver passes: `memory` in the same process, `ovs` in a real kernel.
 *
 * A driver's test file makes a {@link DatapathFactory} and calls {@link datapathCompliance} with it, which registers one
 * ava test per behaviour. Everything a test needs from the outside is a {@link Lab}; a factory makes a fresh one for each
 * test and the test closes it. Nothing may be left over after `close`.
 */
import test, { type ExecutionContext } from 'ava';
import type { Datapath, FlowId, FlowOperation, Upcall } from '../../src/datapath/datapath.js';
import { DatapathError } from '../../src/datapath/errors.js';
import { InvalidInputError, MidonetError } from '../../src/errors.js';
import { type Action, actionsEqual, type NatSpec, type TunnelKey } from '../../src/flow/action.js';
import { extractKey } from '../../src/flow/extract.js';
import { CtState, FlowKey, TunnelFlag, VLAN_PRESENT, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import { readU16, readU48, readWords, writeU16 } from '../../src/packet/big-endian.js';
import { checksum, pseudoHeaderIpv4, pseudoHeaderIpv6, transportChecksumValid } from '../../src/packet/checksum.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho, buildIcmpError } from '../../src/packet/icmp.js';
import { buildIcmpv6Echo } from '../../src/packet/icmpv6.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4, type Ipv4Spec, newIpv4Header, parseIpv4Header } from '../../src/packet/ipv4.js';
import { buildIpv6, newIpv6Header, parseIpv6Header } from '../../src/packet/ipv6.js';
import { buildNeighborAdvertisement, buildNeighborSolicitation } from '../../src/packet/nd.js';
import { buildTcp, TcpFlag } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import { pushTag } from '../../src/packet/vlan.js';

/** The far end of an interface: what a machine plugged into the datapath's port would send and see. */
export interface Endpoint {
  /** Of the near end, which is the name to call {@link Datapath.addPort} with. */
  readonly name: string;
  /** Send a whole Ethernet frame (no frame check sequence) towards the datapath. */
  send(frame: Uint8Array): void | Promise<void>;
  /**
   * Every frame that came out so far, oldest first, whole, with VLAN tags in the bytes (a packet socket hands tags over
   * apart: put them back). Frames that the machine itself makes up need not be filtered out: tests look only at frames
   * from MAC addresses that start with 02:aa.
   */
  received(): readonly Uint8Array[];
}

/** One node: a datapath, not yet started, without flows and without ports but its local one (number 0). */
export interface Lab {
  readonly datapath: Datapath;
  /** IPv4 address of this node on the underlay, unsigned. Zero in a lab from `make`. */
  readonly underlay: number;
  /** Make the interface `name` (at most 15 characters, up, not yet a port) and return its far end. */
  connect(name: string): Promise<Endpoint>;
  /**
   * Make a tunnel interface in external (collect metadata) mode, up, not yet a port, and return its name. Only in a lab
   * from `makePair`.
   */
  tunnel(): Promise<string>;
  /** Another driver object on the same datapath, not started. The test closes it. */
  reopen(): Promise<Datapath>;
  /**
   * Resolves when all that was sent or submitted before has had its effect: flows hit, frames in `received()`, upcalls
   * delivered. Where that cannot be known it waits a while that is long enough.
   */
  settle(): Promise<void>;
  /** Close the driver and remove datapath, interfaces and namespaces. */
  close(): Promise<void>;
}

export interface DatapathFactory {
  make(): Promise<Lab>;
  /** Two nodes whose tunnels reach each other by their `underlay` addresses. */
  makePair(): Promise<readonly [Lab, Lab]>;
}

export const MAC_A = 0x02aa_0000_0001;
export const MAC_B = 0x02aa_0000_0002;
export const MAC_C = 0x02aa_0000_0003;
export const IP_A = 0x0a00_0001;
export const IP_B = 0x0a00_0002;
export const IP6_A = [0xfd00_0000, 0, 0, 1] as const;
export const IP6_B = [0xfd00_0000, 0, 0, 2] as const;
export const PAYLOAD = new Uint8Array([1, 2, 3, 4, 5, 6, 7]);
/** How long a condition may take to come true, in milliseconds: generous, for machines without KVM. */
const PATIENCE = 20_000;

/** The reserved MAC prefix of the suite: what else is heard on an interface is the machine's own noise. */
function isOurs(mac: number): boolean {
  return Math.floor(mac / 2 ** 32) === 0x02aa;
}

/** A datapath under test with what its handler was told. */
export class Bench {
  readonly upcalls: Upcall[] = [];
  portChanges = 0;
  lost = 0;
  private readonly endpoints = new Map<string, { endpoint: Endpoint; seen: number }>();
  private nextId = 1;
  /** How many upcalls the test has asked for. */
  private taken = 0;

  constructor(
    readonly t: ExecutionContext,
    readonly lab: Lab,
  ) {
    lab.datapath.start({
      upcalls: (batch) => {
        for (const upcall of batch) {
          if (isOurs(upcall.key.ethSrc))
            this.upcalls.push({ ...upcall, key: upcall.key.clone(), packet: upcall.packet.slice() });
        }
      },
      portsChanged: () => {
        this.portChanges++;
      },
      upcallsLost: (count) => {
        this.lost += count;
      },
    });
  }

  get datapath(): Datapath {
    return this.lab.datapath;
  }

  /** Make an interface and attach it; returns the port number. */
  async attach(name: string): Promise<number> {
    const endpoint = await this.lab.connect(name);
    this.endpoints.set(name, { endpoint, seen: 0 });
    return (await this.datapath.addPort(name, 'netdev')).number;
  }

  async send(name: string, frame: Uint8Array): Promise<void> {
    await this.endpoints.get(name)!.endpoint.send(frame);
  }

  /** The suite's frames that came out since the last look. */
  fresh(name: string): Uint8Array[] {
    const entry = this.endpoints.get(name)!;
    const all = entry.endpoint.received().filter((frame) => isOurs(readU48(frame, 6)));
    const out = all.slice(entry.seen);
    entry.seen = all.length;
    return out;
  }

  /** Wait until exactly `count` more frames came out and return them. */
  async frames(name: string, count: number): Promise<Uint8Array[]> {
    const out: Uint8Array[] = [];
    await this.until(`${count} frames at ${name}`, () => {
      out.push(...this.fresh(name));
      return out.length >= count;
    });
    await this.lab.settle();
    out.push(...this.fresh(name));
    this.t.is(out.length, count, `frames at ${name}`);
    return out;
  }

  async frame(name: string): Promise<Uint8Array> {
    return (await this.frames(name, 1))[0];
  }

  /** Wait for one more upcall, and no other, and return it. */
  async upcall(): Promise<Upcall> {
    await this.until('an upcall', () => this.upcalls.length > this.taken);
    this.t.is(this.upcalls.length, this.taken + 1, 'upcalls');
    return this.upcalls[this.taken++];
  }

  /** Nothing may come out and nothing may be sent up. */
  async quiet(...names: string[]): Promise<void> {
    await this.lab.settle();
    for (const name of names) this.t.deepEqual(this.fresh(name), [], `frames at ${name}`);
    this.t.is(this.upcalls.length, this.taken, 'upcalls');
  }

  async until(what: string, condition: () => boolean): Promise<void> {
    const deadline = performance.now() + PATIENCE;
    for (;;) {
      await this.lab.settle();
      if (condition()) return;
      if (performance.now() > deadline) throw new Error(`waited ${PATIENCE} ms in vain for ${what}`);
    }
  }

  submit(operations: readonly FlowOperation[]): Promise<readonly (Error | undefined)[]> {
    return new Promise((resolve, reject) => {
      this.datapath.submit(operations, resolve);
      this.lab.settle().catch(reject);
    });
  }

  /** Submit and expect every operation to succeed. */
  async ok(...operations: FlowOperation[]): Promise<void> {
    for (const error of await this.submit(operations)) if (error !== undefined) throw error;
  }

  /** Submit one operation and return the error it must end in. */
  async fails(operation: FlowOperation): Promise<Error> {
    const [error] = await this.submit([operation]);
    if (error === undefined) throw new Error('the operation succeeded');
    return error;
  }

  /** Install a flow; returns its id. */
  async put(key: FlowKey, mask: FlowMask, actions: readonly Action[]): Promise<FlowId> {
    const id = this.nextId++;
    await this.ok({ type: 'put', id, key, mask, actions });
    return id;
  }
}

export function keyOf(frame: Uint8Array, inPort: number): FlowKey {
  const key = new FlowKey();
  extractKey(frame, key);
  key.inPort = inPort;
  return key;
}

/** A mask of input port, recirculation id, EtherType and VLAN, which every kernel keeps as they are. */
function basicMask(): FlowMask {
  const mask = new FlowMask();
  mask.seeInPort();
  mask.seeRecircId();
  mask.seeEthType();
  mask.seeVlan();
  return mask;
}

export function protocolMask(): FlowMask {
  const mask = basicMask();
  mask.seeNwProto();
  mask.seeNwFrag();
  return mask;
}

export function udp4(srcPort: number, dstPort: number, options: Partial<Ipv4Spec> = {}): Uint8Array {
  return buildEthernet(
    { dst: MAC_B, src: MAC_A, type: EtherType.IPV4 },
    buildIpv4({ src: IP_A, dst: IP_B, protocol: IpProtocol.UDP, ...options }, buildUdp(srcPort, dstPort, PAYLOAD)),
  );
}

export function tcp4(
  src: number,
  dst: number,
  srcPort: number,
  dstPort: number,
  flags: number,
  seq = 1,
  ack = 0,
): Uint8Array {
  return buildEthernet(
    { dst: src === IP_A ? MAC_B : MAC_A, src: src === IP_A ? MAC_A : MAC_B, type: EtherType.IPV4 },
    buildIpv4({ src, dst, protocol: IpProtocol.TCP }, buildTcp({ srcPort, dstPort, flags, seq, ack })),
  );
}

function ip6(protocol: number, transport: Uint8Array): Uint8Array {
  return buildEthernet(
    { dst: MAC_B, src: MAC_A, type: EtherType.IPV6 },
    buildIpv6({ src: IP6_A, dst: IP6_B, protocol, hopLimit: 64 }, transport),
  );
}

/** Assert that the IP and transport checksums of an untagged frame are right. */
export function checkChecksums(t: ExecutionContext, frame: Uint8Array): void {
  if (readU16(frame, 12) === EtherType.IPV4) {
    const ip = newIpv4Header();
    t.true(parseIpv4Header(frame, 14, ip), 'IPv4 header');
    t.is(checksum(frame, 14, ip.payload), 0, 'IPv4 header checksum');
    const pseudo = pseudoHeaderIpv4(ip.src, ip.dst, ip.protocol, ip.end - ip.payload);
    t.true(transportChecksumValid(frame, ip.payload, ip.end, ip.protocol, pseudo), 'transport checksum');
    return;
  }
  const ip = newIpv6Header();
  t.true(parseIpv6Header(frame, 14, ip) && ip.complete, 'IPv6 header');
  const pseudo = pseudoHeaderIpv6(readWords(frame, 22), readWords(frame, 38), ip.protocol, ip.end - ip.payload);
  t.true(transportChecksumValid(frame, ip.payload, ip.end, ip.protocol, pseudo), 'transport checksum');
}

/** A masked set action: `fill` writes both the values and, through the mask, which bits count. */
function set(ethType: number, nwProto: number, fill: (key: FlowKey, mask: FlowKey) => void): Action {
  const key = new FlowKey();
  const mask = new FlowKey();
  fill(key, mask);
  key.ethType = ethType;
  key.nwProto = nwProto;
  return { type: 'set', key, mask };
}

/** Registers a test with a fresh lab. */
export type Run = (title: string, body: (bench: Bench, t: ExecutionContext) => Promise<void>) => void;

export function runner(driver: string, factory: DatapathFactory): Run {
  return (title, body) => {
    test.serial(`${driver}: ${title}`, async (t) => {
      const lab = await factory.make();
      try {
        await body(new Bench(t, lab), t);
      } finally {
        await lab.close();
      }
    });
  };
}

/** Register the suite's tests for one driver. They run one after the other. */
export function datapathCompliance(driver: string, factory: DatapathFactory): void {
  const run = runner(driver, factory);
  const runPair = (title: string, body: (left: Bench, right: Bench, t: ExecutionContext) => Promise<void>): void => {
    test.serial(`${driver}: ${title}`, async (t) => {
      const [left, right] = await factory.makePair();
      try {
        await body(new Bench(t, left), new Bench(t, right), t);
      } finally {
        await left.close();
        await right.close();
      }
    });
  };

  run('a packet that no flow matches is sent up with its key and bytes', async (bench, t) => {
    const port = await bench.attach('a0');
    const frame = udp4(1000, 53);
    await bench.send('a0', frame);
    const upcall = await bench.upcall();
    t.is(upcall.reason, 'miss');
    t.true(upcall.complete);
    t.is(upcall.userdata, undefined);
    t.deepEqual(Buffer.from(upcall.packet), Buffer.from(frame));
    t.is(upcall.key.inPort, port);
    t.deepEqual(upcall.key.words, keyOf(frame, port).words);
  });

  run('keys of every kind of packet are as extractKey reads them', async (bench, t) => {
    const port = await bench.attach('a0');
    const frames = [
      udp4(1, 2, { tos: 0x2e, ttl: 3 }),
      tcp4(IP_A, IP_B, 1, 2, TcpFlag.SYN | TcpFlag.ECE),
      udp4(1, 2, { fragment: { offset: 0, more: true } }),
      udp4(1, 2, { fragment: { offset: 8, more: false } }),
      buildArpRequest(MAC_A, IP_A, IP_B),
      buildEthernet(
        { dst: MAC_B, src: MAC_A, type: EtherType.IPV4 },
        buildIpv4({ src: IP_A, dst: IP_B, protocol: IpProtocol.ICMP }, buildIcmpEcho(8, 7, 1)),
      ),
      ip6(IpProtocol.TCP, buildTcp({ srcPort: 5, dstPort: 6, flags: TcpFlag.ACK })),
      ip6(IpProtocol.ICMPV6, buildIcmpv6Echo(128, 7, 1)),
      buildNeighborSolicitation({ src: IP6_A, srcMac: MAC_A, target: IP6_B }),
      buildNeighborAdvertisement({ target: IP6_A, targetMac: MAC_A, dst: IP6_B, dstMac: MAC_B }),
      buildEthernet(
        { dst: MAC_B, src: MAC_A, type: EtherType.ARP, vlans: [{ id: 5, priority: 3 }] },
        new Uint8Array(46),
      ),
      buildEthernet({ dst: MAC_B, src: MAC_A, type: 0x1234 }, new Uint8Array(46)),
    ];
    for (const frame of frames) {
      await bench.send('a0', frame);
      const { key, packet, complete } = await bench.upcall();
      t.deepEqual(Buffer.from(packet), Buffer.from(frame));
      t.deepEqual(key.words, keyOf(frame, port).words, Buffer.from(frame).toString('hex'));
      t.true(complete);
    }
  });

  run('a second VLAN tag makes the key incomplete', async (bench, t) => {
    await bench.attach('a0');
    const vlans = [{ tpid: 0x88a8, id: 7 }, { id: 8 }];
    const frame = buildEthernet({ dst: MAC_B, src: MAC_A, type: EtherType.ARP, vlans }, new Uint8Array(46));
    await bench.send('a0', frame);
    const upcall = await bench.upcall();
    t.false(upcall.complete);
    t.is(upcall.key.vlanTci & 0xfff, 7);
    t.is(upcall.key.vlanTpid, 0x88a8);
    t.deepEqual(Buffer.from(upcall.packet), Buffer.from(frame));
  });

  run('packets of a flow pass without upcalls, and it counts them', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1000, 53);
    const id = await bench.put(keyOf(frame, a), protocolMask(), [{ type: 'output', port: b }]);
    t.is((await bench.datapath.flow(id))?.packets, 0);
    t.is((await bench.datapath.flow(id))?.idleMs, undefined);
    await bench.send('a0', frame);
    await bench.send('a0', frame);
    const out = await bench.frames('b0', 2);
    t.deepEqual(Buffer.from(out[0]), Buffer.from(frame));
    const flow = await bench.datapath.flow(id);
    t.is(flow?.packets, 2);
    t.is(flow?.bytes, 2 * frame.length);
    t.is(typeof flow?.idleMs, 'number');
    await bench.quiet('a0');
  });

  run('wildcarded bits do not matter, matched ones do', async (bench) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const mask = protocolMask();
    mask.seeIpv4Dst(24);
    mask.seeTpDst(0xff00);
    await bench.put(keyOf(udp4(1000, 0x1234), a), mask, [{ type: 'output', port: b }]);
    await bench.send('a0', udp4(2000, 0x12ff, { src: 0x0b00_0001, dst: 0x0a00_00fe, ttl: 9 }));
    await bench.frame('b0');
    await bench.send('a0', udp4(1000, 0x1334));
    await bench.upcall();
    await bench.send('a0', udp4(1000, 0x1234, { dst: 0x0a00_0102 }));
    await bench.upcall();
    await bench.send('b0', udp4(1000, 0x1234));
    await bench.upcall();
    await bench.quiet('a0', 'b0');
  });

  run('an untagged flow does not match tagged packets', async (bench) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const mask = new FlowMask();
    mask.seeInPort();
    mask.seeEthType();
    const frame = buildArpRequest(MAC_A, IP_A, IP_B);
    await bench.put(keyOf(frame, a), mask, [{ type: 'output', port: b }]);
    await bench.send('a0', pushTag(frame, EtherType.VLAN, 5));
    await bench.upcall();
    await bench.send('a0', frame);
    await bench.frame('b0');
  });

  run('a flow is replaced in place by its id and keeps its counters', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const c = await bench.attach('c0');
    const frame = udp4(1, 2);
    const key = keyOf(frame, a);
    const id = await bench.put(key, protocolMask(), [{ type: 'output', port: b }]);
    await bench.send('a0', frame);
    await bench.frame('b0');
    await bench.ok({ type: 'put', id, key, mask: protocolMask(), actions: [{ type: 'output', port: c }] });
    await bench.send('a0', frame);
    await bench.frame('c0');
    await bench.quiet('b0');
    t.is((await bench.datapath.flow(id))?.packets, 2);
    t.is((await bench.datapath.flows()).length, 1);
  });

  run('an id keeps its key and mask', async (bench, t) => {
    const a = await bench.attach('a0');
    const id = await bench.put(keyOf(udp4(1, 2), a), protocolMask(), []);
    const other = keyOf(tcp4(IP_A, IP_B, 1, 2, TcpFlag.SYN), a);
    const error = await bench.fails({ type: 'put', id, key: other, mask: protocolMask(), actions: [] });
    t.true(error instanceof MidonetError, String(error));
  });

  run('a masked key belongs to one id', async (bench, t) => {
    const a = await bench.attach('a0');
    await bench.put(keyOf(udp4(1, 2), a), protocolMask(), []);
    const error = await bench.fails({
      type: 'put',
      id: 77,
      key: keyOf(udp4(3, 4), a),
      mask: protocolMask(),
      actions: [],
    });
    t.true(error instanceof DatapathError, String(error));
    t.is((error as DatapathError).kind, 'exists');
    t.is(await bench.datapath.flow(77), undefined);
  });

  run('a key that another flow matches already is refused', async (bench, t) => {
    const a = await bench.attach('a0');
    await bench.put(keyOf(udp4(1, 2), a), protocolMask(), []);
    const narrower = protocolMask();
    narrower.seeTpDst();
    const key = keyOf(udp4(3, 4), a);
    const error = await bench.fails({ type: 'put', id: 77, key, mask: narrower, actions: [] });
    t.is(error instanceof DatapathError ? error.kind : String(error), 'exists');
  });

  run('errors of a batch stand where their operations do', async (bench, t) => {
    const a = await bench.attach('a0');
    const key = keyOf(udp4(1, 2), a);
    const put = (id: number): FlowOperation => ({ type: 'put', id, key, mask: protocolMask(), actions: [] });
    const errors = await bench.submit([put(1), put(2), { type: 'delete', id: 9 }, { type: 'delete', id: 1 }, put(2)]);
    t.deepEqual(
      errors.map((error) => error instanceof DatapathError && error.kind),
      [false, 'exists', false, false, false],
    );
    t.deepEqual(
      (await bench.datapath.flows()).map((flow) => flow.id),
      [2],
    );
  });

  run('a deleted flow matches no more', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1, 2);
    const id = await bench.put(keyOf(frame, a), protocolMask(), [{ type: 'output', port: b }]);
    await bench.ok({ type: 'delete', id });
    t.is(await bench.datapath.flow(id), undefined);
    await bench.send('a0', frame);
    await bench.upcall();
    await bench.ok({ type: 'delete', id });
  });

  run('flows without actions drop', async (bench, t) => {
    const a = await bench.attach('a0');
    await bench.attach('b0');
    const frame = udp4(1, 2);
    const id = await bench.put(keyOf(frame, a), protocolMask(), []);
    await bench.send('a0', frame);
    await bench.quiet('b0');
    t.is((await bench.datapath.flow(id))?.packets, 1);
  });

  run('execute runs actions on a packet of its own', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1, 2);
    const original = frame.slice();
    const key = new FlowKey();
    key.inPort = a;
    const actions: Action[] = [
      { type: 'output', port: a },
      set(EtherType.IPV4, 0, (k, m) => {
        k.ethDst = MAC_C;
        m.ethDst = 0xffff_ffff_ffff;
      }),
      { type: 'output', port: b },
    ];
    await bench.ok({ type: 'execute', key, packet: frame, actions });
    t.deepEqual(Buffer.from(await bench.frame('a0')), Buffer.from(frame));
    t.is(readU48(await bench.frame('b0'), 0), MAC_C);
    t.deepEqual(frame, original);
    t.deepEqual(await bench.datapath.flows(), []);
  });

  const settable: [string, Uint8Array, Action, (key: FlowKey) => void][] = [
    [
      'Ethernet addresses',
      udp4(1, 2),
      set(EtherType.IPV4, 0, (k, m) => {
        k.ethSrc = MAC_B;
        k.ethDst = MAC_C;
        m.ethSrc = m.ethDst = 0xffff_ffff_ffff;
      }),
      (key) => {
        key.ethSrc = MAC_B;
        key.ethDst = MAC_C;
      },
    ],
    [
      'some bits of an Ethernet address',
      udp4(1, 2),
      set(EtherType.IPV4, 0, (k, m) => {
        k.ethDst = 0xff;
        m.ethDst = 0xf0;
      }),
      (key) => {
        key.ethDst = 0x02aa_0000_00f2;
      },
    ],
    ...([IpProtocol.UDP, IpProtocol.TCP] as const).map(
      (protocol): [string, Uint8Array, Action, (key: FlowKey) => void] => [
        `IPv4 and ports of protocol ${protocol}`,
        protocol === IpProtocol.UDP ? udp4(1000, 53) : tcp4(IP_A, IP_B, 1000, 53, TcpFlag.SYN),
        set(EtherType.IPV4, protocol, (k, m) => {
          k.ipv4Src = 0xc0a8_0105;
          k.ipv4Dst = 0xc0a8_0206;
          k.nwTos = 0x88;
          k.nwTtl = 17;
          k.tpSrc = 4444;
          k.tpDst = 5555;
          m.ipv4Src = m.ipv4Dst = 0xffff_ffff;
          m.nwTos = 0xfc;
          m.nwTtl = 0xff;
          m.tpSrc = m.tpDst = 0xffff;
        }),
        (key) => {
          key.ipv4Src = 0xc0a8_0105;
          key.ipv4Dst = 0xc0a8_0206;
          key.nwTos = 0x88;
          key.nwTtl = 17;
          key.tpSrc = 4444;
          key.tpDst = 5555;
        },
      ],
    ),
    ...([IpProtocol.UDP, IpProtocol.TCP] as const).map(
      (protocol): [string, Uint8Array, Action, (key: FlowKey) => void] => [
        `IPv6 and ports of protocol ${protocol}`,
        ip6(
          protocol,
          protocol === IpProtocol.UDP
            ? buildUdp(1000, 53, PAYLOAD)
            : buildTcp({ srcPort: 1000, dstPort: 53, flags: 2 }),
        ),
        set(EtherType.IPV6, protocol, (k, m) => {
          k.words.set([0xfd11_2233, 0x4455_6677, 0x8899_aabb, 0xccdd_eeff], Word.NW_SRC);
          k.words.set([0x2001_0db8, 0, 0, 9], Word.NW_DST);
          m.words.fill(0xffff_ffff, Word.NW_SRC, Word.NW_DST + 4);
          k.nwTos = 0x88;
          k.nwTtl = 17;
          k.ipv6Label = 0x12345;
          m.nwTos = m.nwTtl = 0xff;
          m.ipv6Label = 0xf_ffff;
          k.tpDst = 5555;
          m.tpDst = 0xffff;
        }),
        (key) => {
          key.words.set([0xfd11_2233, 0x4455_6677, 0x8899_aabb, 0xccdd_eeff], Word.NW_SRC);
          key.words.set([0x2001_0db8, 0, 0, 9], Word.NW_DST);
          key.nwTos = 0x88;
          key.nwTtl = 17;
          key.ipv6Label = 0x12345;
          key.tpDst = 5555;
        },
      ],
    ),
    [
      'IPv6 addresses under ICMPv6',
      ip6(IpProtocol.ICMPV6, buildIcmpv6Echo(128, 7, 1, PAYLOAD)),
      set(EtherType.IPV6, IpProtocol.ICMPV6, (k, m) => {
        k.words[Word.NW_DST + 3] = 0x77;
        m.words[Word.NW_DST + 3] = 0xffff_ffff;
      }),
      (key) => {
        key.words[Word.NW_DST + 3] = 0x77;
      },
    ],
  ];
  for (const [title, frame, action, change] of settable) {
    run(`set rewrites ${title} and the checksums`, async (bench, t) => {
      const a = await bench.attach('a0');
      const b = await bench.attach('b0');
      await bench.put(keyOf(frame, a), protocolMask(), [action, { type: 'output', port: b }]);
      await bench.send('a0', frame);
      const out = await bench.frame('b0');
      const expected = keyOf(frame, 0);
      change(expected);
      t.deepEqual(keyOf(out, 0).words, expected.words);
      t.is(out.length, frame.length);
      checkChecksums(t, out);
    });
  }

  run('a UDP packet without a checksum stays without', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1, 2);
    writeU16(frame, 14 + 20 + 6, 0);
    const action = set(EtherType.IPV4, IpProtocol.UDP, (k, m) => {
      k.ipv4Dst = 0x0102_0304;
      m.ipv4Dst = 0xffff_ffff;
      k.tpDst = 99;
      m.tpDst = 0xffff;
    });
    await bench.put(keyOf(frame, a), protocolMask(), [action, { type: 'output', port: b }]);
    await bench.send('a0', frame);
    const out = await bench.frame('b0');
    t.is(readU16(out, 14 + 20 + 6), 0);
    t.is(readU16(out, 14 + 20 + 2), 99);
    checkChecksums(t, out);
  });

  run('fields that no datapath can set are refused', async (bench, t) => {
    const a = await bench.attach('a0');
    const frame = buildArpRequest(MAC_A, IP_A, IP_B);
    const action = set(EtherType.ARP, 1, (k, m) => {
      k.arpSha = MAC_C;
      m.arpSha = 0xffff_ffff_ffff;
    });
    const error = await bench.fails({
      type: 'put',
      id: 1,
      key: keyOf(frame, a),
      mask: protocolMask(),
      actions: [action],
    });
    t.true(error instanceof MidonetError, String(error));
    t.deepEqual(await bench.datapath.flows(), []);
  });

  run('a header can be set only where the flow matches it', async (bench, t) => {
    const a = await bench.attach('a0');
    const action = set(EtherType.IPV4, 0, (k, m) => {
      k.ipv4Dst = 1;
      m.ipv4Dst = 0xffff_ffff;
    });
    const key = keyOf(buildArpRequest(MAC_A, IP_A, IP_B), a);
    const error = await bench.fails({ type: 'put', id: 1, key, mask: protocolMask(), actions: [action] });
    t.true(error instanceof MidonetError, String(error));
  });

  run('VLAN tags are pushed and popped', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1, 2);
    const tci = 0x6000 | VLAN_PRESENT | 42;
    const push: Action = { type: 'push-vlan', tpid: EtherType.VLAN, tci };
    await bench.put(keyOf(frame, a), protocolMask(), [push, { type: 'output', port: b }]);
    await bench.send('a0', frame);
    const tagged = await bench.frame('b0');
    t.deepEqual(Buffer.from(tagged), Buffer.from(pushTag(frame, EtherType.VLAN, 0x6000 | 42)));

    const back = pushTag(frame, EtherType.VLAN, 0x6000 | 42);
    await bench.put(keyOf(back, b), protocolMask(), [{ type: 'pop-vlan' }, { type: 'output', port: a }]);
    await bench.send('b0', back);
    t.deepEqual(Buffer.from(await bench.frame('a0')), Buffer.from(frame));
  });

  run('clone keeps its changes to itself', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const c = await bench.attach('c0');
    const frame = udp4(1, 2);
    const action = set(EtherType.IPV4, 0, (k, m) => {
      k.ipv4Dst = 0x0909_0909;
      m.ipv4Dst = 0xffff_ffff;
    });
    await bench.put(keyOf(frame, a), protocolMask(), [
      {
        type: 'clone',
        actions: [action, { type: 'push-vlan', tpid: 0x8100, tci: VLAN_PRESENT | 3 }, { type: 'output', port: b }],
      },
      { type: 'output', port: c },
    ]);
    await bench.send('a0', frame);
    const changed = await bench.frame('b0');
    t.is(keyOf(changed, 0).ipv4Dst, 0x0909_0909);
    t.is(keyOf(changed, 0).vlanTci, VLAN_PRESENT | 3);
    t.deepEqual(Buffer.from(await bench.frame('c0')), Buffer.from(frame));
  });

  run('trunc cuts the next output only', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const c = await bench.attach('c0');
    const frame = udp4(1, 2);
    await bench.put(keyOf(frame, a), protocolMask(), [
      { type: 'trunc', maxLength: 34 },
      { type: 'output', port: b },
      { type: 'output', port: c },
    ]);
    await bench.send('a0', frame);
    t.deepEqual(Buffer.from(await bench.frame('b0')), Buffer.from(frame.subarray(0, 34)));
    t.deepEqual(Buffer.from(await bench.frame('c0')), Buffer.from(frame));
  });

  run('userspace sends the packet up with user data', async (bench, t) => {
    const a = await bench.attach('a0');
    const frame = udp4(1, 2);
    const userdata = new Uint8Array([9, 8, 7, 6, 5]);
    await bench.put(keyOf(frame, a), protocolMask(), [{ type: 'userspace', userdata }]);
    await bench.send('a0', frame);
    const upcall = await bench.upcall();
    t.is(upcall.reason, 'action');
    t.deepEqual(Buffer.from(upcall.userdata ?? []), Buffer.from(userdata));
    t.deepEqual(Buffer.from(upcall.packet), Buffer.from(frame));
    t.is(upcall.key.inPort, a);
  });

  run('a hash tells transport flows apart and is the same for each', async (bench, t) => {
    const a = await bench.attach('a0');
    const key = keyOf(udp4(1, 2), a);
    await bench.put(key, protocolMask(), [
      { type: 'hash', basis: 0 },
      { type: 'recirc', id: 5 },
    ]);
    const hashes: number[] = [];
    for (const port of [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1000]) {
      await bench.send('a0', udp4(port, 80));
      const upcall = await bench.upcall();
      t.is(upcall.key.recircId, 5);
      t.not(upcall.key.dpHash, 0);
      hashes.push(upcall.key.dpHash);
    }
    t.is(hashes[0], hashes[8]);
    t.true(new Set(hashes).size > 4);
  });

  run('connections are new, then established in both directions', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const zone = 5;
    const syn = tcp4(IP_A, IP_B, 1000, 80, TcpFlag.SYN, 1);
    const synAck = tcp4(IP_B, IP_A, 80, 1000, TcpFlag.SYN | TcpFlag.ACK, 100, 2);
    const ack = tcp4(IP_A, IP_B, 1000, 80, TcpFlag.ACK, 2, 101);
    for (const port of [a, b]) {
      await bench.put(keyOf(syn, port), protocolMask(), [
        { type: 'ct', zone },
        { type: 'recirc', id: 1 },
      ]);
    }
    const states: number[] = [];
    const step = async (name: string, frame: Uint8Array, commit: boolean, out: number): Promise<void> => {
      await bench.send(name, frame);
      const upcall = await bench.upcall();
      states.push(upcall.key.ctState);
      t.is(upcall.key.ctZone, zone);
      t.is(upcall.key.recircId, 1);
      const actions: Action[] = [
        { type: 'ct', zone, commit },
        { type: 'output', port: out },
      ];
      await bench.ok({ type: 'execute', key: upcall.key, packet: upcall.packet, actions });
    };
    await step('b0', synAck, false, a);
    await step('a0', syn, true, b);
    await step('a0', syn, true, b);
    await step('b0', synAck, false, a);
    await step('a0', ack, false, b);
    t.deepEqual(states, [
      CtState.TRACKED | CtState.INVALID,
      CtState.TRACKED | CtState.NEW,
      CtState.TRACKED | CtState.NEW,
      CtState.TRACKED | CtState.ESTABLISHED | CtState.REPLY,
      CtState.TRACKED | CtState.ESTABLISHED,
    ]);
    t.is((await bench.frames('b0', 3)).length, 3);
    t.is((await bench.frames('a0', 2)).length, 2);
  });

  run('connection state is matched by flows, and zones are apart', async (bench) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const first = udp4(1000, 53);
    const ct = (zone: number): Action[] => [
      { type: 'ct', zone },
      { type: 'recirc', id: zone },
    ];
    await bench.put(keyOf(first, a), protocolMask(), [
      { type: 'ct', zone: 7, commit: true, mark: 0x55 },
      { type: 'output', port: b },
    ]);
    const reply = buildEthernet(
      { dst: MAC_A, src: MAC_B, type: EtherType.IPV4 },
      buildIpv4({ src: IP_B, dst: IP_A, protocol: IpProtocol.UDP }, buildUdp(53, 1000)),
    );
    const recirculated = keyOf(reply, b);
    recirculated.recircId = 7;
    recirculated.ctState = CtState.TRACKED | CtState.ESTABLISHED | CtState.REPLY;
    recirculated.ctZone = 7;
    recirculated.ctMark = 0x55;
    const mask = protocolMask();
    mask.seeCtState(CtState.ESTABLISHED | CtState.NEW | CtState.TRACKED);
    mask.ctMark = 0xff;
    await bench.put(recirculated, mask, [{ type: 'output', port: a }]);
    const id = await bench.put(keyOf(reply, b), protocolMask(), ct(7));
    await bench.send('a0', first);
    await bench.frame('b0');
    await bench.send('b0', reply);
    await bench.frame('a0');
    await bench.ok({ type: 'delete', id });
    await bench.put(keyOf(reply, b), protocolMask(), ct(8));
    await bench.send('b0', reply);
    const upcall = await bench.upcall();
    bench.t.is(upcall.key.ctState, CtState.TRACKED | CtState.NEW);
    bench.t.is(upcall.key.ctZone, 8);
    bench.t.is(upcall.key.ctMark, 0);
  });

  const natted: [string, Action & { type: 'ct' }, { src: number; dst: number; srcPort: number; dstPort: number }][] = [
    [
      'source',
      {
        type: 'ct',
        zone: 9,
        commit: true,
        nat: { kind: 'src', ipMin: [0xc0a8_0001], ipMax: [0xc0a8_0001], portMin: 40000, portMax: 40000 },
      },
      { src: 0xc0a8_0001, dst: IP_B, srcPort: 40000, dstPort: 80 },
    ],
    [
      'destination',
      {
        type: 'ct',
        zone: 9,
        commit: true,
        nat: { kind: 'dst', ipMin: [0xc0a8_0002], ipMax: [0xc0a8_0002], portMin: 8080, portMax: 8080 },
      },
      { src: IP_A, dst: 0xc0a8_0002, srcPort: 1000, dstPort: 8080 },
    ],
  ];
  for (const [title, commit, expected] of natted) {
    run(`${title} addresses and ports are translated, and back`, async (bench, t) => {
      const a = await bench.attach('a0');
      const b = await bench.attach('b0');
      const syn = tcp4(IP_A, IP_B, 1000, 80, TcpFlag.SYN, 1);
      await bench.put(keyOf(syn, a), protocolMask(), [commit, { type: 'output', port: b }]);
      await bench.send('a0', syn);
      const out = await bench.frame('b0');
      const key = keyOf(out, 0);
      t.deepEqual({ src: key.ipv4Src, dst: key.ipv4Dst, srcPort: key.tpSrc, dstPort: key.tpDst }, expected);
      checkChecksums(t, out);

      const { src, dst, srcPort, dstPort } = expected;
      const reply = buildEthernet(
        { dst: MAC_A, src: MAC_B, type: EtherType.IPV4 },
        buildIpv4(
          { src: dst, dst: src, protocol: IpProtocol.TCP },
          buildTcp({ srcPort: dstPort, dstPort: srcPort, flags: TcpFlag.SYN | TcpFlag.ACK, seq: 100, ack: 2 }),
        ),
      );
      await bench.put(keyOf(reply, b), protocolMask(), [
        { type: 'ct', zone: 9, nat: { kind: 'restore' } },
        { type: 'output', port: a },
      ]);
      await bench.send('b0', reply);
      const back = await bench.frame('a0');
      const backKey = keyOf(back, 0);
      t.deepEqual(
        { src: backKey.ipv4Src, dst: backKey.ipv4Dst, srcPort: backKey.tpSrc, dstPort: backKey.tpDst },
        { src: IP_B, dst: IP_A, srcPort: 80, dstPort: 1000 },
      );
      checkChecksums(t, back);
    });
  }

  run('an ICMP error about a translated connection is related and translated back, inside too', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1000, 53);
    const nat: NatSpec = { kind: 'src', ipMin: [0xc0a8_0001], ipMax: [0xc0a8_0001], portMin: 40000, portMax: 40000 };
    await bench.put(keyOf(frame, a), protocolMask(), [
      { type: 'ct', zone: 9, commit: true, nat },
      { type: 'output', port: b },
    ]);
    await bench.send('a0', frame);
    const out = await bench.frame('b0');
    const error = buildIcmpError(3, 1, 0x0a09_0909, out, 14);
    if (error === undefined) throw new Error('no ICMP error was built');
    const errorFrame = buildEthernet({ dst: MAC_A, src: MAC_B, type: EtherType.IPV4 }, error);
    await bench.put(keyOf(errorFrame, b), protocolMask(), [
      { type: 'ct', zone: 9, nat: { kind: 'restore' } },
      { type: 'recirc', id: 3 },
    ]);
    await bench.send('b0', errorFrame);
    const { key, packet } = await bench.upcall();
    t.is(key.ctState & (CtState.RELATED | CtState.TRACKED | CtState.INVALID), CtState.RELATED | CtState.TRACKED);
    t.is(key.ipv4Dst, IP_A);
    const inner = keyOf(buildEthernet({ dst: 0, src: 0, type: EtherType.IPV4 }, packet.slice(14 + 28)), 0);
    t.is(inner.ipv4Src, IP_A);
    t.is(inner.tpSrc, 1000);
    t.is(checksum(packet, 14, 34), 0);
    t.is(checksum(packet, 34, packet.length), 0);
  });

  run('fragments are put together for ct and leave in fragments', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const data = buildUdp(
      1000,
      53,
      new Uint8Array(2000).map((_, i) => i),
    );
    const full = buildIpv4({ src: IP_A, dst: IP_B, protocol: IpProtocol.UDP, id: 0x4321 }, data);
    const part = (offset: number, end: number): Uint8Array =>
      buildEthernet(
        { dst: MAC_B, src: MAC_A, type: EtherType.IPV4 },
        buildIpv4(
          {
            src: IP_A,
            dst: IP_B,
            protocol: IpProtocol.UDP,
            id: 0x4321,
            fragment: { offset, more: end < data.length },
          },
          full.subarray(20 + offset, 20 + end),
        ),
      );
    for (const frag of [part(0, 1480), part(1480, data.length)]) {
      await bench.put(keyOf(frag, a), protocolMask(), [
        { type: 'ct', zone: 4 },
        { type: 'recirc', id: 2 },
      ]);
    }
    const recirculated = keyOf(udp4(1000, 53), a);
    recirculated.recircId = 2;
    await bench.put(recirculated, protocolMask(), [{ type: 'output', port: b }]);
    await bench.send('a0', part(0, 1480));
    await bench.quiet('b0');
    await bench.send('a0', part(1480, data.length));
    const out = await bench.frames('b0', 2);
    const payload = Buffer.concat(out.map((frame) => frame.subarray(34)));
    t.deepEqual(payload, Buffer.from(full.subarray(20)));
    for (const frame of out) t.is(checksum(frame, 14, 34), 0);
  });

  run('flows are dumped as they were put', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frames = [
      udp4(1000, 53),
      tcp4(IP_A, IP_B, 1, 2, TcpFlag.SYN),
      ip6(IpProtocol.TCP, buildTcp({ srcPort: 5, dstPort: 6, flags: TcpFlag.SYN })),
    ];
    const wanted = new Map<FlowId, { key: FlowKey; mask: FlowMask; actions: readonly Action[] }>();
    for (const [i, frame] of frames.entries()) {
      const key = keyOf(frame, a);
      const mask = protocolMask();
      if (i < 2) mask.seeIpv4Dst(24);
      else mask.seeIpv6Dst(40);
      mask.seeTpDst(0xfff0);
      mask.seeEthSrc();
      mask.seeEthDst();
      const actions: Action[] = [
        set(key.ethType, key.nwProto, (k, m) => {
          k.ethSrc = MAC_C;
          m.ethSrc = 0xffff_ffff_ffff;
          k.nwTtl = 12;
          m.nwTtl = 0xff;
        }),
        {
          type: 'set-tunnel',
          tunnel: { id: 0x123456, src: 0, dst: 0x0102_0304, tos: 0, ttl: 64, flags: TunnelFlag.KEY },
        },
        { type: 'ct', zone: 3, commit: true, mark: 5, markMask: 0xff },
        { type: 'clone', actions: [{ type: 'output', port: a }] },
        { type: 'output', port: b },
      ];
      wanted.set(await bench.put(key, mask, actions), { key, mask, actions });
    }
    const flows = await bench.datapath.flows();
    t.is(flows.length, wanted.size);
    for (const flow of flows) {
      const put = wanted.get(flow.id ?? 0);
      t.truthy(put);
      if (put === undefined) continue;
      t.true(flow.complete);
      t.deepEqual(flow.mask.words, put.mask.words);
      t.true(flow.key.equalsMasked(put.key, put.mask));
      t.true(actionsEqual(flow.actions, put.actions), JSON.stringify(flow.actions));
    }
  });

  run('flush removes every flow', async (bench, t) => {
    const a = await bench.attach('a0');
    const frame = udp4(1, 2);
    await bench.put(keyOf(frame, a), protocolMask(), []);
    await bench.datapath.flushFlows();
    t.deepEqual(await bench.datapath.flows(), []);
    await bench.send('a0', frame);
    await bench.upcall();
  });

  run('a datapath with all features has them', async (bench, t) => {
    const { meters, ...features } = bench.datapath.features;
    t.deepEqual(features, { conntrack: true, zones: true, nat: true, labels: true });
    t.true(meters >= 1);
    t.deepEqual(await bench.datapath.flows(), []);
    t.deepEqual(await bench.datapath.connections(), []);
  });

  run('a meter drops what exceeds its burst, and counts', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1, 2);
    const { datapath } = bench;
    t.is(await datapath.meter(1), undefined);
    const send = async (count: number, id: number): Promise<number> => {
      const actions: Action[] = [
        { type: 'meter', id },
        { type: 'output', port: b },
      ];
      const execute: FlowOperation = { type: 'execute', key: keyOf(frame, a), packet: frame, actions };
      await bench.ok(...new Array<FlowOperation>(count).fill(execute));
      await bench.lab.settle();
      return bench.fresh('b0').length;
    };
    t.is(await send(3, 1), 3);
    // A token comes every second: some may while this runs.
    await datapath.putMeter(1, { unit: 'packets', rate: 1, burst: 5 });
    const passed = await send(40, 1);
    t.true(passed >= 5 && passed < 40, `${passed} passed`);
    t.deepEqual(await datapath.meter(1), {
      packets: 40,
      bytes: 40 * frame.length,
      droppedPackets: 40 - passed,
      droppedBytes: (40 - passed) * frame.length,
    });
    await datapath.putMeter(1, { unit: 'kilobits', rate: 1, burst: 1000 });
    t.deepEqual(await datapath.meter(1), { packets: 0, bytes: 0, droppedPackets: 0, droppedBytes: 0 });
    t.is(await send(10, 1), 10);
    await datapath.putMeter(2, { unit: 'kilobits', rate: 1, burst: 1 });
    // One kilobit holds two of these frames of 49 bytes.
    t.is(await send(2, 2), 2);
    await datapath.deleteMeter(1);
    await datapath.deleteMeter(1);
    t.is(await datapath.meter(1), undefined);
    t.is(await send(8, 1), 8);
  });

  run('a packet larger than the burst of a meter never passes', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = buildEthernet({ dst: MAC_B, src: MAC_A, type: 0x1234 }, new Uint8Array(200));
    await bench.datapath.putMeter(0, { unit: 'kilobits', rate: 1_000_000, burst: 1 });
    await bench.put(keyOf(frame, a), basicMask(), [
      { type: 'meter', id: 0 },
      { type: 'output', port: b },
    ]);
    await bench.send('a0', frame);
    await bench.quiet('b0');
    t.like(await bench.datapath.meter(0), { packets: 1, droppedPackets: 1, droppedBytes: frame.length });
  });

  run('meters out of range are refused by name', async (bench, t) => {
    const good = { unit: 'packets', rate: 1, burst: 1 } as const;
    const { datapath } = bench;
    for (const [id, meter, field] of [
      [-1, good, 'meter id'],
      [1.5, good, 'meter id'],
      [datapath.features.meters, good, 'meter id'],
      [1, { ...good, rate: 0 }, 'meter rate'],
      [1, { ...good, burst: 0 }, 'meter burst'],
      [1, { ...good, burst: 2 ** 32 }, 'meter burst'],
    ] as const) {
      const error = await t.throwsAsync(datapath.putMeter(id, meter), { instanceOf: InvalidInputError });
      t.is(error?.field, field);
    }
  });

  run('ports are listed, found again and deleted', async (bench, t) => {
    const [local, ...none] = await bench.datapath.ports();
    t.is(local.number, 0);
    t.is(local.type, 'internal');
    t.deepEqual(none, []);
    const number = await bench.attach('a0');
    const again = await bench.datapath.addPort('a0', 'netdev');
    t.is(again.number, number);
    const listed = (await bench.datapath.ports()).find((port) => port.name === 'a0');
    t.deepEqual(listed, again);
    t.is(listed?.type, 'netdev');
    t.true((listed?.ifindex ?? 0) > 0);
    const second = await bench.lab.reopen();
    const changes = bench.portChanges;
    await second.deletePort('a0');
    await second.close();
    await bench.until('word of changed ports', () => bench.portChanges > changes);
    await bench.datapath.deletePort('a0');
    await bench.datapath.deletePort('a0');
    t.is((await bench.datapath.ports()).length, 1);
    await bench.send('a0', udp4(1, 2));
    await bench.quiet();
    t.is((await bench.datapath.addPort('a0', 'netdev')).name, 'a0');
  });

  run('an interface that does not exist cannot be a port', async (bench, t) => {
    const error = await t.throwsAsync(bench.datapath.addPort('nosuch0', 'netdev'), { instanceOf: DatapathError });
    t.is(error?.kind, 'not-found');
    t.regex(error?.message ?? '', /nosuch0/);
    t.is((await bench.datapath.ports()).length, 1);
  });

  run('internal ports are made and destroyed', async (bench, t) => {
    const port = await bench.datapath.addPort('int0', 'internal');
    t.is(port.type, 'internal');
    t.true(port.ifindex > 0);
    t.deepEqual(await bench.datapath.addPort('int0', 'internal'), port);
    const a = await bench.attach('a0');
    const frame = udp4(1, 2);
    const id = await bench.put(keyOf(frame, a), protocolMask(), [{ type: 'output', port: port.number }]);
    await bench.send('a0', frame);
    await bench.quiet('a0');
    t.is((await bench.datapath.flow(id))?.packets, 1);
    await bench.datapath.deletePort('int0');
    t.false((await bench.datapath.ports()).some(({ name }) => name === 'int0'));
    await t.throwsAsync(bench.datapath.addPort('int0', 'netdev'), { instanceOf: DatapathError });
  });

  run('output to a port that is gone loses the packet, nothing else', async (bench) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1, 2);
    await bench.put(keyOf(frame, a), protocolMask(), [
      { type: 'output', port: 999 },
      { type: 'output', port: b },
    ]);
    await bench.send('a0', frame);
    await bench.frame('b0');
  });

  run('malformed packets break nothing', async (bench, t) => {
    const port = await bench.attach('a0');
    const valid = [
      udp4(1, 2),
      tcp4(IP_A, IP_B, 1, 2, TcpFlag.SYN),
      ip6(IpProtocol.TCP, buildTcp({ srcPort: 1, dstPort: 2 })),
      buildNeighborSolicitation({ src: IP6_A, srcMac: MAC_A, target: IP6_B }),
      buildArpRequest(MAC_A, IP_A, IP_B),
    ];
    for (const frame of valid) {
      for (const length of [14, 17, 21, 30, 36, 44, 53, 60, 70]) {
        if (length >= frame.length) continue;
        const cut = frame.slice(0, length);
        await bench.send('a0', cut);
        const { key } = await bench.upcall();
        t.deepEqual(key.words, keyOf(cut, port).words, Buffer.from(cut).toString('hex'));
      }
    }
    const badLength = udp4(1, 2);
    badLength[14] = 0x42;
    await bench.send('a0', badLength);
    t.is((await bench.upcall()).key.ipv4Src, 0);
    await bench.send('a0', udp4(3, 4));
    t.is((await bench.upcall()).key.tpSrc, 3);
  });

  run('actions that are too long are refused', async (bench, t) => {
    const a = await bench.attach('a0');
    const output: Action = { type: 'output', port: a };
    const { datapath } = bench;
    const most = Math.floor(datapath.maxActionsLength / datapath.actionsLength([output]));
    const key = keyOf(udp4(1, 2), a);
    const put = (count: number): FlowOperation => ({
      type: 'put',
      id: 1,
      key,
      mask: protocolMask(),
      actions: new Array<Action>(count).fill(output),
    });
    const error = await bench.fails(put(most + 1));
    t.true(error instanceof MidonetError, String(error));
    await bench.ok(put(1000));
  });

  run('another driver on the same datapath sees its ports and flows', async (bench, t) => {
    const a = await bench.attach('a0');
    const b = await bench.attach('b0');
    const frame = udp4(1, 2);
    const id = await bench.put(keyOf(frame, a), protocolMask(), [{ type: 'output', port: b }]);
    await bench.datapath.close();
    // The datapath forwards while nobody looks.
    await bench.send('a0', frame);
    await bench.frame('b0');
    await bench.send('b0', frame);
    await bench.lab.settle();

    const second = await bench.lab.reopen();
    try {
      t.deepEqual(
        (await second.ports()).filter((port) => port.type === 'netdev').map((port) => port.name),
        ['a0', 'b0'],
      );
      t.is((await second.flow(id))?.packets, 1);
      const upcalls: Upcall[] = [];
      second.start({
        upcalls: (batch) => {
          for (const upcall of batch)
            if (isOurs(upcall.key.ethSrc)) upcalls.push({ ...upcall, key: upcall.key.clone() });
        },
        portsChanged: () => {},
        upcallsLost: () => {},
      });
      await bench.send('b0', udp4(7, 8));
      await bench.until('an upcall', () => upcalls.some((upcall) => upcall.key.tpSrc === 7));
    } finally {
      await second.close();
    }
  });

  run('a closed driver refuses work', async (bench, t) => {
    await bench.datapath.close();
    await t.throwsAsync(bench.datapath.ports(), { code: 'MN_CLOSED' });
    await bench.datapath.close();
  });

  run('an aborted call does not return a result', async (bench, t) => {
    await t.throwsAsync(bench.datapath.flows(AbortSignal.abort()), { any: true, name: 'AbortError' });
  });

  runPair('a tunnel carries packets with its key', async (left, right, t) => {
    const a = await left.attach('a0');
    const b = await right.attach('b0');
    const leftTunnel = (await left.datapath.addPort(await left.lab.tunnel(), 'netdev')).number;
    const rightTunnel = (await right.datapath.addPort(await right.lab.tunnel(), 'netdev')).number;
    const frame = udp4(1, 2);
    const tunnel: TunnelKey = {
      id: 0xabcdef,
      src: 0,
      dst: right.lab.underlay,
      tos: 0,
      ttl: 64,
      flags: TunnelFlag.KEY | TunnelFlag.DONT_FRAGMENT,
    };
    await left.put(keyOf(frame, a), protocolMask(), [
      { type: 'set-tunnel', tunnel },
      { type: 'output', port: leftTunnel },
    ]);
    await left.send('a0', frame);
    await right.until('an upcall', () => right.upcalls.length > 0);
    const { key, packet } = right.upcalls[0];
    t.deepEqual(Buffer.from(packet), Buffer.from(frame));
    t.is(key.inPort, rightTunnel);
    t.is(key.tunId, 0xabcdef);
    t.is(key.tunSrc, left.lab.underlay);
    t.is(key.tunDst, right.lab.underlay);
    t.is(key.tunTtl, 64);
    t.true((key.tunFlags & TunnelFlag.KEY) !== 0);

    const mask = basicMask();
    mask.seeTunId();
    await right.put(key, mask, [{ type: 'output', port: b }]);
    await left.send('a0', frame);
    t.deepEqual(Buffer.from(await right.frame('b0')), Buffer.from(frame));
  });

  runPair('each output may have a tunnel of its own', async (left, right, t) => {
    const a = await left.attach('a0');
    const leftTunnel = (await left.datapath.addPort(await left.lab.tunnel(), 'netdev')).number;
    await right.datapath.addPort(await right.lab.tunnel(), 'netdev');
    const frame = udp4(1, 2);
    const base = { src: 0, dst: right.lab.underlay, tos: 0, ttl: 64, flags: TunnelFlag.KEY };
    await left.put(keyOf(frame, a), protocolMask(), [
      { type: 'set-tunnel', tunnel: { ...base, id: 1 } },
      { type: 'output', port: leftTunnel },
      { type: 'set-tunnel', tunnel: { ...base, id: 2 } },
      { type: 'output', port: leftTunnel },
    ]);
    await left.send('a0', frame);
    await right.until('two upcalls', () => right.upcalls.length >= 2);
    t.deepEqual(right.upcalls.map((upcall) => upcall.key.tunId).sort(), [1, 2]);
  });
}
