/** One of the two networks that are built alike. */
export interface Twin {
  /** A pod sends a frame. */
  send(pod: string, frame: Uint8Array): void;
  /** What has come to pods since this was last asked, each with its name; waits until it is quiet. */
  received(): Promise<[pod: string, frame: Uint8Array][]>;
  /** Lets routers give up questions for neighbours that nobody answers, for which so many packets wait, or some more. */
  letNeighborsFail(expected: number): Promise<void>;
  close(): Promise<void>;
}
