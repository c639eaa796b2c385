import { NetlinkError } from '../netlink/errors.js';
import { isSystemError, loadNative, type Native } from '../netlink/native.js';
import { requireInterfaceName } from './name.js';
import type { Namespace } from './namespace.js';
import { ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM } from './rtnetlink.js';

/**
 * Whether the kernel leaves the checksums of packets sent on an interface for later. Between virtual interfaces nobody
 * fills them in: a packet that is handed to a program on the way then has a wrong one.
 * @throws NetlinkError ENODEV if there is no such interface, EOPNOTSUPP if it has no such switch
 */
export function getTxChecksumOffload(name: string, namespace?: Namespace, native?: Native): boolean {
  return ethtool(name, 'get', ETHTOOL_GTXCSUM, 0, namespace, native) !== 0;
}

/** @throws NetlinkError as {@link getTxChecksumOffload} */
export function setTxChecksumOffload(name: string, on: boolean, namespace?: Namespace, native?: Native): void {
  ethtool(name, on ? 'switch on' : 'switch off', ETHTOOL_STXCSUM, on ? 1 : 0, namespace, native);
}

function ethtool(
  name: string,
  verb: string,
  command: number,
  value: number,
  namespace: Namespace | undefined,
  native: Native = loadNative(),
): number {
  requireInterfaceName(name, 'name');
  try {
    const call = () => native.ioctlEthtool(name, command, value);
    return namespace === undefined ? call() : namespace.run(call);
  } catch (error) {
    if (isSystemError(error)) {
      throw new NetlinkError(`${verb} TX checksum offload of ${name}`, error.errno);
    }
    throw error;
  }
}
