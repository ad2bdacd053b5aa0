// What the page says about the line: the chip in the bar and the banner above the content. Pure: facts in, words out.
//
// The copy is exact and tested. A loss shorter than BANNER_DELAY_MS is never shown; a try to connect does not push "Offline"
// away until it has lasted as long, so that the banner does not flicker between the two.

import { clock, counted, count, latency, span } from "./words.js";

/** @typedef {import("../seriatim/line-state.js").LineState} LineState */

/**
 * @typedef {object} LineFacts
 * @property {LineState} state
 * @property {number} now
 * @property {number} behind Messages still to come.
 * @property {number} toCome How many were to come when catching up began: the whole of the progress.
 * @property {number} waiting Messages of ours that are not stored yet.
 * @property {number | null} latencyMs
 * @property {string} transport
 * @property {boolean} wasLive Whether the line was live in this page's life before.
 * @property {{ received: number, sent: number, skipped: number, until: number } | null} recovered Shown until then.
 */

/**
 * @typedef {object} Chip
 * @property {string} glyph
 * @property {string} word
 * @property {string} via
 */

/**
 * @typedef {object} Banner
 * @property {string} kind
 * @property {string} strong
 * @property {string} text
 * @property {string} tail What changes by itself, such as a countdown: shown, not announced again.
 * @property {{ name: "retry" | "sign-in", label: string } | null} action
 * @property {{ value: number, max: number } | null} progress
 * @property {boolean} urgent
 */

/** @typedef {{ chip: Chip, banner: Banner | null, sentence: string }} LineView */

export const BANNER_DELAY_MS = 600;
export const RECOVERED_FOR_MS = 4000;
export const RECOVERED_AFTER_MS = 10_000;

/** States that pass: they replace what is shown only when they last. */
const PASSING = new Set(["connecting", "moving", "offline", "catching_up"]);

/**
 * Which state to show: the present one, or the one before it as long as the present one may pass unseen.
 *
 * @param {{ shown: LineState | null, state: LineState, enteredAt: number, now: number }} situation `shown` is what is shown
 *   now; `enteredAt` is when the line came into `state`.
 * @returns {{ state: LineState, againAt: number | null }} `againAt`: ask again then.
 */
export function stateToShow({ shown, state, enteredAt, now }) {
  const isSame = shown === null || shown.name === state.name;
  const dueAt = enteredAt + BANNER_DELAY_MS;
  if (isSame || !PASSING.has(state.name) || now >= dueAt) return { state, againAt: null };
  return { state: shown, againAt: dueAt };
}

/** @param {Partial<Banner> & { kind: string, strong: string }} parts @returns {Banner} */
function banner(parts) {
  return { text: "", tail: "", action: null, progress: null, urgent: false, ...parts };
}

/** @type {Readonly<Record<string, string>>} */
const WORDS = { websocket: "WebSocket", streaming: "Streaming", sse: "SSE", polling: "Polling", "short polling": "Polling" };

/** The name of a transport, as people read it. @param {string} name */
export function transportWord(name) {
  if (name in WORDS) return WORDS[name];
  const [library, within] = name.split(" ");
  if (library === "sockjs") return within === undefined ? "SockJS" : `SockJS by ${within}`;
  return name;
}

/** What it means that something else than a WebSocket carries the line. @param {string} name */
function fallbackSentence(name) {
  if (name === "websocket" || name.startsWith("sockjs")) return "";
  if (name === "short polling") {
    return " Other tabs of this browser have its lasting requests, so this one asks anew every 2 s: the same messages, a little later.";
  }
  return ` WebSockets do not get through here, so ${transportWord(name)} is used: the same messages, a little later.`;
}

/** @param {number} waiting */
function waitingSentence(waiting) {
  if (waiting === 0) return "";
  return waiting === 1 ? " 1 message waits here and sends itself." : ` ${count(waiting)} messages wait here and send themselves.`;
}

/** @param {number} waiting */
function keptSentence(waiting) {
  if (waiting === 0) return "";
  return ` Your ${waiting === 1 ? "unsent message is" : `${count(waiting)} unsent messages are`} kept on this device.`;
}

/** @param {number | null} at @param {number} now */
function nextTry(at, now) {
  if (at === null) return "";
  return at - now < 500 ? " Trying now." : ` Next try in ${span(at - now)}.`;
}

