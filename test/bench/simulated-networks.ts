import type { FlowKey } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { formatIpv4, parseIpv4Cidr } from '../../src/packet/address.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import type { Surroundings } from '../../src/simulation/condition.js';
import type { Limits } from '../../src/simulation/context.js';
import type { NeighborFact, PortFact, VipAnswer } from '../../src/simulation/fact.js';
import { RuleIndex } from '../../src/simulation/rule-index.js';
import { simulate } from '../../src/simulation/simulate.js';
import { type VipCell, VipIndex } from '../../src/simulation/vip-index.js';
import type { Condition } from '../../src/topology/chains.js';
import { positionsAfter } from '../../src/topology/position.js';
import { Dice } from '../dice.js';
import { Filters } from '../simulation/filters.js';
import { joinToBridge, TestRouter } from '../simulation/routers.js';
import { fact, keyOf, TestBridge, type TestFact, tcpFrame, World } from '../simulation/world.js';

/** Something that is decided for one packet after the other. */
export interface Subject {
  readonly name: string;
  /** How many entries the table has that is looked up. */
  readonly size: number;
  /** Decide for the next `count` packets. */
  run(count: number): void;
}

/** Different packets, in an order that is the same each time. A power of two. */
const PACKETS = 4096;
const LIMITS: Limits = { maxActionsLength: 32_768, actionsLength: (actions) => 32 * actions.length };

const CLIENT = 0x0200_0000_0000;
const CLIENT_IP = 0x0a01_0100;
const SERVER = 0x0200_0001_0000;
const SERVER_IP = 0x0a02_0100;
const GATEWAY = 0x0200_0002_0000;

/** Neighbours by number, as the agent has them. */
class Bridge extends TestBridge {
  private readonly byAddress = new Map<number, TestFact<NeighborFact>>();

  override ipv4(address: number): TestFact<NeighborFact> {
    let entry = this.byAddress.get(address);
    if (entry === undefined) {
      entry = fact<NeighborFact>(formatIpv4(address), null);
      this.byAddress.set(address, entry);
    }
    return entry;
  }
}

/** From any to any of `size` ports of one bridge. */
export function switching(size: number): Subject {
  const world = new World();
  const bridge = new Bridge('bridge');
  for (let i = 0; i < size; i++) world.localPort(bridge, i + 1, CLIENT + i);
  return packets('switching', size, world, (dice) => {
    const from = dice.below(size);
    const to = (from + 1 + dice.below(size - 1)) % size;
    return keyOf(tcpFrame({ srcMac: CLIENT + from, dstMac: CLIENT + to }), from + 1);
  });
}

/**
 * From a bridge to another bridge through two routers, with `size` ports on each bridge. That is four devices, and five links on the way.
 */
export function twoRouters(size: number): Subject {
  const world = new World();
  const near = new Bridge('near');
  const middle = new Bridge('middle');
  const far = new Bridge('far');
  addMachines(world, near, 1, CLIENT, CLIENT_IP, size);
  addMachines(world, far, size + 1, SERVER, SERVER_IP, size);
  const [first, second] = [new TestRouter('first'), new TestRouter('second')];
  joinToBridge(first, near, GATEWAY, 0x0a01_0001);
  const onward = joinToBridge(first, middle, GATEWAY + 1, 0x0a03_0001);
  joinToBridge(second, middle, GATEWAY + 2, 0x0a03_0002);
  const last = joinToBridge(second, far, GATEWAY + 3, 0x0a02_0001);
  first.add('onward', '10.2.0.0/16', {
    type: 'normal',
    port: onward.atRouter,
    gateway: Uint32Array.of(0x0a03_0002),
  });
  second.add('last', '10.2.0.0/16', { type: 'normal', port: last.atRouter });
  return packets('two-routers', size, world, (dice) => {
    const from = dice.below(size);
    const ends = { src: CLIENT_IP + from, dst: SERVER_IP + dice.below(size) };
    return keyOf(tcpFrame({ srcMac: CLIENT + from, dstMac: GATEWAY, ...ends }), from + 1);
  });
}

