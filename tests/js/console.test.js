import assert from "node:assert/strict";
import test from "node:test";
import { DataReader } from "../../clients/js/src/data-reader.js";
import { FrameLog, highlight, KEPT_MOST, passes, summary } from "../../static/js/console/frame-log.js";
import { Ledger } from "../../static/js/console/ledger.js";
import { Session } from "../../static/js/console/session.js";
import { describe, fateOf } from "../../static/js/console/states.js";
import { timeline } from "../../static/js/console/timeline.js";

const CHANNEL = "play:open";

/** @param {number} serial @param {number} head @param {object} [more] */
const attached = (serial, head, more = {}) => /** @type {any} */ ({ type: "attached", channel: CHANNEL, epoch: "k3J9", serial, head, resumed: true, window: 8, ack_every: 4, ack_ms: 10_000, ...more });
/** @param {number} serial */
const message = (serial) => ({ type: "message", channel: CHANNEL, serial, id: `m${serial}`, time: 1000, client: "bo", event: "message", data: null });

/** A ledger that stands at `position`, acknowledged through `acked`. @param {number} base @param {number} acked @param {number} position @param {number} [head] */
function ledgerAt(base, acked, position, head = position) {
  const ledger = new Ledger(CHANNEL);
  ledger.attached(attached(base, head), 0, false);
  for (let serial = base + 1; serial <= position; serial += 1) ledger.message(message(serial));
  ledger.ackedThrough(acked);
  return ledger;
}

// ---------------------------------------------------------------- the ledger

test("what is in flight is what came and was not acknowledged, and a full window holds", () => {
  const ledger = ledgerAt(4174, 4182, 4189, 4194);
  assert.deepEqual([ledger.inFlight, ledger.isHeld, ledger.behind], [7, false, 5]);
  ledger.message(message(4190));
  assert.deepEqual([ledger.inFlight, ledger.isHeld, ledger.behind], [8, true, 4]);
  ledger.ackedThrough(4190);
  assert.deepEqual([ledger.inFlight, ledger.isHeld], [0, false]);
});

test("a hole and a double are counted, an ack beyond what came is not taken", () => {
  const ledger = ledgerAt(0, 0, 2);
  assert.equal(ledger.message(message(2)), "doubled");
  assert.equal(ledger.message(message(5)), "gap");
  assert.deepEqual([ledger.doubled, ledger.lost, ledger.position], [1, 2, 5]);
  ledger.ackedThrough(99);
  assert.equal(ledger.acked, 5);
});

test("an attach begins the window anew, and a cut knows what came after it", () => {
  const ledger = ledgerAt(0, 1, 3);
  ledger.lineLost(5000);
  assert.deepEqual([ledger.isAttached, ledger.isHeld], [false, false]);
  ledger.attached(attached(3, 9), 7400, true);
  assert.deepEqual([ledger.acked, ledger.inFlight, ledger.head], [3, 0, 9]);
  assert.deepEqual(ledger.cuts, [{ after: 3, cutAt: 5000, backAt: 7400, through: 9 }]);
  for (let serial = 4; serial <= 9; serial += 1) ledger.message(message(serial));
  assert.deepEqual([ledger.lost, ledger.doubled], [0, 0]);
});

test("a place that the reader chose is no double, and a new log begins anew", () => {
  const ledger = ledgerAt(0, 9, 9);
  ledger.attached(attached(2, 9), 0, false);
  assert.equal(ledger.message(message(3)), "next");
  ledger.attached(attached(0, 1, { epoch: "other" }), 0, true);
  assert.equal(ledger.message(message(1)), "next");
  assert.equal(ledger.doubled, 0);
});

test("what was skipped counts as processed", () => {
  const ledger = ledgerAt(0, 0, 2, 60);
  ledger.skipped({ from: 3, to: 50, reason: "retention" });
  assert.deepEqual([ledger.position, ledger.inFlight], [50, 0]);
  assert.equal(ledger.message(message(51)), "next");
  assert.deepEqual(timeline(ledger, 100).beads.slice(0, 4).map(({ state }) => state), ["acked", "acked", "skipped", "skipped"]);
});

// ---------------------------------------------------------------- the line

test("the beads show what is acked, in flight and waiting, with the window around what is in flight", () => {
  const drawn = timeline(ledgerAt(4174, 4182, 4190, 4194), 26);
  const states = Object.fromEntries(drawn.beads.map(({ serial, state }) => [serial, state]));
  assert.deepEqual([states[4182], states[4183], states[4190], states[4191], states[4194]], ["acked", "flight", "flight", "waiting", "waiting"]);
  assert.deepEqual(drawn.window, { from: 4183, to: 4190, label: "window 8 of 8, full", isFull: true });
  assert.equal(drawn.name, "Serials 4175 to 4194. Acked through 4182. 4183 to 4190 sent and not acked: the window of 8 is full. 4191 to 4194 wait in the log.");
});

