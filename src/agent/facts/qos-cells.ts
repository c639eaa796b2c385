import type { Fact, QosFact } from '../../simulation/fact.js';
import type { QosPolicy } from '../../topology/observation.js';
import type { Cell } from './cell.js';
import type { Meters, RateLimit } from './meters.js';
import type { TopologySource } from './topology-source.js';

/** Of the rate, if a policy does not say how much may come at once. MidoNet's value. */
const DEFAULT_BURST = 0.8;

interface KnownQos extends QosFact {
  readonly limit: RateLimit | undefined;
}

/** Quality of service policies, as facts that are read when packets come to them. */
export class QosCells {
  private readonly cells = new Map<string, Cell<KnownQos>>();

  constructor(
    private readonly source: TopologySource,
    private readonly meters: Meters,
  ) {}

  /** How many policies are kept. */
  get size(): number {
    return this.cells.size;
  }

  policy(id: string | undefined): Fact<QosFact> | undefined {
    if (id === undefined) return undefined;
    let cell = this.cells.get(id);
    if (cell === undefined) {
      const { repository, invalid } = this.source;
      cell = this.source.cell<KnownQos>(`QoS policy ${id}`, {
        subscribe: (self) =>
          repository.watch(
            'qos-policy',
            id,
            (policy) => self.set(policy === undefined ? null : qosFact(policy, this.meters)),
            invalid,
          ),
        same: sameQos,
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
function qosFact({ rules }: QosPolicy, meters: Meters): KnownQos {
  let dscp: number | undefined;
  let limit: RateLimit | undefined;
  for (const rule of rules) {
    if (rule.type === 'dscp') dscp ??= rule.mark;
    else limit ??= { rate: rule.maxKbps, burst: rule.maxBurstKb ?? Math.ceil(DEFAULT_BURST * rule.maxKbps) };
  }
  return { dscp, limit, meter: limit && ((portId) => meters.meter(portId, limit)) };
}

function sameQos(a: KnownQos, b: KnownQos): boolean {
  return a.dscp === b.dscp && a.limit?.rate === b.limit?.rate && a.limit?.burst === b.limit?.burst;
}
