import type { Logger } from 'pino';
import { fnv1a } from '../../nsdb/fnv.js';
import type { Store, Watch } from '../../nsdb/store.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { type IpEntry, NEIGHBOR_TABLE } from '../../nsdb/tables/tables.js';
import { formatMac, parseMac } from '../../packet/address.js';
import { formatIp, type Ip, parseIp } from '../../packet/ip.js';
import type { Effect } from '../../simulation/decision.js';
import type { Fact, NeighborFact, PortFact } from '../../simulation/fact.js';
import type { Port } from '../../topology/types.js';
import type { Cell } from '../facts/cell.js';
import { announcements, neighborQuestion } from './neighbor-frames.js';

/** Between questions, how many are asked, and how long nobody is believed to be there then (RFC 4861 section 10, MidoNet). */
const QUESTION_MS = 1000;
const QUESTIONS = 3;
const SILENCE_MS = 10_000;

/** What is due by the middle of two ticks is done at the first: packets wait for five seconds, and are to hear of it. */
const EARLY_MS = 500;

/** At these ages an entry is asked for again, the machine that had the address first; then it is given up. MidoNet's values. */
const CONFIRM_AT_MS = [60_000, 70_000, 80_000];
const EXPIRE_AFTER_MS = 90_000;
/** Entries that were learned together are not all asked for at once. MidoNet's value. */
const JITTER_MS = 9000;

/**
 * How long an entry that was taken out is believed if nobody answers: perhaps it is only the host that heard the neighbour whose
 * agent is away, while the kernel there goes on forwarding.
 */
const BELIEF_MS = 60_000;

/**
 * So many neighbours are learned at one port on this host: machines can make up any number of addresses. Then the port of
 * the virtual network that most of them came in at gives some up for those of others.
 */
const MAX_NEIGHBORS = 1024;

type Heard = Extract<Effect, { type: 'neighbor' }>;

/** An address that packets wait for, or that nobody answers for. */
interface Question {
  readonly portId: string;
  readonly ip: Ip;
  readonly cell: Cell<NeighborFact>;
  isInTable: boolean;
  /** Until when what was in the table before is held to be true. */
  believedUntil: number;
  asked: number;
  nextAt: number;
}

/** A neighbour that this host has heard. */
interface Learned {
  readonly portId: string;
  readonly address: string;
  readonly ip: Ip;
  /** The port where it came in; empty if at none. */
  readonly source: string;
  readonly jitter: number;
  mac: number;
  confirmedAt: number;
  /** How often it was asked for since. */
  asked: number;
}

interface LearnedTable {
  readonly table: SharedTable<string, IpEntry>;
  readonly entries: Map<string, Learned>;
  /** The same by where they came in, those known for longest first. */
  readonly bySource: Map<string, Set<Learned>>;
  /** Whether it was told that there are too many. */
  isFullTold: boolean;
}

export interface NeighborsOptions {
  readonly store: Store;
  /** A port, which is read if it is not in hand. */
  readonly port: (portId: string) => Fact<PortFact>;
  /** Sends a frame out of a port of a router. */
  readonly send: (port: Fact<PortFact>, frame: Uint8Array) => void;
  readonly invalid: (error: Error) => void;
  /** Milliseconds. */
  readonly clock: () => number;
  readonly log: Logger;
}

/**
 * The MAC addresses of the neighbours of routers (RFC 826, RFC 4861 section 7). Whoever needs one that is not in the shared
 * table of the port asks for it, through the virtual network; the host at which the answer comes in enters it in the
 * table, confirms it from time to time and takes it out when nobody answers any more.
 */
export class Neighbors {
  private readonly questions = new Set<Question>();
  /** What packets of this host need, by port and address. */
  private readonly needed = new Map<string, Question>();
  private readonly learned = new Map<string, LearnedTable>();
  /** Least recently confirmed first. */
  private readonly byAge = new Set<Learned>();
  /** Neighbours that were not learned, or given up for others, as a port had too many. */
  refused = 0;

  constructor(private readonly options: NeighborsOptions) {}

  /** How many neighbours this host has in the shared tables. */
  get learnedCount(): number {
    return this.byAge.size;
  }

