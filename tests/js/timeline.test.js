import assert from "node:assert/strict";
import test from "node:test";
import { agoText, auditText, gapBanner, gapText, lengthNote, placeholderText, seenText, stateLine } from "../../static/js/chat/copy.js";
import { rowsOf, threadRows } from "../../static/js/chat/rows.js";
import * as timelines from "../../static/js/chat/timeline.js";

const noon = new Date(2026, 10, 22, 12, 0).getTime();
const ME = "ana";

/** @param {number} serial @param {object} [more] */
const frame = (serial, more = {}) =>
  /** @type {any} */ ({ type: "message", channel: "chat:x", serial, id: `id-${serial}`, time: noon + serial * 1000, client: "bo", event: "message", data: { text: `text ${serial}` }, ...more });

/** @param {string} id @param {string} state @param {object} [more] */
const entry = (id, state, more = {}) =>
  /** @type {any} */ ({ id, channel: "chat:x", data: { text: `text ${id}` }, state, reason: null, retryAt: null, queuedAt: noon, error: null, receipt: null, ...more });

/** @param {number} from @param {number} to */
const frames = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => frame(from + index));

/** @param {timelines.Timeline} timeline */
const rows = (timeline) => rowsOf(timeline, noon, ME);

/** @param {timelines.Timeline} timeline */
const serials = (timeline) => timelines.shownMessages(timeline).map((message) => message.serial);

/** @param {number} from @param {number} to */
const filled = (from, to) => timelines.receive(timelines.beginEpoch(timelines.emptyTimeline(), "e1"), frames(from, to), ME);

test("whatever the order of arrival, messages stand by serial, each once", () => {
  let timeline = timelines.beginEpoch(timelines.emptyTimeline(), "e1");
  for (const serial of [5, 3, 4, 3, 1, 2, 5]) timeline = timelines.receive(timeline, [frame(serial)], ME);
  assert.deepEqual(serials(timeline), [1, 2, 3, 4, 5]);
  assert.equal(timeline.doubled, 2);
  assert.equal(timelines.missing(timeline), 0);
});

test("a message of ours stands below everything until the log delivers it, then in its place, once", () => {
  let timeline = filled(1, 2);
  timeline = timelines.drawOwn(timeline, entry("mine", "pending"));
  timeline = timelines.receive(timeline, [frame(3)], ME);
  assert.deepEqual(rows(timeline).map((row) => row.kind), ["day", "message", "message", "message", "own"]);
  const key = rows(timeline).at(-1)?.key;
  timeline = timelines.drawOwn(timeline, entry("mine", "sent", { receipt: { serial: 4 } }));
  timeline = timelines.receive(timeline, [frame(4, { id: "mine", client: ME })], ME);
  assert.equal(timeline.own.length, 0);
  const last = rows(timeline).at(-1);
  assert.equal(last?.kind === "message" && last.isSent, true);
  assert.equal(last?.key, key, "its element stays");
});

test("the message may come before its published, and then it is not shown twice", () => {
  let timeline = timelines.drawOwn(filled(1, 1), entry("mine", "pending"));
  timeline = timelines.receive(timeline, [frame(2, { id: "mine", client: ME })], ME);
  timeline = timelines.drawOwn(timeline, entry("mine", "sent", { receipt: { serial: 2 } }));
  assert.equal(timeline.own.length, 0);
  assert.equal(serials(timeline).length, 2);
});

test("the first that is not stored waits for the connection, and those below it for that one", () => {
  let timeline = timelines.drawOwn(filled(1, 1), entry("stored", "sent", { receipt: { serial: 2 } }));
  for (const id of ["first", "second"]) timeline = timelines.drawOwn(timeline, entry(id, "waiting", { reason: "connection" }));
  assert.deepEqual(rows(timeline).flatMap((row) => (row.kind === "own" ? [row.own.id, row.isFirst] : [])), ["stored", true, "first", true, "second", false]);
});

