// The page of the cursors: sends where our pointer is, draws where the others are.
//
// What comes is kept until the next frame of the screen, however many signals came between: fifty pointers at 20 a
// second are a thousand signals and sixty drawings.

import { clientName } from "../chat/names.js";
import { connect } from "../connect.js";
import { el, find, pageData, svg } from "../dom.js";
import { drawLine } from "../line-view.js";
import { paintPerson } from "../shell.js";
import { counted, personColour, span } from "../words.js";
import { Meter, wireSentence } from "./meter.js";
import { LAG_MS, placeIn, SPAN, STILL_MS, Throttle, Track, within } from "./motion.js";

/** Without presence: who was not heard of for so long is taken to have left. */
const GONE_MS = 60_000;
const LIST_EVERY_MS = 500;
const PEOPLE_MOST = 50;
/** More pointers than that are not drawn: nobody could tell them apart, and a page must not grow without end. */
const POINTERS_MOST = 200;
const STEP = SPAN / 50;
/** The room that a name takes beside its pointer. */
const NAME_PX = { width: 150, height: 40 };

const data = pageData();
const page = find("#main");
const field = find("[data-quay]");
const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** @typedef {{ track: Track, node: HTMLElement, isStill: boolean }} Pointer */
/** @type {Map<string, Pointer>} By client id. */
const pointers = new Map();
/** @type {Map<string, number>} When a client was last heard of. */
const heard = new Map();
const meter = new Meter();
const throttle = new Throttle();
/** The server says who is here; without, it is who moved lately. */
let hasPresence = false;
/** @type {import("./motion.js").Place | null} */
let mine = null;
/** @type {HTMLElement | null} Drawn only where the system draws none: for keys and fingers. */
let mineNode = null;
/** @type {number | undefined} */
let sendTimer;
let isDue = false;
let size = { width: field.clientWidth, height: field.clientHeight };

const client = connect({
  tokenUrl: `${page.dataset.tokenUrl}?${new URLSearchParams({ for: "cursors", guest: data.guest })}`,
  clientId: data.client,
});
const channel = client.channel(data.channel, { presence: true });

/** @param {string} id */
const nameOf = (id) => (id.startsWith("guest-") ? `Guest ${id.slice(6)}` : clientName(id));

// ---------------------------------------------------------------- others

channel.on("signal", ({ client: who, event, data: what }) => {
  if (who === null || (!heard.has(who) && heard.size >= POINTERS_MOST)) return;
  heard.set(who, Date.now());
  if (event === "leave") return remove(who);
  const place = event === "move" ? placeIn(what) : null;
  if (place === null) return;
  pointerOf(who).track.push(performance.now(), place);
  drawSoon();
});

channel.on("presence", ({ action, client: who }) => {
  hasPresence = true;
  if (action === "leave" && who !== undefined) {
    heard.delete(who);
    remove(who);
  }
  listSoon();
});

client.on("frame", ({ direction, text }) => meter.add(direction, text.length, Date.now()));

/** @param {string} who @returns {Pointer} */
function pointerOf(who) {
  let pointer = pointers.get(who);
  if (pointer === undefined) {
    pointer = { track: new Track(), node: pointerNode(who, nameOf(who)), isStill: false };
    pointer.node.dataset.pointer = who;
    pointers.set(who, pointer);
    field.append(pointer.node);
    listSoon();
  }
  return pointer;
}

/** @param {string} who */
function remove(who) {
  pointers.get(who)?.node.remove();
  if (pointers.delete(who)) listSoon();
}

/** @param {string} who @param {string} name */
function pointerNode(who, name) {
  const arrow = svg("svg", { viewBox: "0 0 18 20", "aria-hidden": "true" }, svg("path", { d: "M2 1.5v14.6l4-3.6 2.6 6 2.7-1.2-2.6-5.8 5.5-.4Z" }));
  return el("div", { class: `pointer p${personColour(who)}`, "aria-hidden": "true" }, arrow, el("span", {}, name));
}

// ---------------------------------------------------------------- drawing

function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(draw);
}

function draw() {
  isDue = false;
  const now = performance.now();
  let isMoving = false;
  for (const pointer of pointers.values()) {
    const { x, y, isSettled } = pointer.track.at(now, isCalm ? 0 : LAG_MS);
    put(pointer.node, x, y);
    markStill(pointer, false);
    isMoving ||= !isSettled;
  }
  if (isMoving) drawSoon();
}

/** @param {HTMLElement} node @param {number} x @param {number} y */
function put(node, x, y) {
  const [left, top] = [(x / SPAN) * size.width, (y / SPAN) * size.height];
  node.style.transform = `translate(${left.toFixed(1)}px, ${top.toFixed(1)}px)`;
  // Where the name would be cut by an edge, it stands on the other side.
  node.classList.toggle("flip", size.width - left < NAME_PX.width);
  node.classList.toggle("up", size.height - top < NAME_PX.height);
}

