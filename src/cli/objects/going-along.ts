import type { MidonetClient } from '../../api/client/client.js';
import { segmentOf } from '../../api/description/resources.js';
import { REFERENCES } from '../../topology/references.js';
import type { Kind } from '../../topology/types.js';

/** Of a kind so many are counted: each thousand is a request. */
const MOST = 5000;

/** What is deleted with an object because it names it, such as `2 ports, 1 dhcp-subnet`; empty when nothing is. What goes with that is not counted. */
export async function goingAlong(client: MidonetClient, kind: Kind, id: string, signal: AbortSignal): Promise<string> {
  const texts: string[] = [];
  for (const [holder, fields] of holdersOf(kind)) {
    const ids = new Set<string>();
    for (const field of fields) {
      for await (const object of client.collection(holder).list({ [field]: id }, signal)) {
        ids.add(object.id);
        if (ids.size >= MOST) break;
      }
    }
    const count = ids.size < MOST ? String(ids.size) : `${MOST} or more`;
    if (ids.size > 0) texts.push(`${count} ${ids.size === 1 ? holder : segmentOf(holder)}`);
  }
  return texts.join(', ');
}

/** Which kinds go with one, and the fields in which they name it. */
function holdersOf(kind: Kind): Map<Kind, string[]> {
  const holders = new Map<Kind, string[]>();
  for (const row of REFERENCES) {
    if (row.names !== kind || row.onDelete !== 'cascade') continue;
    holders.set(row.kind, [...(holders.get(row.kind) ?? []), row.field]);
  }
  return holders;
}
