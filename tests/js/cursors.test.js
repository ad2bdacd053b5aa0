import assert from "node:assert/strict";
import test from "node:test";
import { Meter, size, wireSentence } from "../../static/js/cursors/meter.js";
import { LAG_MS, placeIn, SPAN, Throttle, Track, within } from "../../static/js/cursors/motion.js";

test("a pointer is drawn on the line between two places that were sent, a moment late", () => {
  const track = new Track();
  track.push(1000, { x: 0, y: 100 });
  track.push(1050, { x: 100, y: 200 });
  assert.deepEqual(track.at(1025 + LAG_MS), { x: 50, y: 150, isSettled: false });
});

test("it stands where it was last heard of; nothing is guessed ahead", () => {
  const track = new Track();
  track.push(1000, { x: 0, y: 0 });
  track.push(1050, { x: 100, y: 0 });
  assert.deepEqual(track.at(9000), { x: 100, y: 0, isSettled: true });
});

test("it does not crawl through a pause", () => {
  const track = new Track();
  track.push(1000, { x: 0, y: 0 });
  track.push(5000, { x: 100, y: 0 });
  assert.equal(track.at(4900 + LAG_MS).x, 0);
  assert.equal(track.at(4975 + LAG_MS).x, 50);
});

test("uneven arrivals never move it backwards on a straight way", () => {
  const track = new Track();
  let before = -1;
  const arrivals = [0, 48, 130, 131, 190, 300, 302, 350];
  for (let now = 0; now < 600; now += 16) {
    while (arrivals.length > 0 && arrivals[0] <= now) track.push(Number(arrivals.shift()), { x: now, y: 0 });
    const { x } = track.at(now);
    assert.ok(x >= before, `${x} after ${before} at ${now}`);
    before = x;
  }
});

test("20 a second leave, whatever the mouse does, and the last place is among them", () => {
  const throttle = new Throttle();
  /** @type {number[]} */
  const sent = [];
  let dueAt = -1;
  let latest = 0;
  for (let now = 0; now < 2000; now += 1) {
    if (now < 1000 && now % 4 === 0) {
      latest = now;
      if (dueAt < 0) dueAt = now + throttle.waitMs(now);
    }
    if (dueAt >= 0 && now >= dueAt) {
      throttle.sent(now);
      sent.push(latest);
      dueAt = -1;
    }
  }
  assert.ok(sent.length >= 20 && sent.length <= 21, `${sent.length}`);
  assert.equal(sent[sent.length - 1], 996);
});

test("a place that is none is left out, and ours stay in the field", () => {
  for (const data of [null, 7, {}, { x: 1 }, { x: -1, y: 0 }, { x: 0, y: SPAN + 1 }, { x: "1", y: 1 }, { x: NaN, y: 1 }]) assert.equal(placeIn(data), null);
  assert.deepEqual(placeIn({ x: 1, y: SPAN, more: true }), { x: 1, y: SPAN });
  assert.deepEqual([within(-3), within(12.4), within(SPAN * 2)], [0, 12, SPAN]);
});

test("the wire is told in frames and bytes a second", () => {
  const meter = new Meter();
  for (let at = 10_000; at < 13_000; at += 50) meter.add("in", 100, at);
  meter.add("out", 60, 12_500);
  const rates = meter.rates(13_200);
  assert.deepEqual([rates.in, rates.bytesIn, rates.bytesOut], [20, 2000, 20]);
  assert.match(wireSentence(rates), /^On the wire: in 20 a second, 2\.0 KB\/s; out 0 a second, 20 B\/s\. /);
  assert.equal(wireSentence(meter.rates(90_000)), "The wire is quiet: nobody moves.");
  assert.equal(size(999), "999 B");
});
