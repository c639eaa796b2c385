import { randomInt } from 'node:crypto';
import {
  type EncodedMessage,
  type EncodedSection,
  encodeEntry,
  encodeMessage,
  ROOM,
  SECTION_HEADER,
  type StateEntry,
  type StateMessage,
  type StateSection,
} from './message.js';

/** Messages that are sent ahead of their acknowledgements. */
const WINDOW = 32;
/** Entries that wait to be sent; with more the link begins anew, with all that there is by then. */
const MAX_WAITING = 65_536;
/** Sent entries are taken out of the queue so many at a time. */
const FORGET_SENT = 4096;
/** Messages that wait to take effect. More are sent again by the peer. */
const MAX_INCOMING = 64;
const RESEND_MIN_MS = 200;
const RESEND_MAX_MS = 2000;
/** A peer that has acknowledged nothing for so long counts as gone. */
const SILENT_MS = 10_000;
const MAX_U32 = 0xffff_ffff;

/** What links have counted since the start. */
export class LinkCounters {
  sent = 0;
  received = 0;
  resent = 0;
  /** Entries that were not sent as too many waited. */
  overflowed = 0;
  /** Sessions begun: after each, all connections are sent. */
  sessions = 0;
}

export interface GroupEntry {
  readonly groupId: string;
  readonly entry: StateEntry;
}

export interface PeerLinkOptions {
  /** Of this host. */
  readonly hostId: string;
  readonly send: (bytes: Uint8Array) => void;
  /** All connections that the peer is to know. */
  readonly list: () => Promise<readonly GroupEntry[]>;
  /** Let what the peer says take effect. Where it rejects, some may not have: then the peer is to tell all again. */
  readonly apply: (sections: readonly StateSection[]) => Promise<void>;
  readonly counters: LinkCounters;
  /** Milliseconds that never go back. */
  readonly clock: () => number;
  readonly failed: (error: Error) => void;
}

/** An entry that waits to be sent. */
interface Waiting {
  readonly groupId: string;
  readonly bytes: Uint8Array;
}

/**
 * What this host and one other tell each other of connections: in order, each once, sent again until it is acknowledged. What is sent
 * belongs to a session, which begins with an empty message; once that is acknowledged, all that there is follows, and then what
 * changes. Nothing is kept for a peer that does not answer: when it is back, a session begins.
 */
export class PeerLink {
  private session = 0;
  private nextNumber = 1;
  /** Whether the peer has acknowledged the beginning of the session. */
  private isOpen = false;
  /** Whether the session waits for what there was at its beginning. */
  private isListing = false;
  /** Whether that is being read, perhaps for an earlier session. */
  private isReading = false;
  private inFlight: { readonly number: number; readonly bytes: Uint8Array }[] = [];
  /** What there was at the beginning of the session, and what has changed since; each from an index on. */
  private listed: readonly GroupEntry[] = [];
  private nextListed = 0;
  private waiting: Waiting[] = [];
  private nextWaiting = 0;
  private sentAt = 0;
  private progressAt = 0;
  private resendAfter = RESEND_MIN_MS;
  private demand = randomInt(MAX_U32);

  private peerSession: number | undefined;
  private formerPeerSession: number | undefined;
  private peerDemand: number | undefined;
  private expected = 1;
  private applied = 0;
  private readonly incoming: { readonly number: number; readonly sections: readonly StateSection[] }[] = [];
  private isApplying = false;
  private isClosed = false;

  constructor(private readonly options: PeerLinkOptions) {}

  /** Whether all that there is to tell has been told, and acknowledged. */
  get isSettled(): boolean {
    return this.isOpen && !this.isListing && this.inFlight.length + this.unsent === 0;
  }

  /** Whether what there was at the beginning of the session is still being told. */
  get isTellingAll(): boolean {
    return this.isListing || this.nextListed < this.listed.length;
  }

  /** Entries that wait to be sent. */
  get unsent(): number {
    return this.waiting.length - this.nextWaiting + this.listed.length - this.nextListed;
  }

  /** Begin a session. @param wantsAll whether the peer is to tell all that it has, too */
  begin(wantsAll: boolean): void {
    if (wantsAll) this.demand = (this.demand + 1) % MAX_U32;
    this.session = randomInt(1, MAX_U32);
    this.nextNumber = 1;
    this.isOpen = false;
    this.isListing = false;
    this.inFlight = [];
    this.listed = [];
    this.nextListed = 0;
    this.waiting = [];
    this.nextWaiting = 0;
    this.resendAfter = RESEND_MIN_MS;
    this.progressAt = this.options.clock();
    this.sendSections([]);
  }

  /** To be sent with the next {@link flush}. */
  offer(groupId: string, entry: StateEntry): void {
    // All that there is will be listed.
    if (!this.isOpen) return;
    if (this.waiting.length - this.nextWaiting >= MAX_WAITING) {
      this.options.counters.overflowed += this.unsent + 1;
      this.begin(false);
      return;
    }
    this.waiting.push({ groupId, bytes: encodeEntry(entry) });
  }

  /** Send what waits, as far as the peer keeps up. */
  flush(): void {
    while (this.isOpen && this.inFlight.length < WINDOW && !this.isListing && this.unsent > 0) {
      this.sendSections(this.takeSections());
    }
  }

  receive(message: StateMessage): void {
    if (this.isClosed) return;
    if (message.type === 'state') this.receiveState(message);
    else if (message.session !== this.session) return;
    else if (message.type === 'unknown') this.begin(false);
    else this.acknowledged(message.number);
  }

