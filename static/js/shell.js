// What every page does: colours of people, menus that close, keys.

import { listenForKeys } from "./keys.js";
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

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (!menu) return;
  closeMenus();
  menu.querySelector("summary")?.focus();
});

listenForKeys();
