// Positions and the forms of `from` (docs/reference/protocol.md, "Attach, messages, ack, resume").

import { SeriatimError } from "./errors.js";
import { isCursorName, isEpoch } from "./names.js";

/**
 * Everything through `serial` of the log `epoch` is behind the subscriber. `epoch` is null in a channel never published
 * to.
 *
 * @typedef {{ readonly epoch: string | null, readonly serial: number }} Position
 */

/**
 * @typedef {"head" | "start" | "latest" | { rewind: number } | { since: number } | { cursor: string } | Position} From
 */

/** @param {unknown} value @returns {value is number} */
function isCount(value) {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/**
 * @param {unknown} value
 * @returns {value is Position}
 */
export function isPosition(value) {
  if (typeof value !== "object" || value === null) return false;
  const { epoch, serial } = /** @type {Record<string, unknown>} */ (value);
  if (!isCount(serial)) return false;
  return epoch === null ? serial === 0 : isEpoch(epoch);
}

/**
 * `value` as a form of `from` that the wire knows. Two forms at once, or none, is `bad_position`.
 *
 * @param {unknown} value
 * @returns {From}
 */
export function checkFrom(value) {
  if (value === "head" || value === "start" || value === "latest") return value;
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const forms = /** @type {Record<string, unknown>} */ (value);
    const given = ["rewind", "since", "cursor"].filter((name) => name in forms);
    const named = "epoch" in forms || "serial" in forms;
    if (given.length === 1 && !named) {
      if ("rewind" in forms && isCount(forms.rewind)) return { rewind: forms.rewind };
      if ("since" in forms && isCount(forms.since)) return { since: forms.since };
      if (isCursorName(forms.cursor)) return { cursor: forms.cursor };
    }
    if (given.length === 0 && isPosition(value)) return { epoch: value.epoch, serial: value.serial };
  }
  throw new SeriatimError("bad_position", `${JSON.stringify(value)} is not a position to attach from`, {
    remedy: 'Use "head", "start", "latest", {rewind}, {since}, {cursor} or {epoch, serial}.',
  });
}

/**
 * @param {Position | null} a
 * @param {Position | null} b
 */
export function samePosition(a, b) {
  return a === b || (a !== null && b !== null && a.epoch === b.epoch && a.serial === b.serial);
}