/**
 * From a bridge through a router, past a chain of `size` rules at the port where packets come in. Rules differ in source, destination,
 * protocol and ports as those of firewalls do. Half of the packets are as one of the rules says, and the others mostly pass all.
 */
export function firewall(size: number): Subject {
  const world = new World();
  const near = new Bridge('near');
  const far = new Bridge('far');
  const [client] = addMachines(world, near, 1, CLIENT, CLIENT_IP, 1);
  addMachines(world, far, 2, SERVER, SERVER_IP, 1);
  const router = new TestRouter('router');
  joinToBridge(router, near, GATEWAY, 0x0a01_0001);
  const { atRouter } = joinToBridge(router, far, GATEWAY + 1, 0x0a02_0001);
  router.add('route', '0.0.0.0/0', { type: 'normal', port: atRouter, gateway: Uint32Array.of(SERVER_IP) });
  const dice = new Dice(size);
  const rules = Array.from({ length: size }, () => firewallRule(dice));
  client.value = { ...client.value!, inboundFilters: [new Filters().set('firewall', rules)] };
  return packets('firewall', size, world, (random) => firewallPacket(rules, random));
}

/** The search for the first of `size` rules that a packet matches, with the same rules and packets as {@link firewall}. */
export function ruleSearch(size: number): Subject {
  const dice = new Dice(size);
  const rules = Array.from({ length: size }, () => firewallRule(dice));
  const positions = positionsAfter(undefined, size);
  const index = new RuleIndex(rules.map((rule, i) => ({ id: `${i}`, position: positions[i], condition: rule.if })));
  const keys = someKeys((random) => firewallPacket(rules, random));
  const seen = new FlowMask();
  let next = 0;
  return {
    name: 'rule-search',
    size,
    run(count) {
      for (let i = 0; i < count; i++) index.nextMatch(undefined, keys[next++ & (PACKETS - 1)], seen, NOWHERE);
    },
  };
}

/** No rule of a firewall here asks for what surrounds a packet. */
const NOWHERE: Surroundings = {
  inPortId: undefined,
  outPortId: undefined,
  entryPortGroupIds: new Set(),
  inPortGroupIds: new Set(),
  outPortGroupIds: new Set(),
  traversedDeviceIds: new Set(),
  isDestinationRewritten: false,
  connection: () => undefined,
  isMember: () => undefined,
  icmpData: () => undefined,
};

interface FirewallRule {
  readonly type: 'accept';
  readonly if: Condition;
}

function firewallRule(dice: Dice): FirewallRule {
  const network = () => `${formatIpv4(someAddress(dice))}/${16 + dice.below(17)}`;
  const start = dice.below(0xff00);
  const end = dice.chance(75) ? start : start + dice.below(0x100);
  const source = dice.chance(60) ? network() : undefined;
  return {
    type: 'accept',
    if: {
      source,
      // Nothing is for all packets of a protocol, or the rules behind that one would not count.
      destination: source === undefined || dice.chance(60) ? network() : undefined,
      protocol: dice.pick([IpProtocol.TCP, IpProtocol.TCP, IpProtocol.UDP]),
      destinationPorts: dice.chance(80) ? { start, end } : undefined,
    },
  };
}

function firewallPacket(rules: readonly FirewallRule[], dice: Dice): FlowKey {
  const { source, destination, destinationPorts } = rules[dice.below(rules.length)].if;
  const isAlike = dice.chance(50);
  const src = source === undefined || !isAlike ? someAddress(dice) : parseIpv4Cidr(source)!.address;
  const dst = destination === undefined || !isAlike ? someAddress(dice) : parseIpv4Cidr(destination)!.address;
  const port = destinationPorts === undefined || !isAlike ? dice.below(0x1_0000) : destinationPorts.start;
  return keyOf(tcpFrame({ srcMac: CLIENT, dstMac: GATEWAY, src, dst }, 1024 + dice.below(60_000), port), 1);
}

/** 16.0.0.0 to 95.255.255.255. */
function someAddress(dice: Dice): number {
  return 0x1000_0000 + dice.below(0x5000_0000);
}

