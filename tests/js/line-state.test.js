import assert from "node:assert/strict";
import test from "node:test";
import { BANNER_DELAY_MS, describeLine, stateToShow } from "../../static/js/line-state.js";

const at = new Date(2026, 10, 22, 10, 4).getTime();

/** @param {string} name @param {object} [more] */
const state = (name, more = {}) => /** @type {any} */ ({ name, since: at, attempt: 1, nextTryAt: null, lostAt: null, reason: "", code: null, ...more });

/** @param {any} line @param {object} [more] */
const describe = (line, more = {}) =>
  describeLine({ state: line, now: at, behind: 0, toCome: 0, waiting: 0, latencyMs: 18, transport: "websocket", wasLive: true, recovered: null, ...more });

/** @param {import("../../static/js/line-state.js").LineView} view */
const said = ({ chip, banner }) => [
  [chip.word, chip.via].filter(Boolean).join(" · "),
  banner && `${banner.strong}${banner.text}${banner.tail}${banner.action ? ` [${banner.action.label}]` : ""}`,
];

test("every state says exactly what the design says", () => {
  assert.deepEqual(said(describe(state("live"))), ["Live · WebSocket · 18 ms", null]);
  assert.deepEqual(said(describe(state("connecting", { attempt: 3 }))), [
    "Connecting · try 3",
    "Connecting. Keep typing: what you send is kept here and goes in order.",
  ]);
  assert.deepEqual(said(describe(state("catching_up"), { behind: 37, toCome: 91 })), [
    "Catching up · 37 to go",
    "Catching up: 37 messages to go. They arrive in order; nothing was missed.",
  ]);
  assert.deepEqual(said(describe(state("slow"), { latencyMs: 2400 })), [
    "Slow · WebSocket · 2.4 s",
    "Slow connection. Messages take about 2.4 s. Order holds; nothing is dropped.",
  ]);
  assert.deepEqual(said(describe(state("offline", { nextTryAt: at + 8000 }), { waiting: 2 })), [
    "Offline · since 10:04",
    "Offline since 10:04. You see everything up to then. 2 messages wait here and send themselves. Next try in 8 s. [Try now]",
  ]);
  assert.deepEqual(said(describe(state("waiting", { nextTryAt: at + 12_000 }))), [
    "Waiting",
    "The server is full. Your place is kept. Next try in 12 s.",
  ]);
  assert.deepEqual(said(describe(state("signed_out"), { waiting: 2 })), [
    "Signed out",
    "Signed out elsewhere. Sign in to go on. Your 2 unsent messages are kept on this device. [Sign in]",
  ]);
  assert.deepEqual(said(describe(state("stopped", { code: 4403 }))), [
    "Stopped",
    "An operator ended this connection. Your text is kept on this device.",
  ]);
  assert.equal(describe(state("moving")).chip.word, "Moving");
});

test("what is not so is not said", () => {
  assert.equal(describe(state("offline")).banner?.text, " You see everything up to then.");
  assert.equal(describe(state("offline"), { wasLive: false, waiting: 1 }).banner?.text, " 1 message waits here and sends itself.");
  assert.equal(describe(state("catching_up"), { wasLive: false, behind: 50 }).banner, null);
  assert.equal(describe(state("signed_out")).banner?.text, " Sign in to go on.");
});

test("live again tells what was made good, and what was not", () => {
  const recovered = { received: 37, sent: 2, skipped: 0, until: at + 4000 };
  assert.equal(said(describe(state("live"), { recovered }))[1], "Live again. 37 messages received, 2 of yours sent, none lost.");
  assert.equal(said(describe(state("live"), { recovered: { ...recovered, sent: 0, skipped: 17 } }))[1], "Live again. 37 messages received, 17 can’t be had.");
  assert.equal(describe(state("live"), { recovered, now: at + 4000 }).banner, null);
});

test("what ends everything interrupts, the rest does not", () => {
  for (const name of ["signed_out", "stopped"]) assert.equal(describe(state(name)).banner?.urgent, true);
  for (const name of ["offline", "connecting", "slow", "waiting"]) assert.equal(describe(state(name)).banner?.urgent, false);
});

test("a loss that is over soon is never shown", () => {
  const live = state("live");
  const offline = state("offline");
  const early = stateToShow({ shown: live, state: offline, enteredAt: at, now: at + BANNER_DELAY_MS - 1 });
  assert.deepEqual(early, { state: live, againAt: at + BANNER_DELAY_MS });
  assert.equal(stateToShow({ shown: live, state: offline, enteredAt: at, now: at + BANNER_DELAY_MS }).state, offline);
});

test("a quick try to connect does not push Offline away", () => {
  const offline = state("offline");
  assert.equal(stateToShow({ shown: offline, state: state("connecting"), enteredAt: at, now: at + 100 }).state, offline);
  const next = state("offline", { nextTryAt: at + 9000 });
  assert.equal(stateToShow({ shown: offline, state: next, enteredAt: at, now: at }).state, next);
  const live = state("live");
  assert.equal(stateToShow({ shown: offline, state: live, enteredAt: at, now: at }).state, live);
});

test("a tab without a place for a lasting request says how it reads, and why", () => {
  const view = describe(state("live"), { transport: "short polling", latencyMs: 400 });
  assert.deepEqual(said(view), ["Live · Polling · 400 ms", null]);
  assert.match(view.sentence, /Other tabs of this browser have its lasting requests, so this one asks anew every 2 s/);
  assert.match(describe(state("live"), { transport: "polling" }).sentence, /WebSockets do not get through here, so Polling is used/);
});
