// Dialogs and menus. The browser's own dialog holds the focus, makes the rest inert, and gives the focus back.

import { el, icon } from "../dom.js";

/**
 * Opens a dialog. It is gone when it closes.
 *
 * @param {object} parts
 * @param {string} parts.title
 * @param {(Node | string | null)[]} parts.body
 * @param {string} [parts.name] Told apart by tests and styles.
 * @returns {HTMLDialogElement}
 */
export function openDialog({ title, body, name = "" }) {
  const before = document.activeElement;
  const close = el("button", { class: "btn quiet icon sm", type: "button", "aria-label": "Close" }, icon("close"));
  const dialog = el(
    "dialog",
    { class: "dialog chat-dialog", "aria-labelledby": "dialog-title", "data-dialog": name },
    el("div", { class: "dialog-head" }, el("h2", { id: "dialog-title" }, title), close),
    ...body,
  );
  close.addEventListener("click", () => dialog.close());
  // A press on the veil is one on the dialog's own element.
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target !== dialog) return;
    const box = dialog.getBoundingClientRect();
    const isInside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!isInside) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  dialog.addEventListener("close", () => {
    // The browser has given the focus back, as it closed. This comes later, when somebody may be writing already: the
    // focus is theirs, unless the dialog still has it.
    const had = document.activeElement === document.body || dialog.contains(document.activeElement);
    dialog.remove();
    if (had && before instanceof HTMLElement && before.isConnected) before.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  /** @type {HTMLElement | null} */ (dialog.querySelector("[autofocus]"))?.focus();
  return dialog;
}

/**
 * Asks before something that cannot be taken back.
 *
 * @param {object} question
 * @param {string} question.title
 * @param {string} question.text
 * @param {string} question.yes
 * @param {(Node | null)[]} [question.more]
 * @param {() => unknown} question.onYes
 */
export function confirm({ title, text, yes, more = [], onYes }) {
  const go = el("button", { class: "btn danger", type: "button" }, yes);
  const stay = el("button", { class: "btn", type: "button", autofocus: true }, "Keep");
  const dialog = openDialog({ title, name: "confirm", body: [el("p", {}, text), ...more, el("div", { class: "dialog-foot" }, stay, go)] });
  stay.addEventListener("click", () => dialog.close());
  go.addEventListener("click", () => {
    dialog.close();
    void onYes();
  });
}

/**
 * A field of a form in a dialog.
 *
 * @param {string} label
 * @param {HTMLElement} field
 * @param {string} [hint]
 */
export function labelled(label, field, hint) {
  field.id ||= `field-${label.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return el("div", { class: "field" }, el("label", { for: field.id }, label), field, hint ? el("small", {}, hint) : null);
}

/**
 * Opens something small beside `anchor`, on top of the page: a click elsewhere or Escape closes it.
 *
 * @param {HTMLElement} anchor
 * @param {HTMLElement} content
 * @param {(event: KeyboardEvent) => number | undefined} stepOf By how many of its buttons a key moves the focus.
 * @returns {() => void} Closes it.
 */
export function popUp(anchor, content, stepOf) {
  const before = document.activeElement;
  const close = () => {
    content.remove();
    removeEventListener("pointerdown", outside, true);
    if (before instanceof HTMLElement && (document.activeElement === document.body || document.activeElement === null)) before.focus();
  };
  /** @param {Event} event */
  const outside = (event) => {
    if (event.target instanceof Node && !content.contains(event.target)) close();
  };
  content.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const buttons = /** @type {HTMLElement[]} */ ([...content.querySelectorAll("button")]);
    const here = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const by = stepOf(event);
    if (by !== undefined) buttons[(here + by + buttons.length) % buttons.length]?.focus();
    if (by !== undefined || event.key === "Escape" || event.key === "Tab") event.preventDefault();
    if (event.key === "Escape" || event.key === "Tab") close();
  });
  // Where the anchor is: inside a dialog the rest is inert, and everything belongs to a landmark.
  const host = anchor.closest("dialog, #side") ?? document.querySelector("main") ?? document.body;
  host.append(content);
  // An element that is moved is the origin of what is fixed in it.
  const origin = getComputedStyle(host).translate === "none" ? { left: 0, top: 0 } : host.getBoundingClientRect();
  const box = anchor.getBoundingClientRect();
  const own = content.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.right - own.width, innerWidth - own.width - 8));
  const isRoomAbove = box.top - own.height - 6 > 56;
  const top = isRoomAbove ? box.top - own.height - 6 : Math.min(box.bottom + 6, innerHeight - own.height - 8);
  content.style.setProperty("left", `${left - origin.left}px`);
  content.style.setProperty("top", `${top - origin.top}px`);
  addEventListener("pointerdown", outside, true);
  content.querySelector("button")?.focus();
  return close;
}

/**
 * A menu at `anchor`.
 *
 * @param {HTMLElement} anchor
 * @param {string} label
 * @param {{ label: string, isDanger?: boolean, run: () => unknown }[]} items
 */
export function openMenu(anchor, label, items) {
  const buttons = items.map((item) => {
    const button = el("button", { class: `item ${item.isDanger ? "danger" : ""}`.trim(), role: "menuitem", type: "button", tabindex: "-1" }, item.label);
    button.addEventListener("click", () => {
      close();
      void item.run();
    });
    return button;
  });
  const menu = el("div", { class: "popup menu-list", role: "menu", "aria-label": label }, ...buttons);
  const close = popUp(anchor, menu, ({ key }) => (key === "ArrowDown" ? 1 : key === "ArrowUp" ? -1 : undefined));
}
