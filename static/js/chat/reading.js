// What one has read: kept on this device and, by receipts, in the room, for the "new since" line and for "Seen by".
//
// Only what stood on a visible page counts. A receipt goes out at most every two seconds, never while the line is away
// (it would be old news when it arrives), and not for what another tab of ours has said already.

import { channel, isAway, log, me, memory, page, room } from "./page.js";
import { shownMessages, shownSpan } from "./timeline.js";

const MARK_AFTER_MS = 400;
const RECEIPT_EVERY_MS = 2000;

/** @typedef {import("./drafts.js").ReadMark} ReadMark */

/**
 * How far one has read: here, or on another device, of which the server knows by the receipts.
 *
 * @param {(ReadMark | null)[]} marks
 * @param {string | null} epoch Of the log; marks in another one mean other messages.
 */
export function furthest(marks, epoch) {
  /** @type {ReadMark | null} */
  let found = null;
  for (const mark of marks) if (mark !== null && mark.epoch === epoch && mark.serial > (found?.serial ?? 0)) found = mark;
  return found;
}

/** @type {number | undefined} */
let timer;
let saidThrough = 0;
let saidAt = -Infinity;

/** After a moment: one reads, one does not only fly past. */
export function markReadSoon() {
  clearTimeout(timer);
  timer = setTimeout(markRead, MARK_AFTER_MS);
}

function markRead() {
  const serial = seenThrough();
  if (serial === null) return;
  const mark = memory.readMark(room.slug);
  const isSameLog = mark !== null && mark.epoch === page.timeline.epoch;
  if (!isSameLog || mark.serial < serial) memory.keepReadMark(room.slug, { epoch: page.timeline.epoch, serial, time: Date.now() });
  const known = Math.max(saidThrough, page.timeline.fold.receipts.get(me) ?? 0);
  const newest = shownMessages(page.timeline).findLast((message) => message.serial <= serial && message.client !== me);
  if (!newest || newest.serial <= known || isAway() || !channel.head) return;
  const wait = saidAt + RECEIPT_EVERY_MS - Date.now();
  if (wait > 0) {
    timer = setTimeout(markRead, wait);
    return;
  }
  saidThrough = newest.serial;
  saidAt = Date.now();
  channel.publish({ through: newest.serial }, { event: "receipt" }).catch(() => {});
}

/** Through which serial everything was on the screen; null when nothing counts as seen now. */
function seenThrough() {
  if (!page.isFilled || document.visibilityState !== "visible") return null;
  const bottom = log.getBoundingClientRect().bottom;
  /** @type {HTMLElement[]} */
  const nodes = [...log.querySelectorAll("li.msg[data-serial]")].map((node) => /** @type {HTMLElement} */ (node));
  const last = nodes.findLast((node) => node.getBoundingClientRect().top + 24 < bottom);
  if (!last) return null;
  // At the end of what is known, what shows nothing in the room (a reply, a reaction) counts too.
  const span = shownSpan(page.timeline);
  return last === nodes[nodes.length - 1] && span ? span.to : Number(last.dataset.serial);
}

document.addEventListener("visibilitychange", markReadSoon);
