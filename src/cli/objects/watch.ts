import type { WatchEvent } from '../../api/client/client.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import type { Kind } from '../../topology/types.js';
import { type Form, formOf } from '../terminal/output.js';
import { plain } from '../terminal/printable.js';
import type { Terminal } from '../terminal/terminal.js';
import { adviceOn } from '../terminal/unreachable.js';
import { lineOf, titlesOf } from './columns.js';
import { type AnyObject, type Names, pathOf } from './names.js';
import { type FieldFlags, filterOf, type ListFlags, withClient } from './objects.js';

/** `midonet get --watch`: what there is, and then every change of it, until it is stopped. */
export async function watchObjects(
  kind: Kind,
  texts: readonly string[],
  flags: ListFlags & FieldFlags,
  terminal: Terminal,
): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    if (flags.limit !== undefined) throw new InvalidInputError('--limit', flags.limit, 'expected none with --watch');
    if (texts.length > 1) throw new InvalidInputError(kind, texts, 'expected one at most, to watch');
    const only = texts.length === 0 ? undefined : await names.idOf(kind, texts[0]);
    const filter = await filterOf(kind, flags, names);
    const printer = new Printer(kind, formOf(flags), names, terminal);
    const options = { signal: terminal.signal, onBreak: (error: Error | undefined) => noteBreak(error, terminal) };
    const events =
      only === undefined
        ? client.collection(kind).watch({ ...options, filter })
        : client.follow(pathOf(kind, only), options);
    for await (const event of events) await printer.take(event as WatchEvent);
  });
}

/** Changes are not told for a while: whoever waits for one is to know. */
function noteBreak(error: Error | undefined, terminal: Terminal): void {
  terminal.note(`no changes can be told, trying again: ${error?.message ?? 'the server has ended the stream'}`);
  const advice = error instanceof MidonetError ? adviceOn(error) : undefined;
  if (advice !== undefined) terminal.note(`  → ${advice}`);
}

/** What one thing is that happened, as programs read it. */
type Told = 'there' | 'changed' | 'deleted';

/** Tells each change once, also when the stream begins again and tells all there is. */
class Printer {
  private readonly known = new Map<string, { object: AnyObject; etag: string }>();
  /** What was told since the stream began again; undefined while it goes on. */
  private again: Set<string> | undefined = new Set();
  private widths: number[] | undefined;

  constructor(
    private readonly kind: Kind,
    private readonly form: Form,
    private readonly names: Names,
    private readonly terminal: Terminal,
  ) {}

  async take(event: WatchEvent): Promise<void> {
    switch (event.type) {
      case 'put': {
        const object = event.object as AnyObject;
        const before = this.known.get(object.id);
        this.again?.add(object.id);
        if (before?.etag === event.etag) return;
        this.known.set(object.id, { object, etag: event.etag });
        // The first table is printed when it is complete.
        if (this.widths !== undefined || this.form === 'json' || this.form === 'yaml') {
          await this.print(this.widths === undefined ? 'there' : 'changed', object);
        }
        return;
      }
      case 'delete':
        return this.forget(event.id);
      case 'reset':
        this.again = new Set();
        return;
      case 'current': {
        const gone = [...this.known.keys()].filter((id) => this.again !== undefined && !this.again.has(id));
        this.again = undefined;
        if (this.widths === undefined) await this.begin();
        for (const id of gone) await this.forget(id);
      }
    }
  }

  private async forget(id: string): Promise<void> {
    const before = this.known.get(id);
    if (before === undefined) return;
    this.known.delete(id);
    await this.print('deleted', before.object);
  }

  /** Titles, and what there is. */
  private async begin(): Promise<void> {
    const objects = [...this.known.values()].map(({ object }) => object);
    const rows = await Promise.all(objects.map((object) => lineOf(this.kind, object, this.names)));
    const titles = titlesOf(this.kind);
    const cells = rows.map((row) => row.map(([, cell]) => plain(cell)));
    this.widths = titles.map((title, i) => cells.reduce((most, row) => Math.max(most, row[i].length), title.length));
    if (this.form !== 'table' && this.form !== 'wide') return;
    this.line('', titles);
    for (const row of cells) this.line('', row);
  }

  private async print(told: Told, object: AnyObject): Promise<void> {
    if (this.form === 'json') this.terminal.print(JSON.stringify({ told, object }));
    else if (this.form === 'yaml') {
      const { formatYaml } = await import('../apply/yaml.js');
      this.terminal.print(`---\n${formatYaml({ told, object })}`);
    } else {
      const row = await lineOf(this.kind, object, this.names);
      this.line(
        told,
        row.map(([, cell]) => plain(cell)),
      );
    }
  }

  private line(told: string, cells: readonly string[]): void {
    const padded = cells.map((cell, i) => cell.padEnd(this.widths![i]));
    this.terminal.print([told.padEnd('deleted'.length), ...padded].join('   ').trimEnd());
  }
}
