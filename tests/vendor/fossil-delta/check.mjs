// Applies deltas from standard input, [[base, delta, target], …], with npm's fossil-delta and with the decoder of our SDK.

import assert from "node:assert/strict";
import { text } from "node:stream/consumers";
import { applyDelta as applyOwn } from "../../../clients/js/src/fossil.js";
import { applyDelta as applyTheirs } from "./fossil-delta.js";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
const cases = JSON.parse(await text(process.stdin));
for (const [base, delta, target] of cases) {
  for (const apply of [applyTheirs, applyOwn]) {
    const made = apply(encoder.encode(base), encoder.encode(delta));
    assert.equal(decoder.decode(Uint8Array.from(made)), target);
  }
}
console.log(`${cases.length} deltas`);
