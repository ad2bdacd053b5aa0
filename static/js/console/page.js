// The console's page: one session, its line drawn, its frames listed. What is decided is in session.js and the pure files.

import { Backoff } from "../../seriatim/backoff.js";
import { systemClock } from "../../seriatim/clock.js";
import { meantCode, reconnectAfter } from "../../seriatim/codes.js";
import { Connection } from "../../seriatim/connection.js";
import { DataReader } from "../../seriatim/data-reader.js";
import { idMaker, strongRandom } from "../../seriatim/ids.js";
import { size } from "../cursors/meter.js";
import { el, find, icon, isField, pageData, thread } from "../dom.js";
import { clockWithSeconds, count, latency } from "../words.js";
import { FrameList } from "./frame-list.js";
import { FrameLog, highlight, passes } from "./frame-log.js";
import { Session } from "./session.js";
import { describe, fateOf } from "./states.js";
import { beadsIn, drawTimeline } from "./timeline-view.js";
import { timeline } from "./timeline.js";
import { TRANSPORTS } from "./transports.js";

/** @typedef {import("./frame-log.js").Row} Row */

const PUBLISH_MOST = 100;
/** Characters of a message's data that are shown beside the delta that told them. */
const SAYS_MOST = 200;

const data = pageData();
const app = find("[data-console]");
/** @template {HTMLElement} [T=HTMLInputElement] @param {string} selector @returns {T} */
const field = (selector) => /** @type {T} */ (/** @type {unknown} */ (find(selector, app)));

const log = new FrameLog(new DataReader());
const makeId = idMaker(() => Date.now(), strongRandom);
const backoff = new Backoff();
/** @type {string} The token of the present connection: publishing over HTTP uses it too. */
let token = "";
/** @type {{ channel: string, messages: Record<string, unknown>[] } | null} */
let lastPublished = null;
/** @type {Row | null} The row of the last cut or loss. */
let lastBreak = null;
/** @type {{ way: "all" | "in" | "out", words: string }} */
const filter = { way: "all", words: "" };
let isDue = false;

for (const { name, label } of TRANSPORTS) field("[data-transport]").append(new Option(label, name));
const transport = () => TRANSPORTS.find(({ name }) => name === field("[data-transport]").value) ?? TRANSPORTS[0];

const session = new Session({
  clock: systemClock,
  random: Math.random,
  token: freshToken,
  open: (text, events) => {
    const { make, url } = transport();
    return new Connection({
      transport: make(),
      url: url(),
      token: text,
      clock: systemClock,
      takeAcks: () => null, // Acks are frames of their own here, so that each is seen.
      events: { ...events, onLatency: () => {} },
    });
  },
  retryAfterMs: (attempt, code) => {
    if (attempt <= 1) backoff.reset();
    const way = reconnectAfter(meantCode(code));
    return way === "no" || (way === "new_token" && attempt > 1) ? null : backoff.nextMs();
  },
  onWire: (direction, text) => {
    log.add(direction, text, Date.now());
    drawSoon();
  },
  onBreak: (what) => (lastBreak = log.breakLine(`${what} at ${clockWithSeconds(Date.now())}.`, Date.now())),
  onBack: (what) => {
    // The frame that said so comes behind it, so the list is drawn anew.
    if (lastBreak !== null) lastBreak.what += ` ${what}`;
  },
  onChange: drawSoon,
});

// ---------------------------------------------------------------- tokens

async function freshToken() {
  const choice = field("[data-identity]").value;
  const { tokenUrl, mintUrl } = app.dataset;
  const asked =
    choice === "mint"
      ? await fetch(String(mintUrl), { method: "POST", headers: headers(), body: JSON.stringify({ client: field("#mint-client").value, cap: JSON.parse(field("#mint-cap").value) }) })
      : await fetch(`${tokenUrl}?${new URLSearchParams({ for: choice, guest: data.guest })}`, { cache: "no-store" });
  const answer = await asked.json();
  if (!asked.ok) throw new Error(answer.error?.message ?? `No token: ${asked.status}`);
  token = answer.token;
  return token;
}

