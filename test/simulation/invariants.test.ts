import test from 'ava';
import fc from 'fast-check';
import { actionsEqual } from '../../src/flow/action.js';
import { describeActions, describePacket } from '../../src/flow/describe.js';
import { type FlowKey, Word } from '../../src/flow/key.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import type { Condition } from '../../src/topology/chains.js';
import type { RuleSpec } from './filters.js';
import {
  chainName,
  chainsOf,
  describeNetwork,
  deviceOf,
  type NetworkPlan,
  networkPlans,
  OUTER,
  type RouterPlan,
  readable,
  withoutChoices,
} from './network-plan.js';
import { type Machine, PlannedNetwork } from './planned-network.js';
import { describeFlow, differenceOf, type SimulatedHostOptions, unsoundFlow } from './simulated-host.js';
import { type Arrival, describeStep, type PacketPlan, type StepPlan, steps, Talk, traffic } from './traffic-plan.js';
import { keyOf, type TestFact } from './world.js';

/** The invariants of the design, in networks that have everything, in all combinations, and with all kinds of packets. */

/** The same networks each time, unless MIDONET_SEED names others. */
const SEED = Number(process.env.MIDONET_SEED ?? 1);
const READABLE = { seed: SEED, includeErrorInReport: true, interruptAfterTimeLimit: 60_000 };

/** Does these steps, one after the other, and tells what came of each. */
function carryOut(
  plan: NetworkPlan,
  steps: readonly StepPlan[],
  options?: SimulatedHostOptions,
): { network: PlannedNetwork; arrivals: string[][] } {
  const network = new PlannedNetwork(plan, options);
  const talk = new Talk(plan);
  const arrived: Arrival[] = [];
  const arrivals = steps.map((step) => {
    const sent = talk.frameOf(step, arrived);
    if (sent === undefined) return [];
    const text = ({ at, frame }: Arrival) => `${network.machines[at].name} gets ${Buffer.from(frame).toString('hex')}`;
    const got = network.send(sent.from, sent.frame).map(([at, frame]) => ({ at, frame }));
    // Which copy comes first makes no difference, but is another by flows.
    got.sort((a, b) => (text(a) < text(b) ? -1 : 1));
    arrived.push(...got);
    return got.map(text);
  });
  if (network.faults.length > 0) throw new Error(network.faults.join('\n'));
  return { network, arrivals };
}

test('soundness: what flows do with packets is what becomes of them when each is simulated', (t) => {
  fc.assert(
    fc.property(networkPlans, traffic(10), (plan, steps) => {
      const { arrivals } = carryOut(plan, steps);
      const fresh = carryOut(plan, steps, { installs: false });
      steps.forEach((step, i) => {
        const [flows, simulated] = [arrivals[i].join('\n'), fresh.arrivals[i].join('\n')];
        if (flows !== simulated)
          throw new Error(`${describeStep(step)}\nwith flows:\n${flows}\nwithout:\n${simulated}`);
      });
    }),
    { ...READABLE, numRuns: 300 },
  );
  t.pass();
});

test('soundness: every packet that a flow matches has its decision, also when it comes back', (t) => {
  fc.assert(
    fc.property(networkPlans, traffic(6), (plan, steps) => {
      const { network } = carryOut(plan, steps);
      for (const host of network.hosts) {
        const unsound = unsoundFlow(host);
        if (unsound !== undefined) throw new Error(unsound);
      }
    }),
    { ...READABLE, numRuns: 300 },
  );
  t.pass();
});

test('determinism: the same packets in the same order make the same flows', (t) => {
  const flows = (plan: NetworkPlan, steps: readonly StepPlan[]) =>
    carryOut(plan, steps).network.hosts.map(({ decisions }) => decisions.map(describeFlow));
  fc.assert(
    fc.property(networkPlans, traffic(6), (plan, steps) => {
      t.deepEqual(flows(plan, steps), flows(plan, steps));
    }),
    { ...READABLE, numRuns: 50 },
  );
});

/** Something else that a fact might say; the same where nothing else of its kind comes to mind. */
function otherValue(value: unknown): unknown {
  if (typeof value === 'number') return value + 1;
  if (typeof value === 'boolean') return !value;
  if (Array.isArray(value)) return [];
  if (typeof value !== 'object' || value === null) return value;
  // Devices have methods.
  const copy = Object.assign(Object.create(Object.getPrototypeOf(value)), value);
  if ('adminStateUp' in value) return Object.assign(copy, { adminStateUp: !value.adminStateUp });
  if ('mac' in value) return Object.assign(copy, { mac: Number(value.mac) + 1 });
  return value;
}

