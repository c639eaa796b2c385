import type { Action } from '../flow/action.js';
import type { FlowKey } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { formatMac } from '../packet/address.js';
import type { Arrival } from './arrival.js';
import type { Side } from './condition.js';
import { ConnectionTracking, isFromOtherHost, type Position, type TrackedSimulation } from './connection-tracking.js';
import type { Decision, DropReason, Effect, Reply } from './decision.js';
import { answeredPort, embeddedAddress } from './embedded.js';
import type { BridgeFact, Fact, PortFact, RouterPortFact } from './fact.js';
import { FactSet } from './fact-set.js';
import { PacketHeaders, type SavedHeaders } from './headers.js';
import type { TraceStep } from './trace.js';

/** What bounds a decision. */
export interface Limits {
  /** Longest action list in bytes, and how long one is. */
  readonly maxActionsLength: number;
  actionsLength(actions: readonly Action[]): number;
}

/** Copies that mirrors make of copies that mirrors made, at most: each mirror that sees another's copies makes them more. */
const MAX_COPIES_OF_COPIES = 64;

/** Devices that a packet passes at most; one that passes more goes in a circle. MidoNet's value. */
const MAX_DEVICES = 12;

/**
 * How a packet gets into a device at a port: from what is behind it, because a rule has sent it there, or `returned`: as if
 * it had come back from there, whether or not the port is up.
 */
type Entrance = 'plain' | 'redirected' | 'returned';

/** A packet on its way into a device, with the headers that it has there. */
interface Visit {
  readonly port: Fact<PortFact>;
  readonly entrance: Entrance;
  readonly headers: SavedHeaders;
  readonly devices: number;
  readonly entry: Fact<PortFact> | undefined;
  readonly passed: PassedDevice | undefined;
  readonly position: Position;
  readonly flood: Flood | undefined;
  readonly mirrored: MirroredCopy | undefined;
}

/** The bridges that copies of a flooded packet have been in, and in which VLANs there. */
type Flood = Map<BridgeFact, Set<number>>;

/** What a copy of the packet is to be, and where it goes. */
interface Copy {
  readonly changes: readonly Action[];
  readonly outputs: readonly Action[];
}

/** A mirror made this copy of the packet, perhaps of another copy. */
interface MirroredCopy {
  readonly mirrorId: string;
  readonly of: MirroredCopy | undefined;
}

/** A device that a packet has passed, and those before it. */
interface PassedDevice {
  readonly id: string;
  readonly before: PassedDevice | undefined;
}

/** One packet on its way through the virtual network. Made for one simulation, which ends with {@link SimulationContext.decision}. */
export class SimulationContext implements TrackedSimulation {
  readonly headers: PacketHeaders;
  /** Of {@link headers}: the packet as it is at this point of its way. */
  readonly packet: FlowKey;
  /** Of {@link headers}: what is read of the packet. */
  readonly mask: FlowMask;
  /** The exterior port that it came in at; undefined for a packet of a device's own, or out of a tunnel. */
  readonly ingress: Fact<PortFact> | undefined;
  /** What the datapath knows of its connection, and is asked and told of it. */
  readonly tracking: ConnectionTracking;
  /** Where devices write down what they found, if somebody wants to know. */
  readonly trace: TraceStep[] | undefined;
  private readonly tags = new FactSet();
  private readonly missing = new FactSet();
  private readonly effects: Effect[] = [];
  private readonly visits: Visit[] = [];
  private readonly copies: Copy[] = [];
  private devices = 0;
  private install = true;
  /** Whether the decision is for this packet only, as it goes by more than its key. */
  private dependsOnBytes = false;
  private dropReason: DropReason | undefined;
  /** How long the actions have become. */
  private actionsLength = 0;
  private cutCopies = 0;
  private circles = 0;

