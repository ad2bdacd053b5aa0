// The page of the weather mast: one channel, from history to live, drawn as figures, charts and a table.

import { connect } from "../connect.js";
import { el, find, icon, isField, pageData, thread } from "../dom.js";
import { drawLine } from "../line-view.js";
import { clockWithSeconds, count, counted } from "../words.js";
import { Chart } from "./chart.js";
import { freshness, goLiveLabel, pausedBadge } from "./freshness.js";
import * as series from "./series.js";

/** @typedef {import("./series.js").Measure} Measure */
/** @typedef {import("./series.js").Reading} Reading */
/** @typedef {import("../../seriatim/line-state.js").LineState} LineState */

/** An hour of readings; older ones leave the page, not the log. */
const KEPT_MOST = 3600;
const TABLE_ROWS = { few: 5, many: 60 };
const NAME_EVERY_MS = 10_000;
const SPARK = { width: 120, height: 30 };

/** @type {Record<Measure, (value: number) => string>} */
const FORMAT = {
  wind: (value) => value.toFixed(1),
  gust: (value) => value.toFixed(1),
  temperature: (value) => value.toFixed(1),
  visitors: (value) => count(Math.round(value)),
};
/** @type {Record<Measure, number>} What the height of a small curve stands for at least. */
const LEAST_SPAN = { wind: 8, gust: 8, temperature: 2, visitors: 100 };
/** @type {Record<Measure, string>} */
const UNIT = { wind: "km/h", gust: "km/h", temperature: "°C", visitors: "on the quay" };

const data = pageData();
const app = find("[data-dashboard]");
const periodS = data.periodS;

/** @type {Reading[]} */
let readings = [];
/** @type {Reading[]} What came since the last frame of drawing. */
let fresh = [];
let windowS = 300;
/** @type {number | null} Unix milliseconds. */
let pausedAt = null;
/** @type {Reading[]} What was there when the drawing was paused. */
let frozen = [];
let sincePause = 0;
const ledger = { received: 0, doubled: 0, skipped: 0, resumed: 0, lastSerial: 0 };
/** @type {LineState | null} */
let shownState = null;
let isAttached = false;
let isDue = false;
let tableIsLong = false;

const client = connect({ tokenUrl: app.dataset.tokenUrl ?? "", clientId: data.client });
const channel = client.channel(data.channel, { from: { rewind: data.rewind } });

// ---------------------------------------------------------------- the stream

channel.on("attached", ({ ref }) => {
  if (isAttached && ref !== undefined) ledger.resumed += 1;
  isAttached = true;
  drawSoon();
});

channel.on("message", (frame) => {
  ledger.received += 1;
  if (frame.serial <= ledger.lastSerial) ledger.doubled += 1;
  ledger.lastSerial = Math.max(ledger.lastSerial, frame.serial);
  const reading = series.toReading(frame);
  if (reading === null) return;
  fresh.push(reading);
  if (pausedAt !== null) sincePause += 1;
  drawSoon();
});

channel.on("discontinuity", ({ from, to }) => {
  // Without numbers the log is another, and what is in it comes again.
  if (from !== null && to !== null) ledger.skipped += to - from + 1;
  else ledger.lastSerial = 0;
  drawSoon();
});

channel.on("progress", () => line.redraw());

// ---------------------------------------------------------------- drawing

const windChart = new Chart(find("[data-chart=wind]"), {
  lines: [
    { measure: "wind", label: "Wind", colour: "--series-1", fill: true },
    { measure: "gust", label: "Gusts", colour: "--series-2", dash: [6, 3] },
  ],
  format: (value) => value.toFixed(0),
  least: 48,
  limit: { value: data.limitKmh, label: `canopy down above ${data.limitKmh} km/h` },
});
const visitorsChart = new Chart(find("[data-chart=visitors]"), {
  lines: [{ measure: "visitors", label: "Visitors", colour: "--series-3", fill: true }],
  format: (value) => count(Math.round(value)),
  least: 500,
});

