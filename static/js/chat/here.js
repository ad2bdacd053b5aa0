// Who is here, who types, and when the others were last seen. While the line is away, all of it is in the past tense.

import { el, find, icon } from "../dom.js";
import { paintPerson } from "../shell.js";
import { clock, count, counted } from "../words.js";
import { ask } from "./api.js";
import { agoText, listed, typingText } from "./copy.js";
import { UNIT } from "./devices.js";
import { channel, isAway, me, nameOf, page, people, room } from "./page.js";
import { devicesOf, whereaboutsOf } from "./whereabouts.js";

/** @typedef {{ client: string, name: string, role: string | null, muted_until: number | null, last_seen: number | null }} Member */

/** Said again this often while one types, and forgotten so long after it was said last. */
const SAY_EVERY_MS = 3000;
const FORGET_AFTER_MS = 6000;
const SHOWN_MOST = 40;
/** Minutes go by though nothing happens. */
const DRAWN_EVERY_MS = 60_000;

/** @type {Map<string, number>} Until when. */
const typing = new Map();
/** @type {Member[]} */
let members = [];
let saidAt = -Infinity;
/** @type {number | undefined} */
let timer;

export const knownMembers = () => members;

/** Who left while we looked, and when: newer than what the server said when we asked. @type {Map<string, number>} */
const left = new Map();

channel.on("presence", ({ action, client }) => {
  if (action === "leave" && client) left.set(client, Date.now());
  drawHere();
});
addEventListener("whereabouts", drawHere);
setInterval(drawHere, DRAWN_EVERY_MS);
channel.on("attached", () => {
  if (saidAt > 0) saidAt = -Infinity;
  drawHere();
});
channel.on("signal", ({ event, client, data }) => {
  if (event !== "typing" || client === null || client === me) return;
  if (data?.on === true) typing.set(client, Date.now() + FORGET_AFTER_MS);
  else typing.delete(client);
  drawTyping();
});

/** @param {boolean} isTyping */
export function sayTyping(isTyping) {
  const now = Date.now();
  if (isTyping ? now - saidAt < SAY_EVERY_MS : saidAt === -Infinity) return;
  saidAt = isTyping ? now : -Infinity;
  channel.signal("typing", { on: isTyping });
}

/** A message of somebody: they do not type it any more. @param {string | null} client */
export function stopsTyping(client) {
  if (client !== null && typing.delete(client)) drawTyping();
}

export function drawTyping() {
  clearTimeout(timer);
  const now = Date.now();
  for (const [client, until] of typing) if (until <= now) typing.delete(client);
  if (typing.size !== drawnTyping) drawHere();
  drawnTyping = typing.size;
  const place = find("[data-typing]");
  const text = isAway() ? (page.isFilled ? "Who is typing is not known while offline" : "") : typingText([...typing.keys()].map(nameOf));
  const dots = text === "" || isAway() ? [] : [el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i"))];
  if (place.textContent !== text) place.replaceChildren(...dots, text);
  if (typing.size > 0) timer = setTimeout(drawTyping, Math.max(50, Math.min(...typing.values()) - now));
}

export async function loadMembers() {
  try {
    const answer = await ask("GET", `/chat/${room.slug}/members`);
    members = answer.members;
    people.learn(members);
    drawHere();
  } catch {
    // Who is here is known without it; roles and "last seen" come with the next change.
  }
}

/** @type {string} */
let drawn = "";
let drawnTyping = 0;

/** What is known of somebody's being here. @param {string} who @returns {{ dot: string, text: string }} */
export function presenceOf(who) {
  const member = channel.presence.members.get(who);
  const elsewhere = whereaboutsOf(who);
  if (member === undefined && elsewhere === "here") return { dot: "", text: "in another room" };
  if (member === undefined) return { dot: "away", text: agoText(lastSeen(who), Date.now()) };
  const devices = devicesOf(who);
  return isAway() ? { dot: "unknown", text: "" } : { dot: "", text: devices > 1 ? `Here on ${counted(devices, UNIT)}` : "Here" };
}

/** @param {string} who */
function lastSeen(who) {
  const stored = members.find((member) => member.client === who)?.last_seen ?? null;
  const seen = left.get(who);
  return seen === undefined ? stored : Math.max(stored ?? 0, seen);
}

/** What stands beside somebody who is here. @param {string} who */
function noteOf(who) {
  if (isAway()) return "";
  return typing.has(who) ? "typing" : "";
}

export function drawHere() {
  const here = [...channel.presence.members.keys()].sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
  const number = channel.presence.count;
  const lostAt = page.line?.lostAt ?? null;
  const away = members.filter((member) => !here.includes(member.client) && member.role !== null);
  const title = isAway() && lostAt !== null ? `Here at ${clock(lostAt)}, ${count(number)}` : `Here now, ${count(number)}`;
  const signature = [title, isAway(), ...here.map((who) => `${nameOf(who)} ${roleOf(who)} ${noteOf(who)}`), ...away.map((each) => `${each.name} ${presenceOf(each.client).text} ${each.role}`)].join("|");
  if (signature === drawn) return;
  drawn = signature;
  find("[data-here-title]").textContent = title;
  find("[data-here-title]").hidden = number === 0;
  find("[data-here]").replaceChildren(...here.slice(0, SHOWN_MOST).map((who) => line(who, nameOf(who), isAway() ? "unknown" : "", roleOf(who), noteOf(who))));
  find("[data-away-title]").hidden = away.length === 0;
  find("[data-away]").replaceChildren(...away.slice(0, SHOWN_MOST).map((each) => line(each.client, each.name, presenceOf(each.client).dot, each.role, presenceOf(each.client).text)));
  const button = find("[data-here-count]");
  const isKnown = number > 0 && !isAway();
  const all = members.filter(({ role }) => role !== null).length;
  const text = isKnown ? `${count(number)} here` : all > 0 ? counted(all, "member") : "";
  button.hidden = text === "";
  button.replaceChildren(icon("people"), ` ${text}`);
  const faces = find("[data-faces]");
  faces.replaceChildren(...(isKnown ? here.filter((who) => who !== me).slice(0, 3).map((who) => portrait(who, nameOf(who))) : []));
  // An image of nobody has no name.
  faces.hidden = faces.childElementCount === 0;
  faces.setAttribute("aria-label", here.length > 0 ? listed(here.map(nameOf), 3) : "");
}

/** @param {string} who */
function roleOf(who) {
  const role = members.find((member) => member.client === who)?.role ?? null;
  return role === "member" ? null : role;
}

/** @param {string} client @param {string} name @param {string} [dot] */
export function portrait(client, name, dot) {
  const node = el("span", { class: "av s", "aria-hidden": "true" });
  paintPerson(node, client, name);
  if (dot !== undefined) node.append(el("span", { class: `here ${dot}`.trim() }));
  return node;
}

/** @param {string} client @param {string} name @param {string} dot @param {string | null} role @param {string} [note] */
function line(client, name, dot, role, note) {
  const badge = role && role !== "member" ? el("span", { class: "badge" }, role) : null;
  return el("li", {}, portrait(client, name, dot), el("span", { class: "ell grow" }, name), note ? el("span", { class: "faint small" }, note) : null, badge);
}
