import { captureSchema, type StoredCapture } from '../../nsdb/captures.js';
import { decodeJson } from '../../nsdb/json.js';
import { CAPTURES_PATH } from '../../nsdb/layout.js';
import type { StoreNode, Watch } from '../../nsdb/store.js';
import { compileCondition } from '../../simulation/condition.js';
import type { CaptureFact, CaptureTarget, Fact, PortFact, TunnelPath } from '../../simulation/fact.js';
import type { Cell } from './cell.js';
import type { DeviceSource } from './device-source.js';
import type { Meters } from './meters.js';

/** Captured packets that the datapath hands to this agent, of each capture and direction: packets in a second, and at once. */
export const CAPTURE_LIMIT = { unit: 'packets', rate: 10_000, burst: 2000 } as const;

type PortCaptures = Pick<PortFact, 'inboundCaptures' | 'outboundCaptures'>;

interface Known {
  readonly stored: StoredCapture;
  readonly cell: Cell<CaptureFact>;
}

/** What is captured now, anywhere: all hosts watch that, so that those which the packets pass send copies. */
export class CaptureCells {
  /** By path in the NSDB. */
  private readonly known = new Map<string, Known>();
  private readonly byPort = new Map<string, Set<Known>>();
  private readonly listeners: ((portId: string) => void)[];
  private watch: Watch | undefined;

  /** @param onPort is told of a port when captures of it begin or end */
  constructor(
    private readonly source: DeviceSource,
    private readonly meters: Meters,
    onPort: (portId: string) => void,
  ) {
    this.listeners = [onPort];
  }

  /** @param onPort is told, too, after the port is another */
  start(onPort: (portId: string) => void): void {
    this.listeners.push(onPort);
    this.watch = this.source.repository.store.watchTree(CAPTURES_PATH, (path, node) => this.told(path, node));
  }

  /** Whether anything that crosses the port is captured. */
  has(portId: string): boolean {
    return this.byPort.has(portId);
  }

  ofPort(portId: string): PortCaptures {
    const captures = [...(this.byPort.get(portId) ?? [])];
    const of = (direction: StoredCapture['direction']) => {
      const found = captures.filter(({ stored }) => stored.direction === direction).map(({ cell }) => cell);
      return found.length === 0 ? undefined : found;
    };
    return { inboundCaptures: of('in'), outboundCaptures: of('out') };
  }

  /** The ways to the hosts that captured packets go to. */
  *tunnels(): Generator<Fact<TunnelPath>> {
    for (const { cell } of this.known.values()) {
      if (cell.value?.target.type === 'remote') yield cell.value.target.tunnel;
    }
  }

  /** The target of captures of this host whose copies come by this key. */
  targetHere(tunnelKey: number): Extract<CaptureTarget, { type: 'local' }> {
    const userdata = new Uint8Array(4);
    new DataView(userdata.buffer).setUint32(0, tunnelKey);
    return { type: 'local', userdata, meter: this.meter(tunnelKey) };
  }

  /** The meter that such copies go through. */
  meter(tunnelKey: number): Cell<number> {
    return this.meters.meter(`capture ${tunnelKey}`, CAPTURE_LIMIT);
  }

  close(): void {
    this.watch?.close();
  }

  private told(path: string, node: StoreNode | undefined): void {
    if (path === CAPTURES_PATH) return;
    const before = this.known.get(path);
    const stored = node && this.read(path, node);
    this.known.delete(path);
    if (before !== undefined) {
      const { portId } = before.stored;
      const captures = this.byPort.get(portId);
      captures?.delete(before);
      if (captures?.size === 0) this.byPort.delete(portId);
    }
    if (stored !== undefined) {
      const known = { stored, cell: this.cellOf(path, stored) };
      this.known.set(path, known);
      const captures = this.byPort.get(stored.portId);
      if (captures === undefined) this.byPort.set(stored.portId, new Set([known]));
      else captures.add(known);
    }
    const portIds = new Set([before?.stored.portId, stored?.portId]);
    for (const portId of portIds) {
      if (portId !== undefined) for (const listener of this.listeners) listener(portId);
    }
  }

  private read(path: string, node: StoreNode): StoredCapture | undefined {
    try {
      return decodeJson(captureSchema, node.data, path);
    } catch (error) {
      this.source.invalid(error as Error);
      return undefined;
    }
  }

  private cellOf(
    path: string,
    { captureId, direction, hostId, tunnelKey, conditions }: StoredCapture,
  ): Cell<CaptureFact> {
    const cell = this.source.cell<CaptureFact>(`capture ${path.slice(CAPTURES_PATH.length + 1)}`, {});
    const { source } = this;
    cell.set({
      id: `${captureId} ${direction}`,
      conditions: conditions.map(compileCondition),
      target:
        hostId === source.hostId
          ? this.targetHere(tunnelKey)
          : { type: 'remote', tunnel: source.tunnel(hostId), tunnelKey },
    });
    return cell;
  }
}

export function sameCaptures(a: PortCaptures, b: PortCaptures): boolean {
  return same(a.inboundCaptures, b.inboundCaptures) && same(a.outboundCaptures, b.outboundCaptures);
}

function same(a: readonly Fact<CaptureFact>[] = [], b: readonly Fact<CaptureFact>[] = []): boolean {
  return a.length === b.length && a.every((capture, i) => capture === b[i]);
}
