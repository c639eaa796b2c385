import type { Fact } from './fact.js';

/** So many facts are found faster by going through them than by a hash. */
const SEARCHED_FACTS = 48;

/** Facts, each once, in the order in which they were first read. Most simulations read few. */
export class FactSet {
  readonly list: Fact<unknown>[] = [];
  private index: Set<Fact<unknown>> | undefined;

  add(fact: Fact<unknown>): void {
    const { list } = this;
    if (this.index === undefined) {
      for (let i = list.length - 1; i >= 0; i--) if (list[i] === fact) return;
      if (list.length === SEARCHED_FACTS) this.index = new Set(list);
    } else if (this.index.has(fact)) return;
    this.index?.add(fact);
    list.push(fact);
  }
}
