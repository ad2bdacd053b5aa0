// Which transport is next: after which failures, for how long it is remembered, and when the best is tried again.

import assert from "node:assert/strict";
import { test } from "node:test";
import { TransportChoice } from "../src/transport-choice.js";

const NAMES = ["websocket", "streaming", "polling"];
const transports = NAMES.map((name) => ({ name, open: () => assert.fail("not opened here") }));
const broken = { isBroken: true, livedMs: null };

function choice(memory = null, now = 0) {
  return new TransportChoice(transports, memory, now);
}

function keeper(value = null) {
  return { value, load: () => keeper.last.value, save: (next) => void (keeper.last.value = next) };
}
keeper.last = { value: null };

test("the best is first, and the next follows after two tries that came to nothing", () => {
  const it = choice();
  assert.equal(it.current.name, "websocket");
  assert.equal(it.ended(broken, 0), false);
  assert.equal(it.ended(broken, 0), true);
  assert.equal(it.current.name, "streaming");
});

test("after the last comes the first again", () => {
  const it = choice();
  const seen = [];
  for (let i = 0; i < 6; i++) {
    it.ended(broken, i);
    seen.push(it.current.name);
  }
  assert.deepEqual(seen, ["websocket", "streaming", "streaming", "polling", "polling", "websocket"]);
});

test("what worked here is tried longer: the server may be restarting", () => {
  const it = choice();
  it.ready(0);
  for (let i = 0; i < 3; i++) assert.equal(it.ended(broken, i), false);
  assert.equal(it.ended(broken, 3), true);
});

test("a line that stands while nothing comes is given up at once, unless it has worked", () => {
  const it = choice();
  assert.equal(it.ended({ ...broken, isTimeout: true }, 0), true);
  it.ready(1);
  assert.equal(it.ended({ ...broken, isTimeout: true }, 2), false);
});

test("a close of the server's proves the path", () => {
  const it = choice();
  it.ended(broken, 0);
  it.ended({ isBroken: false, livedMs: null }, 1);
  assert.equal(it.ended(broken, 2), false);
  assert.equal(it.current.name, "websocket");
});

test("three short lives in three minutes, not in more", () => {
  const short = { isBroken: true, livedMs: 20_000 };
  const it = choice();
  assert.equal(it.ended(short, 0), false);
  assert.equal(it.ended(short, 100_000), false);
  assert.equal(it.ended(short, 190_000), false);
  assert.equal(it.ended({ isBroken: true, livedMs: 31_000 }, 200_000), false);
  assert.equal(it.ended(short, 210_000), true);
});

test("what worked is remembered for an hour, and forgotten when the best works", () => {
  keeper.last = { value: null };
  const memory = keeper();
  const it = choice(memory);
  it.ended(broken, 0);
  it.ended(broken, 0);
  it.ready(1000);
  assert.equal(choice(memory, 3_600_000).current.name, "streaming");
  assert.equal(choice(memory, 3_602_000).current.name, "websocket");
  it.upgraded();
  it.ready(5000);
  assert.equal(memory.load(), null);
});

test("a memory that is of no use is none", () => {
  for (const value of ["", "{", "[]", '{"name":"smoke","until":9e15}', '{"name":1,"until":9e15}'])
    assert.equal(choice({ load: () => value, save: () => {} }).current.name, "websocket");
  const failing = choice({
    load: () => {
      throw new Error("forbidden");
    },
    save: () => {
      throw new Error("full");
    },
  });
  failing.ready(0);
  assert.equal(failing.current.name, "websocket");
});

test("the best is tried in the background, less and less often, as long as another is in use", () => {
  const it = choice();
  assert.equal(it.upgrade, null);
  it.ended(broken, 0);
  it.ended(broken, 0);
  const waits = [];
  for (let i = 0; i < 6; i++) {
    waits.push(it.upgrade.waitMs);
    it.notUpgraded();
  }
  assert.deepEqual(waits, [60_000, 120_000, 240_000, 480_000, 900_000, 900_000]);
  it.upgraded();
  assert.equal(it.upgrade, null);
  assert.equal(it.current.name, "websocket");
});

test("one transport alone is never left", () => {
  const it = new TransportChoice([transports[0]], null, 0);
  for (let i = 0; i < 9; i++) assert.equal(it.ended(broken, i), false);
  assert.throws(() => new TransportChoice([], null, 0), TypeError);
});
