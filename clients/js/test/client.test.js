// The line: states, reconnects, tokens, heartbeat.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/index.js";
import { collect, settled, setup } from "../fakes/setup.js";

test("connecting, then live", async () => {
  const { client, states, server } = setup();
  assert.equal(client.state.name, "closed");
  client.connect();
  await settled();
  assert.deepEqual(states, ["connecting", "live"]);
  assert.equal(client.clientId, "ana");
  assert.equal(client.ready.worker, "w1");
  assert.deepEqual(server.link.target.protocols, ["seriatim.v1.json"]);
});

test("what every close code leads to", async () => {
  const expected = {
    1000: "closed",
    1001: "offline",
    1003: "stopped",
    1006: "offline",
    1007: "stopped",
    1009: "stopped",
    1011: "offline",
    1012: "moving",
    1013: "waiting",
    3000: "offline",
    4003: "stopped",
    4011: "offline",
    4012: "moving",
    4013: "waiting",
    4400: "stopped",
    4403: "stopped",
    4408: "offline",
    4410: "offline",
    4429: "waiting",
  };
  for (const [code, name] of Object.entries(expected)) {
    const { client, server } = setup();
    client.connect();
    await settled();
    server.link.close(Number(code), "");
    await settled();
    assert.equal(client.state.name, name, `close ${code}`);
    const tries = name === "offline" || name === "waiting" || name === "moving";
    assert.equal(client.state.nextTryAt !== null, tries && code !== "4408", `close ${code} tries again`);
  }
});

test("overloaded: the next try is when the server said", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  server.link.close(1013, "retry_after_ms=12000");
  await settled();
  assert.equal(client.state.name, "waiting");
  assert.equal(client.state.nextTryAt, clock.now() + 12_000);
  await clock.advance(11_999);
  assert.equal(server.links.length, 1);
  await clock.advance(1);
  assert.equal(client.state.name, "live");
});

test("over its rate: the pause is that of the error before the close", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  server.link.write({ type: "error", code: "rate_limited", message: "", remedy: "", retry_after_ms: 7000 });
  server.link.close(4429, "");
  await settled();
  assert.equal(client.state.nextTryAt, clock.now() + 7000);
});

test("a worker that leaves: moving, and back after its hint", async () => {
  const { client, server, clock, states } = setup();
  client.connect();
  await settled();
  server.link.write({ type: "reconnect", after_ms: 740, reason: "drain" });
  await settled();
  assert.equal(client.state.name, "moving");
  assert.equal(client.state.reason, "drain");
  await clock.advance(100);
  server.link.close(1012, "drain");
  await settled();
  assert.equal(client.state.nextTryAt, clock.now() + 640);
  await clock.advance(640);
  assert.deepEqual(states, ["connecting", "live", "moving", "moving", "connecting", "live"]);
});

test("a worker that leaves and does not close is left", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  server.link.write({ type: "reconnect", after_ms: 500 });
  await clock.advance(6000);
  assert.equal(client.state.name, "live");
  assert.equal(server.links.length, 2);
  assert.ok(server.links[0].isOver);
});

test("backoff grows from try to try, counts them, and begins anew after 10 s of a good connection", async () => {
  const { client, server, clock } = setup({ random: () => 0.999 });
  server.greet = () => [1011, "fault"];
  client.connect();
  await settled();
  const waits = [];
  for (let i = 1; i <= 6; i++) {
    assert.equal(client.state.name, "offline");
    assert.equal(client.state.attempt, i);
    const wait = client.state.nextTryAt - clock.now();
    waits.push(wait);
    if (i === 6) server.greet = () => null;
    await clock.advance(wait);
  }
  assert.deepEqual(waits, [999, 1998, 3996, 7992, 15984, 15984]);
  assert.equal(client.state.name, "live");
  assert.equal(client.state.attempt, 0);
  await clock.advance(9000);
  server.link.cut();
  assert.equal(client.state.nextTryAt - clock.now(), 15_984, "9 s were not good enough");
  await clock.advance(16_000);
  await clock.advance(10_000);
  server.link.cut();
  assert.equal(client.state.nextTryAt - clock.now(), 999);
});

test("offline counts from when the last sign of life came, over all tries", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  await clock.advance(20_000);
  const heardAt = clock.now() - 20_000;
  server.greet = () => [1011, ""];
  server.link.cut();
  assert.equal(client.state.since, heardAt);
  await clock.advance(30_000);
  assert.equal(client.state.name, "offline");
  assert.equal(client.state.since, heardAt);
  assert.equal(client.state.lostAt, heardAt);
});

