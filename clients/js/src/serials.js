// What came on one attachment, by serial. Pure: no clock, no socket.
//
// Without `skipped`, consecutive serials differ by exactly 1 (docs/reference/protocol.md). So each serial is the next
// one, or one that was here before, or proof that something is missing.

export class SerialTracker {
  /** @type {string | null} */
  epoch = null;
  /** Everything through here came or was skipped. */
  serial = 0;

  /**
   * Delivery starts after `serial`.
   *
   * @param {string | null} epoch
   * @param {number} serial
   */
  begin(epoch, serial) {
    this.epoch = epoch;
    this.serial = serial;
  }

  /**
   * Takes the serial of a message. Only `next` moves the tracker.
   *
   * @param {number} serial
   * @returns {"next" | "old" | "gap"}
   */
  take(serial) {
    if (serial === this.serial + 1) {
      this.serial = serial;
      return "next";
    }
    return serial <= this.serial ? "old" : "gap";
  }

  /**
   * Takes what the server says it cannot give. `from` and `to` are null when the epoch is another: then `attached` said
   * where delivery starts.
   *
   * @param {number | null} from
   * @param {number | null} to
   * @returns {"next" | "old" | "gap"}
   */
  skip(from, to) {
    if (to === null) return "next";
    if (from !== null && from > this.serial + 1) return "gap";
    if (to <= this.serial) return "old";
    this.serial = to;
    return "next";
  }
}
