import { Command, CommanderError } from 'commander';
import type { Caller } from '../../src/api/tenancy/caller.js';
import { addClientCommands } from '../../src/cli/commands.js';
import type { Terminal } from '../../src/cli/terminal/terminal.js';
import type { Store } from '../../src/nsdb/store.js';
import { TestApi, tokenOf } from '../api/api-test.js';
import { EmbeddedNsdb } from '../nsdb/embedded-nsdb.js';

/** What a command has printed, and how it ended. */
export interface Printed {
  readonly out: string;
  readonly notes: string;
  /** What was wrong; undefined when nothing was. */
  readonly error: string | undefined;
  readonly exitCode: number;
}

export interface RunOptions {
  /** What somebody at the terminal answers; nobody is there when absent. */
  readonly answer?: boolean;
  /** What others do while the answer is thought about. */
  readonly meanwhile?: () => Promise<unknown>;
  readonly input?: string;
  readonly signal?: AbortSignal;
  /** Another than the API's own. */
  readonly server?: string;
  /** Who runs it; an admin when absent. */
  readonly caller?: Caller;
  /** Called with each line as it is printed. */
  readonly onLine?: (line: string) => void;
  /** The same for lines about the result. */
  readonly onNote?: (line: string) => void;
}

/** The commands of `midonet` in this process, before an API of their own. */
export class TestCli {
  private constructor(
    readonly api: TestApi,
    private readonly closeStore: () => Promise<void>,
  ) {}

  /** Before an embedded NSDB of its own. */
  static async start(): Promise<TestCli> {
    const nsdb = await EmbeddedNsdb.start();
    return TestCli.before(nsdb.store(), () => nsdb.close());
  }

  /** @param closeStore called at the end */
  static async before(store: Store, closeStore: () => Promise<void>): Promise<TestCli> {
    return new TestCli(await TestApi.start(store), closeStore);
  }

  async close(): Promise<void> {
    await this.api.close();
    await this.closeStore();
  }

  /** Run a command that is to succeed. @returns what it printed */
  async midonet(...words: string[]): Promise<string> {
    const { out, error } = await this.run(words);
    if (error !== undefined) throw new Error(`midonet ${words.join(' ')}: ${error}`);
    return out;
  }

  /** What a command prints as JSON. */
  async json<T>(...words: string[]): Promise<T> {
    return JSON.parse(await this.midonet(...words, '--json')) as T;
  }

  run(words: readonly string[], options: RunOptions = {}): Promise<Printed> {
    return runMidonet(words, { server: this.api.address, ...options });
  }
}

/** Run a command of `midonet` in this process. */
export async function runMidonet(words: readonly string[], options: RunOptions & { server: string }): Promise<Printed> {
  const printed: string[] = [];
  const notes: string[] = [];
  let exitCode = 0;
  const terminal: Terminal = {
    env: {
      MIDONET_API: options.server,
      ...(options.caller !== undefined && { MIDONET_TOKEN: tokenOf(options.caller) }),
    },
    isInteractive: options.answer !== undefined,
    signal: options.signal ?? new AbortController().signal,
    print: (line) => {
      printed.push(line);
      options.onLine?.(line);
    },
    note: (line) => {
      notes.push(line);
      options.onNote?.(line);
    },
    confirm: async (question) => {
      notes.push(question);
      await options.meanwhile?.();
      return options.answer ?? false;
    },
    input: async () => options.input ?? '',
    setExitCode: (code) => {
      exitCode = code;
    },
  };
  const program = new Command('midonet').exitOverride().configureOutput({
    writeOut: (text) => printed.push(text.trimEnd()),
    writeErr: (text) => notes.push(text.trimEnd()),
  });
  addClientCommands(program, terminal);
  let error: string | undefined;
  try {
    await program.parseAsync([...words], { from: 'user' });
  } catch (thrown) {
    if (!(thrown instanceof CommanderError) || thrown.exitCode !== 0) {
      error = (thrown as Error).message;
      exitCode = 1;
    }
  }
  return { out: printed.join('\n'), notes: notes.join('\n'), error, exitCode };
}
