import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { Fold } from "../../static/js/chat/fold.js";

/** @type {any[]} */
const vectors = JSON.parse(readFileSync(new URL("../vectors/chat_fold.json", import.meta.url), "utf8"));

/** @param {any} given @param {any[]} messages */
function fold(given, messages) {
  const folded = new Fold();
  for (const { through, messages: states, receipts } of given.seeds ?? []) {
    for (const state of states) folded.seed(state, through);
    for (const [client, serial] of Object.entries(receipts)) folded.saw(client, serial);
  }
  for (const message of messages) folded.add(message);
  return { messages: folded.messages(), receipts: Object.fromEntries(folded.receipts), notices: folded.notices() };
}

for (const { name, given, want } of vectors) {
  test(`fold: ${name}`, () => {
    assert.deepEqual(fold(given, given.messages), want);
    assert.deepEqual(fold(given, [...given.messages].reverse()), want, "whatever the order");
  });
}

test("a message that did not change is the same object, one that did is another", () => {
  const folded = new Fold();
  /** @param {number} serial @param {string} event @param {object} data */
  const add = (serial, event, data) => folded.add({ serial, id: `id-${serial}`, client: "ana", time: serial, event, data });
  add(1, "message", { text: "a" });
  add(2, "message", { text: "b" });
  const [first, second] = folded.messages();
  add(3, "edit", { of: 2, text: "c" });
  assert.equal(folded.get(1), first);
  assert.notEqual(folded.get(2), second);
  assert.equal(second.text, "b");
});
