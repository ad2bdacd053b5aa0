// What a client sees of a socket that is made of requests: one connection, whatever requests it takes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeClock } from "../fakes/clock.js";
import { fakeHttp } from "../fakes/http.js";
import { FakeServer } from "../fakes/server.js";

function session({ token = "t1" } = {}) {
  const clock = new FakeClock();
  const server = new FakeServer(clock, { auto: true });
  const frames = [];
  const closes = [];
  const link = fakeHttp(server).open({
    url: "",
    protocols: ["seriatim.v1.json", `seriatim.bearer.${token}`],
    onOpen: () => frames.push({ type: "open" }),
    onText: (text) => frames.push(JSON.parse(text)),
    onClose: (code, reason) => closes.push([code, reason]),
  });
  const send = (frame) => link.send(JSON.stringify(frame));
  const of = (type) => frames.filter((frame) => frame.type === type);
  const serials = (channel) => of("message").filter((frame) => frame.channel === channel).map((frame) => frame.serial);
  return { clock, server, link, send, frames, closes, of, serials };
}

test("it opens once, is ready once, and answers each attach once, however many requests that takes", async () => {
  const it = session();
  await it.clock.advance(10);
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "start" });
  await it.clock.advance(10);
  it.server.publish("a:1", "one");
  it.server.publish("a:1", "two");
  await it.clock.advance(10);
  it.send({ type: "attach", ref: 2, channel: "a:2", from: "head" });
  it.send({ type: "attach", ref: 3, channel: "a:3", from: "head" });
  await it.clock.advance(10);
  it.server.publish("a:1", "three");
  it.server.publish("a:2", "one");
  await it.clock.advance(10);
  it.send({ type: "detach", ref: 4, channel: "a:3" });
  await it.clock.advance(10);
  it.server.publish("a:1", "four");
  it.server.publish("a:3", "unheard");
  await it.clock.advance(10);
  assert.equal(it.of("open").length, 1);
  assert.equal(it.of("ready").length, 1);
  assert.deepEqual(it.of("attached").map((frame) => frame.ref).filter((ref) => ref !== undefined), [1, 2, 3]);
  // Three answers, and an unasked one with the epoch for each channel that began meanwhile.
  assert.equal(it.of("attached").length, 5);
  assert.deepEqual(it.serials("a:1"), [1, 2, 3, 4]);
  assert.deepEqual(it.serials("a:2"), [1]);
  assert.deepEqual(it.serials("a:3"), []);
  assert.deepEqual(it.of("detached").map((frame) => frame.ref), [4]);
  // Attaches of one moment share a request: the first, one for a:1, one for a:2 and a:3, one without a:3.
  assert.equal(it.server.links.length, 4);
});

test("how data come is told when it becomes another with the next request, and only then", async () => {
  const it = session();
  await it.clock.advance(10);
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "start", delta: "fossil" });
  await it.clock.advance(10);
  for (let load = 1; load <= 2; load++) it.server.publish("a:1", { load, state: "as it was before" });
  await it.clock.advance(10);
  const told = () => it.of("attached").filter(({ channel }) => channel === "a:1").map(({ delta, serial }) => [delta, serial]);
  const before = told().length;
  assert.equal(told().at(-1)[0], "fossil");
  it.send({ type: "attach", ref: 2, channel: "a:2", from: "head" });
  await it.clock.advance(10);
  assert.equal(told().length, before, "the same as before");
  it.server.allowsDelta = false;
  it.send({ type: "attach", ref: 3, channel: "a:3", from: "head" });
  await it.clock.advance(10);
  it.server.publish("a:1", { load: 3, state: "as it was before" });
  await it.clock.advance(10);
  assert.deepEqual(told().slice(before), [[undefined, 2]]);
  assert.deepEqual(it.of("message").map(({ data }) => typeof data), ["string", "string", "object"]);
});

test("a response that ends is asked for again, from where it was", async () => {
  const it = session();
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "start" });
  await it.clock.advance(2000);
  it.server.publish("a:1", "one");
  await it.clock.advance(2000);
  it.server.link.cut();
  it.server.publish("a:1", "two");
  await it.clock.advance(2000);
  assert.deepEqual(it.serials("a:1"), [1, 2]);
  assert.equal(it.of("attached").filter((frame) => frame.ref !== undefined).length, 1);
  assert.deepEqual(it.closes, []);
});

test("what cannot be had meanwhile is told, also when nobody asked", async () => {
  const it = session();
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "start" });
  for (let i = 0; i < 5; i++) it.server.publish("a:1", i);
  await it.clock.advance(2000);
  const gone = it.server.link;
  gone.isOver = true; // Silent: what follows is lost on the way.
  for (let i = 0; i < 5; i++) it.server.publish("a:1", i);
  it.server.prune("a:1", 8);
  gone.target.onClose(1006, "");
  await it.clock.advance(2000);
  assert.deepEqual(it.serials("a:1"), [1, 2, 3, 4, 5, 9, 10]);
  assert.deepEqual(it.of("skipped").map(({ from, to }) => [from, to]), [[6, 8]]);
  assert.equal(it.of("attached").at(-1).resumed, false);
});

test("the server's close is the socket's", async () => {
  const it = session();
  await it.clock.advance(10);
  it.server.link.close(4403, "an operator");
  await it.clock.advance(10);
  assert.deepEqual(it.closes, [[4403, "an operator"]]);
});

test("a new token is used from the next request on, and answered as over a socket", async () => {
  const it = session();
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "head" });
  await it.clock.advance(10);
  it.send({ type: "auth", ref: 7, token: "t2" });
  await it.clock.advance(10);
  assert.deepEqual(it.of("authenticated").map((frame) => frame.ref), [7]);
  assert.equal(it.server.link.token, "t2");
});

