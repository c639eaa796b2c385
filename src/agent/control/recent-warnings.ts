import { inspect } from 'node:util';
import type { Logger, LoggerOptions } from 'pino';

/** A warning or an error of the log. */
export interface Warning {
  /** ISO 8601. */
  readonly time: string;
  readonly level: 'warn' | 'error';
  readonly message: string;
  /** What was told with it; values that are not plain are text. */
  readonly context: Readonly<Record<string, string | number | boolean>>;
}

const KEPT = 100;
/** Of each value in a context. */
const MAX_TEXT = 500;
/** Takes whatever a logger takes, also circles and numbers that JSON does not have. */
const ONE_LINE = { breakLength: Number.POSITIVE_INFINITY, maxArrayLength: 20, maxStringLength: MAX_TEXT };
const WARN = 40;
const ERROR = 50;

/** The last warnings and errors that were logged, for whoever looks for faults from afar. */
export class RecentWarnings {
  private readonly kept: Warning[] = [];
  /** For the logger whose warnings are kept, and its children. */
  readonly hooks: NonNullable<LoggerOptions['hooks']>;

  constructor() {
    const keep = (parts: readonly unknown[], level: number) => this.keep(parts, level);
    this.hooks = {
      logMethod(this: Logger, parts, write, level) {
        if (level >= WARN) keep(parts, level);
        write.apply(this, parts);
      },
    };
  }

  /** The last is the newest. */
  list(): readonly Warning[] {
    return [...this.kept];
  }

  private keep(parts: readonly unknown[], level: number): void {
    const [first, second] = parts;
    const context = typeof first === 'object' && first !== null ? first : {};
    const message = typeof first === 'string' ? first : String(second ?? '');
    const plain = Object.entries(context).map(([name, value]) => [name, plainValue(value)]);
    if (this.kept.length === KEPT) this.kept.shift();
    this.kept.push({
      time: new Date().toISOString(),
      level: level >= ERROR ? 'error' : 'warn',
      message,
      context: Object.fromEntries(plain),
    });
  }
}

function plainValue(value: unknown): string | number | boolean {
  if (typeof value === 'number' || typeof value === 'boolean') return value;
  const text = typeof value === 'string' ? value : value instanceof Error ? value.message : inspect(value, ONE_LINE);
  return text.slice(0, MAX_TEXT);
}
