import test from 'ava';
import fc from 'fast-check';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { FlowKey, Frag, VLAN_PRESENT, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { formatIpv4, formatIpv6 } from '../../src/packet/address.js';
import { EtherType } from '../../src/packet/ethernet.js';
import {
  type CompiledCondition,
  compileCondition,
  matches,
  type Surroundings,
} from '../../src/simulation/condition.js';
import type { Decision } from '../../src/simulation/decision.js';
import type { PortFact } from '../../src/simulation/fact.js';
import { type Condition, conditionSchema } from '../../src/topology/chains.js';
import { Filters, type RuleSpec } from './filters.js';
import { joinToBridge, TestRouter } from './routers.js';
import { TestBridge, type TestFact, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
/** Of the router, at its first port; the next one is that at the other. */
const ROUTER = 0x0200_0000_0011;
/** Behind the router. */
const GATEWAY = 0x0a01_0063;
const CHAINS = ['a', 'b', 'c', 'd', 'e', 'f'];
const MEMBERS = ['10.0.0.1', '10.0.0.3', 'fd00::1'];

const words4 = fc.constantFrom(0x0a00_0001, 0x0a00_0002, 0x0a00_0003, 0x0a01_0001, 0xc0a8_0001).map((word) => [word]);
const words6 = fc.constantFrom([0xfd00_0000, 0, 0, 1], [0xfd00_0000, 1, 0, 1], [0xfe80_0000, 0, 0, 2]);
const ports = fc.constantFrom(0, 22, 79, 80, 81, 1024, 65_535);

const ranges = fc.oneof(
  fc.tuple(words4, fc.constantFrom(0, 8, 16, 31, 32)).map(([[a], prefix]) => `${formatIpv4(a)}/${prefix}`),
  fc
    .tuple(words6, fc.constantFrom(0, 16, 64, 128))
    .map(([[a, b, c, d], prefix]) => `${formatIpv6([a, b, c, d])}/${prefix}`),
);
const portRanges = fc.tuple(ports, ports).map(([a, b]) => ({ start: Math.min(a, b), end: Math.max(a, b) }));

const INVERTIBLE = ['source', 'destination', 'destinationPorts', 'inPortIds', 'outPortIds', 'protocol'] as const;

/** Groups of ports and addresses are named, which the schema does not allow. */
const named = fc.record(
  {
    inPortIds: fc.subarray(['port-1', 'port-2']),
    outPortIds: fc.subarray(['port-1', 'port-2']),
    portGroupId: fc.constantFrom('clients', 'servers'),
    outPortGroupId: fc.constantFrom('clients', 'servers'),
    sourceAddressGroupId: fc.constant('members'),
    destinationAddressGroupId: fc.constant('members'),
  },
  { requiredKeys: [] },
);
const compared = fc.record(
  {
    source: ranges,
    destination: ranges,
    sourcePorts: portRanges,
    destinationPorts: portRanges,
    protocol: fc.constantFrom(1, 6, 17),
    vlanId: fc.constantFrom(5, 6),
    destinationMac: fc.constant('02:00:00:00:00:02'),
    fragmentPolicy: fc.constantFrom('header' as const, 'unfragmented' as const),
    conjunctionInverted: fc.boolean(),
  },
  { requiredKeys: [] },
);
const conditions: fc.Arbitrary<Condition> = fc
  .tuple(fc.option(named, { freq: 2, nil: {} }), compared, fc.subarray([...INVERTIBLE], { maxLength: 2 }))
  .map(([names, fields, inverted]) => {
    const condition: Condition = { ...conditionSchema.parse(fields), ...names };
    return { ...condition, inverted: inverted.filter((field) => condition[field] !== undefined) };
  });

const rules: fc.Arbitrary<RuleSpec> = fc
  .tuple(
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc.constantFrom('accept', 'drop', 'reject', 'return', 'continue').map((type) => ({ type })),
      },
      { weight: 4, arbitrary: fc.constantFrom(...CHAINS).map((jumpChainId) => ({ type: 'jump', jumpChainId })) },
      {
        weight: 1,
        arbitrary: fc.record({
          type: fc.constant('l2-transform'),
          action: fc.constantFrom('accept', 'continue', 'drop', 'return'),
          popVlan: fc.boolean(),
          pushVlanId: fc.constantFrom(undefined, 5, 6),
        }),
      },
    ),
    conditions,
  )
  .map(([action, condition]) => ({ ...action, if: condition }) as RuleSpec);