test("what was made good is told when the line is live again", async () => {
  const { client, server, clock } = setup();
  const channel = client.channel("chat:lobby");
  const messages = collect(channel);
  client.connect();
  await settled();
  await channel.attach();
  await clock.advance(20_000);
  const told = [];
  client.on("recovered", (recovered) => told.push(recovered));
  server.link.cut();
  for (let i = 0; i < 37; i++) server.publish("chat:lobby", i);
  channel.publish("mine").catch(() => {});
  await clock.advance(2000);
  assert.equal(messages.length, 38);
  assert.equal(told.length, 1);
  assert.equal(told[0].sent, 1);
  assert.equal(told[0].skipped, 0);
  assert.ok(told[0].received >= 37);
  assert.ok(told[0].awayMs > 0);
});

test("retryNow does not wait", async () => {
  const { client, server } = setup();
  client.connect();
  await settled();
  server.link.cut();
  assert.equal(client.state.name, "offline");
  client.retryNow();
  await settled();
  assert.equal(client.state.name, "live");
});

test("the browser's online ends the wait, but not a pause that the server asked for", async () => {
  const events = new EventTarget();
  const { client, server } = setup({ events });
  client.connect();
  await settled();
  server.link.cut();
  events.dispatchEvent(new Event("online"));
  await settled();
  assert.equal(client.state.name, "live");
  server.link.close(1013, "retry_after_ms=5000");
  await settled();
  events.dispatchEvent(new Event("online"));
  await settled();
  assert.equal(client.state.name, "waiting");
});

test("the browser's offline asks the line, and is believed when nothing comes", async () => {
  const events = new EventTarget();
  const { client, server, clock } = setup({ events });
  client.connect();
  await settled();
  events.dispatchEvent(new Event("offline"));
  await clock.advance(11_000);
  assert.equal(client.state.name, "live", "the server is reachable all the same");
  server.auto = false;
  events.dispatchEvent(new Event("offline"));
  await clock.advance(10_000);
  assert.equal(client.state.name, "offline");
});

test("silence: a ping after 1.5 heartbeats, and the line is lost 10 s later", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  await clock.advance(37_500);
  assert.equal(server.link.read.at(-1).type, "ping");
  assert.equal(client.state.name, "live");
  server.auto = false;
  await clock.advance(37_500);
  assert.equal(server.link.toServer.length, 1);
  await clock.advance(9_999);
  assert.equal(client.state.name, "slow");
  await clock.advance(1);
  assert.equal(client.state.name, "offline");
  assert.equal(client.state.reason, "no sign of life");
});

test("heartbeats keep the client from asking", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  for (let i = 0; i < 10; i++) {
    await clock.advance(25_000);
    server.link.write({ type: "heartbeat" });
    await settled();
  }
  assert.deepEqual(server.link.read, []);
});

test("after a sleep the line is asked, and one that died is replaced", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  server.auto = false;
  await clock.sleep(3_600_000);
  assert.equal(client.state.name, "live", "silence while nothing ran proves nothing");
  assert.equal(server.link.toServer.length, 1);
  await clock.advance(10_000);
  assert.equal(client.state.name, "offline");
});

test("after a sleep a line that lives is kept", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  await clock.sleep(3_600_000);
  await clock.advance(20_000);
  assert.equal(client.state.name, "live");
  assert.equal(server.links.length, 1);
});

test("no ready in 15 s is a try that failed", async () => {
  const { client, clock } = setup({ auto: false });
  client.connect();
  await clock.advance(15_000);
  assert.equal(client.state.name, "offline");
});

test("late answers make the line slow after 5 s, one in time makes it live", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  server.auto = false;
  client.channel("chat:lobby").publish(1);
  await clock.advance(1500);
  assert.equal(client.state.name, "live");
  await clock.advance(6000);
  assert.equal(client.state.name, "slow");
  assert.ok(client.latencyMs >= 1500);
  server.link.moveAll();
  await clock.advance(2000);
  server.link.moveAll();
  assert.equal(client.state.name, "live");
});

test("the token travels as a subprotocol, and is used again while it holds", async () => {
  const reasons = [];
  const { client, server, clock } = setup({
    token: async ({ reason }) => (reasons.push(reason), `h.p.s${reasons.length}`),
  });
  server.ready.expires_ms = 600_000;
  client.connect();
  await settled();
  assert.deepEqual(server.link.target.protocols, ["seriatim.v1.json", "seriatim.bearer.h.p.s1"]);
  server.link.cut();
  await clock.advance(2000);
  assert.equal(server.link.token, "h.p.s1");
  assert.deepEqual(reasons, ["connect"]);
  await clock.advance(600_000);
  server.link.cut();
  await clock.advance(2000);
  assert.equal(server.link.token, "h.p.s2");
});

