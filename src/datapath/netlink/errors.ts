import { constants } from 'node:os';
import { MidonetError } from '../../errors.js';

/** Bytes from a netlink socket do not follow the protocol: truncated, or with lengths that lead outside the message. */
export class ProtocolError extends MidonetError {
  constructor(message: string) {
    super('MN_PROTOCOL', message);
  }
}

const ERRNO_NAMES = new Map<number, string>(Object.entries(constants.errno).map(([name, number]) => [number, name]));
// Numbers with two names, and one the kernel keeps to itself yet does return (linux/errno.h).
ERRNO_NAMES.set(11, 'EAGAIN').set(95, 'EOPNOTSUPP').set(524, 'ENOTSUPP');

/** Name of a Linux error number (`ENOENT`), or `errno 999` for one without a name. */
export function errnoName(errno: number): string {
  return ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
}

/** What the kernel says about a refused request beyond its errno (extended acknowledgement, linux/netlink.h). */
export interface ExtendedAck {
  /** The kernel's own words. */
  readonly message?: string;
  /** Where in the request the offending attribute starts, in bytes from the message header. */
  readonly attributeOffset?: number;
  /** Number of the attribute that is missing. */
  readonly missingType?: number;
}

/** The kernel refused a netlink request, or a system call on a netlink socket failed. */
export class NetlinkError extends MidonetError {
  /** Name of {@link NetlinkError.errno}, for example `ENODEV`. */
  readonly errnoName: string;

  /**
   * @param asked what was asked of the kernel, for the reader of the message: `delete link veth0`
   * @param errno positive Linux error number
   */
  constructor(
    readonly asked: string,
    readonly errno: number,
    readonly detail: ExtendedAck = {},
  ) {
    const name = errnoName(errno);
    const words = [];
    if (detail.message !== undefined) {
      words.push(detail.message);
    }
    if (detail.attributeOffset !== undefined) {
      words.push(`attribute at byte ${detail.attributeOffset}`);
    }
    if (detail.missingType !== undefined) {
      words.push(`attribute ${detail.missingType} is missing`);
    }
    super('MN_NETLINK', `${asked}: ${name}${words.length > 0 ? ` (${words.join('; ')})` : ''}`);
    this.errnoName = name;
  }
}
