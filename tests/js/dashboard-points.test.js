import assert from "node:assert/strict";
import test from "node:test";
import * as figures from "../../static/js/dashboards/figures.js";
import { footOf, freshness, goLiveLabel } from "../../static/js/dashboards/freshness.js";
import { between, ChannelLog } from "../../static/js/dashboards/points.js";

/** @param {number} serial @param {any} [more] */
const frame = (serial, more = {}) => ({ serial, time: serial * 1000, event: "message", data: { v: serial }, ...more });
/** @param {number} from @param {number} to */
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
/** @param {number} below @param {number} limit */
const pageBelow = (below, limit) => ({ messages: range(Math.max(1, below - limit), below - 1).reverse().map((serial) => frame(serial)), more: below - limit > 1 });
/** @param {ChannelLog} log */
const serials = (log) => log.rows.map((row) => row.serial);

test("history below and live above are one log, in whatever order they arrive", () => {
  // Every interleaving of four live messages with three pages, of which one was asked for twice.
  for (let order = 0; order < 128; order++) {
    const log = new ChannelLog(1000);
    log.begin(20);
    let live = 20;
    let asked = log.low;
    for (let step = 0; step < 7; step++) {
      if ((order >> step) & 1) log.take(frame(++live));
      else {
        const page = pageBelow(asked, 7);
        log.older(page);
        if (step % 3 === 1) log.older(page);
        asked = log.low;
      }
    }
    while (!log.isWhole) log.older(pageBelow(log.low, 7));
    assert.deepEqual(serials(log), range(1, live));
    assert.equal(log.received, live);
  }
});

test("a message that comes again is counted, and not drawn twice", () => {
  const log = new ChannelLog(10);
  log.begin(0);
  for (const serial of [1, 2, 2, 1, 3]) log.take(frame(serial));
  assert.deepEqual(serials(log), [1, 2, 3]);
  assert.equal(log.doubled, 2);
});

test("the snapshot is state and no point; what is newer takes its place, what is older does not", () => {
  const log = new ChannelLog(10);
  log.begin(9);
  log.take(frame(4, { key: "a", snapshot: true }));
  log.take(frame(9, { key: "b", snapshot: true }));
  assert.deepEqual(serials(log), []);
  log.older({ messages: [frame(9, { key: "b" }), frame(8, { key: "a", data: "old" })].map((each) => ({ ...each })) });
  log.take(frame(10, { key: "b" }));
  assert.equal(log.latest.get("b")?.serial, 10);
  assert.equal(log.latest.get("a")?.serial, 4);
  assert.deepEqual(serials(log), [8, 9, 10]);
});

test("what was merged is counted exactly, and is a gap", () => {
  const log = new ChannelLog(10);
  log.begin(0);
  log.take(frame(1));
  log.skip(2, 40, "conflated");
  log.take(frame(41));
  log.skip(42, 43, "retention");
  log.take(frame(44));
  assert.deepEqual([log.received, log.merged, log.missing, log.high], [3, 39, 2, 44]);
  assert.deepEqual(figures.holes(log.rows).map((hole) => hole.missing), [39, 2]);
  log.skip(null, null, "epoch");
  log.take(frame(1));
  assert.deepEqual(serials(log), [1]);
});

test("a log keeps so many rows and says from where it is whole", () => {
  const log = new ChannelLog(100);
  log.begin(0);
  for (const serial of range(1, 1000)) log.take(frame(serial));
  assert.ok(log.rows.length <= 125);
  assert.equal(log.low, log.rows[0].serial);
  assert.equal(log.rows.at(-1)?.serial, 1000);
});

test("a page says from when it has messages, where the log has more", () => {
  const log = new ChannelLog(10);
  log.begin(20);
  log.older(pageBelow(21, 5));
  assert.deepEqual([log.isWhole, log.isCut], [false, false]);
  log.older(pageBelow(16, 5));
  assert.deepEqual([log.isWhole, log.isCut], [true, true]);
  const whole = new ChannelLog(10);
  whole.begin(5);
  whole.older(pageBelow(6, 9));
  assert.deepEqual([whole.isWhole, whole.isCut], [true, false]);
  const facts = { received: 96, merged: 0, isTally: false, cutAt: null };
  assert.equal(footOf(facts), "");
  assert.equal(footOf({ ...facts, merged: 1204 }), "Showing the newest; 1,204 merged, counts are exact.");
  assert.equal(footOf({ ...facts, merged: 1204, isTally: true }), "96 of 1,300 messages came one by one; the others were merged into newer ones.");
  assert.match(footOf({ ...facts, cutAt: 100 }), /^From [0-9:]{8} on; earlier ones are in the log[.]$/);
});

test("a window has one row more on each side", () => {
  const rows = range(1, 9).map((at) => ({ serial: at, at, key: null, event: "m", data: {} }));
  assert.deepEqual(between(rows, 3, 5).map((row) => row.at), [2, 3, 4, 5]);
  assert.deepEqual(between([], 3, 5), []);
});

test("a line never crosses a hole", () => {
  const log = new ChannelLog(10);
  log.begin(0);
  for (const serial of [1, 2, 3]) log.take(frame(serial));
  log.skip(4, 8, "retention");
  log.take(frame(9));
  const { data } = figures.lines(log.rows, { field: "v", options: {} });
  assert.deepEqual(data, [[1, 2, 3, 6, 9], [1, 2, 3, null, 9]]);
});

