// A list of names while one types `@…`: a listbox that the field controls.

import { el } from "../dom.js";
import { paintPerson } from "../shell.js";
import { ask } from "./api.js";
import { me, people } from "./page.js";

const MOST = 6;
const ASK_AFTER_MS = 150;
const BEGUN = /(?:^|[\s(])@([\p{L}\p{N}_.~-]*)$/u;

let made = 0;

/** Whom one may mean: nobody calls himself. @param {string} begun */
const found = (begun) => people.matching(begun, MOST + 1).filter(({ client }) => client !== me).slice(0, MOST);

export class Mentions {
  #field;
  #list;
  /** What stands behind the `@` that a name is looked for; null: no name is being looked for. @type {string | null} */
  #begun = null;
  #selected = 0;
  /** @type {{ client: string, name: string }[]} */
  #found = [];
  /** The field lost the focus while names were looked for: another window, perhaps, from which one comes back. */
  #isLeft = false;
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
    field.addEventListener("blur", () => {
      this.#isLeft = this.#begun !== null;
      this.#close();
    });
    field.addEventListener("focus", () => {
      if (this.#isLeft) this.#look();
    });
    // Another text, or the cursor elsewhere: what was begun is not in front of it any more.
    for (const type of ["replaced", "pointerdown"]) field.addEventListener(type, () => this.#close());
    // Before the composer's own keys: Enter takes the name, and does not send.
    field.addEventListener("keydown", (event) => this.#key(event), { capture: true });
    this.#list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // The field keeps the focus.
      const item = event.target instanceof Element ? event.target.closest("li") : null;
      if (item) this.#take([...this.#list.children].indexOf(item));
    });
  }

  #look() {
    this.#isLeft = false;
    const begun = BEGUN.exec(this.#field.value.slice(0, this.#field.selectionStart))?.[1];
    if (begun === undefined) return this.#close();
    // From now on what was asked for before is of no interest.
    clearTimeout(this.#timer);
    this.#begun = begun;
    this.#selected = 0;
    this.#show(found(begun));
    this.#timer = setTimeout(async () => {
      try {
        const answer = await ask("GET", "/chat/people", { q: begun });
        people.learn(answer.people);
      } catch {
        // Those who are known do.
      }
      // More are known. Meanwhile a name may have been taken, the list closed, or something else begun.
      if (this.#begun === begun) this.#show(found(begun));
    }, ASK_AFTER_MS);
  }

  /** Shows these names; whoever was chosen stays chosen. @param {{ client: string, name: string }[]} names */
  #show(names) {
    const chosen = this.#found[this.#selected]?.client;
    const index = this.#selected === 0 ? 0 : names.findIndex(({ client }) => client === chosen);
    this.#found = names;
    this.#selected = Math.max(0, index);
    this.#list.hidden = names.length === 0;
    if (names.length > 0) this.#draw();
    else this.#field.removeAttribute("aria-activedescendant");
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
    this.#begun = null;
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
    else {
      // The cursor goes elsewhere.
      if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) this.#close();
      return;
    }
    event.preventDefault();
  }

  /** @param {number} index */
  #take(index) {
    const name = this.#found[index];
    if (name === undefined || this.#begun === null) return;
    const end = this.#field.selectionStart;
    this.#field.setRangeText(`${name.client} `, end - this.#begun.length, end, "end");
    this.#close();
    this.#field.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
