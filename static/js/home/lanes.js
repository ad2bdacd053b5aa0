// The demo of the front page: what one reader has of the newest messages, and what a cut did to it. Pure.

/** How many beads a lane has. */
export const BEADS = 12;

/** @typedef {"here" | "resumed" | "to-come"} BeadState */

export class Reader {
  /** Everything through here came. */
  position = 0;
  received = 0;
  lost = 0;
  doubled = 0;
  /** @type {{ after: number, at: number, backAt: number | null, through: number } | null} The last cut of the line. */
  cut = null;
  #isKnown = false;

  /** @param {{ serial: number, head: number }} frame @param {number} now */
  attached({ serial, head }, now) {
    if (!this.#isKnown) this.position = serial;
    this.#isKnown = true;
    if (this.cut !== null && this.cut.backAt === null) {
      this.cut.backAt = now;
      this.cut.through = head;
    }
  }

  /** @param {number} serial */
  message(serial) {
    this.received += 1;
    if (serial <= this.position) this.doubled += 1;
    else this.lost += serial - this.position - 1;
    this.position = Math.max(this.position, serial);
  }

  /** The log is another, or a part of it cannot be had: what is missing was told. @param {number | null} to */
  skipped(to) {
    this.position = to ?? 0;
  }

  /** @param {number} now */
  cutNow(now) {
    this.cut = { after: this.position, at: now, backAt: null, through: this.position };
  }
}

/**
 * The beads of a lane under a log whose newest message is `head`.
 *
 * @param {Pick<Reader, "position" | "cut">} reader
 * @param {number} head
 * @returns {{ serial: number, state: BeadState }[]}
 */
export function beads({ position, cut }, head) {
  const first = Math.max(1, head - BEADS + 1);
  return Array.from({ length: Math.max(0, head - first + 1) }, (_, index) => {
    const serial = first + index;
    if (serial > position) return { serial, state: "to-come" };
    const isResumed = cut !== null && cut.backAt !== null && serial > cut.after && serial <= cut.through;
    return { serial, state: isResumed ? "resumed" : "here" };
  });
}
