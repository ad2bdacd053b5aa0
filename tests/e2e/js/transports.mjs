// A client of the SDK in Node, over the transports that are named: publishes, follows, and tells on standard output what
// it received. Commands come on standard input, a line each:
//
//     publish N      publishes N more to each channel it follows, in order
//     follow NAME    follows another channel from its start
//     finish         waits until everything is stored and processed, tells, and ends
//
// node transports.mjs URL TOKEN transport,transport channel,channel

import readline from "node:readline";
import { Client, HttpTransport, WebSocketTransport } from "../../../clients/js/src/index.js";

const [url, token, names, followed] = process.argv.slice(2);
const transports = names
  .split(",")
  .map((name) => (name === "websocket" ? new WebSocketTransport() : new HttpTransport(name, { api: `${url}/api/v1` })));
const client = new Client({ url: `${url.replace("http", "ws")}/ws`, transports, token: () => token, backoff: { capMs: 1000 } });
const channels = new Map();
const got = {};
const faults = [];
const used = new Set();
let published = 0;

function follow(name) {
  const channel = client.channel(name, { from: "start" });
  channels.set(name, channel);
  got[name] = [];
  channel.on("message", (message) => void got[name].push([message.serial, message.data]));
  channel.on("discontinuity", (discontinuity) => faults.push(["discontinuity", name, discontinuity]));
  channel.on("error", (error) => {
    if (error.code === "gap") faults.push(["gap", name, error.message]);
  });
  channel.attach();
}

for (const name of followed.split(",")) follow(name);
client.on("ready", () => used.add(client.transport));
client.connect();

const sent = {};
const waits = [];
readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const [what, value] = line.split(" ");
  if (what === "publish") {
    for (let i = 0; i < Number(value); i++) {
      published += 1;
      for (const [name, channel] of channels) {
        (sent[name] ??= []).push(published);
        waits.push(channel.publish(published));
      }
    }
  } else if (what === "follow") follow(value);
  else {
    const receipts = await Promise.all(waits);
    const heads = {};
    for (const { channel, serial } of receipts) heads[channel] = Math.max(heads[channel] ?? 0, serial);
    const isLevel = () => [...channels].every(([name, channel]) => (channel.position?.serial ?? 0) >= (heads[name] ?? 0));
    while (!isLevel()) await new Promise((resolve) => setTimeout(resolve, 50));
    process.stdout.write(`${JSON.stringify({ got, sent, faults, used: [...used] })}\n`);
    client.close();
    process.exit(0);
  }
});