  /** Whether another host has flooded the packet, to all hosts that are to have it: a rule that redirects it may have it flooded again. */
  isFlooded = false;
  /** How it got to the port where it is in. */
  entrance: Entrance = 'plain';
  /** The port of the device where the packet came in; undefined of one that the device sent by itself. */
  inPort: Fact<PortFact> | undefined;
  /** Where it goes out of the device; undefined before that is known, and of a flooded packet. */
  outPort: Fact<PortFact> | undefined;
  /** The exterior port where it entered the virtual network. */
  entry: Fact<PortFact> | undefined;
  /** Whether DNAT, or SNAT in reverse, has changed the destination since it came in at the device. */
  isDestinationRewritten = false;
  private passed: PassedDevice | undefined;
  private flood: Flood | undefined;
  private mirrored: MirroredCopy | undefined;
  private copiesOfCopies = 0;
  /** Which drops what comes in too fast. */
  private meter: number | undefined;
  /** The source MAC address that it came in at the device with. */
  private senderMac = 0;

  constructor(
    /** What the datapath knows of the packet. */
    readonly key: FlowKey,
    readonly limits: Limits,
    private readonly arrival: Arrival = {},
  ) {
    this.headers = new PacketHeaders(key, arrival.trace);
    this.packet = this.headers.packet;
    this.mask = this.headers.mask;
    this.ingress = arrival.ingress;
    this.trace = arrival.trace;
    this.tracking = new ConnectionTracking(this, this.headers, arrival);
    // A flow that did not match the recirculation identifier would catch packets in the middle of another's path, and
    // the kernel matches the VLAN tag whether asked to or not.
    this.mask.seeInPort();
    this.mask.seeRecircId();
    this.mask.seeVlan();
  }

  /** Read a fact: undefined when it is not in hand, and then the decision will be to wait for it. */
  read<T>(fact: Fact<T>): T | null | undefined {
    this.tags.add(fact);
    const { value } = fact;
    if (value === undefined) {
      this.missing.add(fact);
      this.trace?.push({ type: 'wait', fact: fact.tag });
    }
    return value;
  }

  /** Read a fact that nothing waits for: the decision is made again when it is in hand. */
  peek<T>(fact: Fact<T>): T | null | undefined {
    this.tags.add(fact);
    return fact.value;
  }

  drop(reason: DropReason): void {
    this.trace?.push({ type: 'drop', reason });
    if (this.tracking.isHere()) this.dropReason = reason;
  }

  learn(effect: Extract<Effect, { type: 'learn' }>): void {
    this.trace?.push({ type: 'learn', mac: formatMac(effect.mac), port: effect.port.id });
    this.effects.push(effect);
  }

  /** The way of the packet is to be written down, for each request once. */
  requestTrace(traceRequestId: string, limit: number | undefined): void {
    const isRequested = this.effects.some((one) => one.type === 'trace' && one.traceRequestId === traceRequestId);
    if (!isRequested && this.tracking.isHere()) this.effects.push({ type: 'trace', traceRequestId, limit });
  }

  /** Answer with this frame out of the port of the device that the packet came in at. Later packets must be seen again. */
  answer(frame: Uint8Array): void {
    if (this.inPort !== undefined) this.send(this.inPort, frame);
  }

  /** Somebody told the MAC address of an IP address, or that a service works. Later packets must be seen again. */
  hear(effect: Extract<Effect, { type: 'neighbor' | 'announce' | 'health' }>): void {
    if (effect.type === 'health') this.trace?.push({ type: 'health-answer' });
    this.effects.push(effect);
    this.install = false;
  }

  /** Send a frame of a device's own out of one of its ports. Later packets must be seen again. */
  send(port: Fact<PortFact>, frame: Uint8Array): void {
    this.trace?.push({ type: 'answer', port: port.value?.id, frame: hex(frame) });
    if (!this.tracking.isHere()) return;
    this.effects.push({ type: 'send', port, frame });
    this.install = false;
  }

  /** Tell the sender of the packet something, out of the router's port that it came in at. Later packets must be seen again. */
  reply(port: Fact<PortFact>, from: RouterPortFact, reply: Reply): void {
    this.trace?.push({ type: 'reply', port: from.id, reply });
    if (!this.tracking.isHere()) return;
    this.effects.push({ type: 'reply', port, from, to: this.senderMac, reply });
    this.install = false;
  }

  /** Answer a machine's request for configuration. Later packets must be seen again. */
  configure(effect: Extract<Effect, { type: 'configure' }>): void {
    this.trace?.push({ type: 'configure', request: effect.request });
    if (!this.tracking.isHere()) return;
    this.effects.push(effect);
    this.install = false;
  }

