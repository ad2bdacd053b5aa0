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
  #form;
  #onTyping;
  /** What is written in place of a new message, and the draft that waits meanwhile. @type {{ save: (text: string) => void, draft: string, mayBeEmpty: boolean } | null} */
  #edit = null;

  /**
   * @param {HTMLFormElement} form
   * @param {object} options
   * @param {string} options.draft
   * @param {number} options.most Characters.
   * @param {(text: string) => boolean} options.keep Keeps a draft; whether it could.
   * @param {(text: string) => void} options.send
   * @param {() => "text" | "nothing" | "wait"} [options.needs] What sending takes; `wait`: not yet, it says so itself.
   * @param {(isTyping: boolean) => void} [options.onTyping]
   * @param {() => void} [options.onUp] An arrow up in the empty field.
   */
  constructor(form, { draft, most, keep, send, needs = () => "text", onTyping = () => {}, onUp }) {
    this.#form = form;
    this.#onTyping = onTyping;
    this.#field = /** @type {HTMLTextAreaElement} */ (find("textarea", form));
    this.#note = find("[data-note]", form);
    this.#most = most;
    this.#keep = keep;
    form.querySelector("[data-editing] button")?.addEventListener("click", () => this.endEdit());
    this.#field.value = this.#kept = draft;
    if (draft !== "") this.#note.textContent = "Draft saved";
    this.#fit();
    this.#field.addEventListener("input", () => {
      this.#changed();
      this.#onTyping(this.#edit === null && this.#field.value.trim() !== "");
    });
    this.#field.addEventListener("keydown", (event) => {
      if (event.defaultPrevented) return; // A list of names is open over it.
      const isPlain = !event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey;
      if (event.key === "ArrowUp" && isPlain && this.#field.value === "" && onUp) {
        event.preventDefault();
        onUp();
      } else if (event.key === "Escape" && this.#edit !== null) {
        event.preventDefault();
        this.endEdit();
      }
      // A key that ends a composition (an accent, a Japanese word) is not one that sends.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      form.requestSubmit();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#field.value.trim();
      const need = this.#edit === null ? needs() : this.#edit.mayBeEmpty ? "nothing" : "text";
      if ((text === "" && need === "text") || need === "wait" || [...text].length > this.#most) {
        this.#field.focus();
        return;
      }
      if (this.#edit !== null) {
        const { save } = this.#edit;
        this.endEdit();
        save(text);
        return;
      }
      this.replace("");
      this.#onTyping(false);
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
    this.#put(text);
    this.#keepNow();
  }

  get field() {
    return this.#field;
  }

  /** What the line under the field says, until something is typed. @param {string} text */
  say(text) {
    this.#note.textContent = text;
  }

  /**
   * Changes a text that is there already. The draft comes back afterwards.
   *
   * @param {string} label
   * @param {string} text
   * @param {(text: string) => void} save
   * @param {boolean} [mayBeEmpty]
   */
  beginEdit(label, text, save, mayBeEmpty = false) {
    const draft = this.#edit?.draft ?? this.#field.value;
    this.#edit = { save, draft, mayBeEmpty };
    const strip = find("[data-editing]", this.#form);
    strip.hidden = false;
    find("[data-editing-text]", strip).textContent = label;
    this.#put(text);
    this.#field.focus();
    this.#field.setSelectionRange(text.length, text.length);
  }

  endEdit() {
    const draft = this.#edit?.draft ?? "";
    this.#edit = null;
    find("[data-editing]", this.#form).hidden = true;
    this.#put(draft);
    this.#field.focus();
  }

  /** Puts a word where the cursor is. @param {string} word */
  insert(word) {
    const { selectionStart, selectionEnd, value } = this.#field;
    const gap = selectionStart > 0 && !/\s$/.test(value.slice(0, selectionStart)) ? " " : "";
    this.#field.setRangeText(gap + word, selectionStart, selectionEnd, "end");
    this.#changed();
    this.#field.focus();
    this.#field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** Puts back what was sent, above what was typed since. @param {string} text */
  putBack(text) {
    const rest = this.#field.value.trim();
    this.replace(rest === "" ? text : `${text}\n${rest}`);
    this.#field.focus();
    this.#field.setSelectionRange(text.length, text.length);
  }

  /** Another text, which nobody typed: whoever helps with typing hears of it. @param {string} text */
  #put(text) {
    this.#field.value = text;
    this.#field.dispatchEvent(new Event("replaced"));
    this.#changed();
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
    if (this.#edit !== null) return; // The draft is another text.
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