  /** Finds the MAC address of a neighbour, for as long as somebody needs it; null when nobody answers. */
  watch(portId: string, address: string, cell: Cell<NeighborFact>): Watch {
    const { store, clock, invalid } = this.options;
    const name = nameOf(portId, address);
    // The NSDB may be away: then the neighbour itself can tell all the same.
    const question: Question = {
      portId,
      ip: parseIp(address)!,
      cell,
      isInTable: false,
      believedUntil: 0,
      asked: 0,
      nextAt: clock() + QUESTION_MS,
    };
    this.needed.set(name, question);
    this.questions.add(question);
    const heard = this.learned.get(portId)?.entries.get(address);
    if (heard !== undefined) cell.setLocal({ mac: heard.mac });
    const watch = new SharedTable(store, NEIGHBOR_TABLE, portId).watchEntry(
      address,
      (entry) => {
        if (entry !== undefined) cell.set({ mac: parseMac(entry.mac)! });
        else if (question.isInTable) question.believedUntil = clock() + BELIEF_MS;
        question.isInTable = entry !== undefined;
        this.askAnew(question);
        this.ask(question);
      },
      invalid,
    );
    return {
      ready: watch.ready,
      close: () => {
        watch.close();
        this.questions.delete(question);
        if (this.needed.get(name) === question) this.needed.delete(name);
      },
    };
  }

  /** A neighbour at a port told its MAC address. */
  heard({ port, source = '', address: words, mac, isForRouter }: Heard): void {
    const portId = port.id;
    const ip: Ip = { family: words.length === 1 ? 4 : 6, words: [...words] };
    const address = formatIp(ip);
    const known = this.learned.get(portId)?.entries.get(address);
    const cell = this.needed.get(nameOf(portId, address))?.cell;
    if (known === undefined) {
      if (!isForRouter && (cell === undefined || cell.value?.mac === mac)) return;
      return this.learn(portId, address, ip, mac, source);
    }
    known.confirmedAt = this.options.clock();
    known.asked = 0;
    this.byAge.delete(known);
    this.byAge.add(known);
    if (known.mac === mac) return;
    known.mac = mac;
    void this.learned.get(portId)!.table.learn(address, { mac: formatMac(mac) });
    cell?.setLocal({ mac });
  }

  /** The port is attached to this host, or has other addresses: its neighbours are told. */
  announce(port: Port): void {
    const fact = this.options.port(port.id);
    for (const frame of announcements(port)) this.options.send(fact, frame);
  }

  /** The port is not attached to this host any more: nobody will answer here. */
  portGone(portId: string): void {
    const learned = this.learned.get(portId);
    if (learned === undefined) return;
    for (const entry of [...learned.entries.values()]) this.forget(entry);
  }

  /** To be called once a second: ask again, and give up who does not answer. */
  tick(): void {
    const now = this.options.clock();
    for (const question of this.questions) {
      if (question.nextAt > now + EARLY_MS) continue;
      if (question.cell.value !== null || question.cell.flows.size > 0) this.ask(question);
      // The next packet that needs it asks anew.
      else question.cell.stop();
    }
    for (const entry of this.byAge) {
      const age = now - entry.confirmedAt;
      if (age < CONFIRM_AT_MS[0]) break;
      if (age >= EXPIRE_AFTER_MS) this.forget(entry);
      else if (entry.asked < CONFIRM_AT_MS.length && age >= CONFIRM_AT_MS[entry.asked] + entry.jitter)
        this.confirm(entry);
    }
  }

  async close(): Promise<void> {
    this.questions.clear();
    await Promise.all([...this.learned.values()].map(({ table }) => table.close()));
  }

  private askAnew(question: Question): void {
    question.asked = 0;
    question.nextAt = this.options.clock();
    this.questions.add(question);
  }

  /** Ask everybody, if need be; after some questions without an answer nobody has the address. */
  private ask(question: Question): void {
    const { cell, portId, ip } = question;
    const { clock, send, port } = this.options;
    if (cell.isLocal || question.isInTable) {
      this.questions.delete(question);
      return;
    }
    const fact = port(portId);
    if (fact.value === undefined) return;
    const frame = fact.value?.type === 'router' ? neighborQuestion(fact.value, ip) : undefined;
    if (frame === undefined || question.asked === QUESTIONS) {
      question.asked = 0;
      question.nextAt = clock() + SILENCE_MS;
      if (clock() >= question.believedUntil) cell.set(null);
      return;
    }
    question.asked++;
    question.nextAt = clock() + QUESTION_MS;
    send(fact, frame);
  }

