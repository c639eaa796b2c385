import { Lab, must, type Pod, run, until } from '../kernel/lab.js';
import { type Figure, figure } from './figure.js';

const ROUNDS = 5;
const SECONDS = 3;
/** What fits a 1500-byte underlay through VXLAN; the peer's pods have the same. */
const MTU = 1450;

/** Where a TCP stream runs from and to. */
interface Path {
  readonly from: string;
  readonly to: string;
  readonly address: string;
}

/** iperf3 from pod to pod: on one node, through VXLAN and through GRE, against Linux bridges and tunnels in turn. */
export async function benchThroughput(progress: (text: string) => void): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const zone of ['vxlan', 'gre'] as const) {
    const lab = await Lab.start({ zone, network: { mtu: MTU } });
    const peer = new LinuxBridges(lab, zone);
    const pods: Pod[] = [];
    try {
      for (const [name, node] of [
        ['a', 0],
        ['b', 0],
        ['c', 1],
      ] as const)
        pods.push(await lab.nodes[node].addPod(name));
      await peer.start();
      const [a, b, c] = pods;
      const way = (from: Pod, to: Pod): Path => ({ from: from.namespace, to: to.namespace, address: to.ipv4 });
      if (zone === 'vxlan') {
        figures.push(await compare('throughput-same-node', way(a, b), peer.path(0, 1), 'Linux bridge', progress));
      }
      const peerName = `Linux bridge with ${zone === 'vxlan' ? 'VXLAN' : 'GRE'} device`;
      figures.push(await compare(`throughput-${zone}`, way(a, c), peer.path(0, 2), peerName, progress));
    } finally {
      await peer.close();
      for (const pod of pods) await run('ip', 'netns', 'delete', pod.namespace);
      await lab.close();
    }
  }
  return figures;
}

async function compare(
  bench: string,
  ours: Path,
  peer: Path,
  peerName: string,
  progress: (text: string) => void,
): Promise<Figure> {
  const samples = { ours: [] as number[], peer: [] as number[] };
  for (let round = 1; round <= ROUNDS; round++) {
    samples.ours.push(await gigabits(ours));
    samples.peer.push(await gigabits(peer));
    progress(
      `${bench}: ${round} of ${ROUNDS} rounds, ours ${samples.ours.at(-1)?.toFixed(2)}, peer ${samples.peer.at(-1)?.toFixed(2)}`,
    );
  }
  return figure(bench, 'Gbit/s', samples.ours, samples.peer, peerName);
}

/** One TCP stream's rate at the receiver. */
async function gigabits({ from, to, address }: Path): Promise<number> {
  const server = run('ip', 'netns', 'exec', to, 'iperf3', '-s', '-1', '-J');
  const listening = async () => (await run('ip', 'netns', 'exec', to, 'ss', '-Hltn', 'sport = :5201')).stdout !== '';
  await until('iperf3 to listen', listening, 20_000);
  const client = await must('ip', 'netns', 'exec', from, 'iperf3', '-c', address, '-t', `${SECONDS}`, '-J');
  await server;
  return (
    (JSON.parse(client) as { end: { sum_received: { bits_per_second: number } } }).end.sum_received.bits_per_second /
    1e9
  );
}

/** The same shape without us: two namespaces with a bridge each, joined by a kernel tunnel over the lab's underlay. */
class LinuxBridges {
  private readonly namespaces: string[] = [];

  constructor(
    private readonly lab: Lab,
    private readonly zone: 'vxlan' | 'gre',
  ) {}

  path(from: number, to: number): Path {
    return { from: this.pod(from), to: this.pod(to), address: address(to) };
  }

  async start(): Promise<void> {
    for (const index of [0, 1]) {
      const node = this.lab.nodes[index].name;
      const remote = this.lab.nodes[1 - index].address;
      const local = this.lab.nodes[index].address;
      const tunnel =
        this.zone === 'vxlan'
          ? ['vxlan', 'id', '42', 'local', local, 'remote', remote, 'dstport', '4789']
          : ['gretap', 'local', local, 'remote', remote, 'key', '42', 'nopmtudisc'];
      await must('ip', '-n', node, 'link', 'add', 'br-peer', 'type', 'bridge');
      await must('ip', '-n', node, 'link', 'add', 'tun-peer', 'type', ...tunnel);
      await must('ip', '-n', node, 'link', 'set', 'tun-peer', 'master', 'br-peer', 'mtu', `${MTU}`, 'up');
      await must('ip', '-n', node, 'link', 'set', 'br-peer', 'up');
    }
    for (const [index, node] of [
      [0, 0],
      [1, 0],
      [2, 1],
    ])
      await this.addPod(index, this.lab.nodes[node].name);
    await until('the peer to work', async () => {
      const { from, address: to } = this.path(0, 2);
      return (await run('ip', 'netns', 'exec', from, 'ping', '-c', '1', '-W', '1', to)).status === 0;
    });
  }

  /** The nodes' namespaces take everything else along. */
  async close(): Promise<void> {
    for (const namespace of this.namespaces) await run('ip', 'netns', 'delete', namespace);
  }

  private pod(index: number): string {
    return `peer${index}-${this.lab.tag}`;
  }

  private async addPod(index: number, node: string): Promise<void> {
    const name = this.pod(index);
    await must('ip', 'netns', 'add', name);
    this.namespaces.push(name);
    await must('ip', '-n', node, 'link', 'add', `pv${index}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
    await must('ip', '-n', node, 'link', 'set', `pv${index}`, 'master', 'br-peer', 'up');
    await must('ip', '-n', name, 'addr', 'add', `${address(index)}/24`, 'dev', 'eth0');
    await must('ip', '-n', name, 'link', 'set', 'eth0', 'mtu', `${MTU}`, 'up');
  }
}

function address(index: number): string {
  return `10.99.0.${index + 1}`;
}
