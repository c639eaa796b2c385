import test from 'ava';
import fc from 'fast-check';
import { NetlinkError, ProtocolError } from '../../../src/datapath/netlink/errors.js';
import {
  LITTLE_ENDIAN,
  type MessageReader,
  MessageWriter,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  NLM_F_MULTI,
  NLM_F_REQUEST,
} from '../../../src/datapath/netlink/message.js';
import { Receiver } from '../../../src/datapath/netlink/receiver.js';
import { type NetlinkListener, NetlinkSocket } from '../../../src/datapath/netlink/socket.js';
import type { MidonetError } from '../../../src/errors.js';
import { ack, done, FakeKernel, message, PORT, part } from './fake-kernel.js';

const TYPE = 0x20;
const ENOBUFS = 105;

function open(options: { listener?: NetlinkListener; slots?: number; background?: boolean } = {}) {
  const kernel = new FakeKernel();
  const native = kernel.native();
  const receiver = new Receiver(options.slots ?? 8, 1024, native);
  const { listener, background } = options;
  const socket = new NetlinkSocket({ protocol: 0, native, receiver, listener, background });
  return { kernel, socket, native, receiver };
}

function requests(count: number, length = 0): MessageWriter {
  const writer = new MessageWriter();
  for (let i = 0; i < count; i++) {
    writer.begin(TYPE, NLM_F_REQUEST);
    writer.reserve(length);
  }
  return writer;
}

function dumpRequest(): MessageWriter {
  const writer = new MessageWriter();
  writer.begin(TYPE, NLM_F_REQUEST | NLM_F_DUMP);
  return writer;
}

function value(one: MessageReader): number {
  return one.view.getUint32(one.offset, LITTLE_ENDIAN);
}

test('a batch is sent at once, and only its last message asks for an acknowledgement', (t) => {
  const { kernel, socket } = open();
  let result: readonly unknown[] | undefined;
  socket.submit(requests(50), {
    asked: 'do it',
    done: (errors) => {
      result = errors;
    },
  });
  t.deepEqual(result, []);
  t.deepEqual(kernel.sends, [50]);
  t.deepEqual(
    kernel.requests.map((request) => request.wantsAck),
    Array.from({ length: 50 }, (_, i) => i === 49),
  );
});

test('errors come back at the index of their message', (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 3 }), { minLength: 1, maxLength: 40, size: 'max' }), (outcomes) => {
      const { kernel, socket } = open();
      const first = 1;
      kernel.answer = (request) => {
        const errno = outcomes[request.sequence - first] * 10;
        return errno > 0 || request.wantsAck ? [ack(request, errno)] : [];
      };
      let errors: readonly (MidonetError | undefined)[] = [];
      socket.submit(requests(outcomes.length), {
        asked: (index) => `request ${index}`,
        done: (result) => {
          errors = result;
        },
      });
      outcomes.forEach((outcome, index) => {
        const error = errors[index];
        if (outcome === 0) {
          t.is(error, undefined);
        } else {
          t.true(error instanceof NetlinkError && error.errno === outcome * 10 && error.asked === `request ${index}`);
        }
      });
    }),
  );
});

test('what is too much for one send goes in several, in order, none cut', (t) => {
  const { kernel, socket } = open();
  let finished = 0;
  socket.submit(requests(300, 1000), {
    asked: 'do it',
    done: () => {
      finished += 1;
    },
  });
  t.is(finished, 1);
  t.true(kernel.sends.length > 2);
  t.is(kernel.requests.length, 300);
  t.deepEqual(
    kernel.requests.map((request) => request.sequence),
    Array.from({ length: 300 }, (_, i) => i + 1),
  );
});

test('a part that is refused fails its messages only', (t) => {
  const { kernel, socket } = open();
  let errors: readonly (MidonetError | undefined)[] = [];
  const submit = () =>
    socket.submit(requests(300, 1000), {
      asked: 'do it',
      done: (result) => {
        errors = result;
      },
    });
  kernel.sendResults.push(-12);
  submit();
  t.is((errors[0] as NetlinkError).errnoName, 'ENOMEM');
  t.is(errors[299], undefined);
  // The last part is the one whose acknowledgement would have ended the batch.
  const original = kernel.send.bind(kernel);
  let sends = 0;
  kernel.send = (bytes, offset, length) => (++sends === 3 ? -105 : original(bytes, offset, length));
  submit();
  t.is(errors[0], undefined);
  t.is((errors[299] as NetlinkError).errnoName, 'ENOBUFS');
});

