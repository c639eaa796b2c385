import type { MidonetError } from '../../errors.js';
import type { Native } from '../netlink/native.js';
import { NETLINK_ROUTE, NetlinkSocket } from '../netlink/socket.js';
import { type Link, readLink, sameLink } from './link.js';
import { Links } from './links.js';
import type { Namespace } from './namespace.js';
import { RTM_DELLINK, RTM_NEWLINK, RTNLGRP_LINK } from './rtnetlink.js';

/** Bytes of unread events, about 1 KiB each, that the kernel keeps. */
const RECEIVE_BUFFER = 1024 * 1024;

/** Milliseconds until links that could not be read are read again; twice as many each time. */
const RETRY_MIN = 100;
const RETRY_MAX = 30_000;

/** Called synchronously; must not throw. */
export interface LinkEvents {
  appeared(link: Link): void;
  /** Something that {@link Link} tells has changed, its name perhaps. */
  changed(link: Link, before: Link): void;
  vanished(link: Link): void;
  /** Events were lost. All links are being read again, and what differs is told as above. */
  resync?(reason: MidonetError): void;
  /** Reading the links again failed: events are missing until that succeeds. It is tried again, ever more rarely. */
  failed(error: unknown): void;
}

/**
 * Knows the interfaces of one network namespace at any time. `appeared` is called for those that are there at the start,
 * too, before {@link LinkMonitor.start} resolves.
 */
export class LinkMonitor {
  readonly #links: Links;
  readonly #socket: NetlinkSocket;
  readonly #known = new Map<number, Link>();
  readonly #abort = new AbortController();
  /** What came in while all links were being read: undefined when they are not. */
  #queue: { readonly type: number; readonly link: Link }[] | undefined = [];
  #readAgain = false;
  #retry: NodeJS.Timeout | undefined;
  #retryDelay = RETRY_MIN;

  private constructor(
    readonly events: LinkEvents,
    namespace?: Namespace,
    native?: Native,
  ) {
    this.#links = new Links(namespace, native);
    try {
      this.#socket = new NetlinkSocket({
        protocol: NETLINK_ROUTE,
        namespaceFd: namespace?.fd,
        native,
        receiveBuffer: RECEIVE_BUFFER,
        listener: {
          message: (message) => {
            if (message.type === RTM_NEWLINK || message.type === RTM_DELLINK) {
              const link = readLink(message);
              if (link !== undefined) {
                this.#notified(message.type, link);
              }
            }
          },
          overrun: (reason) => {
            this.events.resync?.(reason);
            this.#resync();
          },
        },
      });
    } catch (error) {
      this.#links.close();
      throw error;
    }
  }

  /** @throws NetlinkError */
  static async start(events: LinkEvents, namespace?: Namespace, native?: Native): Promise<LinkMonitor> {
    const monitor = new LinkMonitor(events, namespace, native);
    try {
      // Joined before reading, or a change in between would be missed.
      monitor.#socket.join(RTNLGRP_LINK);
      await monitor.#readAll();
    } catch (error) {
      monitor.close();
      throw error;
    }
    return monitor;
  }

  /** The interfaces there are now. */
  links(): IterableIterator<Link> {
    return this.#known.values();
  }

  get(index: number): Link | undefined {
    return this.#known.get(index);
  }

  getByName(name: string): Link | undefined {
    for (const link of this.#known.values()) {
      if (link.name === name) {
        return link;
      }
    }
    return undefined;
  }

  /** No events from here on. May be called again. */
  close(): void {
    this.#abort.abort();
    clearTimeout(this.#retry);
    this.#socket.close();
    this.#links.close();
  }

  #resync(): void {
    if (this.#queue !== undefined) {
      this.#readAgain = true;
      return;
    }
    clearTimeout(this.#retry);
    this.#queue = [];
    this.#readAll().then(
      () => {
        this.#retryDelay = RETRY_MIN;
      },
      (error: unknown) => {
        if (this.#abort.signal.aborted) {
          return;
        }
        this.#retry = setTimeout(() => this.#resync(), this.#retryDelay).unref();
        this.#retryDelay = Math.min(2 * this.#retryDelay, RETRY_MAX);
        this.events.failed(error);
      },
    );
  }

  /** Read all links and tell what differs from what was known; then go on with what came in meanwhile. */
  async #readAll(): Promise<void> {
    try {
      do {
        this.#readAgain = false;
        const links = await this.#links.list(this.#abort.signal);
        const present = new Set(links.map((link) => link.index));
        for (const link of [...this.#known.values()]) {
          if (!present.has(link.index)) {
            this.#apply(RTM_DELLINK, link);
          }
        }
        for (const link of links) {
          this.#apply(RTM_NEWLINK, link);
        }
      } while (this.#readAgain);
    } finally {
      const queue = this.#queue ?? [];
      this.#queue = undefined;
      for (const { type, link } of queue) {
        this.#apply(type, link);
      }
    }
  }

  #notified(type: number, link: Link): void {
    if (this.#queue === undefined) {
      this.#apply(type, link);
    } else {
      this.#queue.push({ type, link });
    }
  }

  #apply(type: number, link: Link): void {
    if (this.#abort.signal.aborted) {
      return;
    }
    const before = this.#known.get(link.index);
    if (type === RTM_DELLINK) {
      if (before !== undefined) {
        this.#known.delete(link.index);
        this.events.vanished(before);
      }
      return;
    }
    this.#known.set(link.index, link);
    if (before === undefined) {
      this.events.appeared(link);
    } else if (!sameLink(before, link)) {
      this.events.changed(link, before);
    }
  }
}
