import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CNI_PROGRAM, Lab, must, run, SUBNET_V4 } from '../kernel/lab.js';
import { type Figure, figure } from './figure.js';

const ROUNDS = 60;
const PEER_PROGRAM = '/usr/lib/cni/bridge';
const PEER_NAME = 'bridge with host-local';
const TIMER_SOURCE = fileURLToPath(new URL('../../../test/bench/spawn-timer.c', import.meta.url));

/** ADD and DEL, whole process, ours and the reference plugins' in turn on the same node. */
export async function benchCni(progress: (text: string) => void): Promise<Figure[]> {
  const lab = await Lab.start({ nodes: 1, network: { subnets: [{ cidr: SUBNET_V4 }] } });
  const namespaces: string[] = [];
  try {
    const timer = join(lab.folder, 'spawn-timer');
    await must('cc', '-O2', '-o', timer, TIMER_SOURCE);
    const [node] = lab.nodes;
    const plugins = [
      { program: CNI_PROGRAM, prefix: 'ours', config: node.networkConfig(), add: [] as number[], del: [] as number[] },
      { program: PEER_PROGRAM, prefix: 'peer', config: peerConfig(lab), add: [] as number[], del: [] as number[] },
    ];
    for (let round = 0; round < ROUNDS; round++) {
      for (const plugin of plugins) {
        const namespace = `${plugin.prefix}${round}-${lab.tag}`;
        await must('ip', 'netns', 'add', namespace);
        namespaces.push(namespace);
        const call = { timer, plugin, namespace, node: node.name };
        const add = await timed(call, 'ADD');
        const del = await timed(call, 'DEL');
        // The first calls make the network and its bridge.
        if (round < 5) continue;
        plugin.add.push(add);
        plugin.del.push(del);
      }
      if (round % 10 === 9) progress(`cni: ${round + 1} of ${ROUNDS} rounds`);
    }
    const [ours, peer] = plugins;
    return [
      figure('cni-add', 'ms', ours.add, peer.add, PEER_NAME),
      figure('cni-del', 'ms', ours.del, peer.del, PEER_NAME),
    ];
  } finally {
    for (const namespace of namespaces) await run('ip', 'netns', 'delete', namespace);
    await lab.close();
  }
}

function peerConfig(lab: Lab): Record<string, unknown> {
  return {
    cniVersion: '1.0.0',
    name: 'peer',
    type: 'bridge',
    bridge: 'br-peer',
    ipam: { type: 'host-local', subnet: '10.89.0.0/16', dataDir: join(lab.folder, 'host-local') },
  };
}

interface TimedCall {
  readonly timer: string;
  readonly plugin: { readonly program: string; readonly config: unknown };
  readonly namespace: string;
  readonly node: string;
}

/** Milliseconds that the plugin's process took. */
function timed({ timer, plugin, namespace, node }: TimedCall, command: string): Promise<number> {
  const environment = {
    PATH: process.env.PATH,
    CNI_COMMAND: command,
    CNI_CONTAINERID: namespace,
    CNI_NETNS: `/run/netns/${namespace}`,
    CNI_IFNAME: 'eth0',
    CNI_PATH: '/usr/lib/cni',
  };
  return new Promise((resolve, reject) => {
    const child = execFile(
      'ip',
      ['netns', 'exec', node, timer, plugin.program],
      { env: environment },
      (error, stdout, stderr) => {
        const match = /^spawn-timer (\d+) (\d+)$/m.exec(stderr);
        if (error !== null || match === null || match[1] !== '0') {
          reject(new Error(`${command} by ${plugin.program}: ${stdout}${stderr}`));
        } else resolve(Number(match[2]) / 1e6);
      },
    );
    child.stdin?.end(JSON.stringify(plugin.config));
  });
}
