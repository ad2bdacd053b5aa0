// Tabs of one browser that share its connections: three keep a request open, the others poll in short ones.

import assert from "node:assert/strict";
import { test } from "node:test";
import { PLACES, PlacedCarrier, SHORT_PAUSE_MS, TabPlaces } from "../src/tab-places.js";
import { FakeClock } from "../fakes/clock.js";

class FakeStorage {
  rows = new Map();
  getItem(key) {
    return this.rows.get(key) ?? null;
  }
  setItem(key, value) {
    this.rows.set(key, value);
  }
  removeItem(key) {
    this.rows.delete(key);
  }
}

function tabs(count, storage = new FakeStorage()) {
  const clock = new FakeClock();
  return { clock, storage, tabs: Array.from({ length: count }, () => new TabPlaces(storage, "chat.example", clock)) };
}

test("three have a place; another gets the one that is given back", () => {
  const it = tabs(5);
  assert.deepEqual(it.tabs.map((tab) => tab.take()), [true, true, true, false, false]);
  assert.deepEqual(it.tabs.map((tab) => tab.take()), [true, true, true, false, false]);
  it.tabs[3].release();
  assert.equal(it.tabs[4].take(), false, "nobody gives back what is another's");
  it.tabs[1].release();
  assert.equal(it.tabs[4].take(), true);
  assert.equal(it.tabs[1].take(), false);
  assert.equal(new TabPlaces(it.storage, "other.example", it.clock).take(), true);
});

test("a tab that died loses its place, and one that is throttled does not", async () => {
  const it = tabs(4);
  it.tabs.forEach((tab) => tab.take());
  for (let minute = 0; minute < 3; minute++) {
    await it.clock.advance(60_000);
    for (const tab of it.tabs.slice(1, 3)) assert.equal(tab.take(), true);
  }
  assert.equal(it.tabs[3].take(), true);
  assert.equal(it.tabs[0].take(), false);
});

test("of two that take the same place the later has it", () => {
  const storage = new FakeStorage();
  const it = tabs(2, storage);
  it.tabs[0].take();
  storage.rows.clear();
  it.tabs[1].take();
  for (let i = 1; i < PLACES; i++) new TabPlaces(storage, "chat.example", it.clock).take();
  assert.deepEqual([it.tabs[0].take(), it.tabs[1].take()], [false, true]);
});

test("where nothing can be stored, and where a clock was wrong, there is a place", () => {
  assert.equal(new TabPlaces(null, "h", new FakeClock()).take(), true);
  const broken = { getItem: () => assert.fail("forbidden") };
  assert.equal(new TabPlaces(broken, "h", new FakeClock()).take(), true);
  const it = tabs(PLACES + 1);
  it.tabs.slice(0, PLACES).forEach((tab) => tab.take());
  it.storage.setItem("seriatim.place.chat.example.1", '{"owner":"x","until":9e15}');
  assert.equal(it.tabs[PLACES].take(), true);
  it.storage.setItem("seriatim.place.chat.example.2", "not ours");
  assert.equal(new TabPlaces(it.storage, "chat.example", it.clock).take(), true);
});

test("a carrier reads by short polls without a place, and anew when that changes", async () => {
  const it = tabs(PLACES);
  const begun = [];
  const open = new Set();
  const carrier = (name) => ({
    read() {
      begun.push(name);
      open.add(name);
      return { abort: () => open.delete(name) };
    },
    post: async () => [],
  });
  it.tabs.forEach((tab) => tab.take());
  const placed = new PlacedCarrier(
    carrier("lasting"),
    carrier("short"),
    new TabPlaces(it.storage, "chat.example", it.clock),
    it.clock,
  );
  let request;
  const read = () => {
    request?.abort();
    request = placed.read([], null, { onAgain: read });
  };
  read();
  await it.clock.advance(10 * SHORT_PAUSE_MS);
  assert.deepEqual(begun, ["short"]);
  assert.equal(placed.transport, "short polling");
  it.tabs[0].release();
  await it.clock.advance(SHORT_PAUSE_MS);
  assert.deepEqual(begun, ["short", "lasting"]);
  assert.deepEqual([...open], ["lasting"]);
  assert.equal(placed.transport, null);
  await it.clock.advance(30_000);
  it.storage.setItem("seriatim.place.chat.example.0", JSON.stringify({ owner: "x", until: it.clock.now() + 80_000 }));
  await it.clock.advance(10_000);
  assert.deepEqual(begun, ["short", "lasting", "short"]);
  request.abort();
  placed.close();
  assert.equal(it.clock.pending, 0);
});