/** @param {LineFacts} facts @returns {LineView} */
export function describeLine(facts) {
  const { state, now, behind, waiting, latencyMs, transport } = facts;
  const via = [transportWord(transport), ...(latencyMs === null ? [] : [latency(latencyMs)])].join(" · ");
  switch (state.name) {
    case "live":
      return {
        chip: { glyph: "live", word: "Live", via },
        banner: recoveredBanner(facts),
        sentence: `Live since ${clock(state.since)}. What is sent is here a moment later.${fallbackSentence(transport)}`,
      };
    case "catching_up": {
      const messages = counted(behind, "message");
      return {
        chip: { glyph: "catching", word: "Catching up", via: behind > 0 ? `${count(behind)} to go` : "" },
        banner:
          facts.wasLive && behind > 0
            ? banner({
                kind: "catching",
                strong: `Catching up: ${messages} to go.`,
                text: " They arrive in order; nothing was missed.",
                progress: { value: Math.max(0, facts.toCome - behind), max: Math.max(1, facts.toCome) },
              })
            : null,
        sentence: behind > 0 ? `${messages} to go, in order.` : "The last messages are on their way.",
      };
    }
    case "slow": {
      const took = latency(latencyMs ?? 0);
      return {
        chip: { glyph: "slow", word: "Slow", via },
        banner: banner({
          kind: "slow",
          strong: "Slow connection.",
          text: ` Messages take about ${took}. Order holds; nothing is dropped.`,
        }),
        sentence: `An answer takes about ${took}.`,
      };
    }
    case "offline": {
      const since = clock(state.since);
      return {
        chip: { glyph: "offline", word: "Offline", via: `since ${since}` },
        banner: banner({
          kind: "offline",
          strong: `Offline since ${since}.`,
          text: `${facts.wasLive ? " You see everything up to then." : ""}${waitingSentence(waiting)}`,
          tail: nextTry(state.nextTryAt, now),
          action: { name: "retry", label: "Try now" },
        }),
        sentence: `Nothing was heard of the server since ${since}.`,
      };
    }
    case "waiting":
      return {
        chip: { glyph: "connecting", word: "Waiting", via: "" },
        banner: banner({
          kind: "slow",
          strong: "The server is full.",
          text: " Your place is kept.",
          tail: nextTry(state.nextTryAt, now),
        }),
        sentence: "The server asked for a pause.",
      };
    case "signed_out":
      return {
        chip: { glyph: "danger", word: "Signed out", via: "" },
        banner: banner({
          kind: "danger",
          strong: "Signed out elsewhere.",
          text: ` Sign in to go on.${keptSentence(waiting)}`,
          action: { name: "sign-in", label: "Sign in" },
          urgent: true,
        }),
        sentence: "The server does not take this page’s sign-in any more.",
      };
    case "stopped":
    case "closed": {
      const byOperator = state.code === 4403;
      return {
        chip: { glyph: "danger", word: "Stopped", via: "" },
        banner: banner({
          kind: "danger",
          strong: byOperator ? "An operator ended this connection." : "The connection was ended.",
          text: `${byOperator ? "" : ` ${sentenceOf(state.reason)}`} Your text is kept on this device.`,
          action: byOperator ? null : { name: "retry", label: "Try again" },
          urgent: true,
        }),
        sentence: sentenceOf(state.reason),
      };
    }
    case "moving":
    case "connecting": {
      const chip =
        state.name === "moving"
          ? { glyph: "connecting", word: "Moving", via: "" }
          : { glyph: "connecting", word: "Connecting", via: state.attempt > 1 ? `try ${count(state.attempt)}` : "" };
      return {
        chip,
        banner: banner({
          kind: "connecting",
          strong: "Connecting.",
          text: " Keep typing: what you send is kept here and goes in order.",
        }),
        sentence: state.name === "moving" ? "The worker leaves; another takes over." : "This page is connecting.",
      };
    }
  }
}

/** @param {LineFacts} facts @returns {Banner | null} */
function recoveredBanner({ recovered, now }) {
  if (recovered === null || now >= recovered.until) return null;
  const { received, sent, skipped } = recovered;
  const lost = skipped > 0 ? `${count(skipped)} can’t be had` : "none lost";
  const ours = sent > 0 ? `, ${count(sent)} of yours sent` : "";
  return banner({ kind: "live", strong: "Live again.", text: ` ${counted(received, "message")} received${ours}, ${lost}.` });
}

/** @param {string} reason */
function sentenceOf(reason) {
  const text = reason.trim() || "no reason was given";
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}
