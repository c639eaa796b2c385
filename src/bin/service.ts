/** Something that runs until it is closed. */
export interface Service {
  /** Rejects when the service can go on no longer. Never resolves. */
  readonly failed: Promise<never>;
  close(): Promise<void>;
}
