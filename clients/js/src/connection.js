// One connection, from opening to its end: credentials, refs and answers, heartbeat. It never reconnects; the client
// opens the next one.
//
//     opening ──open──▶ greeting ──ready──▶ ready
//        └────────────────┴──────────────────┴──▶ lost (once; nothing is called after it)

import { Timer, LATE_MS } from "./clock.js";
import { parseFrame } from "./frames.js";
import { SLOW_MS } from "./latency.js";

/** @typedef {import("./clock.js").Clock} Clock */
/** @typedef {import("./frames.js").ServerFrame} ServerFrame */
/** @typedef {import("./frames.js").ReadyFrame} ReadyFrame */
/** @typedef {import("./transport-websocket.js").Transport} Transport */
/** @typedef {import("./transport-websocket.js").TransportLink} TransportLink */

export const SUBPROTOCOL = "seriatim.v1.json";
/** What a subprotocol entry may hold (a token of RFC 9110); every JWT does. */
const HEADER_TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;

/** From opening to `ready`. Longer than the 10 s in which the server waits for credentials. */
export const READY_WITHIN_MS = 15_000;
/** From a probe to the first sign of life. */
export const PROBE_WITHIN_MS = 10_000;
/** From a request to its answer. The server gives up on its database long before; a thin line may need most of it. */
export const ANSWER_WITHIN_MS = 60_000;

/**
 * @typedef {object} Lost
 * @property {number} code The close code; 1006 for a line that broke or fell silent.
 * @property {string} reason
 * @property {number} heardAt When the last sign of life came.
 * @property {boolean} isTimeout It never became ready in time.
 */

/**
 * @typedef {object} ConnectionEvents
 * @property {(frame: ReadyFrame) => void} onReady
 * @property {(frame: ServerFrame, size: number) => void} onFrame Everything that is no answer to a request. `size` in
 *   UTF-16 units.
 * @property {(direction: "in" | "out", text: string) => void} onWire Every frame as it travels.
 * @property {(ms: number) => void} onLatency An answer took so long; or one is awaited for so long already.
 * @property {(lost: Lost) => void} onLost
 */

/** @typedef {(answer: any) => void} OnAnswer Gets the answer or the `error` frame; never called when the line is lost. */

export class Connection {
  #clock;
  #events;
  #takeAcks;
  /** @type {TransportLink} */
  #link;
  #timer;
  #ended = false;
  #isReady = false;
  #nextRef = 1;
  /** @type {Map<import("./frames.js").Ref, { onAnswer: OnAnswer, sentAt: number, isLate: boolean }>} In the order sent. */
  #pending = new Map();
  #openedAt;
  #heardAt;
  /** @type {number | null} */
  #probedAt = null;
  #silenceMs = Infinity;
  #maxFrameBytes = Infinity;

  /**
   * @param {object} options
   * @param {Transport} options.transport
   * @param {string} options.url
   * @param {string | null} options.token
   * @param {Clock} options.clock
   * @param {() => Record<string, number> | null} options.takeAcks Acks to ride on a frame that is sent anyway.
   * @param {ConnectionEvents} options.events
   */
  constructor({ transport, url, token, clock, takeAcks, events }) {
    this.#clock = clock;
    this.#events = events;
    this.#takeAcks = takeAcks;
    this.#openedAt = this.#heardAt = clock.now();
    this.#timer = new Timer(clock, (lateMs) => this.#watch(lateMs));
    // A subprotocol entry is how a browser sends a header: the server knows who we are before it answers, and a session
    // cookie of somebody else cannot come first.
    const inHeader = token !== null && HEADER_TOKEN.test(token);
    const protocols = inHeader ? [SUBPROTOCOL, `seriatim.bearer.${token}`] : [SUBPROTOCOL];
    this.#link = transport.open({
      url,
      protocols,
      onOpen: () => {
        if (this.#ended) return;
        this.#heard();
        if (token !== null && !inHeader) this.#write(JSON.stringify({ type: "auth", ref: 0, token }));
      },
      onText: (text) => {
        if (!this.#ended) this.#receive(text);
      },
      onClose: (code, reason) => this.#end(code, reason),
    });
    this.#timer.set(READY_WITHIN_MS);
  }

  get isReady() {
    return this.#isReady && !this.#ended;
  }

  get heardAt() {
    return this.#heardAt;
  }

