// Several transports: the next where one does not get through, the best again in the background, nothing lost between.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/index.js";
import { FakeClock, settled } from "../fakes/clock.js";
import { seeded } from "../fakes/random.js";
import { FakeServer } from "../fakes/server.js";
import { collect, range, serials } from "../fakes/setup.js";

/** A blocked transport is refused before it stands, as a proxy does that breaks upgrades. */
function twoWays({ blocked = true } = {}) {
  const clock = new FakeClock();
  const server = new FakeServer(clock, { auto: true });
  const wall = { blocked, tries: 0 };
  const best = {
    name: "websocket",
    open(target) {
      wall.tries += 1;
      if (!wall.blocked) return server.open(target);
      clock.setTimeout(() => target.onClose(1006, ""), 0);
      return { send() {}, close() {} };
    },
  };
  const other = { name: "polling", open: (target) => server.open(target) };
  const client = new Client({ transports: [best, other], clock, random: seeded(1), events: null });
  return { clock, server, client, wall };
}

test("where the best does not get through, the next carries the connection", async () => {
  const { clock, client, wall } = twoWays();
  client.connect();
  await clock.advance(5000);
  assert.equal(client.state.name, "live");
  assert.equal(client.transport, "polling");
  assert.equal(wall.tries, 2);
});

test("the best is tried in the background; the line in use is left only when it stands", async () => {
  const { clock, server, client, wall } = twoWays();
  const messages = collect(client.channel("news:a", { from: "start" }));
  client.channel("news:a").attach();
  client.connect();
  await clock.advance(5000);
  const states = [];
  client.on("state", (state) => states.push(state.name));
  server.publish("news:a", 1);
  await clock.advance(60_000);
  assert.equal(wall.tries, 3);
  assert.deepEqual(states.filter((name) => name !== "live" && name !== "catching_up"), []);
  wall.blocked = false;
  server.publish("news:a", 2);
  await clock.advance(120_000);
  assert.equal(client.transport, "websocket");
  server.publish("news:a", 3);
  await settled();
  assert.equal(client.state.name, "live");
  assert.deepEqual(serials(messages), range(1, 3));
  assert.equal(server.links.filter((link) => !link.isOver).length, 1);
  assert.deepEqual(server.violations, []);
});

test("a client that is closed leaves no try behind", async () => {
  const { clock, client } = twoWays();
  client.connect();
  await clock.advance(5000);
  await clock.advance(60_000 - 1);
  client.close();
  await clock.advance(200_000);
  assert.equal(clock.pending, 0);
  assert.equal(client.state.name, "closed");
});
