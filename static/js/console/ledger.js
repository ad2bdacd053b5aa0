// What the console knows of one channel: where it stands, what is in flight, what was acknowledged, and every cut. Pure.
//
// The position is everything that was received here; the server counts what it sent on this attachment and was not
// acknowledged. An attach begins that count anew, so what was in flight when a line was cut is not held against us.

/** @typedef {{ from: number, to: number, reason: string }} Skip */
/**
 * A cut of the line, in the place of the log where it happened.
 *
 * @typedef {object} Cut
 * @property {number} after The position when the line was cut.
 * @property {number} cutAt
 * @property {number | null} backAt
 * @property {number} through What was in the log by the time we were back: after `after`, these came by resuming.
 */

export class Ledger {
  /** @type {string | null} */
  epoch = null;
  /** Everything through here came. */
  position = 0;
  /** Everything through here was acknowledged, or lay behind the attach. */
  acked = 0;
  /** The newest serial known to be in the log. */
  head = 0;
  /** The first serial that is not shown: what lies before was never asked for. */
  base = 0;
  /** How many may be in flight; 0: no acks. */
  window = 0;
  lost = 0;
  doubled = 0;
  received = 0;
  isAttached = false;
  /** @type {Skip[]} */
  skips = [];
  /** @type {Cut[]} */
  cuts = [];
  #isKnown = false;

  /** @param {string} channel */
  constructor(channel) {
    this.channel = channel;
  }

  get inFlight() {
    return this.window === 0 ? 0 : this.position - this.acked;
  }

  /** The window is full: the server sends no more until an ack. */
  get isHeld() {
    return this.isAttached && this.window > 0 && this.inFlight >= this.window;
  }

  /** How many messages of the log are still to come, as far as is known. */
  get behind() {
    return Math.max(0, this.head - this.position);
  }

  /** Where to go on from; null before the first attach. */
  get resumeFrom() {
    return this.#isKnown ? { epoch: this.epoch, serial: this.position } : null;
  }

  /**
   * @param {import("../../seriatim/frames.js").AttachedFrame} frame
   * @param {number} now
   * @param {boolean} isResume We asked for our own position; otherwise the reader chose a place, and the count begins there.
   */
  attached(frame, now, isResume) {
    const isNewLog = this.#isKnown && this.epoch !== null && frame.epoch !== this.epoch;
    if (!this.#isKnown || !isResume || isNewLog) {
      this.base = frame.serial;
      this.position = frame.serial;
      this.head = 0;
      this.skips = [];
      this.cuts = [];
    }
    const cut = this.cuts[this.cuts.length - 1];
    if (cut !== undefined && cut.backAt === null) {
      cut.backAt = now;
      cut.through = frame.head;
    }
    this.#isKnown = true;
    this.isAttached = true;
    this.epoch = frame.epoch;
    this.position = Math.max(this.position, frame.serial);
    this.acked = this.position;
    this.head = Math.max(this.head, frame.head);
    this.window = frame.window;
  }

  /**
   * @param {{ serial: number, snapshot?: boolean }} frame
   * @returns {"next" | "doubled" | "gap" | "snapshot"}
   */
  message({ serial, snapshot }) {
    if (snapshot) return "snapshot";
    this.received += 1;
    this.head = Math.max(this.head, serial);
    if (serial <= this.position) {
      this.doubled += 1;
      return "doubled";
    }
    const missing = serial - this.position - 1;
    this.lost += missing;
    this.position = serial;
    return missing > 0 ? "gap" : "next";
  }

  /** @param {{ from: number | null, to: number | null, reason: string }} frame */
  skipped({ from, to, reason }) {
    if (from === null || to === null) return;
    this.skips.push({ from, to, reason });
    // As if they had been processed and acknowledged: nothing before them is in flight any more.
    this.position = Math.max(this.position, to);
    this.acked = Math.max(this.acked, to);
  }

  /** @param {number} serial */
  snapshotEnd(serial) {
    this.position = Math.max(this.position, serial);
    this.acked = Math.max(this.acked, serial);
    this.base = Math.max(this.base, serial);
  }

  /** @param {number} serial */
  ackedThrough(serial) {
    this.acked = Math.max(this.acked, Math.min(serial, this.position));
  }

  /** @param {number} serial */
  inLog(serial) {
    this.head = Math.max(this.head, serial);
  }

  /** The line is gone. @param {number} now */
  lineLost(now) {
    if (this.isAttached) this.cuts.push({ after: this.position, cutAt: now, backAt: null, through: this.position });
    if (this.cuts.length > 50) this.cuts.shift();
    this.isAttached = false;
  }

  detached() {
    this.isAttached = false;
  }
}