test("the same id of somebody else is another message", () => {
  let timeline = timelines.drawOwn(filled(1, 1), entry("same", "pending"));
  timeline = timelines.receive(timeline, [frame(2, { id: "same", client: "bo" })], ME);
  assert.equal(timeline.own.length, 1);
});

test("runs of one author are joined, but not over a day, a hole, or five minutes", () => {
  let timeline = timelines.beginEpoch(timelines.emptyTimeline(), "e1");
  const later = noon + 10 * 60_000;
  timeline = timelines.receive(timeline, [frame(1), frame(2), frame(3, { client: "cy" }), frame(4, { client: "cy", time: later }), frame(8, { client: "cy", time: later })], ME);
  timeline = timelines.skip(timeline, { from: 5, to: 7, reason: "retention" });
  timeline = timelines.receive(timeline, [frame(9, { client: "cy", time: later + 24 * 3600_000 })], ME);
  const found = rows(timeline).map((row) => (row.kind === "message" ? row.continues : row.kind));
  assert.deepEqual(found, ["day", false, true, false, false, "gap", false, "day", false]);
  assert.equal(timelines.missing(timeline), 0);
});

test("a hole that nobody explained is counted", () => {
  const timeline = timelines.receive(filled(1, 3), [frame(6)], ME);
  assert.equal(timelines.missing(timeline), 2);
});

test("the past has an end: the beginning, or what retention took", () => {
  const page = /** @type {any} */ ({ epoch: "e1", oldest: 1, head: 9, messages: frames(1, 4).reverse(), more: false });
  let timeline = filled(5, 9);
  assert.equal(timelines.hasPast(timeline), true);
  timeline = timelines.receivePage(timeline, page, ME);
  assert.equal(timelines.hasPast(timeline), false);
  assert.equal(rows(timeline)[0].kind, "beginning");
  assert.equal(timeline.doubled, 0);
  const pruned = timelines.receivePage(filled(5, 9), { ...page, oldest: 5, messages: [] }, ME);
  assert.deepEqual(rows(pruned)[0], { key: "past", kind: "past", through: 4 });
});

test("a page of another epoch is not mixed in", () => {
  const page = /** @type {any} */ ({ epoch: "e2", oldest: 1, head: 9, messages: frames(1, 4), more: false });
  const timeline = filled(5, 9);
  assert.equal(timelines.receivePage(timeline, page, ME), timeline);
});

test("a new epoch empties the room and keeps what we have not sent", () => {
  let timeline = timelines.drawOwn(filled(1, 5), entry("mine", "waiting", { reason: "connection" }));
  timeline = timelines.beginEpoch(timeline, "e2");
  assert.equal(serials(timeline).length, 0);
  assert.equal(timeline.own.length, 1);
});

test("what was read before is told from what is new", () => {
  const timeline = { ...filled(1, 5), newSince: { serial: 3, count: 2, isMore: false, since: noon } };
  assert.deepEqual(rows(timeline).map((row) => row.kind), ["day", "message", "message", "message", "new", "message", "message"]);
});

test("scrolled-past messages leave, and can be asked for again", () => {
  const timeline = timelines.keepNewest(filled(1, 50), 10);
  assert.equal(serials(timeline)[0], 41);
  assert.equal(timelines.hasPast(timeline), true);
});

test("data that is no message is not shown, and nothing is missing", () => {
  let timeline = filled(1, 1);
  [null, 7, "x", [], { text: 7 }].forEach((data, index) => (timeline = timelines.receive(timeline, [frame(2 + index, { data })], ME)));
  assert.deepEqual(serials(timeline), [1]);
  assert.equal(timelines.missing(timeline), 0);
});

test("an edit, a reaction and a deletion of ours show at once, and what failed does not", () => {
  /** @param {string} event @param {object} data @param {string} [state] */
  const shown = (event, data, state = "waiting") => {
    const start = timelines.receive(filled(1, 1), [frame(2, { client: ME })], ME);
    const row = rows(timelines.drawOwn(start, entry("x", state, { event, data: { of: 2, ...data } }))).at(-1);
    return row?.kind === "message" ? row : assert.fail();
  };
  assert.equal(shown("edit", { text: "new" }).message.text, "new");
  assert.equal(shown("edit", { text: "new" }, "failed").message.text, "text 2");
  assert.equal(shown("edit", { text: "new" }, "failed").change?.id, "x");
  assert.deepEqual(shown("react", { emoji: "👍", on: true }).message.reactions, [{ emoji: "👍", clients: [ME] }]);
  assert.equal(shown("delete", {}).message.deleted, "author");
});

