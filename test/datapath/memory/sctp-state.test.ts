import test from 'ava';
import { beginSctp, continueSctp, type SctpTracking } from '../../../src/datapath/memory/sctp-state.js';
import { writeU16, writeU32 } from '../../../src/packet/big-endian.js';

const CLIENT = 0x1111;
const SERVER = 0x2222;

/** A packet with these chunks; the first four bytes of each body hold `initiateTag`. */
function packet(tag: number, ...types: number[]): Uint8Array {
  const bytes = new Uint8Array(12 + 20 * types.length);
  writeU32(bytes, 4, tag);
  for (const [i, type] of types.entries()) {
    const at = 12 + 20 * i;
    bytes[at] = type;
    writeU16(bytes, at + 2, 20);
    writeU32(bytes, at + 4, type === 1 ? CLIENT : SERVER);
  }
  return bytes;
}

function begin(bytes: Uint8Array): SctpTracking | undefined {
  return beginSctp(bytes, 0, bytes.length);
}

test('an association is set up and shut down', (t) => {
  const tracking = begin(packet(0, 1));
  if (tracking === undefined) throw new Error('INIT begins no association');
  const states = [tracking.state];
  const step = (reply: boolean, tag: number, type: number): void => {
    const bytes = packet(tag, type);
    t.true(continueSctp(tracking, bytes, 0, bytes.length, reply), `chunk ${type}`);
    states.push(tracking.state);
  };
  step(true, CLIENT, 2);
  step(false, SERVER, 10);
  step(true, CLIENT, 11);
  step(false, SERVER, 0);
  step(false, SERVER, 7);
  step(true, CLIENT, 8);
  step(false, SERVER, 14);
  // To have seen INIT alone is CLOSED for netfilter.
  t.deepEqual(states, [
    'CLOSED',
    'COOKIE_WAIT',
    'COOKIE_ECHOED',
    'ESTABLISHED',
    'ESTABLISHED',
    'SHUTDOWN_SENT',
    'SHUTDOWN_ACK_SENT',
    'CLOSED',
  ]);
});

test('data, answers and chunks in disorder begin nothing', (t) => {
  for (const bytes of [packet(7, 0), packet(7, 2), packet(7, 6), packet(7, 10), packet(7, 11), packet(7, 1)]) {
    t.is(begin(bytes), undefined, `chunk ${bytes[12]}`);
  }
  t.is(begin(packet(0, 1, 0)), undefined, 'INIT is alone');
  t.is(begin(packet(0)), undefined, 'no chunk');
  t.is(begin(packet(0, 1).subarray(0, 18)), undefined, 'INIT cut short');
});

test('a heartbeat begins an association on another path', (t) => {
  const tracking = begin(packet(SERVER, 4));
  if (tracking === undefined) throw new Error('HEARTBEAT begins no association');
  t.is(tracking.state, 'HEARTBEAT_SENT');
  const answer = packet(CLIENT, 5);
  t.true(continueSctp(tracking, answer, 0, answer.length, true));
  t.deepEqual(tracking, { state: 'ESTABLISHED', originalTag: SERVER, replyTag: CLIENT });
});

test('packets with a foreign verification tag change nothing', (t) => {
  const tracking = begin(packet(0, 1));
  if (tracking === undefined) throw new Error('INIT begins no association');
  const before = { ...tracking };
  for (const type of [0, 2, 6, 7, 10, 11]) {
    const bytes = packet(0x9999, type);
    t.false(continueSctp(tracking, bytes, 0, bytes.length, true), `chunk ${type}`);
  }
  t.deepEqual(tracking, before);
});
