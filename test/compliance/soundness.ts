/**
 * What a datapath does with the flows of random networks, packet by packet, is what becomes of the packets when each is simulated:
 * the invariants of test/simulation/invariants.test.ts on every driver. The networks, their hosts and the traffic are those made there.
 */
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import type { Datapath, TrackedConnection } from '../../src/datapath/datapath.js';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey, Frag, Word } from '../../src/flow/key.js';
import { parseIpv4, parseIpv6 } from '../../src/packet/address.js';
import { readU48 } from '../../src/packet/big-endian.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import {
  MAX_MACHINES,
  type NetworkPlan,
  networkPlans,
  OUTER,
  VIP,
  withoutChoices,
} from '../simulation/network-plan.js';
import { PlannedHost, PlannedNetwork } from '../simulation/planned-network.js';
import { type Arrival, describeStep, type StepPlan, Talk, traffic } from '../simulation/traffic-plan.js';
import type { DatapathFactory, Endpoint, Lab } from './datapath.js';

/**
 * How long one driver's test may take, in milliseconds, with looking for a smaller counterexample. After that it ends with the networks
 * that there were, which are counted in its log.
 */
const TIME_LIMIT = 120_000;

/** One of two nodes on which the networks are, one network after the other. */
class Stage {
  private readonly machines: { readonly endpoint: Endpoint; readonly port: number; seen: number }[] = [];
  private tunnelPort = 0;
  private host: PlannedHost | undefined;

  private constructor(
    private readonly lab: Lab,
    private readonly otherUnderlay: number,
    private readonly index: number,
  ) {}

  static async make(lab: Lab, other: Lab, index: number): Promise<Stage> {
    const stage = new Stage(lab, other.underlay, index);
    lab.datapath.start({
      upcalls: (batch) => stage.host?.receive(batch),
      portsChanged: () => {},
      upcallsLost: (count) => {
        throw new Error(`${count} upcalls were lost`);
      },
    });
    stage.tunnelPort = (await lab.datapath.addPort(await lab.tunnel(), 'netdev')).number;
    for (let i = 0; i < MAX_MACHINES; i++) {
      const endpoint = await lab.connect(`m${index}${i}`);
      const { number } = await lab.datapath.addPort(endpoint.name, 'netdev');
      stage.machines.push({ endpoint, port: number, seen: 0 });
    }
    return stage;
  }

  get datapath(): Datapath {
    return this.lab.datapath;
  }

  /** Be a host of this network, from which nothing is known yet. */
  async play(plan: NetworkPlan): Promise<PlannedHost> {
    this.host = undefined;
    const zones = new Set((await this.datapath.connections(undefined, 10_000)).map(({ zone }) => zone));
    await this.datapath.flushFlows();
    await this.datapath.flushZones(zones);
    const machinePorts = new Map<number, number>();
    plan.machines.forEach(({ host }, i) => {
      if (host === this.index) machinePorts.set(i, this.machines[i].port);
    });
    const underlay = [this.lab.underlay, this.otherUnderlay] as const;
    const { datapath, tunnelPort } = this;
    this.host = new PlannedHost(this.index, plan, { datapath, underlay, tunnelPort, machinePorts });
    return this.host;
  }

  async send(machine: number, frame: Uint8Array): Promise<void> {
    await this.machines[machine].endpoint.send(frame);
  }

  settle(): Promise<void> {
    return this.lab.settle();
  }

  /** What came to machines since the last look. The kernel's own frames have other addresses. */
  arrived(): Arrival[] {
    return this.machines.flatMap((machine, at) => {
      const all = machine.endpoint.received();
      const fresh = all.slice(machine.seen);
      machine.seen = all.length;
      return fresh
        .filter((frame) => Math.floor(readU48(frame, 6) / 2 ** 16) === 0x0200_0000)
        .map((frame) => ({ at, frame }));
    });
  }
}

/**
 * Registers the test for a driver.
 * @param networks how many networks
 * @param pairs of nodes, which play networks at the same time
 */
export function soundnessCompliance(
  driver: string,
  factory: DatapathFactory,
  { networks, pairs }: { readonly networks: number; readonly pairs: number },
): void {
  test.serial(`${driver}: in random networks flows do with packets what simulating each of them does`, async (t) => {
    t.timeout(600_000);
    const labs = await Promise.all(Array.from({ length: pairs }, () => factory.makePair()));
    try {
      await Promise.all(labs.map((pair) => check(t, pair, Math.ceil(networks / pairs))));
    } finally {
      for (const lab of labs.flat()) await lab.close();
    }
    t.pass();
  });
}

async function check(t: ExecutionContext, [a, b]: readonly [Lab, Lab], networks: number): Promise<void> {
  const stages = [await Stage.make(a, b, 0), await Stage.make(b, a, 1)];
  let talks = 0;
  let packets = 0;
  let flows = 0;
  await fc.assert(
    fc.asyncProperty(networkPlans.map(withoutChoices), traffic(8), async (plan, steps) => {
      const network = new Performance(plan, stages, ++talks);
      await network.begin();
      for (const step of steps) packets += await network.carryOut(step);
      flows += await network.end();
    }),
    { numRuns: networks, interruptAfterTimeLimit: TIME_LIMIT, includeErrorInReport: true },
  );
  t.log(`${packets} packets by ${flows} flows in ${talks} networks`);
}

