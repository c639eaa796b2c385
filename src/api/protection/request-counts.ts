import type { IncomingMessage, ServerResponse } from 'node:http';
import { LatencyHistogram } from '../../latency-histogram.js';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'other'] as const;
type Method = (typeof METHODS)[number];

/** How many requests there were, what became of them, and how long their answers took. */
export class RequestCounts {
  /** By method and status; 0 when the client went away before the answer began. */
  readonly byStatus = new Map<Method, Map<number, number>>(METHODS.map((method) => [method, new Map()]));
  /** Without streams: those last as long as their clients want. */
  readonly latencies: Readonly<Record<Method, LatencyHistogram>> = {
    GET: new LatencyHistogram(),
    POST: new LatencyHistogram(),
    PUT: new LatencyHistogram(),
    PATCH: new LatencyHistogram(),
    DELETE: new LatencyHistogram(),
    other: new LatencyHistogram(),
  };
  underWay = 0;

  begin(request: IncomingMessage, response: ServerResponse): void {
    const started = performance.now();
    this.underWay++;
    response.once('close', () => {
      this.underWay--;
      const method = METHODS.find((one) => one === request.method) ?? 'other';
      const status = response.headersSent ? response.statusCode : 0;
      const counts = this.byStatus.get(method)!;
      counts.set(status, (counts.get(status) ?? 0) + 1);
      // The length of a stream is not known when it begins.
      if (response.hasHeader('content-length')) this.latencies[method].observe(performance.now() - started);
    });
  }
}
