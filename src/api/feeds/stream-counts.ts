/** What a server counts of its watch streams. */
export class StreamCounts {
  open = 0;
  /** Objects told, as there or as gone. */
  events = 0;
  /** Streams that were closed because their clients took nothing. */
  stalled = 0;
}