  /** A router sends the packet on: where it goes from here has nothing to do with how it came. */
  setEthernet(src: number, dst: number): void {
    this.flood = undefined;
    this.headers.setEthernet(src, dst);
  }

  /** Nothing is done with the packet if the meter does not let it pass. */
  limitBy(meter: number): void {
    this.trace?.push({ type: 'meter', id: meter });
    this.meter = meter;
    this.actionsLength += this.limits.actionsLength([{ type: 'meter', id: meter }]);
  }

  /** From here on, copies of the packet go everywhere. */
  beginFlood(bridge: BridgeFact, vlan: number): void {
    this.flood ??= new Map([[bridge, new Set([vlan])]]);
  }

  /** Whether no other copy of a flooded packet has been in this VLAN of the bridge. */
  isFirstCopyIn(bridge: BridgeFact, vlan: number): boolean {
    if (this.flood === undefined) return true;
    const vlans = this.flood.get(bridge);
    if (vlans?.has(vlan)) return false;
    if (vlans === undefined) this.flood.set(bridge, new Set([vlan]));
    else vlans.add(vlan);
    return true;
  }

  /** Send a copy of the packet somewhere: behind `act` the packet is what it was before. */
  branch(act: () => void): void {
    this.tracking.settle();
    const headers = this.headers.save();
    const { outPort, isDestinationRewritten } = this;
    const { position } = this.tracking;
    act();
    this.headers.restore(headers);
    this.outPort = outPort;
    this.isDestinationRewritten = isDestinationRewritten;
    this.tracking.position = position;
  }

  /** Whether this is a copy that the mirror made, or a copy of one. */
  isCopiedBy(mirrorId: string): boolean {
    for (let copy = this.mirrored; copy !== undefined; copy = copy.of) if (copy.mirrorId === mirrorId) return true;
    return false;
  }

  get isMirrorCopy(): boolean {
    return this.mirrored !== undefined;
  }

  /** Send a copy of the packet that a mirror makes of it: nothing that becomes of it makes a difference to the packet. */
  copyBy(mirrorId: string, act: () => void): void {
    if (this.mirrored !== undefined && ++this.copiesOfCopies > MAX_COPIES_OF_COPIES) {
      this.cutCopies++;
      return;
    }
    const { mirrored, flood } = this;
    this.branch(() => {
      this.mirrored = { mirrorId, of: mirrored };
      this.flood = undefined;
      act();
    });
    this.mirrored = mirrored;
    this.flood = flood;
  }

  /** Whether another host has had the packet before. */
  get isFromOtherHost(): boolean {
    return isFromOtherHost(this.arrival);
  }

  /** The packet goes in at a port of a device, with the headers that it has at this point. */
  enter(port: Fact<PortFact>, entrance: Entrance = 'plain'): void {
    if (this.devices >= MAX_DEVICES) {
      if (this.flood !== undefined) this.cutCopies++;
      return this.drop('too-many-devices');
    }
    this.tracking.settle();
    this.visits.push({
      port,
      entrance,
      headers: this.headers.save(),
      devices: this.devices + 1,
      position: this.tracking.position,
      entry: this.entry,
      passed: this.passed,
      flood: this.flood,
      mirrored: this.mirrored,
    });
  }

  /**
   * The port that the packet goes in at next, with its headers back as they were when it was sent there. First come, first
   * served, so that the copies of a flooded packet take the shortest ways.
   */
  nextVisit(): Fact<PortFact> | undefined {
    const visit = this.visits.shift();
    if (visit === undefined) return undefined;
    this.headers.restore(visit.headers);
    this.devices = visit.devices;
    this.tracking.position = visit.position;
    this.entry = visit.entry;
    this.passed = visit.passed;
    this.flood = visit.flood;
    this.mirrored = visit.mirrored;
    this.inPort = visit.port;
    this.entrance = visit.entrance;
    this.outPort = undefined;
    this.isDestinationRewritten = false;
    this.senderMac = this.packet.ethSrc;
    return visit.port;
  }

  /** A rule jumps back to a chain that led to it, which is not followed. */
  countCircle(chainId: string): void {
    this.trace?.push({ type: 'circle', chain: chainId });
    this.circles++;
  }

