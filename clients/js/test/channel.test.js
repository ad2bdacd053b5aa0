// A channel: attach, messages, acks, resume, holes, snapshots, state.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SeriatimError } from "../src/errors.js";
import { collect, range, serials, settled, setup } from "../fakes/setup.js";

const NAME = "chat:lobby";

/** A live client with one channel, `count` messages in the log, and what it delivered. */
async function attached({ count = 0, options, ...rest } = {}) {
  const world = setup(rest);
  for (let i = 1; i <= count; i++) world.server.publish(NAME, i);
  const channel = world.client.channel(NAME, options);
  const messages = collect(channel);
  world.client.connect();
  await settled();
  await channel.attach();
  await settled();
  return { ...world, channel, messages, link: world.server.link };
}

const acks = (link) => link.read.flatMap((frame) => (frame.type === "ack" ? [frame.serials[NAME]] : []));
const froms = (server) =>
  server.links.flatMap((link) => link.read).flatMap((frame) => (frame.type === "attach" ? [frame.from] : []));

test("messages come in order once the channel is attached", async () => {
  const { client, server, channel, messages } = await attached();
  for (let i = 1; i <= 5; i++) server.publish(NAME, { i });
  await settled();
  assert.deepEqual(serials(messages), range(1, 5));
  assert.deepEqual(channel.position, { epoch: server.log(NAME).epoch, serial: 5 });
  assert.equal(client.state.name, "live");
});

test("whatever the first `from` was, later attaches resume from the last processed message", async () => {
  for (const from of ["head", "start", { rewind: 2 }, { since: 0 }]) {
    const { server, clock, messages, link } = await attached({ count: 4, options: { from } });
    server.publish(NAME, 5);
    await settled();
    link.cut();
    server.publish(NAME, 6);
    await clock.advance(2000);
    assert.equal(messages.at(-1).serial, 6);
    assert.deepEqual(froms(server), [from, { epoch: server.log(NAME).epoch, serial: 5 }]);
    assert.deepEqual(server.violations, []);
  }
});

test("what was received and not processed is asked for again, and nothing is kept twice", async () => {
  const { server, clock, client } = setup();
  const channel = client.channel(NAME, { from: "start" });
  const seen = [];
  let go;
  channel.on("message", async (message) => {
    seen.push(message.serial);
    if (message.serial === 2) await new Promise((resolve) => (go = resolve));
  });
  for (let i = 1; i <= 5; i++) server.publish(NAME, i);
  client.connect();
  channel.attach();
  await settled();
  assert.deepEqual(seen, [1, 2]);
  server.link.cut();
  await clock.advance(2000);
  assert.deepEqual(froms(server).at(-1), { epoch: server.log(NAME).epoch, serial: 1 });
  go();
  await settled();
  assert.deepEqual(seen, [1, 2, 3, 4, 5], "2 stood in the hands of the listener: its second copy was dropped");
  await clock.advance(10_000);
  assert.equal(server.link.attachments.get(NAME).acked, 5);
});

test("messages that come without a consumer wait for one", async () => {
  const { server, client } = setup();
  const channel = client.channel(NAME, { from: "start" });
  server.publish(NAME, 1);
  client.connect();
  await channel.attach();
  await settled();
  assert.equal(channel.position.serial, 0);
  const messages = collect(channel);
  await settled();
  assert.deepEqual(serials(messages), [1]);
});

test("an ack comes at the cadence of the server, and ack_ms after the last processed message", async () => {
  const { server, clock, link } = await attached({ random: () => 0 });
  server.ackEvery = 8;
  link.attachments.clear();
  link.cut();
  await clock.advance(2000);
  const now = server.link;
  for (let i = 0; i < 9; i++) server.publish(NAME, i);
  await settled();
  assert.deepEqual(acks(now), [4, 8], "at half of 8, the least of the spread");
  await clock.advance(9_000);
  server.publish(NAME, "restarts the time");
  await clock.advance(9_999);
  assert.deepEqual(acks(now), [4, 8]);
  await clock.advance(1);
  assert.deepEqual(acks(now), [4, 8, 10]);
  await clock.advance(60_000);
  assert.deepEqual(acks(now), [4, 8, 10], "nothing new, no ack");
});