test("a snapshot is not cut by another channel's attach", async () => {
  const it = session();
  for (let i = 0; i < 3; i++) it.server.publish("a:1", i, { key: `k${i}` });
  await it.clock.advance(10);
  it.server.auto = false;
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "latest" });
  await it.clock.advance(10);
  const { link } = it.server;
  while (it.of("message").length < 1) link.moveUp() || link.moveDown();
  it.send({ type: "attach", ref: 2, channel: "a:2", from: "head" });
  await it.clock.advance(100);
  assert.equal(it.server.link, link);
  it.server.auto = true;
  link.moveAll();
  await it.clock.advance(100);
  assert.deepEqual(it.serials("a:1"), [1, 2, 3]);
  assert.equal(it.of("snapshot.end").length, 1);
  assert.deepEqual(it.of("attached").map((frame) => frame.ref).filter((ref) => ref !== undefined), [1, 2]);
});

test("answers come in the order of the requests; what is chained to a failure fails", async () => {
  const it = session();
  await it.clock.advance(10);
  let refuse = true;
  it.server.refuse = (frame) => (frame.type === "publish" && refuse ? { code: "rate_limited", retry_after_ms: 5 } : null);
  it.send({ type: "publish", ref: 1, channel: "a:1", messages: [{ id: "1", data: 1 }] });
  it.send({ type: "publish", ref: 2, channel: "a:1", chained: true, messages: [{ id: "2", data: 2 }] });
  await it.clock.advance(1000);
  refuse = false;
  it.send({ type: "publish", ref: 3, channel: "a:1", chained: true, messages: [{ id: "2", data: 2 }] });
  it.send({ type: "publish", ref: 4, channel: "a:1", messages: [{ id: "1", data: 1 }] });
  it.send({ type: "publish", ref: 5, channel: "a:1", chained: true, messages: [{ id: "2", data: 2 }] });
  await it.clock.advance(1000);
  const answers = it.frames.filter((frame) => [1, 2, 3, 4, 5].includes(frame.ref)).map((f) => [f.ref, f.code ?? f.serials[0]]);
  assert.deepEqual(answers.sort(), [[1, "rate_limited"], [2, "order"], [3, "order"], [4, 1], [5, 2]]);
});

const entered = (it) => it.frames.filter(({ type, ref }) => type !== "attached" && typeof ref === "string").map((f) => [f.ref, f.code ?? f.type]);

test("entering is said with what is read, again and again, and answered once", async () => {
  const it = session();
  const says = [];
  it.server.enter = (channel, enter) => void says.push([channel, enter.data, enter.at ?? null]);
  await it.clock.advance(10);
  it.send({ type: "presence", ref: "early", channel: "a:1", action: "enter", data: 1 });
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "head" });
  await it.clock.advance(100);
  it.send({ type: "presence", ref: "enter", channel: "a:1", action: "enter", data: 1 });
  await it.clock.advance(100);
  const [[, , first]] = says;
  assert.equal(first, null);
  it.send({ type: "attach", ref: 2, channel: "a:2", from: "head" });
  await it.clock.advance(100);
  it.send({ type: "presence", ref: "update", channel: "a:1", action: "update", data: 2 });
  it.send({ type: "presence", ref: "soon", channel: "a:1", action: "update", data: 3 });
  await it.clock.advance(100);
  it.send({ type: "attach", ref: 3, channel: "a:1", from: "head" });
  await it.clock.advance(100);
  const at = says[1][2];
  assert.ok(at > 0 && says[3][2] > at, "as the server told");
  assert.deepEqual(says, [["a:1", 1, null], ["a:1", 1, at], ["a:1", 3, null], ["a:1", 3, says[3][2]]]);
  assert.deepEqual(entered(it), [["early", "not_attached"], ["enter", "ok"], ["update", "ok"], ["soon", "ok"]]);
  it.send({ type: "presence", ref: "leave", channel: "a:1", action: "leave", data: null });
  await it.clock.advance(1000);
  assert.deepEqual(entered(it).at(-1), ["leave", "ok"]);
  assert.match(it.server.reader, /^[a-z0-9]{8,64}$/);
  const { length } = says;
  it.server.link.cut();
  await it.clock.advance(2000);
  assert.equal(says.length, length, "nothing is said any more");
});

test("who may not enter is told, and asked for again only what was granted before", async () => {
  const it = session();
  let answer = { type: "error", code: "forbidden" };
  let count = 0;
  it.server.enter = () => (count++, answer);
  it.send({ type: "attach", ref: 1, channel: "a:1", from: "head" });
  await it.clock.advance(100);
  it.send({ type: "presence", ref: "no", channel: "a:1", action: "enter", data: 1 });
  await it.clock.advance(5000);
  answer = undefined;
  it.send({ type: "presence", ref: "yes", channel: "a:1", action: "enter", data: 1 });
  await it.clock.advance(5000);
  answer = { type: "error", code: "unavailable", retry_after_ms: 500 };
  it.server.link.cut();
  await it.clock.advance(100);
  answer = undefined;
  await it.clock.advance(5000);
  assert.equal(count, 4);
  assert.deepEqual(entered(it), [["no", "forbidden"], ["yes", "ok"]]);
  assert.deepEqual(it.closes, []);
  it.send({ type: "detach", ref: 4, channel: "a:1" });
  it.server.link.read.length = 0;
  await it.clock.advance(1000);
  assert.equal(count, 4);
});