test("messages of one moment before a hole are no holes themselves", () => {
  const rows = [1, 2, 3, 9].map((serial) => ({ serial, at: serial < 9 ? 1 : 2, key: null, event: "m", data: { v: serial } }));
  assert.deepEqual(figures.lines(rows, { field: "v", options: {} }).data, [[1, 1, 1, 1.5, 2], [1, 2, 3, null, 9]]);
});

test("a line of very many points has the same ends, peaks and holes as one of all", () => {
  const rows = range(1, 30_000)
    .filter((serial) => serial < 9000 || serial > 9100)
    .map((serial) => ({ serial, at: serial / 500, key: null, event: "m", data: { v: serial === 7777 ? 1e6 : serial === 20_001 ? -5 : Math.sin(serial / 400) } }));
  const { data, holes } = figures.lines(rows, { field: "v", options: {} });
  assert.deepEqual(holes.map((hole) => hole.missing), [101]);
  assert.ok(data[0].length < 4000, `${data[0].length} points`);
  assert.deepEqual(data[0], [...data[0]].sort((a, b) => Number(a) - Number(b)));
  const at = new Map(data[0].map((time, index) => [time, data[1][index]]));
  const expected = new Map(rows.map((row) => [row.at, row.data.v]));
  for (const [time, value] of at) if (value !== null) assert.equal(value, expected.get(Number(time)));
  for (const serial of [1, 7777, 8999, 9101, 20_001, 30_000]) assert.equal(at.get(serial / 500), expected.get(serial / 500));
  assert.equal(data[1].filter((value) => value === null).length, 1);
  const byKey = figures.lines(rows.map((row) => ({ ...row, key: "w1" })), { field: "v", options: { by_key: true } });
  assert.deepEqual(byKey.data[1].filter((value) => value !== null), data[1].filter((value) => value !== null));
  const path = figures.sparkline(rows.map((row) => ({ at: row.at, value: row.data.v })), 0, 60, figures.holes(rows));
  assert.equal(path.split("M").length - 1, 2);
  assert.ok(path.split("L").length < 600);
});

test("the ground of a sparkline closes each of its pieces", () => {
  assert.equal(figures.groundOf("M0.0 5.0L10.0 6.0M20.0 7.0"), "M0.0 30L0.0 5.0L10.0 6.0L10.0 30ZM20.0 30L20.0 7.0L20.0 30Z");
  assert.equal(figures.groundOf(""), "");
});

test("lines by key: a value of another key is no gap", () => {
  const rows = [1, 2, 3, 4].map((serial) => ({ serial, at: serial, key: serial % 2 ? "w1" : "w2", event: "m", data: { v: serial } }));
  const { labels, data } = figures.lines(rows, { field: "v", options: { by_key: true } });
  assert.deepEqual(labels, ["w1", "w2"]);
  assert.deepEqual(data, [[1, 2, 3, 4], [1, undefined, 3, undefined], [undefined, 2, undefined, 4]]);
});

test("lines by key: of what was published in one moment every value is there", () => {
  const rows = [1, 2, 3, 4].map((serial) => ({ serial, at: 1, key: serial % 2 ? "w1" : "w2", event: "m", data: { v: serial } }));
  const { data } = figures.lines(rows, { field: "v", options: { by_key: true } });
  assert.deepEqual(data, [[1, 1], [1, 3], [2, 4]]);
});

test("values stand at paths; what is not there is nothing, also not of the prototype", () => {
  assert.equal(figures.valueAt({ cpu: { user: 3 } }, "cpu.user"), 3);
  for (const path of ["cpu.x", "x.y", "constructor", "cpu.user.toFixed"]) assert.equal(figures.valueAt({ cpu: { user: 3 } }, path), undefined);
});

test("thresholds from above and from below", () => {
  assert.deepEqual([1, 5, 9].map((value) => figures.levelOf(value, { warn: 5, alert: 9 })), ["", "warn", "alert"]);
  assert.deepEqual([1, 5, 9].map((value) => figures.levelOf(value, { warn: 5, alert: 1, below: true })), ["alert", "warn", ""]);
  assert.equal(figures.levelOf(null, { alert: 0, below: true }), "");
});

test("a key is silent after its limit, and never without one", () => {
  assert.deepEqual([figures.isQuiet(5, 5), figures.isQuiet(5.1, 5), figures.isQuiet(1e9, undefined)], [false, true, false]);
});

test("votes are counted in the newest round alone", () => {
  const rows = [["a", 1], ["b", 1], ["a", 2], ["a", 2], ["b", 2]].map(([choice, round], index) => ({ serial: index, at: index, key: null, event: "vote", data: { choice, round } }));
  rows.push({ serial: 9, at: 9, key: null, event: "question", data: { choice: "a", round: 2 } });
  assert.deepEqual(figures.tally(rows, { field: "choice", options: { event: "vote", round: "round" } }), [["a", 2], ["b", 1]]);
});

test("a figure that is behind says by how much; one that nobody sends says that", () => {
  assert.deepEqual(freshness({ newestAt: 100, nowS: 174, isLevel: false }), { kind: "behind", badge: "74 s behind", toCome: "74 s to come" });
  assert.deepEqual(freshness({ newestAt: 100, nowS: 112, isLevel: true }), { kind: "quiet", badge: "Quiet for 12 s", toCome: "" });
  assert.equal(goLiveLabel(312), "Go live (312 since)");
});
