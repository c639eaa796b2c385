import { randomUUID } from 'node:crypto';
import test from 'ava';
import { InvalidInputError } from '../../src/errors.js';
import { REFERENCES, referencesIn, withoutReference } from '../../src/topology/references.js';
import { KINDS, type Kind, SCHEMAS } from '../../src/topology/types.js';
import { validate } from '../../src/topology/validate.js';
import { holder, sample } from './samples.js';

const need = () => randomUUID();
const check = (kind: Kind, value: unknown) => validate(SCHEMAS[kind], value, kind);

for (const kind of KINDS) {
  test(`a ${kind} is complete with what it cannot do without, and takes no other fields`, (t) => {
    const made = sample(kind, need);
    const object = check(kind, made);
    t.deepEqual(check(kind, object), object, 'its stored form is read back the same');
    t.throws(() => check(kind, { ...made, color: 'blue' }), { message: `${kind}.color: unknown field, got "blue"` });
    for (const field of Object.keys(made)) {
      const error = t.throws<InvalidInputError>(() => check(kind, { ...made, [field]: [null] }), {
        instanceOf: InvalidInputError,
      });
      t.true(error?.field.startsWith(`${kind}.${field}`), error?.message);
    }
  });
}

test('an error says in words what is expected, and tells a field that is misspelled before one that is missing', (t) => {
  const [id, chainId] = [need(), need()];
  const refused = (kind: Kind, value: unknown, message: string) => t.throws(() => check(kind, value), { message });
  refused('bridge', { id, nam: 'web' }, 'bridge.nam: unknown field, got "web"');
  refused(
    'rule',
    { id, position: 'i0000000', type: 'accept', chainId, protocol: 'tcp' },
    'rule.protocol: unknown field (there is condition.protocol), got "tcp"',
  );
  refused(
    'port',
    { id, bridgeId: id, interfaceName: 'eth0' },
    'port.interfaceName: unknown field (there is binding.interfaceName), got "eth0"',
  );
  refused(
    'host',
    { id, name: 'h', zoneId: id },
    `host.zoneId: unknown field (there is tunnelZones[].zoneId), got "${id}"`,
  );
  refused('bridge', { id, name: 5 }, 'bridge.name: expected text, got 5');
  refused('bridge', { id, name: 'web', adminStateUp: 'yes' }, 'bridge.adminStateUp: expected true or false, got "yes"');
  refused('bridge', { id, name: 'web', vni: -1 }, 'bridge.vni: expected at least 0, got -1');
  refused('port', { id, bridgeId: 'web' }, 'port.bridgeId: expected a UUID, got "web"');
  refused('port', { id }, 'port.bridgeId: expected a bridge or a router, got nothing');
  refused('rule', { id, position: 'i0000000', type: 'snat', chainId }, 'rule.targets: expected a list, got nothing');
  refused(
    'route',
    { id, routerId: id, type: 'up' },
    'route.type: expected one of normal, blackhole, reject, local, got "up"',
  );
  const types =
    'accept, drop, reject, return, continue, jump, dnat, snat, reverse-dnat, reverse-snat, l2-transform, trace';
  refused('rule', { id, chainId }, `rule.type: expected one of ${types}, got nothing`);
});

test('each row of the table of references is a field that can be set, found, and cleared', (t) => {
  for (const row of REFERENCES) {
    const id = randomUUID();
    const object = check(row.kind, holder(row, id, need)) as never;
    t.true(
      referencesIn(row.kind, object).some((one) => one.row === row && one.id === id),
      row.field,
    );
    if (row.onDelete !== 'clear') continue;
    const cleared = check(row.kind, withoutReference(row, object, id)) as never;
    t.false(
      referencesIn(row.kind, cleared).some((one) => one.row === row),
      row.field,
    );
    t.is(withoutReference(row, object, randomUUID()), object);
  }
});

test('every field that ends like a reference is in the table', (t) => {
  // Of conditions and rules by their samples; top fields by the schemas.
  for (const kind of KINDS) {
    const { shape } = SCHEMAS[kind] as { shape?: Record<string, unknown> };
    for (const field of Object.keys(shape ?? {})) {
      if (!/.Ids?$/.test(field) || field === 'tenantId' || field === 'vlanId') continue;
      t.true(
        REFERENCES.some((row) => row.kind === kind && row.field.replace('[]', '') === field),
        `${kind}.${field}`,
      );
    }
  }
});

const group = randomUUID();
const base = { id: randomUUID(), chainId: randomUUID(), position: 'i0000000' };
const port = { id: randomUUID(), bridgeId: randomUUID() };
const routerPort = { id: randomUUID(), routerId: randomUUID() };
const route = { id: randomUUID(), routerId: randomUUID(), destination: 'fd00::/8' };

