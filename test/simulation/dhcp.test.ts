import test from 'ava';
import fc from 'fast-check';
import { formatIpv4, parseIpv4 } from '../../src/packet/address.js';
import { readU16, readU32, readU48, writeU32 } from '../../src/packet/big-endian.js';
import {
  buildDhcp,
  type DhcpMessage,
  DhcpMessageType,
  DhcpOption,
  dhcpOptionU32,
  parseDhcp,
} from '../../src/packet/dhcp.js';
import { type Answer, CONFIGURATION_SERVER_MAC } from '../../src/simulation/answer.js';
import { answerDhcp, type DhcpAssignment, dhcpServerAddress, subnetOf } from '../../src/simulation/dhcp.js';
import { dhcpFrame } from '../packet/dhcp-frames.js';
import { subnet } from './configuration.js';

const MAC = 0x0200_0000_0001;
const ADDRESS = parseIpv4('10.0.0.5')!;
const GATEWAY = parseIpv4('10.0.0.1')!;
const PAYLOAD = 42;

const assignment: DhcpAssignment = { subnet: subnet(), address: ADDRESS, host: undefined };

function message(type: number, fields: Partial<DhcpMessage> = {}): DhcpMessage {
  return {
    reply: false,
    hops: 0,
    transaction: 77,
    seconds: 0,
    broadcast: false,
    clientAddress: 0,
    yourAddress: 0,
    serverAddress: 0,
    relayAddress: 0,
    clientMac: MAC,
    type,
    options: new Map(),
    ...fields,
  };
}

function ask(request: DhcpMessage, given = assignment, mtu = 1450): Answer {
  return answerDhcp(dhcpFrame(MAC, buildDhcp(request)), given, mtu);
}

function frameOf(answer: Answer): Uint8Array {
  if (answer.type !== 'frame') throw new Error(JSON.stringify(answer));
  return answer.frame;
}

function reply(request: DhcpMessage, given = assignment, mtu = 1450): DhcpMessage {
  const frame = frameOf(ask(request, given, mtu));
  const parsed = parseDhcp(frame, PAYLOAD, frame.length);
  if (parsed === undefined) throw new Error('the answer is malformed');
  return parsed;
}

function address(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  writeU32(bytes, 0, value);
  return bytes;
}

const requested = (value: number) => new Map([[DhcpOption.REQUESTED_ADDRESS as number, address(value)]]);

test('a machine that looks for a server is offered its address, and confirmed when it asks for it', (t) => {
  const offer = reply(message(DhcpMessageType.DISCOVER));
  t.like(offer, { reply: true, transaction: 77, type: DhcpMessageType.OFFER, yourAddress: ADDRESS, clientMac: MAC });
  t.is(offer.serverAddress, GATEWAY);
  t.is(dhcpOptionU32(offer, DhcpOption.SERVER_ID), GATEWAY);
  t.is(dhcpOptionU32(offer, DhcpOption.SUBNET_MASK), parseIpv4('255.255.255.0'));
  t.is(dhcpOptionU32(offer, DhcpOption.BROADCAST_ADDRESS), parseIpv4('10.0.0.255'));
  t.is(dhcpOptionU32(offer, DhcpOption.LEASE_TIME), 86_400);
  t.is(dhcpOptionU32(offer, DhcpOption.ROUTER), GATEWAY);
  t.deepEqual(offer.options.get(DhcpOption.INTERFACE_MTU), new Uint8Array([1450 >> 8, 1450 & 255]));
  for (const absent of [DhcpOption.DNS_SERVERS, DhcpOption.CLASSLESS_ROUTES, DhcpOption.HOST_NAME]) {
    t.false(offer.options.has(absent));
  }
  const ack = reply(message(DhcpMessageType.REQUEST, { options: requested(ADDRESS) }));
  t.like(ack, { type: DhcpMessageType.ACK, yourAddress: ADDRESS });
  t.deepEqual([...ack.options.keys()].sort(), [...offer.options.keys()].sort());
});

