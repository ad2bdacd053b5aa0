// Where a pointer is between the moments it was heard of. Pure: times come in as arguments.
//
// Positions come 20 times a second and unevenly. They are drawn LAG_MS late, so that nearly always the next one is there
// already and the pointer moves on a line between two that were really sent; nothing is guessed ahead.

/** Two of the sender's intervals: one may be late. */
export const LAG_MS = 100;
/** A longer pause was a rest, not a slow movement: the pointer does not crawl through it. */
const REST_MS = 160;
const SEND_EVERY_MS = 50;
/** Who does not move for so long is drawn faint. */
export const STILL_MS = 8_000;
const KEPT = 8;

/** What positions are counted in: whole ten-thousandths of the field, so that every screen has the same places. */
export const SPAN = 10_000;

/** @typedef {{ x: number, y: number }} Place */

export class Track {
  /** @type {{ at: number, x: number, y: number }[]} Oldest first. */
  #samples = [];

  /** @param {number} at @param {Place} place */
  push(at, { x, y }) {
    const last = this.#samples[this.#samples.length - 1];
    if (last !== undefined && at - last.at > REST_MS) this.#samples = [{ ...last, at: at - SEND_EVERY_MS }];
    this.#samples.push({ at, x, y });
    if (this.#samples.length > KEPT) this.#samples.shift();
  }

  /** When it was last heard of. */
  get heardAt() {
    return this.#samples[this.#samples.length - 1]?.at ?? -Infinity;
  }

  /**
   * @param {number} now
   * @param {number} [lagMs]
   * @returns {Place & { isSettled: boolean }} `isSettled`: it is where it was last heard of, so drawing may stop.
   */
  at(now, lagMs = LAG_MS) {
    const when = now - lagMs;
    const samples = this.#samples;
    const last = samples[samples.length - 1];
    if (when >= last.at) return { x: last.x, y: last.y, isSettled: true };
    for (let index = samples.length - 1; index > 0; index -= 1) {
      const [from, to] = [samples[index - 1], samples[index]];
      if (when < from.at) continue;
      const part = to.at === from.at ? 1 : (when - from.at) / (to.at - from.at);
      return { x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part, isSettled: false };
    }
    return { x: samples[0].x, y: samples[0].y, isSettled: false };
  }
}

/** How often the newest position is sent: at once after a pause, then at most every `everyMs`. */
export class Throttle {
  #everyMs;
  #sentAt = -Infinity;

  /** @param {number} [everyMs] */
  constructor(everyMs = SEND_EVERY_MS) {
    this.#everyMs = everyMs;
  }

  /** How long to wait before the next may go: 0 is now. @param {number} now */
  waitMs(now) {
    return Math.max(0, this.#sentAt + this.#everyMs - now);
  }

  /** @param {number} now */
  sent(now) {
    this.#sentAt = now;
  }
}

/**
 * The place in a signal's data, or null for what is none: it was written by somebody else's script.
 *
 * @param {any} data
 * @returns {Place | null}
 */
export function placeIn(data) {
  const { x, y } = data ?? {};
  const isPlace = [x, y].every((each) => Number.isFinite(each) && each >= 0 && each <= SPAN);
  return isPlace ? { x, y } : null;
}

/** @param {number} value */
export const within = (value) => Math.round(Math.min(SPAN, Math.max(0, value)));
