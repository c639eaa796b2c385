import type { Fact, MirrorFact, PortFact, PortTaps } from '../../simulation/fact.js';
import { mirrorFact } from '../../simulation/mirror.js';
import type { Port } from '../../topology/types.js';
import type { Cell } from './cell.js';
import type { ChainCells } from './chain-cells.js';
import type { TopologySource } from './topology-source.js';

/** Those fields of bridges, routers and ports that name mirrors. */
type MirrorIds = Pick<
  Port,
  'inboundMirrorIds' | 'outboundMirrorIds' | 'postInFilterMirrorIds' | 'preOutFilterMirrorIds'
>;

/** Mirrors, as facts that are read when packets come to them. */
export class MirrorCells {
  private readonly cells = new Map<string, Cell<MirrorFact>>();

  /** @param chains know the address groups that mirrors compare with */
  constructor(
    private readonly source: TopologySource,
    private readonly chains: ChainCells,
  ) {}

  /** How many mirrors are kept. */
  get size(): number {
    return this.cells.size;
  }

  taps(ids: MirrorIds): Required<PortTaps> {
    return {
      inboundMirrors: this.mirrors(ids.inboundMirrorIds),
      outboundMirrors: this.mirrors(ids.outboundMirrorIds),
      postInFilterMirrors: this.mirrors(ids.postInFilterMirrorIds),
      preOutFilterMirrors: this.mirrors(ids.preOutFilterMirrorIds),
    };
  }

  /** The ports that copies go to. */
  *portsInUse(): Generator<Fact<PortFact>> {
    for (const { value } of this.cells.values()) if (value) yield value.port;
  }

  private mirrors(ids: readonly string[] = []): readonly Fact<MirrorFact>[] {
    return ids.map((id) => this.mirror(id));
  }

  private mirror(id: string): Cell<MirrorFact> {
    let cell = this.cells.get(id);
    if (cell === undefined) {
      const { repository, invalid } = this.source;
      cell = this.source.cell<MirrorFact>(`mirror ${id}`, {
        subscribe: (self) =>
          repository.watch(
            'mirror',
            id,
            (mirror) => self.set(mirror === undefined ? null : mirrorFact(mirror, this.chains)),
            invalid,
          ),
        forget: (self) => {
          if (this.cells.get(id) === self) this.cells.delete(id);
        },
      });
      this.cells.set(id, cell);
    }
    return cell;
  }
}

export function sameTaps(a: PortTaps, b: PortTaps): boolean {
  return (
    sameMirrors(a.inboundMirrors, b.inboundMirrors) &&
    sameMirrors(a.outboundMirrors, b.outboundMirrors) &&
    sameMirrors(a.postInFilterMirrors, b.postInFilterMirrors) &&
    sameMirrors(a.preOutFilterMirrors, b.preOutFilterMirrors)
  );
}

function sameMirrors(a: readonly Fact<MirrorFact>[] = [], b: readonly Fact<MirrorFact>[] = []): boolean {
  return a.length === b.length && a.every((mirror, i) => mirror === b[i]);
}
