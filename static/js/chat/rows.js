// The rows that a timeline makes, for the room and for a thread. Pure.

import { dayKey, dayLabel } from "../words.js";
import { withPending } from "./fold.js";
import { hasPast, shownSpan } from "./timeline.js";

/** @typedef {import("./fold.js").Folded} Folded */
/** @typedef {import("./fold.js").Notice} Notice */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./timeline.js").Own} Own */
/** @typedef {import("./timeline.js").Gap} Gap */
/** @typedef {import("./timeline.js").NewSince} NewSince */

/**
 * @typedef {{ key: string } & (
 *   { kind: "day", label: string }
 *   | { kind: "message", message: Folded, continues: boolean, isSent: boolean, seenBy: string[], change: Own | null }
 *   | { kind: "own", own: Own, continues: boolean, isFirst: boolean, time: number }
 *   | { kind: "notice", notice: Notice }
 *   | { kind: "gap", gap: Gap }
 *   | { kind: "past", through: number }
 *   | { kind: "beginning" }
 *   | { kind: "replies", count: number }
 *   | { kind: "new", newSince: NewSince })} Row
 */

/** A run of one author is joined as long as nobody waits longer than this. */
const RUN_MS = 5 * 60_000;

/** Whether it stands in the room, and not in a thread alone. @param {{ thread?: number | null, also?: boolean }} message */
const isInRoom = (message) => (message.thread ?? null) === null || message.also === true;

/**
 * @param {Timeline} timeline
 * @param {number} now
 * @param {string} me
 * @returns {Row[]}
 */
export function rowsOf(timeline, now, me) {
  const { fold, oldest, newSince } = timeline;
  const span = shownSpan(timeline) ?? { from: 1, to: 0 };
  /** @param {{ serial: number }} each */
  const isShown = ({ serial }) => serial >= span.from && serial <= span.to;
  /** @type {Row[]} */
  const rows = [];
  if (span.to > 0 && oldest !== null && !hasPast(timeline)) {
    // What was taken from the log while it stood here already stays; a gap says where the rest is missing.
    const from = Math.min(oldest, span.from);
    if (from > 1) rows.push({ key: "past", kind: "past", through: from - 1 });
    else rows.push({ key: "beginning", kind: "beginning" });
  }
  const messages = fold.messages().filter((message) => isShown(message) && isInRoom(message));
  /** @type {{ serial: number, message?: Folded, notice?: Notice, gap?: Gap }[]} */
  const items = messages.map((message) => ({ serial: message.serial, message }));
  const others = [
    ...fold.notices().filter(isShown).map((notice) => ({ serial: notice.serial, notice })),
    ...timeline.gaps.map((gap) => ({ serial: gap.from, gap })).filter(isShown),
  ];
  if (others.length > 0) items.push(...others), items.sort((a, b) => a.serial - b.serial);
  const writer = new RowWriter(timeline, now, me, rows, lastOf(messages, me));
  let isNewShown = false;
  for (const { serial, message, notice, gap } of items) {
    if (gap) writer.put({ key: `gap ${gap.from}`, kind: "gap", gap });
    else {
      writer.startDay((message ?? notice)?.time ?? now);
      if (newSince !== null && !isNewShown && serial > newSince.serial) {
        isNewShown = true;
        writer.put({ key: "new", kind: "new", newSince });
      }
      if (message) writer.message(message);
      else if (notice) writer.put({ key: `notice ${serial}`, kind: "notice", notice });
    }
  }
  // While one reads in the past, what waits to be sent stands at the other end.
  if (timeline.spans.length === 0 || span.to === timeline.spans[timeline.spans.length - 1].to) {
    for (const own of timeline.own) {
      if (own.event !== "message" || !isInRoom(own.data ?? {})) continue;
      writer.startDay(own.queuedAt);
      writer.own(own);
    }
  }
  return rows;
}

/**
 * A thread: its first message, and the replies.
 *
 * @param {Timeline} timeline
 * @param {number} first
 * @param {number} now
 * @param {string} me
 * @returns {Row[]}
 */
