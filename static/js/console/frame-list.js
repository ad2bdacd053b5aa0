// The list of frames: only the rows that can be seen are in the document, however many there are.

import { el, icon } from "../dom.js";
import { size } from "../cursors/meter.js";
import { latency } from "../words.js";

/** @typedef {import("./frame-log.js").Row} Row */

/** As in console.css. */
const ROW_PX = 30;
const AROUND = 6;

export class FrameList {
  /** @type {readonly Row[]} */
  #rows = [];
  /** @type {number | null} By id: rows move. */
  #selected = null;
  #drawn = "";
  #place;
  #spacer;
  #onSelect;
  isFollowing = true;

  /**
   * @param {HTMLElement} place A listbox that scrolls.
   * @param {(row: Row | null) => void} onSelect
   * @param {() => void} onFollowing The reader scrolled away from the newest, or back to it.
   */
  constructor(place, onSelect, onFollowing) {
    this.#place = place;
    this.#onSelect = onSelect;
    this.#spacer = el("div", { class: "spacer", role: "presentation" });
    place.append(this.#spacer);
    place.addEventListener("scroll", () => {
      const isAtEnd = place.scrollTop + place.clientHeight > place.scrollHeight - ROW_PX;
      if (isAtEnd !== this.isFollowing) {
        this.isFollowing = isAtEnd;
        onFollowing();
      }
      this.draw();
    });
    place.addEventListener("click", (event) => {
      const row = event.target instanceof Element ? event.target.closest("[data-row]") : null;
      if (row instanceof HTMLElement) this.select(Number(row.dataset.row));
    });
    new ResizeObserver(() => this.draw()).observe(place);
  }

  /** @param {readonly Row[]} rows */
  show(rows) {
    this.#rows = rows;
    this.#spacer.style.height = `${rows.length * ROW_PX}px`;
    if (this.isFollowing) this.toEnd();
    this.draw();
  }

  toEnd() {
    this.#place.scrollTop = this.#rows.length * ROW_PX;
  }

  get selected() {
    return this.#rows.find(({ id }) => id === this.#selected) ?? null;
  }

  /** @param {number | null} id */
  select(id) {
    this.#selected = id;
    this.draw();
    this.#onSelect(this.selected);
  }

  /** To the next frame or the one before; breaks are passed over. @param {1 | -1} step */
  move(step) {
    const rows = this.#rows;
    let index = rows.findIndex(({ id }) => id === this.#selected);
    if (index < 0) index = step > 0 ? -1 : rows.length;
    do index += step;
    while (rows[index]?.way === "break");
    const row = rows[index];
    if (row === undefined) return;
    const top = index * ROW_PX;
    if (top < this.#place.scrollTop) this.#place.scrollTop = top;
    else if (top + ROW_PX > this.#place.scrollTop + this.#place.clientHeight) this.#place.scrollTop = top + ROW_PX - this.#place.clientHeight;
    this.select(row.id);
  }

  draw() {
    const { scrollTop, clientHeight } = this.#place;
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - AROUND);
    const last = Math.min(this.#rows.length, Math.ceil((scrollTop + clientHeight) / ROW_PX) + AROUND);
    const signature = `${this.#rows[first]?.id} ${last - first} ${this.#rows[last - 1]?.id} ${this.#selected} ${this.#rows.length}`;
    if (signature === this.#drawn) return;
    this.#drawn = signature;
    const nodes = [];
    for (let index = first; index < last; index += 1) nodes.push(this.#node(this.#rows[index], index));
    this.#spacer.replaceChildren(...nodes);
    const active = this.#spacer.querySelector("[aria-selected=true]");
    if (active === null) this.#place.removeAttribute("aria-activedescendant");
    else this.#place.setAttribute("aria-activedescendant", active.id);
  }

  /** @param {Row} row @param {number} index */
  #node(row, index) {
    const isBreak = row.way === "break";
    const attributes = {
      class: isBreak ? "frame brk" : "frame",
      id: `frame-${row.id}`,
      role: "option",
      "aria-selected": String(row.id === this.#selected),
      "aria-setsize": String(this.#rows.length),
      "aria-posinset": String(index + 1),
      "aria-disabled": isBreak ? "true" : null,
      "data-row": isBreak ? null : String(row.id),
      "data-type": row.type,
    };
    const cells = isBreak
      ? [el("span", {}, row.what)]
      : [
          el("span", { class: "at faint mono" }, (new Date(row.at).getSeconds() + (row.at % 1000) / 1000).toFixed(3).padStart(6, "0")),
          el("span", { class: `dir ${row.way}` }, icon(row.way === "in" ? "in" : "out-up", "xs"), row.way),
          el("span", { class: "type" }, row.type),
          el("span", { class: "sum ell" }, row.what),
          el("span", { class: "n faint" }, size(row.bytes)),
          el("span", { class: "n" }, row.latencyMs === null ? "" : latency(row.latencyMs)),
        ];
    const node = el("div", attributes, ...cells);
    node.style.top = `${index * ROW_PX}px`;
    return node;
  }
}
