// The page of a room. Joins the pieces: the channel's stream, the timeline (what is there), its view, composer and rail.

import { find } from "../dom.js";
import { drawLine } from "../line-view.js";
import { count, counted } from "../words.js";
import { giveActions } from "./actions.js";
import { Attachments } from "./attach.js";
import { Composer } from "./composer.js";
import { gapBanner, placeholderText } from "./copy.js";
import { openMenu } from "./dialog.js";
import { draw, drawFoot, drawPill, ledger } from "./draw.js";
import { pickEmoji } from "./emoji.js";
import { drawHere, drawTyping, loadMembers, sayTyping, stopsTyping } from "./here.js";
import "./keys.js";
import { openAudit, openInvite, openMembers } from "./members.js";
import { Mentions } from "./mentions.js";
import { announce, app, channel, client, data, isAway, isModerator, log, me, memory, notice, page, room, scroller, view } from "./page.js";
import { jumpTo, lookAround, showNewest } from "./past.js";
import { openPictures } from "./picture.js";
import { drawDrafts, drawWhereabouts, followInbox, isQuiet, reloadRooms, setQuiet } from "./rail.js";
import { furthest, markReadSoon } from "./reading.js";
import { openRooms, roomActions } from "./rooms.js";
import { composers, edit, keepFailed, restoreFailed, send } from "./sending.js";
import { sheet } from "./sheet.js";
import { openThread, threadList } from "./thread.js";
import * as timelines from "./timeline.js";
import { beHere, drawMe } from "./whereabouts.js";

/** @typedef {import("../../seriatim/frames.js").MessageFrame} MessageFrame */

/** So many messages stay known while one reads at the bottom. */
const KEPT_MOST = 2000;
const LOADING_AFTER_MS = 300;
const BATCH_MS = 100;

page.draw = draw;
scroller.isNewest = () => view.beyond.below === 0 && !timelines.hasFuture(page.timeline);

// ---------------------------------------------------------------- the stream

/** Messages that were in the log when we attached come in a batch: they are drawn together and not read aloud. */
/** @type {MessageFrame[]} */
let batch = [];
/** @type {number | undefined} */
let batchTimer;

channel.on("attached", ({ epoch, head, serial, ref }) => {
  if (ref === undefined) return; // The log is new: the discontinuity behind it says so, in its place.
  if (!page.isFilled && page.timeline.epoch === null) {
    page.timeline = timelines.beginEpoch(page.timeline, epoch);
    if (head <= serial) filled();
  } else ledger.resumed += 1;
  draw();
});

channel.on("message", (frame) => {
  ledger.received += 1;
  batch.push(frame);
  const isLast = channel.behind <= 1;
  if (isLast) takeBatch(page.isFilled && batch.length === 1);
  // More is to come: together with it, unless it takes its time.
  else if (batch.length === 1) batchTimer = setTimeout(() => takeBatch(false), BATCH_MS);
  if (isLast && !page.isFilled) filled();
});

channel.on("progress", () => line.redraw());

channel.on("discontinuity", ({ from, to, reason, epoch, position }) => {
  takeBatch(false);
  if (from === null || to === null) {
    page.timeline = timelines.beginEpoch(page.timeline, epoch);
    const next = position.serial + 1;
    notice("slow", "This room was started anew.", next === 1 ? " Numbers begin again at #1." : ` Numbers go on at #${count(next)}.`);
  } else {
    page.timeline = timelines.skip(page.timeline, { from, to, reason });
    const { strong, text } = gapBanner({ from, to, reason }, data.retentionDays);
    notice("slow", strong, text);
  }
  draw();
});

channel.on("detached", ({ reason }) => {
  if (reason === "asked") return;
  const why = reason === "forbidden" ? " You can no longer read here." : ` The server ended it: ${reason}.`;
  notice("danger", "This room is closed to you.", why);
});

channel.on("outbox", (entry) => {
  page.timeline = timelines.drawOwn(page.timeline, entry);
  if (entry.state === "failed" || entry.state === "sent") keepFailed();
  draw();
});

/** @param {boolean} isLive One message, as it was said: it is read aloud. */
function takeBatch(isLive) {
  clearTimeout(batchTimer);
  const frames = batch;
  if (frames.length === 0) return;
  batch = [];
  // The first message ever: until now there was no log.
  if (page.timeline.epoch === null) page.timeline = timelines.beginEpoch(page.timeline, channel.position?.epoch ?? null);
  page.timeline = timelines.receive(page.timeline, frames, me);
  const others = frames.filter(({ event, client: by, data: said }) => event === "message" && by !== me && (!said?.thread || said.also)).length;
  if (!scroller.isAtBottom) page.newBelow += others;
  else page.timeline = timelines.keepNewest(page.timeline, KEPT_MOST);
  log.setAttribute("aria-live", isLive && others > 0 ? "polite" : "off");
  draw();
  for (const { event, client: by } of frames) if (event === "message") stopsTyping(by);
  if (frames.some(({ event }) => event === "member" || event === "room")) {
    void loadMembers();
    reloadRooms();
  }
  if (!isLive && page.isFilled && others > 1) announce(`${counted(others, "message")} received.`);
  markReadSoon();
}