test('a fact that changes is a tag of every flow that becomes another', (t) => {
  let changed = 0;
  fc.assert(
    fc.property(
      networkPlans,
      traffic(6),
      fc.nat(),
      fc.constantFrom('other', 'none', 'not in hand'),
      (plan, steps, which, to) => {
        for (const host of carryOut(plan, steps).network.hosts) {
          const facts = [...new Set(host.decisions.flatMap(({ decision }) => decision.tags))] as TestFact<unknown>[];
          // Those of routes follow from the routes whenever they are asked for, and recirculations never change.
          const candidates = facts.filter(({ tag }) => !/^routes |^recirculation /.test(tag));
          if (candidates.length === 0) continue;
          const fact = candidates[which % candidates.length];
          fact.value = to === 'other' ? otherValue(fact.value) : to === 'none' ? null : undefined;
          for (const flow of host.decisions) {
            const again = host.run(flow.key);
            const difference = again.type === 'wait' ? 'it waits' : differenceOf(flow.decision, again);
            if (difference === undefined) continue;
            changed++;
            if (!flow.decision.tags.includes(fact)) {
              throw new Error(`${fact.tag} is ${to}: ${difference}\nfor the flow ${describeFlow(flow)}`);
            }
          }
        }
      },
    ),
    { ...READABLE, numRuns: 400 },
  );
  t.log(`${changed} flows became others`);
  t.true(changed > 100);
});

test('bounds: actions are no longer than the datapath takes them, and what is left out for that is counted', (t) => {
  let cut = 0;
  fc.assert(
    fc.property(networkPlans, traffic(4), fc.integer({ min: 600, max: 800 }), (plan, steps, maxActionsLength) => {
      const { network } = carryOut(plan, steps);
      const { network: short } = carryOut(plan, steps, { maxActionsLength });
      network.hosts.forEach(({ setting, decisions }, i) => {
        const { datapath } = setting;
        for (const { key, decision } of decisions) {
          const shorter = short.hosts[i].run(key);
          if (shorter.type === 'wait') throw new Error('a short decision waits');
          const length = datapath.actionsLength(shorter.actions);
          if (length > maxActionsLength) {
            throw new Error(`${length} bytes of ${maxActionsLength}: ${describeActions(shorter.actions)}`);
          }
          // Those that come back by another way than without the limit are unknown there.
          if (actionsEqual(shorter.actions, decision.actions) || shorter.drop === 'stale-recirculation') continue;
          if (shorter.cut === decision.cut) {
            throw new Error(
              `not counted: ${describeActions(shorter.actions)}\nof ${describeActions(decision.actions)}`,
            );
          }
          cut++;
        }
      });
    }),
    { ...READABLE, numRuns: 200 },
  );
  t.log(`${cut} decisions were cut`);
  t.true(cut > 0);
});

/** Words of a key that no device of this network has a reason to look at in a packet of TCP or UDP. */
function unseenWords({ chains, routers, vips, bridges, mirrors }: NetworkPlan): number[] {
  const rules = chains.flat();
  const conditions = [...rules.map((rule) => rule.if ?? {}), ...mirrors.map(({ condition }) => condition)];
  const compares = (...fields: (keyof Condition)[]) => conditions.some((one) => fields.some((field) => field in one));
  const translates = rules.some(({ type }) => type.endsWith('nat'));
  const isBalanced = vips.length > 0;
  const words: number[] = [
    Word.TCP_FLAGS,
    Word.IPV6_LABEL,
    Word.SKB_MARK,
    Word.PRIORITY,
    Word.CT_LABELS,
    Word.ND_TARGET,
  ];
  if (!compares('tos')) words.push(Word.NW_TOS);
  if (routers.length === 0) words.push(Word.NW_TTL);
  const hasPorts = translates || isBalanced || bridges.some(({ isServed }) => isServed);
  if (!hasPorts && !compares('sourcePorts')) words.push(Word.TP_SRC);
  if (!hasPorts && !compares('destinationPorts')) words.push(Word.TP_DST);
  if (routers.length > 0 || translates || isBalanced) return words;
  if (!compares('source', 'sourceAddressGroupId')) words.push(Word.NW_SRC);
  if (!compares('destination', 'destinationAddressGroupId')) words.push(Word.NW_DST);
  return words;
}

