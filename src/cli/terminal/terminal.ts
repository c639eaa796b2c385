import { once } from 'node:events';
import { createInterface } from 'node:readline/promises';
import { text } from 'node:stream/consumers';
import { printable } from './printable.js';

/** Where a command writes, and who can be asked: the process's own streams, or a test's. */
export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Whether somebody is there to answer questions. */
  readonly isInteractive: boolean;
  /** Ends what runs until it is stopped. */
  readonly signal: AbortSignal;
  /** A line of the result. */
  print(text: string): void;
  /** A line about the result, which is no part of it. */
  note(text: string): void;
  /** Ask a question that is answered with yes or no; no when nobody says. */
  confirm(question: string): Promise<boolean>;
  /** All of the standard input. */
  input(): Promise<string>;
  /** What the program ends with when the command comes to its end. */
  setExitCode(code: number): void;
}

/** The terminal of this process. */
export function systemTerminal(): Terminal {
  const { stdin, stdout, stderr } = process;
  // Whoever reads the output has had enough, as `head` has.
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  });
  return {
    env: process.env,
    isInteractive: stdin.isTTY === true && stderr.isTTY === true,
    signal: new AbortController().signal,
    print: (line) => stdout.write(`${printable(line)}\n`),
    note: (line) => stderr.write(`${printable(line)}\n`),
    input: () => text(stdin),
    setExitCode: (code) => {
      process.exitCode = code;
    },
    async confirm(question) {
      const lines = createInterface({ input: stdin, output: stderr });
      try {
        const unanswered = once(lines, 'close').then(() => '');
        return /^y(es)?$/i.test(
          (await Promise.race([lines.question(`${printable(question)} [y/N] `), unanswered])).trim(),
        );
      } finally {
        lines.close();
      }
    },
  };
}
