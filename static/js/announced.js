// What an operator says to everybody, above the page until it is closed.

import { el, icon } from "./dom.js";

/** @typedef {import("../seriatim/client.js").Client} Client */

/** What stands there at once: more would cover the page. */
const SHOWN_MOST = 3;

/** @param {Client} client */
export function showAnnouncements(client) {
  const place = /** @type {HTMLElement | null} */ (document.querySelector("[data-announced]"));
  if (place) client.on("announcement", (announcement) => show(place, announcement));
}

/** @param {HTMLElement} place @param {{ id: string, text: string }} announcement */
function show(place, { id, text }) {
  // A page may have several connections.
  if ([...place.children].some((each) => each instanceof HTMLElement && each.dataset.id === id)) return;
  const close = el("button", { class: "btn quiet icon sm", type: "button", "aria-label": "Close" }, icon("close"));
  const shown = el("div", { "data-id": id }, el("p", {}, el("b", {}, "From the operator. "), text), close);
  close.addEventListener("click", () => shown.remove());
  place.append(shown);
  while (place.children.length > SHOWN_MOST) place.firstElementChild?.remove();
}
