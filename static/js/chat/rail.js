// The list of rooms: what is new in each, drafts, who is here of those one talks with.
//
// The server says how much is new when the page is loaded and when rooms come or go; in between the channels of the
// rooms say it, and receipts of ours, from another window, take it back.

import { el, find, icon } from "../dom.js";
import { paintPerson } from "../shell.js";
import { counted } from "../words.js";
import { ask } from "./api.js";
import { announce, client, data, me, memory, refused, room as current } from "./page.js";
import { followPartners, whereaboutsOf } from "./whereabouts.js";

/** @typedef {{ slug: string, name: string, topic: string, kind: string, channel: string, role: string | null, muted_until: number | null, unread: number, mentions: number, quiet: boolean, last_time: number, with?: string, here?: string }} RoomInfo */

/** A channel for each room costs the server little, but not nothing. */
const FOLLOWED_MOST = 40;
const RELOAD_AFTER_MS = 200;

/** @type {Map<string, RoomInfo>} By slug, in the order of the list. */
const rooms = new Map();
/** @type {Set<string>} */
const followed = new Set();
/** @type {number | undefined} */
let timer;

/** @returns {RoomInfo[]} */
export const knownRooms = () => [...rooms.values()];

/** @returns {HTMLAnchorElement[]} */
function links() {
  return [...document.querySelectorAll("#rail a[data-channel]")].map((link) => /** @type {HTMLAnchorElement} */ (link));
}

/** Shows "Draft" on every room that has one. */
export function drawDrafts() {
  for (const link of links()) find("[data-draft]", link).hidden = memory.draft(link.dataset.slug ?? "") === "";
}

/** Asks the server for the rooms, a moment from now: several reasons make one request. */
export function reloadRooms() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    try {
      const answer = await ask("GET", "/chat/rooms");
      rooms.clear();
      for (const each of /** @type {RoomInfo[]} */ (answer.rooms)) rooms.set(each.slug, each);
      const here = rooms.get(current.slug);
      if (here) Object.assign(current, { role: here.role, muted_until: here.muted_until, name: here.name, topic: here.topic });
      dispatchEvent(new CustomEvent("rooms"));
      drawRail();
      followOthers();
    } catch {
      // The list that came with the page stands. The next change asks again.
    }
  }, RELOAD_AFTER_MS);
}

/** Follows our inbox: rooms that come, go or change are told there. */
export function followInbox() {
  if (typeof data.inbox !== "string") return;
  const inbox = client.channel(data.inbox, { from: "head" });
  inbox.on("message", reloadRooms);
  inbox.attach().catch(() => {});
  reloadRooms();
}

function drawRail() {
  const had = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.slug : undefined;
  const all = knownRooms();
  const parts = { rooms: /** @type {RoomInfo[]} */ ([]), direct: /** @type {RoomInfo[]} */ ([]), quiet: /** @type {RoomInfo[]} */ ([]) };
  for (const each of all) parts[each.quiet ? "quiet" : each.kind === "direct" ? "direct" : "rooms"].push(each);
  for (const [part, listed] of Object.entries(parts)) {
    find(`[data-${part}]`).replaceChildren(...listed.map(item));
    find(`[data-title="${part}"]`).hidden = part !== "rooms" && listed.length === 0;
  }
  drawDrafts();
  drawWhereabouts();
  for (const each of all) drawUnread(each.slug);
  if (had !== undefined) links().find((link) => link.dataset.slug === had)?.focus();
}

/** @param {RoomInfo} room */
function item({ slug, name, kind, channel, with: other }) {
  const isPrivate = kind === "private";
  /** @type {Node} */
  let sign = icon(isPrivate ? "lock" : "room");
  if (other !== undefined) {
    const portrait = el("span", { class: "av s" });
    paintPerson(portrait, other, name);
    sign = el("span", { class: "with-dot", "aria-hidden": "true" }, portrait, el("span", { class: "here", "data-here-dot": true, hidden: true }));
  }
  const link = el(
    "a",
    { href: `/chat/${slug}/`, "data-channel": channel, "data-slug": slug, "data-with": other, "aria-current": slug === current.slug ? "page" : null },
    sign,
    el("span", { class: "ell grow" }, name, isPrivate ? el("span", { class: "sr" }, ", private") : null, other === undefined ? null : el("span", { class: "sr", "data-here-word": true })),
    el("span", { class: "draft", "data-draft": true, hidden: true }, "Draft"),
    el("span", { class: "count", "data-unread": true, hidden: true }),
  );
  return el("li", {}, link);
}