  /** To be called several times a second. */
  tick(): void {
    // What there is could not be read: tried again as late as if the peer were silent, for it takes long with many connections.
    const isStuck = this.isListing && !this.isReading;
    if (this.inFlight.length === 0 && !isStuck) return;
    const now = this.options.clock();
    // Also a session that never was opened: the peer may have taken an older one, which came late, for the one that follows it.
    if (now - this.progressAt >= SILENT_MS) {
      this.begin(false);
      return;
    }
    if (isStuck || now - this.sentAt < this.resendAfter) return;
    this.resendAfter = Math.min(2 * this.resendAfter, RESEND_MAX_MS);
    this.sentAt = now;
    for (const { bytes } of this.inFlight) {
      this.options.counters.resent += 1;
      this.options.send(bytes);
    }
  }

  close(): void {
    this.isClosed = true;
    this.isOpen = false;
    this.inFlight = [];
    this.incoming.length = 0;
  }

  private takeSections(): EncodedSection[] {
    const sections: { groupId: string; entries: Uint8Array[] }[] = [];
    let room = ROOM;
    const take = (groupId: string, bytes: Uint8Array): boolean => {
      let section = sections.at(-1);
      const length = bytes.length + (section?.groupId === groupId ? 0 : SECTION_HEADER);
      if (length > room) return false;
      room -= length;
      if (section?.groupId !== groupId) {
        section = { groupId, entries: [] };
        sections.push(section);
      }
      section!.entries.push(bytes);
      this.options.counters.sent += 1;
      return true;
    };
    while (this.nextListed < this.listed.length) {
      const { groupId, entry } = this.listed[this.nextListed];
      if (!take(groupId, encodeEntry(entry))) return sections;
      this.nextListed += 1;
    }
    this.listed = [];
    this.nextListed = 0;
    while (this.nextWaiting < this.waiting.length) {
      const { groupId, bytes } = this.waiting[this.nextWaiting];
      if (!take(groupId, bytes)) break;
      this.nextWaiting += 1;
    }
    if (this.nextWaiting === this.waiting.length || this.nextWaiting >= FORGET_SENT) {
      this.waiting = this.waiting.slice(this.nextWaiting);
      this.nextWaiting = 0;
    }
    return sections;
  }

  private sendSections(sections: readonly EncodedSection[]): void {
    const number = this.nextNumber++;
    const { session, demand } = this;
    const bytes = encodeMessage({ type: 'state', hostId: this.options.hostId, session, number, demand, sections });
    if (this.inFlight.length === 0) this.sentAt = this.options.clock();
    if (this.inFlight.length === 0) this.progressAt = this.sentAt;
    this.inFlight.push({ number, bytes });
    this.options.send(bytes);
  }

  private acknowledged(number: number): void {
    const left = this.inFlight.filter((message) => message.number > number);
    if (left.length === this.inFlight.length) return;
    this.inFlight = left;
    this.progressAt = this.options.clock();
    this.sentAt = this.progressAt;
    this.resendAfter = RESEND_MIN_MS;
    if (!this.isOpen) {
      this.isOpen = true;
      this.options.counters.sessions += 1;
      this.isListing = true;
      void this.listAll();
    }
    this.flush();
  }

  /** What changes meanwhile is sent behind what is listed. All is read by one at a time, however many sessions begin meanwhile. */
  private async listAll(): Promise<void> {
    if (this.isReading) return;
    this.isReading = true;
    const { session } = this;
    try {
      const listed = await this.options.list();
      if (session === this.session && !this.isClosed) {
        this.listed = listed;
        this.nextListed = 0;
        this.isListing = false;
        this.flush();
      }
    } catch (error) {
      if (session === this.session && !this.isClosed) this.options.failed(error as Error);
    } finally {
      this.isReading = false;
      if (this.isListing && session !== this.session && !this.isClosed) void this.listAll();
    }
  }

  private receiveState(message: Extract<StateMessage, { type: 'state' }>): void {
    const { session, number, sections, demand } = message;
    if (session !== this.peerSession) {
      if (session === this.formerPeerSession) return;
      if (number !== 1) return this.reply('unknown', session, number);
      this.formerPeerSession = this.peerSession;
      this.peerSession = session;
      this.expected = 1;
      this.applied = 0;
      this.incoming.length = 0;
    }
    // Whoever asks for all has just forgotten what it was told.
    if (demand !== this.peerDemand) {
      this.peerDemand = demand;
      if (this.isOpen) this.begin(false);
    }
    if (number < this.expected) return this.acknowledge();
    if (number > this.expected || this.incoming.length >= MAX_INCOMING) return;
    this.expected += 1;
    this.incoming.push({ number, sections });
    void this.applyAll();
  }

  private async applyAll(): Promise<void> {
    if (this.isApplying) return;
    this.isApplying = true;
    for (let next = this.incoming.shift(); next !== undefined; next = this.incoming.shift()) {
      const session = this.peerSession;
      this.options.counters.received += next.sections.reduce((sum, { entries }) => sum + entries.length, 0);
      try {
        if (next.sections.length > 0) await this.options.apply(next.sections);
      } catch (error) {
        if (this.isClosed) break;
        this.options.failed(error as Error);
        // What comes behind it is not taken, or it would be acknowledged, too: without progress the peer begins anew.
        if (session === this.peerSession) {
          this.incoming.length = 0;
          this.expected = Number.POSITIVE_INFINITY;
        }
        continue;
      }
      if (session !== this.peerSession || this.isClosed) continue;
      this.applied = next.number;
      this.acknowledge();
    }
    this.isApplying = false;
  }

  private acknowledge(): void {
    if (this.applied > 0) this.reply('acknowledged', this.peerSession!, this.applied);
  }

  private reply(type: Exclude<EncodedMessage['type'], 'state'>, session: number, number: number): void {
    this.options.send(encodeMessage({ type, hostId: this.options.hostId, session, number }));
  }
}
