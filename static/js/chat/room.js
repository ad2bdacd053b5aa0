// The page of a room. Joins the pieces: the client's channel, the timeline (what is there), its view, composer and rail.

import { connect } from "../connect.js";
import { el, find, icon, isField, pageData } from "../dom.js";
import { drawLine } from "../line-view.js";
import { paintPerson } from "../shell.js";
import { clock, count, counted } from "../words.js";
import { Composer } from "./composer.js";
import { gapBanner } from "./copy.js";
import { deviceStorage, RoomMemory } from "./drafts.js";
import { People } from "./people.js";
import { drawDrafts, followOthers, goToNeighbour, sheet } from "./rail.js";
import { Scroller } from "./scroller.js";
import * as timelines from "./timeline.js";
import { TimelineView } from "./timeline-view.js";

/** @typedef {import("../../seriatim/frames.js").MessageFrame} MessageFrame */
/** @typedef {import("../../seriatim/line-state.js").LineState} LineState */
/** @typedef {import("./copy.js").Action} Action */

const PAGE = 50;
/** So many messages stay in the page while one reads at the bottom. */
const KEPT_MOST = 600;
/** The past is asked for this long before one has reached its end. */
const AHEAD_PX = 600;
const LOADING_AFTER_MS = 300;
const MARK_AFTER_MS = 400;
const BATCH_MS = 100;

const data = pageData();
const app = find("[data-room]");
const log = find("[data-log]");
/** @type {string} */
const me = data.client;
const { slug, channel: channelName } = data.room;
const memory = new RoomMemory(me, deviceStorage());
const people = new People(data.names, app.dataset.namesUrl ?? "", () => draw());
const scroller = new Scroller(log);
const view = new TimelineView(find("[data-list]"), act);

let timeline = timelines.emptyTimeline();
/** What is counted for "In this page". */
const ledger = { received: 0, resumed: 0 };
let newBelow = 0;
let isFilled = false;
/** Messages that were in the log when we attached come in a batch: they are drawn together and not read aloud. */
/** @type {MessageFrame[]} */
let batch = [];
/** @type {number | undefined} */
let batchTimer;
/** @type {number | undefined} */
let drawTimer;
/** @type {LineState | null} */
let shownState = null;

const client = connect({ tokenUrl: app.dataset.tokenUrl ?? "", clientId: me, keepsUnsent: true });
const channel = client.channel(channelName, { from: { rewind: PAGE } });

// ---------------------------------------------------------------- the stream

channel.on("attached", ({ epoch, head, serial, ref }) => {
  if (ref === undefined) return; // The log is new: the discontinuity behind it says so, in its place.
  if (!isFilled && timeline.epoch === null) {
    timeline = timelines.beginEpoch(timeline, epoch);
    markNew(epoch, head);
    if (head <= serial) filled();
  } else ledger.resumed += 1;
  draw();
});

channel.on("message", (frame) => {
  ledger.received += 1;
  batch.push(frame);
  const isLast = channel.behind <= 1;
  if (isLast) takeBatch(isFilled && batch.length === 1);
  // More is to come: together with it, unless it takes its time.
  else if (batch.length === 1) batchTimer = setTimeout(() => takeBatch(false), BATCH_MS);
  if (isLast && !isFilled) filled();
});

channel.on("progress", () => line.redraw());