  /**
   * Sends a frame that has no answer.
   *
   * @param {Record<string, unknown>} frame
   */
  send(frame) {
    if (!this.#ended) this.#write(this.#encode(frame, ""));
  }

  /**
   * Sends a frame with a `ref` and calls `onAnswer` with what comes back. When the line is lost first, it is never
   * called: whoever asked asks again on the next connection.
   *
   * @param {Record<string, unknown>} frame
   * @param {OnAnswer} onAnswer
   * @param {string} [messages] The JSON of the `messages` of a publish, encoded once when it was queued.
   */
  request(frame, onAnswer, messages = "") {
    if (this.#ended) return;
    const ref = this.#nextRef++;
    this.#pending.set(ref, { onAnswer, sentAt: this.#clock.now(), isLate: false });
    this.#timer.setSooner(SLOW_MS);
    this.#write(this.#encode({ ...frame, ref }, messages));
  }

  /**
   * Asks for a sign of life. The line counts as lost when none comes.
   *
   * @param {number} [withinMs]
   */
  probe(withinMs = PROBE_WITHIN_MS) {
    if (!this.isReady || this.#probedAt !== null) return;
    this.#probedAt = this.#clock.now() + withinMs - PROBE_WITHIN_MS;
    this.request({ type: "ping" }, () => {});
    this.#timer.setSooner(withinMs);
  }

  /**
   * Ends the connection from our side. `onLost` is not called.
   *
   * @param {number} [code]
   * @param {string} [reason]
   */
  close(code, reason) {
    if (this.#ended) return;
    this.#stop();
    this.#link.close(code, reason);
  }

  /** What carries it, where that is not what its transport is called. */
  get transport() {
    return this.#link.transport ?? null;
  }

  /** @param {string} text */
  #write(text) {
    this.#link.send(text);
    this.#events.onWire("out", text);
  }

  #stop() {
    this.#ended = true;
    this.#timer.clear();
    this.#pending.clear();
  }

  /** @param {number} code @param {string} reason @param {boolean} [isTimeout] */
  #end(code, reason, isTimeout = false) {
    if (this.#ended) return;
    this.#stop();
    this.#events.onLost({ code, reason, heardAt: this.#heardAt, isTimeout });
  }

  /** @param {string} reason */
  #giveUp(reason) {
    if (this.#ended) return;
    // The closing handshake of a dead line takes minutes; we do not wait for it.
    this.#link.close();
    this.#end(1006, reason, !this.#isReady);
  }

  #heard() {
    this.#heardAt = this.#clock.now();
    this.#probedAt = null;
  }

  /** @param {string} text */
  #receive(text) {
    this.#heard();
    this.#events.onWire("in", text);
    const frame = parseFrame(text);
    if (frame === null) return;
    if (frame.type === "ready" && !this.#isReady) {
      this.#isReady = true;
      this.#silenceMs = frame.heartbeat_ms > 0 ? frame.heartbeat_ms * 1.5 : Infinity;
      this.#maxFrameBytes = frame.max_frame_bytes;
      this.#schedule();
      this.#events.onReady(frame);
      return;
    }
    const ref = "ref" in frame ? frame.ref : undefined;
    const request = ref === undefined ? undefined : this.#pending.get(ref);
    if (request === undefined || ref === undefined) {
      this.#events.onFrame(frame, text.length);
      return;
    }
    this.#pending.delete(ref);
    this.#events.onLatency(Math.max(0, this.#clock.now() - request.sentAt));
    request.onAnswer(frame);
  }

  /** @param {Record<string, unknown>} frame @param {string} messages */
  #encode(frame, messages) {
    let text = JSON.stringify(frame);
    if (messages !== "") text = `${text.slice(0, -1)},"messages":${messages}}`;
    // Acks ride along, unless the frame is near its limit already.
    if (frame.type === "ack" || !this.#isReady || text.length * 4 > this.#maxFrameBytes) return text;
    const acks = this.#takeAcks();
    return acks === null ? text : `${text.slice(0, -1)},"acks":${JSON.stringify(acks)}}`;
  }

  /** @param {number} lateMs */
  #watch(lateMs) {
    const now = this.#clock.now();
    if (!this.#isReady) {
      // After a freeze the time to connect counts anew: the answer may wait in the socket.
      if (lateMs > LATE_MS) this.#openedAt = now;
      if (now - this.#openedAt >= READY_WITHIN_MS) return this.#giveUp("no answer while connecting");
      return this.#schedule();
    }
    if (lateMs > LATE_MS) {
      // Nothing ran for a while, so silence proves nothing yet. Ask, and judge by what comes.
      this.#probedAt = null;
      for (const request of this.#pending.values()) request.sentAt += lateMs;
      this.probe();
      return this.#schedule();
    }
    if (this.#probedAt !== null && now - this.#probedAt >= PROBE_WITHIN_MS) return this.#giveUp("no sign of life");
    const [oldest] = this.#pending.values();
    if (oldest !== undefined) {
      const age = now - oldest.sentAt;
      if (age >= ANSWER_WITHIN_MS) return this.#giveUp("a request was not answered");
      if (age >= SLOW_MS && !oldest.isLate) {
        oldest.isLate = true;
        this.#events.onLatency(age);
        if (this.#ended) return;
      }
    }
    if (now - this.#heardAt >= this.#silenceMs) this.probe();
    this.#schedule();
  }

  #schedule() {
    if (this.#ended) return;
    const now = this.#clock.now();
    let due = Infinity;
    if (!this.#isReady) due = this.#openedAt + READY_WITHIN_MS;
    else {
      due = this.#probedAt === null ? this.#heardAt + this.#silenceMs : this.#probedAt + PROBE_WITHIN_MS;
      const [oldest] = this.#pending.values();
      if (oldest !== undefined) due = Math.min(due, oldest.sentAt + (oldest.isLate ? ANSWER_WITHIN_MS : SLOW_MS));
    }
    if (due < Infinity) this.#timer.set(due - now);
  }
}