test("acks ride on frames that are sent anyway", async () => {
  const { server, channel, link, clock } = await attached();
  server.publish(NAME, 1);
  await settled();
  await channel.publish("mine");
  await settled();
  const publish = link.read.find((frame) => frame.type === "publish");
  assert.deepEqual(publish.acks, { [NAME]: 1 });
  await clock.advance(20_000);
  assert.deepEqual(acks(link), [2]);
});

test("acks of several channels go in one frame", async () => {
  const { server, client, link, clock } = await attached();
  const other = client.channel("chat:other");
  collect(other);
  await other.attach();
  server.publish(NAME, 1);
  server.publish("chat:other", 1);
  await clock.advance(10_000);
  assert.deepEqual(
    link.read.filter((frame) => frame.type === "ack").map((frame) => frame.serials),
    [{ [NAME]: 1, "chat:other": 1 }],
  );
});

test("a slow consumer holds the acks back, and with them the server", async () => {
  const { server, client } = setup();
  server.window = 4;
  server.ackEvery = 2;
  for (let i = 1; i <= 20; i++) server.publish(NAME, i);
  const channel = client.channel(NAME, { from: "start" });
  let go;
  const seen = [];
  channel.on("message", (message) => {
    seen.push(message.serial);
    return new Promise((resolve) => (go = resolve));
  });
  client.connect();
  channel.attach();
  await settled();
  const wrote = () => server.link.wrote.filter((frame) => frame.type === "message").length;
  assert.equal(wrote(), 4);
  for (let i = 0; i < 20; i++) {
    go();
    await settled();
    assert.ok(wrote() - seen.length <= 4);
  }
  assert.deepEqual(seen, range(1, 20));
});

test("a loop acknowledges a message when it asks for the next one", async () => {
  const { client, server } = setup();
  server.window = 4;
  server.ackEvery = 2;
  const channel = client.channel(NAME, { from: "start" });
  for (let i = 1; i <= 10; i++) server.publish(NAME, i);
  client.connect();
  const seen = [];
  for await (const message of channel) {
    seen.push(message.serial);
    assert.equal(channel.position.serial, message.serial - 1);
    assert.ok(server.link.attachments.get(NAME).acked < message.serial);
    if (message.serial === 10) break;
  }
  assert.deepEqual(seen, range(1, 10));
  assert.deepEqual(server.violations, []);
});

test("a message that a loop was left with is the first of the next, unless it was said to be processed", async () => {
  const { client, server } = setup();
  const channel = client.channel(NAME, { from: "start" });
  for (let i = 1; i <= 4; i++) server.publish(NAME, i);
  client.connect();
  const take = async (until, done) => {
    const seen = [];
    for await (const { serial } of channel) {
      seen.push(serial);
      if (serial !== until) continue;
      if (done) channel.processedThrough(serial);
      break;
    }
    return seen;
  };
  assert.deepEqual(await take(2, false), [1, 2]);
  assert.deepEqual(await take(3, true), [2, 3]);
  assert.deepEqual(await take(4, true), [4]);
  assert.equal(channel.position.serial, 4);
});

test("an exception in a loop leaves the message unprocessed", async () => {
  const { client, server } = setup();
  const channel = client.channel(NAME, { from: "start" });
  server.publish(NAME, 1);
  client.connect();
  await assert.rejects(
    (async () => {
      for await (const _ of channel) throw new Error("mine");
    })(),
    /mine/,
  );
  assert.equal(channel.position.serial, 0);
});

test("a listener that throws is told about, and the stream goes on", async () => {
  const { server, channel, messages } = await attached();
  const errors = [];
  channel.on("error", (error) => errors.push([error.code, error.cause.message]));
  channel.on("message", ({ serial }) => {
    if (serial === 2) throw new Error("mine");
  });
  for (let i = 0; i < 3; i++) server.publish(NAME, i);
  await settled();
  assert.deepEqual(errors, [["listener", "mine"]]);
  assert.deepEqual(serials(messages), [1, 2, 3]);
});

test("the first publish to a channel brings its epoch, and no discontinuity", async () => {
  const { server, channel } = await attached();
  assert.deepEqual(channel.position, { epoch: null, serial: 0 });
  const told = [];
  channel.on("discontinuity", (discontinuity) => told.push(discontinuity));
  server.publish(NAME, 1);
  await settled();
  assert.deepEqual(channel.position, { epoch: server.log(NAME).epoch, serial: 1 });
  assert.deepEqual(told, []);
});

