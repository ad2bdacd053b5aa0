// A client and a server in memory, for tests.

import { Client } from "../src/index.js";
import { FakeClock, settled } from "./clock.js";
import { seeded } from "./random.js";
import { FakeServer } from "./server.js";

/**
 * @param {{ seed?: number, auto?: boolean, who?: string | null, allowsDelta?: boolean } & Record<string, any>} [options] Others are the client's.
 */
export function setup({ seed = 1, auto = true, who = "ana", allowsDelta = true, ...options } = {}) {
  const clock = new FakeClock();
  const server = new FakeServer(clock, { client: who, auto });
  server.allowsDelta = allowsDelta;
  const client = new Client({ transports: [server], clock, random: seeded(seed), events: null, ...options });
  /** @type {string[]} */
  const states = [];
  client.on("state", (state) => states.push(state.name));
  return { clock, server, client, states };
}

/** Collects what a channel delivers. */
export function collect(channel) {
  const messages = [];
  channel.on("message", (message) => void messages.push(message));
  return messages;
}

/** The serials of messages. */
export const serials = (messages) => messages.map((message) => message.serial);

/** The whole numbers from `first` to `last`. */
export const range = (first, last) => Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);

export { settled };
