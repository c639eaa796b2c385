import test from 'ava';
import fc from 'fast-check';
import {
  addressList,
  buildDhcpV6,
  DhcpV6Option,
  type DhcpV6OptionValue,
  dhcpV6Duid,
  dhcpV6Option,
  identityAssociation,
  identityAssociations,
  isDhcpV6OptionRequested,
  leasedAddress,
  leasedAddresses,
  linkLayerDuid,
  parseDhcpV6,
  statusCode,
} from '../../src/packet/dhcpv6.js';

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const option = fc.record({
  code: fc.integer({ min: 0, max: 0xffff }),
  value: fc.uint8Array({ maxLength: 40, size: 'max' }),
});
const options: fc.Arbitrary<DhcpV6OptionValue[]> = fc.array(option, { maxLength: 5 });
const clientType = fc.integer({ min: 0, max: 255 }).filter((type) => type !== 12 && type !== 13);

test('DHCPv6 messages are read as they were written', (t) => {
  fc.assert(
    fc.property(clientType, fc.nat(0xff_ffff), options, (type, transaction, list) => {
      const bytes = buildDhcpV6({ type, transaction, options: list });
      t.deepEqual(parseDhcpV6(bytes, 0, bytes.length), { type, transaction, options: list });
    }),
  );
});

test('identity associations and addresses are read as they were written', (t) => {
  const code = fc.constantFrom(DhcpV6Option.IA_NA, DhcpV6Option.IA_TA, DhcpV6Option.IA_PD);
  fc.assert(
    fc.property(code, u32, u32, u32, fc.tuple(u32, u32, u32, u32), (code, id, t1, t2, address) => {
      const lease = { address, preferred: t1, valid: t2 };
      const times = code === DhcpV6Option.IA_TA ? { t1: 0, t2: 0 } : { t1, t2 };
      const written = { code, id, ...times, options: [leasedAddress(lease)] };
      const [read, ...more] = identityAssociations([identityAssociation(written)])!;
      t.deepEqual(read, written);
      t.deepEqual(more, []);
      t.deepEqual(leasedAddresses(read.options), [lease]);
    }),
  );
});

test('bytes of any kind are read or refused, and never beyond their end', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100, size: 'max' }), fc.nat(20), (bytes, offset) => {
      const message = parseDhcpV6(bytes, offset, bytes.length);
      if (message === undefined) return;
      const size = message.options.reduce((sum, { value }) => sum + 4 + value.length, 4);
      t.is(size, bytes.length - offset);
      for (const ia of identityAssociations(message.options) ?? []) leasedAddresses(ia.options);
    }),
    { numRuns: 1000 },
  );
  const whole = buildDhcpV6({ type: 1, transaction: 5, options: [{ code: 1, value: linkLayerDuid(7) }] });
  t.is(parseDhcpV6(whole, 0, whole.length + 1), undefined);
  for (let end = 5; end < whole.length; end++) t.is(parseDhcpV6(whole, 0, end), undefined);
  for (const type of [12, 13]) t.is(parseDhcpV6(new Uint8Array([type, ...new Uint8Array(40)]), 0, 41), undefined);
});

test('an identity association with a short header or options is refused', (t) => {
  for (const value of [new Uint8Array(11), new Uint8Array([...new Uint8Array(12), 0, 5, 0, 24])]) {
    t.is(identityAssociations([{ code: DhcpV6Option.IA_NA, value }]), undefined);
  }
  t.deepEqual(leasedAddresses([{ code: DhcpV6Option.IA_ADDRESS, value: new Uint8Array(23) }]), []);
});

test('single options', (t) => {
  const duid = linkLayerDuid(0x02a8_9cde_3927);
  t.is(Buffer.from(duid).toString('hex'), '0003000102a89cde3927');
  const list = [
    { code: DhcpV6Option.CLIENT_ID, value: duid },
    { code: DhcpV6Option.SERVER_ID, value: new Uint8Array(2) },
    { code: DhcpV6Option.OPTION_REQUEST, value: new Uint8Array([0, 23, 0, 24, 0]) },
  ];
  t.is(dhcpV6Duid(list, DhcpV6Option.CLIENT_ID), '0003000102a89cde3927');
  t.is(dhcpV6Duid(list, DhcpV6Option.SERVER_ID), undefined);
  t.is(dhcpV6Duid([{ code: 1, value: new Uint8Array(131) }], DhcpV6Option.CLIENT_ID), undefined);
  t.is(dhcpV6Option(list, DhcpV6Option.IA_NA), undefined);
  t.deepEqual(
    [22, 23, 24].map((code) => isDhcpV6OptionRequested(list, code)),
    [false, true, true],
  );
  t.deepEqual([...statusCode(2, 'no').value], [0, 2, 110, 111]);
  t.is(addressList([[1, 2, 3, 4]]).length, 16);
});
