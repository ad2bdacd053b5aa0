// What is published: stored once, in order, whatever happens on the way.

import assert from "node:assert/strict";
import { test } from "node:test";
import { settled, setup } from "../fakes/setup.js";
import { LocalOutboxStorage } from "../src/index.js";

const NAME = "chat:lobby";
const data = (server, name = NAME) => server.rows(name).map((row) => row.data);
const publishes = (link) => link.read.filter((frame) => frame.type === "publish");

async function live(options) {
  const world = setup(options);
  world.client.connect();
  await settled();
  return world;
}

test("publish takes data, or a draft, or data with options", async () => {
  const { client, server } = await live();
  const channel = client.channel(NAME);
  await channel.publish({ text: "hi" });
  await channel.publish({ event: "edit", data: { text: "ho" }, key: "row-1", id: "own-id" });
  await channel.publish({ data: 1, event: "x", other: 2 });
  await channel.publish({ data: 1 }, {});
  await channel.publish(null);
  await channel.publish([1, 2]);
  const rows = server.rows(NAME).map(({ event, key, data: value }) => ({ event, key, data: value }));
  assert.deepEqual(rows, [
    { event: "message", key: undefined, data: { text: "hi" } },
    { event: "edit", key: "row-1", data: { text: "ho" } },
    { event: "message", key: undefined, data: { data: 1, event: "x", other: 2 } },
    { event: "message", key: undefined, data: { data: 1 } },
    { event: "message", key: undefined, data: null },
    { event: "message", key: undefined, data: [1, 2] },
  ]);
  assert.equal(server.rows(NAME)[1].id, "own-id");
});

test("the id is known at once, and data is taken as it is at the call", async () => {
  const { client, server } = await live();
  const value = { text: "before" };
  const sending = client.channel(NAME).publish(value);
  assert.match(sending.id, /^[0-9A-Z]{26}$/);
  value.text = "after";
  assert.equal((await sending).id, sending.id);
  assert.deepEqual(data(server), [{ text: "before" }]);
});

test("publishes are pipelined up to 64, each chained to the one before", async () => {
  const { client, server } = await live();
  server.auto = false;
  for (let i = 0; i < 100; i++) client.channel(NAME).publish(i);
  assert.equal(server.link.toServer.length, 64);
  await server.link.settle();
  assert.deepEqual(
    data(server),
    Array.from({ length: 100 }, (_, i) => i),
  );
  assert.deepEqual(
    publishes(server.link)
      .map((frame) => frame.chained === true)
      .slice(0, 64),
    [false, ...Array(63).fill(true)],
  );
});

test("one that is refused for good does not stop those behind it", async () => {
  const { client, server } = await live();
  server.auto = false;
  server.refuse = (frame) => (frame.messages?.[0].data === 2 ? { code: "too_large", message: "3 bytes over" } : null);
  const outcomes = Promise.allSettled([1, 2, 3, 4].map((i) => client.channel(NAME).publish(i)));
  await server.link.settle();
  const [, second, third] = await outcomes;
  assert.equal(second.status, "rejected");
  assert.equal(second.reason.code, "too_large");
  assert.equal(second.reason.message, "3 bytes over");
  assert.equal(third.value.serial, 2);
  assert.deepEqual(data(server), [1, 3, 4]);
});

test("rate_limited: all of the channel wait, and go on in order when the pause is over", async () => {
  const { client, server, clock } = await live();
  let refused = 0;
  server.refuse = (frame) => {
    if (frame.type !== "publish" || frame.channel !== NAME || refused > 0) return null;
    refused += 1;
    return { code: "rate_limited", retry_after_ms: 1200 };
  };
  const drawn = [];
  client.on("outbox", (entry) =>
    drawn.push([entry.data, entry.state, entry.reason, entry.retryAt && entry.retryAt - clock.now()]),
  );
  const all = Promise.all([1, 2].map((i) => client.channel(NAME).publish(i)));
  await client.channel("chat:other").publish("not held up");
  await settled();
  assert.deepEqual(
    drawn.filter(([value]) => value !== "not held up"),
    [
      [1, "waiting", null, null],
      [1, "pending", null, null],
      [2, "waiting", "order", null],
      [2, "pending", null, null],
      [1, "waiting", "rate_limited", 1200],
      [2, "waiting", "order", null],
    ],
  );
  await clock.advance(1199);
  assert.deepEqual(data(server), []);
  await clock.advance(1);
  await all;
  assert.deepEqual(data(server), [1, 2]);
});

test("`retry` sends now what waits for a pause", async () => {
  const { client, server } = await live();
  let refusing = true;
  server.refuse = (frame) =>
    refusing && frame.type === "publish" ? { code: "rate_limited", retry_after_ms: 60_000 } : null;
  const sending = client.channel(NAME).publish(1);
  await settled();
  refusing = false;
  assert.ok(client.outbox.retry(sending.id));
  await sending;
});

