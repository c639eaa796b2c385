import { plain } from './printable.js';

/** Rows below titles, in columns as wide as what is in them. Columns that are empty in every row are left out. */
export function formatTable(titles: readonly string[], cells: readonly (readonly string[])[]): string {
  const rows = cells.map((row) => row.map(plain));
  const shown = titles.map((_, i) => i).filter((i) => rows.some((row) => row[i] !== ''));
  const widths = shown.map((i) => rows.reduce((width, row) => Math.max(width, row[i].length), titles[i].length));
  const line = (cells: readonly string[]) =>
    shown
      .map((i, at) => cells[i].padEnd(widths[at]))
      .join('   ')
      .trimEnd();
  return [titles, ...rows].map(line).join('\n');
}

/** Names with their values, one a line; values of several lines are set in. */
export function formatDetails(entries: readonly (readonly [name: string, value: string])[]): string {
  const width = entries.reduce((widest, [name]) => Math.max(widest, name.length), 0) + 1;
  return entries
    .map(([name, value]) => {
      const lines = value.split('\n').map(plain);
      return `${`${name}:`.padEnd(width)}  ${lines.join(`\n${' '.repeat(width + 2)}`)}`;
    })
    .join('\n');
}
