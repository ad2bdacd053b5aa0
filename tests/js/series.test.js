import assert from "node:assert/strict";
import test from "node:test";
import { freshness, goLiveLabel } from "../../static/js/dashboards/freshness.js";
import * as series from "../../static/js/dashboards/series.js";

/** @param {number} at @param {number} [serial] @returns {series.Reading} */
const reading = (at, serial = at) => ({ at, serial, wind: at, gust: at, temperature: 1, visitors: 2 });

/** @param {...number} seconds */
const readings = (...seconds) => seconds.map((at) => reading(at));

test("readings stand by time, each second once, and the oldest go", () => {
  const added = series.add(readings(1, 2, 5), readings(3, 4, 5), 4);
  assert.deepEqual(added.map((each) => each.at), [2, 3, 4, 5]);
});

test("what is no reading is left out", () => {
  for (const data of [null, 7, {}, { at: 1, wind: "x", gust: 1, temperature: 1, visitors: 1 }]) assert.equal(series.toReading({ serial: 1, data }), null);
});

test("a line never crosses a hole", () => {
  const shown = [reading(1), reading(2), reading(3), reading(9, 4), reading(10, 5)];
  assert.deepEqual(series.holes(shown, 1), [{ from: 3, to: 9, missing: 0 }]);
  assert.deepEqual(series.columns(shown, ["wind"], 1), [
    [1, 2, 3, 3.5, 9, 10],
    [1, 2, 3, null, 9, 10],
  ]);
});

test("messages that could not be had are counted, and make a hole however short", () => {
  assert.deepEqual(series.holes([reading(1, 1), reading(2, 18)], 1), [{ from: 1, to: 2, missing: 16 }]);
});

test("a window has one reading more on each side, so that lines run to the edge", () => {
  assert.deepEqual(series.between(readings(1, 2, 3, 4, 5, 6), 3, 4).map((each) => each.at), [2, 3, 4, 5]);
  assert.deepEqual(series.between([], 3, 4), []);
  assert.deepEqual(series.between(readings(1), 3, 4).map((each) => each.at), [1]);
});

test("a sparkline lifts the pen over a hole", () => {
  const box = { from: 0, to: 10, width: 100, height: 30, periodS: 1, leastSpan: 1 };
  const path = series.sparkline([reading(1), reading(2), reading(8, 3), reading(9, 4)], "wind", box);
  assert.equal(path.match(/M/g)?.length, 2);
  assert.equal(series.sparkline(readings(1), "wind", box), "");
});

test("a figure that is behind says by how much; one that nobody sends says that", () => {
  assert.deepEqual(freshness({ newestAt: 100, nowS: 102, isLevel: true }), { kind: "live", badge: "", toCome: "" });
  assert.deepEqual(freshness({ newestAt: 100, nowS: 174, isLevel: false }), { kind: "behind", badge: "74 s behind", toCome: "74 s to come" });
  assert.deepEqual(freshness({ newestAt: 100, nowS: 112, isLevel: true }), { kind: "quiet", badge: "Quiet for 12 s", toCome: "" });
  assert.equal(freshness({ newestAt: null, nowS: 112, isLevel: true }).badge, "Nothing published yet");
  assert.equal(goLiveLabel(312), "Go live (312 since)");
});
