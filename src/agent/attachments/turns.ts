/** Lets operations of one name happen one after the other. */
export class Turns {
  /** The last operation of each name. */
  readonly #running = new Map<string, Promise<void>>();

  /** Run an operation when those of the same name that were asked for before have ended, whatever came of them. */
  run<T>(name: string, operation: () => Promise<T>): Promise<T> {
    const before = this.#running.get(name) ?? Promise.resolve();
    const result = before.then(operation);
    const done = result.then(
      () => undefined,
      () => undefined,
    );
    this.#running.set(name, done);
    void done.then(() => {
      if (this.#running.get(name) === done) this.#running.delete(name);
    });
    return result;
  }

  /** Wait for the operations under way. */
  async ended(): Promise<void> {
    await Promise.all(this.#running.values());
  }
}
