import type { PacketOrigin, Upcall } from '../../datapath/datapath.js';
import type { FlowKey } from '../../flow/key.js';
import type { Fact, PortFact } from '../../simulation/fact.js';
import type { Cell } from '../facts/cell.js';

/** Packets in the room at most, and with one key. */
const MAX_PACKETS = 1024;
const MAX_PACKETS_PER_KEY = 16;
/** From one datapath port, or of one port of a router, so that one pod that scans the network leaves room for the others. */
const MAX_KEYS_PER_PORT = 64;
/** How long a packet waits. MidoNet's value. */
const TIMEOUT_MS = 5000;

/** A packet that may have to wait. */
export interface Waiting extends Pick<Upcall, 'key' | 'packet' | 'origin' | 'complete'> {
  /** The port that a router sends it out of; undefined for what came in at a datapath port. */
  readonly sender?: Fact<PortFact>;
}

/** What is kept of one. */
export interface ParkedPacket {
  readonly bytes: Uint8Array;
  readonly origin: PacketOrigin | undefined;
}

/** Packets with one key whose simulation waits for facts. */
export interface Parked {
  readonly key: FlowKey;
  readonly packets: ParkedPacket[];
  readonly complete: boolean;
  readonly sender: Fact<PortFact> | undefined;
  missing: readonly Cell<unknown>[];
  readonly deadline: number;
}

/** Where packets are while a fact they need is read. Bounded in packets and in time. */
export class WaitingRoom {
  /** By hash of the key; oldest first within a bucket. */
  private readonly byKey = new Map<number, Parked[]>();
  private readonly byFact = new Map<Cell<unknown>, Set<Parked>>();
  private readonly queue = new Set<Parked>();
  private packets = 0;
  /** Keys waiting, by where they came from. */
  private readonly byOrigin = new Map<unknown, number>();

  constructor(private readonly clock: () => number) {}

  /** Packets in the room. */
  get size(): number {
    return this.packets;
  }

  /** Whether the packet would be let in, if none of its key is there. */
  hasRoom(packet: Pick<Waiting, 'key' | 'sender'>): boolean {
    return this.packets < MAX_PACKETS && (this.byOrigin.get(originOf(packet)) ?? 0) < MAX_KEYS_PER_PORT;
  }

  /** Put the packet with those of the same key, if there are any. */
  join({ key, packet, origin, sender }: Waiting): 'joined' | 'full' | 'alone' {
    if (this.packets === 0) return 'alone';
    const parked = this.byKey.get(key.hash())?.find((entry) => entry.sender === sender && entry.key.equals(key));
    if (parked === undefined) return 'alone';
    if (parked.packets.length >= MAX_PACKETS_PER_KEY || this.packets >= MAX_PACKETS) return 'full';
    parked.packets.push({ bytes: new Uint8Array(packet), origin });
    this.packets++;
    return 'joined';
  }

  /** False if the room is full. */
  park(missing: readonly Cell<unknown>[], { key, packet, origin, complete, sender }: Waiting): boolean {
    if (!this.hasRoom({ key, sender })) return false;
    const parked: Parked = {
      key: key.clone(),
      packets: [{ bytes: new Uint8Array(packet), origin }],
      complete,
      sender,
      missing,
      deadline: this.clock() + TIMEOUT_MS,
    };
    this.enter(parked);
    return true;
  }

  /** The simulation was tried again and needs other facts. The time it may wait is what is left of it. */
  parkAgain(parked: Parked, missing: readonly Cell<unknown>[]): void {
    parked.missing = missing;
    this.enter(parked);
  }

  /** Take out those that have all facts they waited for. */
  factChanged(cell: Cell<unknown>): Parked[] {
    const waiting = this.byFact.get(cell);
    if (waiting === undefined) return [];
    const ready = [...waiting].filter((parked) => parked.missing.every((fact) => fact.value !== undefined));
    for (const parked of ready) this.leave(parked);
    return ready;
  }

  /** Take out those that have waited too long. */
  expire(): Parked[] {
    const now = this.clock();
    const expired = [...this.queue].filter((parked) => parked.deadline <= now);
    for (const parked of expired) this.leave(parked);
    return expired;
  }

  private enter(parked: Parked): void {
    const { key, packets } = parked;
    this.packets += packets.length;
    const from = originOf(parked);
    this.byOrigin.set(from, (this.byOrigin.get(from) ?? 0) + 1);
    const hash = key.hash();
    const bucket = this.byKey.get(hash);
    if (bucket === undefined) this.byKey.set(hash, [parked]);
    else bucket.push(parked);
    this.queue.add(parked);
    for (const cell of parked.missing) {
      const waiting = this.byFact.get(cell);
      if (waiting === undefined) this.byFact.set(cell, new Set([parked]));
      else waiting.add(parked);
    }
  }

  private leave(parked: Parked): void {
    this.packets -= parked.packets.length;
    const from = originOf(parked);
    const left = this.byOrigin.get(from)! - 1;
    if (left === 0) this.byOrigin.delete(from);
    else this.byOrigin.set(from, left);
    this.queue.delete(parked);
    const hash = parked.key.hash();
    const rest = (this.byKey.get(hash) ?? []).filter((entry) => entry !== parked);
    if (rest.length === 0) this.byKey.delete(hash);
    else this.byKey.set(hash, rest);
    for (const cell of parked.missing) {
      const waiting = this.byFact.get(cell);
      waiting?.delete(parked);
      if (waiting?.size === 0) this.byFact.delete(cell);
    }
  }
}

/** The port of the router that sends the packet, or the number of the datapath port that it came in at. */
function originOf({ key, sender }: Pick<Waiting, 'key' | 'sender'>): unknown {
  return sender ?? key.inPort;
}