test("`internal` is tried five times, then the message counts as poison", async () => {
  const { client, server, clock } = await live();
  server.refuse = (frame) => (frame.messages?.[0].data === "poison" ? { code: "internal" } : null);
  const poisoned = assert.rejects(client.channel(NAME).publish("poison"), { code: "internal" });
  const behind = client.channel(NAME).publish("fine");
  await clock.advance(60_000);
  await poisoned;
  assert.equal((await behind).serial, 1);
});

test("unavailable has an unknown outcome: the same id again, and no second row", async () => {
  const { client, server, clock } = await live();
  let first = true;
  server.refuse = (frame) => {
    if (frame.type !== "publish" || !first) return null;
    first = false;
    const [{ id, event, data: value }] = frame.messages;
    server.publish(NAME, value, { client: "ana", id, event });
    return { code: "unavailable", retry_after_ms: 100 };
  };
  const sending = client.channel(NAME).publish("once");
  await clock.advance(200);
  const receipt = await sending;
  assert.equal(receipt.duplicate, true);
  assert.equal(receipt.conflict, false);
  assert.deepEqual(data(server), ["once"]);
});

test("what was not answered is sent again after a reconnect: same ids, in order, chained behind the first", async () => {
  const { client, server, clock } = await live();
  server.auto = false;
  const all = Promise.all([1, 2, 3].map((i) => client.channel(NAME).publish(i)));
  const first = server.link;
  first.moveUp();
  first.moveUp();
  first.cut();
  server.auto = true;
  await clock.advance(2000);
  const receipts = await all;
  assert.deepEqual(
    receipts.map((receipt) => receipt.duplicate),
    [true, true, false],
  );
  assert.deepEqual(data(server), [1, 2, 3]);
  const [before, after] = [publishes(first), publishes(server.link)].map((frames) =>
    frames.map((frame) => frame.messages[0].id),
  );
  assert.deepEqual(after.slice(0, 2), before);
  assert.deepEqual(
    publishes(server.link).map((frame) => frame.chained),
    [undefined, true, true],
  );
});

test("offline: messages wait in order, and say why", async () => {
  const { client, server } = setup();
  const channel = client.channel(NAME);
  const all = Promise.all([1, 2, 3].map((i) => channel.publish(i)));
  assert.deepEqual(
    client.outbox.entries.map((entry) => [entry.data, entry.state, entry.reason]),
    [
      [1, "waiting", "connection"],
      [2, "waiting", "connection"],
      [3, "waiting", "connection"],
    ],
  );
  client.connect();
  assert.deepEqual(
    (await all).map((receipt) => receipt.serial),
    [1, 2, 3],
  );
  assert.deepEqual(data(server), [1, 2, 3]);
  assert.equal(client.outbox.size, 0);
});

test("a full outbox refuses, by count and by bytes", async () => {
  const { client } = setup({ outbox: { maxMessages: 2, maxBytes: 100 } });
  const channel = client.channel(NAME);
  channel.publish("x".repeat(90)).catch(() => {});
  await assert.rejects(channel.publish("y".repeat(50)), { code: "outbox_full" });
  channel.publish(1).catch(() => {});
  await assert.rejects(channel.publish(2), { code: "outbox_full" });
});

test("what the wire does not allow is refused before it is queued", async () => {
  const { client } = setup();
  const channel = client.channel(NAME);
  await assert.rejects(channel.publish(1, { id: "a b" }), { code: "bad_frame" });
  await assert.rejects(channel.publish(1, { key: "a\nb" }), { code: "bad_frame" });
  await assert.rejects(channel.publish({ data: "\ud800" }), { code: "bad_frame" });
  assert.equal(client.outbox.size, 0);
});

test("a message over the frame limit is never sent: it would cost the connection", async () => {
  const world = setup();
  world.server.ready.max_frame_bytes = 4096;
  world.client.connect();
  await settled();
  await assert.rejects(world.client.channel(NAME).publish("x".repeat(4096)), { code: "too_large" });
  assert.deepEqual(world.server.link.read, []);
});

test("a message that waits can be taken back", async () => {
  const { client, server } = setup();
  const channel = client.channel(NAME);
  const first = channel.publish(1);
  const rejected = assert.rejects(first, { code: "discarded" });
  const second = channel.publish(2);
  assert.ok(client.outbox.discard(first.id));
  assert.equal(client.outbox.discard(first.id), false);
  await rejected;
  client.connect();
  await second;
  assert.deepEqual(data(server), [2]);
});

test("a listener that publishes does not get before the message it hears of", async () => {
  const { client, server } = await live();
  const channel = client.channel(NAME);
  let more = 3;
  channel.on("outbox", (entry) => {
    if (entry.state !== "sent" && more-- > 0) channel.publish(`about ${entry.data}`).catch(() => {});
  });
  await channel.publish("first");
  await client.outbox.flush();
  assert.equal(data(server)[0], "first");
  assert.equal(data(server).length, 4);
});

/** As a browser's `localStorage`. */
class Store {
  map = new Map();
  get length() {
    return this.map.size;
  }
  key(index) {
    return [...this.map.keys()][index] ?? null;
  }
  getItem(key) {
    return this.map.get(key) ?? null;
  }
  setItem(key, value) {
    this.map.set(key, value);
  }
  removeItem(key) {
    this.map.delete(key);
  }
}

