// Time, as the client asks for it. Tests pass a clock that they move by hand.

/**
 * @typedef {object} Clock
 * @property {() => number} now Unix milliseconds.
 * @property {(run: () => void, delayMs: number) => unknown} setTimeout
 * @property {(timer: any) => void} clearTimeout
 */

/** @type {Clock} */
export const systemClock = {
  now: () => Date.now(),
  setTimeout: (run, delayMs) => setTimeout(run, delayMs),
  clearTimeout: (timer) => clearTimeout(timer),
};

/** How late a timer may fire before we take it that the page was frozen or the machine slept. */
export const LATE_MS = 2000;

/**
 * One timer that can be moved. It passes to `run` how late it fired: after a freeze or a sleep that is the only sign
 * that time went by while nothing ran.
 */
export class Timer {
  #clock;
  #run;
  /** @type {unknown} */
  #handle = null;
  #dueAt = 0;

  /**
   * @param {Clock} clock
   * @param {(lateMs: number) => void} run
   */
  constructor(clock, run) {
    this.#clock = clock;
    this.#run = run;
  }

  get isSet() {
    return this.#handle !== null;
  }

  /** @param {number} delayMs */
  set(delayMs) {
    this.clear();
    const wait = Math.max(0, delayMs);
    this.#dueAt = this.#clock.now() + wait;
    this.#handle = this.#clock.setTimeout(() => {
      this.#handle = null;
      this.#run(Math.max(0, this.#clock.now() - this.#dueAt));
    }, wait);
  }

  /**
   * Sets the timer unless it is set to fire earlier.
   *
   * @param {number} delayMs
   */
  setSooner(delayMs) {
    if (this.isSet && this.#dueAt <= this.#clock.now() + delayMs) return;
    this.set(delayMs);
  }

  clear() {
    if (this.#handle !== null) this.#clock.clearTimeout(this.#handle);
    this.#handle = null;
  }
}
