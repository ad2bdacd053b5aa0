// What one can do with a message: a bar on the one under the pointer or with the focus, a menu, and keys.

import { el, icon } from "../dom.js";
import { ask } from "./api.js";
import { confirm, labelled, openMenu } from "./dialog.js";
import { pickEmoji } from "./emoji.js";
import { announce, isModerator, me, nameOf, page, refused, room } from "./page.js";
import { act, edit, remove, toggleReaction } from "./sending.js";
import { openThread } from "./thread.js";

/** @typedef {import("./fold.js").Folded} Folded */
/** @typedef {import("./copy.js").Action} Action */

/** The message that an element belongs to, as it stands. @param {EventTarget | Element | null} target @returns {Folded | null} */
export function messageAt(target) {
  const node = target instanceof Element ? target.closest("li.msg[data-serial]") : null;
  return node instanceof HTMLElement ? page.timeline.fold.get(Number(node.dataset.serial)) : null;
}

const bar = el(
  "div",
  { class: "hovbar", role: "group", "aria-label": "Actions" },
  tool("react", "React", "smile"),
  tool("thread", "Reply in thread", "reply"),
  tool("link", "Copy link", "link"),
  tool("more", "More", "more"),
);

/** @param {string} what @param {string} label @param {string} name */
function tool(what, label, name) {
  return el("button", { class: "btn quiet icon sm", type: "button", "data-do": what, "aria-label": label, title: label }, icon(name));
}

/** @type {Element | null} */
let bearer = null;

/** The element of a message was filled anew: the bar comes back to it, unless there is nothing left to do with it. */
export function restoreBar() {
  if (bearer === null || bar.parentNode === bearer) return;
  if (bearer.isConnected && bearer.matches("li.msg[data-serial]") && messageAt(bearer)?.deleted === null) bearer.append(bar);
}

/** @param {HTMLElement} list A list of messages. */
export function giveActions(list) {
  /** @param {Event} event */
  const show = (event) => {
    const node = event.target instanceof Element ? event.target.closest("li.msg[data-serial]") : null;
    if (node === null || node === bearer) return;
    if (messageAt(node)?.deleted !== null) return;
    // What is being used by keyboard stays where it is; a pointer that pressed a button has moved on.
    if (bar.querySelector(":focus-visible") !== null && event.type !== "focusin") return;
    bearer = node;
    node.append(bar);
  };
  list.addEventListener("mouseover", show);
  list.addEventListener("focusin", show);
  list.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("button") : null;
    if (!(button instanceof HTMLElement)) return;
    const { action, change, react } = button.dataset;
    const own = change ?? button.closest("li")?.dataset.own;
    const message = messageAt(button);
    if (action !== undefined && own !== undefined) act(own, /** @type {Action} */ (action));
    else if (message !== null && react !== undefined) toggleReaction(message, react);
    else if (message !== null && button.dataset.do !== undefined) perform(button.dataset.do, message, button);
  });
}

/** @param {string} what @param {Folded} message @param {HTMLElement} anchor */
export function perform(what, message, anchor) {
  if (message.deleted !== null && what !== "thread" && what !== "link") return;
  if (what === "react") pickEmoji(anchor, (emoji) => toggleReaction(message, emoji));
  else if (what === "thread") void openThread(message.thread ?? message.serial);
  else if (what === "link") copyLink(message);
  else if (what === "edit" && message.client === me) edit(message);
  else if (what === "more") openMenu(anchor, "More", menuOf(message));
}

/** @param {Folded} message */
function menuOf(message) {
  const isMine = message.client === me;
  const name = nameOf(message.client);
  return [
    { label: "Copy link", run: () => copyLink(message) },
    { label: "Copy text", run: () => copy(message.text, "Text copied.") },
    ...(isMine ? [{ label: "Edit", run: () => edit(message) }] : []),
    ...(isMine ? [{ label: "Delete", isDanger: true, run: () => askToDelete(message) }] : []),
    ...(!isMine && isModerator()
      ? [
          { label: "Delete as moderator", isDanger: true, run: () => askToDelete(message) },
          { label: `Mute ${name} for an hour`, isDanger: true, run: () => mute(message.client, name) },
        ]
      : []),
  ];
}

/** @param {Folded} message */
function copyLink({ serial }) {
  copy(`${location.origin}/chat/${room.slug}/#m${serial}`, "Link copied.");
}

/** @param {string} text @param {string} done */
function copy(text, done) {
  navigator.clipboard.writeText(text).then(() => announce(done), (error) => refused("Nothing was copied.", error));
}

/** @param {Folded} message */
function askToDelete(message) {
  if (message.client === me) {
    confirm({
      title: "Delete your message?",
      text: "Its text, files and reactions go for everybody. “Message deleted” stays in its place.",
      yes: "Delete",
      onYes: () => remove(message),
    });
    return;
  }
  const reason = el("input", { class: "input", maxlength: "200", autocomplete: "off" });
  confirm({
    title: `Delete the message of ${nameOf(message.client)}?`,
    text: "Everybody will read “Message deleted by " + nameOf(me) + " (moderator)” in its place. The deletion is written into the room’s record.",
    yes: "Delete",
    more: [labelled("Reason, for the record", reason)],
    onYes: () =>
      ask("POST", `/chat/${room.slug}/delete-message`, { serial: message.serial, reason: reason.value.trim() }).catch((error) =>
        refused("The message was not deleted.", error),
      ),
  });
}

/** @param {string} client @param {string} name */
function mute(client, name) {
  ask("POST", `/chat/${room.slug}/mute`, { client, minutes: 60 }).then(
    () => announce(`${name} is muted for an hour.`),
    (error) => refused(`${name} was not muted.`, error),
  );
}
