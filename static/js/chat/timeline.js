// What a room shows, as data: messages by serial, our own that are not stored yet, holes, and the rows they make. Pure.
//
// A message of ours is first a pending one, in the order of sending, below everything; when the log delivers it, it takes
// its place by serial. Serials decide the order and what is doubled, never times.

import { dayKey, dayLabel } from "../words.js";

/** @typedef {import("../../seriatim/frames.js").MessageFrame} MessageFrame */
/** @typedef {import("../../seriatim/frames.js").HistoryFrame} HistoryFrame */
/** @typedef {import("../../seriatim/outbox.js").OutboxEntry} OutboxEntry */

/** @typedef {{ serial: number, id: string, client: string | null, time: number, text: string | null }} Message */

/**
 * @typedef {object} Own A message of ours that the log has not delivered yet.
 * @property {string} id
 * @property {string} text
 * @property {"pending" | "waiting" | "sent" | "failed"} state
 * @property {string | null} reason
 * @property {string} message What the server said, for a failed one.
 * @property {number | null} retryAt
 * @property {number} queuedAt
 */

/** @typedef {{ from: number, to: number, reason: string }} Gap */
/** @typedef {{ serial: number, count: number, since: number }} NewSince From behind this serial on it is new. */

/**
 * @typedef {object} Timeline
 * @property {string | null} epoch
 * @property {readonly Message[]} messages By serial.
 * @property {readonly Gap[]} gaps By serial; none overlaps a message.
 * @property {readonly Own[]} own In the order of sending.
 * @property {number | null} oldest The oldest serial that the log retains, once it is known.
 * @property {NewSince | null} newSince
 * @property {ReadonlySet<string>} sentHere Ids of messages that this page sent and the server has stored.
 * @property {number} doubled How many deliveries were dropped because they were here already.
 */

/**
 * @typedef {{ key: string } & (
 *   { kind: "day", label: string }
 *   | { kind: "message", message: Message, continues: boolean, isSent: boolean }
 *   | { kind: "own", own: Own, continues: boolean, isFirst: boolean, time: number }
 *   | { kind: "gap", gap: Gap }
 *   | { kind: "past", through: number }
 *   | { kind: "beginning" }
 *   | { kind: "new", newSince: NewSince })} Row
 */

/** A run of one author is joined as long as nobody waits longer than this. */
const RUN_MS = 5 * 60_000;

/** @returns {Timeline} */
export function emptyTimeline() {
  return { epoch: null, messages: [], gaps: [], own: [], oldest: null, newSince: null, sentHere: new Set(), doubled: 0 };
}

/** @param {MessageFrame} frame @returns {Message} */
export function toMessage({ serial, id, client, time, data }) {
  const text = typeof data === "object" && data !== null && typeof data.text === "string" ? data.text : null;
  return { serial, id, client, time, text };
}

/**
 * Takes messages, live or of the past, in any order.
 *
 * @param {Timeline} timeline
 * @param {readonly MessageFrame[]} frames
 * @param {string} me Our client id.
 * @returns {Timeline}
 */
export function receive(timeline, frames, me) {
  const fresh = frames.filter((frame) => at(timeline.messages, frame.serial) === null).map(toMessage);
  const doubled = timeline.doubled + frames.length - fresh.length;
  if (fresh.length === 0) return { ...timeline, doubled };
  const messages = [...timeline.messages, ...fresh];
  const isSorted = messages.every((message, index) => index === 0 || messages[index - 1].serial < message.serial);
  if (!isSorted) messages.sort((a, b) => a.serial - b.serial);
  const mine = new Set(fresh.filter((message) => message.client === me).map((message) => message.id));
  const delivered = timeline.own.filter((own) => mine.has(own.id));
  if (delivered.length === 0) return { ...timeline, messages, doubled };
  return {
    ...timeline,
    messages,
    doubled,
    own: timeline.own.filter((own) => !mine.has(own.id)),
    // In the log is stored: `published` may come behind the message itself.
    sentHere: new Set([...timeline.sentHere, ...delivered.map((own) => own.id)]),
  };
}

/**
 * Takes a page of the past.
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
 * The stream said that serials cannot be had.
 *
 * @param {Timeline} timeline
 * @param {Gap} gap
 * @returns {Timeline}
 */
export function skip(timeline, gap) {
  if (gap.to < gap.from) return timeline;
  const gaps = [...timeline.gaps, gap].sort((a, b) => a.from - b.from);
  return { ...timeline, gaps };
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
  if (timeline.epoch === null && timeline.messages.length === 0) return { ...timeline, epoch };
  return { ...timeline, epoch, messages: [], gaps: [], oldest: null, newSince: null };
}

/**
 * A message of ours changed its state.
 *
 * @param {Timeline} timeline
 * @param {OutboxEntry} entry
 * @returns {Timeline}
 */