  /** The packet is in a bridge or router. */
  pass(deviceId: string): void {
    this.passed = { id: deviceId, before: this.passed };
  }

  /** The bridges and routers that the packet has passed, this one included. */
  passedDeviceIds(): Set<string> {
    const ids = new Set<string>();
    for (let device = this.passed; device !== undefined; device = device.before) ids.add(device.id);
    return ids;
  }

  /**
   * An address of the packet that this one, an ICMP error, is about; null if there is none. No key holds it, so the
   * decision is for this packet only.
   */
  icmpData(side: Side): Uint32Array | null {
    this.dependsOnBytes = true;
    return this.arrival.bytes === undefined ? null : embeddedAddress(this.arrival.bytes, side);
  }

  /** The source port of the packet that this one, an ICMP message, answers; null of none. For this packet only, as {@link icmpData}. */
  answeredPort(): number | null {
    this.dependsOnBytes = true;
    return this.arrival.bytes === undefined ? null : answeredPort(this.arrival.bytes);
  }

  /**
   * Send the packet as it is by these actions. The headers are set first. One that would make the list longer than the
   * datapath takes is left out and counted.
   */
  output(outputs: readonly Action[]): void {
    this.trace?.push({ type: 'output', actions: outputs });
    if (!this.tracking.isHere()) return;
    if (!this.tracking.commitAtEntry()) return;
    const copy = { changes: this.headers.changes(), outputs };
    const actions = [...copy.changes, ...outputs];
    // Room for the clone that keeps the other copies as they are.
    if (this.takeRoom(leavesPacketAlone(copy) ? actions : [{ type: 'clone', actions }])) this.copies.push(copy);
  }

  /** Make the action list longer by these, or leave a copy out and count it where the datapath takes no longer one. */
  takeRoom(actions: readonly Action[]): boolean {
    const length = this.actionsLength + this.limits.actionsLength(actions);
    if (length > this.limits.maxActionsLength) {
      this.trace?.push({ type: 'cut' });
      this.cutCopies++;
      return false;
    }
    this.actionsLength = length;
    return true;
  }

  /** What came of it. To be asked for once, at the end. */
  decision(): Decision {
    this.headers.settle();
    this.headers.release();
    if (this.missing.list.length > 0) return { type: 'wait', missing: this.missing.list };
    const { tracking } = this;
    let { effects, cutCopies: cut } = this;
    let install = this.install && !this.dependsOnBytes;
    let drop = this.copies.length + tracking.returning > 0 ? undefined : this.dropReason;
    let actions: readonly Action[];
    const question = tracking.question();
    if (question !== undefined) {
      actions = question;
      effects = this.effects.filter(({ type }) => type === 'learn');
      install = !this.dependsOnBytes;
      drop = undefined;
      cut = 0;
    } else if (tracking.isStale) {
      actions = [];
      install = false;
      drop = 'stale-recirculation';
    } else actions = this.actions();
    if (this.meter !== undefined && actions.length > 0) actions = [{ type: 'meter', id: this.meter }, ...actions];
    return {
      type: 'done',
      actions,
      mask: this.headers.seen,
      tags: this.tags.list,
      effects,
      install,
      drop,
      cut,
      circles: this.circles,
      recirculations: tracking.numbered,
    };
  }

  private actions(): Action[] {
    const { tracking } = this;
    const actions: Action[] = [];
    const commitment = tracking.commitment();
    if (commitment !== undefined) actions.push(commitment);
    const isOnlyCopy = tracking.returning + this.copies.length === 1;
    for (const copy of tracking.returnedCopies()) {
      if (isOnlyCopy) actions.push(...copy);
      else actions.push({ type: 'clone', actions: copy });
    }
    for (const copy of this.copies) {
      const own = [...copy.changes, ...copy.outputs];
      if (isOnlyCopy || leavesPacketAlone(copy)) actions.push(...own);
      else actions.push({ type: 'clone', actions: own });
    }
    return actions;
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** Whether other copies may follow without a clone. */
function leavesPacketAlone({ changes, outputs }: Copy): boolean {
  return changes.length === 0 && outputs.every(({ type }) => type === 'output' || type === 'set-tunnel');
}