channel.on("discontinuity", ({ from, to, reason, epoch, position }) => {
  takeBatch(false);
  if (from === null || to === null) {
    timeline = timelines.beginEpoch(timeline, epoch);
    const next = position.serial + 1;
    notice("slow", "This room was started anew.", next === 1 ? " Numbers begin again at #1." : ` Numbers go on at #${count(next)}.`);
  } else {
    timeline = timelines.skip(timeline, { from, to, reason });
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
  timeline = timelines.drawOwn(timeline, entry);
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
  if (timeline.epoch === null) timeline = timelines.beginEpoch(timeline, channel.position?.epoch ?? null);
  timeline = timelines.receive(timeline, frames, me);
  const others = frames.filter((frame) => frame.client !== me).length;
  if (!scroller.isAtBottom) newBelow += others;
  else timeline = timelines.keepNewest(timeline, KEPT_MOST);
  log.setAttribute("aria-live", isLive && others > 0 ? "polite" : "off");
  draw();
  if (!isLive && isFilled && others > 1) announce(`${counted(others, "message")} received.`);
  markReadSoon();
}

/** The room's first page is here. */
function filled() {
  if (isFilled) return;
  isFilled = true;
  clearTimeout(loadingTimer);
  find("[data-loading]").hidden = true;
  draw();
  scroller.toBottom();
  const failed = memory.failed(slug);
  for (const { id, text, queuedAt, reason, message } of failed) {
    const own = { id, text, queuedAt, reason, message, state: /** @type {const} */ ("failed"), retryAt: null };
    if (timeline.messages.some((each) => each.id === id) || timeline.own.some((each) => each.id === id)) continue;
    timeline = { ...timeline, own: [...timeline.own, own] };
  }
  if (failed.length > 0) draw();
  void loadPast();
}

/** The line "4 new since 09:52", from where this device has read to. @param {string | null} epoch @param {number} head */
function markNew(epoch, head) {
  const mark = memory.readMark(slug);
  if (mark === null || mark.epoch !== epoch || mark.serial >= head) return;
  timeline = { ...timeline, newSince: { serial: mark.serial, count: head - mark.serial, since: mark.time } };
}

// ---------------------------------------------------------------- the past

let isLoadingPast = false;
let pastError = false;

async function loadPast() {
  if (isLoadingPast || !isFilled || !timelines.hasPast(timeline)) return;
  const wantsMore = timeline.oldest === null || scroller.fromTop < AHEAD_PX || log.scrollHeight <= log.clientHeight;
  if (!wantsMore) return;
  isLoadingPast = true;
  const first = Math.min(timeline.messages[0].serial, ...timeline.gaps.map((gap) => gap.from));
  try {
    const page = await channel.history({ before: first, limit: PAGE });
    pastError = false;
    timeline = timelines.receivePage(timeline, page, me);
    log.setAttribute("aria-live", "off");
    draw();
    const added = page.messages.length;
    if (added > 0 && scroller.fromTop > 0) announce(`${counted(added, "earlier message")}.`);
  } catch {
    // The client has asked again by itself already. Scrolling up asks once more.
    pastError = true;
  } finally {
    isLoadingPast = false;
  }
  if (!pastError && (scroller.fromTop < AHEAD_PX || log.scrollHeight <= log.clientHeight)) void loadPast();
}

// ---------------------------------------------------------------- our own

/** @param {string} text */
function send(text) {
  if (timeline.newSince !== null) timeline = { ...timeline, newSince: null };
  // A failure is drawn from the outbox; nothing else waits for the promise.
  const published = channel.publish({ text }, { id: client.newId() });
  published.catch((error) => {
    // Refused before it came into the outbox: it is drawn all the same.
    if (timeline.own.some((own) => own.id === published.id) || ["discarded", "closed", "identity"].includes(error.code)) return;
    const own = { id: published.id, text, state: /** @type {const} */ ("failed"), reason: error.code, message: error.message };
    timeline = { ...timeline, own: [...timeline.own, { ...own, retryAt: null, queuedAt: Date.now() }] };
    keepFailed();
    draw();
  });
  scroller.toBottom();
  draw();
}

/** @param {string} id @param {Action} action */
function act(id, action) {
  const own = timeline.own.find((each) => each.id === id);
  if (!own) return;
  if (action === "send-now") {
    client.outbox.retry(id);
    return;
  }
  if (action === "copy") {
    void navigator.clipboard.writeText(own.text).then(() => announce("Copied."));
    return;
  }
  if (own.state !== "failed" && !client.outbox.discard(id)) return; // It is on its way.
  timeline = timelines.forgetOwn(timeline, id);
  keepFailed();
  draw();
  if (action === "edit") composer.putBack(own.text);
  else composer.focus();
}

function keepFailed() {
  const failed = timeline.own.filter((own) => own.state === "failed");
  memory.keepFailed(slug, failed.map(({ id, text, queuedAt, reason, message }) => ({ id, text, queuedAt, reason, message })));
}

// ---------------------------------------------------------------- drawing

function draw() {
  clearTimeout(drawTimer);
  const now = Date.now();
  /** @type {number | null} */
  let againAt = null;
  scroller.around(() => {
    const rows = isFilled || timeline.own.length > 0 ? timelines.rowsOf(timeline, now, me) : [];
    againAt = view.draw(rows, { me, now, retentionDays: data.retentionDays, nameOf: (client) => people.nameOf(client) });
    drawEmpty();
  });
  drawFoot();
  drawPill();
  drawAside();
  if (againAt !== null) drawTimer = setTimeout(draw, Math.max(16, againAt - now));
}

function drawEmpty() {
  const isEmpty = isFilled && timeline.messages.length === 0 && timeline.own.length === 0 && timeline.gaps.length === 0;
  const old = log.querySelector("[data-empty]");
  if (!isEmpty) old?.remove();
  else if (!old) {
    const next = (channel.position?.serial ?? 0) + 1;
    log.append(
      el(
        "div",
        { class: "empty", "data-empty": true },
        el("h2", {}, "Nothing said yet"),
        el("p", {}, `You are first: your message will be #${count(next)}.`),
      ),
    );
  }
}

function drawFoot() {
  const place = find("[data-order]");
  // A message is drawn a moment before the channel counts it as processed.
  const at = Math.max(channel.position?.serial ?? 0, timeline.messages[timeline.messages.length - 1]?.serial ?? 0);
  if (!isFilled || at === 0) {
    place.textContent = "";
    return;
  }
  const isAway = shownState !== null && ["offline", "connecting", "waiting", "signed_out", "stopped"].includes(shownState.name);
  const behind = channel.head > at && !isAway ? ` of #${count(channel.head)}` : "";
  const when = isAway && shownState?.lostAt ? ` at ${clock(shownState.lostAt)}` : "";
  place.textContent = `In order through #${count(at)}${behind}${when}`;
}

function drawPill() {
  if (scroller.isAtBottom) newBelow = 0;
  const pill = find("[data-pill]");
  pill.hidden = scroller.isAtBottom;
  find("[data-pill-text]").textContent = newBelow > 0 ? `${count(newBelow)} new below` : "Newest";
  pill.classList.toggle("calm", newBelow === 0);
}

let drawnPeople = "";

function drawAside() {
  const { messages } = timeline;
  /** @param {string} name @param {string} value */
  const put = (name, value) => {
    const place = find(`[data-ledger="${name}"]`);
    if (place.textContent !== value) place.textContent = value;
  };
  const missing = timelines.missing(timeline);
  put("range", messages.length === 0 ? "–" : `#${count(messages[0].serial)} to #${count(messages[messages.length - 1].serial)}`);
  put("received", count(ledger.received));
  put("resumed", ledger.resumed === 0 ? "not needed" : counted(ledger.resumed, "time"));
  put("missing", count(missing));
  put("doubled", count(timeline.doubled));
  const list = find("[data-people]");
  if (list.hasAttribute("data-members")) return;
  const lately = [...new Set([...messages].reverse().map((message) => message.client))].slice(0, 8);
  const signature = lately.map((client) => people.nameOf(client)).join("|");
  if (signature === drawnPeople) return;
  drawnPeople = signature;
  list.replaceChildren(
    ...lately.map((client) => {
      const portrait = el("span", { class: "av s", "aria-hidden": "true" });
      paintPerson(portrait, client ?? "", people.nameOf(client));
      return el("li", {}, portrait, el("span", { class: "ell" }, people.nameOf(client)));
    }),
  );
}

/** @param {string} kind @param {string} strong @param {string} text */
function notice(kind, strong, text) {
  const close = el("button", { class: "link", type: "button" }, "Close");
  const banner = el("div", { class: `banner ${kind}` }, icon("warn"), el("span", { class: "grow" }, el("b", {}, strong), text), close);
  close.addEventListener("click", () => {
    banner.remove();
    composer.focus();
  });
  find("[data-notice-banner]").replaceChildren(banner);
}

/** @param {string} sentence */
function announce(sentence) {
  find("[data-announce]").textContent = sentence;
}

// ---------------------------------------------------------------- reading

/** @type {number | undefined} */
let markTimer;

function markReadSoon() {
  clearTimeout(markTimer);
  markTimer = setTimeout(() => {
    const last = timeline.messages[timeline.messages.length - 1];
    if (!last || !isFilled || !scroller.isAtBottom || document.visibilityState !== "visible") return;
    memory.keepReadMark(slug, { epoch: timeline.epoch, serial: last.serial, time: Date.now() });
  }, MARK_AFTER_MS);
}

scroller.onMove = () => {
  drawPill();
  markReadSoon();
  void loadPast();
};
document.addEventListener("visibilitychange", markReadSoon);

find("[data-pill]").addEventListener("click", () => {
  scroller.toBottom();
  drawPill();
  composer.focus();
});

// ---------------------------------------------------------------- writing

const composer = new Composer(/** @type {HTMLFormElement} */ (find("[data-composer]")), {
  draft: memory.draft(slug),
  most: data.textMost,
  keep: (text) => {
    const isKept = memory.keepDraft(slug, text);
    drawDrafts(memory);
    return isKept;
  },
  send,
});

// ---------------------------------------------------------------- keys

addEventListener("keydown", (event) => {
  if (event.defaultPrevented) return;
  if (goToNeighbour(event)) return event.preventDefault();
  if (event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
  const inLog = event.target instanceof Element && log.contains(event.target);
  if (event.key === "c" || (event.key === "Enter" && inLog && event.target instanceof HTMLLIElement)) {
    event.preventDefault();
    composer.focus();
  } else if (event.key === "End") {
    event.preventDefault();
    scroller.toBottom();
    drawPill();
  } else if (event.key === "j" || event.key === "k" || (inLog && (event.key === "ArrowDown" || event.key === "ArrowUp"))) {
    event.preventDefault();
    step(event.key === "j" || event.key === "ArrowDown" ? 1 : -1);
  }
});

/** Moves the focus to the next message, or from nowhere to the newest. @param {1 | -1} by */
function step(by) {
  const all = /** @type {HTMLElement[]} */ ([...log.querySelectorAll("li.msg")]);
  const here = all.findIndex((node) => node === document.activeElement);
  const next = here < 0 ? all[all.length - 1] : all[here + by];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest" });
}

// ---------------------------------------------------------------- start

const loadingTimer = setTimeout(() => {
  find("[data-loading]").hidden = isFilled;
}, LOADING_AFTER_MS);

const bar = find("header.bar");
const main = find("#main");
const rail = find("#rail");
const side = find("#side");
sheet({ sheet: rail, opener: find("[data-drawer-open]"), closer: find("[data-drawer-close]"), rest: [bar, main, side], bodyClass: "drawer" });
sheet({ sheet: side, opener: find("[data-side-open]"), closer: find("[data-side-close]"), rest: [bar, main, rail], bodyClass: "about-open" });

drawDrafts(memory);
client.connect();
const line = drawLine(client, {
  loginUrl: app.dataset.loginUrl ?? "",
  behind: () => (isFilled ? channel.behind : 0),
  onShown: (state) => {
    shownState = state;
    find("[data-me-line]").textContent =
      state.name === "live" || state.name === "slow" ? "Here" : state.name === "offline" ? "Offline on this device" : "Connecting";
    drawFoot();
  },
});
channel.attach().catch(() => {});
followOthers(client, memory);