test('without room in the kernel a batch waits its turn, with its bytes kept', async (t) => {
  const { kernel, socket } = open();
  kernel.sendResults.push(0, 0, 0);
  const order: string[] = [];
  const writer = requests(2);
  const first = new Promise<void>((resolve) =>
    socket.submit(writer, {
      asked: 'first',
      done: () => {
        order.push('first');
        resolve();
      },
    }),
  );
  writer.reset();
  writer.bytes.fill(0xff);
  const second = socket.request(requests(1), 'second').then(() => order.push('second'));
  t.true(kernel.kept);
  await Promise.all([first, second]);
  t.deepEqual(order, ['first', 'second']);
  t.deepEqual(
    kernel.requests.map((request) => request.sequence),
    [1, 2, 3],
  );
  t.false(kernel.kept);
});

test('answers lost to an overflow fail the request; the next one works', async (t) => {
  const { kernel, socket } = open();
  kernel.answer = () => [-ENOBUFS];
  const error = await t.throwsAsync(socket.request(requests(1), 'ask'), { instanceOf: NetlinkError });
  t.is(error.message, 'ask: ENOBUFS');
  kernel.answer = (request) => [ack(request, 0)];
  await t.notThrowsAsync(socket.request(requests(1), 'ask again'));
});

test('an overflow is told of when all that waited has been read, not before', (t) => {
  const told: string[] = [];
  const { kernel } = open({
    slots: 2,
    listener: {
      message: (one) => told.push(`message ${value(one)}`),
      batchEnd: () => told.push('end'),
      losing: () => told.push('losing'),
      overrun: (reason) => told.push(reason.message),
    },
  });
  const notification = (n: number) => part({ type: TYPE, flags: 0, sequence: 0, wantsAck: false }, TYPE, 0, n);
  kernel.waiting.push(-ENOBUFS, ...[1, 2, 3, 4, 5].map(notification));
  kernel.turn();
  t.deepEqual(told, [
    'losing',
    ...['message 1', 'message 2', 'end'],
    ...['message 3', 'message 4', 'end'],
    ...['message 5', 'end'],
    'receive from netlink socket: ENOBUFS',
  ]);
  told.length = 0;
  kernel.waiting.push(-ENOBUFS);
  kernel.turn();
  t.deepEqual(told, ['losing', 'receive from netlink socket: ENOBUFS']);
});

test('an overflow is told of when what waited fills its batches to the last place', async (t) => {
  for (let waiting = 0; waiting <= 9; waiting++) {
    for (const turns of [true, false]) {
      const told: (number | string)[] = [];
      const { kernel, socket } = open({
        slots: 4,
        listener: { message: (one) => told.push(value(one)), overrun: (reason) => told.push(reason.message) },
      });
      const numbers = Array.from({ length: waiting }, (_, i) => i);
      kernel.waiting.push(
        -ENOBUFS,
        ...numbers.map((n) => part({ type: TYPE, flags: 0, sequence: 0, wantsAck: false }, TYPE, 0, n)),
      );
      // It is noticed by the event loop, or by a request whose answer is waited for.
      if (turns) kernel.turn();
      else await socket.attempt(requests(1), 'ask');
      await new Promise((resolve) => setImmediate(() => setImmediate(() => setImmediate(resolve))));
      t.deepEqual(told, [...numbers, 'receive from netlink socket: ENOBUFS'], `${waiting} waiting`);
      socket.close();
    }
  }
});

test('damaged datagrams and cut ones are told of, and the rest is read', (t) => {
  const told: (string | MidonetError)[] = [];
  const { kernel } = open({
    listener: { message: (one) => told.push(`message ${value(one)}`), overrun: (reason) => told.push(reason) },
  });
  const good = part({ type: TYPE, flags: 0, sequence: 0, wantsAck: false }, TYPE, 0, 7);
  kernel.waiting.push(new Uint8Array([1, 2, 3]), good, new Uint8Array(4096), good);
  kernel.turn();
  t.deepEqual(
    told.filter((one) => typeof one === 'string'),
    ['message 7', 'message 7'],
  );
  t.true(told.at(-1) instanceof ProtocolError);
});

test('random datagrams do no harm', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 80, size: 'max' }), { maxLength: 10 }), async (garbage) => {
      const { kernel, socket } = open({ listener: { message: () => {}, overrun: () => {} } });
      kernel.answer = (request) => [...garbage, ack(request, 0)];
      kernel.waiting.push(...garbage);
      kernel.turn();
      const outcome = await socket.attempt(requests(1), 'ask');
      t.true(outcome.length <= 1);
      socket.close();
    }),
  );
});

test('damaged answers to the own requests fail these', async (t) => {
  const { kernel, socket } = open();
  // An acknowledgement that promises attributes and has none of its fields.
  kernel.answer = (request) => {
    const payload = new Uint8Array(4);
    new DataView(payload.buffer).setInt32(0, -22, LITTLE_ENDIAN);
    return [message(2, 0x300, request.sequence, PORT, payload)];
  };
  await t.throwsAsync(socket.request(requests(1), 'ask'));
  kernel.answer = (request) => [part(request, TYPE, 0, 1), ack(request, 0)];
  await t.throwsAsync(
    socket.request(requests(1), 'ask', {
      each: () => {
        throw new ProtocolError('not understood');
      },
    }),
    { instanceOf: ProtocolError, message: 'not understood' },
  );
});

