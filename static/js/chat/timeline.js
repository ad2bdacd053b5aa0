// What a room shows, as data: the fold of its log as far as it is known, our own that is not stored yet, and holes. Pure.
//
// A message of ours is first a pending one, in the order of sending, below everything; when the log delivers it, it takes
// its place by serial. Serials decide the order and what is doubled, never times. What is known are ranges of serials:
// the newest grows with the stream, others come from jumping into the past; ranges that touch are one. One is shown.

import { Fold } from "./fold.js";
import { addSpan, cutBefore, holes, spanAt } from "./spans.js";

/** @typedef {import("../../seriatim/frames.js").MessageFrame} MessageFrame */
/** @typedef {import("../../seriatim/frames.js").HistoryFrame} HistoryFrame */
/** @typedef {import("../../seriatim/outbox.js").OutboxEntry} OutboxEntry */
/** @typedef {import("./fold.js").Folded} Folded */
/** @typedef {import("./spans.js").Span} Span */

/**
 * @typedef {object} Own Something of ours that the log has not delivered yet.
 * @property {string} id
 * @property {string} event `message`, or `edit`, `delete` and `react`, which change one that is there.
 * @property {any} data
 * @property {string} text
 * @property {"pending" | "waiting" | "sent" | "failed"} state
 * @property {string | null} reason
 * @property {string} message What the server said, for a failed one.
 * @property {number | null} retryAt
 * @property {number} queuedAt
 */

/** @typedef {{ from: number, to: number, reason: string }} Gap */
/** @typedef {{ serial: number, count: number, isMore: boolean, since: number }} NewSince From behind this serial on it is new. */

/**
 * @typedef {object} Page Messages as the server folded them, and the range of serials that they cover.
 * @property {string | null} epoch
 * @property {number} oldest
 * @property {number} through
 * @property {number} from
 * @property {number} to
 * @property {Folded[]} messages
 * @property {import("./fold.js").Notice[]} [notices]
 * @property {Record<string, number>} [receipts]
 */

/**
 * @typedef {object} Timeline
 * @property {string | null} epoch
 * @property {Fold} fold Shared by the timelines of an epoch: it only learns.
 * @property {readonly Span[]} spans What is known of the log, holes that were explained among it.
 * @property {number} logFrom From here on everything came from the log itself; nothing may be missing.
 * @property {number | null} shown A serial in the range that is shown; null: the newest.
 * @property {readonly Gap[]} gaps By serial; none overlaps a message.
 * @property {readonly Own[]} own In the order of sending.
 * @property {number | null} oldest The oldest serial that the log retains, once it is known.
 * @property {NewSince | null} newSince
 * @property {ReadonlySet<string>} sentHere Ids of messages that this page sent and the server has stored.
 * @property {number} doubled How many deliveries were dropped because they were here already.
 */

const CHANGES = new Set(["edit", "delete", "react"]);

/** @returns {Timeline} */
export function emptyTimeline() {
  return {
    epoch: null,
    fold: new Fold(),
    spans: [],
    logFrom: Infinity,
    shown: null,
    gaps: [],
    own: [],
    oldest: null,
    newSince: null,
    sentHere: new Set(),
    doubled: 0,
  };
}

/**
 * Takes what the stream delivers.
 *
 * @param {Timeline} timeline
 * @param {readonly MessageFrame[]} frames
 * @param {string} me Our client id.
 * @returns {Timeline}
 */
export function receive(timeline, frames, me) {
  let { spans, doubled, logFrom } = timeline;
  /** @type {Set<string>} */
  const mine = new Set();
  for (const frame of frames) {
    if (spanAt(spans, frame.serial)) {
      doubled += 1;
      continue;
    }
    timeline.fold.add(frame);
    spans = addSpan(spans, frame.serial, frame.serial);
    logFrom = Math.min(logFrom, frame.serial);
    if (frame.client === me) mine.add(frame.id);
  }
  const delivered = timeline.own.filter((own) => mine.has(own.id));
  const next = { ...timeline, spans, doubled, logFrom };
  if (delivered.length === 0) return next;
  // In the log is stored: `published` may come behind the message itself.
  const sentHere = new Set([...timeline.sentHere, ...delivered.map((own) => own.id)]);
  return { ...next, sentHere, own: timeline.own.filter((own) => !mine.has(own.id)) };
}

/**
 * Takes a page of the log.
 *
 * @param {Timeline} timeline
 * @param {HistoryFrame} page
 * @param {string} me
 * @returns {Timeline}
 */
export function receivePage(timeline, page, me) {
  // Another epoch: the stream tells of it itself, and this page belongs to a log that is not the one shown.
  if (timeline.epoch !== null && page.epoch !== timeline.epoch) return timeline;
  const next = receive(timeline, page.messages, me);
  // Every request may overlap what came meanwhile; only the stream counts as doubled.
  return { ...next, doubled: timeline.doubled, oldest: Math.max(page.oldest, timeline.oldest ?? 0) };
}

/**
 * Takes a page that the server has folded: of any place in the past.
 *
 * @param {Timeline} timeline
 * @param {Page} page
 * @returns {Timeline}
 */
export function receiveFolded(timeline, page) {
  if (timeline.epoch !== null && page.epoch !== timeline.epoch) return timeline;
  for (const message of page.messages) timeline.fold.seed(message, page.through);
  for (const notice of page.notices ?? []) timeline.fold.note(notice);
  for (const [client, through] of Object.entries(page.receipts ?? {})) timeline.fold.saw(client, through);
  // The stream delivers what is behind its position itself: only then does it stand here.
  const to = Math.min(page.to, newest(timeline));
  return { ...timeline, spans: addSpan(timeline.spans, page.from, to), oldest: Math.max(page.oldest, timeline.oldest ?? 0) };
}

