import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { idFromName } from '../../src/topology/id.js';
import { Lab, type LabNode, must, type Pod, received, run, until } from '../kernel/lab.js';

/**
 * Two nodes, four pods, attached as a container runtime does it: what the README's first command shows. Prints what it does
 * as it does it. With --keep it ends in a shell.
 */
const keep = process.argv.includes('--keep');
if (process.argv.includes('--help')) {
  process.stdout.write(
    'npm run demo [-- --keep]\n\n  --keep  end in a shell among the pods\n\nExample:\n  $ npm run demo -- --keep\n',
  );
  process.exit(0);
}

interface Check {
  readonly name: string;
  readonly passed: boolean;
  readonly detail: string;
}

const checks: Check[] = [];
const begun = Date.now();

function say(text: string): void {
  process.stdout.write(`[${((Date.now() - begun) / 1000).toFixed(1).padStart(5)} s] ${text}\n`);
}

function check(name: string, passed: boolean, detail: string): void {
  checks.push({ name, passed, detail });
  say(`  ${passed ? 'ok  ' : 'FAIL'} ${name}: ${detail}`);
}

async function pingAllPairs(pods: readonly Pod[], label: string): Promise<void> {
  const pairs = pods.flatMap((from) => pods.filter((to) => to !== from).map((to) => ({ from, to })));
  for (const family of ['ipv4', 'ipv6'] as const) {
    const failed: string[] = [];
    await Promise.all(
      pairs.map(async ({ from, to }) => {
        if ((await from.ping(to[family], 2)) !== 2) failed.push(`${from.name} to ${to.name}`);
      }),
    );
    const detail = failed.length === 0 ? `${pairs.length} of ${pairs.length} pairs` : `not ${failed.join(', ')}`;
    check(`ping between all pods, ${family === 'ipv4' ? 'IPv4' : 'IPv6'}, ${label}`, failed.length === 0, detail);
  }
}

/** Send a text through a TCP connection and compare what arrives. */
async function tcp(from: Pod, to: Pod, port: number): Promise<boolean> {
  const text = `hello from ${from.name}`;
  const server = to.start('busybox', 'nc', '-l', '-p', `${port}`);
  let got = '';
  server.stdout?.on('data', (data: Buffer) => {
    got += data.toString();
  });
  const exited = once(server, 'exit');
  await until(
    'the server to listen',
    async () => (await to.run('ss', '-Hltn', `sport = :${port}`)).stdout !== '',
    10_000,
  );
  await from.run('sh', '-c', `echo '${text}' | busybox nc -w 5 ${to.ipv4} ${port}`);
  await Promise.race([exited, new Promise((resolve) => setTimeout(resolve, 5000).unref())]);
  server.kill('SIGKILL');
  return got.trim() === text;
}

async function tcpBothWays(a: Pod, b: Pod, label: string): Promise<void> {
  const there = await tcp(a, b, 5001);
  const back = await tcp(b, a, 5002);
  check(
    `TCP both ways ${label}`,
    there && back,
    `${a.name} to ${b.name} ${there ? 'ok' : 'no'}, back ${back ? 'ok' : 'no'}`,
  );
}

async function checkDevice(node: LabNode, device: string, label: string): Promise<void> {
  const sent = Number(
    await must('ip', 'netns', 'exec', node.name, 'cat', `/sys/class/net/${device}/statistics/tx_packets`),
  );
  check(`the packets went through the ${label} device`, sent > 0, `${sent} sent by ${node.name}`);
}

async function showFlows(lab: Lab): Promise<void> {
  for (const node of lab.nodes) {
    const flows = await node.flows();
    say(
      `  ${node.name}: ${flows.length} flows in the kernel, ${flows.reduce((sum, flow) => sum + flow.packets, 0)} packets`,
    );
  }
}

