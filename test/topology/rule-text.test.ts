import test from 'ava';
import { describeCondition, describeRule } from '../../src/topology/rule-text.js';
import { type Condition, conditionSchema, type Rule } from '../../src/topology/types.js';

const nameOf = (kind: string, id: string) => `${kind}:${id}`;

test('conditions are said as people say them', (t) => {
  const said = (condition: Condition) => describeCondition(condition, nameOf);
  t.is(said({}), 'any packet');
  t.is(said({ protocol: 6, destinationPorts: { start: 22, end: 22 } }), 'tcp, to port 22');
  t.is(said({ protocol: 1, sourcePorts: { start: 8, end: 8 } }), 'icmp, type 8');
  t.is(
    said({ etherType: 0x806, source: '10.0.0.0/8', sourceAddressGroupId: 'g', inverted: ['source'] }),
    'ARP, not from 10.0.0.0/8, from address group ip-address-group:g',
  );
  t.is(said({ matchReturnFlow: true, conjunctionInverted: true }), 'not (replies)');
  t.is(said({ inPortIds: ['a', 'b'], outPortIds: [] }), 'in at port port:a or port:b, out at port none');
  t.is(
    said({ sourceMac: '02:00:00:00:00:00', sourceMacMask: 'ff:ff:ff:00:00:00' }),
    'from MAC 02:00:00:00:00:00/ff:ff:ff:00:00:00',
  );
});

test('no field of a condition goes unsaid', (t) => {
  const values: Record<string, unknown> = {
    inPortIds: ['a'],
    outPortIds: ['a'],
    traversedBridgeIds: ['a'],
    traversedRouterIds: ['a'],
    sourcePorts: { start: 1, end: 2 },
    destinationPorts: { start: 1, end: 2 },
    fragmentPolicy: 'header',
    matchForwardFlow: true,
    matchReturnFlow: true,
    noVlan: true,
    matchDestinationRewritten: true,
  };
  // They turn the sense of others, or go with them.
  const others = ['conjunctionInverted', 'inverted', 'sourceMacMask', 'destinationMacMask'];
  for (const field of Object.keys(conditionSchema.shape).filter((name) => !others.includes(name))) {
    const condition = { [field]: values[field] ?? 7 } as Condition;
    t.not(describeCondition(condition, nameOf), 'any packet', field);
  }
});

test('rules say what they do', (t) => {
  const base = { id: 'r', chainId: 'c', position: '1', condition: {} };
  const said = (rule: object) => describeRule({ ...base, ...rule } as Rule, nameOf);
  t.is(said({ type: 'drop' }), 'any packet: drop');
  t.is(said({ type: 'jump', jumpChainId: 'x' }), 'any packet: jump to chain chain:x');
  const targets = [{ start: '10.0.0.1', end: '10.0.0.9', ports: { start: 80, end: 80 } }];
  t.is(
    said({ type: 'dnat', action: 'accept', targets }),
    'any packet: translate the destination to 10.0.0.1-10.0.0.9 port 80, then accept',
  );
  t.is(said({ type: 'reverse-snat', action: 'return' }), 'any packet: translate back what SNAT did, then return');
  t.is(
    said({ type: 'l2-transform', action: 'redirect', popVlan: true, targetPortId: 'p' }),
    'any packet: take off the VLAN tag, redirect out of port port:p',
  );
});
