import test from 'ava';
import fc from 'fast-check';
import { DhcpOption } from '../../src/packet/dhcp.js';
import { describeDhcpOptions, parseDhcpOption } from '../../src/packet/dhcp-options.js';
import { decodeDomainNames, encodeDomainNames, isDomainName } from '../../src/packet/dns-name.js';

/** Option and text, and its bytes in hexadecimal. */
const VALUES: readonly (readonly [string, string, string])[] = [
  ['subnet-mask', '255.255.255.0', 'ffffff00'],
  ['time-offset', '-3600', 'fffff1f0'],
  ['routers', '10.0.0.1, 10.0.0.2', '0a0000010a000002'],
  ['DNS-Server', '10.0.0.1,10.0.0.2', '0a0000010a000002'],
  ['host-name', 'web-1', '7765622d31'],
  ['ip-forwarding', 'true', '01'],
  ['ip-forwarding', '0', '00'],
  ['policy-filter', '10.1.2.3/8', '0a000000ff000000'],
  ['path-mtu-plateau-table', '68 1500', '004405dc'],
  ['default-ttl', '64', '40'],
  ['interface-mtu', '1400', '0578'],
  ['26', '1400', '0578'],
  ['static-routes', '192.0.2.7 10.0.0.1', 'c00002070a000001'],
  ['netbios-node-type', '8', '08'],
  ['option-overload', '3', '03'],
  ['lease-time', '4294967295', 'ffffffff'],
  ['dhcp-client-identifier', '01:02:00:00:00:00:0a', '0102000000000a'],
  ['client-id', 'machine', '006d616368696e65'],
  ['bootfile-name', ' pxelinux.0', '7078656c696e75782e30'],
  ['slp-directory-agent', '1 10.0.0.1 10.0.0.2', '010a0000010a000002'],
  ['slp-service-scope', '1 a b', '01612062'],
  ['status-code', '2', '02'],
  ['rapid-commit', 'true', ''],
  ['domain-search', 'a.example, b', '0161076578616d706c6500016200'],
  ['classless-static-routes', '10.1.0.0/16 10.0.0.1, 0.0.0.0/0 10.0.0.2', '100a010a000001000a000002'],
  ['dhcp-state', '8', '08'],
  ['vendor-encapsulated-options', 'hex:0104c0a80001', '0104c0a80001'],
  ['224', 'anything', '616e797468696e67'],
  ['224', 'hex:00FF', '00ff'],
];

test('options are written by name or code, each in the words of its type', (t) => {
  for (const [name, text, hex] of VALUES) {
    const result = parseDhcpOption(name, text);
    if ('fault' in result) t.fail(`${name} ${text}: ${result.expected}`);
    else t.is(Buffer.from(result.value).toString('hex'), hex, `${name} ${text}`);
  }
});

test('a value that is not of the type is refused with what was expected', (t) => {
  const wrong: readonly (readonly [string, string, RegExp])[] = [
    ['subnet-mask', '255.255.255', /IPv4 address/],
    ['routers', '', /IPv4 addresses/],
    ['routers', '10.0.0.1 router', /IPv4 addresses/],
    ['ip-forwarding', 'yes', /true or false/],
    ['default-ttl', '0', /1 to 255/],
    ['interface-mtu', '67', /68 to 65535/],
    ['interface-mtu', '1e3', /68 to 65535/],
    ['static-routes', '192.0.2.7', /pairs/],
    ['netbios-node-type', '3', /1, 2, 4 or 8/],
    ['option-overload', '4', /1 to 3/],
    ['dhcp-state', '9', /1 to 8/],
    ['classless-static-routes', '10.0.0.0/8', /in turn/],
    ['policy-filter', '10.0.0.0', /ranges/],
    ['slp-directory-agent', '10.0.0.1', /0 to 255/],
    ['domain-search', 'a..b', /domain names/],
    ['host-name', '', /not nothing/],
    ['vendor-encapsulated-options', 'abc', /hex:/],
    ['224', 'hex:0', /hex:/],
    ['bootfile-name', 'x'.repeat(513), /512 bytes/],
  ];
  for (const [name, text, expected] of wrong) {
    const result = parseDhcpOption(name, text);
    t.like(result, { fault: 'value' }, `${name} ${text}`);
    if ('fault' in result) t.regex(result.expected, expected);
  }
});

test('names that no option has, and those of the protocol itself, are refused', (t) => {
  for (const name of ['', 'no-such-option', '0', '53', '54', '255', '256', 'constructor', 'dhcp-message-type']) {
    t.like(parseDhcpOption(name, '1'), { fault: 'name' }, name);
  }
});

test('no two options have a name or a code in common', (t) => {
  const rows = describeDhcpOptions();
  const names = rows.flatMap((row) => row.names);
  t.is(new Set(names).size, names.length);
  t.is(new Set(rows.map((row) => row.code)).size, rows.length);
  for (const { code, names } of rows) {
    const [byCode, byName] = [String(code), names[0]].map((name) => parseDhcpOption(name, 'hex:01'));
    t.deepEqual(byCode, byName);
    t.true('code' in byName && byName.code === code && code !== DhcpOption.MESSAGE_TYPE);
  }
});

test('whatever is written, reading an option gives bytes or a fault', (t) => {
  const name = fc.oneof(
    fc.string(),
    fc.nat(300).map(String),
    fc.constantFrom(...describeDhcpOptions().map(({ names }) => names[0])),
  );
  fc.assert(
    fc.property(name, fc.oneof(fc.string(), fc.ipV4(), fc.integer().map(String)), (option, text) => {
      const result = parseDhcpOption(option, text);
      t.true('fault' in result ? result.expected.startsWith('expected') : result.value.length <= 512);
    }),
    { numRuns: 500 },
  );
});

test('domain names are read as they were written', (t) => {
  fc.assert(
    fc.property(fc.array(fc.domain(), { maxLength: 4 }), (names) => {
      t.true(names.every(isDomainName));
      t.deepEqual(decodeDomainNames(encodeDomainNames(names)), names);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80, size: 'max' }), (bytes) => {
      t.notThrows(() => decodeDomainNames(bytes));
    }),
  );
  for (const text of ['', '.', 'a.', 'a b', '-a', `${'a'.repeat(64)}.b`, 'a.'.repeat(130)]) t.false(isDomainName(text));
});