/** The room's first page is here. */
function filled() {
  if (page.isFilled) return;
  page.isFilled = true;
  clearTimeout(loadingTimer);
  find("[data-loading]").hidden = true;
  const mark = furthest([memory.readMark(room.slug), data.seen], page.timeline.epoch);
  if (mark !== null) page.timeline = timelines.markNew(page.timeline, mark, me);
  draw();
  scroller.toBottom();
  restoreFailed();
  lookAround();
  followHash();
}

/** A link to a message leads there. */
function followHash() {
  const serial = /^#m(\d{1,15})$/.exec(location.hash)?.[1];
  if (serial !== undefined && page.isFilled) void jumpTo(Number(serial)).then((isThere) => isThere && openThreadOf(Number(serial)));
}

/** A reply stands in its thread alone. @param {number} serial */
function openThreadOf(serial) {
  const message = page.timeline.fold.get(serial);
  if (message && message.thread !== null && !message.also) void openThread(message.thread);
}

addEventListener("hashchange", followHash);

// ---------------------------------------------------------------- reading

scroller.onMove = () => {
  drawPill();
  markReadSoon();
  lookAround();
};

find("[data-pill]").addEventListener("click", () => {
  showNewest();
  composer.focus();
});

// ---------------------------------------------------------------- writing

const form = /** @type {HTMLFormElement} */ (find("[data-composer]"));
/** @type {Composer} */
const composer = new Composer(form, {
  draft: memory.draft(room.slug),
  most: data.textMost,
  keep: (text) => {
    const isKept = memory.keepDraft(room.slug, text);
    drawDrafts();
    return isKept;
  },
  send: (text) => send(text, { files: attachments.take() }),
  needs: () => {
    if (attachments.state === "wait") composer.say(attachments.reason);
    return attachments.state === "wait" ? "wait" : attachments.state === "ready" ? "nothing" : "text";
  },
  onTyping: sayTyping,
  onUp: () => {
    const last = timelines.shownMessages(page.timeline).findLast((each) => each.client === me && each.deleted === null);
    if (last) edit(last);
  },
});
composers.room = composer;
new Mentions(composer.field);
/** @type {Attachments} */
const attachments = new Attachments({
  url: `/chat/${room.slug}/files`,
  list: find("[data-going]"),
  input: /** @type {HTMLInputElement} */ (find("[data-file]")),
  opener: find("[data-attach]"),
  field: composer.field,
  dropZone: find("#main"),
});
const emojiButton = find("[data-emoji]");
emojiButton.addEventListener("click", () => pickEmoji(emojiButton, (emoji) => composer.insert(`${emoji} `)));
find("[data-mention]").addEventListener("click", () => composer.insert("@"));

giveActions(find("[data-list]"));
giveActions(threadList);
openPictures(find("[data-list]"));
openPictures(threadList);

// ---------------------------------------------------------------- the room

find("[data-new-room]").addEventListener("click", openRooms);
find("[data-here-count]").addEventListener("click", openMembers);
const settings = find("[data-settings]");
settings.addEventListener("click", () =>
  openMenu(settings, "This room", [
    { label: "Members", run: openMembers },
    ...(room.kind === "direct" ? [] : [{ label: "Invite somebody", run: openInvite }]),
    ...(isModerator() ? [{ label: "Record of moderation", run: openAudit }] : []),
    { label: isQuiet() ? "Count all new messages" : "Quiet: count mentions only", run: setQuiet },
    ...roomActions(),
  ]),
);

/** @type {ReturnType<typeof setTimeout> | undefined} */
let mutedTimer;

/** What the server says about this room now. */
addEventListener("rooms", () => {
  find("[data-topic]").textContent = room.topic ?? "";
  find("[data-about-topic]").textContent = room.topic || "No topic yet.";
  find("[data-room-name]").textContent = room.name;
  drawPlaceholder();
});

function drawPlaceholder() {
  clearTimeout(mutedTimer);
  const until = room.muted_until ?? null;
  composer.field.placeholder = placeholderText(room.name, room.kind === "direct", until, Date.now());
  const left = (until ?? 0) - Date.now();
  // No longer than a timer can: the next news of the rooms draws it again.
  if (left > 0) mutedTimer = setTimeout(drawPlaceholder, Math.min(left + 1000, 86_400_000));
}
drawPlaceholder();

// ---------------------------------------------------------------- start

const loadingTimer = setTimeout(() => {
  find("[data-loading]").hidden = page.isFilled;
}, LOADING_AFTER_MS);

const rail = find("#rail");
const rest = [find("header.bar"), find("#main"), find("#side")];
sheet({ sheet: rail, opener: find("[data-drawer-open]"), closer: find("[data-drawer-close]"), rest, bodyClass: "drawer" });

drawDrafts();
client.connect();
const line = drawLine(client, {
  loginUrl: app.dataset.loginUrl ?? "",
  behind: () => (page.isFilled ? channel.behind : 0),
  onShown: (state) => {
    page.line = state;
    drawMe();
    drawWhereabouts();
    drawFoot();
    drawHere();
    drawTyping();
    if (!isAway()) markReadSoon();
  },
});
channel.attach().catch(() => {});
// Refused: others do not see us, and nothing else changes. The client enters again by itself after a break.
channel.presence.enter().catch(() => {});
beHere();
followInbox();
void loadMembers();
