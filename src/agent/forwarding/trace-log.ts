import type { Logger } from 'pino';
import { describePacket } from '../../flow/describe.js';
import type { FlowKey } from '../../flow/key.js';
import { formatTrace, type TraceStep } from '../../simulation/trace.js';
import type { ForwarderMetrics } from './metrics.js';

/** Packets of one trace request that are logged in a second at most. */
const PER_SECOND = 10;

/** One trace request whose packets were logged. */
interface Traced {
  packets: number;
  /** The second that this is about, by the agent's clock. */
  second: number;
  inSecond: number;
  /** Packets left out that the log has not been told of. */
  leftOut: number;
}

/** Writes down the ways of packets that rules want traced: no more than they say, and no more than a log can take. */
export class TraceLog {
  /** By trace request. */
  private readonly requests = new Map<string, Traced>();

  constructor(
    private readonly metrics: Pick<ForwarderMetrics, 'tracesLeftOut'>,
    /** Milliseconds. */
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {}

  /**
   * @param limit so many packets of the request are logged at most; undefined: any number
   * @param follow tells the steps of the packet's way
   */
  trace(traceRequestId: string, limit: number | undefined, key: FlowKey, follow: (steps: TraceStep[]) => void): void {
    const second = Math.floor(this.clock() / 1000);
    const request = this.requests.get(traceRequestId) ?? { packets: 0, second, inSecond: 0, leftOut: 0 };
    this.requests.set(traceRequestId, request);
    if (limit !== undefined && request.packets >= limit) return;
    if (request.second !== second) {
      request.second = second;
      request.inSecond = 0;
    }
    if (request.inSecond === PER_SECOND) {
      request.leftOut++;
      this.metrics.tracesLeftOut++;
      return;
    }
    request.inSecond++;
    request.packets++;
    const steps: TraceStep[] = [];
    follow(steps);
    const { leftOut } = request;
    request.leftOut = 0;
    this.log.info(
      {
        traceRequestId,
        packet: describePacket(key),
        steps: formatTrace(steps),
        leftOut: leftOut === 0 ? undefined : leftOut,
      },
      'traced a packet',
    );
  }
}
