import test from 'ava';
import { formatIpv6, linkLocalAddress, parseIpv6 } from '../../src/packet/address.js';
import { readU48 } from '../../src/packet/big-endian.js';
import { ipv6Source } from '../../src/packet/ipv6.js';
import { parseRouterAdvertisement } from '../../src/packet/router-advertisement.js';
import { CONFIGURATION_SERVER_MAC } from '../../src/simulation/answer.js';
import {
  type AdvertisedSubnet,
  advertise,
  NOT_ADVERTISED,
  withdrawal,
} from '../../src/simulation/router-advertisement.js';
import { subnetV6 } from './configuration.js';

const MACHINE = { mac: 0x0200_0000_0001, address: linkLocalAddress(0x0200_0000_0001) };
const ROUTER = 0x0200_0000_00fe;
const lifetimes = { routerLifetime: 1800, preferredLifetime: 600, validLifetime: 900, onLink: true };

function advertised(fields: Partial<AdvertisedSubnet> = {}): AdvertisedSubnet {
  return { ...subnetV6(), advertisement: lifetimes, ...fields };
}

const parse = (frame: Uint8Array) => parseRouterAdvertisement(frame, 54, frame.length)!;

test('how machines come by addresses is in the flags of the message and of the prefix', (t) => {
  for (const [addressing, managed, other, autonomous] of [
    ['slaac', false, false, true],
    ['stateless', false, true, true],
    ['stateful', true, true, false],
  ] as const) {
    const message = parse(advertise({ subnets: [advertised({ addressing })], gateway: undefined }, MACHINE, 1450));
    t.like(message, { managed, other });
    t.deepEqual(message.prefixes, [
      { address: [...parseIpv6('fd00::')!], prefix: 64, onLink: true, autonomous, valid: 900, preferred: 600 },
    ] as never);
  }
});

test('a router is advertised from its link-local address, and the server alone is no router', (t) => {
  const subnet = advertised();
  const byMac = advertise(
    { subnets: [subnet], gateway: { mac: ROUTER, subnet, address: parseIpv6('fd00::1')! } },
    MACHINE,
    1450,
  );
  t.like(parse(byMac), { lifetime: 1800, mac: ROUTER });
  t.deepEqual(ipv6Source(byMac, 14), [...linkLocalAddress(ROUTER)] as never);
  t.is(readU48(byMac, 6), ROUTER);
  const named = advertise(
    { subnets: [subnet], gateway: { mac: ROUTER, subnet, address: parseIpv6('fe80::1')! } },
    MACHINE,
    1450,
  );
  t.is(formatIpv6(ipv6Source(named, 14)), 'fe80::1');
  const alone = advertise({ subnets: [subnet], gateway: undefined }, MACHINE, 1450);
  t.like(parse(alone), { lifetime: 0, mac: CONFIGURATION_SERVER_MAC });
});

test('one message has the prefixes and names of all subnets, each once, and the smallest MTU', (t) => {
  const first = advertised({ dnsServers: [[1, 2, 3, 4]], domainSearch: ['a.example'], mtu: 1400 });
  const second = advertised({
    address: parseIpv6('fd01::')!,
    prefix: 80,
    addressing: 'slaac',
    dnsServers: [
      [1, 2, 3, 4],
      [5, 6, 7, 8],
    ],
    domainSearch: ['a.example', 'b.example'],
  });
  const message = parse(advertise({ subnets: [first, second], gateway: undefined }, MACHINE, 1450));
  t.like(message, { managed: true, mtu: 1400, domainSearch: ['a.example', 'b.example'] });
  t.is(message.dnsServers.length, 2);
  t.is(message.prefixes.length, 2);
  t.false(message.prefixes[1].autonomous, 'no address can be made of 80 bits');
  t.is(parse(advertise({ subnets: [second], gateway: undefined }, MACHINE, 1450)).mtu, 1450);
});

test('what is not advertised any more is taken back, and nothing else', (t) => {
  const kept = advertised();
  const gone = advertised({ address: parseIpv6('fd01::')!, dnsServers: [[1, 2, 3, 4]] });
  const gateway = { mac: ROUTER, subnet: gone, address: parseIpv6('fd01::1')! };
  const before = { subnets: [kept, gone], gateway };
  t.is(withdrawal(before, before), undefined);
  t.is(withdrawal(NOT_ADVERTISED, before), undefined);
  const without = parse(advertise(withdrawal(before, { subnets: [kept], gateway: undefined })!, MACHINE, 1450));
  t.like(without, { lifetime: 0, mac: ROUTER, dnsLifetime: 0 });
  t.is(without.dnsServers.length, 1);
  t.deepEqual(
    without.prefixes.map(({ address, preferred, valid }) => [formatIpv6(address), preferred, valid]),
    [['fd01::', 0, 0]],
  );
  const moved = withdrawal(before, { subnets: [kept], gateway: { ...gateway, subnet: kept } })!;
  t.is(parse(advertise(moved, MACHINE, 1450)).lifetime, 1800, 'the router stays');
  const replaced = withdrawal(before, { ...before, gateway: { ...gateway, mac: ROUTER + 1 } })!;
  t.like(parse(advertise(replaced, MACHINE, 1450)), { lifetime: 0, mac: ROUTER, prefixes: [] });
});
