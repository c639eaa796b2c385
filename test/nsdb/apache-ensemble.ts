import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { JAVA, JAVA_OPTIONS, requireZookeeper, SERVER_CLASS, SETTINGS } from './apache-zookeeper.js';
import { fourLetterWord } from './four-letter-word.js';

/** Where a member runs: the address it listens on, and what is put before its command (`ip netns exec zk1`). */
export interface MemberPlace {
  readonly host: string;
  readonly prefix: readonly string[];
}

export interface EnsembleOptions {
  /** One per member; three on the loopback interface if absent. */
  readonly places?: readonly MemberPlace[];
  /** Milliseconds in which a quorum must have come about; 40,000 if absent. */
  readonly patience?: number;
  /** Milliseconds of silence after which a leader and a follower give each other up; 2000 if absent. */
  readonly silence?: number;
}

interface Ports {
  readonly client: number;
  readonly quorum: number;
  readonly election: number;
}

const LOOPBACK: readonly MemberPlace[] = Array.from({ length: 3 }, () => ({ host: '127.0.0.1', prefix: [] }));
const START_ATTEMPTS = 3;
/** Below the ports that the kernel gives to outgoing connections: a member that is down must find its ports free again. */
const FIRST_PORT = 12_000;
const PORT_COUNT = 20_000;

/** Three Apache ZooKeeper servers, each of which can be killed, frozen and started again with its data. */
export class ApacheEnsemble {
  private constructor(
    readonly members: readonly EnsembleMember[],
    private readonly folder: string,
    private readonly patience: number,
  ) {}

  /** Resolves when there is a quorum of all members. */
  static async start(options: EnsembleOptions = {}): Promise<ApacheEnsemble> {
    requireZookeeper();
    for (let attempt = 1; ; attempt++) {
      const ensemble = await ApacheEnsemble.make(options);
      try {
        await Promise.all(ensemble.members.map((member) => member.start()));
        await ensemble.untilServing(ensemble.members);
        return ensemble;
      } catch (error) {
        await ensemble.close();
        // Somebody else may have taken one of the ports meanwhile.
        if (attempt === START_ATTEMPTS) throw error;
      }
    }
  }

  private static async make(options: EnsembleOptions): Promise<ApacheEnsemble> {
    const places = options.places ?? LOOPBACK;
    const folder = await mkdtemp(join(tmpdir(), 'midonet-ensemble-'));
    const ports: Ports[] = [];
    for (const _ of places) {
      ports.push({ client: await quietPort(), quorum: await quietPort(), election: await quietPort() });
    }
    const servers = places.map(
      ({ host }, index) => `server.${index + 1}=${host}:${ports[index].quorum}:${ports[index].election}`,
    );
    const members: EnsembleMember[] = [];
    for (const [index, place] of places.entries()) {
      const id = index + 1;
      const home = join(folder, `${id}`);
      const settings = {
        ...SETTINGS,
        tickTime: (options.silence ?? 2000) / 20,
        syncLimit: 20,
        initLimit: 100,
        dataDir: join(home, 'data'),
        clientPort: ports[index].client,
        clientPortAddress: place.host,
      };
      await mkdir(settings.dataDir, { recursive: true });
      await writeFile(join(settings.dataDir, 'myid'), `${id}\n`);
      const lines = [...Object.entries(settings).map(([name, value]) => `${name}=${value}`), ...servers];
      await writeFile(join(home, 'zoo.cfg'), `${lines.join('\n')}\n`);
      members.push(new EnsembleMember(id, place, ports[index].client, join(home, 'zoo.cfg')));
    }
    return new ApacheEnsemble(members, folder, options.patience ?? 40_000);
  }

  /** All members, for a connect string. */
  get address(): string {
    return this.members.map((member) => member.address).join(',');
  }

  /** The member that leads, and the others; waits until there is a leader. */
  async roles(): Promise<{ leader: EnsembleMember; followers: EnsembleMember[] }> {
    let leader: EnsembleMember | undefined;
    await this.until('there is a leader', async () => {
      const modes = await Promise.all(this.members.map((member) => member.mode()));
      leader = this.members[modes.indexOf('leader')];
      return leader !== undefined;
    });
    const found = leader!;
    return { leader: found, followers: this.members.filter((member) => member !== found) };
  }

  /** Waits until these members answer as part of a quorum. */
  async untilServing(members: readonly EnsembleMember[]): Promise<void> {
    await this.until(`members ${members.map(({ id }) => id)} serve`, async () => {
      for (const member of members) if (member.ended) throw new Error(`ZooKeeper server ${member.id} has ended`);
      const modes = await Promise.all(members.map((member) => member.mode()));
      return modes.every((mode) => mode !== undefined);
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.members.map((member) => member.kill()));
    await rm(this.folder, { recursive: true, force: true });
  }

  private async until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const end = performance.now() + this.patience;
    while (!(await holds())) {
      if (performance.now() > end) throw new Error(`it did not come about within ${this.patience} ms that ${what}`);
      await delay(50);
    }
  }
}

/** One server of an ensemble, running or not. */
export class EnsembleMember {
  private process: ChildProcess | undefined;

  constructor(
    readonly id: number,
    private readonly place: MemberPlace,
    private readonly port: number,
    private readonly config: string,
  ) {}

  get address(): string {
    return `${this.place.host}:${this.port}`;
  }

  /** Whether its process is not there, or no longer. */
  get ended(): boolean {
    return this.process === undefined || this.process.exitCode !== null || this.process.signalCode !== null;
  }

  /** Begins to run with the data it has; {@link ApacheEnsemble.untilServing} tells when it serves. */
  async start(): Promise<void> {
    const [command, ...parameters] = [
      ...this.place.prefix,
      // Three servers must not outlive a test process that is killed.
      ...['setpriv', '--pdeathsig', 'KILL', JAVA, ...JAVA_OPTIONS, SERVER_CLASS, this.config],
    ];
    this.process = spawn(command, parameters, { stdio: 'ignore' });
    await once(this.process, 'spawn');
  }

  async kill(): Promise<void> {
    if (this.ended) return;
    const exited = once(this.process!, 'exit');
    this.process!.kill('SIGKILL');
    await exited;
  }

  /** It stands still, and its connections with it: to others it is as if the network to it had gone. */
  freeze(): void {
    this.process?.kill('SIGSTOP');
  }

  thaw(): void {
    this.process?.kill('SIGCONT');
  }

  /** Undefined while it does not answer or is in no quorum. */
  async mode(): Promise<'leader' | 'follower' | undefined> {
    if (this.ended) return undefined;
    const answer = await fourLetterWord(this.address, 'srvr');
    return /^Mode: (leader|follower)$/m.exec(answer)?.[1] as 'leader' | 'follower' | undefined;
  }
}

/** A port that is free and is not handed out by the kernel, which makes it likely to stay free. */
async function quietPort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * PORT_COUNT);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '0.0.0.0', () => resolve(true));
    });
    if (!free) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}
