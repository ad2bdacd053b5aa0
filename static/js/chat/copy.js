// What a message of ours says about itself. Pure; the copy is exact and tested.

import { clock, count, counted, span } from "../words.js";

/** @typedef {import("./timeline.js").Own} Own */
/** @typedef {import("./timeline.js").Gap} Gap */
/** @typedef {import("./fold.js").Notice} Notice */
/** @typedef {"send-now" | "edit" | "discard" | "copy"} Action */

/**
 * @typedef {object} StateLine
 * @property {"open" | "full" | "bad"} bead
 * @property {string} text
 * @property {Action[]} actions
 * @property {number | null} againAt Ask again then.
 */

/** Until then a message looks as if it were sent already: most are. */
export const SENDING_AFTER_MS = 400;

/** @type {Record<Action, string>} */
export const ACTION_LABELS = { "send-now": "Send now", edit: "Edit", discard: "Discard", copy: "Copy text" };

/** How the namespace's rate reads to a person: a burst of so many messages, in seconds. */
const RATE_WORDS = "too many messages from you in 10 s";

/** Why the server refuses for good, in the room's words. @type {Record<string, string>} */
const REFUSALS = {
  forbidden: "you can no longer write in this room",
  not_found: "this room is not there any more",
  too_large: "the message is too large",
  outbox_full: "too many messages wait already",
};

/** Refusals that no other try and no other text can change. */
const FINAL = new Set(["forbidden", "not_found"]);

/**
 * @param {Own} own
 * @param {{ isFirst: boolean, now: number }} place `isFirst`: none of ours above it waits.
 * @returns {StateLine | null}
 */
export function stateLine(own, { isFirst, now }) {
  switch (own.state) {
    case "sent":
      return { bead: "full", text: "Sent", actions: [], againAt: null };
    case "pending":
      if (now < own.queuedAt + SENDING_AFTER_MS) return { bead: "open", text: "", actions: [], againAt: own.queuedAt + SENDING_AFTER_MS };
      return { bead: "open", text: "Sending", actions: [], againAt: null };
    case "failed": {
      const why = REFUSALS[own.reason ?? ""] ?? (own.message || "the server did not take it");
      const actions = /** @type {Action[]} */ (FINAL.has(own.reason ?? "") ? ["copy", "discard"] : ["edit", "discard"]);
      return { bead: "bad", text: `Not sent: ${why.replace(/\.$/, "")}.`, actions, againAt: null };
    }
    case "waiting": {
      if (!isFirst || own.reason === "order") {
        return { bead: "open", text: "Waiting for the one above, so the order stays yours", actions: [], againAt: null };
      }
      if (own.reason === "connection") {
        return { bead: "open", text: "Waiting for a connection. Kept on this device.", actions: [], againAt: null };
      }
      if (own.retryAt !== null) {
        const why = own.reason === "rate_limited" ? RATE_WORDS : "the server is busy";
        const left = own.retryAt - now;
        return {
          bead: "bad",
          text: left > 0 ? `Not sent: ${why}. Goes again in ${span(left)}.` : `Not sent: ${why}. Goes again now.`,
          actions: ["send-now", "edit", "discard"],
          againAt: now + 250,
        };
      }
      return stateLine({ ...own, state: "pending" }, { isFirst, now });
    }
  }
}

/** What became of an edit or a deletion of ours that is not in the log yet. @param {Own} own @returns {StateLine} */
export function changeLine({ event, state, reason, message }) {
  const what = event === "edit" ? "Edit" : event === "delete" ? "Deletion" : "Reaction";
  if (state !== "failed") return { bead: "open", text: state === "waiting" ? `${what} waits for a connection. Kept on this device.` : "", actions: [], againAt: null };
  const why = reason === "forbidden" ? "you can no longer change this message" : (REFUSALS[reason ?? ""] ?? (message || "the server did not take it"));
  const actions = /** @type {Action[]} */ (event === "edit" ? ["edit", "copy", "discard"] : ["discard"]);
  return { bead: "bad", text: `${what} not sent: ${why.replace(/\.$/, "")}.`, actions, againAt: null };
}

/** Sent, and by whom it was seen. @param {string[]} names */
export function seenText(names) {
  if (names.length === 0) return "Sent";
  return `Sent · Seen by ${listed(names, 2)}`;
}

/** Ana · Ana and Bo · Ana, Bo and 3 more @param {string[]} names @param {number} most */
export function listed(names, most) {
  if (names.length === 1) return names[0];
  const shown = names.slice(0, names.length > most ? most : most - 1);
  const rest = names.length - shown.length;
  return `${shown.join(", ")} and ${rest > 1 ? `${count(rest)} more` : names[names.length - 1]}`;
}

