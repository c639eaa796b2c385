/** Middle and 99th percentile of a series. */
export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

/** One result: ours against a peer's, measured in turn in the same run; alone where there is nobody to compare with. */
export interface Figure {
  readonly bench: string;
  readonly unit: string;
  readonly ours: Percentiles;
  readonly peer?: Percentiles & { readonly name: string };
  /** Of the p50s, ours to the peer's. */
  readonly ratio?: number;
}

export function percentiles(samples: readonly number[]): Percentiles {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (fraction: number) => round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))]);
  return { p50: at(0.5), p99: at(0.99) };
}

export function figure(
  bench: string,
  unit: string,
  ours: readonly number[],
  peer: readonly number[],
  peerName: string,
): Figure {
  const a = percentiles(ours);
  const b = percentiles(peer);
  return { bench, unit, ours: a, peer: { name: peerName, ...b }, ratio: round(a.p50 / b.p50) };
}

export function figureAlone(bench: string, unit: string, ours: readonly number[]): Figure {
  return { bench, unit, ours: percentiles(ours) };
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
