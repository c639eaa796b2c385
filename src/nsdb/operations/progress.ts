/** Told how far a long operation has come: what is done now, and how much of it; `total` if that is known. */
export type OnProgress = (phase: string, done: number, total?: number) => void;

export interface OperationOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
}