/** @param {Pointer} pointer @param {boolean} isStill */
function markStill(pointer, isStill) {
  if (pointer.isStill !== isStill) pointer.node.classList.toggle("still", (pointer.isStill = isStill));
}

new ResizeObserver(() => {
  size = { width: field.clientWidth, height: field.clientHeight };
  if (mineNode !== null && mine !== null) put(mineNode, mine.x, mine.y);
  drawSoon();
}).observe(field);

// ---------------------------------------------------------------- ours

/** @param {import("./motion.js").Place} place @param {boolean} isDrawn */
function moveTo(place, isDrawn) {
  mine = place;
  find("[data-hint]").hidden = true;
  if (isDrawn) {
    if (mineNode === null) field.append((mineNode = pointerNode(data.client, "You")));
    put(mineNode, place.x, place.y);
  } else if (mineNode !== null) {
    mineNode.remove();
    mineNode = null;
  }
  sendTimer ??= setTimeout(send, throttle.waitMs(performance.now()));
}

function send() {
  sendTimer = undefined;
  throttle.sent(performance.now());
  if (mine !== null) channel.signal("move", mine);
}

function leave() {
  clearTimeout(sendTimer);
  sendTimer = undefined;
  mine = null;
  mineNode?.remove();
  mineNode = null;
  channel.signal("leave");
}

/** @param {PointerEvent} event */
function follow(event) {
  const box = field.getBoundingClientRect();
  const place = { x: within(((event.clientX - box.left) / box.width) * SPAN), y: within(((event.clientY - box.top) / box.height) * SPAN) };
  moveTo(place, event.pointerType !== "mouse");
}

field.addEventListener("pointerdown", follow);
field.addEventListener("pointermove", follow);
field.addEventListener("pointerleave", (event) => {
  if (event.pointerType === "mouse") leave();
});
field.addEventListener("blur", () => {
  if (mineNode !== null) leave();
});
field.addEventListener("keydown", (event) => {
  const way = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] })[event.key];
  if (way === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const from = mine ?? { x: SPAN / 2, y: SPAN / 2 };
  const step = event.shiftKey ? STEP * 5 : STEP;
  moveTo({ x: within(from.x + way[0] * step), y: within(from.y + way[1] * step) }, true);
});
addEventListener("pagehide", leave);

// ---------------------------------------------------------------- who is here

/** @type {number | undefined} */
let listTimer;
let drawnList = "";
let announced = 0;

function listSoon() {
  listTimer ??= setTimeout(drawList, 100);
}

function drawList() {
  clearTimeout(listTimer);
  listTimer = undefined;
  const now = Date.now();
  for (const [who, at] of heard) {
    if (now - at < GONE_MS || channel.presence.members.has(who)) continue;
    heard.delete(who);
    remove(who);
  }
  const others = new Set([...channel.presence.members.keys(), ...heard.keys()]);
  others.delete(data.client);
  const people = [data.client, ...[...others].sort()];
  const total = Math.max(channel.presence.count, people.length);
  const rows = people.slice(0, PEOPLE_MOST).map((who) => {
    const at = who === data.client ? now : (heard.get(who) ?? null);
    const state = who === data.client ? "you" : at === null ? "has not moved" : now - at < STILL_MS ? "moving" : `still for ${span(now - at)}`;
    return { who, name: nameOf(who), state };
  });
  for (const [, pointer] of pointers) markStill(pointer, performance.now() - pointer.track.heardAt > STILL_MS);
  const signature = JSON.stringify(rows) + total;
  if (signature === drawnList) return;
  drawnList = signature;
  find("[data-here]").replaceChildren(
    ...rows.map(({ who, name, state }) => {
      const portrait = el("span", { class: "av s", "aria-hidden": "true" });
      paintPerson(portrait, who, name);
      return el("li", { "data-who": who }, portrait, el("span", { class: "ell" }, name), el("small", {}, state));
    }),
  );
  find("[data-here-count]").textContent = String(total);
  const more = total - rows.length;
  find("[data-here-note]").textContent =
    more > 0 ? `and ${more} more.` : hasPresence ? "" : "The server keeps no list here: these are who moved in the last minute.";
  if (total !== announced) {
    announced = total;
    find("[data-announce]").textContent = `${counted(total, "person is", "people are")} here.`;
  }
}

setInterval(() => {
  drawList();
  find("[data-wire]").textContent = wireSentence(meter.rates(Date.now()));
}, LIST_EVERY_MS);

// ---------------------------------------------------------------- start

client.connect();
drawLine(client, { loginUrl: page.dataset.loginUrl ?? "" });
channel.attach().catch(() => {});
// Refused where the namespace keeps no presence.
channel.presence.enter().catch(() => {});
drawList();
