import assert from "node:assert/strict";
import test from "node:test";
import { transportWord } from "../../static/js/line-state.js";
import { SockJsTransport } from "../../static/js/sockjs-transport.js";

class Fake {
  /** @type {Fake[]} */
  static made = [];
  /** @type {string | null} */
  transport = null;
  /** @type {(() => void) | null} */
  onopen = null;
  /** @type {((event: { data: string }) => void) | null} */
  onmessage = null;
  /** @type {((event: { code: number, reason: string }) => void) | null} */
  onclose = null;
  /** @type {string[]} */
  sent = [];
  /** @type {unknown[][]} */
  closed = [];

  /** @param {string} url @param {null} _reserved @param {{ transports?: string[] }} options */
  constructor(url, _reserved, options) {
    this.url = url;
    this.options = options;
    Fake.made.push(this);
  }

  /** @param {string} text */
  send(text) {
    assert.ok(this.transport, "SockJS throws before it is open");
    this.sent.push(text);
  }

  /** @param {unknown[]} given */
  close(...given) {
    this.closed.push(given);
  }
}

/** @param {string[]} protocols @param {string[]} [within] */
function opened(protocols, within) {
  /** @type {unknown[]} */
  const seen = [];
  const transport = new SockJsTransport(Fake, "/sockjs", within);
  const link = transport.open({
    url: "wss://example.org/ws",
    protocols,
    onOpen: () => seen.push("open"),
    onText: (text) => seen.push(text),
    onClose: (code, reason) => seen.push([code, reason]),
  });
  return { seen, transport, link, socket: /** @type {Fake} */ (Fake.made.at(-1)) };
}

test("the token goes first, as a frame, since SockJS has no subprotocols", () => {
  const { seen, transport, link, socket } = opened(["seriatim.1", "seriatim.bearer.a.b.c"], ["xhr-polling"]);
  assert.deepEqual([socket.url, socket.options], ["/sockjs", { sessionId: 22, transports: ["xhr-polling"] }]);
  link.send("too early");
  socket.transport = "xhr-polling";
  socket.onopen?.();
  link.send("frame");
  socket.onmessage?.({ data: "answer" });
  assert.deepEqual(socket.sent.map((text) => text), ['{"type":"auth","ref":0,"token":"a.b.c"}', "frame"]);
  assert.equal(transportWord(transport.name), "SockJS by xhr-polling");
  socket.onclose?.({ code: 4401, reason: "expired" });
  link.send("too late");
  assert.deepEqual(seen, ["open", "answer", [4401, "expired"]]);
  assert.equal(socket.sent.length, 2);
});

test("without a token nothing goes before the frames of the client", () => {
  const { socket } = opened(["seriatim.1"]);
  socket.transport = "websocket";
  socket.onopen?.();
  assert.deepEqual([socket.sent, socket.options], [[], { sessionId: 22 }]);
});

test("who closes hears nothing more; codes that SockJS does not allow are left out", () => {
  for (const [code, given] of /** @type {const} */ ([[1000, [1000, "bye"]], [4000, [4000, "bye"]], [1001, []], [undefined, []]])) {
    const { seen, link, socket } = opened([]);
    link.close(code, "bye");
    socket.onclose?.({ code: 1000, reason: "" });
    assert.deepEqual([socket.closed, seen], [[given], []]);
  }
});