test('generality: what no device compares is not matched', (t) => {
  fc.assert(
    fc.property(networkPlans, traffic(6), (plan, steps) => {
      const words = unseenWords(plan);
      for (const host of carryOut(plan, steps).network.hosts) {
        for (const flow of host.decisions) {
          const { nwProto, ethType } = flow.key;
          const isIp = ethType === EtherType.IPV4 || ethType === EtherType.IPV6;
          if (!isIp || (nwProto !== IpProtocol.TCP && nwProto !== IpProtocol.UDP)) continue;
          const seen = words.filter((word) => flow.decision.mask.words[word] !== 0);
          if (seen.length > 0) throw new Error(`words ${seen} of ${describeFlow(flow)}`);
        }
      }
    }),
    { ...READABLE, numRuns: 300 },
  );
  t.pass();
});

/** What opens a connection, if its destination is there. */
const openings = fc
  .tuple(steps, fc.constantFrom('tcp' as const, 'udp' as const))
  .filter(([step]) => step.type === 'packet')
  .map(([step, protocol]) => ({ ...(step as PacketPlan), protocol, fragment: 'none' as const, ttl: 64 }))
  .map(readable<PacketPlan>(describeStep));

/**
 * Where sources are translated all machines are on one host, which may translate to the ports that they have: of others each block that
 * is chosen from makes a flow.
 */
function keepingPorts(plan: NetworkPlan): NetworkPlan {
  if (!plan.chains.flat().some(({ type }) => type === 'snat')) return plan;
  return readable(describeNetwork)({ ...plan, machines: plan.machines.map((machine) => ({ ...machine, host: 0 })) });
}

test('generality: new connections between two machines make no flow, whatever is between them', (t) => {
  let arrived = 0;
  fc.assert(
    fc.property(networkPlans.map(withoutChoices).map(keepingPorts), openings, (plan, opening) => {
      const network = new PlannedNetwork(plan);
      const talk = new Talk(plan);
      const converse = (srcPort: number) => {
        for (const step of [
          { ...opening, srcPort },
          { ...opening, srcPort },
        ]) {
          const { from, frame } = talk.frameOf(step, [])!;
          for (const [at, got] of network.send(from, frame)) {
            arrived++;
            const back = talk.frameOf({ type: 'answer', to: 0 }, [{ at, frame: got }]);
            if (back !== undefined) network.send(back.from, back.frame);
          }
        }
      };
      const flows = () => network.hosts.flatMap(({ decisions }) => decisions.map(describeFlow));
      converse(0);
      converse(1);
      const before = flows();
      for (let srcPort = 2; srcPort < 8; srcPort++) converse(srcPort);
      const made = flows().filter((flow) => !before.includes(flow));
      if (made.length > 0)
        throw new Error(`flows that connections made:\n${made.join('\n')}\nbeside\n${before.join('\n')}`);
    }),
    { ...READABLE, numRuns: 200 },
  );
  t.log(`${arrived} packets arrived`);
  t.true(arrived > 200);
});

/**
 * The network of a plan as far as answers have to find back in it: everything is up and known, without links and routes that only packets
 * of one way take, each filter lets answers pass, and the first router may translate sources.
 */
function answering([plan, translates]: [NetworkPlan, boolean]): NetworkPlan {
  const names = plan.chains.map((_, i) => chainName(i));
  const isPlain = (rule: RuleSpec) =>
    rule.type === 'jump'
      ? names.includes(rule.jumpChainId)
      : ['accept', 'drop', 'reject', 'return', 'continue'].includes(rule.type);
  const filters = plan.chains.map((rules) => [RETURN, ...rules.filter(isPlain)]);
  const outer = { start: OUTER.ipv4, end: OUTER.ipv4, ports: { start: 1024, end: 65_535 } };
  const outer6 = { start: OUTER.ipv6, end: OUTER.ipv6, ports: { start: 1024, end: 65_535 } };
  const chains: RuleSpec[][] = [...filters];
  const routers = plan.routers.map((router, i): RouterPlan => {
    const isTranslating = i === 0 && translates;
    const jump = (index: number | null): RuleSpec[] =>
      chainsOf({ ...plan, chains: filters }, index).map((jumpChainId) => ({ type: 'jump', jumpChainId }));
    const snat: RuleSpec = { type: 'snat', targets: [outer, outer6], action: 'accept' };
    const add = (rules: RuleSpec[]) => chains.push(rules) - 1;
    const [inbound, outbound] = isTranslating
      ? [add([...REVERSE, ...jump(router.inbound)]), add([...jump(router.outbound), snat])]
      : [jump(router.inbound), jump(router.outbound)].map((rules) => (rules.length === 0 ? null : add(rules)));
    return { ...router, isUp: true, routes: [], inbound, outbound };
  });
  // Numbers of chains that were there before name the same ones as before.
  const keep = (index: number | null) => (index === null || filters.length === 0 ? null : index % filters.length);
  return readable(describeNetwork)({
    ...plan,
    chains,
    routers: routers.map((router) => ({
      ...router,
      portInbound: keep(router.portInbound),
      portOutbound: keep(router.portOutbound),
    })),
    bridges: plan.bridges.map((one) => ({ ...one, inbound: keep(one.inbound), outbound: keep(one.outbound) })),
    machines: plan.machines.map((one) => ({
      ...one,
      isUp: true,
      isKnown: true,
      isIsolated: false,
      inbound: keep(one.inbound),
      outbound: keep(one.outbound),
    })),
    trunks: [],
    // A copy is no packet that was accepted.
    mirrors: [],
  });
}

