import assert from "node:assert/strict";
import test from "node:test";
import { counted, dayKey, dayLabel, initials, latency, personColour, span } from "../../static/js/words.js";

const noon = new Date(2026, 10, 22, 12, 0).getTime();
const DAY = 86_400_000;

test("days are named from where the reader stands", () => {
  assert.equal(dayLabel(noon - 3600_000, noon), "Today");
  assert.equal(dayLabel(new Date(2026, 10, 21, 23, 59).getTime(), noon), "Yesterday");
  assert.equal(dayLabel(noon - 6 * DAY, noon), "Monday 16 November");
  assert.equal(dayLabel(new Date(2025, 0, 3, 12).getTime(), noon), "3 January 2025");
});

test("a day begins at midnight of the reader", () => {
  assert.notEqual(dayKey(new Date(2026, 10, 21, 23, 59).getTime()), dayKey(new Date(2026, 10, 22, 0, 0).getTime()));
});

test("numbers and times read as the design says", () => {
  assert.equal(counted(1, "message"), "1 message");
  assert.equal(counted(1204, "message"), "1,204 messages");
  assert.equal(latency(18.4), "18 ms");
  assert.equal(latency(2400), "2.4 s");
  assert.equal(span(7400), "8 s");
  assert.equal(span(-5), "0 s");
  assert.equal(span(240_000), "4 min");
});

test("portraits have initials and one of six colours, always the same", () => {
  assert.equal(initials("Ana"), "AN");
  assert.equal(initials("  bo berg "), "BB");
  assert.equal(initials(""), "");
  for (const client of ["ana", "~7", "", "💡"]) {
    assert.ok(personColour(client) >= 1 && personColour(client) <= 6);
    assert.equal(personColour(client), personColour(client));
  }
});
