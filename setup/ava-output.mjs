// Counts tests from what ava prints where its output is no terminal. Its TAP output does not serve: ava 7 crashes while it
// reports a test that timed out or called process.exit() there.
import { StringDecoder } from 'node:string_decoder';
import { stripVTControlCharacters } from 'node:util';

/**
 * @typedef {object} Count
 * @property {number} passed
 * @property {number} failed tests, hooks, tests that never ended, and files that crashed or held no test
 * @property {number} skipped with those that are only planned
 * @property {string[]} failures a line for each that failed, as ava marks it
 */

/** Reads ava's output as it comes. */
export class AvaOutput {
  #decoder = new StringDecoder();
  #rest = '';
  #passed = 0;
  #failed = 0;
  #skipped = 0;
  /** The number that ava itself sums up; it does so only when all is well. */
  #summary = -1;
  /** Files, by the path ava prints: one crash shows in several lines. */
  #crashed = new Set();
  /** @type {string[]} */
  #failures = [];

  /**
   * The first that fits a line takes it.
   * @type {[RegExp, (value: string) => void][]}
   */
  #rules = [
    [/^ {2}[✔√] /, () => (this.#passed += 1)],
    [/^ {2}- \[(?:skip|todo)\]/, () => (this.#skipped += 1)],
    [/^ {2}[✘×✖] (\d+) tests? remaining in /, (number) => (this.#failed += Number(number))],
    [/^ {2}(\d+) tests? were pending in /, (number) => (this.#failed += Number(number))],
    [/^ {2}[✘×✖] (\S+) exited (?:with|due)/, (file) => this.#crashed.add(file)],
    [/^ {2}[✘×✖] Exiting due to process\.exit\(\) when running (\S+)/, (file) => this.#crashed.add(file)],
    [/^ {2}[✘×✖] No tests found in ([^ ,]+)/, (file) => this.#crashed.add(file)],
    [/^ {2}Failed to exit when running (\S+)/, (file) => this.#crashed.add(file)],
    [/^ {2}(?:Uncaught exception|Unhandled rejection) in (\S+)/, (file) => this.#crashed.add(file)],
    // The tests concerned come in lines of their own.
    [/^ {2}[✘×✖] Timed out while running tests/, () => {}],
    [/^ {2}[✘×✖] /, () => (this.#failed += 1)],
    [/^ {2}(\d+) tests? passed/, (number) => (this.#summary = Number(number))],
  ];

  push(/** @type {Buffer | string} */ chunk) {
    const lines = (this.#rest + (typeof chunk === 'string' ? chunk : this.#decoder.write(chunk))).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#line(stripVTControlCharacters(line).trimEnd());
  }

  #line(/** @type {string} */ line) {
    for (const [pattern, take] of this.#rules) {
      const match = pattern.exec(line);
      if (match) {
        const before = this.#failed + this.#crashed.size;
        take(match[1] ?? '');
        if (this.#failed + this.#crashed.size > before) this.#failures.push(line.trim());
        return;
      }
    }
  }

  /**
   * The count, now that ava has ended. Whatever the output says, an exit status other than 0 is a failure; and so is a
   * good one with no summary, which a run cut short has.
   * @param {number} status
   * @returns {Count}
   */
  end(status) {
    this.push('\n');
    const passed = Math.max(this.#passed, this.#summary);
    let failed = this.#failed + this.#crashed.size;
    if (failed === 0 && (status !== 0 || this.#summary < 0)) failed = 1;
    return { passed, failed, skipped: this.#skipped, failures: this.#failures };
  }
}

/** @returns {Count} */
export function sum(/** @type {Count[]} */ counts) {
  /** @type {Count} */
  const total = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const { passed, failed, skipped, failures } of counts) {
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped;
    total.failures.push(...failures);
  }
  return total;
}

/** The last line of a test run, such as "12 passed, 0 failed, 1 skipped". */
export function countLine(/** @type {Count} */ { passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}
