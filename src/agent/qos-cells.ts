import type { Fact, QosFact } from '../simulation/fact.js';
import type { QosPolicy } from '../topology/observation.js';
import type { Cell } from './cell.js';
import type { TopologySource } from './topology-source.js';

/** Quality of service policies, as facts that are read when packets come to them. */
export class QosCells {
  private readonly cells = new Map<string, Cell<QosFact>>();

  constructor(private readonly source: TopologySource) {}

  /** How many policies are kept. */
  get size(): number {
    return this.cells.size;
  }

  policy(id: string | undefined): Fact<QosFact> | undefined {
    if (id === undefined) return undefined;
    let cell = this.cells.get(id);
    if (cell === undefined) {
      const { repository, invalid } = this.source;
      cell = this.source.cell<QosFact>(`QoS policy ${id}`, {
        subscribe: (self) =>
          repository.watch(
            'qos-policy',
            id,
            (policy) => self.set(policy === undefined ? null : qosFact(policy)),
            invalid,
          ),
        same: (a, b) => a.dscp === b.dscp,
        forget: (self) => {
          if (this.cells.get(id) === self) this.cells.delete(id);
        },
      });
      this.cells.set(id, cell);
    }
    return cell;
  }
}

/** Of several rules of one type the first counts. */
function qosFact({ rules }: QosPolicy): QosFact {
  for (const rule of rules) if (rule.type === 'dscp') return { dscp: rule.mark };
  return { dscp: undefined };
}
