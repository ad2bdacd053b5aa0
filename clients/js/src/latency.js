// How long an answer takes, and whether that makes a slow line. Pure.

/** From here a person notices. */
export const SLOW_MS = 1500;
/** For how long it must last to be called slow: one bad answer is not a slow line. */
export const SLOW_FOR_MS = 5000;

export class Latency {
  /** @type {number | null} Smoothed over a few answers. */
  ms = null;
  /** @type {number | null} */
  #overSince = null;

  /**
   * @param {number} ms How long the last answer took, or how long one has been awaited already.
   * @param {number} now
   */
  sample(ms, now) {
    this.ms = this.ms === null ? ms : Math.round(this.ms * 0.6 + ms * 0.4);
    if (ms < SLOW_MS) this.#overSince = null;
    else this.#overSince ??= now - ms + SLOW_MS;
  }

  /** Whether the last answer was late: worth asking again soon. */
  get isSuspect() {
    return this.#overSince !== null;
  }

  /** @param {number} now */
  isSlow(now) {
    return this.#overSince !== null && now - this.#overSince >= SLOW_FOR_MS;
  }

  /** The line was cut: what was measured belongs to the old one. */
  reset() {
    this.ms = null;
    this.#overSince = null;
  }
}
