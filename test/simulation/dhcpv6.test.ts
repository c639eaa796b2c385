import test from 'ava';
import fc from 'fast-check';
import { formatIpv6, type Ipv6, linkLocalAddress, parseIpv6 } from '../../src/packet/address.js';
import { readU16, readU48 } from '../../src/packet/big-endian.js';
import {
  type DhcpV6Message,
  DhcpV6MessageType,
  DhcpV6Option,
  type DhcpV6OptionValue,
  DhcpV6Status,
  dhcpV6Option,
  type IdentityAssociation,
  identityAssociation,
  identityAssociations,
  leasedAddress,
  leasedAddresses,
  linkLayerDuid,
  parseDhcpV6,
} from '../../src/packet/dhcpv6.js';
import { decodeDomainNames } from '../../src/packet/dns-name.js';
import { ipv6Destination, ipv6Source } from '../../src/packet/ipv6.js';
import { type Answer, CONFIGURATION_SERVER_MAC } from '../../src/simulation/answer.js';
import { answerDhcpV6, type DhcpV6Client } from '../../src/simulation/dhcpv6.js';
import type { DhcpV6HostFact } from '../../src/simulation/fact.js';
import { dhcpV6Frame } from '../packet/dhcp-frames.js';
import { subnetV6 } from './configuration.js';
import { fact } from './world.js';

const MAC = 0x0200_0000_0001;
const DUID = linkLayerDuid(MAC);
const DUID_TEXT = Buffer.from(DUID).toString('hex');
const ADDRESS = parseIpv6('fd00::5')!;
const PAYLOAD = 62;

const clientId = { code: DhcpV6Option.CLIENT_ID, value: DUID };
const serverId = { code: DhcpV6Option.SERVER_ID, value: linkLayerDuid(CONFIGURATION_SERVER_MAC) };
const request = (...codes: number[]) => ({
  code: DhcpV6Option.OPTION_REQUEST,
  value: new Uint8Array(codes.flatMap((code) => [0, code])),
});

function group(id: number, addresses: readonly Ipv6[] = [], code: number = DhcpV6Option.IA_NA): DhcpV6OptionValue {
  const options = addresses.map((address) => leasedAddress({ address, preferred: 1, valid: 2 }));
  return identityAssociation({ code, id, t1: 0, t2: 0, options });
}

/** A machine that its subnet knows. */
function known(): DhcpV6Client {
  const one = subnetV6({ dnsServers: [[1, 2, 3, 4]], domainSearch: ['example.org'] });
  one.hosts.set(DUID_TEXT, fact<DhcpV6HostFact>('host', { address: ADDRESS }));
  return { subnets: [one], addresses: [] };
}

function ask(type: number, options: readonly DhcpV6OptionValue[], client = known()): Answer {
  return answerDhcpV6(dhcpV6Frame(MAC, { type, transaction: 9, options }), client);
}

function reply(type: number, options: readonly DhcpV6OptionValue[], client = known()): DhcpV6Message {
  const answer = ask(type, options, client);
  if (answer.type !== 'frame') throw new Error(JSON.stringify(answer));
  const parsed = parseDhcpV6(answer.frame, PAYLOAD, answer.frame.length)!;
  if (parsed.transaction !== 9) throw new Error('the answer is for another message');
  return parsed;
}

const groups = ({ options }: DhcpV6Message): readonly IdentityAssociation[] => identityAssociations(options)!;
const leases = (ia: IdentityAssociation) =>
  leasedAddresses(ia.options).map(({ address, valid }) => `${formatIpv6(address)} ${valid}`);
const status = (options: readonly DhcpV6OptionValue[]) => {
  const value = dhcpV6Option(options, DhcpV6Option.STATUS_CODE);
  return value && readU16(value, 0);
};

test('a machine that solicits is offered its address with lifetimes, and given it on request', (t) => {
  const offer = reply(DhcpV6MessageType.SOLICIT, [clientId, group(7)]);
  t.is(offer.type, DhcpV6MessageType.ADVERTISE);
  t.deepEqual(dhcpV6Option(offer.options, DhcpV6Option.CLIENT_ID), DUID);
  t.deepEqual(dhcpV6Option(offer.options, DhcpV6Option.SERVER_ID), serverId.value);
  t.deepEqual(dhcpV6Option(offer.options, DhcpV6Option.PREFERENCE), new Uint8Array([255]));
  const [ia] = groups(offer);
  t.like(ia, { id: 7, t1: 21_600, t2: 34_560 });
  t.deepEqual(leasedAddresses(ia.options), [{ address: [...ADDRESS], preferred: 43_200, valid: 86_400 }] as never);

  const given = reply(DhcpV6MessageType.REQUEST, [clientId, serverId, group(7, [ADDRESS])]);
  t.is(given.type, DhcpV6MessageType.REPLY);
  t.deepEqual(leases(groups(given)[0]), ['fd00::5 86400']);
  t.false(given.options.some(({ code }) => code === DhcpV6Option.PREFERENCE));
});