/** A network on two nodes, and the same one where every packet is simulated. */
class Performance {
  private readonly talk: Talk;
  private readonly simulated: PlannedNetwork;
  private readonly memory: PlannedNetwork;
  private hosts: readonly PlannedHost[] = [];
  private readonly arrivals: Arrival[] = [];

  constructor(
    private readonly plan: NetworkPlan,
    private readonly stages: readonly Stage[],
    talk: number,
  ) {
    this.talk = new Talk(plan, talk);
    this.simulated = new PlannedNetwork(plan, { installs: false });
    this.memory = new PlannedNetwork(plan);
  }

  async begin(): Promise<void> {
    this.hosts = await Promise.all(this.stages.map((stage) => stage.play(this.plan)));
  }

  /** Each frame is sent twice: once when there may be no flow for it, once when there is. Returns how many came to machines. */
  async carryOut(step: StepPlan): Promise<number> {
    const sent = this.talk.frameOf(step, this.arrivals);
    if (sent === undefined) return 0;
    const { host } = this.plan.machines[sent.from];
    let count = 0;
    for (const time of ['first', 'second']) {
      await this.stages[host].send(sent.from, sent.frame);
      const wanted = this.simulated.send(sent.from, sent.frame).map(([at, frame]) => ({ at, frame }));
      this.memory.send(sent.from, sent.frame);
      const arrived: Arrival[] = [];
      // What crosses from node to node may come when one of them has been found quiet.
      for (let looks = 0; looks === 0 || (looks < 3 && describe(arrived) !== describe(wanted)); looks++) {
        await Promise.all(this.stages.map((stage) => stage.settle()));
        arrived.push(...this.stages.flatMap((stage) => stage.arrived()));
      }
      if (describe(arrived) !== describe(wanted)) {
        throw new Error(
          `${describeStep(step)}, the ${time} time\nby flows:\n${describe(arrived)}\nsimulated:\n${describe(wanted)}`,
        );
      }
      this.arrivals.push(...arrived);
      count += arrived.length;
    }
    return count;
  }

  /** Returns how many flows there are. */
  async end(): Promise<number> {
    for (const [i, host] of this.hosts.entries()) {
      if (host.faults.length > 0) throw new Error(`host ${i}: ${host.faults.join('; ')}`);
      const [own, memory] = [host.decisions, this.memory.hosts[i].decisions].map(({ length }) => length);
      if (own !== memory) throw new Error(`host ${i} has ${own} flows, ${memory} in memory`);
      const [tracked, wanted] = await Promise.all(
        [host, this.simulated.hosts[i]].map(async ({ setting }) =>
          describeConnections(await setting.datapath.connections(undefined, 10_000)),
        ),
      );
      if (tracked !== wanted) throw new Error(`host ${i} tracks:\n${tracked}\nsimulated:\n${wanted}`);
    }
    return this.hosts.reduce((sum, { decisions }) => sum + decisions.length, 0);
  }
}

function describe(arrivals: readonly Arrival[]): string {
  return arrivals
    .map(({ at, frame }) => `  machine ${at} gets ${Buffer.from(withoutChance(frame)).toString('hex')}`)
    .sort()
    .join('\n');
}

const TRANSLATED_IPV4 = [parseIpv4(OUTER.ipv4)!, parseIpv4(VIP.ipv4)!];
const TRANSLATED_IPV6 = [parseIpv6(OUTER.ipv6)!, parseIpv6(VIP.ipv6)!].map((words) => words.join());

/** The frame without what the kernel chooses at random: ports that sources are translated to, and identifiers of IPv6 fragments. */
function withoutChance(frame: Uint8Array): Uint8Array {
  const key = new FlowKey();
  extractKey(frame, key);
  const bytes = frame.slice();
  const ip = key.vlanTci === 0 ? 14 : 18;
  const isIpv4 = key.ethType === EtherType.IPV4;
  if (!isIpv4 && key.ethType !== EtherType.IPV6) return bytes;
  const isFragment = key.nwFrag !== Frag.NONE;
  if (isFragment && !isIpv4) bytes.fill(0, ip + 44, ip + 48);
  const isTranslated = [Word.NW_SRC, Word.NW_DST].some((word) =>
    isIpv4
      ? TRANSLATED_IPV4.includes(key.words[word])
      : TRANSLATED_IPV6.includes(key.words.slice(word, word + 4).join()),
  );
  if (!isTranslated || key.nwFrag === Frag.LATER) return bytes;
  const transport = ip + (isIpv4 ? 20 : 40) + (isFragment && !isIpv4 ? 8 : 0);
  // Ports or, of ICMP, checksum and identifier; then the other checksums.
  const at = { [IpProtocol.TCP]: [0, 4, 16, 18], [IpProtocol.UDP]: [0, 4, 6, 8], [IpProtocol.SCTP]: [0, 4, 8, 12] }[
    key.nwProto
  ] ?? [2, 8];
  for (let i = 0; i < at.length; i += 2) bytes.fill(0, transport + at[i], transport + at[i + 1]);
  return bytes;
}

/** Where the kernel itself tracks what goes between the nodes. */
const UNDERLAY_ZONE = 0;

function describeConnections(connections: readonly TrackedConnection[]): string {
  return connections
    .filter(({ zone }) => zone !== UNDERLAY_ZONE)
    .map(({ zone, protocol, original, answered, tcpState, mark }) => {
      const { src, dst } = original;
      return `  zone ${zone} protocol ${protocol} ${src} > ${dst} answered ${answered} ${tcpState ?? ''} mark ${mark}`;
    })
    .sort()
    .join('\n');
}
