import test from 'ava';
import fc from 'fast-check';
import type { Condition } from '../../src/topology/chains.js';
import { answer, isError, type Packet, send } from './conversation.js';
import type { RuleSpec } from './filters.js';
import { Hosts, type NetworkSpec } from './hosts.js';
import { unsoundFlow } from './simulated-host.js';

const VIP = 0x0a00_02c8;
const NAMES = ['a', 'b', 'c', 'd'] as const;
const RETURN: RuleSpec = { type: 'accept', if: { matchReturnFlow: true } };

const names = fc.constantFrom(...NAMES);
const conditions: fc.Arbitrary<Condition> = fc.record(
  {
    protocol: fc.constantFrom(6, 17),
    source: fc.constantFrom('10.0.1.0/24', '10.0.2.3/32', '10.0.1.2/31'),
    destination: fc.constantFrom('10.0.2.0/24', '10.0.2.200/32', '10.0.1.4/30'),
    matchForwardFlow: fc.constant(true),
  },
  { requiredKeys: [] },
);
const drops = fc.array(
  conditions.map((condition): RuleSpec => ({ type: 'drop', if: condition })),
  { maxLength: 2 },
);
/** What answers pass whatever else is in it. */
const filters = fc.option(
  drops.map((rules) => [RETURN, ...rules]),
  { nil: undefined },
);

interface Plan {
  readonly machines: readonly { readonly side: 'inside' | 'outside'; readonly host: number }[];
  readonly ports: readonly { readonly inbound?: readonly RuleSpec[]; readonly outbound?: readonly RuleSpec[] }[];
  readonly members: readonly number[];
  readonly isSourceTranslated: boolean;
  readonly inbound: readonly RuleSpec[];
  readonly outbound: readonly RuleSpec[];
}

const machine = fc.record({ side: fc.constantFrom('inside' as const, 'outside' as const), host: fc.nat(1) });
const plans: fc.Arbitrary<Plan> = fc.record({
  machines: fc.tuple(machine, machine, machine, machine),
  ports: fc.array(fc.record({ inbound: filters, outbound: filters }), { minLength: 4, maxLength: 4 }),
  members: fc.array(fc.nat(3), { maxLength: 2 }),
  isSourceTranslated: fc.boolean(),
  inbound: drops,
  outbound: drops,
});

function build({ machines, ports, members, isSourceTranslated, inbound, outbound }: Plan): Hosts {
  const outer = { start: '10.0.2.250', end: '10.0.2.250', ports: { start: 1024, end: 65535 } };
  const targets = members.map((i) => {
    const address = `10.0.${machines[i].side === 'inside' ? 1 : 2}.${2 + i}`;
    return { start: address, end: address, ports: { start: 8080, end: 8080 } };
  });
  const dnat: RuleSpec = { type: 'dnat', targets, action: 'continue', if: { destination: '10.0.2.200/32' } };
  const snat: RuleSpec = { type: 'snat', targets: [outer], action: 'accept', if: { source: '10.0.1.0/24' } };
  const reverse: RuleSpec = { type: 'reverse-snat', action: 'accept', if: { destination: '10.0.2.250/32' } };
  const spec: NetworkSpec = {
    machines: machines.map((each, i) => ({ ...each, name: NAMES[i] })),
    ports: Object.fromEntries(ports.map((rules, i) => [NAMES[i], rules])),
    router: {
      inbound: [
        ...(targets.length > 0 ? [dnat] : []),
        ...(isSourceTranslated ? [reverse] : []),
        ...(inbound.length > 0 ? [RETURN, ...inbound] : []),
      ],
      outbound: [...(outbound.length > 0 ? [RETURN, ...outbound] : []), ...(isSourceTranslated ? [snat] : [])],
    },
  };
  return new Hosts(spec);
}

const packets = fc.record({
  from: names,
  to: fc.option(names, { nil: undefined }),
  protocol: fc.constantFrom('tcp' as const, 'udp' as const, 'icmp' as const),
  srcPort: fc.integer({ min: 1, max: 3 }),
});

test('return traffic of every accepted connection is accepted, and comes from where the packets were sent', (t) => {
  let accepted = 0;
  fc.assert(
    fc.property(plans, fc.array(packets, { minLength: 1, maxLength: 8 }), (plan, list) => {
      const network = build(plan);
      for (const { from, to, protocol, srcPort } of list) {
        const packet: Packet = {
          protocol,
          to: to === undefined ? VIP : network.machine(to).ip,
          srcPort: 1000 * NAMES.indexOf(from) + srcPort,
          dstPort: 80,
        };
        const [there] = send(network, from, packet);
        if (there === undefined || isError(there)) continue;
        const [client, peer] = [network.machine(from), network.machine(there.at)];
        // Answers within a bridge do not come to the router that has translated the packet, unless it has translated the source.
        const isSourceTranslated = plan.isSourceTranslated && client.side === 'inside';
        if (to === undefined && client.side === peer.side && !isSourceTranslated) continue;
        accepted++;
        const [back] = answer(network, packet, there);
        const outcome = [back?.at, back?.src, back?.dst];
        const expected = [from, packet.to, client.ip];
        if (outcome.some((value, i) => value !== expected[i])) {
          throw new Error(`the answer of ${there.at}, with source and destination: ${outcome}, expected ${expected}`);
        }
      }
    }),
    { numRuns: 200 },
  );
  t.log(`${accepted} connections`);
  t.true(accepted > 200);
});

test('soundness: packets that a flow matches have the decision that the flow carries out', (t) => {
  fc.assert(
    fc.property(plans, fc.array(packets, { minLength: 1, maxLength: 4 }), (plan, list) => {
      const network = build(plan);
      for (const { from, to, protocol, srcPort } of list) {
        const packet: Packet = {
          protocol,
          to: to === undefined ? VIP : network.machine(to).ip,
          srcPort: 1000 * NAMES.indexOf(from) + srcPort,
          dstPort: 80,
        };
        const [there] = send(network, from, packet);
        if (there !== undefined && !isError(there)) answer(network, packet, there);
      }
      for (const host of network.hosts) {
        const unsound = unsoundFlow(host);
        if (unsound !== undefined) throw new Error(unsound);
      }
    }),
    { numRuns: 100 },
  );
  t.pass();
});