function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  if (fresh.length > 0) {
    readings = series.add(readings, fresh, KEPT_MOST);
    fresh = [];
  }
  const nowMs = pausedAt ?? Date.now();
  const to = nowMs / 1000;
  const from = to - windowS;
  const seen = pausedAt === null ? readings : frozen;
  const newest = seen[seen.length - 1] ?? null;
  const isLevel = shownState !== null && ["live", "slow"].includes(shownState.name) && channel.behind === 0 && isAttached;
  const state = freshness({ newestAt: newest?.at ?? null, nowS: to, isLevel });
  const shown = series.between(seen, from, to);
  const holes = series.holes(shown, periodS);
  const toCome = newest && state.toCome ? { from: newest.at, text: state.toCome } : null;

  windChart.draw({ data: series.columns(shown, ["wind", "gust"], periodS), from, to, holes, toCome });
  visitorsChart.draw({ data: series.columns(shown, ["visitors"], periodS), from, to, holes, toCome });
  for (const measure of /** @type {Measure[]} */ (["wind", "gust", "temperature", "visitors"])) {
    drawFigure(measure, newest, shown, { from, to, isOld: state.kind === "behind" || state.kind === "quiet" });
  }
  drawState(state);
  drawHoles(holes);
  drawTable(seen);
  drawLedger();
  nameCharts(shown, nowMs);
  app.setAttribute("aria-busy", "false");
}

/**
 * @param {Measure} measure
 * @param {Reading | null} newest
 * @param {readonly Reading[]} shown
 * @param {{ from: number, to: number, isOld: boolean }} view
 */
function drawFigure(measure, newest, shown, { from, to, isOld }) {
  const card = find(`[data-figure=${measure}]`);
  find("[data-value]", card).textContent = newest === null ? "–" : FORMAT[measure](newest[measure]);
  find("[data-unit]", card).textContent =
    newest !== null && isOld ? `${UNIT[measure]} at ${clockWithSeconds(newest.at * 1000)}` : UNIT[measure];
  card.classList.toggle("old", isOld);
  const range = series.extent(shown, measure);
  find("[data-range]", card).textContent = range === null ? "" : `${FORMAT[measure](range.low)} to ${FORMAT[measure](range.high)} in ${windowWords()}`;
  find("path", card).setAttribute("d", series.sparkline(shown, measure, { from, to, ...SPARK, periodS, leastSpan: LEAST_SPAN[measure] }));
  if (measure === "gust") card.classList.toggle("bad", range !== null && range.high > data.limitKmh);
}

let drawnBadge = "";

/** @param {import("./freshness.js").Freshness} state */
function drawState(state) {
  const badge = find("[data-state]");
  const text = pausedAt !== null ? pausedBadge(pausedAt) : state.badge;
  badge.textContent = text;
  badge.className = `badge ${pausedAt !== null ? "accent" : state.kind === "behind" ? "slow" : ""}`.trim();
  badge.hidden = text === "";
  for (const card of document.querySelectorAll("[data-late]")) card.classList.toggle("warn", state.kind === "behind" && pausedAt === null);
  // The kind is announced, the seconds are not.
  const kind = pausedAt !== null ? "paused" : state.kind;
  if (kind !== drawnBadge) {
    drawnBadge = kind;
    find("[data-announce]").textContent = kind === "live" ? "" : text;
  }
  const button = find("[data-pause]");
  const label = pausedAt === null ? "Pause" : goLiveLabel(sincePause);
  if (button.dataset.label !== label) {
    button.dataset.label = label;
    button.replaceChildren(icon(pausedAt === null ? "pause" : "play", "s"), el("span", {}, label));
    button.classList.toggle("primary", pausedAt !== null);
  }
  const glyph = pausedAt !== null ? "connecting" : state.kind === "behind" ? "slow" : state.kind === "live" ? "live" : "connecting";
  const sign = find("[data-sign]");
  const words = pausedAt !== null ? "Paused" : state.kind === "live" ? `Live, last ${windowWords()}` : text || "Waiting for the first reading";
  if (sign.dataset.drawn !== `${glyph}${words}`) {
    sign.dataset.drawn = `${glyph}${words}`;
    sign.replaceChildren(thread(glyph), el("span", {}, words));
  }
}

/** @param {readonly series.Hole[]} holes */
function drawHoles(holes) {
  const note = find("[data-holes]");
  const missing = holes.reduce((sum, hole) => sum + hole.missing, 0);
  const silent = holes.filter((hole) => hole.missing === 0).length;
  const words = [
    missing > 0 ? `${counted(missing, "reading")} can’t be had` : "",
    silent > 0 ? `${counted(silent, "pause")} in which the mast sent nothing` : "",
  ].filter((word) => word !== "");
  note.textContent = words.length === 0 ? "" : `Hatched: ${words.join("; ")}.`;
}

