// The pure parts: no client, no server.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock } from "../fakes/clock.js";
import { seeded } from "../fakes/random.js";
import { AckCadence } from "../src/ack-cadence.js";
import { Timer } from "../src/clock.js";
import { retryAfterMs } from "../src/codes.js";
import { Emitter } from "../src/emitter.js";
import { parseFrame } from "../src/frames.js";
import { idMaker } from "../src/ids.js";
import { Latency } from "../src/latency.js";
import { TRANSITIONS } from "../src/line-state.js";
import { checkMessage } from "../src/message.js";
import { PresenceMembers } from "../src/presence-members.js";
import { Queue } from "../src/queue.js";
import { SerialTracker } from "../src/serials.js";
import { socketUrl, WebSocketTransport } from "../src/transport-websocket.js";

test("a serial is the next one, an old one or proof of a gap", () => {
  const tracker = new SerialTracker();
  tracker.begin("abcd", 41);
  assert.equal(tracker.take(42), "next");
  assert.equal(tracker.take(42), "old");
  assert.equal(tracker.take(44), "gap");
  assert.equal(tracker.serial, 42, "a gap moves nothing");
  assert.equal(tracker.skip(43, 50), "next");
  assert.equal(tracker.take(51), "next");
  assert.equal(tracker.skip(40, 45), "old");
  assert.equal(tracker.skip(60, 70), "gap");
});

test("acks are due at a random point between half and the whole of ack_every", () => {
  const random = seeded(7);
  const cadence = new AckCadence(random);
  cadence.begin(32);
  const sizes = new Set();
  let serial = 0;
  for (let i = 0; i < 500; i++) {
    let count = 1;
    while (!cadence.processed(++serial, 100)) count += 1;
    sizes.add(count);
    assert.equal(cadence.take(), serial);
  }
  assert.equal(Math.min(...sizes), 16);
  assert.equal(Math.max(...sizes), 32);
});

test("large messages are acknowledged before a mebibyte is in flight", () => {
  const cadence = new AckCadence(() => 0.99);
  cadence.begin(256);
  let count = 1;
  while (!cadence.processed(count, 65_536)) count += 1;
  assert.equal(count, 4);
});

test("without a window there are no acks", () => {
  const cadence = new AckCadence(Math.random);
  cadence.begin(0);
  for (let serial = 1; serial < 1000; serial++) assert.equal(cadence.processed(serial, 1e6), false);
  assert.equal(cadence.take(), null);
});

test("ids sort by when they were made, also within a millisecond and when the clock steps back", () => {
  let now = 1000;
  const make = idMaker(() => now, seeded(3));
  const ids = [];
  for (let i = 0; i < 2000; i++) {
    ids.push(make());
    if (i === 700) now += 5;
    if (i === 900) now -= 50;
  }
  assert.deepEqual([...ids].sort(), ids);
  assert.equal(new Set(ids).size, ids.length);
  for (const id of ids) assert.match(id, /^[0-9A-HJKMNP-TV-Z]{26}$/);
});

test("the random part of an id carries over", () => {
  const make = idMaker(
    () => 0,
    () => 0.999999,
  );
  assert.equal(make(), "0".repeat(10) + "Z".repeat(16));
  assert.equal(new Set([make(), make(), make()]).size, 3);
});

test("a line is slow when answers are late for five seconds, and well again with one in time", () => {
  const latency = new Latency();
  latency.sample(2000, 10_000);
  assert.ok(latency.isSuspect);
  assert.equal(latency.isSlow(14_000), false);
  assert.equal(latency.isSlow(14_501), true);
  latency.sample(100, 15_000);
  assert.equal(latency.isSlow(20_000), false);
  assert.equal(latency.isSuspect, false);
});

test("a queue gives back in order what it took", () => {
  const queue = new Queue();
  const out = [];
  for (let i = 0; i < 3000; i++) {
    queue.push(i);
    if (i % 3 !== 0) out.push(queue.shift());
  }
  queue.unshift(queue.shift());
  while (queue.length > 0) out.push(queue.shift());
  assert.deepEqual(
    out,
    Array.from({ length: 3000 }, (_, i) => i),
  );
  assert.equal(queue.shift(), undefined);
});

test("a listener that throws does not keep the others from hearing", async () => {
  const emitter = new Emitter();
  const heard = [];
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  try {
    emitter.on("x", () => {
      throw new Error("mine");
    });
    const off = emitter.on("x", (value) => heard.push(value));
    emitter.emit("x", 1);
    off();
    emitter.emit("x", 2);
  } finally {
    delete globalThis.reportError;
  }
  assert.deepEqual(heard, [1]);
  assert.deepEqual(reported, ["mine", "mine"]);
});

test("a timer says how late it fired", async () => {
  const clock = new FakeClock();
  const late = [];
  const timer = new Timer(clock, (ms) => late.push(ms));
  timer.set(100);
  await clock.advance(100);
  timer.set(100);
  await clock.sleep(5000);
  assert.deepEqual(late, [0, 4900]);
  timer.set(500);
  timer.setSooner(700);
  timer.setSooner(200);
  await clock.advance(300);
  assert.equal(late.length, 3);
});