/** What each chain holds, and which ones are asked where. */
const plans = fc.record({
  chains: fc.tuple(...CHAINS.map(() => fc.array(rules, { maxLength: 8 }))),
  portIn: fc.array(fc.constantFrom(...CHAINS), { maxLength: 2 }),
  bridgeIn: fc.array(fc.constantFrom(...CHAINS), { maxLength: 1 }),
  bridgeOut: fc.array(fc.constantFrom(...CHAINS), { maxLength: 1 }),
  portOut: fc.array(fc.constantFrom(...CHAINS), { maxLength: 1 }),
});
type Plan = typeof plans extends fc.Arbitrary<infer T> ? T : never;

const keys = fc
  .record({
    network: fc.oneof(
      fc.tuple(fc.constantFrom(EtherType.IPV4, EtherType.ARP), words4, words4),
      fc.tuple(fc.constant(EtherType.IPV6), words6, words6),
    ),
    protocol: fc.constantFrom(1, 6, 17, 47),
    frag: fc.constantFrom(Frag.NONE, Frag.NONE, Frag.FIRST, Frag.LATER),
    srcPort: ports,
    dstPort: ports,
    tag: fc.constantFrom(0, 0, 0, 5, 6),
  })
  .map(({ network: [ethType, source, destination], protocol, frag, srcPort, dstPort, tag }) => {
    const key = new FlowKey();
    key.inPort = 1;
    key.ethSrc = CLIENT;
    key.ethDst = SERVER;
    key.ethType = ethType;
    if (tag !== 0) {
      key.vlanTci = VLAN_PRESENT | tag;
      key.vlanTpid = EtherType.VLAN;
    }
    key.words.set(source, Word.NW_SRC);
    key.words.set(destination, Word.NW_DST);
    if (ethType === EtherType.ARP) {
      key.nwProto = 2;
      return key;
    }
    key.nwProto = protocol;
    key.nwFrag = frag;
    if (frag === Frag.LATER || protocol === 47) return key;
    key.tpSrc = srcPort;
    key.tpDst = dstPort;
    return key;
  });

function build(plan: Plan): World {
  const world = new World();
  const bridge = new TestBridge('bridge');
  const client = world.localPort(bridge, 1, CLIENT);
  const server = world.localPort(bridge, 2, SERVER);
  const filters = new Filters();
  filters.group('members', MEMBERS);
  CHAINS.forEach((name, i) => {
    filters.set(name, plan.chains[i]);
  });
  const chains = (names: readonly string[]) => names.map((name) => filters.chain(name));
  const change = (port: TestFact<PortFact>, fields: Partial<PortFact>) => {
    port.value = { ...port.value!, ...fields } as PortFact;
  };
  change(client, { inboundFilters: chains(plan.portIn), groupIds: new Set(['clients']) });
  change(server, { outboundFilters: chains(plan.portOut), groupIds: new Set(['servers']) });
  bridge.inboundFilters = chains(plan.bridgeIn);
  bridge.outboundFilters = chains(plan.bridgeOut);
  return world;
}

/** One rule after the other, nothing looked up, nothing recorded. */
class Reference {
  /** Tags on the packet, the outermost last. */
  private readonly tags: number[];
  private readonly packet: FlowKey;
  private readonly compiled = new Map<RuleSpec, CompiledCondition>();
  private hasOutPort = false;

  constructor(
    private readonly plan: Plan,
    key: FlowKey,
  ) {
    this.packet = key.clone();
    this.tags = key.vlanTci === 0 ? [] : [key.vlanTci];
  }