/** Says of everybody we talk with whether they have the chat open. */
export function drawWhereabouts() {
  for (const link of links()) {
    const { with: who } = link.dataset;
    if (who === undefined) continue;
    const state = whereaboutsOf(who);
    const dot = find("[data-here-dot]", link);
    dot.hidden = state === null;
    dot.className = `here ${state === null || state === "here" ? "" : state}`.trim();
    find("[data-here-word]", link).textContent = state === null ? "" : state === "away" ? ", away" : state === "here" ? ", here" : ", was here";
  }
}

addEventListener("whereabouts", drawWhereabouts);

/** Whether this room counts mentions only. */
export const isQuiet = () => rooms.get(current.slug)?.quiet ?? current.quiet === true;

/** Makes this room a quiet one, or one as all others. */
export async function setQuiet() {
  const on = !isQuiet();
  try {
    await ask("POST", `/chat/${current.slug}/quiet`, { on });
    reloadRooms();
    announce(on ? `${current.name} is quiet: only mentions of you are counted.` : `${current.name} counts all new messages.`);
  } catch (error) {
    refused("The room stays as it is.", error);
  }
}

/** @param {string} slug */
function drawUnread(slug) {
  const link = links().find((each) => each.dataset.slug === slug);
  const info = rooms.get(slug);
  if (!link || !info) return;
  // What is on the screen is being read: nothing is counted twice.
  const unread = slug === current.slug ? 0 : info.quiet ? info.mentions : info.unread;
  const isForMe = unread > 0 && (info.mentions > 0 || info.kind === "direct");
  const badge = find("[data-unread]", link);
  badge.hidden = unread === 0;
  badge.classList.toggle("you", isForMe);
  badge.replaceChildren(unread > 99 ? "99+" : String(unread), el("span", { class: "sr" }, ` ${counted(unread, info.quiet ? "mention" : "new message")}${info.mentions > 0 && !info.quiet ? ", you are mentioned" : ""}`));
  link.classList.toggle("unread", unread > 0);
}

/** Counts what comes in the other rooms. */
function followOthers() {
  followPartners(knownRooms());
  for (const { slug, channel: name } of knownRooms().slice(0, FOLLOWED_MOST)) {
    if (slug === current.slug || followed.has(slug)) continue;
    followed.add(slug);
    const channel = client.channel(name, { from: "head" });
    channel.on("message", ({ event, client: by, data: said, serial }) => {
      const info = rooms.get(slug);
      if (!info) return;
      if (event === "message" && by !== me && by !== null) {
        info.unread += 1;
        if (Array.isArray(said?.mentions) && said.mentions.includes(me)) info.mentions += 1;
      } else if (event === "receipt" && by === me && said?.through >= serial - 1) Object.assign(info, { unread: 0, mentions: 0 });
      // Of its name, or of our part in it, the server knows.
      else if (event === "room" || (event === "member" && said?.client === me) || (event === "receipt" && by === me)) reloadRooms();
      else return;
      drawUnread(slug);
    });
    // A room that was closed to us in the meantime says nothing here; its page will.
    channel.attach().catch(() => {});
  }
}

/** Says that everything in all rooms is read. */
export function markAllRead() {
  for (const info of knownRooms()) {
    if (info.slug === current.slug || info.unread === 0) continue;
    const channel = client.channel(info.channel);
    const through = channel.head;
    if (through > 0) channel.publish({ through }, { event: "receipt" }).catch(() => {});
    Object.assign(info, { unread: 0, mentions: 0 });
    drawUnread(info.slug);
  }
}

/** Alt and an arrow leads to the next room. @param {KeyboardEvent} event @returns {boolean} */
export function goToNeighbour(event) {
  if (!event.altKey || (event.key !== "ArrowUp" && event.key !== "ArrowDown")) return false;
  const all = links();
  const here = all.findIndex((link) => link.hasAttribute("aria-current"));
  const next = all[here + (event.key === "ArrowDown" ? 1 : -1)];
  next?.click();
  return next !== undefined;
}

/** Leads to the next room with something new. @returns {boolean} */
export function goToUnread() {
  const next = links().find((link) => link.classList.contains("unread"));
  next?.click();
  return next !== undefined;
}