const WRONG: [Kind, string, Record<string, unknown>][] = [
  ['rule', 'type', { ...base, type: 'masquerade' }],
  ['rule', 'position', { ...base, type: 'drop', position: '1' }],
  ['rule', 'jumpChainId', { ...base, type: 'jump' }],
  ['rule', 'targets', { ...base, type: 'dnat', action: 'accept', targets: [] }],
  ['rule', 'action', { ...base, type: 'dnat', action: 'drop', targets: [{ start: '10.0.0.1', end: '10.0.0.1' }] }],
  [
    'rule',
    'targets[0].end',
    { ...base, type: 'snat', action: 'accept', targets: [{ start: '10.0.0.2', end: '10.0.0.1' }] },
  ],
  [
    'rule',
    'targets[0].end',
    { ...base, type: 'snat', action: 'accept', targets: [{ start: '10.0.0.2', end: 'fd00::1' }] },
  ],
  [
    'rule',
    'targets[0].end',
    { ...base, type: 'snat', action: 'accept', targets: [{ start: '10.0.0.1', end: '10.0.0.2' }] },
  ],
  [
    'rule',
    'targets[0].ports.end',
    { ...base, type: 'snat', action: 'accept', targets: [{ start: '::1', end: '::2', ports: { start: 5, end: 4 } }] },
  ],
  [
    'rule',
    'targets[1].ports',
    {
      ...base,
      type: 'snat',
      action: 'accept',
      targets: [
        { start: '::1', end: '::2', ports: { start: 1, end: 4 } },
        { start: '::1', end: '::2' },
      ],
    },
  ],
  ['rule', 'targetPortId', { ...base, type: 'l2-transform', action: 'redirect' }],
  ['rule', 'condition.source', { ...base, type: 'drop', condition: { source: '10.0.0.0' } }],
  ['rule', 'condition.protocol', { ...base, type: 'drop', condition: { protocol: 256 } }],
  ['rule', 'condition.etherType', { ...base, type: 'drop', condition: { etherType: 0x5ff } }],
  ['rule', 'condition.inverted[0]', { ...base, type: 'drop', condition: { inverted: ['vlanId'] } }],
  ['rule', 'condition.portGroupId', { ...base, type: 'drop', condition: { inverted: ['portGroupId'] } }],
  ['rule', 'condition.sourceMac', { ...base, type: 'drop', condition: { sourceMacMask: 'ff:ff:ff:00:00:00' } }],
  ['rule', 'condition.vlanId', { ...base, type: 'drop', condition: { noVlan: true, vlanId: 5 } }],
  ['rule', 'condition.inPortIds[1]', { ...base, type: 'drop', condition: { inPortIds: [group, group] } }],
  [
    'rule',
    'condition.fragmentPolicy',
    { ...base, type: 'drop', condition: { destinationPorts: { start: 80, end: 80 }, fragmentPolicy: 'any' } },
  ],
  ['mirror', 'conditions[0].tos', { id: group, toPortId: group, conditions: [{ tos: -1 }] }],
  ['port', 'bridgeId', { id: group }],
  ['port', 'routerId', { ...port, routerId: group }],
  ['port', 'peerId', { ...port, peerId: group, binding: { hostId: group, interfaceName: 'e' } }],
  ['port', 'subnets', { ...port, subnets: ['10.0.0.1/24'] }],
  ['port', 'subnets[0]', { ...routerPort, subnets: ['10.0.0.1/33'] }],
  ['port', 'vlanId', { ...routerPort, vlanId: 5 }],
  ['port', 'vlanId', { ...port, vlanId: 4095 }],
  ['route', 'nextHopPortId', { ...route, type: 'normal' }],
  ['route', 'nextHopPortId', { ...route, type: 'reject', nextHopPortId: group }],
  ['route', 'gateway', { ...route, type: 'normal', nextHopPortId: group, gateway: '10.0.0.1' }],
  ['route', 'source', { ...route, type: 'reject', source: '10.0.0.0/8' }],
  ['route', 'weight', { ...route, type: 'reject', weight: -1 }],
  ['vip', 'protocolPort', { id: group, poolId: group, address: '10.0.0.1', protocolPort: 0 }],
  ['dhcp-subnet', 'cidr', { id: group, bridgeId: group, cidr: 'fd00::/64' }],
  ['dhcp-subnet', 'domainName', { id: group, bridgeId: group, cidr: '10.0.0.0/24', domainName: 'a b' }],
  ['dhcp-v6-subnet', 'dnsServers[0]', { id: group, bridgeId: group, prefix: 'fd00::/64', dnsServers: ['10.0.0.1'] }],
  ['dhcp-v6-subnet', 'preferredLifetime', { id: group, bridgeId: group, prefix: 'fd00::/64', validLifetime: 60 }],
  [
    'dhcp-v6-subnet',
    'advertisement.preferredLifetime',
    { id: group, bridgeId: group, prefix: 'fd00::/64', advertisement: { validLifetime: 60 } },
  ],
  ['bgp-peer', 'holdTime', { id: group, routerId: group, address: '10.0.0.1', asNumber: 1, holdTime: 4 }],
  ['trace-request', 'portId', { id: group, createdAt: 0 }],
  ['trace-request', 'portId', { id: group, createdAt: 0, bridgeId: group, routerId: group }],
  ['qos-policy', 'rules[0].mark', { id: group, name: 'q', rules: [{ type: 'dscp', mark: 64 }] }],
];

for (const [kind, field, value] of WRONG) {
  test(`${kind}.${field} is named when it is wrong: ${JSON.stringify(value).slice(0, 300)}`, (t) => {
    const error = t.throws<InvalidInputError>(() => check(kind, value), { instanceOf: InvalidInputError });
    t.is(error?.field, `${kind}.${field}`, error?.message);
  });
}

test('text is brought into its canonical form', (t) => {
  const rule = check('rule', {
    ...base,
    type: 'dnat',
    action: 'accept',
    targets: [{ start: 'FD00:0::1', end: 'fd00::1' }],
    condition: { source: 'FD00::/8', sourceMac: '02:0A:00:00:00:00' },
  });
  t.like(rule, {
    targets: [{ start: 'fd00::1', end: 'fd00::1' }],
    condition: { source: 'fd00::/8', sourceMac: '02:0a:00:00:00:00' },
  });
  t.deepEqual(check('port', { ...routerPort, subnets: ['FD00::1/64', '10.0.0.1/024'] }), {
    ...routerPort,
    adminStateUp: true,
    addresses: [],
    subnets: ['fd00::1/64', '10.0.0.1/24'],
  });
});