test('a dump that was disturbed is taken again', async (t) => {
  const { kernel, socket } = open();
  let dumps = 0;
  kernel.answer = (request) => {
    dumps += 1;
    const flags = NLM_F_MULTI | (dumps < 3 ? NLM_F_DUMP_INTR : 0);
    return [part(request, TYPE, flags, dumps), part(request, TYPE, NLM_F_MULTI, dumps), done(request)];
  };
  t.deepEqual(await socket.dump(dumpRequest(), 'list', value), [3, 3]);
  kernel.answer = (request) => [done(request, NLM_F_DUMP_INTR)];
  const error = await t.throwsAsync(socket.dump(dumpRequest(), 'list', value), { instanceOf: NetlinkError });
  t.is(error.errnoName, 'EINTR');
});

test('dumps of a socket run one after the other, past errors and aborts', async (t) => {
  const { kernel, socket } = open();
  const running: number[] = [];
  kernel.answer = (request) => {
    running.push(request.sequence);
    return [part(request, TYPE, NLM_F_MULTI, request.sequence)];
  };
  const abort = new AbortController();
  const first = socket.dump(dumpRequest(), 'first', value, abort.signal);
  const second = socket.dump(dumpRequest(), 'second', value);
  const third = socket.dump(dumpRequest(), 'third', value);
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(running, [1]);
  abort.abort(new Error('no longer wanted'));
  await t.throwsAsync(first, { message: 'no longer wanted' });
  await new Promise((resolve) => setImmediate(resolve));
  // The kernel is still at it.
  t.deepEqual(running, [1]);
  kernel.waiting.push(done(kernel.requests[0]));
  kernel.turn();
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(running, [1, 2]);
  kernel.waiting.push(ack(kernel.requests[1], 16));
  kernel.turn();
  await t.throwsAsync(second, { message: 'second: EBUSY' });
  await new Promise((resolve) => setImmediate(resolve));
  kernel.waiting.push(done(kernel.requests[2]));
  kernel.turn();
  t.deepEqual(await third, [3]);
  t.false(kernel.kept);
});

test('requests go on beside a long dump', async (t) => {
  const { kernel, socket } = open();
  kernel.answer = (request) =>
    (request.flags & NLM_F_DUMP) === NLM_F_DUMP ? [part(request, TYPE, NLM_F_MULTI, 1)] : [ack(request, 0)];
  const dump = socket.dump(dumpRequest(), 'list', value);
  await new Promise((resolve) => setImmediate(resolve));
  await t.notThrowsAsync(socket.request(requests(1), 'ask'));
  kernel.waiting.push(part(kernel.requests[0], TYPE, NLM_F_MULTI, 2), done(kernel.requests[0]));
  kernel.turn();
  t.deepEqual(await dump, [1, 2]);
});

test('a request made while answers are being read is answered too, on this socket and on one that shares its receiver', async (t) => {
  const { kernel, socket, receiver } = open();
  const otherKernel = new FakeKernel();
  const other = new NetlinkSocket({ protocol: 0, native: otherKernel.native(), receiver });
  kernel.answer = (request) => [part(request, TYPE, 0, 5), ack(request, 0)];
  let nested: Promise<void>[] = [];
  let seen = 0;
  await socket.request(requests(1), 'outer', {
    each: (one) => {
      if (seen === 0) {
        nested = [socket.request(requests(1), 'inner'), other.request(requests(1), 'other')];
      }
      // The bytes must not have been overwritten by the answers to those.
      seen = value(one);
    },
  });
  t.is(seen, 5);
  otherKernel.turn();
  await t.notThrowsAsync(Promise.all(nested));
});

test('what belongs to others is not taken for an answer', async (t) => {
  const told: number[] = [];
  const { kernel, socket } = open({ listener: { message: (one) => told.push(value(one)), overrun: () => {} } });
  kernel.answer = (request) => [
    message(TYPE, 0, request.sequence, PORT + 1, new Uint8Array([9, 0, 0, 0])),
    ack(request, 0),
  ];
  let answers = 0;
  await socket.request(requests(1), 'ask', { each: () => answers++ });
  t.is(answers, 0);
  t.is(told.length, 1);
});

