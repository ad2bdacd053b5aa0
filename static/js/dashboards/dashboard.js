// The page of a dashboard: one connection, one attachment for each channel, from history to live; widgets drawn together.

import { connect } from "../connect.js";
import { el, find, icon, isField, pageData, thread } from "../dom.js";
import { drawLine } from "../line-view.js";
import { clockWithSeconds, count, counted } from "../words.js";
import { edit } from "./editor.js";
import { footOf, freshness, goLiveLabel, pausedBadge } from "./freshness.js";
import { ChannelLog, firstFrom } from "./points.js";
import { offerVote } from "./quiz.js";
import { makeWidget, overview } from "./widgets.js";

/** @typedef {import("../../seriatim/channel.js").Channel} Channel */
/** @typedef {import("./widgets.js").Described} Described */

/** Rows of a channel that the page keeps, a minute of 500 a second; the log has the rest. */
const KEPT_MOST = 30_000;
/** So many are read back at most when the page opens. */
const READ_MOST = 10_000;
const PAGE = 500;
/** A page may draw at every frame; eyes do not need more than this while data flood in. */
const DRAW_EVERY_MS = 200;
/** After so long the rest of the widgets waits for the next frame: no task blocks what people do. */
const FRAME_MS = 8;
/** The strip at the foot shows an hour, and of long windows four. */
const STRIP_S = 3600;
const STRIP_WINDOWS = 4;
const STRIP_DRAW_EVERY_MS = 5000;
/** So few that one sees at once what a server does with a subscriber that does not answer. */
const SMALL_WINDOW = 8;

const data = pageData();
const app = find("[data-dashboard]");
/** @type {Described[]} */
const described = data.widgets;
const client = connect({ tokenUrl: app.dataset.tokenUrl ?? "", clientId: data.client });

let windowS = 300;
/** @type {number | null} Unix seconds of the right edge while it stands still. */
let end = null;
let sincePause = 0;
let resumed = 0;
let isLineLive = false;
/** @type {Promise<void> | null} Until it is settled no message is processed: the page plays a slow subscriber. */
let held = null;
let release = () => {};

// ---------------------------------------------------------------- channels

class Followed {
  log = new ChannelLog(KEPT_MOST);
  isAttached = false;
  isFilling = false;
  /** The strip at the foot is drawn of it. */
  isOverview = false;

  /** @param {string} name */
  constructor(name) {
    const inFlight = app.dataset.policies === undefined ? undefined : SMALL_WINDOW;
    this.channel = client.channel(name, { from: "latest", window: inFlight, delta: data.deltas ? "fossil" : null });
    this.channel.on("attached", ({ ref }) => {
      if (this.isAttached && ref !== undefined) resumed += 1;
      this.isAttached = true;
      drawSoon();
    });
    this.channel.on("snapshot", ({ serial }) => {
      this.log.begin(serial);
      void this.fill();
      drawSoon();
    });
    this.channel.on("message", (frame) => {
      if (this.log.take(frame) && !frame.snapshot && end !== null) sincePause += 1;
      drawSoon();
      return held ?? undefined;
    });
    this.channel.on("discontinuity", ({ from, to, reason }) => {
      this.log.skip(from, to, reason);
      drawSoon();
    });
    this.channel.on("progress", () => line?.redraw());
    this.channel.on("detached", ({ error }) => {
      if (error) say(`${name}: ${error.message}`);
    });
    this.channel.attach().catch(() => {});
  }

  /** Reads history until the window that is shown is filled, or nothing older can be had. */
  async fill() {
    if (this.isFilling) return;
    this.isFilling = true;
    try {
      for (;;) {
        const { log } = this;
        const until = end ?? Date.now() / 1000;
        const from = Math.min(until - Math.max(windowS, data.quizRoundS), this.isOverview ? Date.now() / 1000 - stripS() : until);
        if (log.isWhole || (log.rows.length > 0 && log.rows[0].at < from)) break;
        if (end === null && log.rows.length >= READ_MOST) break;
        const page = await this.channel.history({ before: log.low, limit: PAGE });
        if (log !== this.log) break;
        log.older(page);
        if (this.isOverview) stripDrawnAt = -Infinity;
        drawSoon();
      }
    } catch {
      // Refused for good: what is live is shown all the same.
      this.log.isWhole = true;
    } finally {
      this.isFilling = false;
    }
  }

