// A thread, beside the room: its first message, the replies, and a field to write one.

import { find } from "../dom.js";
import { ask } from "./api.js";
import { Composer } from "./composer.js";
import { Mentions } from "./mentions.js";
import { data, me, memory, nameOf, page, refused, room, rowContext } from "./page.js";
import { threadRows } from "./rows.js";
import { composers, send } from "./sending.js";
import { closeSide, openSide, showInSide } from "./side.js";
import { Scroller } from "./scroller.js";
import { receiveFolded } from "./timeline.js";
import { TimelineView } from "./timeline-view.js";

const box = find("[data-thread-log]");
const list = find("[data-thread-list]");
const form = /** @type {HTMLFormElement} */ (find("[data-thread-composer]"));
const also = /** @type {HTMLInputElement} */ (find("[data-also]"));
const scroller = new Scroller(box);
const view = new TimelineView(list);

/** @type {number | null} */
let first = null;

const composer = new Composer(form, {
  draft: "",
  most: data.textMost,
  keep: (text) => first !== null && memory.keepDraft(`${room.slug}/${first}`, text),
  send: (text) => {
    if (first === null) return;
    scroller.follow();
    send(text, { thread: first, also: also.checked });
    also.checked = false;
  },
});
new Mentions(composer.field);

export const threadList = list;

/** @param {number} serial Of its first message. */
export async function openThread(serial) {
  first = serial;
  composers.thread = composer;
  showInSide("thread");
  scroller.follow();
  drawThread();
  composer.replace(memory.draft(`${room.slug}/${serial}`));
  openSide();
  composer.focus();
  try {
    const answer = await ask("GET", `/chat/${room.slug}/page`, { thread: serial, limit: 100 });
    if (answer.epoch !== page.timeline.epoch) return;
    // Its messages lie here and there in the log: no range is known by them.
    page.timeline = receiveFolded(page.timeline, { ...answer, oldest: page.timeline.oldest ?? 1, from: 1, to: 0 });
    page.draw();
  } catch (error) {
    if (page.timeline.fold.get(serial) === null) refused("The thread cannot be shown.", error);
  }
}

export function closeThread() {
  first = null;
  composers.thread = null;
  view.follow();
  showInSide("about");
  closeSide();
}

/** Whether a thread is open. */
export const isThreadOpen = () => first !== null;

export function drawThread() {
  const serial = first;
  if (serial === null) return;
  const root = page.timeline.fold.get(serial);
  composer.field.placeholder = root ? `Reply to ${nameOf(root.client)}` : "Reply";
  scroller.around(() => view.draw(threadRows(page.timeline, serial, Date.now(), me), rowContext("t"), true));
}

find("[data-thread-close]").addEventListener("click", closeThread);
