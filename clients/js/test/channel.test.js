import assert from "node:assert/strict";
import { test } from "node:test";
import { collect, range, serials, settled, setup } from "../fakes/setup.js";

test("messages come in order once the channel is attached", async () => {
  const { client, server } = setup();
  const channel = client.channel("chat:lobby");
  const messages = collect(channel);
  client.connect();
  await settled();
  const attached = await channel.attach();
  assert.equal(attached.serial, 0);
  for (let i = 1; i <= 5; i++) server.publish("chat:lobby", { i });
  await settled();
  assert.deepEqual(serials(messages), range(1, 5));
  assert.deepEqual(channel.position, { epoch: server.log("chat:lobby").epoch, serial: 5 });
  assert.equal(client.state.name, "live");
});

test("after a cut the channel resumes from the last processed message", async () => {
  const { client, server, clock, states } = setup();
  const channel = client.channel("chat:lobby", { from: "start" });
  const messages = collect(channel);
  server.publish("chat:lobby", 1);
  client.connect();
  await settled();
  await channel.attach();
  server.link.cut();
  server.publish("chat:lobby", 2);
  server.publish("chat:lobby", 3);
  assert.equal(client.state.name, "offline");
  await clock.advance(2000);
  assert.deepEqual(serials(messages), [1, 2, 3]);
  const attach = server.link.read.find((frame) => frame.type === "attach");
  assert.deepEqual(attach.from, { epoch: server.log("chat:lobby").epoch, serial: 1 });
  assert.equal(states.at(-1), "live");
  assert.deepEqual(server.violations, []);
});

test("publish answers with the serial", async () => {
  const { client, server } = setup();
  client.connect();
  const receipt = await client.channel("chat:lobby").publish({ text: "hi" });
  assert.equal(receipt.serial, 1);
  assert.equal(receipt.duplicate, false);
  assert.deepEqual(server.rows("chat:lobby")[0].data, { text: "hi" });
});

test("a loop acknowledges a message when it asks for the next one", async () => {
  const { client, server } = setup();
  server.window = 4;
  server.ackEvery = 2;
  const channel = client.channel("chat:lobby", { from: "start" });
  for (let i = 1; i <= 10; i++) server.publish("chat:lobby", i);
  client.connect();
  const seen = [];
  for await (const message of channel) {
    seen.push(message.serial);
    assert.equal(channel.position.serial, message.serial - 1);
    assert.ok(server.link.attachments.get("chat:lobby").acked < message.serial);
    if (message.serial === 10) break;
  }
  assert.deepEqual(seen, range(1, 10));
  assert.deepEqual(server.violations, []);
});