/** From a bridge through a router with `size` routes to one of two gateways. */
export function routes(size: number): Subject {
  const world = new World();
  const near = new Bridge('near');
  const far = new Bridge('far');
  addMachines(world, near, 1, CLIENT, CLIENT_IP, 1);
  addMachines(world, far, 2, SERVER, SERVER_IP, 2);
  const router = new TestRouter('router');
  joinToBridge(router, near, GATEWAY, 0x0a01_0001);
  const { atRouter } = joinToBridge(router, far, GATEWAY + 1, 0x0a02_0001);
  const dice = new Dice(size);
  const networks: number[] = [];
  for (let i = 0; i < size; i++) {
    const network = (someAddress(dice) & 0xffff_ff00) >>> 0;
    networks.push(network);
    const gateway = Uint32Array.of(SERVER_IP + (i % 2));
    router.add(`route ${i}`, `${formatIpv4(network)}/${16 + dice.below(9)}`, {
      type: 'normal',
      port: atRouter,
      gateway,
    });
  }
  return packets('routes', size, world, (random) => {
    const dst = networks[random.below(size)] + random.below(256);
    return keyOf(tcpFrame({ srcMac: CLIENT, dstMac: GATEWAY, src: CLIENT_IP, dst }), 1);
  });
}

/** The look-up of the VIP that a packet goes to, among `size` VIPs: half of the packets go to one. */
export function vips(size: number): Subject {
  const index = new VipIndex<number>((tag) => new VipFact(tag));
  const dice = new Dice(size);
  const addresses: number[] = [];
  for (let i = 0; i < size; i++) {
    const address = someAddress(dice);
    addresses.push(address);
    index.set(`vip ${i}`, { address: { family: 4, words: [address] }, protocol: IpProtocol.TCP, port: 80 }, i);
  }
  const keys = someKeys((random) => {
    const dst = random.chance(50) ? addresses[random.below(size)] : someAddress(random);
    return keyOf(tcpFrame({ srcMac: CLIENT, dstMac: GATEWAY, src: CLIENT_IP, dst }), 1);
  });
  const seen = new FlowMask();
  let next = 0;
  return {
    name: 'vip-lookup',
    size,
    run(count) {
      for (let i = 0; i < count; i++) index.lookup(keys[next++ & (PACKETS - 1)], seen);
    },
  };
}

class VipFact implements VipCell<VipAnswer<number>> {
  value: VipAnswer<number> | null = null;

  constructor(readonly tag: string) {}

  set(value: VipAnswer<number> | null): void {
    this.value = value;
  }

  touch(): void {}
}

/** `count` machines with addresses in a row, at datapath ports from `port` on. Returns their ports. */
function addMachines(
  world: World,
  bridge: Bridge,
  port: number,
  mac: number,
  address: number,
  count: number,
): TestFact<PortFact>[] {
  return Array.from({ length: count }, (_, i) => {
    bridge.ipv4(address + i).value = { mac: mac + i };
    return world.localPort(bridge, port + i, mac + i);
  });
}

function packets(name: string, size: number, world: World, draw: (dice: Dice) => FlowKey): Subject {
  const keys = someKeys(draw);
  const ingresses = keys.map(({ inPort }) => world.ingress(inPort));
  let next = 0;
  return {
    name,
    size,
    run(count) {
      for (let i = 0; i < count; i++) {
        const at = next++ & (PACKETS - 1);
        const decision = simulate(keys[at], ingresses[at], LIMITS);
        if (decision.type === 'wait' || decision.actions.length === 0) throw notForwarded(name, decision);
      }
    },
  };
}

function notForwarded(name: string, decision: ReturnType<typeof simulate>): Error {
  const why = decision.type === 'wait' ? decision.missing.map(({ tag }) => tag).join() : decision.drop;
  return new Error(`${name}: a packet goes nowhere: ${why}`);
}

function someKeys(draw: (dice: Dice) => FlowKey): FlowKey[] {
  const dice = new Dice(1);
  return Array.from({ length: PACKETS }, () => draw(dice));
}