test("a token that no header can carry is sent in the first frame", async () => {
  const { client, server } = setup({ token: () => "not a jwt" });
  server.needsAuth = true;
  client.connect();
  await settled();
  assert.deepEqual(server.link.target.protocols, ["seriatim.v1.json"]);
  assert.deepEqual(server.link.read[0], { type: "auth", ref: 0, token: "not a jwt" });
  assert.equal(client.state.name, "live");
});

test("a token that expires is renewed on the connection", async () => {
  const reasons = [];
  const { client, server } = setup({ token: async ({ reason }) => (reasons.push(reason), `h.p.s${reasons.length}`) });
  server.ready.expires_ms = 60_000;
  client.connect();
  await settled();
  server.link.write({ type: "auth.expiring", in_ms: 60_000 });
  await settled();
  assert.deepEqual(reasons, ["connect", "expiring"]);
  assert.equal(server.link.read.at(-1).token, "h.p.s2");
  assert.equal(server.links.length, 1);
  assert.equal(client.state.name, "live");
});

test("a renewal that fails is tried again while the old token holds", async () => {
  let calls = 0;
  const token = async () => {
    calls += 1;
    if (calls === 2) throw new Error("network");
    return `h.p.s${calls}`;
  };
  const { client, server, clock } = setup({ token });
  server.ready.expires_ms = 60_000;
  const errors = [];
  client.on("error", (error) => errors.push(error.code));
  client.connect();
  await settled();
  server.link.write({ type: "auth.expiring", in_ms: 60_000 });
  await clock.advance(5000);
  assert.deepEqual(errors, ["token"]);
  assert.equal(server.link.read.at(-1).token, "h.p.s3");
});

const refuse = (server) => {
  server.greet = (link) => {
    link.write({ type: "error", code: "unauthorized", message: "expired", remedy: "" });
    return [4401, "expired"];
  };
};

test("a refused token is replaced once; refused again means signed out", async () => {
  const reasons = [];
  const { client, server, clock } = setup({ token: async ({ reason }) => (reasons.push(reason), "h.p.s") });
  refuse(server);
  client.connect();
  await settled();
  assert.deepEqual(reasons, ["connect", "unauthorized"]);
  assert.equal(client.state.name, "signed_out");
  assert.equal(client.state.code, 4401);
  await clock.advance(60_000);
  assert.equal(server.links.length, 2, "no tries while signed out");
  server.greet = () => null;
  client.connect();
  await settled();
  assert.equal(client.state.name, "live");
});

test("a token that is revoked on a good connection is replaced", async () => {
  const reasons = [];
  const { client, server, clock } = setup({ token: async ({ reason }) => (reasons.push(reason), "h.p.s") });
  client.connect();
  await settled();
  for (let i = 0; i < 3; i++) {
    await clock.advance(11_000);
    server.link.close(4401, "revoked");
    await settled();
    assert.equal(client.state.name, "live");
  }
  assert.deepEqual(reasons, ["connect", "unauthorized", "unauthorized", "unauthorized"]);
});

test("a token function that fails is a try that failed; one that says 401 means signed out", async () => {
  let error = new Error("network");
  const { client, clock } = setup({
    token: async () => {
      throw error;
    },
  });
  client.connect();
  await settled();
  assert.equal(client.state.name, "offline");
  assert.notEqual(client.state.nextTryAt, null);
  error = Object.assign(new Error("no"), { status: 401 });
  await clock.advance(2000);
  assert.equal(client.state.name, "signed_out");
});

test("no credentials in time, twice, means signed out", async () => {
  const reasons = [];
  const { client, server } = setup({ token: ({ reason }) => (reasons.push(reason), null) });
  server.greet = () => [4408, "no auth"];
  client
    .channel("chat:lobby")
    .attach()
    .catch(() => {});
  client.connect();
  await settled();
  assert.deepEqual(reasons, ["connect", "unauthorized"]);
  assert.equal(client.state.name, "signed_out");
});

test("closed for idleness: back when there is something to say", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  server.link.close(4408, "idle");
  await settled();
  assert.equal(client.state.name, "offline");
  await clock.advance(100_000);
  assert.equal(server.links.length, 1);
  const { serial } = await client.channel("chat:lobby").publish("hi");
  assert.equal(serial, 1);
  assert.equal(client.state.name, "live");
});

