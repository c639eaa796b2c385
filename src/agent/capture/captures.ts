import { randomUUID } from 'node:crypto';
import type { Datapath, Upcall } from '../../datapath/datapath.js';
import { MidonetError, TimeoutError } from '../../errors.js';
import type { CaptureDirection, StoredCapture } from '../../nsdb/captures.js';
import { encodeJson } from '../../nsdb/json.js';
import { CAPTURES_PATH, capturePath } from '../../nsdb/layout.js';
import type { EphemeralNode, Store } from '../../nsdb/store.js';
import type { Condition } from '../../topology/chains.js';
import type { Cell } from '../facts/cell.js';
import type { TopologyCache } from '../facts/topology-cache.js';
import type { TunnelTargets } from '../ports/tunnel-targets.js';

export interface CapturesOptions {
  readonly hostId: string;
  readonly store: Store;
  readonly datapath: Pick<Datapath, 'meter'>;
  readonly targets: TunnelTargets;
  readonly cache: TopologyCache;
}

/** What is to be captured. */
export interface CaptureRequest {
  readonly portId: string;
  readonly directions: readonly CaptureDirection[];
  /** What one of them matches; they may ask for headers only. */
  readonly conditions: readonly Condition[];
}

/** Called with each packet; `bytes` are valid only until it returns. */
export type CaptureListener = (direction: CaptureDirection, bytes: Uint8Array) => void;

/** Packets are copied for as long as this is not closed. */
export interface Capture {
  /** How many packets the datapath has left out so far, as there were too many. */
  leftOut(): Promise<number>;
  close(): Promise<void>;
}

interface Running {
  readonly owner: string;
  readonly tunnelKey: number;
  readonly direction: CaptureDirection;
  readonly node: EphemeralNode;
  readonly listener: CaptureListener;
}

/** Captures on one host at a time. Packets of each take time that others wait for. */
const MAX_CAPTURES = 16;
/** Whoever captures has to ask more often how many packets were left out. */
const KEEP_SECONDS = 60;
/** For the NSDB to take a capture. */
const PATIENCE_MS = 5000;
const OWNER = 'capture';

/**
 * Captures that this host takes part in as the one which gets the packets. Each is an ephemeral node in the NSDB, which all hosts watch, and
 * a tunnel key for each direction: what comes by it the datapath hands to the agent. Nothing of it outlives the agent's session.
 */
export class Captures {
  /** By tunnel key. */
  private readonly running = new Map<number, Running>();

  constructor(private readonly options: CapturesOptions) {}

  /** Directions of ports of which this host gets the packets. */
  get size(): number {
    return this.running.size;
  }

  /** Give up the tunnel keys of the last run. */
  start(): void {
    const { targets } = this.options;
    for (const owner of [...targets.owners()]) if (owner.startsWith(`${OWNER} `)) targets.release(owner);
  }

  /** A packet that a flow hands to the agent. */
  upcall({ userdata, packet }: Upcall): void {
    if (userdata?.length !== 4) return;
    const tunnelKey = new DataView(userdata.buffer, userdata.byteOffset).getUint32(0);
    // One that has just ended may still have packets under way.
    const running = this.running.get(tunnelKey);
    running?.listener(running.direction, packet);
  }

  /**
   * Begin a capture. Other hosts begin to send copies a moment later.
   * @throws MidonetError with MN_TOO_MANY_REQUESTS, TimeoutError where the NSDB cannot be reached
   */
  async open(request: CaptureRequest, listener: CaptureListener, signal: AbortSignal): Promise<Capture> {
    if (this.running.size + request.directions.length > 2 * MAX_CAPTURES) {
      const reason = `captures are under way on the host already, ${MAX_CAPTURES} at most; end one first`;
      throw new MidonetError('MN_TOO_MANY_REQUESTS', reason);
    }
    const patience = AbortSignal.timeout(PATIENCE_MS);
    const captureId = randomUUID();
    const since = new Date().toISOString();
    const running: Running[] = [];
    const capture: Capture = {
      leftOut: async () => {
        const counts = await Promise.all(running.map((one) => this.leftOut(one)));
        return counts.reduce((sum, count) => sum + count, 0);
      },
      close: async () => {
        await Promise.all(running.map((one) => this.end(one)));
      },
    };
    try {
      for (const direction of request.directions) {
        running.push(this.begin(captureId, direction, since, request, listener));
      }
      await untilAborted(Promise.all(running.map(({ node }) => node.ready)), AbortSignal.any([signal, patience]));
      return capture;
    } catch (error) {
      await capture.close();
      throw patience.aborted && !signal.aborted
        ? new TimeoutError('telling the NSDB of a capture', PATIENCE_MS)
        : error;
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.running.values()].map((one) => this.end(one)));
  }

  private begin(
    captureId: string,
    direction: CaptureDirection,
    since: string,
    { portId, conditions }: CaptureRequest,
    listener: CaptureListener,
  ): Running {
    const { hostId, store, targets, cache } = this.options;
    const owner = `${OWNER} ${captureId},${direction}`;
    const tunnelKey = targets.takeKey(owner);
    this.keepMeter(tunnelKey);
    targets.set(owner, { outputs: [], ports: [], capture: cache.captures.targetHere(tunnelKey) });
    const stored: StoredCapture = {
      captureId,
      portId,
      direction,
      hostId,
      tunnelKey,
      conditions: [...conditions],
      since,
    };
    const node = store.ephemeral(capturePath(captureId, direction), encodeJson(stored), {
      makeParent: () => store.ensure(CAPTURES_PATH),
    });
    const running = { owner, tunnelKey, direction, node, listener };
    this.running.set(tunnelKey, running);
    return running;
  }

  private async end({ owner, tunnelKey, node }: Running): Promise<void> {
    if (!this.running.delete(tunnelKey)) return;
    await node.close();
    this.options.targets.release(owner);
  }

  private async leftOut({ tunnelKey }: Running): Promise<number> {
    const id = this.keepMeter(tunnelKey).value;
    const counters = typeof id === 'number' ? await this.options.datapath.meter(id) : undefined;
    return counters?.droppedPackets ?? 0;
  }

  /** While no packets come nothing else needs it, and another one would count from zero. */
  private keepMeter(tunnelKey: number): Cell<number> {
    const { cache } = this.options;
    const meter = cache.captures.meter(tunnelKey);
    cache.load(meter as Cell<unknown>);
    cache.keep(meter as Cell<unknown>, KEEP_SECONDS);
    return meter;
  }
}

async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let stop = () => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
