import { MidonetError } from '../../errors.js';
import { NetlinkError } from '../netlink/errors.js';
import { LITTLE_ENDIAN, type MessageReader, MessageWriter, NLM_F_DUMP, NLM_F_REQUEST } from '../netlink/message.js';
import type { Native } from '../netlink/native.js';
import { NETLINK_ROUTE, NetlinkSocket } from '../netlink/socket.js';
import { type LinkAddress, readAddress } from './address.js';
import { type Link, type LinkStatistics, type LinkTarget, readLink, readStatistics } from './link.js';
import type { Namespace } from './namespace.js';
import { type LinkChange, LinkRequests, requireTarget } from './requests.js';
import { type LinkRoute, type RouteTables, readRoute } from './route.js';
import {
  EEXIST,
  ENODEV,
  IFADDRMSG_LENGTH,
  IFINFOMSG_LENGTH,
  IFLA_EXT_MASK,
  IFLA_IFNAME,
  RTEXT_FILTER_SKIP_STATS,
  RTM_GETADDR,
  RTM_GETLINK,
  RTM_GETROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWROUTE,
  RTMSG_LENGTH,
} from './rtnetlink.js';

/** An interface could not be made because one of its name, or one that excludes it, exists already. */
export class InterfaceExistsError extends MidonetError {
  constructor(
    readonly interfaceName: string,
    cause: NetlinkError,
  ) {
    super('MN_INTERFACE_EXISTS', cause.message, { cause });
  }
}

/**
 * The interfaces, addresses and routes of one network namespace. Holds a socket in it, not the namespace: close it when
 * done. Refusals of the kernel are {@link NetlinkError}s.
 */
export class Links {
  readonly #socket: NetlinkSocket;

  /** @param namespace the process's own if undefined; used here only @throws NetlinkError */
  constructor(namespace?: Namespace, native?: Native) {
    this.#socket = new NetlinkSocket({
      protocol: NETLINK_ROUTE,
      namespaceFd: namespace?.fd,
      receiveBuffer: 1024 * 1024,
      strict: true,
      background: true,
      native,
    });
  }

  list(signal?: AbortSignal): Promise<Link[]> {
    const writer = new MessageWriter(64);
    writer.begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP);
    writer.reserve(IFINFOMSG_LENGTH);
    writer.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    const parse = (message: MessageReader) => (message.type === RTM_NEWLINK ? readLink(message) : undefined);
    return this.#socket.dump(writer, 'list links', parse, signal);
  }

  /** @returns undefined if there is no such interface */
  get(target: LinkTarget, signal?: AbortSignal): Promise<Link | undefined> {
    return this.#getLink(target, RTEXT_FILTER_SKIP_STATS, readLink, signal);
  }

  /** @returns undefined if there is no such interface */
  statistics(target: LinkTarget, signal?: AbortSignal): Promise<LinkStatistics | undefined> {
    return this.#getLink(target, 0, readStatistics, signal);
  }

  async #getLink<T>(
    target: LinkTarget,
    mask: number,
    parse: (message: MessageReader) => T | undefined,
    signal?: AbortSignal,
  ): Promise<T | undefined> {
    requireTarget(target);
    const writer = new MessageWriter(64);
    writer.begin(RTM_GETLINK, NLM_F_REQUEST);
    const offset = writer.reserve(IFINFOMSG_LENGTH);
    if (typeof target === 'number') {
      writer.view.setInt32(offset + 4, target, LITTLE_ENDIAN);
    } else {
      writer.string(IFLA_IFNAME, target);
    }
    writer.u32(IFLA_EXT_MASK, mask);
    let found: T | undefined;
    const [error] = await this.#socket.attempt(writer, `get link ${target}`, {
      signal,
      each: (message) => {
        if (message.type === RTM_NEWLINK) {
          found = parse(message);
        }
      },
    });
    if (error !== undefined && !(error instanceof NetlinkError && error.errno === ENODEV)) {
      throw error;
    }
    return found;
  }

  /** @param index only those of this interface */
  addresses(index?: number, signal?: AbortSignal): Promise<LinkAddress[]> {
    const writer = new MessageWriter(64);
    writer.begin(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP);
    writer.reserve(IFADDRMSG_LENGTH);
    const parse = (message: MessageReader) => {
      const address = message.type === RTM_NEWADDR ? readAddress(message) : undefined;
      return index === undefined || address?.index === index ? address : undefined;
    };
    return this.#socket.dump(writer, 'list addresses', parse, signal);
  }

  /** Unicast routes that lead through one interface. @param index only those through this one */
  routes(index?: number, signal?: AbortSignal, tables: RouteTables = 'main'): Promise<LinkRoute[]> {
    const writer = new MessageWriter(64);
    writer.begin(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP);
    writer.reserve(RTMSG_LENGTH);
    const parse = (message: MessageReader) => {
      const route = message.type === RTM_NEWROUTE ? readRoute(message, tables) : undefined;
      return index === undefined || route?.index === index ? route : undefined;
    };
    return this.#socket.dump(writer, 'list routes', parse, signal);
  }

  /**
   * Send all requests at once; the kernel carries out each, in order, whatever becomes of the others. Once they are on
   * their way `signal` has no effect: what the kernel does is soon done, and known.
   * @throws InterfaceExistsError, NetlinkError the first failure
   */
  async apply(requests: LinkRequests, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const errors = await this.#socket.attempt(requests.writer, requests.asked);
    for (let i = 0; i < errors.length; i++) {
      const error = errors[i];
      if (error === undefined || (error instanceof NetlinkError && requests.tolerated[i].includes(error.errno))) {
        continue;
      }
      const made = requests.makes[i];
      if (made !== undefined && error instanceof NetlinkError && error.errno === EEXIST) {
        throw new InterfaceExistsError(made, error);
      }
      throw error;
    }
  }

  /** Succeeds when there is no such interface. @throws NetlinkError */
  delete(target: LinkTarget, signal?: AbortSignal): Promise<void> {
    return this.apply(new LinkRequests().deleteLink(target), signal);
  }

  /** @throws NetlinkError ENODEV if there is no such interface */
  set(target: LinkTarget, change: LinkChange, signal?: AbortSignal): Promise<void> {
    return this.apply(new LinkRequests().setLink(target, change), signal);
  }

  /** May be called again. */
  close(): void {
    this.#socket.close();
  }
}
