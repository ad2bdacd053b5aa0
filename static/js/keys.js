// Keys of every page: ? lists them, g and a letter lead elsewhere. Single keys can be switched off (WCAG 2.1.4), for all
// pages at once and for keys of the page too: this listens first, and what is off goes no further.

import { find, isField } from "./dom.js";

const KEY = "seriatim.single-keys";
const PLACES = /** @type {Record<string, string>} */ ({ c: "/chat/", d: "/dashboards/", o: "/console/" });
/** From g to the letter. */
const LEADER_MS = 1000;

let isOn = read();
let leaderAt = -Infinity;

/** Whether this press is one character alone, outside of a field. Space is none: it does what it does everywhere. @param {KeyboardEvent} event */
function isSingleKey(event) {
  return event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey && !event.altKey && !isField(event.target);
}

export function listenForKeys() {
  const dialog = /** @type {HTMLDialogElement | null} */ (document.querySelector("#keys"));
  if (dialog === null) return;
  addEventListener(
    "keydown",
    (event) => {
      if (!isOn && isSingleKey(event)) event.stopImmediatePropagation();
    },
    { capture: true },
  );
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || !isSingleKey(event) || document.querySelector("dialog[open]") !== null) return;
    if (event.key === "?") {
      event.preventDefault();
      dialog.showModal();
    } else if (event.key === "g") leaderAt = event.timeStamp;
    else if (event.timeStamp - leaderAt < LEADER_MS) {
      leaderAt = -Infinity;
      const link = PLACES[event.key] === undefined ? null : document.querySelector(`.nav a[href="${PLACES[event.key]}"]`);
      if (!(link instanceof HTMLAnchorElement)) return;
      event.preventDefault();
      // The letter belonged to g: the page's own key of that letter stays silent.
      event.stopImmediatePropagation();
      link.click();
    }
  });
  for (const button of document.querySelectorAll("[data-keys-open]")) button.addEventListener("click", () => dialog.showModal());
  find("[data-keys-close]", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    // The backdrop belongs to the dialog; what stands in it has elements of its own.
    if (event.target === dialog) dialog.close();
  });
  const box = /** @type {HTMLInputElement} */ (find("[data-keys-single]", dialog));
  box.checked = isOn;
  box.addEventListener("change", () => {
    isOn = box.checked;
    try {
      localStorage.setItem(KEY, isOn ? "on" : "off");
    } catch {
      // It then holds for this page only.
    }
  });
}

function read() {
  try {
    return localStorage.getItem(KEY) !== "off";
  } catch {
    return true;
  }
}
