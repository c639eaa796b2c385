// A stream out of the VM has no end that can be told from a sudden one: the guest writes a mark when the command is over.

/** Passes a stream on up to its end mark. The mark never shows, not even when it comes in pieces. */
export class EndMark {
  seen = false;
  #held = Buffer.alloc(0);

  /** @param {string} mark ASCII, with no second occurrence of its first character's run needed: unlikely in any output */
  constructor(mark) {
    this.mark = mark;
  }

  /** @returns {Buffer} what may be shown of the stream by now */
  push(/** @type {Buffer} */ chunk) {
    if (this.seen) return Buffer.alloc(0);
    const all = Buffer.concat([this.#held, chunk]);
    const at = all.indexOf(this.mark);
    if (at >= 0) {
      this.seen = true;
      this.#held = Buffer.alloc(0);
      return all.subarray(0, at);
    }
    const hold = heldBack(all, this.mark);
    this.#held = all.subarray(all.length - hold);
    return all.subarray(0, all.length - hold);
  }

  /** @returns {Buffer} what was held back, when the stream ended without the mark */
  rest() {
    const held = this.#held;
    this.#held = Buffer.alloc(0);
    return held;
  }
}

/** How many bytes at the end of data are a beginning of the mark. */
function heldBack(/** @type {Buffer} */ data, /** @type {string} */ mark) {
  for (let length = Math.min(mark.length - 1, data.length); length > 0; length -= 1) {
    if (data.toString('latin1', data.length - length) === mark.slice(0, length)) return length;
  }
  return 0;
}