function headers() {
  return { "Content-Type": "application/json", "X-CSRFToken": field("[name=csrfmiddlewaretoken]").value };
}

// ---------------------------------------------------------------- what one can do

/** @param {string} text */
function complain(text) {
  session.complaint = text;
  drawSoon();
}

/** The position to attach from, as the fields say; null: from where we are. @returns {import("../../seriatim/position.js").From | null} */
function chosenFrom() {
  const form = field("[data-from]").value;
  const value = field("#from-value").value.trim();
  switch (form) {
    case "position":
      return null;
    case "rewind":
      return { rewind: whole(value, "How many") };
    case "since":
      return { since: /^\d+$/.test(value) ? Number(value) : sinceOf(value) };
    case "cursor":
      return { cursor: value };
    case "after": {
      const [epoch, serial] = value.split(":");
      return { epoch: epoch === "null" ? null : epoch, serial: whole(serial ?? "", "The serial") };
    }
    default:
      return /** @type {"head" | "start" | "latest"} */ (form);
  }
}

/** @param {string} value @param {string} what */
function whole(value, what) {
  if (!/^\d+$/.test(value.trim())) throw new Error(`${what} is a whole number.`);
  return Number(value);
}

/** @param {string} value */
function sinceOf(value) {
  const time = new Date(value).getTime();
  if (Number.isNaN(time)) throw new Error("The time is like 2026-11-22T10:41 or Unix milliseconds.");
  return time;
}

field("[data-connect-form]").addEventListener("submit", (event) => {
  event.preventDefault();
  if (session.line === "up" || session.line === "connecting") session.disconnect();
  else session.connect();
});
field("[data-attach-form]").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    session.attach(field("#channel").value.trim(), chosenFrom(), whole(field("#window").value, "The window"), field("[data-delta]").value || undefined);
    field("[data-from]").value = "position";
    drawFrom();
  } catch (error) {
    complain(/** @type {Error} */ (error).message);
  }
});
field("[data-publish-form]").addEventListener("submit", (event) => {
  event.preventDefault();
  let content;
  try {
    content = JSON.parse(field("#data").value);
  } catch (error) {
    return complain(`The data is no JSON: ${/** @type {Error} */ (error).message}.`);
  }
  const times = Math.min(PUBLISH_MOST, Math.max(1, Number(field("#times").value) || 1));
  const key = field("#key").value;
  const messages = Array.from({ length: times }, () => ({
    id: makeId(),
    event: field("#event").value || "message",
    ...(key === "" ? {} : { key }),
    data: content,
  }));
  publish({ channel: field("#channel").value.trim(), messages });
});
find("[data-again]", app).addEventListener("click", () => {
  if (lastPublished !== null) publish(lastPublished);
});

/** @param {{ channel: string, messages: Record<string, unknown>[] }} what */
function publish(what) {
  lastPublished = what;
  if (session.isUp) session.publish(what.channel, what.messages, () => drawSoon());
  else void publishOverHttp(what);
  drawSoon();
}