async function demo(lab: Lab): Promise<Pod[]> {
  const [node1, node2] = lab.nodes;
  say('attaching four pods by running the CNI program, as containerd or CRI-O would');
  const pods: Pod[] = [];
  for (const [name, node] of [
    ['red', node1],
    ['green', node1],
    ['blue', node2],
    ['gold', node2],
  ] as const) {
    const pod = await node.addPod(name);
    pods.push(pod);
    say(`  ${pod.name} on ${node.name}: ${pod.ipv4}, ${pod.ipv6}, ${pod.mac}`);
  }
  const addresses = new Set(pods.flatMap((pod) => [pod.ipv4, pod.ipv6]));
  check('every pod has two addresses of its own', addresses.size === 8 && !addresses.has(''), [...addresses].join(' '));
  await until('both nodes to have told the NSDB of their pods', async () => {
    const backlogs = await Promise.all(lab.nodes.map((node) => node.metric('midonet_nsdb_backlog')));
    return backlogs.every((backlog) => backlog === 0);
  });
  const [red, green, blue] = pods;

  say('node to node through VXLAN');
  await pingAllPairs(pods, 'over VXLAN');
  await tcpBothWays(red, blue, 'over VXLAN');
  await checkDevice(node1, 'mn-vxlan', 'VXLAN');
  await showFlows(lab);

  say('the tunnel zone becomes GRE while the pods stay');
  const repository = lab.repository();
  await repository.modify('tunnel-zone', idFromName('tunnel-zone', 'lab'), (zone) => ({ ...zone, type: 'gre' }));
  await until('GRE on both nodes', async () => {
    const ports = await Promise.all(lab.nodes.map((node) => node.ports()));
    return ports.every((names) => names.includes('mn-gre')) && (await red.ping(blue.ipv4)) === 1;
  });
  await pingAllPairs(pods, 'over GRE');
  await tcpBothWays(red, blue, 'over GRE');
  await checkDevice(node1, 'mn-gre', 'GRE');

  say(`the agent of ${node1.name} is killed during a ping, and started again`);
  const pinging = red.run('ping', '-n', '-i', '0.1', '-c', '80', '-W', '2', blue.ipv4);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await node1.stopAgent('SIGKILL');
  say('  killed; the kernel goes on alone');
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await node1.startAgent();
  say('  the agent is back');
  const answered = received((await pinging).stdout);
  check('no packet lost while the agent was away', answered === 80, `${answered} of 80 pings answered`);
  await pingAllPairs(pods, 'after the restart');

  say('a pod is deleted and its address given to another');
  const address = green.ipv4;
  await green.remove();
  check('a deleted pod does not answer', (await blue.ping(address)) === 0, address);
  const reborn = await node1.addPod('mint', { capabilities: { ips: true }, runtimeConfig: { ips: [`${address}/16`] } });
  check('the address is used again', reborn.ipv4 === address, `${reborn.name} has ${reborn.ipv4}`);
  check('and reached at its new owner', (await blue.ping(address, 2)) === 2, `${blue.name} to ${reborn.name}`);
  return [red, reborn, blue, pods[3]];
}

async function shell(lab: Lab, pods: readonly Pod[]): Promise<void> {
  process.stdout.write(`\nYou are in the machine of the demo. To try:\n`);
  for (const pod of pods)
    process.stdout.write(`  ip netns exec ${pod.namespace} ping ${pods[0] === pod ? pods[2].ipv4 : pods[0].ipv4}\n`);
  process.stdout.write(`  ip netns exec ${lab.nodes[0].name} curl -s http://127.0.0.1:7300/metrics\n`);
  process.stdout.write(`  ip netns exec ${lab.nodes[0].name} ip -d link\n`);
  process.stdout.write(`  less ${lab.folder}/*.log\nexit ends it.\n`);
  const child = spawn('bash', ['-i'], { stdio: 'inherit' });
  await once(child, 'exit');
}

let lab: Lab | undefined;
let pods: Pod[] = [];
try {
  lab = await Lab.start();
  const kernel = (await must('uname', '-r')).trim();
  say(`two nodes, each with an agent and a datapath of the openvswitch module of Linux ${kernel}`);
  pods = await demo(lab);
} catch (error) {
  check('the demo ran to its end', false, error instanceof Error ? error.message : String(error));
  if (lab !== undefined) process.stdout.write(await lab.logs());
}
process.stdout.write('\n');
const width = Math.max(...checks.map((one) => one.name.length));
for (const { name, passed, detail } of checks) {
  process.stdout.write(`${passed ? 'ok  ' : 'FAIL'}  ${name.padEnd(width)}  ${detail}\n`);
}
const passed = checks.filter((one) => one.passed).length;
if (keep && lab !== undefined && pods.length > 0) await shell(lab, pods);
for (const pod of pods) await run('ip', 'netns', 'delete', pod.namespace);
await lab?.close();
process.stdout.write(`demo: ${passed}/${checks.length} checks passed\n`);
process.exit(passed === checks.length ? 0 : 1);