test("what retention took while away is told before the message behind it", async () => {
  const { server, channel, clock, link, messages } = await attached({ count: 41 });
  const order = [];
  channel.onDiscontinuity = async (from, to, reason) => {
    await null;
    order.push([from, to, reason]);
  };
  channel.on("message", (message) => order.push(message.serial));
  link.cut();
  for (let i = 42; i <= 60; i++) server.publish(NAME, i);
  server.prune(NAME, 58);
  await clock.advance(2000);
  assert.deepEqual(order, [[42, 58, "retention"], 59, 60]);
  assert.deepEqual(serials(messages), [59, 60]);
  assert.equal(channel.position.serial, 60);
});

test("a new epoch while attached: the old log ends, the new one begins, in order", async () => {
  const { server, channel } = await attached();
  const order = [];
  channel.onDiscontinuity = (from, to, reason) => order.push([from, to, reason]);
  channel.on("message", (message) => order.push(message.data));
  server.publish(NAME, "old");
  server.startAnew(NAME);
  server.publish(NAME, "new");
  await settled();
  assert.deepEqual(order, ["old", [null, null, "epoch"], "new"]);
  assert.deepEqual(channel.position, { epoch: server.log(NAME).epoch, serial: 1 });
});

test("a position beyond the head goes back to the start of the log", async () => {
  const { server, channel, clock, link, messages } = await attached({ count: 5 });
  const log = server.log(NAME);
  const told = [];
  channel.on("discontinuity", ({ from, to, reason, position }) => told.push([from, to, reason, position.serial]));
  link.cut();
  log.head = 3; // A database that was restored from a copy, and lost its end.
  log.rows.delete(4);
  log.rows.delete(5);
  await clock.advance(2000);
  assert.deepEqual(told, [[null, null, "epoch", 0]]);
  assert.deepEqual(serials(messages), [1, 2, 3]);
});

test("a step other than 1 is reported, and the channel resumes on the same connection", async () => {
  const { server, channel, link, messages } = await attached({ count: 1 });
  const errors = [];
  channel.on("error", (error) => errors.push(error.code));
  server.auto = false;
  for (let i = 2; i <= 5; i++) server.publish(NAME, i);
  link.toClient.splice(1, 1);
  server.auto = true;
  link.soon();
  await settled();
  assert.deepEqual(errors, ["gap"]);
  assert.deepEqual(serials(messages), [2, 3, 4, 5]);
  assert.equal(server.links.length, 1);
});

test("messages come as differences where that is asked for and allowed, and nobody sees it", async () => {
  for (const [delta, allowsDelta] of [["fossil", true], ["fossil", false], [null, true]]) {
    const { server, link, messages } = await attached({ options: { delta }, allowsDelta });
    for (let load = 1; load <= 3; load++) server.publish(NAME, { load, state: "as it was before" });
    await settled();
    assert.deepEqual(messages.map(({ data }) => data.load), [1, 2, 3]);
    assert.ok(messages.every((message) => !("base" in message)));
    const bases = link.wrote.flatMap(({ type, base }) => (type === "message" ? [base] : []));
    assert.deepEqual(bases, delta && allowsDelta ? [undefined, 1, 2] : [undefined, undefined, undefined]);
  }
  assert.throws(() => setup().client.channel(NAME, { delta: "vcdiff" }), { code: "bad_frame" });
});

test("a difference that does not fit is told, and asked for again whole", async () => {
  const { server, channel, link, messages } = await attached({ options: { delta: "fossil" } });
  const errors = [];
  channel.on("error", (error) => errors.push(error.code));
  for (let load = 1; load <= 2; load++) server.publish(NAME, { load, state: "as it was before" });
  await settled();
  server.auto = false;
  server.publish(NAME, { load: 3, state: "as it was before" });
  const frame = JSON.parse(link.toClient[0]);
  link.toClient[0] = JSON.stringify({ ...frame, data: frame.data.replace(":3", ":4") });
  server.auto = true;
  link.soon();
  await settled();
  assert.deepEqual(errors, ["delta"]);
  assert.deepEqual(messages.map(({ data }) => data.load), [1, 2, 3]);
  assert.equal(link.wrote.at(-1).base, undefined);
  assert.deepEqual(froms(server).at(-1), { epoch: server.log(NAME).epoch, serial: 2 });
});

test("acks count what messages are, not how few bytes told them", async () => {
  const { server, link } = await attached({ options: { delta: "fossil" }, ackEvery: 100 });
  for (let load = 1; load <= 5; load++) server.publish(NAME, { load, state: "x".repeat(60_000) });
  await settled();
  assert.deepEqual(acks(link), [5]);
});