/** @param {{ channel: string, messages: Record<string, unknown>[] }} what */
async function publishOverHttp({ channel, messages }) {
  const path = `/api/v1/channels/${encodeURIComponent(channel)}/messages`;
  const body = JSON.stringify({ messages });
  try {
    if (token === "") await freshToken();
    const startedAt = Date.now();
    log.addHttp("out", "POST", `${path} ${messages.length} by HTTP`, body, startedAt);
    drawSoon();
    const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` }, body, credentials: "omit" });
    const text = await response.text();
    const answer = JSON.parse(text);
    const told = response.ok ? `serials [${answer.serials.join(", ")}]` : `${answer.error.code}: ${answer.error.message}`;
    log.addHttp("in", String(response.status), told, text, Date.now(), Date.now() - startedAt);
    // A token that ran out while the line was cut.
    if (response.status === 401) token = "";
    if (response.ok) session.stored(channel, answer.serials);
    else complain(answer.error.message);
  } catch {
    complain("The server cannot be reached, also not by HTTP. Nothing was published.");
  }
  drawSoon();
}

function toggleCut() {
  if (session.line === "up") session.cut();
  else session.join();
}
const toggleStall = () => session.stall(!session.isStalling);

find("[data-cut]", app).addEventListener("click", toggleCut);
find("[data-stall]", app).addEventListener("click", toggleStall);
find("[data-ack]", app).addEventListener("click", () => session.ackNow());
find("[data-clear]", app).addEventListener("click", () => {
  log.clear();
  list.select(null);
  drawSoon();
});
const follow = field("[data-follow]");
follow.addEventListener("change", () => {
  list.isFollowing = follow.checked;
  if (follow.checked) list.toEnd();
});
field("[data-filter]").addEventListener("input", (event) => {
  filter.words = /** @type {HTMLInputElement} */ (event.target).value;
  drawSoon();
});
for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (app.querySelectorAll("[data-way]"))) {
  button.addEventListener("click", () => {
    filter.way = /** @type {"all" | "in" | "out"} */ (button.dataset.way);
    for (const each of app.querySelectorAll("[data-way]")) each.setAttribute("aria-pressed", String(each === button));
    drawSoon();
  });
}
addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const isInList = event.target instanceof Element && event.target.closest("[data-frames]") !== null;
  if (event.key === "Escape" && event.target === field("[data-filter]")) find("[data-frames]", app).focus();
  if (isField(event.target) || document.querySelector("dialog[open]") !== null) return;
  const does = /** @type {Record<string, () => void>} */ ({
    x: toggleCut,
    s: toggleStall,
    a: () => session.ackNow(),
    j: () => list.move(1),
    k: () => list.move(-1),
    "/": () => field("[data-filter]").focus(),
    ...(isInList ? { ArrowDown: () => list.move(1), ArrowUp: () => list.move(-1) } : {}),
  })[event.key];
  if (does === undefined) return;
  event.preventDefault();
  does();
});
find("[data-copy]", app).addEventListener("click", () => {
  const row = list.selected;
  if (row !== null) void navigator.clipboard?.writeText(JSON.stringify(row.frame, (name, value) => (name === "token" ? "•••" : value), 2) ?? row.text);
});

const FROM_FIELDS = /** @type {Record<string, [string, string]>} */ ({
  rewind: ["How many", "20"],
  after: ["Epoch and serial", ""],
  since: ["Since, time or Unix ms", ""],
  cursor: ["Name of the cursor", "console"],
});

function drawFrom() {
  const form = field("[data-from]").value;
  const wanted = FROM_FIELDS[form];
  find("[data-from-field]", app).hidden = wanted === undefined;
  if (wanted === undefined) return;
  find("[data-from-label]", app).textContent = wanted[0];
  const { ledger } = session;
  field("#from-value").value = form === "after" ? `${ledger?.epoch ?? "null"}:${ledger?.position ?? 0}` : form === "since" ? String(Date.now() - 60_000) : wanted[1];
}
field("[data-from]").addEventListener("change", drawFrom);
field("[data-identity]").addEventListener("change", () => {
  const mint = app.querySelector("[data-mint]");
  if (mint instanceof HTMLElement) mint.hidden = field("[data-identity]").value !== "mint";
  // Another identity is another connection.
  if (session.line !== "off") session.disconnect();
  token = "";
});

// ---------------------------------------------------------------- drawing

const list = new FrameList(find("[data-frames]", app), drawFrame, () => (follow.checked = list.isFollowing));
const setup = /** @type {HTMLDetailsElement} */ (find("[data-setup]", app));
const narrow = matchMedia("(max-width: 1000px)");
let hasFolded = false;
let announced = "";

function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  const { line, ledger, isStalling } = session;
  const facts = { line, since: session.since, reason: session.reason, isStalling, attempt: session.attempt, ledger };
  const told = describe(facts);
  drawChip(told);
  put("[data-badge]", told.badge, `badge ${line === "up" ? "live" : line === "cut" || line === "lost" ? "offline" : line === "ended" ? "danger" : ""}`);
  put("[data-strong]", told.strong);
  put("[data-say]", told.text);
  if (told.glyph !== announced) {
    announced = told.glyph;
    put("[data-announce]", `${told.strong}${told.text}`);
  }
  put("[data-complaint]", session.complaint);
  put("[data-line-title]", ledger?.channel ?? "No channel yet");
  const isKnown = ledger?.resumeFrom != null;
  badge("[data-epoch]", isKnown && ledger.epoch !== null ? `epoch ${ledger.epoch}` : "");
  badge("[data-head]", isKnown ? `head ${ledger.head}` : "");
  put("[data-lost]", count(ledger?.lost ?? 0));
  put("[data-doubled]", count(ledger?.doubled ?? 0));
  put("[data-counts]", `In ${count(log.counts.in)} · ${size(log.counts.bytesIn)}  Out ${count(log.counts.out)} · ${size(log.counts.bytesOut)}`);
  drawButtons();
  const width = Math.max(300, find("[data-beads-place]", app).clientWidth);
  if (ledger !== null) drawTimeline(find("[data-beads]", app), timeline(ledger, beadsIn(width)), width);
  const rows = filter.way === "all" && filter.words.trim() === "" ? log.rows : log.rows.filter((row) => passes(row, filter));
  list.show(rows);
  const empty = find("[data-frames-empty]", app);
  empty.hidden = rows.length > 0;
  if (rows.length === 0) empty.textContent = log.rows.length === 0 ? "No frame yet. Each frame that travels is listed here, both ways." : "No frame passes this filter.";
  drawFrame(list.selected);
  if (narrow.matches && !hasFolded && isKnown) {
    hasFolded = true;
    setup.open = false;
  }
}

function drawButtons() {
  const { line, ledger, isStalling } = session;
  const isOn = line === "up" || line === "connecting";
  put("[data-connect]", isOn ? "Disconnect" : "Connect");
  button("[data-attach]", { isOff: line !== "up" });
  put("[data-attach]", ledger?.isAttached ? "Attach again" : "Attach");
  field("[data-from-position]").hidden = ledger?.resumeFrom == null;
  button("[data-cut]", { isOff: line === "off", words: line === "up" || line === "off" || line === "connecting" ? "Cut line" : "Join the line", isPrimary: line === "cut" });
  const stall = find("[data-stall]", app);
  stall.setAttribute("aria-pressed", String(isStalling));
  put("[data-stall] span", isStalling ? "Stalling acks" : "Stall acks");
  button("[data-ack]", { isOff: ledger === null || ledger.inFlight === 0 || line !== "up", isPrimary: ledger?.isHeld === true });
  button("[data-again]", { isOff: lastPublished === null });
}

/** @param {string} selector @param {{ isOff: boolean, words?: string, isPrimary?: boolean }} look */
function button(selector, { isOff, words, isPrimary }) {
  const node = /** @type {HTMLButtonElement} */ (find(selector, app));
  // A button that has focus keeps it: a disabled one would throw it away.
  if (!(isOff && node === document.activeElement)) node.disabled = isOff;
  if (words !== undefined) put(`${selector} span`, words);
  if (isPrimary !== undefined) node.classList.toggle("primary", isPrimary);
}

/** @param {string} selector @param {string} text @param {string} [className] */
function put(selector, text, className) {
  const node = find(selector, app);
  if (node.textContent !== text) node.textContent = text;
  if (className !== undefined && node.className !== className.trim()) node.className = className.trim();
}

/** @param {string} selector @param {string} text */
function badge(selector, text) {
  put(selector, text);
  find(selector, app).hidden = text === "";
}

/** @param {ReturnType<typeof describe>} told */
function drawChip({ glyph, word, strong, text }) {
  const chip = find("[data-line-chip]");
  const via = session.isUp && session.ready ? `${transport().label} · ${session.ready.worker}` : "";
  const signature = `${glyph}|${word}|${via}|${strong}${text}`;
  if (chip.dataset.drawn === signature) return;
  chip.dataset.drawn = signature;
  chip.querySelector(".thread")?.replaceWith(thread(glyph));
  find("b", chip).textContent = word;
  find(".via", chip).textContent = via;
  find("[data-line-sentence]").textContent = `${strong}${text}`;
  const { ready } = session;
  const facts = ready === null ? [] : [["Transport", transport().label], ["Worker", ready.worker], ["You are", ready.client ?? "nobody known"]];
  find("[data-line-facts]").replaceChildren(...facts.flatMap(([dt, dd]) => [el("dt", {}, dt), el("dd", {}, dd)]));
}

let drawnFrame = "";

/** @param {Row | null} row */
function drawFrame(row) {
  const fate = row?.type === "message" && row.frame?.channel === session.ledger?.channel && session.ledger !== null ? fateOf(row.frame.serial, session.ledger) : null;
  const signature = `${row?.id} ${fate?.badge} ${fate?.text}`;
  if (signature === drawnFrame) return;
  drawnFrame = signature;
  find("[data-frame]", app).hidden = row === null;
  find("[data-pick]", app).hidden = row !== null;
  if (row === null || row.way === "break") return;
  const way = find("[data-frame-way]", app);
  way.className = `dir ${row.way}`;
  way.replaceChildren(icon(row.way === "in" ? "in" : "out-up", "xs"), row.way);
  put("[data-frame-type]", row.type);
  find("[data-frame-json]", app).replaceChildren(
    ...(row.frame === null ? [row.text] : highlight(row.frame).map(({ kind, text }) => (kind === "" ? text : el("span", { class: kind }, text)))),
  );
  /** @type {[string, string | Node][]} */
  const facts = [["On the wire", `${size(row.bytes)} before compression`]];
  const { frame } = row;
  if (row.type === "message" && frame !== null) {
    facts.unshift(["Position", `${session.ledger?.epoch ?? "?"}:${frame.serial}`]);
    facts.push(["Committed", clockWithSeconds(frame.time)], ["Seen here", `${latency(row.latencyMs ?? 0)} later, by this device’s clock`]);
  } else {
    facts.push([row.way === "in" ? "Came at" : "Sent at", clockWithSeconds(row.at)]);
    if (row.latencyMs !== null) facts.push(["Answered in", latency(row.latencyMs)]);
  }
  const { made } = row;
  if (made !== undefined && made !== null && frame !== null) {
    const bytes = size(new TextEncoder().encode(String(frame.data)).length);
    const told = made.fault !== "" ? `cannot be read: ${made.fault}` : frame.base === undefined ? `whole, ${size(made.bytes)}` : `${bytes} that make ${size(made.bytes)} out of #${count(frame.base)}`;
    facts.push(["Data", told]);
    const says = JSON.stringify(made.data) ?? "";
    if (made.fault === "") facts.push(["Says", el("code", {}, says.length > SAYS_MOST ? `${says.slice(0, SAYS_MOST)}…` : says)]);
  }
  if (fate !== null) facts.push(["State", el("span", { class: `badge ${fate.kind}` }, fate.badge)]);
  find("[data-frame-facts]", app).replaceChildren(...facts.flatMap(([dt, dd]) => [el("dt", {}, dt), el("dd", dt === "Position" ? { class: "mono" } : {}, dd)]));
  const why = find("[data-why]", app);
  why.hidden = fate === null || fate.text === "";
  if (fate !== null) why.replaceChildren(el("b", {}, fate.strong), fate.text);
}

new ResizeObserver(drawSoon).observe(find("[data-beads-place]", app));
drawFrom();
session.connect();
draw();