test("a reply stands in its thread, and in the room only if it was said there too", () => {
  let timeline = filled(1, 1);
  timeline = timelines.receive(timeline, [frame(2, { data: { text: "a", thread: 1 } }), frame(3, { data: { text: "b", thread: 1, also: true } })], ME);
  timeline = timelines.drawOwn(timeline, entry("mine", "pending", { event: "message", data: { text: "c", thread: 1 } }));
  const inRoom = rows(timeline).map((row) => (row.kind === "message" ? row.message.serial : row.kind));
  assert.deepEqual(inRoom, ["day", 1, 3]);
  const inThread = threadRows(timeline, 1, noon, ME).map((row) => (row.kind === "message" ? row.message.serial : row.kind));
  assert.deepEqual(inThread, [1, "replies", 2, 3, "own"]);
});

test("a place in the past is shown by itself until what lies between is known", () => {
  let timeline = filled(90, 100);
  /** @param {number} from @param {number} to @param {number} [through] */
  const page = (from, to, through = 95) => ({ epoch: "e1", oldest: 1, through, from, to, messages: frames(from, to).map((each) => ({ ...each, text: "", edited: null, deleted: null, reactions: [], thread: null, also: false, replies: { count: 0, last: null, clients: [] }, mentions: [], files: [] })) });
  timeline = { ...timelines.receiveFolded(timeline, page(10, 20)), shown: 15 };
  assert.deepEqual(serials(timeline), frames(10, 20).map((each) => each.serial));
  assert.equal(timelines.hasPast(timeline) && timelines.hasFuture(timeline), true);
  assert.equal(timelines.missing(timeline), 0);
  timeline = timelines.receiveFolded(timeline, page(21, 89));
  assert.equal(timelines.hasFuture(timeline), false);
  assert.equal(serials(timeline).length, 91);
  // A page may know more than the stream has delivered: that is not doubled when it comes.
  timeline = timelines.receiveFolded(timeline, page(95, 103, 103));
  timeline = timelines.receive(timeline, [frame(101), frame(102)], ME);
  assert.equal(timeline.doubled, 0);
  assert.equal(timelines.newest(timeline), 102);
});

test("what is new is counted by messages of others, not by what else the log has", () => {
  let timeline = filled(1, 3);
  timeline = timelines.receive(timeline, [frame(4, { event: "receipt", data: { through: 3 } }), frame(5, { client: ME }), frame(6)], ME);
  assert.deepEqual(timelines.markNew(timeline, { serial: 2, time: noon }, ME).newSince, { serial: 2, count: 2, isMore: false, since: noon });
  assert.equal(timelines.markNew(timeline, { serial: 6, time: noon }, ME).newSince, null);
});

test("who has seen our newest message stands on it", () => {
  let timeline = timelines.receive(filled(1, 1), [frame(2, { client: ME }), frame(3, { event: "receipt", data: { through: 2 } })], ME);
  const row = rows(timeline).at(-1);
  assert.deepEqual(row?.kind === "message" && row.seenBy, ["bo"]);
  assert.equal(seenText(["Bo"]), "Sent · Seen by Bo");
  assert.equal(seenText(["Bo", "Ines"]), "Sent · Seen by Bo and Ines");
  assert.equal(seenText(["Bo", "Ines", "Cy", "Di", "Ed"]), "Sent · Seen by Bo, Ines and 3 more");
});

