import test from 'ava';
import { pino } from 'pino';
import { TraceLog } from '../../../src/agent/forwarding/trace-log.js';
import { FlowKey } from '../../../src/flow/key.js';

test('of a trace request so many packets are logged in a second as a log can take, and how many were not', (t) => {
  const lines: { traceRequestId: string; leftOut?: number }[] = [];
  let now = 5000;
  const metrics = { tracesLeftOut: 0 };
  const log = new TraceLog(metrics, () => now, pino({}, { write: (line: string) => lines.push(JSON.parse(line)) }));
  let simulations = 0;
  const trace = (id: string, count: number, limit?: number) => {
    for (let i = 0; i < count; i++) log.trace(id, limit, new FlowKey(), () => simulations++);
  };
  trace('all', 1000);
  trace('other', 3);
  t.is(lines.length, 13);
  t.is(simulations, 13, 'what is not logged is not simulated, either');
  t.is(metrics.tracesLeftOut, 990);
  now = 6000;
  trace('all', 1);
  t.is(lines[13].leftOut, 990);
  trace('all', 1);
  t.is(lines[14].leftOut, undefined);

  trace('few', 20, 12);
  now = 7000;
  trace('few', 20, 12);
  t.is(lines.filter(({ traceRequestId }) => traceRequestId === 'few').length, 12, 'the limit counts what was logged');
});
