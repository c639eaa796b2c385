import { readFile } from 'node:fs/promises';
import test from 'ava';
import { type OnDelete, REFERENCES, type ReferenceRow } from '../../src/topology/references.js';
import { KINDS } from '../../src/topology/types.js';

const page = new URL('../../../docs/topology.md', import.meta.url);

function fields(rows: readonly ReferenceRow[], onDelete: OnDelete): string {
  const names = rows.filter((row) => row.onDelete === onDelete).map(({ kind, field }) => `${kind}.${field}`);
  // Conditions of rules, mirrors and trace requests have the same fields.
  const short = names.map((name) => name.replace(/^[^.]+\.conditions?(\[\])?\./, 'condition.'));
  return [...new Set(short)].map((name) => `\`${name}\``).join(', ');
}

/** The table of references as the page shows it. */
function table(): string {
  const lines = KINDS.map((kind) => {
    const rows = REFERENCES.filter(({ names }) => names === kind);
    const cells = (['cascade', 'clear', 'refuse'] as const).map((onDelete) => fields(rows, onDelete));
    return rows.length === 0 ? '' : `| \`${kind}\` | ${cells.join(' | ')} |\n`;
  });
  return `| named | cascade | clear | refuse |\n|---|---|---|---|\n${lines.join('')}`;
}

test('the page on the topology has every kind, and the table of references as it is', async (t) => {
  const text = await readFile(page, 'utf8');
  t.true(text.includes(table()), `docs/topology.md should have:\n${table()}`);
  for (const kind of KINDS) t.true(text.includes(`\`${kind}\``), kind);
});
