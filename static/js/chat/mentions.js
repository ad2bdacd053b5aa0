// A list of names while one types `@…`: a listbox that the field controls.

import { el } from "../dom.js";
import { paintPerson } from "../shell.js";
import { ask } from "./api.js";
import { people } from "./page.js";

const MOST = 6;
const ASK_AFTER_MS = 150;
const BEGUN = /(?:^|[\s(])@([\p{L}\p{N}_.~-]*)$/u;

let made = 0;

export class Mentions {
  #field;
  #list;
  #begun = "";
  #selected = 0;
  /** @type {{ client: string, name: string }[]} */
  #found = [];
  /** @type {number | undefined} */
  #timer;

  /** @param {HTMLTextAreaElement} field */
  constructor(field) {
    this.#field = field;
    this.#list = el("ul", { class: "popup mention-list", role: "listbox", id: `mentions-${++made}`, "aria-label": "People to mention", hidden: true });
    field.setAttribute("aria-autocomplete", "list");
    field.setAttribute("aria-controls", this.#list.id);
    field.closest(".composer")?.append(this.#list);
    field.addEventListener("input", () => this.#look());
    field.addEventListener("blur", () => this.#close());
    // Before the composer's own keys: Enter takes the name, and does not send.
    field.addEventListener("keydown", (event) => this.#key(event), { capture: true });
    this.#list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // The field keeps the focus.
      const item = event.target instanceof Element ? event.target.closest("li") : null;
      if (item) this.#take([...this.#list.children].indexOf(item));
    });
  }

  #look() {
    const match = BEGUN.exec(this.#field.value.slice(0, this.#field.selectionStart));
    clearTimeout(this.#timer);
    if (match === null) return this.#close();
    this.#begun = match[1];
    this.#show(people.matching(match[1], MOST));
    this.#timer = setTimeout(async () => {
      const begun = this.#begun;
      try {
        const answer = await ask("GET", "/chat/people", { q: begun });
        people.learn(answer.people);
        if (begun === this.#begun && document.activeElement === this.#field) this.#show(people.matching(begun, MOST));
      } catch {
        // Those who are known do.
      }
    }, ASK_AFTER_MS);
  }

  /** @param {{ client: string, name: string }[]} found */
  #show(found) {
    this.#found = found;
    this.#selected = 0;
    if (found.length === 0) return this.#close();
    this.#list.hidden = false;
    this.#draw();
  }

  #draw() {
    this.#list.replaceChildren(
      ...this.#found.map(({ client, name }, index) => {
        const portrait = el("span", { class: "av s", "aria-hidden": "true" });
        paintPerson(portrait, client, name);
        const attributes = { role: "option", id: `${this.#list.id}-${index}`, "aria-selected": String(index === this.#selected) };
        return el("li", attributes, portrait, el("b", {}, name), el("span", { class: "muted small" }, `@${client}`));
      }),
    );
    this.#field.setAttribute("aria-activedescendant", `${this.#list.id}-${this.#selected}`);
  }

  #close() {
    clearTimeout(this.#timer);
    this.#list.hidden = true;
    this.#field.removeAttribute("aria-activedescendant");
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (this.#list.hidden || event.isComposing) return;
    const by = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (by !== 0) {
      this.#selected = (this.#selected + by + this.#found.length) % this.#found.length;
      this.#draw();
    } else if (event.key === "Enter" || event.key === "Tab") this.#take(this.#selected);
    else if (event.key === "Escape") this.#close();
    else return;
    event.preventDefault();
  }

  /** @param {number} index */
  #take(index) {
    const { client } = this.#found[index];
    const end = this.#field.selectionStart;
    this.#field.setRangeText(`${client} `, end - this.#begun.length, end, "end");
    this.#close();
    this.#field.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
