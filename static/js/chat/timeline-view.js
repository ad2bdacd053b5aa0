// Draws the rows of a room. Elements are kept by key, so that focus, selection and what is being read stay where they are.

import { el, icon } from "../dom.js";
import { paintPerson } from "../shell.js";
import { clock, count, fullTime } from "../words.js";
import { ACTION_LABELS, gapText, stateLine } from "./copy.js";
import { splitLinks } from "./links.js";

/** @typedef {import("./timeline.js").Row} Row */
/** @typedef {import("./copy.js").Action} Action */
/** @typedef {import("./copy.js").StateLine} StateLine */

/**
 * @typedef {object} RowContext
 * @property {string} me
 * @property {number} now
 * @property {number | null} retentionDays
 * @property {(client: string | null) => string} nameOf
 */

export class TimelineView {
  #list;
  #onAction;
  /** @type {Map<string, { node: HTMLLIElement, signature: string }>} */
  #drawn = new Map();

  /**
   * @param {HTMLElement} list
   * @param {(id: string, action: Action) => void} onAction A button on a message of ours.
   */
  constructor(list, onAction) {
    this.#list = list;
    this.#onAction = onAction;
    list.addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("button[data-action]") : null;
      if (!(button instanceof HTMLElement)) return;
      const id = button.closest("li")?.dataset.own;
      if (id) this.#onAction(id, /** @type {Action} */ (button.dataset.action));
    });
  }

  /**
   * @param {readonly Row[]} rows
   * @param {RowContext} context
   * @returns {number | null} When to draw again although nothing happened.
   */
  draw(rows, context) {
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
    if (drawn?.signature === signature) return drawn.node;
    const node = drawn?.node ?? el("li");
    const hadFocus = drawn !== undefined && node.contains(document.activeElement) && document.activeElement !== node;
    fill(node, row, state, context);
    // A button that was replaced, such as "Send now", must not drop the focus on the floor.
    if (hadFocus) (node.querySelector("button") ?? node).focus();
    this.#drawn.set(row.key, { node, signature });
    return node;
  }
}

/** What a row's element depends on. @param {Row} row @param {StateLine | null} state @param {RowContext} context */
function signatureOf(row, state, context) {
  switch (row.kind) {
    case "message":
      return `m ${row.message.serial} ${row.continues} ${row.isSent} ${context.nameOf(row.message.client)}`;
    case "own":
      return `o ${row.continues} ${state?.bead} ${state?.text} ${state?.actions} ${context.nameOf(context.me)} ${row.own.text}`;
    case "day":
      return row.label;
    case "gap":
      return `${row.gap.from} ${row.gap.to}`;
    case "new":
      return `${row.newSince.count}`;
    case "past":
      return `${row.through}`;
    case "beginning":
      return "";
  }
}

/** @param {HTMLLIElement} node @param {Row} row @param {StateLine | null} state @param {RowContext} context */
function fill(node, row, state, context) {
  if (row.kind !== "message") node.removeAttribute("id");
  // Not even for a moment where it is needed: an element that cannot be focused loses the focus it has.
  if (row.kind !== "message" && row.kind !== "own") node.removeAttribute("tabindex");
  delete node.dataset.own;
  switch (row.kind) {
    case "message":
      return fillMessage(node, row, context);
    case "own":
      node.dataset.own = row.own.id;
      node.className = `msg own ${row.continues ? "cont" : ""}`.trim();
      node.tabIndex = -1;
      node.replaceChildren(
        ...(row.continues ? [] : [portrait(context.me, context)]),
        el("div", { class: "body" }, byLine(context.nameOf(context.me), row.time, null, row.continues), words(row.own.text), state && stateNode(state)),
      );
      return;
    case "day":
      node.className = "rule";
      node.replaceChildren(row.label);
      return;
    case "new":
      node.className = "rule new";
      node.replaceChildren(`${count(row.newSince.count)} new since ${clock(row.newSince.since)}`);
      return;
    case "gap":
      node.className = "gap";
      node.replaceChildren(el("span", {}, gapText(row.gap, context.retentionDays)));
      return;
    case "past":
      node.className = "gap";
      node.replaceChildren(el("span", {}, gapText({ from: 1, to: row.through, reason: "retention" }, context.retentionDays)));
      return;
    case "beginning":
      node.className = "beginning";
      node.replaceChildren(el("b", {}, "The beginning of the room."), " Message #1 is below.");
  }
}

/** @param {HTMLLIElement} node @param {Extract<Row, { kind: "message" }>} row @param {RowContext} context */
function fillMessage(node, { message, continues, isSent }, context) {
  const { serial, client, time } = message;
  node.className = `msg ${continues ? "cont" : ""}`.trim();
  node.id = `m${serial}`;
  node.tabIndex = -1;
  const text = message.text ?? "This message cannot be shown here.";
  node.replaceChildren(
    continues
      ? el("a", { class: "serial", href: `#m${serial}`, tabindex: "-1", "aria-hidden": "true" }, `#${serial}`)
      : portrait(client, context),
    el(
      "div",
      { class: "body" },
      byLine(context.nameOf(client), time, serial, continues),
      message.text === null ? el("p", { class: "gone" }, text) : words(text),
      isSent ? stateNode({ bead: "full", text: "Sent", actions: [], againAt: null }) : null,
    ),
  );
}

/** @param {string | null} client @param {RowContext} context */
function portrait(client, context) {
  const node = el("span", { class: "av l", "aria-hidden": "true" });
  paintPerson(node, client ?? "", context.nameOf(client));
  return node;
}

/** @param {string} name @param {number} time @param {number | null} serial @param {boolean} continues In a run only for who listens. */
function byLine(name, time, serial, continues) {
  const when = el("time", { datetime: new Date(time).toISOString(), title: fullTime(time) }, clock(time));
  return el("p", { class: continues ? "sr" : "by" }, el("b", {}, name), " ", when, serial === null ? null : el("span", { class: "num" }, `#${serial}`));
}

/** The text of a message: as text only, with its addresses as links. @param {string} text */
function words(text) {
  const node = el("p", { class: "text", dir: "auto" });
  for (const part of splitLinks(text)) {
    node.append(
      part.href === null
        ? part.text
        : el("a", { href: part.href, rel: "noopener noreferrer nofollow ugc", target: "_blank" }, part.text),
    );
  }
  return node;
}

/** @param {StateLine} state */
function stateNode({ bead, text, actions }) {
  if (text === "") return null;
  const sign = bead === "bad" ? icon("close") : el("span", { class: `bead ${bead === "full" ? "full" : ""}`.trim() });
  const buttons = actions.flatMap((action) => [
    " ",
    el("button", { class: "link", type: "button", "data-action": action }, ACTION_LABELS[action]),
  ]);
  return el("p", { class: `st ${bead === "bad" ? "bad" : ""}`.trim() }, sign, el("span", {}, text, ...buttons));
}
