import type { Cidr, Ip } from '../../packet/ip.js';
import { AttributeReader, LITTLE_ENDIAN, type MessageReader } from '../netlink/message.js';
import { readIp } from './address.js';
import {
  AF_INET,
  AF_INET6,
  RT_TABLE_MAIN,
  RTA_DST,
  RTA_GATEWAY,
  RTA_METRICS,
  RTA_OIF,
  RTA_PREFSRC,
  RTA_PRIORITY,
  RTA_TABLE,
  RTAX_MTU,
  RTM_F_CLONED,
  RTMSG_LENGTH,
  RTN_UNICAST,
} from './rtnetlink.js';

/** A unicast route through one interface. */
export interface LinkRoute {
  /** A prefix of length 0 is the default route. */
  readonly destination: Cidr;
  /** Undefined for what is reached on the link itself. */
  readonly gateway?: Ip;
  /** Index of the interface. */
  readonly index: number;
  /** Metric: the lower is preferred. The kernel's default if undefined: 0 for IPv4, 1024 for IPv6. */
  readonly priority?: number;
  /** Largest packet to send along it. */
  readonly mtu?: number;
  /** Address to send from. */
  readonly source?: Ip;
  /** The gateway is on the link although no address of the interface says so. */
  readonly onlink?: boolean;
}

/** `main`: where routes are unless rules (ip-rule(8)) lead elsewhere. */
export type RouteTables = 'main' | 'all';

/** @returns undefined for routes of other kinds, tables and families, and for those through several interfaces */
export function readRoute(message: MessageReader, tables: RouteTables = 'main'): LinkRoute | undefined {
  const attributes = message.attributes(new AttributeReader(), RTMSG_LENGTH);
  const { view, offset } = message;
  const family = view.getUint8(offset);
  const prefix = view.getUint8(offset + 1);
  const type = view.getUint8(offset + 7);
  const flags = view.getUint32(offset + 8, LITTLE_ENDIAN);
  let table = view.getUint8(offset + 4);
  if (type !== RTN_UNICAST || (flags & RTM_F_CLONED) !== 0 || (family !== AF_INET && family !== AF_INET6)) {
    return undefined;
  }
  let destination: Ip = family === AF_INET ? { family: 4, words: [0] } : { family: 6, words: [0, 0, 0, 0] };
  const route: { -readonly [K in keyof LinkRoute]?: LinkRoute[K] } = {};
  while (attributes.next()) {
    switch (attributes.type) {
      case RTA_DST:
        destination = readIp(attributes, family) ?? destination;
        break;
      case RTA_OIF:
        route.index = attributes.u32();
        break;
      case RTA_GATEWAY:
        route.gateway = readIp(attributes, family);
        break;
      case RTA_PRIORITY:
        route.priority = attributes.u32();
        break;
      case RTA_PREFSRC:
        route.source = readIp(attributes, family);
        break;
      case RTA_TABLE:
        table = attributes.u32();
        break;
      case RTA_METRICS:
        for (const metric = attributes.enter(new AttributeReader()); metric.next(); ) {
          if (metric.type === RTAX_MTU) {
            route.mtu = metric.u32();
          }
        }
        break;
    }
  }
  if ((tables === 'main' && table !== RT_TABLE_MAIN) || route.index === undefined) {
    return undefined;
  }
  return { ...route, index: route.index, destination: { ...destination, prefix } };
}
