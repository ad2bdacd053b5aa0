// The small part of Markdown that messages may use, as a tree. Pure, and it makes no HTML: text stays text.
//
// Bold, italic, code, code block, quote, lists, links, and mentions. What is not exactly one of these stands as typed.
// Every search for an end is made once per marker and text, so that no text takes longer than its length.

import { linkAt, safeHref } from "./links.js";

/**
 * @typedef {{ kind: "text" | "code", text: string }
 *   | { kind: "bold" | "italic", children: Inline[] }
 *   | { kind: "link", href: string, text: string }
 *   | { kind: "mention", client: string, text: string }} Inline
 */

/**
 * @typedef {{ kind: "paragraph" | "quote", children: Inline[] }
 *   | { kind: "code", text: string }
 *   | { kind: "list", isOrdered: boolean, start: number, items: Inline[][] }} Block
 */

const DEPTH_MOST = 4;
const FENCE = "```";
const BULLET = /^[-*] (?=\S)/;
const NUMBER = /^(\d{1,6})[.)] (?=\S)/;
const MENTION = /@([\p{L}\p{N}_.~-]*[\p{L}\p{N}_~-])/uy;
const WORD = /[\p{L}\p{N}_]/u;

/**
 * @param {string} text
 * @param {readonly string[]} [mentions] Client ids that `@…` may mean.
 * @returns {Block[]}
 */
export function parse(text, mentions = []) {
  /** @type {Block[]} */
  const blocks = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const end = line.startsWith(FENCE) ? lines.findIndex((each, index) => index > at && each.trimEnd() === FENCE) : -1;
    if (end > 0) {
      blocks.push({ kind: "code", text: lines.slice(at + 1, end).join("\n") });
      at = end + 1;
    } else if (line.startsWith("> ")) {
      const taken = take(lines, at, (each) => each.startsWith(">"));
      blocks.push({ kind: "quote", children: inlines(taken.map((each) => each.replace(/^> ?/, "")).join("\n"), mentions) });
      at += taken.length;
    } else if (BULLET.test(line) || NUMBER.test(line)) {
      const mark = BULLET.test(line) ? BULLET : NUMBER;
      const taken = take(lines, at, (each) => mark.test(each));
      const items = taken.map((each) => inlines(each.replace(mark, ""), mentions));
      blocks.push({ kind: "list", isOrdered: mark === NUMBER, start: Number(NUMBER.exec(line)?.[1] ?? 1), items });
      at += taken.length;
    } else {
      // A fence without an end, like everything else, is a paragraph: its first line is taken whatever it is.
      const taken = [line, ...take(lines, at + 1, (each) => !isBlockStart(each))];
      blocks.push({ kind: "paragraph", children: inlines(taken.join("\n"), mentions) });
      at += taken.length;
    }
  }
  return blocks;
}

/** @param {string} line */
const isBlockStart = (line) => line.startsWith(FENCE) || line.startsWith("> ") || BULLET.test(line) || NUMBER.test(line);

/** @param {string[]} lines @param {number} from @param {(line: string) => boolean} accepts */
function take(lines, from, accepts) {
  const end = lines.findIndex((line, index) => index >= from && !accepts(line));
  return lines.slice(from, end < 0 ? lines.length : end);
}

/**
 * @param {string} text
 * @param {readonly string[]} mentions
 * @param {number} [depth]
 * @returns {Inline[]}
 */
export function inlines(text, mentions, depth = 0) {
  /** @type {Inline[]} */
  const found = [];
  let plain = "";
  /** @type {Set<string>} Markers that have no end from here on. */
  const dead = new Set();
  const flush = () => {
    if (plain !== "") found.push({ kind: "text", text: plain });
    plain = "";
  };
  for (let at = 0; at < text.length; ) {
    const next = inlineAt(text, at, mentions, depth, dead);
    if (next === null) plain += text[at++];
    else {
      flush();
      found.push(next.inline);
      at = next.end;
    }
  }
  flush();
  return found;
}

/** @param {string} text @param {number} at @param {readonly string[]} mentions @param {number} depth @param {Set<string>} dead @returns {{ inline: Inline, end: number } | null} */
function inlineAt(text, at, mentions, depth, dead) {
  const letter = text[at];
  const isInWord = at > 0 && WORD.test(text[at - 1]);
  if (letter === "`") {
    const end = closing(text, "`", at + 1, dead);
    return end > at + 1 ? { inline: { kind: "code", text: text.slice(at + 1, end) }, end: end + 1 } : null;
  }
  if ((letter === "*" || letter === "_") && depth < DEPTH_MOST) {
    const mark = text.startsWith("**", at) ? "**" : letter;
    const from = at + mark.length;
    if (isInWord || from >= text.length || /\s/.test(text[from])) return null;
    const end = closing(text, mark, from, dead);
    if (end <= from || /\s/.test(text[end - 1]) || WORD.test(text[end + mark.length] ?? "")) return null;
    const children = inlines(text.slice(from, end), mentions, depth + 1);
    return { inline: { kind: mark === "**" ? "bold" : "italic", children }, end: end + mark.length };
  }
  if (letter === "[") {
    const middle = closing(text, "](", at + 1, dead);
    const end = middle < 0 ? -1 : closing(text, ")", middle + 2, dead);
    if (end < 0) return null;
    const label = text.slice(at + 1, middle);
    const href = safeHref(text.slice(middle + 2, end));
    // A label that looks like an address would hide where it leads.
    if (href === null || label.trim() === "" || /[[\]\n]|:\/\/|www\./i.test(label)) return null;
    return { inline: { kind: "link", href, text: label }, end: end + 1 };
  }
  if (isInWord) return null;
  if (letter === "h" || letter === "H") {
    const link = linkAt(text, at);
    return link === null ? null : { inline: { kind: "link", href: link.href, text: link.text }, end: at + link.text.length };
  }
  if (letter === "@") {
    MENTION.lastIndex = at;
    const client = MENTION.exec(text)?.[1];
    if (client !== undefined && mentions.includes(client)) return { inline: { kind: "mention", client, text: `@${client}` }, end: at + 1 + client.length };
  }
  return null;
}

/** Where `mark` comes next; -1, and remembered, when it does not. @param {string} text @param {string} mark @param {number} from @param {Set<string>} dead */
function closing(text, mark, from, dead) {
  if (dead.has(mark)) return -1;
  const end = text.indexOf(mark, from);
  if (end < 0) dead.add(mark);
  return end;
}
