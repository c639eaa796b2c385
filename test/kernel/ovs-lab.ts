import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type { Upcall } from '../../src/datapath/datapath.js';
import { Links } from '../../src/datapath/link/links.js';
import { Namespace } from '../../src/datapath/link/namespace.js';
import { LinkRequests } from '../../src/datapath/link/requests.js';
import { ensureTunnelDevice } from '../../src/datapath/link/tunnel-device.js';
import { OvsDatapath, type OvsDatapathOptions } from '../../src/datapath/ovs/ovs-datapath.js';
import { FlowKey } from '../../src/flow/key.js';
import { parseIpv4 } from '../../src/packet/address.js';
import type { DatapathFactory, Endpoint, Lab } from '../compliance/datapath.js';

const MAX_UINT32 = 0xffff_ffff;

/** A namespace in which the kernel itself keeps quiet, and its interfaces. */
class Room {
  readonly #name = `mntest-${randomBytes(6).toString('hex')}`;
  readonly namespace: Namespace;
  readonly links: Links;

  constructor() {
    execFileSync('ip', ['netns', 'add', this.#name]);
    this.namespace = Namespace.open(`/run/netns/${this.#name}`);
    this.namespace.run(() => {
      for (const which of ['all', 'default']) {
        writeFileSync(`/proc/sys/net/ipv6/conf/${which}/disable_ipv6`, '1');
      }
    });
    this.links = new Links(this.namespace);
  }

  close(): void {
    this.links.close();
    this.namespace.close();
    execFileSync('ip', ['netns', 'delete', this.#name]);
  }
}

/**
 * The far end of a port: a veth interface in a namespace of its own, where a second datapath without flows hands up all
 * that arrives and executes what is to be sent. A packet socket could do no more.
 */
class Machine implements Endpoint {
  readonly #frames: Uint8Array[] = [];

  constructor(
    readonly name: string,
    private readonly wire: OvsDatapath,
    private readonly port: number,
  ) {}

  send(frame: Uint8Array): void {
    const key = new FlowKey();
    key.inPort = MAX_UINT32;
    const actions = [{ type: 'output', port: this.port }] as const;
    this.wire.submit([{ type: 'execute', key, packet: frame, actions }], ([error]) => {
      if (error !== undefined) {
        throw error;
      }
    });
  }

  received(): readonly Uint8Array[] {
    return this.#frames;
  }

  take(frame: Uint8Array): void {
    this.#frames.push(frame);
  }
}

/** A node of a kernel lab: its namespace, its datapath, and the machines plugged into it. */
export class OvsLab implements Lab {
  readonly #machines = new Map<number, Machine>();
  /** Goes up with whatever happens. */
  #events = 0;

  private constructor(
    readonly room: Room,
    readonly datapath: OvsDatapath,
    readonly underlay: number,
    readonly kind: 'vxlan' | 'gretap',
    private readonly yard: Room,
    private readonly wire: OvsDatapath,
    /** The datapath under test may be closed while its kernel part is watched. */
    private readonly watcher: OvsDatapath,
    private readonly options: OvsDatapathOptions,
  ) {
    wire.start({
      upcalls: (batch) => this.#arrived(batch),
      portsChanged: () => undefined,
      upcallsLost: (count) => {
        throw new Error(`the test lost ${count} frames`);
      },
    });
  }

  static async make(
    options: OvsDatapathOptions = {},
    underlay = 0,
    kind: 'vxlan' | 'gretap' = 'vxlan',
    room = new Room(),
  ): Promise<OvsLab> {
    const yard = new Room();
    const all = { ...options, namespace: room.namespace };
    const datapath = await OvsDatapath.open('dp', all);
    const wire = await OvsDatapath.open('wire', { namespace: yard.namespace });
    const watcher = await OvsDatapath.open('dp', { namespace: room.namespace });
    return new OvsLab(room, datapath, underlay, kind, yard, wire, watcher, all);
  }

  /** Two nodes with a cable between them. */
  static async makePair(
    kind: 'vxlan' | 'gretap' = 'vxlan',
    options: OvsDatapathOptions = {},
  ): Promise<readonly [OvsLab, OvsLab]> {
    const rooms = [new Room(), new Room()] as const;
    const addresses = ['192.0.2.1', '192.0.2.2'].map((text) => parseIpv4(text) as number);
    await rooms[0].links.apply(
      new LinkRequests().addVeth({ name: 'under', up: true }, { name: 'under', namespace: rooms[1].namespace }),
    );
    for (const [i, { links }] of rooms.entries()) {
      await links.set('under', { up: true });
      const index = (await links.get('under'))?.index ?? 0;
      await links.apply(new LinkRequests().addAddress(index, { family: 4, words: [addresses[i]], prefix: 24 }));
    }
    return [
      await OvsLab.make(options, addresses[0], kind, rooms[0]),
      await OvsLab.make(options, addresses[1], kind, rooms[1]),
    ];
  }

  async connect(name: string): Promise<Machine> {
    await this.room.links.apply(
      new LinkRequests().addVeth({ name, up: true }, { name, namespace: this.yard.namespace }),
    );
    const { number } = await this.wire.addPort(name, 'netdev');
    await this.yard.links.set(name, { up: true });
    const machine = new Machine(name, this.wire, number);
    this.#machines.set(number, machine);
    return machine;
  }

  async tunnel(): Promise<string> {
    const { kind } = this;
    await ensureTunnelDevice(
      this.room.links,
      kind === 'vxlan' ? { kind, name: 'tun', port: 4789 } : { kind, name: 'tun' },
    );
    return 'tun';
  }

  reopen(): Promise<OvsDatapath> {
    return OvsDatapath.open('dp', { ...this.options, create: false });
  }

  /** Packets cross the kernel in no time, upcalls come with the next turns of the event loop: wait until it is quiet. */
  async settle(): Promise<void> {
    let quiet = 0;
    while (quiet < 2) {
      const before = `${this.#events} ${JSON.stringify(await this.watcher.statistics())}`;
      await new Promise((resolve) => setTimeout(resolve, 25));
      const after = `${this.#events} ${JSON.stringify(await this.watcher.statistics())}`;
      quiet = before === after ? quiet + 1 : 0;
    }
  }

  async close(): Promise<void> {
    await this.datapath.close();
    await this.watcher.close();
    await this.wire.close();
    // Datapaths go with their namespaces, but the kernel takes its time for that.
    await OvsDatapath.destroy('dp', { namespace: this.room.namespace });
    await OvsDatapath.destroy('wire', { namespace: this.yard.namespace });
    this.yard.close();
    this.room.close();
  }

  #arrived(batch: readonly Upcall[]): void {
    for (const { key, packet } of batch) {
      this.#events += 1;
      this.#machines.get(key.inPort)?.take(packet.slice());
    }
  }
}

/** Labs in this kernel, for the compliance suite. */
export const ovsFactory: DatapathFactory = {
  make: () => OvsLab.make(),
  makePair: () => OvsLab.makePair(),
};
