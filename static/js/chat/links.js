// Finds addresses in what people type. Pure. Only http and https become links, whatever else looks like one.

const AT = /https?:\/\/[^\s<>"]+/iy;
const TRAILING = /[.,:;!?'’”»*_~]$/;
/** @type {Record<string, string>} */
const PAIRS = { ")": "(", "]": "[", "}": "{" };

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

/** The address that begins at `at`, as it is written and as it leads. @param {string} text @param {number} at */
export function linkAt(text, at) {
  AT.lastIndex = at;
  const match = AT.exec(text);
  if (match === null) return null;
  const shown = trimmed(match[0]);
  const href = safeHref(shown);
  return href === null ? null : { text: shown, href };
}

/** @param {string} text @returns {string | null} The address; null where it may not become a link. */
export function safeHref(text) {
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
