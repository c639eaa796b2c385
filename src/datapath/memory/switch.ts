import type { Action, TunnelKey } from '../../flow/action.js';
import { Classifier } from '../../flow/classifier.js';
import { FlowKey, TunnelFlag } from '../../flow/key.js';
import { FlowMask } from '../../flow/mask.js';
import type {
  DatapathHandler,
  DatapathPort,
  Flow,
  FlowId,
  FlowOperation,
  MeterCounters,
  MeterSpec,
  Upcall,
} from '../datapath.js';
import { DatapathError } from '../errors.js';
import { requireMeter } from '../meter.js';
import type { Conntrack } from './conntrack.js';
import { Execution, type PacketSwitch } from './execution.js';
import type { Fragments } from './fragments.js';
import type { MemoryInterface, PortOwner } from './interface.js';
import { Meter } from './meter.js';
import { Packet } from './packet.js';
import { kernelMask, validateActions, validateKey } from './validate.js';
import type { MemoryWorld } from './world.js';

const MAX_PORTS = 65535;
const MAX_FLOW_ID = 2 ** 48 - 1;
const UPCALL_BATCH = 64;
const DEFAULT_UPCALL_QUEUE = 1024;

/** A flow as the switch holds it. */
export interface SwitchFlow {
  readonly id: FlowId;
  /** Bits outside the mask are zero. */
  readonly key: FlowKey;
  /** As it was put. */
  readonly mask: FlowMask;
  /** What the switch matches by. */
  readonly matched: FlowMask;
  actions: readonly Action[];
  packets: number;
  bytes: number;
  /** By the clock; undefined if no packet ever hit it. */
  used: number | undefined;
}

interface SwitchPort extends DatapathPort {
  readonly device: MemoryInterface;
}

/** What the switch counted, as the kernel's struct ovs_dp_stats does. */
export interface SwitchStatistics {
  hits: number;
  missed: number;
  lost: number;
}

/** The machine that a datapath is on. */
export interface SwitchNode {
  readonly world: MemoryWorld;
  readonly conntrack: Conntrack;
  readonly fragments: Fragments;
  interface(name: string): MemoryInterface | undefined;
  /** @throws DatapathError if there is one of that name */
  addInterface(name: string, kind: 'internal'): MemoryInterface;
  removeInterface(name: string): void;
}

/**
 * The datapath that outlives its drivers: ports, flows, the packets between them. It keeps to what the kernel's does
 * (net/openvswitch/datapath.c, actions.c), limits included.
 */
export class MemorySwitch implements PacketSwitch, PortOwner {
  readonly statistics: SwitchStatistics = { hits: 0, missed: 0, lost: 0 };
  /** How many upcalls wait at most; more are lost. */
  upcallQueue = DEFAULT_UPCALL_QUEUE;
  private readonly table = new Classifier<SwitchFlow>();
  private readonly byId = new Map<FlowId, SwitchFlow>();
  private readonly byNumber = new Map<number, SwitchPort>();
  private readonly meters = new Map<number, Meter>();
  private readonly handlers: DatapathHandler[] = [];
  private waiting: Upcall[] = [];
  private lostSinceTold = 0;
  private delivering = false;
  private readonly metadata = new FlowKey();

  constructor(
    readonly node: SwitchNode,
    readonly name: string,
  ) {
    this.plug(node.addInterface(name, 'internal'), 0);
  }

  /** Number of distinct masks, which sets the price of a lookup. */
  get maskCount(): number {
    return this.table.maskCount;
  }

  /** The last handler to come gets the upcalls; all hear of ports. */
  addHandler(handler: DatapathHandler): void {
    this.handlers.push(handler);
  }

  removeHandler(handler: DatapathHandler): void {
    const at = this.handlers.indexOf(handler);
    if (at >= 0) this.handlers.splice(at, 1);
  }

  ports(): DatapathPort[] {
    const ports = [...this.byNumber.values()].sort((a, b) => a.number - b.number);
    return ports.map(({ number, name, type, ifindex }) => ({ number, name, type, ifindex }));
  }