test("closed for idleness while a channel is followed: back by itself", async () => {
  const { client, server, clock } = setup();
  client.connect();
  await settled();
  await client.channel("chat:lobby").attach();
  server.link.close(4408, "idle");
  await clock.advance(2000);
  assert.equal(client.state.name, "live");
});

test("close ends everything: the socket, loops, promises, timers", async () => {
  const { client, server, clock } = setup();
  const channel = client.channel("chat:lobby");
  client.connect();
  await settled();
  let ended = false;
  const loop = (async () => {
    for await (const _ of channel);
    ended = true;
  })();
  await settled();
  server.auto = false;
  const publish = assert.rejects(channel.publish(1), { code: "closed" });
  const history = assert.rejects(channel.history(), { code: "closed" });
  client.close();
  await Promise.all([publish, history, loop]);
  assert.ok(ended);
  assert.equal(server.links[0].closeCode, 1000);
  assert.equal(client.state.name, "closed");
  assert.equal(clock.pending, 0, "no timer is left");
  client.close();
});

test("an ack that is not said yet is sent before the close", async () => {
  const { client, server } = setup();
  const channel = client.channel("chat:lobby", { from: { cursor: "phone-1" } });
  collect(channel);
  client.connect();
  await settled();
  await channel.attach();
  server.publish("chat:lobby", 1);
  await settled();
  client.close();
  assert.deepEqual(server.link.read.at(-1), { type: "ack", serials: { "chat:lobby": 1 } });
  assert.equal(server.cursors.get("chat:lobby phone-1").serial, 1);
});

test("a client that a listener closes stays closed", async () => {
  for (const name of ["connecting", "live", "offline"]) {
    const { client, server, clock } = setup();
    client.on("state", (state) => {
      if (state.name === name) client.close();
    });
    client.connect();
    await settled();
    server.link?.cut();
    await clock.advance(60_000);
    assert.equal(client.state.name, "closed", name);
    assert.equal(clock.pending, 0, name);
  }
});

test("an address that cannot be opened stops the client", async () => {
  const transport = {
    name: "broken",
    open() {
      throw new SyntaxError("bad address");
    },
  };
  const reported = [];
  globalThis.reportError = (error) => reported.push(error);
  try {
    const client = new Client({ transports: [transport], events: null });
    client.connect();
    await settled();
    assert.equal(client.state.name, "stopped");
    assert.equal(client.state.reason, "bad address");
    assert.equal(reported.length, 1);
  } finally {
    delete globalThis.reportError;
  }
});

test("what an operator says to everybody is told, and nothing else that comes to no channel of ours", async () => {
  const { client, server } = setup();
  const told = [];
  client.on("announcement", (each) => told.push(each));
  client.connect();
  await settled();
  const say = (data, more = {}) =>
    server.link.write({ type: "signal", channel: "$all", client: null, event: "announcement", data, ...more });
  say({ id: "a1", text: "Back at six.", later: "more" });
  say({ id: "a2", text: "No." }, { event: "other" });
  say({ id: "a3", text: "No." }, { channel: "room" });
  for (const wrong of [null, {}, { id: 1, text: "No." }, "No."]) say(wrong);
  await settled();
  assert.deepEqual(told, [{ id: "a1", text: "Back at six." }]);
  assert.equal(client.state.name, "live");
});

test("every frame can be watched", async () => {
  const { client } = setup();
  const frames = [];
  client.on("frame", ({ direction, text }) => frames.push(`${direction} ${JSON.parse(text).type}`));
  client.connect();
  await settled();
  await client.channel("chat:lobby").attach();
  assert.deepEqual(frames, ["in ready", "out attach", "in attached"]);
});

test("the same name is the same channel, and what is no name is refused", () => {
  const { client } = setup();
  assert.equal(client.channel("chat:lobby"), client.channel("chat:lobby"));
  assert.throws(() => client.channel("chat:"), { code: "bad_channel" });
  assert.throws(() => client.channel("chat:x", { from: "middle" }), { code: "bad_position" });
});

test("states of the line while older messages come", async () => {
  const { client, server, states } = setup();
  for (let i = 0; i < 5; i++) server.publish("chat:lobby", i);
  const channel = client.channel("chat:lobby", { from: "start" });
  const behind = [];
  channel.on("progress", (progress) => behind.push(progress.behind));
  collect(channel);
  channel.attach();
  client.connect();
  await settled();
  assert.deepEqual(states, ["connecting", "catching_up", "live"]);
  assert.deepEqual(behind, [5, 4, 3, 2, 1, 0]);
  assert.equal(client.behind, 0);
});
