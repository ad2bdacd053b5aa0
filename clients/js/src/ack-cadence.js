// When to acknowledge. The server sets the pace (`ack_every`, `ack_ms`), because acks are most of what it hears from
// subscribers; a timer of our own would cost it more than the messages do.
//
// Spread: each ack is due at a random point between half and the whole of `ack_every`, so that many subscribers of one
// channel do not acknowledge in the same instant. The server's window also counts bytes (1 MiB): large messages are
// acknowledged by size, or the server would wait for `ack_ms` at each mebibyte.

/** A quarter of the window in UTF-16 units: at most three bytes each, so it is reached before the window is full. */
const SIZE_LIMIT = 256 * 1024;

export class AckCadence {
  #random;
  #every = 0;
  #dueAfter = 0;
  #count = 0;
  #size = 0;
  /** @type {number | null} */
  #unacked = null;

  /** @param {() => number} random As `Math.random`. */
  constructor(random) {
    this.#random = random;
  }

  /**
   * A new attachment: what was processed before it is not acknowledged on it.
   *
   * @param {number} every 0: no acks at all.
   */
  begin(every) {
    this.#every = every;
    this.#unacked = null;
    this.#restart();
  }

  /**
   * Everything through `serial` is processed.
   *
   * @param {number} serial
   * @param {number} size
   * @returns {boolean} Whether an ack is due now.
   */
  processed(serial, size) {
    if (this.#every === 0) return false;
    this.#unacked = serial;
    this.#count += 1;
    this.#size += size;
    return this.#count >= this.#dueAfter || this.#size >= SIZE_LIMIT;
  }

  get isPending() {
    return this.#unacked !== null;
  }

  /** The serial to acknowledge, or null when there is nothing new. From here it counts as said. */
  take() {
    const serial = this.#unacked;
    this.#unacked = null;
    if (serial !== null) this.#restart();
    return serial;
  }

  #restart() {
    const half = Math.ceil(this.#every / 2);
    this.#dueAfter = Math.max(1, half + Math.floor(this.#random() * (this.#every - half + 1)));
    this.#count = 0;
    this.#size = 0;
  }
}