  /** See {@link Datapath.addPort}. */
  addPort(name: string, type: 'netdev' | 'internal'): DatapathPort {
    const existing = this.node.interface(name);
    if (existing?.attached?.datapath === this) return this.port(existing.attached.port);
    if (existing?.attached !== undefined) {
      throw new DatapathError('busy', `interface ${name} is a port of datapath ${existing.attached.datapath.name}`);
    }
    if (type === 'netdev' && existing === undefined) {
      throw new DatapathError('not-found', `interface ${name} does not exist`);
    }
    if (type === 'internal' && existing !== undefined) {
      throw new DatapathError('exists', `interface ${name} exists already and is not of this datapath`);
    }
    let number = 1;
    while (this.byNumber.has(number)) number++;
    if (number >= MAX_PORTS) throw new DatapathError('too-large', `datapath ${this.name} has no free port number`);
    this.plug(existing ?? this.node.addInterface(name, 'internal'), number);
    this.tellPortsChanged();
    return this.port(number);
  }

  /** See {@link Datapath.deletePort}. */
  deletePort(name: string): void {
    const device = this.node.interface(name);
    if (device?.attached?.datapath !== this) return;
    if (device.attached.port === 0) throw new DatapathError('invalid', `${name} is the local port of the datapath`);
    if (device.kind === 'internal') this.node.removeInterface(name);
    else this.detach(device);
  }

  /** The interface is gone, or no port any more. */
  detach(device: MemoryInterface): void {
    if (device.attached === undefined) return;
    this.byNumber.delete(device.attached.port);
    device.attached = undefined;
    this.tellPortsChanged();
  }

  /** See {@link Datapath.putMeter}. */
  putMeter(id: number, spec: MeterSpec): void {
    requireMeter(id, spec, this.node.world.features);
    this.meters.set(id, new Meter(spec, this.node.world.now()));
  }

  deleteMeter(id: number): void {
    this.meters.delete(id);
  }

  meter(id: number): MeterCounters | undefined {
    return this.meters.get(id)?.counters();
  }

  /** Whether the meter, if there is one, lets the packet pass. */
  meterPasses(id: number, length: number): boolean {
    return this.meters.get(id)?.passes(length, this.node.world.now()) ?? true;
  }

  /** Do one operation now. @throws DatapathError or UnsupportedError as the kernel would refuse it */
  operate(operation: FlowOperation): void {
    if (operation.type === 'put') this.put(operation);
    else if (operation.type === 'delete') this.delete(operation.id);
    else this.execute(operation.key, operation.packet, operation.actions);
  }

  flow(id: FlowId): Flow | undefined {
    const flow = this.byId.get(id);
    return flow === undefined ? undefined : this.describe(flow);
  }

  flows(): Flow[] {
    return [...this.byId.values()].map((flow) => this.describe(flow));
  }

  flush(): void {
    this.table.clear();
    this.byId.clear();
  }

  /** A frame came in at a port. */
  receive(port: number, frame: Uint8Array, tunnel: TunnelKey | undefined): void {
    if (frame.length < 14 || !this.byNumber.has(port)) return;
    const { metadata } = this;
    metadata.words.fill(0);
    metadata.inPort = port;
    if (tunnel !== undefined) {
      metadata.tunId = tunnel.id;
      metadata.tunSrc = tunnel.src;
      metadata.tunDst = tunnel.dst;
      metadata.tunTos = tunnel.tos;
      metadata.tunTtl = tunnel.ttl;
      // Whether the outer packet could be fragmented is not told to the receiver.
      metadata.tunFlags = (tunnel.flags & (TunnelFlag.CSUM | TunnelFlag.OAM)) | TunnelFlag.KEY;
    }
    new Execution(this).process(Packet.of(frame, metadata));
  }

  /** The flow that a packet hits, counted; undefined, counted too, if none. */
  match(packet: Packet): SwitchFlow | undefined {
    const flow = this.table.lookup(packet.key);
    if (flow === undefined) {
      this.statistics.missed++;
      return undefined;
    }
    this.statistics.hits++;
    flow.packets++;
    flow.bytes += packet.bytes.length;
    flow.used = this.node.world.now();
    return flow;
  }

  /** Send a packet out of a port; lost if there is none, or the packet is too long for it. */
  output(number: number, packet: Packet): void {
    const port = this.byNumber.get(number);
    if (port === undefined) {
      packet.cut = 0;
      return;
    }
    for (const frame of packet.frames(port.device.mtu)) port.device.transmit(frame, packet.tunnel);
  }

  /** Queue an upcall for the last handler to come. */
  upcall(reason: 'miss' | 'action', packet: Packet, userdata: Uint8Array | undefined): void {
    if (this.handlers.length === 0) {
      this.statistics.lost++;
      return;
    }
    if (this.waiting.length >= this.upcallQueue) {
      this.statistics.lost++;
      this.lostSinceTold++;
    } else {
      this.waiting.push({
        reason,
        key: packet.key.clone(),
        packet: packet.take(),
        userdata: userdata?.slice(),
        complete: packet.complete,
      });
    }
    if (this.delivering) return;
    this.delivering = true;
    this.node.world.enqueue(() => this.deliver());
  }

