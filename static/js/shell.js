// What every page does: colours of people, menus that close, keys that lead elsewhere.

import { isField } from "./dom.js";
import { initials, personColour } from "./words.js";

/** Gives a portrait its initials and its colour. @param {HTMLElement} portrait @param {string} client @param {string} name */
export function paintPerson(portrait, client, name) {
  portrait.textContent = initials(name);
  for (const each of [...portrait.classList]) if (/^c\d$/.test(each)) portrait.classList.remove(each);
  portrait.classList.add(`c${personColour(client)}`);
}

for (const portrait of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-person]"))) {
  paintPerson(portrait, portrait.dataset.person ?? "", portrait.dataset.name ?? portrait.textContent ?? "");
}

/** @param {Element} [except] */
function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== except) menu.removeAttribute("open");
}

addEventListener("click", (event) => {
  closeMenus(event.target instanceof Element ? (event.target.closest("details.menu") ?? undefined) : undefined);
});

let leaderAt = -Infinity;
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    const menu = document.querySelector("details.menu[open]");
    if (menu) {
      closeMenus();
      menu.querySelector("summary")?.focus();
    }
  }
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
  // g c, g d: two keys, so that none alone leaves the page.
  if (event.key === "g") leaderAt = event.timeStamp;
  else if (event.timeStamp - leaderAt < 1000) {
    leaderAt = -Infinity;
    const path = /** @type {Record<string, string>} */ ({ c: "/chat/", d: "/dashboards/" })[event.key];
    const link = path === undefined ? null : document.querySelector(`.nav a[href="${path}"]`);
    if (link instanceof HTMLAnchorElement) {
      event.preventDefault();
      link.click();
    }
  }
});