test("a message that comes twice is delivered once", async () => {
  const { server, link, messages } = await attached();
  server.publish(NAME, 1);
  await settled();
  link.write(server.rows(NAME)[0]);
  server.publish(NAME, 2);
  await settled();
  assert.deepEqual(serials(messages), [1, 2]);
});

test("attach answers when it is attached, and again at once", async () => {
  const { channel, link } = await attached({ count: 3 });
  assert.equal((await channel.attach()).head, 3);
  assert.equal(link.read.filter((frame) => frame.type === "attach").length, 1);
});

test("attach with `from` moves the attachment", async () => {
  const { channel, messages, server } = await attached({ count: 5 });
  await channel.attach({ from: { rewind: 2 } });
  await settled();
  assert.deepEqual(serials(messages), [4, 5]);
  server.publish(NAME, 6);
  await settled();
  assert.deepEqual(serials(messages), [4, 5, 6]);
  await assert.rejects(channel.attach({ from: { rewind: -1 } }), { code: "bad_position" });
});

test("a refused attach rejects, ends loops, and is not tried again", async () => {
  const { client, server, clock } = setup();
  server.refuse = (frame) => (frame.type === "attach" ? { code: "forbidden", message: "no" } : null);
  const channel = client.channel(NAME);
  const detached = [];
  channel.on("detached", ({ reason }) => detached.push(reason));
  client.connect();
  await assert.rejects(channel.attach(), { code: "forbidden" });
  await assert.rejects(
    (async () => {
      for await (const _ of channel);
    })(),
    { code: "forbidden" },
  );
  assert.deepEqual(detached, ["forbidden", "forbidden"]);
  await clock.advance(60_000);
  assert.equal(client.state.name, "live");
  assert.equal(server.link.read.filter((frame) => frame.type === "attach").length, 2);
});

test("an attach that the server cannot answer now is tried again", async () => {
  const { client, server, clock } = setup();
  let refusals = 2;
  server.refuse = (frame) =>
    frame.type === "attach" && refusals-- > 0 ? { code: "unavailable", retry_after_ms: 300 } : null;
  client.connect();
  const attach = client.channel(NAME).attach();
  await clock.advance(600);
  assert.equal((await attach).serial, 0);
});

test("detached unasked: told, and not attached again", async () => {
  const { channel, link, clock, server, client } = await attached();
  const told = [];
  channel.on("detached", ({ reason, error }) => told.push([reason, error]));
  link.write({ type: "detached", channel: NAME, reason: "forbidden" });
  link.attachments.delete(NAME);
  await settled();
  assert.deepEqual(told, [["forbidden", null]]);
  link.cut();
  await clock.advance(2000);
  assert.equal(client.state.name, "live");
  assert.deepEqual(server.link.read, []);
});

test("detached unasked while an attach is on its way: the answer to the attach decides", async () => {
  const { channel, link, server } = await attached({ count: 2 });
  server.auto = false;
  link.write({ type: "detached", channel: NAME, reason: "forbidden" });
  const again = channel.attach({ from: "start" });
  link.moveAll();
  await again;
  assert.equal(channel.state, "attached");
});

test("detach ends loops quietly and keeps the position", async () => {
  const { client, server } = setup();
  const channel = client.channel(NAME, { from: "start" });
  server.publish(NAME, 1);
  client.connect();
  const seen = [];
  const loop = (async () => {
    for await (const message of channel) seen.push(message.serial);
  })();
  await settled();
  await channel.detach();
  await loop;
  assert.equal(channel.state, "detached");
  server.publish(NAME, 2);
  const messages = collect(channel);
  await channel.attach();
  await settled();
  assert.deepEqual(seen, [1]);
  assert.deepEqual(serials(messages), [2]);
});

test("a snapshot comes whole, then what is new", async () => {
  const { server, client } = setup();
  for (const [key, value] of [
    ["a", 1],
    ["b", 2],
    ["a", 3],
  ])
    server.publish(NAME, value, { key });
  const channel = client.channel(NAME, { from: "latest" });
  const order = [];
  channel.on("snapshot", ({ count, serial }) => order.push(["snapshot", count, serial]));
  channel.on("message", ({ data, snapshot = false }) => order.push([data, snapshot]));
  client.connect();
  await channel.attach();
  await settled();
  server.publish(NAME, 4, { key: "b" });
  await settled();
  assert.deepEqual(order, [
    ["snapshot", 2, 3],
    [2, true],
    [3, true],
    [4, false],
  ]);
  assert.equal(channel.position.serial, 4);
  assert.deepEqual(server.violations, []);
});

