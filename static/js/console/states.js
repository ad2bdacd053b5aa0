// What the console says about the line: the chip's word and the sentence over the beads. Pure. The copy is exact.

import { clockWithSeconds, count, counted } from "../words.js";

/** @typedef {import("./ledger.js").Ledger} Ledger */
/** @typedef {"off" | "connecting" | "up" | "cut" | "lost" | "ended"} LineName */

/**
 * @typedef {object} Facts
 * @property {LineName} line
 * @property {number} since
 * @property {string} reason
 * @property {boolean} isStalling
 * @property {number} attempt
 * @property {Ledger | null} ledger Of the channel that is attached, or was.
 */

/**
 * @param {Facts} facts
 * @returns {{ glyph: string, word: string, strong: string, text: string, badge: string }} `badge` is the word of the connect
 *   panel.
 */
export function describe({ line, since, reason, isStalling, attempt, ledger }) {
  const kept = ledger?.resumeFrom ? ` The position is #${count(ledger.position)}; what comes after it stays in the log.` : "";
  switch (line) {
    case "off":
      return { glyph: "offline", word: "Not connected", strong: "Not connected.", text: " Connect, then attach to a channel from wherever you like.", badge: "Off" };
    case "connecting":
      return { glyph: "connecting", word: attempt > 1 ? `Connecting · try ${count(attempt)}` : "Connecting", strong: "Connecting.", text: kept, badge: "Connecting" };
    case "cut":
      return { glyph: "offline", word: "Cut", strong: `You cut the line at ${clockWithSeconds(since)}.`, text: kept, badge: "Cut" };
    case "lost":
      return { glyph: "offline", word: "Offline", strong: `Offline since ${clockWithSeconds(since)}.`, text: `${kept} The next try comes by itself.`, badge: "Offline" };
    case "ended":
      return { glyph: "danger", word: "Stopped", strong: "The connection was ended.", text: ` ${reason}`, badge: "Stopped" };
    case "up":
      break;
  }
  const up = { badge: "Connected" };
  if (ledger === null || !ledger.isAttached) {
    return { ...up, glyph: "live", word: "Live", strong: "Connected.", text: " Attach to a channel to see its line." };
  }
  if (ledger.isHeld) {
    const window = `${count(ledger.inFlight)} of ${count(ledger.window)}`;
    return {
      ...up,
      glyph: "slow",
      word: `Held at #${count(ledger.position)}`,
      strong: "The server waits for you.",
      text: ` ${window} are unacknowledged, so #${count(ledger.position + 1)} and later stay in the log. Nothing is buffered, nothing is lost.`,
    };
  }
  if (ledger.behind > 0) {
    return {
      ...up,
      glyph: "catching",
      word: `Catching up · ${count(ledger.behind)} to go`,
      strong: `Catching up: ${counted(ledger.behind, "message")} to go.`,
      text: " They arrive in order; nothing was missed.",
    };
  }
  if (ledger.position === 0) return { ...up, glyph: "live", word: "Live", strong: "Live.", text: " Nothing was published here yet: publish something." };
  const acks = ledger.window === 0 ? "" : isStalling ? ` Acks are stalled at #${count(ledger.acked)}.` : ` Acknowledged through #${count(ledger.acked)}.`;
  return { ...up, glyph: "live", word: "Live", strong: "Live.", text: ` In order through #${count(ledger.position)}.${acks}` };
}

/**
 * Why a message is where it is, for the frame that is looked at.
 *
 * @param {number} serial
 * @param {Ledger} ledger
 * @returns {{ badge: string, kind: string, strong: string, text: string }}
 */
export function fateOf(serial, ledger) {
  if (serial > ledger.acked && serial <= ledger.position && ledger.window > 0) {
    const badge = { badge: "Not acked", kind: "slow" };
    if (!ledger.isHeld || serial !== ledger.position) return { ...badge, strong: "", text: "" };
    return {
      ...badge,
      strong: "Why it stops here.",
      text: ` You asked for a window of ${count(ledger.window)}. The last ack was ${ledger.acked}, so ${ledger.position} is the last the server may send. Ack anything and it goes on from the log at ${ledger.position + 1}.`,
    };
  }
  return { badge: ledger.window === 0 ? "Received" : "Acked", kind: "live", strong: "", text: "" };
}