  /** Why the packet is dropped, or its tags when it comes out. */
  outcome(): 'filtered' | 'rejected' | number[] {
    const { portIn, bridgeIn, bridgeOut, portOut } = this.plan;
    const isTagged = () => this.tags.length > 0;
    const dropped =
      this.ask(portIn) ??
      (isTagged() ? undefined : this.ask(bridgeIn)) ??
      this.known() ??
      (isTagged() ? undefined : this.ask(bridgeOut)) ??
      this.ask(portOut);
    return dropped ?? this.tags;
  }

  /** From here on it is known where the packet goes. */
  private known(): undefined {
    this.hasOutPort = true;
  }

  private ask(names: readonly string[]): 'filtered' | 'rejected' | undefined {
    for (const name of names) {
      const verdict = this.evaluate(name, new Set());
      if (verdict === 'drop') return 'filtered';
      if (verdict === 'reject') return 'rejected';
    }
    return undefined;
  }

  private evaluate(name: string, entered: Set<string>): string {
    entered.add(name);
    for (const rule of this.plan.chains[CHAINS.indexOf(name)]) {
      if (!this.matches(rule)) continue;
      let action: string = rule.type;
      if (rule.type === 'jump') {
        action = entered.has(rule.jumpChainId) ? 'continue' : this.evaluate(rule.jumpChainId, entered);
        if (action === 'return') action = 'continue';
      } else if (rule.type === 'l2-transform') {
        action = this.changeTags(rule.popVlan ?? false, rule.pushVlanId) ? rule.action : 'continue';
      }
      if (action !== 'continue') return action;
    }
    return 'return';
  }

  private matches(rule: RuleSpec): boolean {
    const condition = this.compiled.get(rule) ?? compileCondition(rule.if!);
    this.compiled.set(rule, condition);
    return matches(condition, this.packet, new FlowMask(), this.surroundings)!;
  }

  private changeTags(pop: boolean, push: number | undefined): boolean {
    if (pop && this.tags.pop() === undefined) return false;
    if (push !== undefined) this.tags.push(VLAN_PRESENT | push);
    this.packet.vlanTci = this.tags.at(-1) ?? 0;
    return true;
  }

  private get surroundings(): Surroundings {
    return {
      inPortId: 'port-1',
      outPortId: this.hasOutPort ? 'port-2' : undefined,
      entryPortGroupIds: new Set(['clients']),
      inPortGroupIds: new Set(['clients']),
      outPortGroupIds: new Set(this.hasOutPort ? ['servers'] : []),
      traversedDeviceIds: new Set(),
      isDestinationRewritten: false,
      connection: () => undefined,
      isMember: (_group, packet, side) => {
        const at = side === 'source' ? Word.NW_SRC : Word.NW_DST;
        const [a, b, c, d] = packet.words.subarray(at, at + 4);
        return MEMBERS.includes(packet.ethType === EtherType.IPV6 ? formatIpv6([a, b, c, d]) : formatIpv4(a));
      },
      icmpData: () => null,
    };
  }
}

/** The tags that a packet has behind the actions, and whether it comes out at port 2. */
function tagsBehind(actions: readonly Action[], key: FlowKey): number[] | undefined {
  const tags = key.vlanTci === 0 ? [] : [key.vlanTci];
  let isOut = false;
  for (const action of actions) {
    if (action.type === 'pop-vlan') tags.pop();
    if (action.type === 'push-vlan') tags.push(action.tci);
    if (action.type === 'output') isOut = action.port === 2;
  }
  return isOut ? tags : undefined;
}

test('rules decide as if they were looked at one by one', (t) => {
  fc.assert(
    fc.property(plans, keys, (plan, key) => {
      const { drop, actions } = build(plan).done(key);
      const expected = new Reference(plan, key).outcome();
      t.deepEqual(drop ?? tagsBehind(actions, key), expected);
    }),
    { numRuns: 400 },
  );
});

