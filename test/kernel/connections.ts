import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { must, type Place, until } from './lab.js';

const SOURCE = fileURLToPath(new URL('../../../test/kernel/connections.c', import.meta.url));

export interface Connections {
  readonly protocol: 'tcp' | 'udp';
  readonly address: string;
  /** They are spread over these ports. */
  readonly ports: readonly [first: number, last: number];
  readonly count: number;
  /** How many there are at a time; 1 if absent. */
  readonly atOnce?: number;
  /** The port of the first; the next has the next one. The kernel chooses if absent. */
  readonly source?: number;
}

/** What became of connections. */
export interface Answers {
  /** How many were answered. */
  readonly total: number;
  /** By what was answered: the address that asked and the one that was asked, as the server sees them. */
  readonly counts: ReadonlyMap<string, number>;
  /** Packets that UDP had to send again. */
  readonly repeated: number;
}

/** Opens and answers many connections: see connections.c. */
export class ConnectionProgram {
  private constructor(private readonly path: string) {}

  /** @param folder where the program is put */
  static async compile(folder: string): Promise<ConnectionProgram> {
    const path = join(folder, 'connections');
    await must('cc', '-O2', '-o', path, SOURCE);
    return new ConnectionProgram(path);
  }

  /** Whoever asks at these ports is answered, until the function that is returned is called. */
  async serve(at: Place, first: number, last = first): Promise<() => void> {
    const server = at.start(this.path, 'serve', `${first}`, `${last}`);
    const listens = async () => (await at.run('ss', '-Hltn', `sport = :${last}`)).stdout !== '';
    await until('the server to listen', listens);
    return () => server.kill('SIGKILL');
  }

  async open(from: Place, { protocol, address, ports, count, atOnce = 1, source = 0 }: Connections): Promise<Answers> {
    const numbers = [...ports, count, atOnce, source].map(String);
    const { status, stdout, stderr } = await from.run(this.path, 'open', protocol, address, ...numbers);
    if (status !== 0) throw new Error(stderr);
    const counts = new Map<string, number>();
    for (const [, number, answer] of stdout.matchAll(/^(\d+) answers (.*)$/gm)) counts.set(answer, Number(number));
    const total = [...counts.values()].reduce((sum, each) => sum + each, 0);
    return { total, counts, repeated: Number(/^(\d+) repeated$/m.exec(stdout)?.[1]) };
  }
}
