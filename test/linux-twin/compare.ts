import { formatMac, parseMac } from '../../src/packet/address.js';
import { formatIp } from '../../src/packet/ip.js';
import { TcpFlag } from '../../src/packet/tcp.js';
import type { Dice } from '../dice.js';
import { comparable, isNobodyThere, isSaidByRoute } from './known-differences.js';
import type { Network, PodSpec } from './network.js';
import type { OurTwin } from './ours.js';
import { answerTo, describePacket, frameOf, parseFrame, randomPacket, type Seen, type Sent } from './packets.js';
import type { Twin } from './twin.js';

/** What is slow on a busy machine may still come. */
const PATIENCE_MS = 1000;
/** How often packets that differ are sent again. */
const ATTEMPTS = 4;
/** How many that still differ are explained. */
const EXPLAINED = 5;

/** A packet that pods of both networks send; they differ in ports that a router has chosen. */
interface Pair {
  readonly number: number;
  readonly ours: Sent;
  readonly linux: Sent;
}

interface Arrival {
  readonly pod: string;
  readonly frame: Uint8Array;
  readonly seen: Seen;
}

/** By the number of the packet that has brought it about. */
type Arrivals = Map<number, Arrival[]>;

export interface Outcome {
  /** Packets that both networks were given, and copies of them and errors that came out alike. */
  readonly sent: number;
  readonly arrived: number;
  /** In a few lines each. */
  readonly differences: readonly string[];
}

/** Has the pods of both networks say the same and compares what they hear: packets, answers to these, and both once more. */
export async function compare(
  ours: OurTwin,
  linux: Twin,
  network: Network,
  dice: Dice,
  count: number,
): Promise<Outcome> {
  const round = new Round(ours, linux, network);
  const openers = Array.from({ length: count }, (_, i): Pair => {
    const sent = randomPacket(dice, network, i + 1);
    return { number: i + 1, ours: sent, linux: sent };
  });
  await round.run(openers);
  await round.answer(5);
  await round.run(openers.map((opener) => (round.isAnswered(opener) ? follow(opener) : opener)));
  await round.answer(3);
  return round;
}

/** What a pod sends when it has been answered. */
function follow({ number, ours }: Pair): Pair {
  const { content } = ours.packet;
  const follows = content.type === 'tcp' ? { ...content, flags: TcpFlag.ACK } : content;
  const sent = { ...ours, packet: { ...ours.packet, content: follows } };
  return { number, ours: sent, linux: sent };
}

class Round implements Outcome {
  sent = 0;
  arrived = 0;
  readonly differences: string[] = [];
  private last: { readonly ours: Arrivals; readonly linux: Arrivals } = { ours: new Map(), linux: new Map() };

  constructor(
    private readonly ours: OurTwin,
    private readonly linux: Twin,
    private readonly network: Network,
  ) {}

  /** Sends the packets and compares what comes. On a busy machine some get lost, so those that differ are sent again. */
  async run(pairs: readonly Pair[]): Promise<void> {
    this.last = { ours: new Map(), linux: new Map() };
    await this.send(pairs);
    const differing = () => pairs.filter((pair) => this.difference(pair) !== undefined);
    let again = differing();
    for (let attempt = 0; again.length > 0 && attempt < ATTEMPTS; attempt++) {
      for (const { number } of again) for (const arrivals of Object.values(this.last)) arrivals.delete(number);
      await this.send(again);
      again = differing();
    }
    this.sent += pairs.length;
    for (const list of this.last.linux.values()) this.arrived += list.length;
    for (const pair of again) {
      const why =
        this.differences.length < EXPLAINED
          ? await this.ours.explain(pair.ours.pod.name, frame(pair.ours, pair.number))
          : '';
      this.differences.push(`${this.difference(pair)!}\n${why}`);
    }
  }

  private async send(pairs: readonly Pair[]): Promise<void> {
    for (const { number, ours, linux } of pairs) {
      this.ours.send(ours.pod.name, frame(ours, number));
      this.linux.send(linux.pod.name, frame(linux, number));
    }
    await this.linux.letNeighborsFail(0);
    await this.collect('linux');
    const lost = [...this.last.linux.values()].flat().filter(({ seen }) => isNobodyThere(seen.packet));
    await this.ours.letNeighborsFail(lost.length);
    await this.collect('ours');
    const end = performance.now() + PATIENCE_MS;
    while (pairs.some((pair) => this.difference(pair) !== undefined) && performance.now() < end) {
      await this.ours.letNeighborsFail(lost.length);
      await this.collect('ours');
      await this.collect('linux');
    }
  }

  /** Has pods answer what they have got; one in `refused` answers is that nobody listens. */
  async answer(refused: number): Promise<void> {
    const { ours, linux } = this.last;
    const pairs: Pair[] = [];
    for (const [number, list] of ours) {
      const answers = [list, linux.get(number) ?? []].map((arrivals) =>
        arrivals.map((arrival) => this.answerTo(arrival, number % refused)).find((answer) => answer !== undefined),
      );
      if (answers[0] !== undefined && answers[1] !== undefined)
        pairs.push({ number, ours: answers[0], linux: answers[1] });
    }
    await this.run(pairs);
  }

  /** Whether who the packet was sent to has answered its sender, in both. */
  isAnswered({ number, ours: { pod, packet } }: Pair): boolean {
    const asked = formatIp(packet.destination);
    return [this.last.ours, this.last.linux].every((arrivals) =>
      arrivals.get(number)?.some((one) => one.pod === pod.name && formatIp(one.seen.packet.source) === asked),
    );
  }

  private answerTo({ pod, frame }: Arrival, choice: number): Sent | undefined {
    return answerTo(this.network, this.pod(pod), frame, choice);
  }

  private pod(wanted: string): PodSpec {
    return this.network.pods.find(({ name }) => name === wanted)!;
  }

  private async collect(side: 'ours' | 'linux'): Promise<void> {
    const came = this.last[side];
    for (const [pod, frame] of await this[side].received()) {
      const seen = parseFrame(frame);
      if (seen === undefined) continue;
      const list = came.get(seen.number) ?? [];
      came.set(seen.number, list);
      list.push({ pod, frame, seen });
    }
  }

  private difference({ number, ours, linux }: Pair): string | undefined {
    const lines = (side: 'ours' | 'linux', sent: Sent) =>
      (this.last[side].get(number) ?? [])
        .map(({ pod, seen }) => comparable(this.network, sent, this.pod(pod), seen))
        .filter((seen) => seen !== undefined)
        .sort();
    const [a, b] = [lines('ours', ours), lines('linux', linux)];
    if (a.join() === b.join()) return undefined;
    // Of what its routes say Linux tells an IPv4 host five errors at once, and then one a second.
    const errors = this.last.ours.get(number) ?? [];
    if (b.length === 0 && errors.every(({ seen }) => isSaidByRoute(seen.packet))) return undefined;
    const show = (list: readonly string[]) =>
      list.length === 0 ? ' nothing' : list.map((line) => `\n    ${line}`).join('');
    return `${ours.pod.name} sent ${describe(ours)}\n  ours:${show(a)}\n  Linux:${show(b)}`;
  }
}

function frame({ pod, dstMac, packet }: Sent, number: number): Uint8Array {
  return frameOf(dstMac, parseMac(pod.mac)!, packet, number);
}

function describe({ dstMac, packet }: Sent): string {
  return `to ${formatMac(dstMac)}: ${describePacket(packet)}`;
}
