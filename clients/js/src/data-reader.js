// The data of messages, whichever way they come: as JSON, or on an attachment with deltas as a string that is the JSON text
// or a difference to the data of the message before (docs/reference/protocol.md, "Deltas"). Pure.

import { applyDelta, DeltaError } from "./fossil.js";

/** @typedef {import("./frames.js").MessageFrame} MessageFrame */

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class DataReader {
  #hasDeltas = false;
  /** The data of the message that came last. @type {{ serial: number, text: Uint8Array } | null} */
  #held = null;

  /** A new attachment. @param {string | undefined} delta What `attached` says of it. */
  begin(delta) {
    this.#hasDeltas = delta === "fossil";
    this.#held = null;
  }

  /** Serials were left out: the next message comes whole. */
  forget() {
    this.#held = null;
  }

  /** Bytes that the last message would have had as JSON, where that is more than came: what the server's window counts. */
  get size() {
    return this.#held?.text.length ?? 0;
  }

  /**
   * The data of a message: each in stream order, once. Throws DeltaError for what is not what was sent; then only another
   * attach helps.
   *
   * @param {MessageFrame} frame
   * @returns {any}
   */
  read({ serial, data, base, snapshot }) {
    if (!this.#hasDeltas) return data;
    const held = this.#held;
    this.#held = null;
    if (typeof data !== "string") throw new DeltaError("the data are no text");
    /** @type {Uint8Array} */
    let text = encoder.encode(data);
    if (base !== undefined) {
      if (held === null || held.serial !== base) throw new DeltaError(`message ${base} is not at hand`);
      text = applyDelta(held.text, text);
    }
    let value;
    try {
      value = JSON.parse(decoder.decode(text));
    } catch {
      throw new DeltaError("the text is not JSON");
    }
    if (!snapshot) this.#held = { serial, text };
    return value;
  }
}