test('closing fails what is not done, and everything after', async (t) => {
  const { kernel, socket } = open();
  kernel.answer = () => [];
  const request = socket.request(requests(2), 'ask');
  const dump = socket.dump(dumpRequest(), 'list', value);
  await new Promise((resolve) => setImmediate(resolve));
  socket.close();
  socket.close();
  await t.throwsAsync(request, { code: 'MN_CLOSED' });
  await t.throwsAsync(dump, { code: 'MN_CLOSED' });
  t.true(kernel.closed);
  t.throws(() => socket.submit(requests(1), { asked: 'x', done: () => t.fail() }), { code: 'MN_CLOSED' });
  t.throws(() => socket.join(1), { code: 'MN_CLOSED' });
  await t.throwsAsync(socket.request(requests(1), 'ask'), { code: 'MN_CLOSED' });
});

test('in the background: nothing is sent at once, all is sent in order, with its bytes kept', async (t) => {
  const { kernel, socket } = open({ background: true });
  kernel.sendResults.push(0, 0);
  kernel.answer = (request) => (request.wantsAck ? [ack(request, request.sequence === 302 ? 17 : 0)] : []);
  const order: string[] = [];
  const writer = requests(300, 1000);
  const first = socket.request(writer, 'first').then(() => order.push('first'));
  writer.reset();
  writer.bytes.fill(0xff);
  const second = socket.request(requests(2), 'second').catch((error: Error) => order.push(error.message));
  const third = socket.request(requests(1), 'third').then(() => order.push('third'));
  t.is(kernel.requests.length, 0);
  t.true(kernel.kept);
  await Promise.all([first, second, third]);
  t.deepEqual(order, ['first', 'second: EEXIST', 'third']);
  t.deepEqual(
    kernel.requests.map((request) => request.sequence),
    Array.from({ length: 303 }, (_, i) => i + 1),
  );
  t.false(kernel.kept);
});

test('in the background: one send at a time in the whole process, past sockets that are closed', async (t) => {
  const sockets = [1, 2, 3, 4].map(() => open({ background: true }));
  let sending = 0;
  let most = 0;
  for (const { kernel } of sockets) {
    const send = kernel.sendInBackground.bind(kernel);
    kernel.sendInBackground = (bytes, done) => {
      most = Math.max(most, ++sending);
      send(bytes, (sent) => {
        sending -= 1;
        done(sent);
      });
    };
  }
  const asked = sockets.flatMap(({ socket }) => [1, 2].map(() => socket.request(requests(1), 'ask')));
  sockets[0].socket.close();
  sockets[2].socket.close();
  const outcomes = await Promise.allSettled(asked);
  t.deepEqual(
    outcomes.map(({ status }) => status === 'fulfilled'),
    [false, false, true, true, false, false, true, true],
  );
  t.is(most, 1);
});

test('in the background: refused, lost, and closed meanwhile', async (t) => {
  const { kernel, socket } = open({ background: true });
  kernel.sendResults.push(-1);
  await t.throwsAsync(socket.request(requests(1), 'ask'), { message: 'ask: EPERM' });
  kernel.answer = () => [-ENOBUFS];
  await t.throwsAsync(socket.request(requests(1), 'ask'), { message: 'ask: ENOBUFS' });
  const request = socket.request(requests(1), 'ask');
  const next = socket.request(requests(1), 'ask');
  socket.close();
  await t.throwsAsync(request, { code: 'MN_CLOSED' });
  await t.throwsAsync(next, { code: 'MN_CLOSED' });
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
});

test('an aborted request rejects with the reason, and leaves no listener on the signal', async (t) => {
  const { kernel, socket } = open();
  const abort = new AbortController();
  kernel.answer = () => [];
  const request = socket.request(requests(1), 'ask', { signal: abort.signal });
  abort.abort(new Error('enough'));
  await t.throwsAsync(request, { message: 'enough' });
  await t.throwsAsync(socket.request(requests(1), 'ask', { signal: abort.signal }), { message: 'enough' });
  t.is(kernel.requests.length, 1);
});

test('the kernel explains: words, offset, missing attribute', async (t) => {
  const { kernel, socket } = open();
  kernel.answer = (request) => {
    const writer = new MessageWriter();
    const start = writer.begin(2, 0x300, request.sequence);
    writer.view.setUint32(start + 12, PORT, LITTLE_ENDIAN);
    const offset = writer.reserve(20);
    writer.view.setInt32(offset, -22, LITTLE_ENDIAN);
    writer.string(1, 'port is out of range');
    writer.u32(2, 36);
    writer.u32(5, 3);
    return [writer.finish().slice()];
  };
  const error = await t.throwsAsync(socket.request(requests(1), 'add it'), { instanceOf: NetlinkError });
  t.is(error.message, 'add it: EINVAL (port is out of range; attribute at byte 36; attribute 3 is missing)');
  t.like(error, { code: 'MN_NETLINK', errno: 22, errnoName: 'EINVAL' });
});
