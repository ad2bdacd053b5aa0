// The one error class of this client. It carries facts; `message` says what went wrong, `remedy` what to do.

import { ERRORS, LOCAL_ERRORS } from "./codes.js";

/** @typedef {import("./frames.js").ErrorFrame} ErrorFrame */

export class SeriatimError extends Error {
  /**
   * @param {string} code A code of the wire (`ERRORS`) or of this client (`LOCAL_ERRORS`).
   * @param {string} [message]
   * @param {{ remedy?: string, channel?: string, retryAfterMs?: number | null, cause?: unknown }} [facts]
   */
  constructor(code, message, { remedy = "", channel, retryAfterMs = null, cause } = {}) {
    const local = /** @type {Record<string, string>} */ (LOCAL_ERRORS)[code];
    super(message ?? ERRORS[code]?.meaning ?? local ?? code, cause === undefined ? undefined : { cause });
    this.name = "SeriatimError";
    this.code = code;
    this.remedy = remedy;
    /** @type {string | undefined} */
    this.channel = channel;
    /** @type {number | null} */
    this.retryAfterMs = retryAfterMs;
  }

  /** Whether the same request can succeed later without a change. */
  get retry() {
    return ERRORS[this.code]?.retry === true || this.retryAfterMs !== null;
  }

  /**
   * The error that an `error` frame tells of.
   *
   * @param {ErrorFrame} frame
   * @param {string} [channel]
   */
  static fromFrame(frame, channel) {
    return new SeriatimError(frame.code, frame.message, {
      remedy: frame.remedy,
      channel: frame.channel ?? channel,
      retryAfterMs: frame.retry_after_ms ?? null,
    });
  }
}