  get isLevel() {
    return isLineLive && this.isAttached && this.channel.behind === 0 && held === null;
  }

  /** @param {number} to */
  rowsThrough(to) {
    return end === null ? this.log.rows : this.log.rows.slice(0, firstFrom(this.log.rows, to));
  }

  /** The newest of each key, as it was at the moment that is shown. @param {readonly import("./points.js").Row[]} rows */
  state(rows) {
    if (end === null) return [...this.log.latest.values()];
    /** @type {Map<string, import("./points.js").Row>} */
    const newest = new Map();
    for (const row of rows) if (row.key !== null) newest.set(row.key, row);
    return [...newest.values()];
  }
}

/** What the page knows of each channel. @type {Map<string, Followed>} */
export const followed = new Map();
/** @param {Described} widget */
const channelOf = (widget) => widget.channel.replace("@speed", data.speed);

// ---------------------------------------------------------------- widgets

const grid = find("[data-grid]");
export const shown = described.map((widget, index) => {
  const id = `widget-${index}`;
  const badge = el("span", { class: "badge slow", hidden: true });
  const header = el("header", {}, el("h2", { id }, widget.title), badge);
  const body = el("div", { class: "body" });
  const foot = el("p", { class: "foot", hidden: true });
  const card = el("section", { class: `w n${widget.span}`, "data-widget": String(index), "data-kind": widget.kind, "aria-labelledby": id }, header, body, foot);
  grid.append(card);
  /** @type {import("./widgets.js").Drawn} */
  const drawn = { level: "", words: "" };
  return { widget, badge, card, foot, draw: makeWidget(widget, body, header), drawn };
});

let isDue = false;
let isDrawing = false;
let drawnAt = 0;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
function drawSoon(isNow = false) {
  isDue = true;
  if (isDrawing || (timer !== undefined && !isNow)) return;
  clearTimeout(timer);
  const wait = isNow ? 0 : Math.max(0, drawnAt + DRAW_EVERY_MS - performance.now());
  timer = setTimeout(() => requestAnimationFrame(draw), wait);
}

async function draw() {
  timer = undefined;
  if (!isDue || isDrawing) return;
  isDue = false;
  isDrawing = true;
  try {
    await drawAll();
  } finally {
    isDrawing = false;
    drawnAt = performance.now();
    // What was asked for meanwhile.
    if (isDue) drawSoon();
  }
}

async function drawAll() {
  let began = performance.now();
  const nowS = Date.now() / 1000;
  const to = end ?? nowS;
  const from = to - windowS;
  let behind = 0;
  const alerts = [];
  for (const each of shown) {
    if (performance.now() - began > FRAME_MS) {
      await new Promise((resolve) => requestAnimationFrame(resolve));
      began = performance.now();
    }
    const source = followed.get(channelOf(each.widget));
    if (source === undefined) continue;
    const rows = source.rowsThrough(to);
    const newest = source.log.rows.at(-1)?.at ?? null;
    const fresh = freshness({ newestAt: newest, nowS, isLevel: source.isLevel });
    const isBehind = fresh.kind === "behind" && end === null;
    if (isBehind) behind += 1;
    const toCome = isBehind && newest !== null ? { from: newest, text: fresh.toCome } : null;
    const drawn = each.draw({ rows, state: source.state(rows), from, to, toCome, isWhole: end !== null || source.isLevel });
    const badge = end === null && fresh.kind !== "live" ? fresh.badge : "";
    each.badge.hidden = badge === "";
    each.badge.textContent = badge;
    each.badge.className = isBehind ? "badge slow" : "badge";
    each.card.className = `w n${each.widget.span}${isBehind ? " late" : ""}${fresh.kind === "live" || end !== null ? "" : " old"} ${drawn.level}`.trim();
    if (drawn.level !== each.drawn.level && drawn.level !== "" && end === null) alerts.push(`${each.widget.title}: ${drawn.words}.`);
    each.drawn = drawn;
    const { log } = source;
    const cutAt = (log.isCut || log.rows.length >= READ_MOST) && log.low > 1 && log.rows[0].at > from ? log.rows[0].at : null;
    const isTally = each.widget.kind === "bar" && each.widget.options.fold !== "newest";
    const foot = footOf({ received: log.received, merged: log.merged, isTally, cutAt });
    each.foot.hidden = foot === "";
    if (each.foot.textContent !== foot) each.foot.textContent = foot;
  }
  if (alerts.length > 0) say(alerts.join(" "));
  drawState(behind, to);
  drawStrip();
  drawLedger();
  app.setAttribute("aria-busy", "false");
}

