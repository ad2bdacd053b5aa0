// Draws the tree of markdown.js with elements and text nodes only.

import { el } from "../dom.js";
import { parse } from "./markdown.js";

/** @typedef {import("./markdown.js").Inline} Inline */

/** @param {string} text @param {readonly string[]} mentions @param {string} me */
export function textNode(text, mentions, me) {
  const node = el("div", { class: "text", dir: "auto" });
  for (const block of parse(text, mentions)) {
    if (block.kind === "code") node.append(el("pre", { tabindex: "0" }, el("code", {}, block.text)));
    else if (block.kind === "list") {
      const items = block.items.map((item) => el("li", {}, ...drawn(item, me)));
      node.append(block.isOrdered ? el("ol", { start: String(block.start) }, ...items) : el("ul", {}, ...items));
    } else node.append(el(block.kind === "quote" ? "blockquote" : "p", {}, ...drawn(block.children, me)));
  }
  return node;
}

/** @param {Inline[]} inlines @param {string} me @returns {(Node | string)[]} */
function drawn(inlines, me) {
  return inlines.map((each) => {
    switch (each.kind) {
      case "text":
        return each.text;
      case "code":
        return el("code", {}, each.text);
      case "bold":
        return el("strong", {}, ...drawn(each.children, me));
      case "italic":
        return el("em", {}, ...drawn(each.children, me));
      case "link":
        return el("a", { href: each.href, rel: "noopener noreferrer nofollow ugc", target: "_blank", title: each.text === each.href ? null : each.href }, each.text);
      case "mention":
        return el("span", { class: each.client === me ? "at you" : "at" }, each.text);
    }
  });
}
