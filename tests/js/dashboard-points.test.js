import assert from "node:assert/strict";
import test from "node:test";
import * as figures from "../../static/js/dashboards/figures.js";
import { freshness, goLiveLabel } from "../../static/js/dashboards/freshness.js";
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

test("lines by key: a value of another key is no gap", () => {
  const rows = [1, 2, 3, 4].map((serial) => ({ serial, at: serial, key: serial % 2 ? "w1" : "w2", event: "m", data: { v: serial } }));
  const { labels, data } = figures.lines(rows, { field: "v", options: { by_key: true } });
  assert.deepEqual(labels, ["w1", "w2"]);
  assert.deepEqual(data, [[1, 2, 3, 4], [1, undefined, 3, undefined], [undefined, 2, undefined, 4]]);
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
