// What we say to the room: messages, and changes of messages. All of it goes through the outbox, in order, and stays
// there until the log has it; what fails keeps its text.

import { announce, channel, client, me, memory, page, people, refused, room, scroller } from "./page.js";
import * as timelines from "./timeline.js";

/** @typedef {import("./copy.js").Action} Action */
/** @typedef {import("./composer.js").Composer} Composer */
/** @typedef {import("./fold.js").Folded} Folded */

const MENTION = /@([\p{L}\p{N}_.~-]*[\p{L}\p{N}_~-])/gu;
const QUIET = ["discarded", "closed", "identity"];

/** Whom a text means by `@…`: those whose names we know. @param {string} text */
export function mentionsIn(text) {
  return [...new Set([...text.matchAll(MENTION)].map(([, who]) => who))].filter((who) => people.knows(who)).slice(0, 50);
}

/**
 * @param {string} text
 * @param {{ thread?: number, also?: boolean, files?: import("./fold.js").FileInfo[] }} [more]
 */
export function send(text, more = {}) {
  page.timeline = { ...page.timeline, newSince: null, shown: null };
  const mentions = mentionsIn(text);
  const data = {
    text,
    ...(more.thread === undefined ? {} : { thread: more.thread, ...(more.also ? { also: true } : {}) }),
    ...(mentions.length > 0 ? { mentions } : {}),
    ...(more.files && more.files.length > 0 ? { files: more.files } : {}),
  };
  publish("message", data);
  scroller.follow();
  page.draw();
}

/** @param {string} event @param {any} data */
function publish(event, data) {
  // A failure is drawn from the outbox; nothing else waits for the promise.
  const published = channel.publish(data, { id: client.newId(), event });
  published.catch((error) => {
    // Refused before it came into the outbox: it is drawn all the same.
    if (page.timeline.own.some((own) => own.id === published.id) || QUIET.includes(error.code)) return;
    const own = { id: published.id, event, data, text: String(data.text ?? ""), state: /** @type {const} */ ("failed"), reason: error.code };
    addOwn([{ ...own, message: error.message, retryAt: null, queuedAt: Date.now() }]);
    keepFailed();
  });
}

/** @param {timelines.Own[]} own */
function addOwn(own) {
  page.timeline = { ...page.timeline, own: [...page.timeline.own, ...own] };
  page.draw();
}

/** The composer of the room or of a thread; set by those who make them. @type {{ room: Composer | null, thread: Composer | null }} */
export const composers = { room: null, thread: null };

/** @param {Folded} message */
export function edit(message) {
  const composer = message.thread !== null && composers.thread !== null ? composers.thread : composers.room;
  composer?.beginEdit("Editing your message", message.text, (text) => saveEdit(message, text), message.files.length > 0);
}

/** @param {Folded} message @param {string} text */
function saveEdit(message, text) {
  if (text === message.text) return;
  const mentions = mentionsIn(text);
  publish("edit", { of: message.serial, text, ...(mentions.length > 0 ? { mentions } : {}) });
}

/** @param {Folded} message */
export function remove(message) {
  publish("delete", { of: message.serial });
}

/** Takes a reaction of ours back, or gives it. @param {Folded} message @param {string} emoji */
export function toggleReaction(message, emoji) {
  // What is on its way counts: two quick presses are one there and one back.
  const pending = page.timeline.own.findLast((own) => own.event === "react" && own.data.of === message.serial && own.data.emoji === emoji);
  const isOn = pending && pending.state !== "failed" ? pending.data.on : message.reactions.some((each) => each.emoji === emoji && each.clients.includes(me));
  publish("react", { of: message.serial, emoji, on: !isOn });
}

/** A button on something of ours that is not in the log. @param {string} id @param {Action} action */
export function act(id, action) {
  const own = page.timeline.own.find((each) => each.id === id);
  if (!own) return;
  if (action === "send-now") {
    client.outbox.retry(id);
    return;
  }
  if (action === "copy") {
    const written = navigator.clipboard.writeText(own.text);
    written.then(() => announce("Copied.")).catch((error) => refused("The text was not copied.", error));
    return;
  }
  if (own.state !== "failed" && !client.outbox.discard(id)) return; // It is on its way.
  page.timeline = timelines.forgetOwn(page.timeline, id);
  keepFailed();
  page.draw();
  const composer = own.data?.thread !== undefined && composers.thread !== null ? composers.thread : composers.room;
  const changed = own.event === "edit" ? page.timeline.fold.get(own.data.of) : null;
  if (action !== "edit") composer?.focus();
  else if (changed) composer?.beginEdit("Editing your message", own.text, (text) => saveEdit(changed, text));
  else composer?.putBack(own.text);
}

/** What failed outlives a reload; what waits is in the outbox. */
export function keepFailed() {
  const failed = page.timeline.own.filter((own) => own.state === "failed" && own.event !== "react");
  memory.keepFailed(room.slug, failed.map(({ id, event, data, text, queuedAt, reason, message }) => ({ id, event, data, text, queuedAt, reason, message })));
}

/** Puts back what had failed before the page was loaded. */
export function restoreFailed() {
  const { own, fold } = page.timeline;
  const known = new Set([...own.map((each) => each.id), ...fold.messages().map((message) => message.id)]);
  const failed = memory.failed(room.slug).filter(({ id }) => !known.has(id));
  if (failed.length === 0) return;
  addOwn(failed.map((each) => ({ event: "message", data: { text: each.text }, ...each, state: "failed", retryAt: null })));
}
