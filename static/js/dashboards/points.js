// What a page knows of one channel: its messages by serial, from history to live, each once. Pure.
//
// The channel is attached from "latest": the newest message of each key first (the state), then what is new. What came
// before is read from history, page by page, downwards. `low` is the lowest serial that is held without a hole and
// `high` the highest: what comes live grows `high`, what comes from history lowers `low`, and whatever is between them
// already is left out. So neither a hole nor a double is possible, in whatever order pages and messages arrive.

/** @typedef {{ serial: number, at: number, key: string | null, event: string, data: any }} Row `at` in Unix seconds. */
/** @typedef {{ serial: number, time: number, key?: string | null, event: string, data: any, snapshot?: boolean }} Frame */

/** @param {Frame} frame @returns {Row} A number `at` in the data is the moment it was measured; else that of publishing. */
export function toRow({ serial, time, key, event, data }) {
  const at = typeof data?.at === "number" && Number.isFinite(data.at) ? data.at : time / 1000;
  return { serial, at, key: key ?? null, event, data };
}

export class ChannelLog {
  /** @type {Row[]} In the order of serials. */
  rows = [];
  /** @type {Map<string, Row>} The newest of each key. */
  latest = new Map();
  low = 1;
  high = 0;
  received = 0;
  doubled = 0;
  /** Messages that a conflating channel merged into newer ones. */
  merged = 0;
  /** Messages that nobody can have any more. */
  missing = 0;
  /** Nothing older can be had, or is kept. */
  isWhole = false;
  /** Older ones are in the log, and too many for this page. */
  isCut = false;
  #most;

  /** @param {number} most How many rows are kept, the newest. */
  constructor(most) {
    this.#most = most;
  }

  /** The state is told anew: nothing of before counts. @param {number} serial Everything through it is history. */
  begin(serial) {
    this.rows = [];
    this.latest.clear();
    this.low = serial + 1;
    this.high = serial;
    this.isWhole = serial === 0;
    this.isCut = false;
  }

  /** A message of the channel, in order. @param {Frame} frame @returns {boolean} Whether it is new. */
  take(frame) {
    const row = toRow(frame);
    if (frame.snapshot) {
      this.#newest(row);
      return true;
    }
    this.received += 1;
    if (row.serial <= this.high) {
      this.doubled += 1;
      return false;
    }
    this.rows.push(row);
    this.high = row.serial;
    this.#newest(row);
    // In larger steps, so that it costs nothing for each message.
    if (this.rows.length > this.#most * 1.25) this.#forget();
    return true;
  }

  /** @param {number | null} from @param {number | null} to Null: the log is another one. @param {string} reason */
  skip(from, to, reason) {
    if (from === null || to === null) {
      this.begin(0);
      this.isWhole = true;
      return;
    }
    const count = Math.max(0, to - Math.max(from, this.high + 1) + 1);
    if (reason === "conflated") this.merged += count;
    else this.missing += count;
    this.high = Math.max(this.high, to);
  }

  /**
   * A page of history that was asked for below `low`.
   *
   * @param {{ messages: Frame[], more?: boolean }} page Newest first.
   * @returns {number} How many were new.
   */
  older({ messages, more = false }) {
    const added = messages.filter(({ serial }) => serial < this.low).map(toRow);
    added.sort((a, b) => a.serial - b.serial);
    for (const row of added) if (row.key !== null && !this.latest.has(row.key)) this.latest.set(row.key, row);
    this.received += added.length;
    if (added.length > 0) {
      this.rows = [...added, ...this.rows];
      this.low = added[0].serial;
    }
    const isEnd = this.low <= 1 || !more || messages.length === 0;
    this.isCut = !isEnd && this.rows.length >= this.#most;
    this.isWhole = isEnd || this.isCut;
    return added.length;
  }

  /** @param {Row} row */
  #newest(row) {
    if (row.key === null) return;
    const known = this.latest.get(row.key);
    if (known === undefined || known.serial <= row.serial) this.latest.set(row.key, row);
  }

  #forget() {
    this.rows = this.rows.slice(-this.#most);
    this.low = this.rows[0].serial;
    this.isWhole = true;
    this.isCut = true;
  }
}

/**
 * What lies between two seconds, with one row more on each side, so that lines run to the edge.
 *
 * @param {readonly Row[]} rows
 * @param {number} from
 * @param {number} to
 */
export function between(rows, from, to) {
  return rows.slice(Math.max(0, firstFrom(rows, from) - 1), Math.min(rows.length, firstFrom(rows, to) + 1));
}

/** The index of the first row that is not before `at`. @param {readonly Row[]} rows @param {number} at */
export function firstFrom(rows, at) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].at < at) low = middle + 1;
    else high = middle;
  }
  return low;
}