test("states of a message say exactly what the design says", () => {
  /** @param {object} own @param {object} [place] */
  const line = (own, place = {}) => {
    const found = stateLine(/** @type {any} */ ({ id: "a", text: "", state: "waiting", reason: null, message: "", retryAt: null, queuedAt: noon, ...own }), { isFirst: true, now: noon, ...place });
    return found && [found.bead, found.text, ...found.actions];
  };
  assert.deepEqual(line({ state: "pending" }, { now: noon + 399 }), ["open", ""]);
  assert.deepEqual(line({ state: "pending" }, { now: noon + 400 }), ["open", "Sending"]);
  assert.deepEqual(line({ reason: "connection" }), ["open", "Waiting for a connection. Kept on this device."]);
  assert.deepEqual(line({ reason: "connection" }, { isFirst: false }), ["open", "Waiting for the one above, so the order stays yours"]);
  assert.deepEqual(line({ state: "sent" }), ["full", "Sent"]);
  assert.deepEqual(line({ reason: "rate_limited", retryAt: noon + 4000 }), [
    "bad",
    "Not sent: too many messages from you in 10 s. Goes again in 4 s.",
    "send-now",
    "edit",
    "discard",
  ]);
  assert.deepEqual(line({ state: "failed", reason: "forbidden" }), ["bad", "Not sent: you can no longer write in this room.", "copy", "discard"]);
  assert.deepEqual(line({ state: "failed", reason: "too_large" }), ["bad", "Not sent: the message is too large.", "edit", "discard"]);
});

test("holes say which and why", () => {
  assert.equal(gapText({ from: 42, to: 58, reason: "retention" }, 90), "Messages #42 to #58 are past this room’s 90 days and can’t be shown.");
  assert.equal(gapText({ from: 42, to: 42, reason: "retention" }, 90), "Message #42 is past this room’s 90 days and can’t be shown.");
  assert.deepEqual(gapBanner({ from: 42, to: 58, reason: "retention" }, 90), { strong: "17 messages can’t be had.", text: " #42 to #58 are past this room’s 90 days." });
});

test("the composer says how much room is left only near the end", () => {
  assert.equal(lengthNote(100, 4000), "");
  assert.equal(lengthNote(3900, 4000), "100 characters left");
  assert.equal(lengthNote(7211, 4000), "3,211 characters over the limit");
});

test("the record and the composer say it in words", () => {
  assert.equal(auditText("muted", "Bo", "10 minutes"), "muted Bo for 10 minutes");
  assert.equal(auditText("muted", "Bo", "until 2026-11-23 05:00 UTC"), "muted Bo until 2026-11-23 05:00 UTC");
  assert.equal(auditText("deleted", "#5", "of bo: an offer"), "deleted #5 of bo: an offer");
  assert.equal(auditText("topic", "", ""), "removed the topic");
  assert.equal(auditText("role", "Bo", "owner"), "made Bo owner");
  assert.equal(placeholderText("lobby", false, null, 5), "Message #lobby");
  assert.equal(placeholderText("Bo", true, 4, 5), "Message Bo");
  assert.match(placeholderText("lobby", false, 60_000, 5), /^You are muted here until \d\d:\d\d$/);
});

test("how long ago somebody was seen is no more exact than it is measured", () => {
  const now = 1_000_000_000;
  const minute = 60_000;
  assert.deepEqual(
    [null, now, now - 4.9 * minute, now - 5 * minute, now - 119 * minute, now - 120 * minute, now - 47 * 60 * minute, now - 49 * 60 * minute].map((time) => agoText(time, now)),
    ["not seen yet", "just now", "just now", "5 min ago", "119 min ago", "2 h ago", "47 h ago", "2 days ago"],
  );
});

test("what the log has lost while it stood here stays, and is told once", () => {
  let timeline = timelines.skip(filled(1, 3), { from: 4, to: 6, reason: "retention" });
  timeline = timelines.receive(timeline, frames(7, 8), ME);
  const kinds = rows({ ...timeline, oldest: 7 }).map(({ kind }) => kind);
  assert.deepEqual(kinds.filter((kind) => kind !== "message" && kind !== "day"), ["beginning", "gap"]);
  assert.equal(kinds.filter((kind) => kind === "message").length, 5);
});