test("a snapshot that was cut is asked for again, and none of it is seen before it is whole", async () => {
  const { server, client, clock } = setup({ auto: false });
  for (let i = 0; i < 5; i++) server.publish(NAME, i, { key: `k${i}` });
  const channel = client.channel(NAME, { from: "latest" });
  const messages = collect(channel);
  client.connect();
  channel.attach();
  await settled();
  for (let i = 0; i < 2; i++) server.link.moveDown();
  server.link.moveUp();
  for (let i = 0; i < 4; i++) server.link.moveDown();
  assert.deepEqual(messages, []);
  server.link.cut();
  server.auto = true;
  await clock.advance(2000);
  assert.deepEqual(froms(server), ["latest", "latest"]);
  assert.equal(messages.length, 5);
  server.link.cut();
  await clock.advance(2000);
  assert.deepEqual(froms(server).at(-1), { epoch: server.log(NAME).epoch, serial: 5 });
});

test("a cursor is attached by name each time; what it repeats is dropped and acknowledged", async () => {
  const { server, clock, link, messages } = await attached({ options: { from: { cursor: "phone-1" } } });
  for (let i = 1; i <= 5; i++) server.publish(NAME, i);
  await settled();
  link.cut(); // Not acknowledged: the stored position is still 0.
  await clock.advance(2000);
  assert.deepEqual(froms(server).at(-1), { cursor: "phone-1" });
  assert.deepEqual(serials(messages), range(1, 5));
  await clock.advance(10_000);
  assert.equal(server.link.attachments.get(NAME).acked, 5);
});

test("a cursor that another connection moved on leaves no silent hole", async () => {
  const { server, clock, link, channel } = await attached({ options: { from: { cursor: "phone-1" } } });
  server.publish(NAME, 1);
  await settled();
  const told = [];
  channel.onDiscontinuity = (from, to, reason) => told.push([from, to, reason]);
  link.cut();
  for (let i = 2; i <= 5; i++) server.publish(NAME, i);
  server.cursors.set(`${NAME} phone-1`, { epoch: server.log(NAME).epoch, serial: 4 });
  await clock.advance(2000);
  assert.deepEqual(told, [[2, 4, "cursor"]]);
  assert.equal(channel.position.serial, 5);
});

test("loadState: nothing between the state and the stream is lost or doubled", async () => {
  const { server, client } = setup();
  for (let i = 1; i <= 3; i++) server.publish(NAME, i);
  const channel = client.channel(NAME);
  const order = [];
  channel.on("message", (message) => order.push(message.serial));
  client.connect();
  await channel.loadState(async (position) => {
    order.push(`load at ${position.serial}`);
    server.publish(NAME, "while loading");
    await settled();
    order.push("loaded");
  });
  server.publish(NAME, "after");
  await settled();
  assert.deepEqual(order, ["load at 3", "loaded", 4, 5]);
});

test("loadState: a state that says how far it stands leaves out what it holds", async () => {
  const { server, client, clock } = setup();
  server.publish(NAME, 1);
  const channel = client.channel(NAME);
  const messages = collect(channel);
  client.connect();
  await channel.loadState(async () => {
    for (let i = 2; i <= 4; i++) server.publish(NAME, i);
    await settled();
    return 3;
  });
  await settled();
  assert.deepEqual(serials(messages), [4]);
  await clock.advance(10_000);
  assert.equal(server.link.attachments.get(NAME).acked, 4);
});

test("loadState: a cut while loading changes nothing", async () => {
  const { server, client, clock } = setup();
  server.publish(NAME, 1);
  const channel = client.channel(NAME);
  const messages = collect(channel);
  client.connect();
  let loads = 0;
  let go;
  const loaded = channel.loadState(() => {
    loads += 1;
    return new Promise((resolve) => (go = resolve));
  });
  await settled();
  server.publish(NAME, 2);
  server.link.cut();
  server.publish(NAME, 3);
  await clock.advance(2000);
  assert.deepEqual(messages, []);
  go();
  await loaded;
  await settled();
  assert.deepEqual(serials(messages), [2, 3]);
  assert.equal(loads, 1);
});

