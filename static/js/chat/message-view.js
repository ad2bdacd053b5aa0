// Fills the element of a message: who, when, the text, files, reactions, its thread, and what became of it.

import { el, icon } from "../dom.js";
import { paintPerson } from "../shell.js";
import { clock, counted, fullTime } from "../words.js";
import { ACTION_LABELS, changeLine, goneText, seenText } from "./copy.js";
import { emojiName } from "./emoji.js";
import { filesNode } from "./files-view.js";
import { textNode } from "./markdown-view.js";

/** @typedef {import("./rows.js").Row} Row */
/** @typedef {import("./copy.js").StateLine} StateLine */
/** @typedef {import("./timeline-view.js").RowContext} RowContext */

/** What the element of a message depends on, beside the message itself. @param {Extract<Row, { kind: "message" }>} row @param {RowContext} context */
export function messageSignature({ message, continues, isSent, seenBy, change }, context) {
  const people = [message.client, message.deleted, ...seenBy, ...message.replies.clients].map((each) => context.nameOf(each));
  return `m ${continues} ${isSent} ${people} ${change?.id} ${change?.state} ${change?.reason}`;
}

/** @param {HTMLLIElement} node @param {Extract<Row, { kind: "message" }>} row @param {RowContext} context */
export function fillMessage(node, { message, continues, isSent, seenBy, change }, context) {
  const { serial, client, time, deleted } = message;
  const isMention = deleted === null && message.mentions.includes(context.me);
  node.className = `msg${continues ? " cont" : ""}${isMention ? " mention" : ""}${client === context.me ? " mine" : ""}`;
  node.id = `${context.prefix}${serial}`;
  node.dataset.serial = String(serial);
  node.tabIndex = -1;
  const inRoom = context.prefix === "m";
  node.replaceChildren(
    continues
      ? el("a", { class: "serial", href: `#m${serial}`, tabindex: "-1", "aria-hidden": "true" }, `#${serial}`)
      : portrait(client, context),
    el(
      "div",
      { class: "body" },
      byLine(context.nameOf(client), time, serial, continues),
      inRoom && message.thread !== null ? el("p", { class: "from-thread" }, el("button", { class: "link", type: "button", "data-do": "thread" }, "Replied in a thread")) : null,
      deleted !== null ? el("p", { class: "gone" }, goneText(deleted, context.nameOf)) : null,
      ...(deleted === null ? said(message, context) : []),
      filesNode(message.files),
      reactionsNode(message.reactions, context),
      inRoom && message.replies.count > 0 ? threadNode(message.replies, context) : null,
      isSent ? stateNode({ bead: "full", text: seenText(seenBy.map((each) => context.nameOf(each))), actions: [], againAt: null }) : null,
      change === null ? null : stateNode(changeLine(change), change.id),
    ),
  );
}

/** @param {HTMLLIElement} node @param {Extract<Row, { kind: "own" }>} row @param {StateLine | null} state @param {RowContext} context */
export function fillOwn(node, { own, time, continues }, state, context) {
  node.className = `msg own mine${continues ? " cont" : ""}`;
  node.tabIndex = -1;
  node.dataset.own = own.id;
  const mentions = Array.isArray(own.data?.mentions) ? own.data.mentions : [];
  node.replaceChildren(
    ...(continues ? [] : [portrait(context.me, context)]),
    el(
      "div",
      { class: "body" },
      byLine(context.nameOf(context.me), time, null, continues),
      own.text === "" ? null : textNode(own.text, mentions, context.me),
      filesNode(Array.isArray(own.data?.files) ? own.data.files : []),
      state && stateNode(state),
    ),
  );
}

/** The text, and that it was edited, where it ends. @param {import("./fold.js").Folded} message @param {RowContext} context */
function said({ text, mentions, edited }, context) {
  const mark = edited === null ? null : el("span", { class: "edited", title: fullTime(edited) }, "(edited)");
  if (text === "") return [mark];
  const node = textNode(text, mentions, context.me);
  const last = node.lastElementChild;
  if (mark === null || last?.tagName !== "P") return [node, mark];
  last.append(" ", mark);
  return [node];
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

/** @param {import("./fold.js").Reaction[]} reactions @param {RowContext} context */
function reactionsNode(reactions, context) {
  if (reactions.length === 0) return null;
  return el(
    "div",
    { class: "rx" },
    ...reactions.map(({ emoji, clients }) => {
      const label = `${emojiName(emoji)}, ${clients.length}`;
      const names = clients.slice(0, 12).map((each) => context.nameOf(each)).join(", ");
      const pressed = String(clients.includes(context.me));
      return el("button", { type: "button", "data-react": emoji, "aria-pressed": pressed, "aria-label": label, title: names }, `${emoji} ${clients.length}`);
    }),
    el("button", { type: "button", "data-do": "react", "aria-label": "Add a reaction" }, icon("smile", "s")),
  );
}

/** @param {import("./fold.js").Folded["replies"]} replies @param {RowContext} context */
function threadNode({ count, last, clients }, context) {
  const faces = clients.slice(0, 3).map((client) => {
    const node = el("span", { class: "av s", "aria-hidden": "true" });
    paintPerson(node, client, context.nameOf(client));
    return node;
  });
  return el(
    "button",
    { class: "th", type: "button", "data-do": "thread" },
    ...faces,
    el("b", {}, counted(count, "reply", "replies")),
    last === null ? null : el("span", {}, ` last at ${clock(last)}`),
  );
}

/** @param {StateLine} state @param {string} [change] The id of the change it speaks of. */
function stateNode({ bead, text, actions }, change) {
  if (text === "") return null;
  const sign = bead === "bad" ? icon("close") : el("span", { class: `bead ${bead === "full" ? "full" : ""}`.trim() });
  const buttons = actions.flatMap((action) => [
    " ",
    el("button", { class: "link", type: "button", "data-action": action, "data-change": change }, ACTION_LABELS[action]),
  ]);
  return el("p", { class: `st ${bead === "bad" ? "bad" : ""}`.trim() }, sign, el("span", {}, text, ...buttons));
}
