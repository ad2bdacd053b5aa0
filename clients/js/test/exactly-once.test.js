// The promises, under everything that can happen to a line: cuts between any two frames, closes of every kind,
// refusals, frames that come twice or not at all, late answers, slow consumers, loops that are left in the middle.
//
// Each run is made by a seeded generator; a failure names its seed. SERIATIM_RUNS=5000 for a longer hunt.

import assert from "node:assert/strict";
import { test } from "node:test";
import { seeded } from "../fakes/random.js";
import { fakeHttp } from "../fakes/http.js";
import { settled, setup } from "../fakes/setup.js";
import { Client } from "../src/index.js";

const RUNS = Number(process.env.SERIATIM_RUNS ?? 15);
const FIRST_SEED = Number(process.env.SERIATIM_SEED ?? 1);
const STEPS = 250;
const CHANNELS = ["chat:one", "chat:two"];

/** What a consumer may see: each serial once, in order, and every hole told before the message behind it. */
class Witness {
  faults = [];
  last = null;
  processed = 0;
  discontinuities = 0;

  begin({ serial }) {
    this.last ??= serial;
  }

  see(message, log) {
    if (message.serial !== this.last + 1) this.faults.push(`message ${message.serial} after ${this.last}`);
    const row = log.rows.get(message.serial);
    if (row && (row.id !== message.id || row.data !== message.data))
      this.faults.push(`message ${message.serial} is another one`);
    this.last = message.serial;
    this.processed += 1;
  }

  skip({ from, to, position, reason }) {
    this.discontinuities += 1;
    if (from !== null && from !== this.last + 1)
      this.faults.push(`skipped from ${from} after ${this.last} (${reason})`);
    this.last = to ?? position.serial;
  }
}

/** Ways to consume; each gives a function that says whether all that came was processed. */
const CONSUMERS = {
  listener(channel, witness, log) {
    channel.on("message", (message) => witness.see(message, log()));
  },
  "async listener"(channel, witness, log, clock, random) {
    channel.on("message", async (message) => {
      witness.see(message, log());
      if (random() < 0.3) await new Promise((resolve) => clock.setTimeout(resolve, random() * 500));
    });
  },
  loop(channel, witness, log, clock, random) {
    (async () => {
      for await (const message of channel) {
        if (random() < 0.3) await new Promise((resolve) => clock.setTimeout(resolve, random() * 500));
        witness.see(message, log());
      }
    })();
  },
  "loops that are left"(channel, witness, log, clock, random) {
    (async () => {
      for (;;) {
        for await (const message of channel) {
          // Left before it is processed: the next loop gets it again.
          if (random() < 0.2) break;
          await null;
          witness.see(message, log());
        }
        await new Promise((resolve) => clock.setTimeout(resolve, random() * 50));
      }
    })();
  },
};