test('soundness: packets that agree in the bits that filters looked at are treated alike', (t) => {
  fc.assert(
    fc.property(plans, keys, keys, (plan, a, other) => {
      const world = build(plan);
      const decision = world.done(a);
      const { words } = decision.mask;
      const b = new FlowKey(a.words.map((word, i) => (word & words[i]) | (other.words[i] & ~words[i])));
      const again = world.done(b);
      t.is(again.drop, decision.drop);
      t.true(actionsEqual(again.actions, decision.actions));
      t.true(again.mask.equals(decision.mask));
    }),
    { numRuns: 400 },
  );
});

test('generality: what no rule compares is not looked at', (t) => {
  fc.assert(
    fc.property(plans, keys, (plan, key) => {
      const { mask } = build(plan).done(key);
      const all = plan.chains.flat().map((rule) => rule.if!);
      const compares = (...fields: (keyof Condition)[]) => all.some((one) => fields.some((field) => field in one));
      const seen = (first: number, count = 1) => mask.words.subarray(first, first + count).some((word) => word !== 0);
      if (!compares('sourcePorts')) t.false(seen(Word.TP_SRC));
      if (!compares('destinationPorts')) t.false(seen(Word.TP_DST));
      if (!compares('source', 'sourceAddressGroupId')) t.false(seen(Word.NW_SRC, 4));
      if (!compares('destination', 'destinationAddressGroupId')) t.false(seen(Word.NW_DST, 4));
      if (!compares('protocol', 'sourcePorts', 'destinationPorts')) t.false(seen(Word.NW_PROTO));
      t.false(seen(Word.NW_TOS) || seen(Word.NW_TTL) || seen(Word.TCP_FLAGS));
    }),
    { numRuns: 200 },
  );
});

/** The same chains on the way through a router: of its ports and its own. */
function buildRouted(plan: Plan): World {
  const world = new World();
  const near = new TestBridge('near');
  const far = new TestBridge('far');
  const router = new TestRouter('router');
  world.localPort(near, 1, CLIENT);
  world.localPort(far, 2, SERVER);
  far.ipv4(GATEWAY).value = { mac: SERVER };
  const { atRouter: nearPort } = joinToBridge(router, near, ROUTER, 0x0a00_00fe);
  const { atRouter: farPort } = joinToBridge(router, far, ROUTER + 1, 0x0a01_00fe);
  router.add('all', '0.0.0.0/0', { type: 'normal', port: farPort, gateway: Uint32Array.of(GATEWAY) });
  const filters = new Filters();
  filters.group('members', MEMBERS);
  CHAINS.forEach((name, i) => {
    filters.set(name, plan.chains[i]);
  });
  const chains = (names: readonly string[]) => names.map((name) => filters.chain(name));
  nearPort.value = { ...nearPort.value!, inboundFilters: chains(plan.portIn) };
  farPort.value = { ...farPort.value!, outboundFilters: chains(plan.portOut) };
  router.inboundFilters = chains(plan.bridgeIn);
  router.outboundFilters = chains(plan.bridgeOut);
  return world;
}

test('soundness through a router: alike packets are filtered, rejected and rewritten alike', (t) => {
  const routed = keys.map((key) => {
    key.ethDst = ROUTER;
    key.nwTtl = 64;
    return key;
  });
  fc.assert(
    fc.property(plans, routed, routed, (plan, a, other) => {
      const world = buildRouted(plan);
      const decision = world.done(a);
      const { words } = decision.mask;
      const b = new FlowKey(a.words.map((word, i) => (word & words[i]) | (other.words[i] & ~words[i])));
      const again = world.done(b);
      t.is(again.drop, decision.drop);
      t.is(again.install, decision.install);
      t.deepEqual(replies(again), replies(decision));
      t.true(actionsEqual(again.actions, decision.actions));
      t.true(again.mask.equals(decision.mask));
    }),
    { numRuns: 400 },
  );
});

/** What the sender is told. */
function replies({ effects }: Extract<Decision, { type: 'done' }>): unknown[] {
  return effects.flatMap((effect) => (effect.type === 'reply' ? [effect.reply, effect.to] : []));
}