test('a request for another address is refused, by option or by the address in use', (t) => {
  const other = parseIpv4('10.0.0.6')!;
  for (const request of [{ options: requested(other) }, { clientAddress: other }]) {
    const frame = frameOf(ask(message(DhcpMessageType.REQUEST, request)));
    const nak = parseDhcp(frame, PAYLOAD, frame.length)!;
    t.like(nak, { type: DhcpMessageType.NAK, yourAddress: 0, serverAddress: 0, clientAddress: 0 });
    t.false(nak.options.has(DhcpOption.LEASE_TIME));
    t.is(dhcpOptionU32(nak, DhcpOption.SERVER_ID), GATEWAY);
    t.is(readU48(frame, 0), 0xffff_ffff_ffff);
  }
});

test('a machine that renews hears the answer at its address, one without address at the one it gets', (t) => {
  for (const [fields, mac, destination] of [
    [{ clientAddress: ADDRESS }, MAC, ADDRESS],
    [{}, MAC, ADDRESS],
    [{ broadcast: true }, 0xffff_ffff_ffff, 0xffff_ffff],
  ] as const) {
    const frame = frameOf(ask(message(DhcpMessageType.REQUEST, fields)));
    t.is(readU48(frame, 0), mac);
    t.is(readU48(frame, 6), CONFIGURATION_SERVER_MAC);
    t.is(formatIpv4(readU32(frame, 30)), formatIpv4(destination));
    t.is(readU32(frame, 26), GATEWAY);
    t.deepEqual([readU16(frame, 34), readU16(frame, 36)], [67, 68]);
  }
});

test('a machine that has an address is told the rest, without a lease', (t) => {
  const given: DhcpAssignment = {
    ...assignment,
    host: { address: ADDRESS, name: 'web', options: new Map([[DhcpOption.RENEWAL_TIME, address(5)]]) },
  };
  const ack = reply(message(DhcpMessageType.INFORM, { clientAddress: ADDRESS }), given);
  t.like(ack, { type: DhcpMessageType.ACK, yourAddress: 0 });
  t.false(ack.options.has(DhcpOption.LEASE_TIME));
  t.false(ack.options.has(DhcpOption.RENEWAL_TIME));
  t.is(dhcpOptionU32(ack, DhcpOption.ROUTER), GATEWAY);
});

test('what asks for nothing gets nothing, with the reason', (t) => {
  const cases: readonly (readonly [DhcpMessage, string])[] = [
    [message(DhcpMessageType.DECLINE, { options: requested(ADDRESS) }), 'declined'],
    [message(DhcpMessageType.RELEASE, { clientAddress: ADDRESS }), 'released'],
    [message(DhcpMessageType.OFFER), 'not-a-request'],
    [message(99), 'not-a-request'],
    [message(DhcpMessageType.DISCOVER, { reply: true }), 'malformed'],
    [message(DhcpMessageType.DISCOVER, { clientMac: MAC + 1 }), 'malformed'],
    [message(DhcpMessageType.DISCOVER, { relayAddress: 5 }), 'relayed'],
  ];
  for (const [request, reason] of cases) t.deepEqual(ask(request), { type: 'none', reason } as Answer);
});

test('everything that a subnet and a machine can have is sent', (t) => {
  const given: DhcpAssignment = {
    subnet: subnet({
      serverAddress: parseIpv4('10.0.0.2')!,
      dnsServers: [1, 2],
      domainName: 'example.org',
      leaseSeconds: 600,
      mtu: 1400,
      routes: [{ address: parseIpv4('10.1.0.0')!, prefix: 16, router: parseIpv4('10.0.0.9')! }],
    }),
    address: ADDRESS,
    host: {
      address: ADDRESS,
      name: 'web',
      options: new Map([
        [42, address(7)],
        [DhcpOption.DNS_SERVERS, address(9)],
      ]),
    },
  };
  const { options, serverAddress } = reply(message(DhcpMessageType.DISCOVER), given);
  t.is(formatIpv4(serverAddress), '10.0.0.2');
  t.is(Buffer.from(options.get(DhcpOption.DOMAIN_NAME)!).toString(), 'example.org');
  t.is(Buffer.from(options.get(DhcpOption.HOST_NAME)!).toString(), 'web');
  t.deepEqual(options.get(DhcpOption.INTERFACE_MTU), new Uint8Array([1400 >> 8, 1400 & 255]));
  t.deepEqual(options.get(DhcpOption.LEASE_TIME), new Uint8Array([0, 0, 600 >> 8, 600 & 255]));
  t.deepEqual(options.get(42), address(7));
  t.deepEqual(options.get(DhcpOption.DNS_SERVERS), address(9), "the machine's own replaces the subnet's");
  // Clients that take classless routes ignore the router option, so the default route is among them.
  t.deepEqual([...options.get(DhcpOption.CLASSLESS_ROUTES)!], [16, 10, 1, 10, 0, 0, 9, 0, 10, 0, 0, 1]);
  t.is(dhcpOptionU32({ ...message(1), options }, DhcpOption.ROUTER), GATEWAY);
});

