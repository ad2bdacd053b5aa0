// The keys of the room's page. Single ones come here only outside of fields, and only if they are not switched off
// (../keys.js, WCAG 2.1.4). The template's list of keys says what they do.

import { find, isField } from "../dom.js";
import { messageAt, perform } from "./actions.js";
import { openJump } from "./jump.js";
import { announce, log } from "./page.js";
import { showNewest } from "./past.js";
import { goToNeighbour, goToUnread, markAllRead } from "./rail.js";
import { composers } from "./sending.js";
import { closeThread, isThreadOpen } from "./thread.js";

addEventListener("keydown", (event) => {
  if (event.defaultPrevented) return;
  const { key, target } = event;
  if ((event.ctrlKey || event.metaKey) && key.toLowerCase() === "k") {
    event.preventDefault();
    if (document.querySelector("dialog[open]") === null) openJump();
    return;
  }
  if (goToNeighbour(event)) return event.preventDefault();
  if (key === "Escape" && event.shiftKey) {
    markAllRead();
    announce("Everything is marked as read.");
    return event.preventDefault();
  }
  if (key === "Escape" && isThreadOpen() && target instanceof Element && target.closest("#side")) {
    closeThread();
    composers.room?.focus();
    return event.preventDefault();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || isField(target)) return;
  if (ofMessage(event) || ofPage(event)) event.preventDefault();
});

/** Keys for the message that has the focus. @param {KeyboardEvent} event */
function ofMessage({ key, target }) {
  const message = messageAt(target);
  const node = target instanceof Element ? target.closest("li.msg") : null;
  if (message === null || !(node instanceof HTMLElement)) return false;
  if (key === "Enter" && target === node) return composers.room?.focus(), true;
  const what = /** @type {Record<string, string>} */ ({ t: "thread", r: "react", e: "edit", l: "link" })[key];
  if (what === undefined) return false;
  perform(what, message, node);
  return true;
}

/** @param {KeyboardEvent} event */
function ofPage({ key, target }) {
  const list = target instanceof Element ? target.closest("[data-log], [data-thread-log]") : null;
  if (key === "End") return showNewest(), true;
  if (list !== null && (key === "ArrowDown" || key === "ArrowUp") && target instanceof HTMLElement && target.closest(".hovbar") === null) {
    return step(list, key === "ArrowDown" ? 1 : -1), true;
  }
  if (key === "c") return composers.room?.focus(), true;
  if (key === "j" || key === "k") return step(list ?? log, key === "j" ? 1 : -1), true;
  if (key === "n") return goToUnread();
  return false;
}

/** Moves the focus to the next message, or from nowhere to the newest. @param {Element} list @param {1 | -1} by */
function step(list, by) {
  const all = /** @type {HTMLElement[]} */ ([...list.querySelectorAll("li.msg")]);
  const active = document.activeElement?.closest("li.msg") ?? null;
  const here = all.findIndex((node) => node === active);
  const next = here < 0 ? all[all.length - 1] : all[here + by];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest" });
}

find("[data-jump]").addEventListener("click", () => openJump());
find("[data-search]").addEventListener("click", () => openJump({ inRoom: true }));
