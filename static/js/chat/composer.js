// The field one writes in: grows with the text, keeps the draft, never locks, never loses a letter.

import { find } from "../dom.js";
import { lengthNote } from "./copy.js";

const KEEP_AFTER_MS = 300;

export class Composer {
  #field;
  #note;
  #most;
  #keep;
  /** @type {number | undefined} */
  #timer;
  #kept = "";

  /**
   * @param {HTMLFormElement} form
   * @param {object} options
   * @param {string} options.draft
   * @param {number} options.most Characters.
   * @param {(text: string) => boolean} options.keep Keeps a draft; whether it could.
   * @param {(text: string) => void} options.send
   */
  constructor(form, { draft, most, keep, send }) {
    this.#field = /** @type {HTMLTextAreaElement} */ (find("textarea", form));
    this.#note = find("[data-note]", form);
    this.#most = most;
    this.#keep = keep;
    this.#field.value = this.#kept = draft;
    if (draft !== "") this.#note.textContent = "Draft saved";
    this.#fit();
    this.#field.addEventListener("input", () => this.#changed());
    this.#field.addEventListener("keydown", (event) => {
      // A key that ends a composition (an accent, a Japanese word) is not one that sends.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      form.requestSubmit();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#field.value.trim();
      if (text === "" || [...text].length > this.#most) {
        this.#field.focus();
        return;
      }
      this.replace("");
      send(text);
      this.#field.focus();
    });
    addEventListener("pagehide", () => this.#keepNow());
  }

  get text() {
    return this.#field.value;
  }

  focus() {
    this.#field.focus();
  }

  /** @param {string} text */
  replace(text) {
    this.#field.value = text;
    this.#changed();
    this.#keepNow();
  }

  /** Puts back what was sent, above what was typed since. @param {string} text */
  putBack(text) {
    const rest = this.#field.value.trim();
    this.replace(rest === "" ? text : `${text}\n${rest}`);
    this.#field.focus();
    this.#field.setSelectionRange(text.length, text.length);
  }

  #changed() {
    this.#fit();
    const note = lengthNote([...this.#field.value.trim()].length, this.#most);
    const isOver = note.endsWith("over the limit");
    this.#note.textContent = note;
    this.#note.classList.toggle("err", isOver);
    if (isOver) this.#field.setAttribute("aria-invalid", "true");
    else this.#field.removeAttribute("aria-invalid");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#keepNow(), KEEP_AFTER_MS);
  }

  #keepNow() {
    clearTimeout(this.#timer);
    const text = this.#field.value.trim() === "" ? "" : this.#field.value;
    if (text === this.#kept) return;
    this.#kept = text;
    const isKept = this.#keep(text);
    if (this.#note.textContent === "" && text !== "" && isKept) this.#note.textContent = "Draft saved";
  }

  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }
}