/** @param {string} sentence */
function say(sentence) {
  const place = find("[data-announce]");
  if (place.textContent !== sentence) place.textContent = sentence;
}

/** @param {number} behind @param {number} to */
function drawState(behind, to) {
  const badge = find("[data-state]");
  const text = end !== null ? pausedBadge(end * 1000) : behind > 0 ? `${counted(behind, "widget")} behind` : "";
  badge.textContent = text;
  badge.hidden = text === "";
  badge.className = `badge ${end !== null ? "accent" : "slow"}`;
  const button = find("[data-pause]");
  const label = end === null ? "Pause" : goLiveLabel(sincePause);
  if (button.dataset.label !== label) {
    button.dataset.label = label;
    button.replaceChildren(icon(end === null ? "pause" : "play", "s"), el("span", {}, label));
    button.classList.toggle("primary", end !== null);
  }
  const words = end !== null ? "Paused" : behind > 0 ? "Behind" : isLineLive ? "Live" : "Waiting";
  const sign = find("[data-sign]");
  if (sign.dataset.drawn !== words) {
    sign.dataset.drawn = words;
    sign.replaceChildren(thread(end !== null ? "connecting" : behind > 0 ? "slow" : isLineLive ? "live" : "connecting"), el("span", {}, words));
  }
  const back = end === null ? 0 : Math.round(to - Date.now() / 1000);
  if (document.activeElement !== scrub) scrub.value = String(back);
  scrub.setAttribute("aria-valuetext", end === null ? `Live, last ${windowWords()}` : `${windowWords()} to ${clockWithSeconds(end * 1000)}`);
}

const scrub = /** @type {HTMLInputElement} */ (find("[data-scrub]"));
/** The widget whose line stands in the strip. */
const overviewed = described.find(({ kind }) => kind === "line" || kind === "area") ?? described.find(({ kind }) => kind === "number");
let stripDrawnAt = -Infinity;
function stripS() {
  return Math.max(STRIP_S, windowS * STRIP_WINDOWS);
}

/** The thumb is the window, and its right edge the moment that is shown. */
function sizeStrip() {
  scrub.min = String(windowS - stripS());
  scrub.style.setProperty("--window", `${(windowS / stripS()) * 100}%`);
  stripDrawnAt = -Infinity;
}

function drawStrip() {
  if (performance.now() - stripDrawnAt < STRIP_DRAW_EVERY_MS) return;
  stripDrawnAt = performance.now();
  const nowS = Date.now() / 1000;
  const from = nowS - stripS();
  const track = find("[data-track]");
  track.querySelectorAll("time").forEach((each, index, { length }) => {
    each.textContent = clockWithSeconds((from + (index / length) * stripS()) * 1000).slice(0, 5);
  });
  const log = overviewed && followed.get(channelOf(overviewed))?.log;
  track.querySelector("path")?.setAttribute("d", overviewed && log ? overview(overviewed, log.rows, from, nowS) : "");
}

