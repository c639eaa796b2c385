/**
 * A world of its own in this process: programs in it find a clock, timers, chance, files and a network that follow from a seed.
 * One thing happens at a time: an event (a timer, a message that arrives) runs in the name of a {@link VirtualProcess}, and the
 * next one comes when no promise has anything left to do. So the same seed gives the same run to the last microtask, and a
 * process can be killed between any two events.
 *
 * What programs call (`setTimeout`, `Date`, `node:fs` …) is replaced once for the whole Node.js process; whoever calls it while
 * no event of a world runs gets the real thing.
 */
import crypto from 'node:crypto';
import fs from 'node:fs';
import fsPromises from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import timersPromises from 'node:timers/promises';
import { MidonetError } from '../../../src/errors.js';
import { currentEvents, Events, type VirtualProcess, VirtualTimer } from './events.js';
import { VirtualFiles } from './files.js';
import { VirtualNetwork } from './network.js';

/** Milliseconds of the world's time after which what should come about counts as never. */
const PATIENCE_MS = 120_000;
/** Milliseconds since 1970 at the beginning of a world. */
const BEGINNING = Date.UTC(2030, 0, 1);

/** What was begun in a process. */
interface Begun<T> {
  settled: boolean;
  value?: T;
  error?: unknown;
}

export class World {
  readonly events: Events;
  readonly network: VirtualNetwork;
  readonly files: VirtualFiles;
  /** What went wrong that could not be told to anybody. */
  readonly faults: string[] = [];

  constructor(seed: number) {
    replaceAll();
    this.events = new Events(seed);
    this.network = new VirtualNetwork(this.events);
    this.files = new VirtualFiles(this.events);
    worlds.set(this.events, this);
  }

  /** No answer to the process arrives any more; its connections are reset, its files stay as they are. */
  kill(process: VirtualProcess): void {
    process.isAlive = false;
    this.network.killed(process);
  }

  /** Has a process do something now; what is left of it happens while the world runs. */
  private begin<T>(process: VirtualProcess, action: () => Promise<T> | T): Begun<T> {
    const begun: Begun<T> = { settled: false };
    this.events.schedule(process, 0, () => {
      Promise.resolve()
        .then(action)
        .then(
          (value) => Object.assign(begun, { settled: true, value }),
          (error: unknown) => Object.assign(begun, { settled: true, error }),
        );
    });
    return begun;
  }

  /** Has a process begin something that may be refused. */
  attempt(what: string, process: VirtualProcess, action: () => Promise<unknown>): void {
    this.begin(process, () =>
      action().catch((error: Error) => {
        this.events.trace(`${what}: ${error.message}`);
        if (!(error instanceof MidonetError)) this.faults.push(`${what}: ${error.stack}`);
      }),
    );
  }

  /** Has a process do something, and runs until that is done. */
  async call<T>(what: string, process: VirtualProcess, action: () => Promise<T> | T): Promise<T> {
    const begun = this.begin(process, action);
    await this.until(what, () => begun.settled);
    if ('error' in begun) throw begun.error;
    return begun.value as T;
  }

  /** Runs until something holds; looks after every event. */
  async until(what: string, holds: () => boolean, patience = PATIENCE_MS): Promise<void> {
    const end = this.events.now + patience;
    while (!holds()) {
      if (!(await this.events.step(end))) throw new Error(`it did not come about within ${patience} ms that ${what}`);
    }
  }

  /** Lets time pass. */
  async advance(milliseconds: number): Promise<void> {
    const end = this.events.now + milliseconds;
    while (await this.events.step(end)) {}
  }
}

const worlds = new WeakMap<Events, World>();

// What programs call

type Callable = (...parameters: never[]) => unknown;