/** @param {readonly Reading[]} seen */
function drawTable(seen) {
  const body = find("[data-table] tbody");
  const newest = seen.slice(-(tableIsLong ? TABLE_ROWS.many : TABLE_ROWS.few)).reverse();
  const signature = `${newest[0]?.serial} ${newest.length}`;
  if (body.dataset.drawn === signature) return;
  body.dataset.drawn = signature;
  body.replaceChildren(
    ...newest.map((reading) =>
      el(
        "tr",
        {},
        el("td", { class: "mono" }, `#${reading.serial}`),
        el("td", {}, clockWithSeconds(reading.at * 1000)),
        ...(/** @type {Measure[]} */ (["wind", "gust", "temperature", "visitors"]).map((measure) => el("td", { class: "n" }, FORMAT[measure](reading[measure])))),
      ),
    ),
  );
}

function drawLedger() {
  /** @param {string} name @param {string} value */
  const put = (name, value) => {
    const place = find(`[data-ledger="${name}"]`);
    if (place.textContent !== value) place.textContent = value;
  };
  put("through", ledger.lastSerial === 0 ? "–" : `#${count(ledger.lastSerial)}`);
  put("received", count(ledger.received));
  put("resumed", ledger.resumed === 0 ? "not needed" : counted(ledger.resumed, "time"));
  put("missing", count(ledger.skipped));
  put("doubled", count(ledger.doubled));
}

let namedAt = 0;

/** A chart is an image: its name says what one would see. @param {readonly Reading[]} shown @param {number} nowMs */
function nameCharts(shown, nowMs) {
  if (nowMs - namedAt < NAME_EVERY_MS && shown.length > 0 && namedAt !== 0) return;
  namedAt = shown.length > 0 ? nowMs : 0;
  const newest = shown[shown.length - 1];
  /** @param {Measure} measure */
  const words = (measure) => {
    const range = series.extent(shown, measure);
    return range === null ? "no readings" : `${FORMAT[measure](range.low)} to ${FORMAT[measure](range.high)}, now ${FORMAT[measure](newest[measure])}`;
  };
  find("[data-chart=wind]").setAttribute("aria-label", `Last ${windowWords()}. Wind ${words("wind")} km/h; gusts ${words("gust")}; limit ${data.limitKmh}.`);
  find("[data-chart=visitors]").setAttribute("aria-label", `Last ${windowWords()}. Visitors ${words("visitors")}.`);
}

function windowWords() {
  return windowS < 120 ? `${windowS} s` : `${windowS / 60} min`;
}

// ---------------------------------------------------------------- what one can do

function togglePause() {
  pausedAt = pausedAt === null ? Date.now() : null;
  frozen = pausedAt === null ? [] : readings;
  sincePause = 0;
  draw();
}

find("[data-pause]").addEventListener("click", togglePause);
for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("[data-window]"))) {
  button.addEventListener("click", () => {
    windowS = Number(button.dataset.window);
    for (const each of document.querySelectorAll("[data-window]")) each.setAttribute("aria-pressed", String(each === button));
    namedAt = 0;
    draw();
  });
}
const tableButton = find("[data-table-toggle]");
tableButton.addEventListener("click", () => {
  tableIsLong = !tableIsLong;
  tableButton.setAttribute("aria-expanded", String(tableIsLong));
  find("span", tableButton).textContent = `Show the last ${tableIsLong ? TABLE_ROWS.few : TABLE_ROWS.many}`;
  draw();
});
addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
  // A focused button has the space for itself.
  const isOnControl = event.target instanceof Element && event.target.closest("button, a, summary") !== null;
  if (event.key === " " && !isOnControl) {
    event.preventDefault();
    togglePause();
  } else if (event.key === "0" && pausedAt !== null) togglePause();
});

// ---------------------------------------------------------------- start

client.connect();
const line = drawLine(client, {
  loginUrl: app.dataset.loginUrl ?? "",
  behind: () => channel.behind,
  onShown: (state) => {
    shownState = state;
    drawSoon();
  },
});
channel.attach().catch(() => {});
// Time goes on also when nothing comes.
setInterval(drawSoon, 1000);
draw();