test("a scale is true: a long wait is a number at the end, old beads go", () => {
  const drawn = timeline(ledgerAt(0, 50, 50, 5050), 26);
  assert.equal(drawn.beads.length, 26);
  assert.equal(drawn.beads[drawn.beads.length - 1].serial, 54);
  assert.equal(drawn.more, "+ 4,996");
});

test("numbers under the line never touch", () => {
  for (let position = 1; position < 60; position += 1) {
    const { beads } = timeline(ledgerAt(0, Math.max(0, position - 5), position, position + 3), 26);
    const at = beads.flatMap(({ isLabelled }, index) => (isLabelled ? [index] : []));
    for (let index = 1; index < at.length; index += 1) assert.ok(at[index] - at[index - 1] >= 2, `at ${position}`);
    assert.ok(beads.some(({ serial, isLabelled }) => isLabelled && serial === position), `at ${position}`);
  }
});

test("what came by resuming is marked with its cut", () => {
  const ledger = ledgerAt(4168, 4173, 4173);
  ledger.lineLost(1000);
  ledger.attached(attached(4173, 4179), 3400, true);
  for (let serial = 4174; serial <= 4180; serial += 1) ledger.message(message(serial));
  const drawn = timeline(ledger, 26);
  assert.deepEqual(drawn.cuts, [{ after: 4173, label: "cut 2.4 s" }]);
  assert.deepEqual(drawn.resumed, [{ from: 4174, to: 4179, label: "6 from the log after resume" }]);
});

// ---------------------------------------------------------------- words

/** @param {Ledger | null} ledger @param {object} [more] */
const said = (ledger, more = {}) => describe({ line: "up", since: 0, reason: "", isStalling: false, attempt: 1, ledger, ...more });

test("the copy of the states is exact", () => {
  const held = said(ledgerAt(4174, 4182, 4190, 4194));
  assert.equal(held.word, "Held at #4,190");
  assert.equal(held.strong + held.text, "The server waits for you. 8 of 8 are unacknowledged, so #4,191 and later stay in the log. Nothing is buffered, nothing is lost.");
  const behind = said(ledgerAt(0, 3, 3, 40));
  assert.equal(behind.word, "Catching up · 37 to go");
  assert.equal(behind.strong + behind.text, "Catching up: 37 messages to go. They arrive in order; nothing was missed.");
  assert.equal(said(ledgerAt(0, 3, 3)).word, "Live");
  assert.equal(said(null, { line: "connecting", attempt: 3 }).word, "Connecting · try 3");
  assert.match(said(ledgerAt(0, 3, 3), { line: "cut" }).strong, /^You cut the line at \d\d:\d\d:\d\d\.$/);
});

test("the last message of a full window says why it stops there", () => {
  const ledger = ledgerAt(4174, 4182, 4190, 4194);
  assert.equal(fateOf(4190, ledger).text, " You asked for a window of 8. The last ack was 4182, so 4190 is the last the server may send. Ack anything and it goes on from the log at 4191.");
  assert.deepEqual([fateOf(4183, ledger).badge, fateOf(4182, ledger).badge], ["Not acked", "Acked"]);
});

// ---------------------------------------------------------------- frames

test("sizes are bytes of UTF-8, and an answer knows how long it took", () => {
  const log = new FrameLog(new DataReader());
  log.add("out", '{"type":"publish","ref":3,"channel":"play:open","messages":[{"id":"01J9Z4V0M8T67QK","data":"ü"}]}', 1000);
  const answer = log.add("in", '{"type":"published","ref":3,"serials":[7,8,9,10],"duplicates":[0]}', 1012);
  assert.equal(answer.latencyMs, 12);
  assert.equal(answer.what, "serials [7 to 10], 1 duplicate");
  assert.equal(log.rows[0].bytes, log.rows[0].text.length + 1);
  assert.equal(log.rows[0].what, "play:open 1 message id 01J9…7QK");
  // The ref of a connection that is gone answers nothing.
  log.add("out", '{"type":"ping","ref":4}', 2000);
  log.breakLine("You cut the line.", 2001);
  assert.equal(log.add("in", '{"type":"pong","ref":4}', 9000).latencyMs, null);
});

