// The list of rooms: the drawer it is on a phone, drafts, and what is new in the rooms one is not in.

import { find } from "../dom.js";
import { counted } from "../words.js";

/** @typedef {import("../../seriatim/client.js").Client} Client */
/** @typedef {import("./drafts.js").RoomMemory} RoomMemory */

/** A channel for each room costs the server little, but not nothing. */
const FOLLOWED_MOST = 40;

/** @returns {HTMLAnchorElement[]} */
function links() {
  return [...document.querySelectorAll("#rail a[data-channel]")].map((link) => /** @type {HTMLAnchorElement} */ (link));
}

/** Shows "Draft" on every room that has one. @param {RoomMemory} memory */
export function drawDrafts(memory) {
  for (const link of links()) find("[data-draft]", link).hidden = memory.draft(link.dataset.slug ?? "") === "";
}

/**
 * Counts what is new in the other rooms, from where this device has read them to.
 *
 * @param {Client} client
 * @param {RoomMemory} memory
 */
export function followOthers(client, memory) {
  for (const link of links().slice(0, FOLLOWED_MOST)) {
    if (link.hasAttribute("aria-current")) continue;
    const slug = link.dataset.slug ?? "";
    const channel = client.channel(link.dataset.channel ?? "", { from: "head" });
    let unread = 0;
    const draw = () => {
      const badge = find("[data-unread]", link);
      badge.hidden = unread === 0;
      badge.replaceChildren(unread > 99 ? "99+" : String(unread), unreadWords(unread));
      link.classList.toggle("unread", unread > 0);
    };
    let isFirst = true;
    channel.on("attached", ({ epoch, head }) => {
      if (!isFirst) return; // A resume: what came meanwhile arrives as messages.
      isFirst = false;
      const mark = memory.readMark(slug);
      unread = mark !== null && mark.epoch === epoch ? Math.max(0, head - mark.serial) : head;
      draw();
    });
    channel.on("message", () => {
      unread += 1;
      draw();
    });
    // A room that was closed to us in the meantime says nothing here; its page will.
    channel.attach().catch(() => {});
  }
}

/** @param {number} unread */
function unreadWords(unread) {
  const words = document.createElement("span");
  words.className = "sr";
  words.textContent = ` ${counted(unread, "new message")}`;
  return words;
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

/**
 * A part of the page that opens over the rest on a small screen, and is simply there on a large one.
 *
 * @param {object} parts
 * @param {HTMLElement} parts.sheet
 * @param {HTMLElement} parts.opener
 * @param {HTMLElement} parts.closer
 * @param {HTMLElement[]} parts.rest Out of reach while it is open.
 * @param {string} parts.bodyClass
 */
export function sheet({ sheet, opener, closer, rest, bodyClass }) {
  const role = sheet.getAttribute("role") ?? "region";
  const isOpen = () => document.body.classList.contains(bodyClass);
  /** @param {boolean} open */
  const set = (open) => {
    if (open === isOpen()) return;
    document.body.classList.toggle(bodyClass, open);
    opener.setAttribute("aria-expanded", String(open));
    for (const each of rest) each.inert = open;
    // Over the rest it is a dialog; beside it, what its element says.
    sheet.setAttribute("role", open ? "dialog" : role);
    if (open) sheet.setAttribute("aria-modal", "true");
    else sheet.removeAttribute("aria-modal");
    (open ? closer : opener).focus();
  };
  opener.addEventListener("click", () => set(!isOpen()));
  closer.addEventListener("click", () => set(false));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen()) {
      event.preventDefault();
      set(false);
    }
  });
  addEventListener("click", (event) => {
    // The veil is the body's own.
    if (isOpen() && event.target instanceof Element && !sheet.contains(event.target) && !opener.contains(event.target)) set(false);
  });
  // Where it is simply there, nothing may stay out of reach.
  addEventListener("resize", () => {
    if (isOpen() && getComputedStyle(closer).display === "none") set(false);
  });
}