test("loadState: called again after a discontinuity, and again when it fails", async () => {
  const { server, client, clock } = setup();
  const channel = client.channel(NAME);
  const order = [];
  channel.on("message", (message) => order.push(message.serial));
  channel.on("error", (error) => order.push(error.code));
  client.connect();
  let fails = 0;
  await channel.loadState((position) => {
    order.push(`load at ${position.serial}`);
    if (fails-- > 0) throw new Error("mine");
  });
  server.publish(NAME, 1);
  await settled();
  server.link.cut();
  for (let i = 2; i <= 9; i++) server.publish(NAME, i);
  server.prune(NAME, 7);
  fails = 1;
  await clock.advance(5000);
  assert.deepEqual(order, ["load at 0", 1, "load at 7", "load_state", "load at 7", 8, 9]);
});

test("loadState: a conflated skip is no reason to load", async () => {
  const { server, channel, link } = await attached();
  let loads = 0;
  await channel.loadState(() => void (loads += 1));
  const told = [];
  channel.onDiscontinuity = (from, to, reason) => told.push([from, to, reason]);
  server.publish(NAME, 1);
  await settled();
  link.write({ type: "skipped", channel: NAME, epoch: server.log(NAME).epoch, from: 2, to: 8, reason: "conflated" });
  await settled();
  assert.deepEqual(told, [[2, 8, "conflated"]]);
  assert.equal(loads, 1);
  assert.equal(channel.position.serial, 8);
});

test("window 0: no acks", async () => {
  const { server, link, clock, messages } = await attached({ options: { window: 0 } });
  for (let i = 0; i < 500; i++) server.publish(NAME, i);
  await clock.advance(60_000);
  assert.equal(messages.length, 500);
  assert.deepEqual(acks(link), []);
  assert.deepEqual(server.violations, []);
});

test("history waits for the line, is asked again after a cut, and can be given up", async () => {
  const { server, client, clock } = setup({ auto: false });
  for (let i = 1; i <= 5; i++) server.publish(NAME, i);
  const channel = client.channel(NAME);
  const page = channel.history({ before: 5, limit: 2 });
  const abort = new AbortController();
  const given = assert.rejects(channel.history({ signal: abort.signal }), { code: "aborted" });
  client.connect();
  await settled();
  server.link.moveDown();
  server.link.moveDown();
  abort.abort();
  await given;
  server.link.cut();
  server.auto = true;
  await clock.advance(2000);
  assert.deepEqual(serials((await page).messages), [4, 3]);
  assert.equal((await page).more, true);
});

test("history that is refused rejects", async () => {
  const { channel, server } = await attached();
  server.refuse = (frame) => (frame.type === "history" ? { code: "forbidden" } : null);
  await assert.rejects(channel.history(), { code: "forbidden" });
});

test("signals are sent when there is a line, heard when they come, and never kept", async () => {
  const { channel, link } = await attached();
  const heard = [];
  channel.on("signal", ({ client, event, data }) => heard.push([client, event, data]));
  assert.equal(channel.signal("typing", { on: true }), true);
  link.write({ type: "signal", channel: NAME, client: "bo", event: "typing", data: null });
  await settled();
  assert.deepEqual(heard, [["bo", "typing", null]]);
  assert.equal(link.read.at(-1).event, "typing");
  link.cut();
  assert.equal(channel.signal("typing"), false);
});

test("presence: entered again after a reconnect", async () => {
  const { channel, link, server, clock } = await attached({ options: { presence: true } });
  await channel.presence.enter({ mood: "calm" });
  assert.equal(link.read.find((frame) => frame.type === "attach").presence, true);
  link.cut();
  await clock.advance(2000);
  const again = server.link.read.find((frame) => frame.type === "presence");
  assert.deepEqual([again.action, again.data], ["enter", { mood: "calm" }]);
  server.link.write({
    type: "presence",
    channel: NAME,
    action: "sync",
    revision: 1,
    members: [{ client: "ana" }],
    more: false,
  });
  await settled();
  assert.equal(channel.presence.count, 1);
  await channel.presence.leave();
  assert.equal(server.link.read.at(-1).action, "leave");
});

