// The demo on the front page: a publisher and two readers in this page, and the line of one of them can be cut.
//
// What is drawn is what came: the publisher's beads are messages that the server said are stored, the readers' are messages
// that each of them received over a connection of its own.

import { Client } from "../../seriatim/index.js";
import { showAnnouncements } from "../announced.js";
import { fetchToken, transports } from "../connect.js";
import { find, pageData, svg, thread } from "../dom.js";
import { drawLine } from "../line-view.js";
import { count, latency } from "../words.js";
import { CutTransport } from "./cut-transport.js";
import { BEADS, beads, Reader } from "./lanes.js";

const PUBLISH_EVERY_MS = 900;
/** Then the demo rests until somebody wants more of it: pages stay open for days. */
const PUBLISH_MOST = 80;
const STEP = 30;

const data = pageData();
const demo = find("[data-demo]");
const tokenUrl = `${demo.dataset.tokenUrl}?${new URLSearchParams({ for: "home", guest: data.guest })}`;

const laptop = device("laptop", new Client({ url: "/ws", clientId: data.client, token: () => fetchToken(tokenUrl), ...transports() }));
const wire = new CutTransport(() => laptop.client.transport);
showAnnouncements(laptop.client);
const phone = device("phone", new Client({ url: "/ws", clientId: data.client, token: () => fetchToken(tokenUrl), transports: [wire] }));
let stored = 0;
let head = 0;
let published = 0;
let isResting = false;
let isDue = false;

/** @param {string} name @param {Client} client */
function device(name, client) {
  const reader = new Reader();
  const channel = client.channel(data.channel, { from: { rewind: BEADS - 1 } });
  /** @type {string[]} The workers it was on, the last two. */
  const workers = [];
  client.on("ready", ({ worker }) => {
    if (workers[workers.length - 1] !== worker) workers.push(worker);
    workers.splice(0, workers.length - 2);
    drawSoon();
  });
  client.on("state", drawSoon);
  channel.on("attached", (frame) => {
    reader.attached(frame, Date.now());
    head = Math.max(head, frame.head);
    drawSoon();
  });
  channel.on("message", ({ serial }) => {
    reader.message(serial);
    head = Math.max(head, serial);
    drawSoon();
  });
  channel.on("discontinuity", ({ to }) => {
    reader.skipped(to);
    if (to === null) head = 0;
  });
  channel.on("progress", drawSoon);
  return { name, client, channel, reader, workers };
}

// ---------------------------------------------------------------- publishing

function publish() {
  if (isResting || document.hidden || laptop.client.state.name !== "live") return;
  published += 1;
  if (published >= PUBLISH_MOST) isResting = true;
  laptop.channel
    .publish({ n: published })
    .then(({ serial }) => {
      stored += 1;
      head = Math.max(head, serial);
      drawSoon();
    })
    .catch(() => {});
}

// ---------------------------------------------------------------- drawing

function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  put(demo, "[data-stored]", `${count(stored)} stored`);
  put(demo, "[data-head]", head === 0 ? "empty" : `head ${head}`);
  lane("publisher", beads({ position: head, cut: null }, head).map(({ serial }) => ({ serial, state: "stored" })), null);
  for (const each of [laptop, phone]) {
    const { reader, workers, client, name } = each;
    lane(name, beads(reader, head), reader);
    put(demo, `[data-worker=${name}]`, workers.length > 1 ? `was ${workers[0]}, now ${workers[1]}` : workers.length === 1 ? `worker ${workers[0]}` : "connecting");
    const toGo = head - reader.position;
    const isCut = name === "phone" && wire.isCut;
    const isUp = ["live", "slow", "catching_up"].includes(client.state.name);
    const [kind, word] = isCut ? ["offline", "Cut"] : !isUp ? ["", client.state.name === "offline" ? "Offline" : "Connecting"] : toGo > 0 ? ["catching", `${count(toGo)} to go`] : ["live", "Live"];
    const badge = find(`[data-badge=${name}]`, demo);
    badge.className = `badge ${kind}`.trim();
    if (badge.textContent !== word) badge.textContent = word;
  }
  put(demo, "[data-lost]", count(laptop.reader.lost + phone.reader.lost));
  put(demo, "[data-doubled]", count(laptop.reader.doubled + phone.reader.doubled));
  put(demo, "[data-cut] span", wire.isCut ? "Mend the phone’s line" : "Cut the phone’s line");
  find("[data-more]", demo).hidden = !isResting;
  const glyph = isResting ? "connecting" : laptop.client.state.name === "live" ? "live" : "connecting";
  const sign = find("[data-running]", demo);
  const words = isResting ? "Resting" : laptop.client.state.name === "live" ? "Live" : "Connecting";
  if (sign.dataset.drawn !== words) {
    sign.dataset.drawn = words;
    sign.className = `badge ${glyph === "live" ? "live" : ""}`.trim();
    sign.replaceChildren(thread(glyph), words);
  }
}