export function drawOwn(timeline, entry) {
  const index = timeline.own.findIndex((own) => own.id === entry.id);
  if (entry.state === "sent") {
    const sentHere = new Set(timeline.sentHere).add(entry.id);
    const isHere = timeline.messages.some((message) => message.serial === entry.receipt?.serial);
    if (isHere) return { ...timeline, sentHere, own: timeline.own.filter((own) => own.id !== entry.id) };
    timeline = { ...timeline, sentHere };
  }
  const code = entry.error?.code;
  if (entry.state === "failed" && (code === "discarded" || code === "closed" || code === "identity")) {
    return index < 0 ? timeline : { ...timeline, own: timeline.own.filter((own) => own.id !== entry.id) };
  }
  /** @type {Own} */
  const own = {
    id: entry.id,
    text: String(entry.data?.text ?? ""),
    state: entry.state,
    reason: entry.reason,
    message: entry.error?.message ?? "",
    retryAt: entry.retryAt,
    queuedAt: entry.queuedAt,
  };
  if (index < 0) {
    // It may be in the log already, when another tab of ours sent it too.
    if (timeline.messages.some((message) => message.id === entry.id)) return timeline;
    return { ...timeline, own: [...timeline.own, own] };
  }
  return { ...timeline, own: timeline.own.map((each, at) => (at === index ? own : each)) };
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
  if (timeline.messages.length <= most) return timeline;
  const messages = timeline.messages.slice(-most);
  return { ...timeline, messages, gaps: timeline.gaps.filter((gap) => gap.to >= messages[0].serial) };
}

/** Whether the past before the oldest message shown may have more. @param {Timeline} timeline */
export function hasPast({ messages, gaps, oldest }) {
  if (messages.length === 0) return false;
  const first = Math.min(messages[0].serial, ...gaps.map((gap) => gap.from));
  return first > Math.max(1, oldest ?? 1);
}

/**
 * How many serials between the first and the last message shown are neither here nor explained.
 *
 * @param {Timeline} timeline
 */
export function missing({ messages, gaps }) {
  if (messages.length === 0) return 0;
  const from = messages[0].serial;
  const to = messages[messages.length - 1].serial;
  const explained = gaps.reduce((sum, gap) => sum + Math.max(0, Math.min(gap.to, to) - Math.max(gap.from, from) + 1), 0);
  return to - from + 1 - messages.length - explained;
}

/**
 * @param {Timeline} timeline
 * @param {number} now
 * @param {string} me
 * @returns {Row[]}
 */
export function rowsOf(timeline, now, me) {
  const { messages, gaps, own, oldest, newSince } = timeline;
  /** @type {Row[]} */
  const rows = [];
  if (messages.length > 0 && oldest !== null && !hasPast(timeline)) {
    if (oldest > 1) rows.push({ key: "past", kind: "past", through: oldest - 1 });
    else rows.push({ key: "beginning", kind: "beginning" });
  }
  const lastOfOurs = [...messages].reverse().find((message) => message.client === me);
  let day = "";
  let gapIndex = 0;
  /** @type {{ client: string | null, time: number } | null} Who wrote the row above, if a run may go on. */
  let above = null;
  let isNewShown = false;

  /** @param {number} time */
  const startDay = (time) => {
    const key = dayKey(time);
    if (key === day) return;
    day = key;
    above = null;
    rows.push({ key: `day ${key}`, kind: "day", label: dayLabel(time, now) });
  };

  for (const message of messages) {
    for (; gapIndex < gaps.length && gaps[gapIndex].from < message.serial; gapIndex++) {
      rows.push(gapRow(gaps[gapIndex]));
      above = null;
    }
    startDay(message.time);
    if (newSince !== null && !isNewShown && message.serial > newSince.serial) {
      isNewShown = true;
      above = null;
      rows.push({ key: "new", kind: "new", newSince });
    }
    rows.push({
      // By id, so that a message of ours that settles into its place keeps its element.
      key: `${message.client ?? ""}/${message.id}`,
      kind: "message",
      message,
      continues: continues(above, message.client, message.time),
      isSent: message === lastOfOurs && timeline.sentHere.has(message.id),
    });
    above = { client: message.client, time: message.time };
  }
  for (; gapIndex < gaps.length; gapIndex++) {
    rows.push(gapRow(gaps[gapIndex]));
    above = null;
  }
  own.forEach((each, index) => {
    startDay(each.queuedAt);
    const isFirst = !own.slice(0, index).some((before) => before.state !== "failed");
    rows.push({
      key: `${me}/${each.id}`,
      kind: "own",
      own: each,
      continues: continues(above, me, each.queuedAt),
      isFirst,
      time: each.queuedAt,
    });
    above = { client: me, time: each.queuedAt };
  });
  return rows;
}

/** @param {Gap} gap @returns {Row} */
function gapRow(gap) {
  return { key: `gap ${gap.from}`, kind: "gap", gap };
}

/** @param {{ client: string | null, time: number } | null} above @param {string | null} client @param {number} time */
function continues(above, client, time) {
  return above !== null && above.client !== null && above.client === client && time - above.time < RUN_MS;
}

/** The message with this serial. @param {readonly Message[]} messages @param {number} serial */
function at(messages, serial) {
  let low = 0;
  let high = messages.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const here = messages[middle].serial;
    if (here === serial) return messages[middle];
    if (here < serial) low = middle + 1;
    else high = middle - 1;
  }
  return null;
}
