// How long to wait before the next try: an exponential, capped, then full jitter over the whole of it.
//
// The jitter comes after the cap (docs/reference/protocol.md, "Errors and close codes"): jitter that is added before it
// leaves everybody at the cap in step once a server has been away for long.

/**
 * @typedef {object} BackoffOptions
 * @property {number} [firstMs] The ceiling of the first wait. Default 1000.
 * @property {number} [capMs] The ceiling of every later one. Default 16000.
 * @property {number} [factor] What a ceiling is multiplied by from one try to the next. Default 2.
 */

/**
 * The ceiling of the wait before try number `attempt` (0 for the first).
 *
 * @param {number} attempt
 * @param {BackoffOptions} [options]
 */
export function ceilingMs(attempt, { firstMs = 1000, capMs = 16000, factor = 2 } = {}) {
  return Math.min(capMs, firstMs * factor ** Math.min(attempt, 64));
}

export class Backoff {
  #options;
  #random;
  #attempt = 0;

  /**
   * @param {BackoffOptions} [options]
   * @param {() => number} [random] As `Math.random`.
   */
  constructor(options = {}, random = Math.random) {
    this.#options = options;
    this.#random = random;
  }

  /** How many waits were handed out since the last reset. */
  get attempt() {
    return this.#attempt;
  }

  /** The next wait in milliseconds. */
  nextMs() {
    const wait = this.#random() * ceilingMs(this.#attempt, this.#options);
    this.#attempt += 1;
    return Math.floor(wait);
  }

  reset() {
    this.#attempt = 0;
  }
}