test('a machine that agrees to it is given its address at once', (t) => {
  const rapid = { code: DhcpV6Option.RAPID_COMMIT, value: new Uint8Array() };
  const given = reply(DhcpV6MessageType.SOLICIT, [clientId, rapid, group(7)]);
  t.is(given.type, DhcpV6MessageType.REPLY);
  t.true(given.options.some(({ code }) => code === DhcpV6Option.RAPID_COMMIT));
  t.deepEqual(leases(groups(given)[0]), ['fd00::5 86400']);
  const strange = { subnets: [subnetV6()], addresses: [] };
  t.is(reply(DhcpV6MessageType.SOLICIT, [clientId, rapid, group(7)], strange).type, DhcpV6MessageType.ADVERTISE);
});

test('the answer goes to who asked, from the link-local address of the server', (t) => {
  const answer = ask(DhcpV6MessageType.SOLICIT, [clientId, group(7)]);
  if (answer.type !== 'frame') return t.fail();
  const { frame } = answer;
  t.is(readU48(frame, 0), MAC);
  t.is(readU48(frame, 6), CONFIGURATION_SERVER_MAC);
  t.deepEqual(ipv6Destination(frame, 14), [...linkLocalAddress(MAC)] as never);
  t.is(formatIpv6(ipv6Source(frame, 14)), 'fe80::a8:9cff:fede:3927');
  return t.deepEqual([readU16(frame, 54), readU16(frame, 56)], [547, 546]);
});

test('a machine that no subnet knows by its identifier has the addresses of its port that are in a stateful subnet', (t) => {
  const own = [parseIpv6('fd00::8')!, parseIpv6('fd01::8')!];
  const stateless = subnetV6({ address: parseIpv6('fd01::')!, addressing: 'stateless' });
  const client = { subnets: [subnetV6(), stateless], addresses: own };
  t.deepEqual(leases(groups(reply(DhcpV6MessageType.SOLICIT, [clientId, group(1)], client))[0]), ['fd00::8 86400']);
  const both = { ...known(), addresses: own };
  t.deepEqual(leases(groups(reply(DhcpV6MessageType.SOLICIT, [clientId, group(1)], both))[0]), ['fd00::5 86400']);
});

test('who has no address set aside is told so, and so is who asks for a second group or for prefixes', (t) => {
  const strange = { subnets: [subnetV6()], addresses: [] };
  t.deepEqual(
    groups(reply(DhcpV6MessageType.SOLICIT, [clientId, group(1)], strange)).map(({ options }) => status(options)),
    [DhcpV6Status.NO_ADDRESSES],
  );
  const all = [group(1, [], DhcpV6Option.IA_TA), group(2), group(3), group(4, [], DhcpV6Option.IA_PD)];
  t.deepEqual(
    groups(reply(DhcpV6MessageType.SOLICIT, [clientId, ...all])).map((one) => status(one.options) ?? leases(one)),
    [DhcpV6Status.NO_ADDRESSES, ['fd00::5 86400'], DhcpV6Status.NO_ADDRESSES, DhcpV6Status.NO_PREFIXES],
  );
});

test('renewing: what is still right goes on, what is not ends at once, and new is added', (t) => {
  const other = parseIpv6('fd00::6')!;
  for (const [type, ids] of [
    [DhcpV6MessageType.RENEW, [clientId, serverId]],
    [DhcpV6MessageType.REBIND, [clientId]],
  ] as const) {
    const same = groups(reply(type, [...ids, group(1), group(2, [ADDRESS])]));
    t.deepEqual(
      same.map((one) => status(one.options) ?? leases(one)),
      [DhcpV6Status.NO_BINDING, ['fd00::5 86400']],
      'it stays in the group that it is in',
    );
    t.deepEqual(leases(groups(reply(type, [...ids, group(1, [other])]))[0]), ['fd00::5 86400', 'fd00::6 0']);
    const strange = { subnets: [subnetV6()], addresses: [] };
    t.deepEqual(leases(groups(reply(type, [...ids, group(1, [other])], strange))[0]), ['fd00::6 0']);
    t.is(status(groups(reply(type, [...ids, group(1)], strange))[0].options), DhcpV6Status.NO_BINDING);
  }
});

test('an address for ever is renewed never', (t) => {
  const forEver = { preferredLifetime: 0xffff_ffff, validLifetime: 0xffff_ffff };
  const client = { subnets: [subnetV6(forEver)], addresses: [ADDRESS] };
  t.like(groups(reply(DhcpV6MessageType.SOLICIT, [clientId, group(1)], client))[0], {
    t1: 0xffff_ffff,
    t2: 0xffff_ffff,
  });
});

test('a machine that comes back is told whether its addresses are of this link', (t) => {
  const confirm = (...addresses: Ipv6[]) =>
    status(reply(DhcpV6MessageType.CONFIRM, [clientId, group(1, addresses)]).options);
  t.is(confirm(ADDRESS, parseIpv6('fd00::77')!), DhcpV6Status.SUCCESS);
  t.is(confirm(ADDRESS, parseIpv6('fd01::5')!), DhcpV6Status.NOT_ON_LINK);
  t.like(ask(DhcpV6MessageType.CONFIRM, [clientId, group(1)]), { type: 'none' });
});

