import assert from "node:assert/strict";
import test from "node:test";
import { beads, BEADS, Reader } from "../../static/js/home/lanes.js";

/** @param {Reader} reader @param {number} from @param {number} to */
function receive(reader, from, to) {
  for (let serial = from; serial <= to; serial += 1) reader.message(serial);
}

test("a lane has the newest twelve, and shows what is still to come", () => {
  const reader = new Reader();
  reader.attached({ serial: 4170, head: 4180 }, 0);
  receive(reader, 4171, 4187);
  const drawn = beads(reader, 4190);
  assert.equal(drawn.length, BEADS);
  assert.deepEqual(drawn.filter(({ state }) => state === "to-come").map(({ serial }) => serial), [4188, 4189, 4190]);
});

test("what came by resuming is shown as that, and nothing is lost or doubled", () => {
  const reader = new Reader();
  reader.attached({ serial: 0, head: 0 }, 0);
  receive(reader, 1, 5);
  reader.cutNow(1000);
  reader.attached({ serial: 5, head: 9 }, 7000);
  receive(reader, 6, 10);
  assert.deepEqual(beads(reader, 10).map(({ state }) => state), [...Array(5).fill("here"), ...Array(4).fill("resumed"), "here"]);
  assert.deepEqual([reader.lost, reader.doubled, reader.cut?.backAt], [0, 0, 7000]);
});

test("a hole and a double are counted; what was told as skipped is no hole", () => {
  const reader = new Reader();
  reader.attached({ serial: 0, head: 0 }, 0);
  reader.message(1);
  reader.message(4);
  reader.message(4);
  assert.deepEqual([reader.lost, reader.doubled], [2, 1]);
  reader.skipped(20);
  reader.message(21);
  assert.equal(reader.lost, 2);
});