/** How long ago somebody was seen. Under five minutes is as good as it is measured. @param {number | null} time @param {number} now */
export function agoText(time, now) {
  if (time === null) return "not seen yet";
  const minutes = Math.floor((now - time) / 60_000);
  if (minutes < 5) return "just now";
  if (minutes < 120) return `${minutes} min ago`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h ago` : `${Math.round(hours / 24)} days ago`;
}

/** @param {string[]} names Who types. */
export function typingText(names) {
  if (names.length === 0) return "";
  if (names.length > 3) return `${count(names.length)} people are typing`;
  return `${listed(names, 3)} ${names.length === 1 ? "is" : "are"} typing`;
}

/** @param {string} deleted @param {(client: string) => string} nameOf */
export function goneText(deleted, nameOf) {
  return deleted === "author" ? "Message deleted" : `Message deleted by ${nameOf(deleted)} (moderator)`;
}

/** What happened to the room, as a sentence. @param {Notice} notice @param {(client: string) => string} nameOf */
export function noticeText({ event, data }, nameOf) {
  const by = typeof data.by === "string" ? ` by ${nameOf(data.by)}` : "";
  if (event === "room") {
    const what = [
      ...(typeof data.name === "string" ? [`named the room ${data.name}`] : []),
      ...(typeof data.kind === "string" ? [`made the room ${data.kind}`] : []),
      ...(typeof data.topic === "string" ? [data.topic === "" ? "removed the topic" : `set the topic: ${data.topic}`] : []),
    ];
    return `${nameOf(data.by)} ${what.join(" and ") || "changed the room"}.`;
  }
  const who = nameOf(data.client);
  switch (data.action) {
    case "joined":
      return `${who} joined.`;
    case "left":
      return `${who} left.`;
    case "invited":
      return `${who} was invited${by}.`;
    case "removed":
      return `${who} was removed${by}.`;
    case "muted":
      return `${who} was muted${by}${typeof data.until === "number" ? ` until ${clock(data.until)}` : ""}.`;
    case "unmuted":
      return `${who} may write again.`;
    default:
      return `${who} is now ${data.role ?? "a member"}.`;
  }
}

/** What somebody did, after his name. @param {string} action @param {string} whom @param {string} detail As the record has it. */
export function auditText(action, whom, detail) {
  switch (action) {
    case "created":
      return "made the room";
    case "renamed":
      return `named the room ${detail}`;
    case "topic":
      return detail === "" ? "removed the topic" : `set the topic: ${detail}`;
    case "kind":
      return `made the room ${detail}`;
    case "role":
      return `made ${whom} ${detail}`;
    case "muted":
      return `muted ${whom} ${detail.startsWith("until") ? detail : `for ${detail}`}`;
    case "unmuted":
      return `let ${whom} write again`;
    case "deleted":
      return `deleted ${whom} ${detail}`.trimEnd();
    default:
      return `${action} ${whom} ${detail}`.trimEnd();
  }
}

/** What stands in the empty field. @param {string} name @param {boolean} isDirect @param {number | null} mutedUntil @param {number} now */
export function placeholderText(name, isDirect, mutedUntil, now) {
  if (mutedUntil !== null && mutedUntil > now) return `You are muted here until ${clock(mutedUntil)}`;
  return `Message ${isDirect ? "" : "#"}${name}`;
}

/** @param {number} length @param {number} most @returns {string} What the composer says; empty while there is room. */
export function lengthNote(length, most) {
  const left = most - length;
  if (left < 0) return `${counted(-left, "character")} over the limit`;
  return left <= 200 ? `${counted(left, "character")} left` : "";
}

/** @param {Gap} gap @param {number | null} days */
export function gapText({ from, to, reason }, days) {
  const which = from === to ? `Message #${count(from)}` : `Messages #${count(from)} to #${count(to)}`;
  return `${which} ${why(reason, days, from === to)} and can’t be shown.`;
}

/** @param {Gap} gap @param {number | null} days @returns {{ strong: string, text: string }} */
export function gapBanner({ from, to, reason }, days) {
  const number = to - from + 1;
  const which = from === to ? `#${count(from)}` : `#${count(from)} to #${count(to)}`;
  return { strong: `${counted(number, "message")} can’t be had.`, text: ` ${which} ${why(reason, days, number === 1)}.` };
}

/** @param {string} reason @param {number | null} days @param {boolean} isOne */
function why(reason, days, isOne) {
  if (reason !== "retention") return isOne ? "was left out by the server" : "were left out by the server";
  return `${isOne ? "is" : "are"} past this room’s ${days === null ? "time" : counted(days, "day")}`;
}
