// One `for await` loop over a channel.
//
// The loop says that it has processed a message by asking for the next one. A loop that is left by `break`, `return` or
// an exception has not said so: that message is given again to the next loop, and is not acknowledged before.

/** @typedef {import("./frames.js").MessageFrame} MessageFrame */

/** @implements {AsyncIterator<MessageFrame, undefined>} */
export class Reader {
  /** @type {((result: IteratorResult<MessageFrame, undefined>) => void) | null} */
  #wanting = null;
  /** @type {((error: unknown) => void) | null} */
  #failing = null;
  /** @type {((processed: boolean) => void) | null} The message out there, or the one that waits to be asked for. */
  #settle = null;
  /** @type {MessageFrame | null} */
  #waiting = null;
  #ended = false;
  /** @type {unknown} */
  #error = null;
  #onEnd;

  /** @param {(reader: Reader) => void} onEnd Called once, when the loop was left or ended. */
  constructor(onEnd) {
    this.#onEnd = onEnd;
  }

  /**
   * Gives a message to the loop. One at a time: the next only after the promise is settled.
   *
   * @param {MessageFrame} message
   * @returns {Promise<boolean>} Whether it was processed.
   */
  offer(message) {
    if (this.#ended) return Promise.resolve(false);
    return new Promise((resolve) => {
      this.#settle = resolve;
      if (this.#wanting) this.#give({ value: message, done: false });
      else this.#waiting = message;
    });
  }

  /** The message that is out there counts as processed now, whether or not the loop asks for another. */
  settle() {
    if (this.#waiting === null) this.#done(true);
  }

  /**
   * Ends the loop: quietly, or by throwing `error` into it.
   *
   * @param {unknown} [error]
   */
  end(error = null) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#waiting = null;
    const fail = this.#failing;
    if (this.#wanting && error !== null && fail) {
      this.#wanting = this.#failing = null;
      this.#error = null;
      fail(error);
    } else if (this.#wanting) this.#give({ value: undefined, done: true });
    this.#done(false);
    this.#onEnd(this);
  }

  /** @returns {Promise<IteratorResult<MessageFrame, undefined>>} */
  next() {
    if (this.#waiting === null) this.#done(true);
    if (this.#ended) {
      const error = this.#error;
      this.#error = null;
      return error === null ? Promise.resolve({ value: undefined, done: true }) : Promise.reject(error);
    }
    return new Promise((resolve, reject) => {
      this.#wanting = resolve;
      this.#failing = reject;
      if (this.#waiting !== null) {
        const value = this.#waiting;
        this.#waiting = null;
        this.#give({ value, done: false });
      }
    });
  }

  /** @returns {Promise<IteratorResult<MessageFrame, undefined>>} */
  return() {
    this.end();
    return Promise.resolve({ value: undefined, done: true });
  }

  /** @param {IteratorResult<MessageFrame, undefined>} result */
  #give(result) {
    const give = this.#wanting;
    this.#wanting = this.#failing = null;
    give?.(result);
  }

  /** @param {boolean} processed */
  #done(processed) {
    const settle = this.#settle;
    this.#settle = null;
    settle?.(processed);
  }
}
