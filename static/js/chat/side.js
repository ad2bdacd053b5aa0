// What stands beside the messages: about the room, or a thread. On a small screen it opens over them.

import { find } from "../dom.js";
import { sheet } from "./sheet.js";

const side = find("#side");
const opened = sheet({
  sheet: side,
  opener: find("[data-side-open]"),
  closer: find("[data-side-close]"),
  rest: [find("header.bar"), find("#main"), find("#rail")],
  bodyClass: "about-open",
});

/** @param {"about" | "thread"} what */
export function showInSide(what) {
  for (const part of /** @type {NodeListOf<HTMLElement>} */ (side.querySelectorAll("[data-view]"))) part.hidden = part.dataset.view !== what;
  side.setAttribute("aria-label", what === "thread" ? "Thread" : "About this room");
}

/** Whether it lies over the messages, instead of beside them. */
const isOver = () => getComputedStyle(side).position === "fixed";

export function openSide() {
  if (isOver()) opened.set(true);
}

export function closeSide() {
  opened.set(false);
}