test('giving back and refusing an address is taken note of; what was never given is said to be unknown', (t) => {
  for (const type of [DhcpV6MessageType.RELEASE, DhcpV6MessageType.DECLINE]) {
    const noted = reply(type, [clientId, serverId, group(1, [ADDRESS]), group(2, [parseIpv6('fd00::9')!])]);
    t.is(status(noted.options), DhcpV6Status.SUCCESS);
    t.deepEqual(
      groups(noted).map(({ id, options }) => [id, status(options)]),
      [[2, DhcpV6Status.NO_BINDING]],
    );
  }
});

test('who asks for configuration alone gets what it names of it', (t) => {
  const stateless = {
    subnets: known().subnets.map((one) => ({ ...one, addressing: 'stateless' as const })),
    addresses: [],
  };
  const told = reply(DhcpV6MessageType.INFORMATION_REQUEST, [request(23, 24)], stateless);
  t.is(told.type, DhcpV6MessageType.REPLY);
  t.is(dhcpV6Option(told.options, DhcpV6Option.DNS_SERVERS)?.length, 16);
  t.deepEqual(decodeDomainNames(dhcpV6Option(told.options, DhcpV6Option.DOMAIN_LIST)!), ['example.org']);
  t.is(dhcpV6Option(told.options, DhcpV6Option.CLIENT_ID), undefined);
  const less = reply(DhcpV6MessageType.INFORMATION_REQUEST, [clientId, request(24)], stateless);
  t.is(dhcpV6Option(less.options, DhcpV6Option.DNS_SERVERS), undefined);
  t.deepEqual(dhcpV6Option(less.options, DhcpV6Option.CLIENT_ID), DUID);
  const offer = reply(DhcpV6MessageType.SOLICIT, [clientId, group(1), request(23)], stateless);
  t.is(status(groups(offer)[0].options), DhcpV6Status.NO_ADDRESSES);
  t.truthy(dhcpV6Option(offer.options, DhcpV6Option.DNS_SERVERS));
});

test('messages with the wrong identifiers are not answered', (t) => {
  const other = { code: DhcpV6Option.SERVER_ID, value: linkLayerDuid(5) };
  const T = DhcpV6MessageType;
  const cases: readonly (readonly [number, readonly DhcpV6OptionValue[], string])[] = [
    [T.SOLICIT, [group(1)], 'malformed'],
    [T.SOLICIT, [clientId, serverId, group(1)], 'malformed'],
    [T.REQUEST, [clientId, group(1)], 'malformed'],
    [T.REQUEST, [clientId, other, group(1)], 'other-server'],
    [T.RENEW, [serverId, group(1)], 'malformed'],
    [T.REBIND, [clientId, serverId], 'malformed'],
    [T.RELEASE, [clientId, other], 'other-server'],
    [T.INFORMATION_REQUEST, [clientId, group(1)], 'malformed'],
    [T.INFORMATION_REQUEST, [other], 'other-server'],
    [T.REPLY, [clientId, serverId], 'not-a-request'],
    [T.SOLICIT, [clientId, { code: DhcpV6Option.IA_NA, value: new Uint8Array(3) }], 'malformed'],
  ];
  for (const [type, options, reason] of cases) {
    t.deepEqual(ask(type, options), { type: 'none', reason } as Answer, `${type}`);
  }
});

test('the answer waits until it is known what is set aside for the machine, and only for that', (t) => {
  const client = known();
  const host = fact<DhcpV6HostFact>('host', undefined);
  const other = subnetV6({ addressing: 'stateless', host: () => fact<DhcpV6HostFact>('never read', undefined) });
  (client.subnets[0] as ReturnType<typeof subnetV6>).hosts.set(DUID_TEXT, host);
  const answer = ask(DhcpV6MessageType.SOLICIT, [clientId, group(1)], {
    ...client,
    subnets: [...client.subnets, other],
  });
  t.deepEqual(answer, { type: 'wait', missing: [host] });
});

test('whatever comes in, there is an answer to who asked or a reason for none', (t) => {
  const options = [clientId, group(1, [ADDRESS]), request(23)];
  const valid = dhcpV6Frame(MAC, { type: DhcpV6MessageType.SOLICIT, transaction: 9, options });
  const changes = fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 4 });
  fc.assert(
    fc.property(changes, fc.integer({ min: 0, max: valid.length }), fc.boolean(), (list, length, whole) => {
      const frame = valid.slice(0, whole ? valid.length : length);
      for (const [at, value] of list) if (at < frame.length) frame[at] = value;
      const answer = answerDhcpV6(frame, known());
      if (answer.type !== 'frame') return t.is(answer.type, 'none');
      const parsed = parseDhcpV6(answer.frame, PAYLOAD, answer.frame.length);
      t.truthy(identityAssociations(parsed!.options));
      return t.is(readU48(answer.frame, 0), readU48(frame, 6));
    }),
    { numRuns: 2000 },
  );
});
