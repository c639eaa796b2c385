import { constants } from 'node:os';
import test from 'ava';
import { NetlinkError } from '../../../src/datapath/netlink/errors.js';
import type { NetlinkSocket } from '../../../src/datapath/netlink/socket.js';
import { resolveFamilies } from '../../../src/datapath/ovs/kernel-datapath.js';

test('a kernel without openvswitch is told of with the command that loads it', async (t) => {
  // As a kernel answers that does not have the module; those of the tests do.
  const socket = {
    attempt: async () => Array.from({ length: 4 }, () => new NetlinkError('find family', constants.errno.ENOENT)),
  } as unknown as NetlinkSocket;
  await t.throwsAsync(resolveFamilies(socket, undefined), {
    code: 'MN_UNSUPPORTED',
    message: 'openvswitch: the kernel module is not loaded: `modprobe openvswitch` as root does it',
  });
});