/**
 * The stream said that serials cannot be had.
 *
 * @param {Timeline} timeline
 * @param {Gap} gap
 * @returns {Timeline}
 */
export function skip(timeline, gap) {
  if (gap.to < gap.from) return timeline;
  const gaps = [...timeline.gaps, gap].sort((a, b) => a.from - b.from);
  return { ...timeline, gaps, spans: addSpan(timeline.spans, gap.from, gap.to) };
}

/**
 * The log is another: what was shown belongs to the old one. Our own unsent messages stay.
 *
 * @param {Timeline} timeline
 * @param {string | null} epoch
 * @returns {Timeline}
 */
export function beginEpoch(timeline, epoch) {
  if (timeline.epoch === epoch) return timeline;
  if (timeline.epoch === null && timeline.spans.length === 0) return { ...timeline, epoch };
  const { own, sentHere, doubled } = timeline;
  // What was to change a message of the old log has nothing to change.
  return { ...emptyTimeline(), epoch, own: own.filter((each) => !CHANGES.has(each.event)), sentHere, doubled };
}

/**
 * Something of ours changed its state.
 *
 * @param {Timeline} timeline
 * @param {OutboxEntry} entry
 * @returns {Timeline}
 */
export function drawOwn(timeline, entry) {
  const event = entry.event ?? "message";
  if (event !== "message" && !CHANGES.has(event)) return timeline; // A receipt: nobody waits for it.
  const index = timeline.own.findIndex((own) => own.id === entry.id);
  const serial = entry.receipt?.serial;
  if (entry.state === "sent") {
    timeline = { ...timeline, sentHere: new Set(timeline.sentHere).add(entry.id) };
    if (serial !== undefined && spanAt(timeline.spans, serial)) return forgetOwn(timeline, entry.id);
  }
  const code = entry.error?.code;
  if (entry.state === "failed" && (code === "discarded" || code === "closed" || code === "identity")) {
    return forgetOwn(timeline, entry.id);
  }
  const { id, data, state, reason, retryAt, queuedAt } = entry;
  /** @type {Own} */
  const own = { id, event, data, text: String(data?.text ?? ""), state, reason, message: entry.error?.message ?? "", retryAt, queuedAt };
  if (index >= 0) return { ...timeline, own: timeline.own.map((each, at) => (at === index ? own : each)) };
  // It may be in the log already, when another tab of ours sent it too.
  if (event === "message" && timeline.fold.messages().some((message) => message.id === id)) return timeline;
  return { ...timeline, own: [...timeline.own, own] };
}

/** @param {Timeline} timeline @param {string} id @returns {Timeline} */
export function forgetOwn(timeline, id) {
  return { ...timeline, own: timeline.own.filter((own) => own.id !== id) };
}

/**
 * Keeps the newest `most` messages: what was scrolled past can be had from the log again.
 *
 * @param {Timeline} timeline
 * @param {number} most
 * @returns {Timeline}
 */
export function keepNewest(timeline, most) {
  const messages = timeline.fold.messages();
  if (messages.length <= most) return timeline;
  const { serial } = messages[messages.length - most];
  timeline.fold.dropBefore(serial);
  const gaps = timeline.gaps.filter((gap) => gap.to >= serial);
  return { ...timeline, shown: null, spans: cutBefore(timeline.spans, serial), gaps, logFrom: Math.max(timeline.logFrom, serial) };
}

/** The range that is shown; null while nothing is known. @param {Timeline} timeline @returns {Span | null} */
export function shownSpan({ spans, shown }) {
  return (shown === null ? null : spanAt(spans, shown)) ?? spans[spans.length - 1] ?? null;
}

/** The messages that are known in the range that is shown, replies in threads among them. @param {Timeline} timeline */
export function shownMessages(timeline) {
  const span = shownSpan(timeline);
  if (span === null) return [];
  return timeline.fold.messages().filter(({ serial }) => serial >= span.from && serial <= span.to);
}

/** The newest serial known. @param {Timeline} timeline */
export function newest({ spans }) {
  return spans[spans.length - 1]?.to ?? 0;
}

/** Whether the past before the oldest message shown may have more. @param {Timeline} timeline */
export function hasPast(timeline) {
  const span = shownSpan(timeline);
  return span !== null && span.from > Math.max(1, timeline.oldest ?? 1);
}

/** Whether there is more between what is shown and what is newest. @param {Timeline} timeline */
export function hasFuture(timeline) {
  const span = shownSpan(timeline);
  return span !== null && span.to < newest(timeline);
}

/**
 * How many serials of what came from the log are neither here nor explained.
 *
 * @param {Timeline} timeline
 */
export function missing({ spans, logFrom }) {
  return holes(spans, logFrom);
}

/**
 * What is new since this device read to `mark`: counted as messages of others.
 *
 * @param {Timeline} timeline
 * @param {{ serial: number, time: number }} mark
 * @param {string} me
 * @returns {Timeline}
 */
export function markNew(timeline, mark, me) {
  const fresh = shownMessages(timeline).filter(({ serial, client, thread, also }) => serial > mark.serial && client !== me && (thread === null || also));
  const isMore = (shownSpan(timeline)?.from ?? 0) > mark.serial + 1;
  if (fresh.length === 0) return timeline;
  return { ...timeline, newSince: { serial: mark.serial, count: fresh.length, isMore, since: mark.time } };
}