async function run(seed, { consumer, from, faults, http = false }) {
  const random = seeded(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const { client: overSocket, server, clock } = setup({ seed: seed + 1, auto: false });
  let client = overSocket;
  const trouble = { loss: 0.1 };
  if (http) {
    const transports = [fakeHttp(server, { random: seeded(seed + 2), trouble })];
    client = new Client({ transports, clock, random: seeded(seed + 1), events: null });
  }
  server.window = 1 + Math.floor(random() * 12);
  server.ackEvery = 1 + Math.floor(random() * 12);
  const witnesses = new Map();
  const published = new Map(CHANNELS.map((name) => [name, []]));
  const outcomes = [];

  for (const name of CHANNELS) {
    if (random() < 0.5) for (let i = 0; i < 5; i++) server.publish(name, `before ${i}`, { id: `b${i}` });
    const witness = new Witness();
    witnesses.set(name, witness);
    const channel = client.channel(name, { from, delta: random() < 0.5 ? "fossil" : null });
    channel.on("attached", (frame) => witness.begin(frame));
    channel.on("error", () => {});
    channel.on("discontinuity", (discontinuity) => witness.skip(discontinuity));
    CONSUMERS[consumer](channel, witness, () => server.log(name), clock, random);
    channel.attach();
  }
  // Some publishes are refused; an `unavailable` may have stored the message before it was said.
  let refusing = true;
  server.refuse = (frame, link) => {
    if (!refusing || (frame.type !== "publish" && frame.type !== "attach") || random() > 0.1) return null;
    const code = pick(["rate_limited", "unavailable", "internal"]);
    if (
      frame.type === "publish" &&
      code === "unavailable" &&
      random() < 0.5 &&
      !(frame.chained && link.failed.get(frame.channel))
    ) {
      for (const { id, event, data } of frame.messages)
        server.publish(frame.channel, data, { client: "ana", id, event });
    }
    return code === "internal" ? { code } : { code, retry_after_ms: Math.floor(random() * 300) };
  };
  client.connect();

  for (let step = 0; step < STEPS; step++) {
    const { link } = server;
    const dice = random();
    const name = pick(CHANNELS);
    if (dice < 0.3) link?.moveDown();
    else if (dice < 0.55) link?.moveUp();
    else if (dice < 0.65) await clock.advance(random() * 400);
    else if (dice < 0.7) await clock.advance(random() * 4000);
    else if (dice < 0.8) server.publish(name, step, { id: `s${step}` });
    else if (dice < 0.92) {
      const id = `p${step}`;
      published.get(name).push(id);
      outcomes.push(
        client
          .channel(name)
          .publish(step, { id })
          .then((receipt) => ({ id, name, receipt })),
      );
    } else if (dice < 0.94) link?.cut();
    else if (dice < 0.95 && link && !link.isOver) {
      if (random() < 0.3) link.write({ type: "reconnect", after_ms: 300, reason: "drain" });
      link.close(pick([1001, 1006, 1011, 1012, 1013, 4410, 4429]), pick(["", "retry_after_ms=500"]));
    } else if (dice < 0.97 && faults.wire && link?.toClient.length > 0) {
      const at = Math.floor(random() * link.toClient.length);
      const text = link.toClient[at];
      if (typeof text !== "string" || !text.startsWith('{"type":"message"')) continue;
      const isMessage = (item) => typeof item === "string" && item.startsWith(text.slice(0, 40));
      // Lost by a server with a fault. The last one in a full window cannot be missed: nothing comes behind it.
      if (random() < 0.5 && link.toClient.slice(at + 1).some(isMessage)) link.toClient.splice(at, 1);
      else link.toClient.splice(at, 0, text); // Came twice.
    } else if (dice < 0.98 && faults.prune) {
      const log = server.log(name);
      server.prune(name, log.oldest + Math.floor(random() * (log.head - log.oldest + 1)) - 1);
    } else if (dice < 0.985 && faults.epoch && server.log(name).epoch) server.startAnew(name, { empty: false });
    await settled();
  }

  refusing = false;
  trouble.loss = 0;
  for (let i = 0; i < 400; i++) {
    server.link.moveAll();
    await clock.advance(400);
    const done = CHANNELS.every((name) => client.channel(name).position?.serial === server.log(name).head);
    if (done && client.outbox.size === 0 && client.state.name === "live") break;
  }

  assert.deepEqual(server.violations, [], "the client broke the protocol");
  assert.equal(client.outbox.size, 0, "everything was published");
  assert.equal(client.state.name, "live");
  for (const name of CHANNELS) {
    const witness = witnesses.get(name);
    const log = server.log(name);
    assert.deepEqual(witness.faults, [], `${name} was delivered in order, each once`);
    assert.equal(witness.last, log.head, `${name} was delivered to the end`);
    assert.deepEqual(client.channel(name).position, { epoch: log.epoch, serial: log.head });
    const stored = [...log.ids].filter(([key]) => key.startsWith("ana ")).sort((a, b) => a[1] - b[1]);
    assert.deepEqual(
      stored.map(([key]) => key.slice(4)),
      published.get(name),
      `${name} holds each publish once, in order`,
    );
    if (!faults.prune && !faults.epoch) assert.equal(witness.discontinuities, 0, "a line that breaks makes no hole");
  }
  for (const { id, name, receipt } of await Promise.all(outcomes)) {
    assert.equal(receipt.serial, server.log(name).ids.get(`ana ${id}`), "the answer is the serial");
  }
  return { cuts: server.links.length - 1, seen: [...witnesses.values()].reduce((sum, one) => sum + one.processed, 0) };
}

const CASES = [
  ...Object.keys(CONSUMERS).map((consumer) => ({ consumer, from: "start", faults: {} })),
  { consumer: "listener", from: "head", faults: { wire: true } },
  { consumer: "async listener", from: "start", faults: { wire: true } },
  { consumer: "loops that are left", from: "start", faults: { wire: true } },
  { consumer: "listener", from: "start", faults: { prune: true, epoch: true } },
  { consumer: "async listener", from: { rewind: 3 }, faults: { prune: true, epoch: true, wire: true } },
  { consumer: "loop", from: { cursor: "one" }, faults: { wire: true } },
  { consumer: "listener", from: "start", faults: {}, http: true },
  { consumer: "async listener", from: "start", faults: { wire: true }, http: true },
  { consumer: "loops that are left", from: { rewind: 3 }, faults: { prune: true, epoch: true }, http: true },
];

for (const options of CASES) {
  const what = Object.keys(options.faults).join(", ") || "cuts and refusals";
  const by = options.http ? " over HTTP" : "";
  test(`each once and in order${by}: ${options.consumer} from ${JSON.stringify(options.from)}, with ${what}`, async () => {
    let cuts = 0;
    let seen = 0;
    for (let seed = FIRST_SEED; seed < FIRST_SEED + RUNS; seed++) {
      try {
        const counts = await run(seed, options);
        cuts += counts.cuts;
        seen += counts.seen;
      } catch (error) {
        error.message = `seed ${seed}: ${error.message}`;
        throw error;
      }
    }
    // The faults must really have hit, or the test proves nothing.
    assert.ok(cuts > RUNS * 2 && seen > RUNS * 20, `too tame: ${cuts} cuts, ${seen} messages`);
  });
}
