import test from 'ava';
import fc from 'fast-check';
import { Registry } from 'prom-client';
import { LATENCY_BOUNDS, LatencyHistogram } from '../src/latency-histogram.js';
import { registerLatencies } from '../src/prometheus.js';

test('every observation is in the first bucket whose bound it does not pass', (t) => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 20_000, noNaN: true })), (times) => {
      const histogram = new LatencyHistogram();
      for (const time of times) histogram.observe(time);
      for (const [i, bound] of [...LATENCY_BOUNDS, Number.POSITIVE_INFINITY].entries()) {
        const upTo = histogram.counts.slice(0, i + 1).reduce((sum, count) => sum + count, 0);
        t.is(upTo, times.filter((time) => time <= bound).length);
      }
    }),
  );
});

test('histograms are told in the form of Prometheus, in seconds and by kind', async (t) => {
  const [read, write, fsync] = [new LatencyHistogram(), new LatencyHistogram(), new LatencyHistogram()];
  const registry = new Registry();
  registerLatencies(registry, 'request_seconds', 'Requests', { read, write });
  registerLatencies(registry, 'fsync_seconds', 'Syncs', fsync);
  read.observe(0.3);
  read.observe(3);
  fsync.observe(99_999);
  const text = await registry.metrics();
  for (const line of [
    '# TYPE request_seconds histogram',
    'request_seconds_bucket{le="0.00025",kind="read"} 0',
    'request_seconds_bucket{le="0.0005",kind="read"} 1',
    'request_seconds_bucket{le="0.005",kind="read"} 2',
    'request_seconds_bucket{le="+Inf",kind="read"} 2',
    'request_seconds_sum{kind="read"} 0.0033',
    'request_seconds_count{kind="write"} 0',
    'fsync_seconds_bucket{le="10"} 0',
    'fsync_seconds_bucket{le="+Inf"} 1',
    'fsync_seconds_count 1',
  ]) {
    t.true(text.split('\n').includes(line), `${line}\n${text}`);
  }
});
