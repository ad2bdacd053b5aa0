// Finds addresses in what people type. Pure. Only http and https become links, whatever else looks like one.

/** @typedef {{ text: string, href: string | null }} Part */

const CANDIDATE = /\bhttps?:\/\/[^\s<>"]+/gi;
const TRAILING = /[.,:;!?'’”»*_~]$/;
/** @type {Record<string, string>} */
const PAIRS = { ")": "(", "]": "[", "}": "{" };

/**
 * The text in pieces, in order and without a loss: joined they are the text again.
 *
 * @param {string} text
 * @returns {Part[]}
 */
export function splitLinks(text) {
  /** @type {Part[]} */
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(CANDIDATE)) {
    const shown = trimmed(match[0]);
    const href = safeHref(shown);
    if (href === null) continue;
    if (match.index > at) parts.push({ text: text.slice(at, match.index), href: null });
    parts.push({ text: shown, href });
    at = match.index + shown.length;
  }
  if (at < text.length) parts.push({ text: text.slice(at), href: null });
  return parts;
}

/** Without the punctuation of the sentence around it: a closing bracket belongs to it only if it was opened in it. @param {string} url */
function trimmed(url) {
  for (;;) {
    const last = url.charAt(url.length - 1);
    const opener = PAIRS[last];
    const isForeign = opener !== undefined && url.split(opener).length < url.split(last).length;
    if (!isForeign && !TRAILING.test(url)) return url;
    url = url.slice(0, -1);
  }
}

/** @param {string} text */
function safeHref(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") return null;
  // A name before @ makes one site look like another.
  if (url.username !== "" || url.password !== "" || url.hostname === "") return null;
  return url.href;
}
