// The serial line: which beads to draw, and what stands over and under them. Pure.
//
// The newest received bead stands where all that is in flight and a few that wait can be seen; a long wait is a number at
// the end, because a scale is true.

import { count, latency } from "../words.js";

/** @typedef {import("./ledger.js").Ledger} Ledger */
/** @typedef {"acked" | "flight" | "waiting" | "skipped"} BeadState */

/**
 * @typedef {object} Timeline
 * @property {{ serial: number, state: BeadState, isLabelled: boolean }[]} beads
 * @property {{ from: number, to: number, label: string, isFull: boolean } | null} window Around what is in flight.
 * @property {{ from: number, to: number, label: string }[]} resumed What came from the log after a cut.
 * @property {{ after: number, label: string }[]} cuts
 * @property {string} more How many wait beyond the last bead.
 * @property {string} name What one would see, in words.
 */

const WAITING_SHOWN = 4;
const LABEL_EVERY = 6;

/**
 * @param {Ledger} ledger
 * @param {number} beadsMost
 * @returns {Timeline}
 */
export function timeline(ledger, beadsMost) {
  const { position, acked, head, base } = ledger;
  // While the line is short there is room for more of what waits.
  const last = Math.max(position, Math.min(head, Math.max(position + WAITING_SHOWN, base + beadsMost)));
  const first = Math.max(base + 1, last - beadsMost + 1);
  const { inFlight } = ledger;
  /** @type {Timeline["beads"]} */
  const beads = [];
  const marks = new Set([first, acked, position, last]);
  for (let serial = first; serial <= last; serial += 1) {
    const isMarked = marks.has(serial);
    // Numbers under the line stay apart: a round one gives way to one that means something.
    const isFree = ![...marks].some((mark) => Math.abs(mark - serial) < 3);
    beads.push({ serial, state: stateOf(ledger, serial), isLabelled: isMarked || (serial % LABEL_EVERY === 0 && isFree) });
  }
  thin(beads, [position, last, acked]);
  const shown = (/** @type {number} */ from, /** @type {number} */ to) => ({ from: Math.max(from, first), to: Math.min(to, last) });
  const box = inFlight > 0 ? { ...shown(acked + 1, position), label: `window ${inFlight} of ${ledger.window}${ledger.isHeld ? ", full" : ""}`, isFull: ledger.isHeld } : null;
  const resumed = ledger.cuts
    .filter((cut) => cut.backAt !== null && cut.through > cut.after)
    .map((cut) => ({ ...shown(cut.after + 1, Math.min(cut.through, position)), label: `${cut.through - cut.after} from the log after resume` }))
    .filter(({ from, to }) => from <= to);
  const cuts = ledger.cuts
    .filter(({ after }) => after >= first - 1 && after <= last)
    .map(({ after, cutAt, backAt }) => ({ after, label: backAt === null ? "cut" : `cut ${latency(backAt - cutAt)}` }));
  const beyond = head - last;
  return { beads, window: box, resumed, cuts, more: beyond > 0 ? `+ ${count(beyond)}` : "", name: nameOf(ledger, first, last) };
}

/** @param {Ledger} ledger @param {number} serial @returns {BeadState} */
function stateOf({ position, acked, skips, window }, serial) {
  if (skips.some(({ from, to }) => serial >= from && serial <= to)) return "skipped";
  if (serial > position) return "waiting";
  return serial <= acked || window === 0 ? "acked" : "flight";
}

/** Numbers that would touch lose the less important. @param {Timeline["beads"]} beads @param {number[]} important */
function thin(beads, important) {
  let lastAt = -Infinity;
  let lastBead = null;
  for (const [index, bead] of beads.entries()) {
    if (!bead.isLabelled) continue;
    if (index - lastAt < 2 && lastBead !== null) {
      if (important.includes(bead.serial)) lastBead.isLabelled = false;
      else {
        bead.isLabelled = false;
        continue;
      }
    }
    lastAt = index;
    lastBead = bead;
  }
}

/** @param {Ledger} ledger @param {number} first @param {number} last */
function nameOf(ledger, first, last) {
  const { position, acked, head, inFlight } = ledger;
  if (last < first) return "No message yet.";
  const parts = [`Serials ${first} to ${last}.`];
  if (ledger.window > 0) parts.push(`Acked through ${acked}.`);
  if (inFlight > 0) {
    parts.push(`${acked + 1} to ${position} sent and not acked${ledger.isHeld ? `: the window of ${ledger.window} is full` : ""}.`);
  }
  if (head > position) parts.push(`${position + 1} to ${head} wait in the log.`);
  return parts.join(" ");
}
