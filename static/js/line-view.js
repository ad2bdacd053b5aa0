// Draws the state of a client's line: the chip in the bar with its panel, and the banner above the content.

import { el, find, thread } from "./dom.js";
import { BANNER_DELAY_MS, describeLine, RECOVERED_AFTER_MS, RECOVERED_FOR_MS, stateToShow, transportWord } from "./line-state.js";
import { latency } from "./words.js";

/** @typedef {import("../seriatim/client.js").Client} Client */
/** @typedef {import("./line-state.js").Banner} Banner */
/** @typedef {import("./line-state.js").LineView} LineView */
/** @typedef {import("../seriatim/line-state.js").LineState} LineState */

/**
 * @param {Client} client
 * @param {object} page
 * @param {string} page.loginUrl
 * @param {() => number} [page.behind] How many messages are to come; default: of all channels.
 * @param {(shown: LineState) => void} [page.onShown] The state that is shown changed.
 * @returns {{ redraw: () => void }}
 */
export function drawLine(client, { loginUrl, behind = () => client.behind, onShown = () => {} }) {
  const chip = find("[data-line-chip]");
  const panel = find("[data-line-panel]");
  const place = find("[data-line-banner]");
  /** @type {LineState | null} */
  let shown = null;
  const startedAt = Date.now();
  let enteredAt = startedAt;
  let wasLive = false;
  let toCome = 0;
  /** @type {import("./line-state.js").LineFacts["recovered"]} */
  let recovered = null;
  /** @type {number | undefined} */
  let timer;
  let drawn = "";
  let drawnTail = "";

  function draw() {
    clearTimeout(timer);
    const now = Date.now();
    const { state, againAt } = stateToShow({ shown, state: client.state, enteredAt, now });
    if (state.name === "live" || state.name === "slow") wasLive = true;
    const left = behind();
    toCome = state.name === "catching_up" ? Math.max(toCome, left) : 0;
    const view = describeLine({
      state,
      now,
      behind: left,
      toCome,
      // A receipt is nothing that anybody typed.
      waiting: client.outbox.entries.filter((entry) => entry.event !== "receipt").length,
      latencyMs: client.latencyMs,
      transport: client.transport,
      wasLive,
      recovered,
    });
    drawChip(view);
    // A page that has just opened says nothing of what passes, as a line that was just lost does not.
    const isEarly = !wasLive && now < startedAt + BANNER_DELAY_MS;
    drawBanner(isEarly && !view.banner?.urgent ? null : view.banner);
    if (shown !== state) {
      shown = state;
      onShown(state);
    }
    // Countdowns and banners that end by themselves.
    const ticks = state.nextTryAt !== null || view.banner?.kind === "live" ? now + 250 : Infinity;
    const next = Math.min(againAt ?? Infinity, ticks, isEarly ? startedAt + BANNER_DELAY_MS : Infinity);
    if (next < Infinity) timer = setTimeout(draw, Math.max(16, next - now));
  }

  /** @param {LineView} view */
  function drawChip({ chip: { glyph, word, via }, sentence }) {
    const text = `${glyph}|${word}|${via}|${sentence}`;
    if (chip.dataset.drawn === text) return;
    if (chip.dataset.glyph !== glyph) chip.querySelector(".thread")?.replaceWith(thread(glyph));
    chip.dataset.glyph = glyph;
    chip.dataset.drawn = text;
    find("b", chip).textContent = word;
    find(".via", chip).textContent = via;
    find("[data-line-sentence]", panel).textContent = sentence;
    /** @type {[string, string][]} */
    const facts = [["Transport", transportWord(client.transport)]];
    if (client.latencyMs !== null) facts.push(["An answer takes", latency(client.latencyMs)]);
    if (client.ready) facts.push(["Worker", client.ready.worker]);
    if (client.clientId !== null) facts.push(["You are", client.clientId]);
    find("[data-line-facts]", panel).replaceChildren(...facts.flatMap(([dt, dd]) => [el("dt", {}, dt), el("dd", {}, dd)]));
  }

  /** @param {Banner | null} banner */
  function drawBanner(banner) {
    const text = banner === null ? "" : [banner.kind, banner.strong, banner.text, banner.action?.name].join("|");
    if (text !== drawn) {
      drawn = text;
      drawnTail = "";
      const had = place.querySelector("button") === document.activeElement && document.activeElement !== null;
      if (banner === null) place.replaceChildren();
      else {
        // The kind of change decides how it is announced: what ends everything interrupts.
        place.setAttribute("role", banner.urgent ? "alert" : "status");
        place.replaceChildren(bannerNode(banner));
        if (had) place.querySelector("button")?.focus();
      }
    }
    if (banner === null) return;
    const tail = place.querySelector("[data-tail]");
    if (tail && drawnTail !== banner.tail) {
      drawnTail = banner.tail;
      tail.textContent = banner.tail;
    }
    const bar = place.querySelector("progress");
    if (bar && banner.progress) {
      bar.max = banner.progress.max;
      bar.value = banner.progress.value;
    }
  }

  /** @param {Banner} banner */
  function bannerNode({ kind, strong, text, action, progress }) {
    const glyph = /** @type {Record<string, string>} */ ({ danger: "danger", slow: "slow" })[kind] ?? kind;
    const words = el("span", { class: "grow" }, el("b", {}, strong), text, el("span", { "data-tail": true, "aria-live": "off" }));
    const node = el("div", { class: `banner ${kind}` }, thread(glyph), words);
    if (progress) node.append(el("progress", { "aria-label": "Catching up" }));
    if (action) {
      const button = el("button", { class: "link", type: "button" }, action.label);
      button.addEventListener("click", () => {
        if (action.name === "retry") client.retryNow();
        else location.assign(`${loginUrl}?next=${encodeURIComponent(location.pathname)}`);
      });
      node.append(button);
    }
    return node;
  }

  client.on("state", () => {
    enteredAt = Date.now();
    draw();
  });
  client.on("outbox", draw);
  client.on("latency", draw);
  client.on("recovered", ({ awayMs, received, sent, skipped }) => {
    if (awayMs < RECOVERED_AFTER_MS) return;
    recovered = { received, sent, skipped, until: Date.now() + RECOVERED_FOR_MS };
    draw();
  });
  draw();
  return { redraw: draw };
}
