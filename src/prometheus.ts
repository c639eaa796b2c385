/** What the program counts, in prom-client's terms: every value is read when somebody asks for the metrics. */
import { Counter, Gauge, type Histogram, type Registry } from 'prom-client';
import { LATENCY_BOUNDS, LatencyHistogram } from './latency-histogram.js';

/** A metric without labels: its name, what it tells, and its value now. */
export type Reading = readonly [name: string, help: string, value: () => number];

export function registerCounters(registry: Registry, readings: readonly Reading[]): void {
  for (const [name, help, value] of readings) {
    new Counter({
      name,
      help,
      registers: [registry],
      collect() {
        this.reset();
        this.inc(value());
      },
    });
  }
}

export function registerGauges(registry: Registry, readings: readonly Reading[]): void {
  for (const [name, help, value] of readings) {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value());
      },
    });
  }
}

/** Registers a histogram in seconds, with a label `kind` where there are several. */
export function registerLatencies(
  registry: Registry,
  name: string,
  help: string,
  histograms: Readonly<Record<string, LatencyHistogram>> | LatencyHistogram,
): void {
  const get = async () => ({ name, help, type: 'histogram', aggregator: 'sum', values: valuesOf(name, histograms) });
  // A registry uses no more of a metric than this.
  registry.registerMetric({ name, get } as unknown as Histogram);
}

type Values = Awaited<ReturnType<Histogram['get']>>['values'];

function valuesOf(name: string, source: Parameters<typeof registerLatencies>[3]): Values {
  const values: Values = [];
  const add = (histogram: LatencyHistogram, labels: Record<string, string>) => {
    let sum = 0;
    for (const [i, count] of histogram.counts.entries()) {
      sum += count;
      const le = i < LATENCY_BOUNDS.length ? LATENCY_BOUNDS[i] / 1000 : '+Inf';
      values.push({ labels: { le, ...labels }, value: sum, metricName: `${name}_bucket` });
    }
    values.push({ labels, value: histogram.sum / 1000, metricName: `${name}_sum` });
    values.push({ labels, value: sum, metricName: `${name}_count` });
  };
  if (source instanceof LatencyHistogram) add(source, {});
  else for (const [kind, histogram] of Object.entries(source)) add(histogram, { kind });
  return values;
}