/** Has a function do something else when it is called in a world. */
function replace(owner: object, name: string, inside: (world: World, ...parameters: never[]) => unknown): void {
  const real = Reflect.get(owner, name) as Callable;
  Reflect.set(owner, name, function replaced(this: unknown, ...parameters: never[]) {
    const events = currentEvents();
    return events === undefined ? Reflect.apply(real, this, parameters) : inside(worlds.get(events)!, ...parameters);
  });
}

let areReplaced = false;

function replaceAll(): void {
  if (areReplaced) return;
  areReplaced = true;
  replaceTimers();
  replaceClocks();
  replaceChance();
  replace(net, 'connect', (world, target: { host: string }) => world.network.connect(target.host));
  replace(net, 'createServer', (world) => world.network.createListener());
  replaceFiles();
  syncBuiltinESMExports();
}

function replaceTimers(): void {
  const after = ({ events }: World, delay: number | undefined, action: () => void) =>
    events.schedule(events.running!, Math.max(1, delay ?? 1), action);
  replace(globalThis, 'setTimeout', (world, action: () => void, delay?: number) => after(world, delay, action));
  replace(globalThis, 'setImmediate', ({ events }, action: () => void) => events.schedule(events.running!, 0, action));
  replace(globalThis, 'setInterval', ({ events }, action: () => void, delay: number) =>
    events.schedule(events.running!, delay, action, delay),
  );
  for (const name of ['clearTimeout', 'clearInterval', 'clearImmediate'] as const) {
    const real = globalThis[name] as (timer: unknown) => void;
    Reflect.set(globalThis, name, (timer: unknown) => {
      if (timer instanceof VirtualTimer) timer.cancelled = true;
      else real(timer);
    });
  }
  replace(timersPromises, 'setImmediate', ({ events }) => {
    return new Promise<void>((resolve) => events.schedule(events.running!, 0, resolve));
  });
  replace(
    timersPromises,
    'setTimeout',
    (world, delay?: number, _value?: unknown, options?: { signal?: AbortSignal }) => {
      return new Promise<void>((resolve, reject) => {
        const timer = after(world, delay, resolve);
        options?.signal?.addEventListener('abort', () => {
          timer.cancelled = true;
          reject(options.signal!.reason);
        });
      });
    },
  );
}

function replaceClocks(): void {
  const date = (events: Events) => BEGINNING + Math.floor(events.now);
  replace(performance, 'now', ({ events }) => events.now);
  replace(Date, 'now', ({ events }) => date(events));
  globalThis.Date = new Proxy(Date, {
    construct: (target, parameters: [], newTarget) => {
      const events = parameters.length === 0 ? currentEvents() : undefined;
      return Reflect.construct(target, events === undefined ? parameters : [date(events)], newTarget);
    },
  });
}

function replaceChance(): void {
  const bytes = (world: World, length: number) =>
    Buffer.from(Array.from({ length }, () => world.events.dice.below(256)));
  replace(Math, 'random', ({ events }) => events.dice.below(0x4000_0000) / 0x4000_0000);
  replace(crypto, 'randomInt', ({ events }, least: number, limit: number) => least + events.dice.below(limit - least));
  replace(crypto, 'randomBytes', bytes);
  replace(crypto, 'randomUUID', (world) => {
    const digits = bytes(world, 16);
    // RFC 9562, section 5.4.
    digits[6] = (digits[6] & 0x0f) | 0x40;
    digits[8] = (digits[8] & 0x3f) | 0x80;
    return digits.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  });
}

function replaceFiles(): void {
  for (const name of ['writeFileSync', 'rmSync', 'renameSync'] as const) {
    replace(fs, name, ({ files }, ...parameters: never[]) => Reflect.apply(files[name], files, parameters));
  }
  for (const name of ['mkdir', 'readdir', 'readFile', 'readlink', 'rename', 'rm', 'stat', 'open'] as const) {
    replace(fsPromises, name, (world, ...parameters: never[]) =>
      world.files.later(() => Reflect.apply(world.files[name], world.files, parameters)),
    );
  }
}