test("presence: entering waits for the attach, and ends with the channel", async () => {
  const { channel, link } = await attached({ options: { presence: true } });
  await channel.detach();
  await settled();
  const before = link.read.length;
  const entering = channel.presence.enter(1);
  await settled();
  assert.equal(link.read.length, before, "nothing is said of a channel that is not attached");
  await channel.attach();
  await entering;
  assert.deepEqual(
    link.read.slice(before).map(({ type }) => type),
    ["attach", "presence"],
  );
  await channel.detach();
  const refused = assert.rejects(channel.presence.enter(2), { code: "closed" });
  channel.closed(new SeriatimError("closed"));
  await refused;
});

test("presence: a refresh asks for a new list, once at a time", async () => {
  const { channel, link } = await attached({ options: { presence: true } });
  const say = (frame) => link.write({ type: "presence", channel: NAME, ...frame });
  say({ action: "sync", revision: 1, members: [{ client: "ana", connections: 1 }], more: false });
  await settled();
  const before = link.read.length;
  channel.presence.refresh();
  channel.presence.refresh();
  await settled();
  assert.deepEqual(link.read.slice(before).map(({ type, presence }) => [type, presence]), [["attach", true]]);
  say({ action: "sync", revision: 1, members: [{ client: "ana", connections: 3 }], more: false });
  await settled();
  assert.equal(channel.presence.members.get("ana").connections, 3);
});

test("presence: a missed event asks for a new sync", async () => {
  const { channel, link } = await attached({ options: { presence: true } });
  const say = (frame) => link.write({ type: "presence", channel: NAME, ...frame });
  say({ action: "sync", revision: 1, members: [], more: false });
  say({ action: "enter", revision: 3, client: "bo" });
  await settled();
  assert.equal(link.read.at(-1).type, "attach");
  assert.equal(link.read.at(-1).presence, true);
  say({ action: "sync", revision: 3, members: [{ client: "bo" }], more: false });
  await settled();
  assert.equal(channel.presence.count, 1);
});

test("of two attaches on their way only the last one counts", async () => {
  const { server, channel, link, messages } = await attached({ count: 5 });
  server.auto = false;
  const both = [channel.attach({ from: "start" }), channel.attach({ from: { rewind: 1 } })];
  link.moveAll();
  await Promise.all(both);
  await settled();
  assert.deepEqual(serials(messages), [5]);
});

test("an attach that is answered after `detach` attaches nothing", async () => {
  const { server, client } = setup();
  server.publish(NAME, 1);
  const channel = client.channel(NAME, { from: "start" });
  const messages = collect(channel);
  client.connect();
  await settled();
  server.auto = false;
  const refused = assert.rejects(channel.attach(), { code: "detached" });
  channel.detach();
  server.link.moveAll();
  await refused;
  await settled();
  assert.equal(channel.state, "detached");
  assert.deepEqual(messages, []);
  assert.equal(server.link.attachments.size, 0);
});

test("a message of the old epoch is not acknowledged in the new one", async () => {
  const { server, client, clock } = setup();
  server.ackMs = 1000;
  const channel = client.channel(NAME);
  let go;
  channel.on("message", ({ data }) => data === "old" && new Promise((resolve) => (go = resolve)));
  client.connect();
  await channel.attach();
  for (let i = 0; i < 5; i++) server.publish(NAME, i);
  await clock.advance(1000);
  server.publish(NAME, "old");
  await settled();
  server.startAnew(NAME);
  await settled();
  go();
  await clock.advance(5000);
  assert.deepEqual(acks(server.link), [5]);
  assert.deepEqual(channel.position, { epoch: server.log(NAME).epoch, serial: 0 });
});

test("a consumer goes on with what was received while the line is away", async () => {
  const { server, client } = setup();
  for (let i = 1; i <= 5; i++) server.publish(NAME, i);
  const channel = client.channel(NAME, { from: "start" });
  const seen = [];
  let go;
  channel.on("message", ({ serial }) => {
    seen.push(serial);
    return new Promise((resolve) => (go = resolve));
  });
  client.connect();
  channel.attach();
  await settled();
  server.link.cut();
  for (let i = 0; i < 4; i++) {
    go();
    await settled();
  }
  assert.deepEqual(seen, [1, 2, 3, 4, 5]);
  client.retryNow();
  await settled();
  assert.equal(froms(server).at(-1).serial, 4);
});

test("messages before `attached` of a second attach are dropped", async () => {
  const { server, channel, link, messages } = await attached({ count: 3 });
  server.auto = false;
  server.publish(NAME, 4);
  const again = channel.attach({ from: "start" });
  link.moveAll();
  await again;
  await settled();
  assert.deepEqual(serials(messages), [1, 2, 3, 4]);
});