const REVERSE = [`${OUTER.ipv4}/32`, `${OUTER.ipv6}/128`].map(
  (destination): RuleSpec => ({ type: 'reverse-snat', action: 'continue', if: { destination } }),
);
const RETURN: RuleSpec = { type: 'accept', if: { matchReturnFlow: true } };

test('return traffic: the answer to every packet that was accepted is accepted, and comes from where that was sent', (t) => {
  let answered = 0;
  fc.assert(
    fc.property(
      fc.tuple(networkPlans, fc.boolean()).map(answering),
      fc.array(openings, { minLength: 1, maxLength: 10 }),
      (plan, packets) => {
        const network = new PlannedNetwork(plan);
        const talk = new Talk(plan);
        for (const packet of packets) {
          const sent = talk.frameOf({ ...packet, vlan: null, frame: 'path' }, [])!;
          const asked = keyOf(sent.frame, 0);
          const client = network.machines[sent.from];
          for (const [at, frame] of network.send(sent.from, sent.frame)) {
            const got = keyOf(frame, 0);
            const peer = network.machines[at];
            // What routers say, and what is flooded.
            if (!hasAddress(got, Word.NW_DST, peer) || got.nwProto !== asked.nwProto) continue;
            // No router has a route to the VIP of a bridge, which a member that asks itself is asked by.
            if (peer === client && plan.vips.some(({ of }) => of === 'bridge')) continue;
            // Answers within a bridge do not come to the router that has translated the destination.
            const isDirect = peer.bridge === client.bridge && hasAddress(got, Word.NW_SRC, client);
            if (isDirect && !hasAddress(asked, Word.NW_DST, peer) && !isBalancedByBridge(plan, client.bridge)) continue;
            const back = talk.frameOf({ type: 'answer', to: 0 }, [{ at, frame }])!;
            const expected = reversed(asked);
            const answers = network.send(back.from, back.frame);
            if (!answers.some(([to, bytes]) => to === sent.from && describeNetworkOf(bytes) === expected)) {
              const told = answers.map(
                ([to, bytes]) => `${network.machines[to].name} gets ${describePacket(keyOf(bytes, 0))}`,
              );
              const drops = network.hosts.map(({ drops }) => drops.at(-1));
              throw new Error(
                `${describeStep(packet)}\n  ${peer.name} gets ${describePacket(got)}\n  and answers: ${told}\n  expected ${expected}; ${drops}`,
              );
            }
            answered++;
          }
        }
      },
    ),
    { ...READABLE, numRuns: 500 },
  );
  t.log(`${answered} answers`);
  t.true(answered > 100);
});

function hasAddress({ words, ethType }: FlowKey, at: number, { ipv4, ipv6 }: Machine): boolean {
  if (ethType === EtherType.IPV4) return words[at] === ipv4;
  return ipv6.every((word, i) => words[at + i] === word);
}

function isBalancedByBridge(plan: NetworkPlan, bridge: number): boolean {
  return plan.vips.some(({ of, index }) => of === 'bridge' && deviceOf(plan, of, index) === bridge);
}

/** Protocol, addresses and ports. */
function describeNetworkOf(frame: Uint8Array): string {
  return describePacket(keyOf(frame, 0)).split(',')[0];
}

function reversed(key: FlowKey): string {
  const other = key.clone();
  for (const [a, b] of [
    [Word.NW_SRC, Word.NW_DST],
    [Word.NW_SRC + 1, Word.NW_DST + 1],
    [Word.NW_SRC + 2, Word.NW_DST + 2],
    [Word.NW_SRC + 3, Word.NW_DST + 3],
    [Word.TP_SRC, Word.TP_DST],
  ]) {
    other.words[a] = key.words[b];
    other.words[b] = key.words[a];
  }
  return describePacket(other).split(',')[0];
}
