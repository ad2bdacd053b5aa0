// How old what is shown is, and why. Pure. A figure that is behind says by how much; one that nobody sends says that.

import { clockWithSeconds, count, span } from "../words.js";

/**
 * @typedef {object} Freshness
 * @property {"empty" | "live" | "behind" | "quiet"} kind
 * @property {string} badge Empty while all is well.
 * @property {string} toCome What stands in the hatch at the right edge; empty: no hatch.
 */

/** A reading may be this late before it is called so: one was just read, one is on its way. */
const LATE_S = 3.5;

/**
 * @param {object} facts
 * @param {number | null} facts.newestAt Unix seconds of the newest reading.
 * @param {number} facts.nowS
 * @param {boolean} facts.isLevel The line is live and nothing is to come: what is missing was not sent.
 * @returns {Freshness}
 */
export function freshness({ newestAt, nowS, isLevel }) {
  if (newestAt === null) return { kind: "empty", badge: isLevel ? "Nothing published yet" : "", toCome: "" };
  const age = nowS - newestAt;
  if (age <= LATE_S) return { kind: "live", badge: "", toCome: "" };
  const long = span(Math.floor(age) * 1000);
  return isLevel
    ? { kind: "quiet", badge: `Quiet for ${long}`, toCome: "" }
    : { kind: "behind", badge: `${long} behind`, toCome: `${long} to come` };
}

/**
 * What stands under a widget of which not every message is shown. Empty: all are.
 *
 * @param {object} facts
 * @param {number} facts.received
 * @param {number} facts.merged Messages that gave way to newer ones of their key.
 * @param {boolean} facts.isTally The widget counts messages itself, so that those that were merged are not counted.
 * @param {number | null} facts.cutAt Unix seconds from which the page has messages, where the window begins before that.
 */
export function footOf({ received, merged, isTally, cutAt }) {
  const sentences = [];
  if (merged > 0 && isTally) sentences.push(`${count(received)} of ${count(received + merged)} messages came one by one; the others were merged into newer ones.`);
  else if (merged > 0) sentences.push(`Showing the newest; ${count(merged)} merged, counts are exact.`);
  if (cutAt !== null) sentences.push(`From ${clockWithSeconds(cutAt * 1000)} on; earlier ones are in the log.`);
  return sentences.join(" ");
}

/** @param {number} pausedAtMs */
export const pausedBadge = (pausedAtMs) => `Paused at ${clockWithSeconds(pausedAtMs)}`;

/** @param {number} since How many readings came since the pause. */
export const goLiveLabel = (since) => (since > 0 ? `Go live (${count(since)} since)` : "Go live");
