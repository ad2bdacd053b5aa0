// Draws rows. Elements are kept by key, so that focus, selection and what is being read stay where they are.
//
// Only a window of the rows is in the document, however many there are. It moves along with reading, a step at a time,
// and its size is bounded in both directions; who moves it holds what is on the screen still (scroller.js).

import { el } from "../dom.js";
import { clock, count, counted } from "../words.js";
import { gapText, noticeText, stateLine } from "./copy.js";
import { fillMessage, fillOwn, messageSignature } from "./message-view.js";

/** @typedef {import("./rows.js").Row} Row */
/** @typedef {import("./copy.js").StateLine} StateLine */

/**
 * @typedef {object} RowContext
 * @property {string} me
 * @property {number} now
 * @property {number | null} retentionDays
 * @property {string} prefix Of the ids of elements: "m" in the room, "t" in a thread.
 * @property {(client: string | null) => string} nameOf
 */

/** Rows in the document at most. */
export const ROWS_MOST = 180;
/** So many rows the window moves at once. */
const STEP = 15;
/** So many rows stand in the document while one reads at the bottom. */
const ROWS_AT_BOTTOM = 100;

export class TimelineView {
  #list;
  /** `message`: the object that was drawn; the fold makes a new one for every change. */
  /** @type {Map<string, { node: HTMLLIElement, signature: string, message: object | null }>} */
  #drawn = new Map();
  /** @type {readonly Row[]} */
  #rows = [];
  /** The key of the first row in the document; null: the newest rows. @type {string | null} */
  #first = null;
  #start = 0;
  #end = 0;

  /** @param {HTMLElement} list */
  constructor(list) {
    this.#list = list;
  }

  /** How many rows there are above and below the window. */
  get beyond() {
    return { above: this.#start, below: this.#rows.length - this.#end };
  }

  /** From now on the newest rows. */
  follow() {
    this.#first = null;
  }

  /**
   * @param {readonly Row[]} rows
   * @param {RowContext} context
   * @param {boolean} follows Whether one reads at the bottom.
   * @returns {number | null} When to draw again although nothing happened.
   */
  draw(rows, context, follows) {
    const wasAtEnd = this.#end === this.#rows.length;
    const length = Math.max(this.#end - this.#start, 1);
    this.#rows = rows;
    const found = this.#first === null || (follows && wasAtEnd) ? -1 : rows.findIndex((row) => row.key === this.#first);
    if (found < 0) {
      this.#end = rows.length;
      this.#start = Math.max(0, this.#end - ROWS_AT_BOTTOM);
    } else {
      this.#start = found;
      this.#end = wasAtEnd ? Math.min(rows.length, found + ROWS_MOST) : Math.min(rows.length, found + length);
    }
    return this.#render(context);
  }

  /**
   * Moves the window a step, up or down.
   *
   * @param {-1 | 1} by
   * @param {RowContext} context
   * @returns {boolean} Whether there was anything to move to.
   */
  move(by, context) {
    const { above, below } = this.beyond;
    if ((by < 0 ? above : below) === 0) return false;
    if (by < 0) {
      this.#start = Math.max(0, this.#start - STEP);
      this.#end = Math.min(this.#end, this.#start + ROWS_MOST);
    } else {
      this.#end = Math.min(this.#rows.length, this.#end + STEP);
      this.#start = Math.max(this.#start, this.#end - ROWS_MOST);
    }
    this.#render(context);
    return true;
  }

  /**
   * Brings the row with this key into the document.
   *
   * @param {(row: Row) => boolean} isWanted
   * @param {RowContext} context
   * @returns {HTMLLIElement | null}
   */
  show(isWanted, context) {
    const index = this.#rows.findIndex(isWanted);
    if (index < 0) return null;
    if (index < this.#start || index >= this.#end) {
      this.#start = Math.max(0, index - ROWS_MOST / 3);
      this.#end = Math.min(this.#rows.length, this.#start + ROWS_AT_BOTTOM);
      this.#render(context);
    }
    return this.#drawn.get(this.#rows[index].key)?.node ?? null;
  }

  /** @param {RowContext} context */
  #render(context) {
    const rows = this.#rows.slice(this.#start, this.#end);
    this.#first = rows[0]?.key ?? null;
    let againAt = Infinity;
    const keys = new Set(rows.map((row) => row.key));
    for (const [key, { node }] of this.#drawn) {
      if (keys.has(key)) continue;
      node.remove();
      this.#drawn.delete(key);
    }
    /** @type {ChildNode | null} */
    let place = this.#list.firstChild;
    for (const row of rows) {
      const state = row.kind === "own" ? stateLine(row.own, { isFirst: row.isFirst, now: context.now }) : null;
      if (state?.againAt) againAt = Math.min(againAt, state.againAt);
      const node = this.#node(row, state, context);
      if (node === place) place = node.nextSibling;
      else this.#list.insertBefore(node, place);
    }
    return againAt === Infinity ? null : againAt;
  }

  /** @param {Row} row @param {StateLine | null} state @param {RowContext} context */
  #node(row, state, context) {
    const signature = signatureOf(row, state, context);
    const drawn = this.#drawn.get(row.key);
    const message = row.kind === "message" ? row.message : null;
    if (drawn?.signature === signature && drawn.message === message) return drawn.node;
    const node = drawn?.node ?? el("li");
    const active = drawn === undefined || !node.contains(document.activeElement) || document.activeElement === node ? null : document.activeElement;
    const attribute = active === null ? null : ["data-react", "data-do", "data-action"].find((each) => active.hasAttribute(each));
    const bar = active?.closest(".hovbar") ?? null;
    fill(node, row, state, context);
    // What had the focus was replaced: its like takes it, so that it is not dropped on the floor.
    if (active !== null && bar === null) {
      const like = attribute ? node.querySelector(`[${attribute}="${CSS.escape(active.getAttribute(attribute) ?? "")}"]`) : null;
      const heir = like ?? node.querySelector("button") ?? node;
      /** @type {HTMLElement} */ (heir).focus();
    }
    this.#drawn.set(row.key, { node, signature, message });
    return node;
  }
}