export function threadRows(timeline, first, now, me) {
  /** @type {Row[]} */
  const rows = [];
  const root = timeline.fold.get(first);
  const replies = timeline.fold.messages().filter((message) => message.thread === first);
  const writer = new RowWriter(timeline, now, me, rows, lastOf(replies, me));
  if (root) {
    writer.message(root);
    writer.put({ key: "replies", kind: "replies", count: Math.max(replies.length, root.replies.count) });
  }
  for (const message of replies) writer.message(message);
  for (const own of timeline.own) if (own.event === "message" && own.data?.thread === first) writer.own(own);
  return rows;
}

/** @param {readonly Folded[]} messages @param {string} me */
function lastOf(messages, me) {
  for (let index = messages.length - 1; index >= 0; index--) if (messages[index].client === me) return messages[index];
  return null;
}

class RowWriter {
  #timeline;
  #now;
  #me;
  #rows;
  #lastOfOurs;
  #day = "";
  #isFirst = true;
  /** @type {{ client: string, time: number } | null} Who wrote the row above, if a run may go on. */
  #above = null;
  /** @type {Map<number, Own[]>} */
  #changes = new Map();

  /** @param {Timeline} timeline @param {number} now @param {string} me @param {Row[]} rows @param {Folded | null} lastOfOurs */
  constructor(timeline, now, me, rows, lastOfOurs) {
    this.#timeline = timeline;
    this.#now = now;
    this.#me = me;
    this.#rows = rows;
    this.#lastOfOurs = lastOfOurs;
    for (const own of timeline.own) {
      if (own.event === "message") continue;
      const of = Number(own.data?.of);
      this.#changes.set(of, [...(this.#changes.get(of) ?? []), own]);
    }
  }

  /** @param {number} time */
  startDay(time) {
    const key = dayKey(time);
    if (key === this.#day) return;
    this.#day = key;
    this.put({ key: `day ${key}`, kind: "day", label: dayLabel(time, this.#now) });
  }

  /** @param {Row} row One that ends a run. */
  put(row) {
    this.#rows.push(row);
    this.#above = null;
  }

  /** @param {Folded} message */
  message(message) {
    const { client, time, serial, id } = message;
    const changes = this.#changes.get(serial) ?? [];
    const applied = changes.filter((own) => own.state !== "failed");
    const isLast = message === this.#lastOfOurs;
    /** @type {string[]} */
    const seenBy = [];
    // A receipt is of the room: it tells nothing of a reply that stands in its thread alone.
    if (isLast && isInRoom(message)) for (const [who, through] of this.#timeline.fold.receipts) if (who !== client && through >= serial) seenBy.push(who);
    this.#rows.push({
      // By id, so that a message of ours that settles into its place keeps its element.
      key: `${client}/${id}`,
      kind: "message",
      message: withPending(
        message,
        applied.map((own) => ({ serial: Infinity, id: own.id, client: this.#me, time: own.queuedAt, event: own.event, data: own.data })),
      ),
      continues: this.#continues(client, time),
      isSent: isLast && (seenBy.length > 0 || this.#timeline.sentHere.has(id)),
      seenBy,
      change: changes.find((own) => own.state === "failed") ?? changes.find((own) => own.event !== "react") ?? null,
    });
    this.#above = { client, time };
  }

  /** @param {Own} own */
  own(own) {
    this.#rows.push({
      key: `${this.#me}/${own.id}`,
      kind: "own",
      own,
      continues: this.#continues(this.#me, own.queuedAt),
      isFirst: this.#isFirst,
      time: own.queuedAt,
    });
    // One that is stored, or failed, is waited for by nobody.
    if (own.state === "waiting" || own.state === "pending") this.#isFirst = false;
    this.#above = { client: this.#me, time: own.queuedAt };
  }

  /** @param {string} client @param {number} time */
  #continues(client, time) {
    return this.#above !== null && this.#above.client === client && time - this.#above.time < RUN_MS;
  }
}
