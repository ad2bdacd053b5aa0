import assert from "node:assert/strict";
import test from "node:test";
import { inlines, parse } from "../../static/js/chat/markdown.js";

/** The tree in short: **b**, _i_, `c`, [text|href], @who. @param {import("../../static/js/chat/markdown.js").Inline[]} parts @returns {string} */
const short = (parts) =>
  parts
    .map((part) => {
      if (part.kind === "text") return part.text;
      if (part.kind === "code") return `<code ${part.text}>`;
      if (part.kind === "link") return `<link ${part.text} ${part.href}>`;
      if (part.kind === "mention") return `<at ${part.client}>`;
      return `<${part.kind} ${short(part.children)}>`;
    })
    .join("");

/** @param {string} text @param {string[]} [mentions] */
const inline = (text, mentions = []) => short(inlines(text, mentions));

test("bold, italic, code, links and mentions, one in another", () => {
  assert.equal(inline("a **b** _c_ *d* `e`"), "a <bold b> <italic c> <italic d> <code e>");
  assert.equal(inline("**a _b_**"), "<bold a <italic b>>");
  assert.equal(inline("`**a**`"), "<code **a**>");
  assert.equal(inline("[here](https://a.example/x)"), "<link here https://a.example/x>");
  assert.equal(inline("**https://a.example/x**"), "<bold <link https://a.example/x https://a.example/x>>");
  assert.equal(inline("@ana, @bo and @nobody", ["ana", "bo"]), "<at ana>, <at bo> and @nobody");
  assert.equal(inline("mail@ana", ["ana"]), "mail@ana");
});

test("what is not exactly that stands as typed", () => {
  const texts = ["2 * 3 * 4", "snake_case_name", "**", "** a **", "*", "`", "a*b*c", "[x](y)", "**a", "_a_b", "`a", "[a", "\\*a"];
  for (const text of texts) assert.equal(inline(text), text);
});

test("blocks: paragraphs, lists, quotes, code", () => {
  assert.deepEqual(
    parse("a\nb\n- one\n- two\n3. three\n> q\n> r\n```\n<b>\n  x\n```\nend").map((block) => {
      if (block.kind === "code") return ["code", block.text];
      if (block.kind === "list") return [block.isOrdered ? `ol ${block.start}` : "ul", ...block.items.map(short)];
      return [block.kind, short(block.children)];
    }),
    [["paragraph", "a\nb"], ["ul", "one", "two"], ["ol 3", "three"], ["quote", "q\nr"], ["code", "<b>\n  x"], ["paragraph", "end"]],
  );
  assert.deepEqual(parse("```\nopen").map((block) => block.kind), ["paragraph"]);
});

test("no address that runs something, or hides where it leads, becomes a link", () => {
  const nasty = [
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x)",
    "[x](//a.example)",
    "[x](https://bank.example@evil.example/)",
    "[www.bank.example](ftp://evil.example/)",
    "<img src=x onerror=alert(1)>",
    "<a href='javascript:x'>y</a>",
  ];
  for (const text of nasty) assert.doesNotMatch(inline(text), /<link/, text);
  // A label that looks like an address stays text, and the address shows itself.
  for (const label of ["https://bank.example", "www.bank.example"]) {
    assert.match(inline(`[${label}](https://evil.example/)`), /\]\(<link https:\/\/evil.example\/ https:\/\/evil.example\/>\)$/);
  }
});

test("an odd text takes no longer than its length: every marker four thousand times", () => {
  for (const piece of ["*", "_", "**a", "`", "[", "[a](", "_a *b ", "> ", "- ", "```\n", "https://", "@", "*a", "(_"]) {
    const text = piece.repeat(Math.ceil(4000 / piece.length));
    const began = performance.now();
    parse(text, ["a"]);
    assert.ok(performance.now() - began < 2000, piece);
  }
});

test("no text is lost: without its marks it is the text again", () => {
  /** @param {import("../../static/js/chat/markdown.js").Inline[]} parts @returns {string} */
  const plain = (parts) => parts.map((part) => ("children" in part ? plain(part.children) : part.text)).join("");
  const pieces = ["*", "**", "_", "`", "[", "](", ")", "a", " ", "https://a.example/", "@ana", "\n", "é", "😀"];
  let seed = 7;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  for (let round = 0; round < 2000; round++) {
    const text = Array.from({ length: 12 }, () => pieces[Math.floor(random() * pieces.length)]).join("");
    const kept = plain(inlines(text, ["ana"]));
    let at = 0;
    for (const letter of kept) at = text.indexOf(letter, at) + 1 || assert.fail(`${text} became ${kept}`);
    assert.equal(kept.replace(/[*_`]/g, "").replace(/[[\]()]|https:\/\/a.example\//g, ""), text.replace(/[*_`]/g, "").replace(/[[\]()]|https:\/\/a.example\//g, ""));
  }
});