  private confirm(entry: Learned): void {
    const { send, port } = this.options;
    const fact = port(entry.portId);
    if (fact.value?.type !== 'router') return;
    entry.asked++;
    const frame = neighborQuestion(fact.value, entry.ip, entry.asked === 1 ? entry.mac : undefined);
    if (frame !== undefined) send(fact, frame);
  }

  private learn(portId: string, address: string, ip: Ip, mac: number, source: string): void {
    const { clock, log } = this.options;
    const isNeeded = this.needed.has(nameOf(portId, address));
    const before = this.learned.get(portId);
    if (before !== undefined && before.entries.size >= MAX_NEIGHBORS) {
      this.refused++;
      if (!before.isFullTold) log.warn({ port: portId }, 'the port of the router has too many neighbours to learn all');
      before.isFullTold = true;
      const victim = this.victim(before, source, isNeeded);
      if (victim === undefined) return;
      this.forget(victim);
    }
    const { table, entries, bySource } = this.tableOf(portId);
    const jitter = fnv1a(address) % JITTER_MS;
    const entry: Learned = { portId, address, ip, source, jitter, mac, confirmedAt: clock(), asked: 0 };
    entries.set(address, entry);
    bySource.set(source, (bySource.get(source) ?? new Set()).add(entry));
    this.byAge.add(entry);
    void table.learn(address, { mac: formatMac(mac) });
    this.needed.get(nameOf(portId, address))?.cell.setLocal({ mac });
  }

  /** Who is to go so that one more that came in at `source` may be learned; undefined if nobody is. */
  private victim({ bySource }: LearnedTable, source: string, isNeeded: boolean): Learned | undefined {
    const own = bySource.get(source);
    let most: Set<Learned> | undefined;
    for (const learned of bySource.values()) if (learned.size > (most?.size ?? 0)) most = learned;
    if (most !== undefined && most.size > (own?.size ?? 0) + 1) return this.dispensable(most) ?? first(most);
    return isNeeded && own !== undefined ? this.dispensable(own) : undefined;
  }

  /** The one known for longest that no packet of this host needs. */
  private dispensable(learned: ReadonlySet<Learned>): Learned | undefined {
    for (const entry of learned) if (!this.needed.has(nameOf(entry.portId, entry.address))) return entry;
    return undefined;
  }

  private forget(entry: Learned): void {
    void this.remove(entry)?.forget(entry.address);
  }

  /** The entry is this host's no longer; the table that it was in. */
  private remove({ portId, address }: Learned): SharedTable<string, IpEntry> | undefined {
    const learned = this.learned.get(portId);
    const entry = learned?.entries.get(address);
    if (learned === undefined || entry === undefined) return undefined;
    this.byAge.delete(entry);
    learned.entries.delete(address);
    const siblings = learned.bySource.get(entry.source)!;
    siblings.delete(entry);
    if (siblings.size === 0) learned.bySource.delete(entry.source);
    if (learned.entries.size === 0) this.learned.delete(portId);
    const question = this.needed.get(nameOf(portId, address));
    if (question !== undefined) {
      question.cell.setLocal(undefined);
      this.askAnew(question);
    }
    return learned.table;
  }

  private tableOf(portId: string): LearnedTable {
    let learned = this.learned.get(portId);
    if (learned === undefined) {
      const entries = new Map<string, Learned>();
      const table = new SharedTable(this.options.store, NEIGHBOR_TABLE, portId, {
        onLost: (address) => {
          const entry = entries.get(address);
          if (entry !== undefined && this.learned.get(portId)?.entries === entries) this.remove(entry);
        },
      });
      learned = { table, entries, bySource: new Map(), isFullTold: false };
      this.learned.set(portId, learned);
    }
    return learned;
  }
}

function first<T>(set: ReadonlySet<T>): T | undefined {
  const [item] = set;
  return item;
}

function nameOf(portId: string, address: string): string {
  return `${portId} ${address}`;
}