  private deliver(): void {
    this.delivering = false;
    const handler = this.handlers.at(-1);
    const batch = this.waiting.splice(0, UPCALL_BATCH);
    const lost = this.lostSinceTold;
    this.lostSinceTold = 0;
    if (this.waiting.length > 0) {
      this.delivering = true;
      this.node.world.enqueue(() => this.deliver());
    }
    if (handler === undefined) {
      this.statistics.lost += batch.length;
      return;
    }
    if (lost > 0) handler.upcallsLost(lost);
    if (batch.length > 0) handler.upcalls(batch);
  }

  private put(operation: Extract<FlowOperation, { type: 'put' }>): void {
    const { id, key, mask, actions } = operation;
    if (!Number.isInteger(id) || id < 1 || id > MAX_FLOW_ID) throw new DatapathError('invalid', `${id} is no flow id`);
    const { features } = this.node.world;
    validateKey(key, features);
    const matched = kernelMask(key, mask);
    const masked = key.masked(matched);
    validateActions(actions, masked, features);
    const flow = this.byId.get(id);
    if (flow !== undefined) {
      if (!flow.matched.equals(matched) || !flow.key.equals(masked)) {
        throw new DatapathError('not-found', `flow ${id} exists with another key or mask`);
      }
      flow.actions = copyActions(actions);
      return;
    }
    // As the kernel: the whole key is looked up, wildcarded bits included, so some overlaps are found and others not.
    const overlapping = this.table.lookup(key) ?? this.table.find(key, matched);
    if (overlapping !== undefined) {
      throw new DatapathError('exists', `flow ${id} overlaps with flow ${overlapping.id}`);
    }
    const made: SwitchFlow = {
      id,
      key: masked,
      mask: new FlowMask(mask.words.slice()),
      matched,
      actions: copyActions(actions),
      packets: 0,
      bytes: 0,
      used: undefined,
    };
    this.table.insert(masked, matched, made);
    this.byId.set(id, made);
  }

  private delete(id: FlowId): void {
    const flow = this.byId.get(id);
    if (flow === undefined) return;
    this.byId.delete(id);
    this.table.remove(flow.key, flow.matched);
  }

  private execute(key: FlowKey, bytes: Uint8Array, actions: readonly Action[]): void {
    if (bytes.length < 14) throw new DatapathError('invalid', `a packet of ${bytes.length} bytes is no Ethernet frame`);
    const packet = Packet.of(bytes, key);
    validateActions(actions, packet.key, this.node.world.features);
    const execution = new Execution(this);
    execution.execute(actions, packet);
    if (execution.failure !== undefined) throw new DatapathError('invalid', execution.failure);
  }

  private describe(flow: SwitchFlow): Flow {
    return {
      id: flow.id,
      key: flow.key.masked(flow.mask),
      mask: new FlowMask(flow.mask.words.slice()),
      actions: copyActions(flow.actions),
      complete: true,
      packets: flow.packets,
      bytes: flow.bytes,
      idleMs: flow.used === undefined ? undefined : this.node.world.now() - flow.used,
    };
  }

  private plug(device: MemoryInterface, number: number): void {
    const type = device.kind === 'internal' ? 'internal' : 'netdev';
    this.byNumber.set(number, { number, name: device.name, type, ifindex: device.ifindex, device });
    device.attached = { datapath: this, port: number };
  }

  private port(number: number): DatapathPort {
    const found = this.byNumber.get(number);
    if (found === undefined) throw new DatapathError('not-found', `datapath ${this.name} has no port ${number}`);
    const { name, type, ifindex } = found;
    return { number, name, type, ifindex };
  }

  private tellPortsChanged(): void {
    this.node.world.enqueue(() => {
      for (const handler of [...this.handlers]) handler.portsChanged();
    });
  }
}

/** Actions that share nothing which the caller could still change. */
function copyActions(actions: readonly Action[]): readonly Action[] {
  return actions.map((action) => {
    if (action.type === 'set') return { type: 'set', key: action.key.clone(), mask: action.mask.clone() };
    if (action.type === 'clone') return { type: 'clone', actions: copyActions(action.actions) };
    if (action.type === 'userspace') return { ...action, userdata: action.userdata?.slice() };
    return action;
  });
}