/** @param {ParentNode} within @param {string} selector @param {string} text */
function put(within, selector, text) {
  const node = find(selector, within);
  if (node.textContent !== text) node.textContent = text;
}

/** @param {string} name @param {{ serial: number, state: string }[]} drawn @param {Reader | null} reader */
function lane(name, drawn, reader) {
  const place = find(`[data-lane=${name}]`, demo);
  const cut = reader?.cut ?? null;
  const signature = JSON.stringify([drawn, cut]);
  if (place.dataset.drawn === signature) return;
  place.dataset.drawn = signature;
  const nodes = [svg("path", { class: "string", d: "M0 14H358" })];
  const at = (/** @type {number} */ index) => 14 + index * STEP;
  const first = drawn[0]?.serial ?? 0;
  for (const [index, { state }] of drawn.entries()) nodes.push(svg("circle", { class: state, cx: at(index), cy: 14, r: state === "to-come" ? 6.2 : 7 }));
  const cutIndex = cut === null ? -1 : cut.after - first;
  const isCutShown = cut !== null && cutIndex >= 0 && cutIndex < drawn.length;
  if (isCutShown) {
    const x = at(cutIndex) + STEP / 2;
    const isLate = cutIndex > BEADS - 5;
    nodes.push(svg("path", { class: "cut", d: `M${x - 4} 25 ${x + 4} 3` }));
    nodes.push(text(cut.backAt === null ? "line cut" : `line cut ${latency(cut.backAt - cut.at)}`, isLate ? x + 10 : x, isLate ? "end" : "middle"));
  } else if (drawn.length > 0) {
    nodes.push(text(String(first), at(0), "middle"));
    if (drawn.length > 1) nodes.push(text(String(drawn[drawn.length - 1].serial), at(drawn.length - 1), "middle"));
  }
  place.replaceChildren(...nodes);
  const toCome = drawn.filter(({ state }) => state === "to-come").length;
  place.setAttribute("aria-label", drawn.length === 0 ? "No message yet" : `Messages ${first} to ${drawn[drawn.length - 1].serial}${toCome > 0 ? `, ${toCome} to come` : ", all here"}`);
}

/** @param {string} words @param {number} x @param {string} anchor */
function text(words, x, anchor) {
  const node = svg("text", { x, y: 41, "text-anchor": anchor });
  node.textContent = words;
  return node;
}

// ---------------------------------------------------------------- start

find("[data-cut]", demo).addEventListener("click", () => {
  if (wire.isCut) {
    wire.mend();
    phone.client.retryNow();
  } else {
    phone.reader.cutNow(Date.now());
    wire.cut();
  }
  drawSoon();
});
find("[data-more]", demo).addEventListener("click", () => {
  published = 0;
  isResting = false;
  drawSoon();
});

drawLine(laptop.client, { loginUrl: demo.dataset.loginUrl ?? "" });
for (const { channel } of [laptop, phone]) channel.attach().catch(() => {});
laptop.client.connect();
// The phone goes the way that was found to get through.
const begun = laptop.client.on("ready", () => {
  begun();
  phone.client.connect();
});
setInterval(publish, PUBLISH_EVERY_MS);
draw();