test("a filter finds types, words and serials, and never hides a cut", () => {
  const log = new FrameLog(new DataReader());
  log.add("in", JSON.stringify(message(42)), 1000);
  log.add("out", '{"type":"ack","serials":{"play:open":42}}', 1001);
  log.breakLine("You cut the line.", 1002);
  /** @param {"all" | "in" | "out"} way @param {string} words */
  const found = (way, words) => log.rows.filter((row) => passes(row, { way, words })).map(({ type }) => type);
  assert.deepEqual(found("all", "#42"), ["message", "ack", ""]);
  assert.deepEqual(found("in", ""), ["message", ""]);
  assert.deepEqual(found("all", "ACK open"), ["ack", ""]);
  assert.deepEqual(found("all", "#40-41"), [""]);
});

test("a delta says its base, its size and what it makes", () => {
  const log = new FrameLog(new DataReader());
  /** @param {object} frame */
  const add = (frame) => log.add("in", JSON.stringify(frame), 1000);
  assert.match(add(attached(40, 40, { delta: "fossil" })).what, /as differences$/);
  const before = '{"load":11,"state":"as it was before"}';
  const whole = add({ ...message(41), data: before });
  assert.match(whole.what, /, whole$/);
  const delta = add({ ...message(42), base: 41, data: 'b\n9@0,4:7,"sP@D,2syCBq;' });
  assert.match(delta.what, /, 23 B on #41 for 38 B$/);
  assert.deepEqual(delta.made?.data, { load: 17, state: "as it was before" });
  assert.equal(delta.bytes, delta.text.length);
  assert.match(add({ ...message(43), base: 41, data: "x" }).what, /cannot be read: message 41 is not at hand$/);
  assert.equal(add({ ...attached(43, 43) }).made, null);
  assert.equal(add({ ...message(44), data: "x" }).made, null);
  assert.match(summary({ type: "attach", channel: "a:b", from: "head", window: 8, delta: "fossil" }), /window 8 delta fossil$/);
});

test("the list is bounded and the counts go on", () => {
  const log = new FrameLog(new DataReader());
  for (let index = 0; index < KEPT_MOST * 2; index += 1) log.add("in", '{"type":"heartbeat"}', index);
  assert.ok(log.rows.length <= KEPT_MOST * 1.1);
  assert.equal(log.counts.in, KEPT_MOST * 2);
});

test("every frame has a line, also an odd one", () => {
  for (const frame of [{ type: "ready" }, { type: "presence", channel: "a" }, { type: "x" }, { type: "error", code: "a", message: "b" }, { type: "attach", channel: "a" }]) {
    assert.equal(typeof summary(frame), "string");
  }
  assert.equal(summary({ type: "attach", channel: "a:b", from: { rewind: 5 }, window: 8, acks: { "c:d": 7 } }), "a:b from rewind 5 window 8, acks c:d 7");
});

test("JSON is coloured by what it is, whole, and without tokens", () => {
  const frame = { type: "auth", token: "secret", data: { 'a"b': [1, -2.5e3, true, "x: 1"] } };
  const parts = highlight(frame);
  assert.equal(parts.map(({ text }) => text).join(""), JSON.stringify({ ...frame, token: "•••" }, null, 2));
  assert.deepEqual(parts.filter(({ kind }) => kind === "k").map(({ text }) => text), ['"type"', '"token"', '"data"', '"a\\"b"']);
  assert.deepEqual(parts.filter(({ kind }) => kind === "d").map(({ text }) => text), ["1", "-2500", "true"]);
});

// ---------------------------------------------------------------- the session

/** A session whose server is this test. @param {number} [random] */
function world(random = 0) {
  /** @type {any[]} */
  const links = [];
  let now = 10_000;
  /** @type {{ run: () => void, at: number }[]} */
  const timers = [];
  /** @type {string[]} */
  const breaks = [];
  const session = new Session({
    token: async () => "t",
    open: (token, events) => {
      const link = {
        token,
        events,
        isReady: true,
        isClosed: false,
        /** @type {any[]} */
        sent: [],
        /** @param {any} frame */
        send: (frame) => link.sent.push(frame),
        /** @param {any} frame @param {any} onAnswer */
        request: (frame, onAnswer) => link.sent.push({ ...frame, onAnswer }),
        close: () => (link.isClosed = true),
      };
      links.push(link);
      return link;
    },
    retryAfterMs: (attempt, code) => (code === 4403 ? null : attempt * 1000),
    clock: {
      now: () => now,
      setTimeout: (run, delayMs) => {
        const timer = { run, at: now + delayMs };
        timers.push(timer);
        return timer;
      },
      clearTimeout: (timer) => void (timers.includes(timer) && timers.splice(timers.indexOf(timer), 1)),
    },
    random: () => random,
    onWire: () => {},
    onBreak: (what) => breaks.push(what),
    onBack: (what) => breaks.push(what),
    onChange: () => {},
  });
  const link = () => links[links.length - 1];
  return {
    session,
    links,
    breaks,
    link,
    /** @param {number} ms */
    async pass(ms) {
      now += ms;
      for (const timer of [...timers]) if (timer.at <= now && timers.includes(timer)) {
        timers.splice(timers.indexOf(timer), 1);
        timer.run();
      }
      await Promise.resolve();
      await Promise.resolve();
    },
    async up() {
      session.connect();
      await Promise.resolve();
      await Promise.resolve();
      link().events.onReady({ type: "ready", worker: "w2" });
    },
    /** The last frame of a type. @param {string} type */
    sent: (type) => link().sent.filter((/** @type {any} */ each) => each.type === type),
    /** @param {any} frame */
    receive: (frame) => link().events.onFrame(frame),
  };
}

/** @param {ReturnType<typeof world>} place @param {number} serial @param {number} head */
function answerAttach(place, serial, head) {
  place.sent("attach").at(-1).onAnswer(attached(serial, head));
}

test("after a cut the session goes on from its position", async () => {
  const place = world();
  await place.up();
  place.session.attach(CHANNEL, { rewind: 5 }, 8);
  answerAttach(place, 37, 42);
  for (let serial = 38; serial <= 42; serial += 1) place.receive(message(serial));
  place.session.cut();
  assert.ok(place.link().isClosed);
  assert.equal(place.session.line, "cut");
  await place.pass(2400);
  assert.equal(place.links.length, 1, "it stays cut until it is joined");
  await place.up();
  assert.deepEqual(place.sent("attach")[0].from, { epoch: "k3J9", serial: 42 });
  assert.equal(place.sent("attach")[0].window, 8);
  assert.deepEqual(place.breaks, ["You cut the line", "Back after 2.4 s on worker w2."]);
});

test("a lost line comes back by itself, one that was ended does not", async () => {
  const place = world();
  await place.up();
  place.link().events.onLost({ code: 1006, reason: "" });
  assert.equal(place.session.line, "lost");
  await place.pass(5000);
  assert.equal(place.links.length, 2);
  place.link().events.onLost({ code: 4403, reason: "blocked" });
  assert.equal(place.session.line, "ended");
  await place.pass(60_000);
  assert.equal(place.links.length, 2);
});

test("acks go at the server's cadence, and not while they are stalled", async () => {
  const place = world(0.999);
  await place.up();
  place.session.attach(CHANNEL, "head", 8);
  answerAttach(place, 0, 0);
  for (let serial = 1; serial <= 5; serial += 1) place.receive(message(serial));
  assert.deepEqual(place.sent("ack"), [{ type: "ack", serials: { [CHANNEL]: 4 } }]);
  await place.pass(10_000);
  assert.equal(place.sent("ack").length, 2, "the last one after ack_ms");
  place.session.stall(true);
  for (let serial = 6; serial <= 13; serial += 1) place.receive(message(serial));
  await place.pass(60_000);
  assert.equal(place.sent("ack").length, 2);
  assert.ok(place.session.ledger?.isHeld);
  place.session.ackNow();
  assert.deepEqual(place.sent("ack").at(-1).serials, { [CHANNEL]: 13 });
  assert.equal(place.session.ledger?.isHeld, false);
  assert.ok(place.session.isStalling);
});

test("stalling takes an ack back that was only planned", async () => {
  const place = world(0.999);
  await place.up();
  place.session.attach(CHANNEL, "head", 8);
  answerAttach(place, 0, 0);
  place.receive(message(1));
  place.session.stall(true);
  await place.pass(60_000);
  assert.equal(place.sent("ack").length, 0);
});

test("who is held asks how far the log goes", async () => {
  const place = world();
  await place.up();
  place.session.attach(CHANNEL, "head", 8);
  answerAttach(place, 0, 0);
  place.session.stall(true);
  for (let serial = 1; serial <= 8; serial += 1) place.receive(message(serial));
  await place.pass(100);
  place.sent("history")[0].onAnswer({ type: "history", head: 12, messages: [] });
  assert.equal(place.session.ledger?.behind, 4);
  place.session.ackNow();
  await place.pass(30_000);
  assert.equal(place.sent("history").length, 1, "and asks no more when it is not");
});

test("a refusal is told, and the attachment before stays", async () => {
  const place = world();
  await place.up();
  place.session.attach(CHANNEL, "head", 8);
  answerAttach(place, 3, 3);
  place.session.attach(CHANNEL, { epoch: "k3J9", serial: 1 }, 8);
  place.sent("attach").at(-1).onAnswer({ type: "error", code: "forbidden", message: "No.", remedy: "Ask." });
  assert.equal(place.session.complaint, "No. Ask.");
  assert.ok(place.session.ledger?.isAttached);
});
