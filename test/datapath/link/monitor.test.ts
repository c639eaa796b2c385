import test, { type ExecutionContext } from 'ava';
import { LinkMonitor } from '../../../src/datapath/link/monitor.js';
import { IFINFOMSG_LENGTH, IFLA_IFNAME, RTM_NEWLINK } from '../../../src/datapath/link/rtnetlink.js';
import { LITTLE_ENDIAN, NLM_F_DUMP_INTR, NLM_F_MULTI } from '../../../src/datapath/netlink/message.js';
import type { Native } from '../../../src/datapath/netlink/native.js';
import { until } from '../../agent/until.js';
import { ack, done, FakeKernel, message, PORT, type Request } from '../netlink/fake-kernel.js';

const ENOBUFS = 105;
const ENOMEM = 12;

function link(request: Request, index: number, name: string): Uint8Array {
  const payload = new Uint8Array(IFINFOMSG_LENGTH + 16);
  const view = new DataView(payload.buffer);
  view.setInt32(4, index, LITTLE_ENDIAN);
  view.setUint16(IFINFOMSG_LENGTH, 4 + name.length + 1, LITTLE_ENDIAN);
  view.setUint16(IFINFOMSG_LENGTH + 2, IFLA_IFNAME, LITTLE_ENDIAN);
  payload.set(Buffer.from(name), IFINFOMSG_LENGTH + 4);
  const end = IFINFOMSG_LENGTH + ((4 + name.length + 1 + 3) & ~3);
  return message(RTM_NEWLINK, NLM_F_MULTI, request.sequence, PORT, payload.subarray(0, end));
}

/** A monitor of `names`, and its two sockets: the one it asks on and the one it is told on. */
async function start(t: ExecutionContext, names: string[]) {
  const [asked, told] = [new FakeKernel(), new FakeKernel()];
  const list = (request: Request) => [...names.map((name, at) => link(request, at + 1, name)), done(request)];
  asked.answer = list;
  const sockets = [asked.native(), told.native()].map((native) => native.NetlinkSocket).values();
  const native: Native = {
    ...asked.native(),
    NetlinkSocket: class {
      constructor(...words: ConstructorParameters<Native['NetlinkSocket']>) {
        const Socket = sockets.next().value as Native['NetlinkSocket'];
        // biome-ignore lint/correctness/noConstructorReturn: a fake kernel stands for its one socket
        return new Socket(...words) as unknown as this;
      }
    } as unknown as Native['NetlinkSocket'],
  };
  const seen: string[] = [];
  const monitor = await LinkMonitor.start(
    {
      appeared: ({ name }) => seen.push(`appeared ${name}`),
      changed: ({ name }) => seen.push(`changed ${name}`),
      vanished: ({ name }) => seen.push(`vanished ${name}`),
      failed: (error) => seen.push((error as Error).message),
    },
    undefined,
    native,
  );
  t.teardown(() => monitor.close());
  return { asked, told, list, seen, monitor };
}

test('interfaces that could not be read again are read until it succeeds', async (t) => {
  const names = ['eth0'];
  const { asked, told, list, seen } = await start(t, names);
  names.push('eth1');
  let refusals = 0;
  asked.answer = (request) => (++refusals <= 2 ? [ack(request, ENOMEM)] : list(request));
  told.waiting.push(-ENOBUFS);
  told.turn();
  await until('the new interface is seen', () => seen.includes('appeared eth1'));
  t.deepEqual(seen, ['appeared eth0', 'list links: ENOMEM', 'list links: ENOMEM', 'appeared eth1']);
});

test('a closed monitor does not try again', async (t) => {
  const { asked, told, seen, monitor } = await start(t, ['eth0']);
  asked.answer = (request) => [ack(request, ENOMEM)];
  told.waiting.push(-ENOBUFS);
  told.turn();
  await until('reading has failed', () => seen.length === 2);
  monitor.close();
  const { length } = asked.requests;
  await new Promise((resolve) => setTimeout(resolve, 300));
  t.is(asked.requests.length, length);
  t.is(seen.length, 2);
});

test('a list that changes while it is read is read again after a pause', async (t) => {
  const { asked, told, list, seen } = await start(t, ['eth0']);
  const times: number[] = [];
  asked.answer = (request) => {
    times.push(performance.now());
    return times.length < 6 ? [done(request, NLM_F_DUMP_INTR)] : list(request);
  };
  told.waiting.push(-ENOBUFS);
  told.turn();
  await until('it is read', () => times.length === 6);
  // 1, 2, 4, 8 and 16 ms, of which a timer may be one early.
  t.true(times[5] - times[0] >= 26);
  t.deepEqual(seen, ['appeared eth0']);
});
