// Who has the chat open, whatever the room: ourselves, on how many devices, and those we talk with directly. Each person
// has a channel for it, in which there is nothing but presence.

import { find } from "../dom.js";
import { counted } from "../words.js";
import { csrfToken } from "./api.js";
import { bePresent, UNIT } from "./devices.js";
import { client, data, isAway, me, page } from "./page.js";

/** @typedef {import("../../seriatim/channel.js").Channel} Channel */

/** As many as are shown without scrolling for long. */
const FOLLOWED_MOST = 40;
/** Said so often while the page is in view: see docs/reference/chat.md#last-seen. */
const SAY_EVERY_MS = 4 * 60_000;

const COUNT_EVERY_MS = 30_000;
const SETTLED_AFTER_MS = 1500;

/** @type {Record<string, string>} */
const AWAY = {
  connecting: "Connecting",
  offline: `Offline on this ${UNIT}`,
  waiting: "Waiting for the server",
  signed_out: "Signed out",
  stopped: "Stopped",
};

/** @type {Map<string, { channel: Channel, isKnown: boolean }>} */
const followed = new Map();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
const own = client.channel(data.here, { from: "head", presence: true });

/** @param {{ with?: string, here?: string }[]} rooms Direct ones among them. */
export function followPartners(rooms) {
  for (const { with: who, here } of rooms) {
    if (who === undefined || here === undefined || followed.has(who) || followed.size >= FOLLOWED_MOST) continue;
    const partner = { channel: client.channel(here, { from: "head", presence: true }), isKnown: false };
    followed.set(who, partner);
    partner.channel.on("presence", () => {
      partner.isKnown = true;
      dispatchEvent(new CustomEvent("whereabouts"));
    });
    // Closed to us: nothing is known of them.
    partner.channel.on("detached", () => {
      partner.isKnown = false;
      followed.delete(who);
      dispatchEvent(new CustomEvent("whereabouts"));
    });
    partner.channel.attach().catch(() => {});
  }
}

/**
 * What is known of somebody we talk with: `unknown` is that they were here when the line was lost.
 *
 * @param {string} who
 * @returns {"here" | "away" | "unknown" | null}
 */
export function whereaboutsOf(who) {
  const partner = followed.get(who);
  if (!partner?.isKnown) return null;
  if (!partner.channel.presence.members.has(who)) return "away";
  return isAway() ? "unknown" : "here";
}

/** On how many devices somebody has the chat open, as of the last list of their channel. @param {string} who */
export function devicesOf(who) {
  const channel = who === me ? own : followed.get(who)?.channel;
  return channel?.presence.members.get(who)?.connections ?? 0;
}

/** Asks anew for how many devices there are of everybody of whom we may know. */
export function countDevices() {
  for (const channel of [own, ...[...followed.values()].map((each) => each.channel)]) channel.presence.refresh();
}

/** The line about ourselves. */
export function drawMe() {
  const devices = devicesOf(me);
  const name = page.line?.name;
  const there = devices > 1 ? `Here on ${counted(devices, UNIT)}` : "Here";
  const text = name === undefined || name === "closed" ? "Connecting" : (AWAY[name] ?? there);
  const place = find("[data-me-line]");
  if (place.textContent !== text) place.textContent = text;
  find("[data-me-dot]").classList.toggle("unknown", text !== there);
}

own.on("presence", ({ action }) => {
  drawMe();
  dispatchEvent(new CustomEvent("whereabouts"));
  // One device has come, or a window in place of another one, which leaves in a moment.
  if (action === "update") {
    clearTimeout(timer);
    timer = setTimeout(() => own.presence.refresh(), SETTLED_AFTER_MS);
  }
});

/** Begins to say that we are here. */
export function beHere() {
  bePresent(own, me);
  own.attach().catch(() => {});
  const isSeen = () => document.visibilityState === "visible" && !isAway();
  setInterval(() => isSeen() && say(), SAY_EVERY_MS);
  // A device that goes is told in the next list.
  setInterval(() => isSeen() && devicesOf(me) > 1 && own.presence.refresh(), COUNT_EVERY_MS);
  document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && say());
  addEventListener("pagehide", say);
}

/** For "last seen". The request outlives the page. */
function say() {
  const headers = { "Content-Type": "application/json", "X-CSRFToken": csrfToken() };
  fetch("/chat/seen", { method: "POST", credentials: "same-origin", headers, body: "{}", keepalive: true }).catch(() => {});
}