function drawLedger() {
  const logs = [...followed.values()].map((each) => each.log);
  /** @param {(log: ChannelLog) => number} of */
  const sum = (of) => count(logs.reduce((total, log) => total + of(log), 0));
  /** @type {Record<string, string>} */
  const words = { received: sum((log) => log.received), merged: sum((log) => log.merged), missing: sum((log) => log.missing), doubled: sum((log) => log.doubled), resumed: String(resumed) };
  for (const [name, text] of Object.entries(words)) {
    const place = find(`[data-ledger="${name}"]`);
    if (place.textContent !== text) place.textContent = text;
  }
}

function windowWords() {
  return windowS < 120 ? `${windowS} s` : windowS < 7200 ? `${windowS / 60} min` : `${windowS / 3600} h`;
}

// ---------------------------------------------------------------- time

/** @param {number | null} seconds */
function showUntil(seconds) {
  const nowS = Date.now() / 1000;
  if (seconds === null || seconds >= nowS) {
    end = null;
    sincePause = 0;
  } else {
    if (end === null) sincePause = 0;
    end = seconds;
  }
  for (const each of followed.values()) void each.fill();
  drawSoon(true);
}

find("[data-pause]").addEventListener("click", () => showUntil(end === null ? Date.now() / 1000 - 0.001 : null));
scrub.addEventListener("input", () => {
  const back = Number(scrub.value);
  showUntil(back === 0 ? null : Date.now() / 1000 + back);
});
for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("[data-window]"))) {
  button.addEventListener("click", () => {
    windowS = Number(button.dataset.window);
    sizeStrip();
    for (const each of document.querySelectorAll("[data-window]")) each.setAttribute("aria-pressed", String(each === button));
    showUntil(end);
  });
}
const full = find("[data-full]");
full.addEventListener("click", () => toggleFull());
function toggleFull() {
  if (document.fullscreenElement) void document.exitFullscreen();
  else void app.requestFullscreen?.().catch(() => {});
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
  if (document.querySelector("dialog[open]") || app.dataset.editing !== undefined) return;
  // A focused button has the space for itself.
  const isOnControl = event.target instanceof Element && event.target.closest("button, a, summary") !== null;
  const step = (windowS / 10) * (event.shiftKey ? 10 : 1);
  if (event.key === " " && !isOnControl) showUntil(end === null ? Date.now() / 1000 - 0.001 : null);
  else if (event.key === "0") showUntil(null);
  else if (event.key === "ArrowLeft") showUntil((end ?? Date.now() / 1000) - step);
  else if (event.key === "ArrowRight" && end !== null) showUntil(end + step);
  else if (event.key === "f") toggleFull();
  else return;
  event.preventDefault();
});

// ---------------------------------------------------------------- falling behind, on purpose

const hold = document.querySelector("[data-hold]");
hold?.addEventListener("click", () => {
  if (held === null) {
    held = new Promise((resolve) => (release = () => resolve()));
    hold.textContent = "Catch up";
    say("You have fallen behind: nothing is processed here, and the server waits.");
  } else {
    held = null;
    release();
    hold.textContent = "Fall behind";
    say("Catching up.");
  }
  hold.setAttribute("aria-pressed", String(held !== null));
  drawSoon(true);
});

// ---------------------------------------------------------------- start

client.connect();
const line = drawLine(client, {
  loginUrl: app.dataset.loginUrl ?? "",
  onShown: (state) => {
    isLineLive = ["live", "slow", "catching_up"].includes(state.name);
    drawSoon();
  },
});
for (const widget of described) {
  const name = channelOf(widget);
  if (!followed.has(name)) followed.set(name, new Followed(name));
}
const ofStrip = overviewed && followed.get(channelOf(overviewed));
if (ofStrip) ofStrip.isOverview = true;
sizeStrip();
const quiz = document.querySelector("[data-quiz]");
if (quiz instanceof HTMLElement) offerVote(quiz, client.channel("quiz:live"));
if (data.canChange) edit({ data, grid, app, say });
// Time goes on also when nothing comes.
setInterval(() => drawSoon(), 1000);
drawSoon(true);