/** What a row's element depends on. @param {Row} row @param {StateLine | null} state @param {RowContext} context */
function signatureOf(row, state, context) {
  switch (row.kind) {
    case "message":
      return messageSignature(row, context);
    case "own":
      return `o ${row.continues} ${state?.bead} ${state?.text} ${state?.actions} ${context.nameOf(context.me)} ${row.own.text}`;
    case "day":
      return row.label;
    case "gap":
      return `${row.gap.from} ${row.gap.to}`;
    case "new":
      return `${row.newSince.count}`;
    case "notice":
      return noticeText(row.notice, context.nameOf);
    case "past":
      return `${row.through}`;
    case "replies":
      return `${row.count}`;
    case "beginning":
      return "";
  }
}

/** @param {HTMLLIElement} node @param {Row} row @param {StateLine | null} state @param {RowContext} context */
function fill(node, row, state, context) {
  if (row.kind !== "message") node.removeAttribute("id");
  if (row.kind !== "message") delete node.dataset.serial;
  // Not even for a moment where it is needed: an element that cannot be focused loses the focus it has.
  if (row.kind !== "message" && row.kind !== "own") node.removeAttribute("tabindex");
  delete node.dataset.own;
  switch (row.kind) {
    case "message":
      return fillMessage(node, row, context);
    case "own":
      return fillOwn(node, row, state, context);
    case "day":
      node.className = "rule";
      return node.replaceChildren(row.label);
    case "new": {
      const { count: number, isMore, since } = row.newSince;
      node.className = "rule new";
      return node.replaceChildren(`${isMore ? `Over ${count(number)}` : count(number)} new since ${clock(since)}`);
    }
    case "replies":
      node.className = "rule";
      return node.replaceChildren(row.count === 0 ? "No replies yet" : counted(row.count, "reply", "replies"));
    case "notice":
      node.className = "note-row";
      return node.replaceChildren(noticeText(row.notice, context.nameOf), " ", el("time", { datetime: new Date(row.notice.time).toISOString() }, clock(row.notice.time)));
    case "gap":
      node.className = "gap";
      return node.replaceChildren(el("span", {}, gapText(row.gap, context.retentionDays)));
    case "past":
      node.className = "gap";
      return node.replaceChildren(el("span", {}, gapText({ from: 1, to: row.through, reason: "retention" }, context.retentionDays)));
    case "beginning":
      node.className = "beginning";
      return node.replaceChildren(el("b", {}, "The beginning of the room."));
  }
}
