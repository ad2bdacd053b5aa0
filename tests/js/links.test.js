import assert from "node:assert/strict";
import test from "node:test";
import { inlines } from "../../static/js/chat/markdown.js";

/** @param {string} text */
const links = (text) => inlines(text, []).flatMap((part) => (part.kind === "link" ? [part.href] : []));

test("only http and https become links", () => {
  assert.deepEqual(links("javascript:alert(1) data:text/html,x file:///etc/passwd ftp://a.example vbscript:x //a.example"), []);
  assert.deepEqual(links("http://a.example/ https://b.example/"), ["http://a.example/", "https://b.example/"]);
  assert.deepEqual(links("JAVASCRIPT://a.example/%0aalert(1)"), []);
});

test("a name before the host makes no link, since it hides the host", () => {
  assert.deepEqual(links("https://bank.example@evil.example/"), []);
});

test("the sentence's punctuation stays outside", () => {
  assert.deepEqual(links("Go to https://a.example/b?c=d. Now!"), ["https://a.example/b?c=d"]);
  assert.deepEqual(links("(https://a.example/b)"), ["https://a.example/b"]);
  assert.deepEqual(links("https://a.example/b_(c)"), ["https://a.example/b_(c)"]);
  assert.deepEqual(links('"https://a.example/b"'), ["https://a.example/b"]);
});