test("unsent messages survive a reload with their ids and their order", async () => {
  const store = new Store();
  const before = setup({ storage: new LocalOutboxStorage(store), clientId: "ana" });
  const sendings = [1, 2, 3].map((i) => before.client.channel(NAME).publish({ i }, { key: `k${i}` }));
  for (const sending of sendings) sending.catch(() => {});
  await settled();
  assert.equal(store.length, 3);

  // A browser keeps the rows of its storage in whatever order it likes.
  store.map = new Map([...store.map].reverse());
  const after = setup({ seed: 2, storage: new LocalOutboxStorage(store), clientId: "ana" });
  /** @type {string[]} */
  const drawn = [];
  after.client.on("outbox", (entry) => drawn.push(entry.id));
  await settled();
  const ids = sendings.map((sending) => sending.id);
  assert.deepEqual(drawn, ids, "a page is told of them as they were queued");
  assert.deepEqual(
    after.client.outbox.entries.map((entry) => entry.id),
    ids,
  );
  after.client
    .channel(NAME)
    .publish("new")
    .catch(() => {});
  after.client.connect();
  await after.client.outbox.flush();
  assert.deepEqual(data(after.server), [{ i: 1 }, { i: 2 }, { i: 3 }, "new"]);
  assert.deepEqual(
    after.server.rows(NAME).map((row) => row.key),
    ["k1", "k2", "k3", undefined],
  );
  await settled();
  assert.equal(store.length, 0, "what is stored on the server is not kept on the device");
});

test("a message sent and not answered before the reload is stored once", async () => {
  const store = new Store();
  const before = setup({ storage: new LocalOutboxStorage(store), clientId: "ana" });
  before.client.connect();
  await settled();
  before.server.auto = false;
  before.client
    .channel(NAME)
    .publish("once")
    .catch(() => {});
  await settled();
  before.server.link.moveUp();
  before.server.link.cut();
  const after = setup({ seed: 2, storage: new LocalOutboxStorage(store), clientId: "ana" });
  after.server.logs = before.server.logs;
  const drawn = [];
  after.client.on("outbox", (entry) => drawn.push([entry.state, entry.receipt?.duplicate]));
  after.client.connect();
  await settled();
  await after.client.outbox.flush();
  assert.deepEqual(data(after.server), ["once"]);
  assert.deepEqual(drawn.at(-1), ["sent", true]);
});

test("two tabs that send the same messages store them once, in order", async () => {
  const store = new Store();
  const first = setup({ storage: new LocalOutboxStorage(store), clientId: "ana" });
  for (let i = 0; i < 5; i++)
    first.client
      .channel(NAME)
      .publish(i)
      .catch(() => {});
  await settled();
  const second = setup({ seed: 9, storage: new LocalOutboxStorage(store), clientId: "ana" });
  second.server.logs = first.server.logs;
  await settled();
  assert.equal(second.client.outbox.size, 5);
  first.client.connect();
  second.client.connect();
  await Promise.all([first.client.outbox.flush(), second.client.outbox.flush()]);
  assert.deepEqual(data(first.server), [0, 1, 2, 3, 4]);
  await settled();
  assert.equal(store.length, 0);
});

test("another client id on the line does not send the words of the first", async () => {
  const store = new Store();
  const { client, server, clock } = setup({ storage: new LocalOutboxStorage(store) });
  client.connect();
  await settled();
  server.link.cut();
  const mine = assert.rejects(client.channel(NAME).publish("of ana"), { code: "identity" });
  server.client = "bo";
  await clock.advance(2000);
  await mine;
  await client.channel(NAME).publish("of bo");
  assert.deepEqual(data(server), ["of bo"]);
  assert.equal(store.length, 1, "it waits for ana on the device");
});

test("a storage that fails is told, and the message goes out from memory", async () => {
  const storage = {
    load: () => Promise.reject(new Error("denied")),
    save: () => Promise.reject(new Error("quota")),
    remove: () => Promise.resolve(),
  };
  const { client, server } = setup({ storage });
  const errors = [];
  client.on("error", (error) => errors.push(error.cause.message));
  client.connect();
  await client.channel(NAME).publish("anyway");
  assert.deepEqual(data(server), ["anyway"]);
  assert.deepEqual(errors.sort(), ["denied", "quota"]);
});

test("rows of other clients and of other programs are left alone", async () => {
  const store = new Store();
  store.setItem("theme", "dark");
  store.setItem("seriatim.outbox/ana/x", "not json");
  const storage = new LocalOutboxStorage(store);
  const row = { order: "1", channel: NAME, id: "i", event: "message", key: null, data: "1", queuedAt: 5 };
  await storage.save("ana b/c", row);
  assert.deepEqual(await storage.load("ana"), []);
  assert.deepEqual(await storage.load("ana b/c"), [row]);
  await storage.remove("ana b/c", "1");
  assert.equal(store.length, 2);
});
