import { kindPath } from '../../nsdb/layout.js';
import { REFERENCES, type ReferenceRow } from '../../topology/references.js';
import { KINDS, type Kind } from '../../topology/types.js';

/** The collections of the API, as paths name them: every kind of object is one, and its references make those below others. */

/** The segment of a path for the objects of a kind, such as `bridges`. */
export function segmentOf(kind: Kind): string {
  return kindPath(kind).slice(1);
}

/** The objects of one kind that name another in a field, such as the ports of a bridge. */
export interface NestedCollection {
  readonly parent: Kind;
  readonly segment: string;
  readonly row: ReferenceRow;
}

const isField = ({ field }: ReferenceRow) => !field.includes('[]') && !field.includes('.');

/** `/v1/PARENT/{id}/SEGMENT`: what goes with its parent, in a field of its own. */
export const NESTED: readonly NestedCollection[] = REFERENCES.filter(
  (row) => row.onDelete === 'cascade' && isField(row),
).flatMap((row) => {
  const alike = REFERENCES.filter(
    (one) => one.kind === row.kind && one.names === row.names && one.onDelete === 'cascade' && isField(one),
  );
  return alike[0] === row ? [{ parent: row.names, segment: segmentOf(row.kind), row }] : [];
});

export const COLLECTIONS: ReadonlyMap<string, Kind> = new Map(KINDS.map((kind) => [segmentOf(kind), kind]));