test("the hint of a close reason", () => {
  assert.equal(retryAfterMs("retry_after_ms=1200"), 1200);
  assert.equal(retryAfterMs("overloaded retry_after_ms=5"), 5);
  assert.equal(retryAfterMs("overloaded"), null);
  assert.equal(retryAfterMs("xretry_after_ms=5"), null);
});

test("what is no frame is not read", () => {
  for (const text of ["", "x", "5", "null", "[]", "{}", '{"type":5}']) assert.equal(parseFrame(text), null, text);
  assert.deepEqual(parseFrame('{"type":"new kind","x":1}'), { type: "new kind", x: 1 });
});

test("what the server would refuse is refused here", () => {
  const draft = { id: "a", event: "message", key: null, data: 1 };
  assert.equal(checkMessage(draft), "1");
  assert.equal(checkMessage({ ...draft, data: undefined }), "null");
  const nested = (depth) => JSON.parse("[".repeat(depth) + "]".repeat(depth));
  assert.equal(checkMessage({ ...draft, data: nested(64) }).length, 128);
  assert.equal(checkMessage({ ...draft, data: "[".repeat(99) + '\\"' }).length, 105);
  const cyclic = {};
  cyclic.self = cyclic;
  const bad = [
    { id: "" },
    { id: "é" },
    { event: "" },
    { event: "e".repeat(65) },
    { key: "a\nb" },
    { data: nested(65) },
    { data: "\ud800" },
    { data: "\\\udfff" },
    { data: cyclic },
    { data: 10n },
    { data: () => {} },
  ];
  for (const change of bad)
    assert.throws(() => checkMessage({ ...draft, ...change }), { code: "bad_frame" }, Object.keys(change)[0]);
  assert.equal(checkMessage({ ...draft, data: "\\ud800 is text" }), '"\\\\ud800 is text"');
});

test("members are put together from a paged sync and the events after it", () => {
  const members = new PresenceMembers();
  const ana = { client: "ana", connections: 1, data: null, since: 1 };
  assert.equal(members.apply({ action: "enter", revision: 3, client: "early" }), "ignored");
  assert.equal(members.apply({ action: "sync", revision: 7, members: [ana], more: true }), "ignored");
  assert.equal(
    members.apply({ action: "sync", revision: 7, members: [{ ...ana, client: "bo" }], more: false }),
    "changed",
  );
  assert.deepEqual([...members.members.keys()], ["ana", "bo"]);
  assert.equal(members.apply({ action: "leave", revision: 8, client: "bo" }), "changed");
  assert.equal(members.apply({ action: "leave", revision: 8, client: "ana" }), "ignored");
  assert.equal(members.apply({ action: "update", revision: 9, client: "ana", data: 5 }), "changed");
  assert.equal(members.members.get("ana").data, 5);
  assert.equal(members.apply({ action: "enter", revision: 11, client: "cy" }), "gap");
  assert.equal(members.apply({ action: "enter", revision: 12, client: "cy" }), "ignored", "until the next sync");
  assert.equal(members.apply({ action: "count", count: 812 }), "changed");
  assert.deepEqual([members.count, members.members.size], [812, 0]);
  assert.equal(members.apply({ action: "sync", revision: 1, members: [ana], more: false }), "changed");
  assert.deepEqual([members.count, members.members.size], [null, 1]);
});

test("an address is related to the page and spoken as ws", () => {
  assert.equal(socketUrl("/ws", "https://chat.example/room/1#x"), "wss://chat.example/ws");
  assert.equal(socketUrl("http://localhost:8000/ws#a"), "ws://localhost:8000/ws");
  assert.equal(socketUrl("wss://h/ws?a=1"), "wss://h/ws?a=1");
  assert.throws(() => socketUrl("/ws", undefined), TypeError);
});

test("where there is no WebSocket the error says what to do", () => {
  assert.throws(() => new WebSocketTransport(/** @type {any} */ (null)), /pass one/);
});

test("the WebSocket transport ends once, and never speaks into a closed socket", () => {
  const sockets = [];
  class Socket {
    readyState = 0;
    sent = [];
    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      sockets.push(this);
    }
    send(text) {
      this.sent.push(text);
    }
    close(code) {
      this.code = code;
    }
  }
  const seen = [];
  const link = new WebSocketTransport(Socket).open({
    url: "ws://h/ws",
    protocols: ["seriatim.v1.json"],
    onOpen: () => seen.push("open"),
    onText: (text) => seen.push(text),
    onClose: (code) => seen.push(code),
  });
  const [socket] = sockets;
  link.send("early");
  socket.readyState = 1;
  socket.onopen();
  link.send("x");
  socket.onmessage({ data: "text" });
  socket.onmessage({ data: new ArrayBuffer(1) });
  socket.onerror({});
  socket.onclose({ code: 1006, reason: "" });
  socket.onclose({ code: 1000, reason: "" });
  socket.onmessage({ data: "late" });
  assert.deepEqual(seen, ["open", "text", 1006]);
  assert.deepEqual(socket.sent, ["x"]);
});

test("every state of the line can be reached, and left", () => {
  const names = Object.keys(TRANSITIONS);
  const reachable = new Set(Object.values(TRANSITIONS).flat());
  for (const name of names) assert.ok(reachable.has(name), name);
  for (const next of reachable) assert.ok(names.includes(next), next);
  for (const name of names) assert.ok(TRANSITIONS[name].length > 0, name);
});