test('the MTU is at most what the subnet says, what fits the underlay, and 1500', (t) => {
  for (const [own, underlay, expected] of [
    [undefined, 1450, 1450],
    [undefined, 8950, 1500],
    [9000, 8950, 8950],
    [1400, 1450, 1400],
  ] as const) {
    const { options } = reply(message(1), { ...assignment, subnet: subnet({ mtu: own }) }, underlay);
    t.is(readU16(options.get(DhcpOption.INTERFACE_MTU)!, 0), expected);
  }
});

test("a client's identifier goes back as it came", (t) => {
  const id = new Uint8Array([1, 2, 3]);
  const options = new Map([[DhcpOption.CLIENT_ID as number, id]]);
  t.deepEqual(reply(message(1, { options })).options.get(DhcpOption.CLIENT_ID), id);
  const nak = reply(message(3, { options, clientAddress: 1 }));
  t.deepEqual(nak.options.get(DhcpOption.CLIENT_ID), id);
});

test('an answer is no longer than the client takes, and holds the important options', (t) => {
  const long = new Map(Array.from({ length: 20 }, (_, i): [number, Uint8Array] => [200 + i, new Uint8Array(60)]));
  const given = { ...assignment, host: { address: ADDRESS, name: undefined, options: long } };
  for (const [told, limit] of [
    [undefined, 576],
    [300, 576],
    [1000, 1000],
    [9000, 1450],
  ] as const) {
    const size: [number, Uint8Array][] =
      told === undefined ? [] : [[DhcpOption.MAX_MESSAGE_SIZE, new Uint8Array([told >> 8, told & 255])]];
    const frame = frameOf(ask(message(1, { options: new Map(size) }), given));
    t.true(frame.length - 14 <= limit && frame.length - 14 > limit - 62, `${frame.length - 14} of ${limit}`);
    const { options } = parseDhcp(frame, PAYLOAD, frame.length)!;
    for (const code of [DhcpOption.LEASE_TIME, DhcpOption.SUBNET_MASK, DhcpOption.ROUTER]) t.true(options.has(code));
  }
});

test('the server has the address that is set, or that of the gateway, or a link-local one', (t) => {
  t.is(dhcpServerAddress(subnet({ serverAddress: 5 })), 5);
  t.is(dhcpServerAddress(subnet()), GATEWAY);
  t.is(formatIpv4(dhcpServerAddress(subnet({ gateway: undefined }))), '169.254.1.1');
});

test('an address is in the first subnet that contains it', (t) => {
  const wide = subnet({ id: 'wide', prefix: 8 });
  const other = subnet({ id: 'other', address: parseIpv4('10.0.1.0')! });
  t.is(subnetOf([other, wide], [ADDRESS])?.subnet, wide);
  t.deepEqual(subnetOf([other, wide], [1, parseIpv4('10.0.1.9')!]), { subnet: other, address: parseIpv4('10.0.1.9')! });
  t.is(subnetOf([other], [ADDRESS]), undefined);
});

test('whatever comes in, there is an answer to this machine or a reason for none', (t) => {
  const valid = dhcpFrame(MAC, buildDhcp(message(DhcpMessageType.DISCOVER, { options: requested(ADDRESS) })));
  const changes = fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 4 });
  fc.assert(
    fc.property(changes, fc.integer({ min: 0, max: valid.length }), (list, length) => {
      const frame = valid.slice(0, length);
      for (const [at, value] of list) if (at < length) frame[at] = value;
      const answer = answerDhcp(frame, assignment, 1450);
      if (answer.type !== 'frame') return t.is(answer.type, 'none');
      const parsed = parseDhcp(answer.frame, PAYLOAD, answer.frame.length)!;
      t.true(parsed.reply && parsed.transaction === readU32(frame, PAYLOAD + 4));
      return t.true(parsed.type === DhcpMessageType.NAK || [0, ADDRESS].includes(parsed.yourAddress));
    }),
    { numRuns: 2000 },
  );
});
