// The session of the console: one line that its reader may cut, one channel on it, and acks that its reader may stall.
//
// Unlike the SDK's client it hides nothing: no queue, no retry of a request, each frame is shown as it travels. The
// connection, the clock and the tokens are given, so that tests run without a socket.

import { Ledger } from "./ledger.js";

/** @typedef {import("../../seriatim/frames.js").ServerFrame} ServerFrame */
/** @typedef {import("../../seriatim/frames.js").ReadyFrame} ReadyFrame */
/** @typedef {import("../../seriatim/position.js").From} From */
/** @typedef {import("./states.js").LineName} LineName */

/**
 * What is needed of the SDK's `Connection`.
 *
 * @typedef {object} Link
 * @property {boolean} isReady
 * @property {(frame: Record<string, unknown>) => void} send
 * @property {(frame: Record<string, unknown>, onAnswer: (answer: any) => void) => void} request
 * @property {(code?: number, reason?: string) => void} close
 */

/**
 * @typedef {object} LinkEvents
 * @property {(frame: ReadyFrame) => void} onReady
 * @property {(frame: any) => void} onFrame
 * @property {(direction: "in" | "out", text: string) => void} onWire
 * @property {(lost: { code: number, reason: string }) => void} onLost
 */

/**
 * @typedef {object} SessionOptions
 * @property {(token: string, events: LinkEvents) => Link} open
 * @property {() => Promise<string>} token
 * @property {(attempt: number, code: number) => number | null} retryAfterMs How long to wait after a loss; null: not at all.
 * @property {{ now: () => number, setTimeout: (run: () => void, delayMs: number) => unknown, clearTimeout: (timer: any) => void }} clock
 * @property {() => number} random
 * @property {(direction: "in" | "out", text: string) => void} onWire
 * @property {(what: string) => void} onBreak The line is gone, and why.
 * @property {(what: string) => void} onBack It is there again: more to say about that break.
 * @property {() => void} onChange
 */

/** While we are held, or away from the newest message, the log's head is asked for so often. */
const HEAD_EVERY_MS = 3000;

export class Session {
  /** @type {LineName} */
  line = "off";
  since;
  reason = "";
  attempt = 0;
  isStalling = false;
  /** @type {Ledger | null} */
  ledger = null;
  /** @type {ReadyFrame | null} */
  ready = null;
  /** What the last request was refused with, or empty. */
  complaint = "";
  #options;
  #clock;
  /** @type {Link | null} */
  #link = null;
  /** Counts tries: what an older one brings is void. */
  #try = 0;
  /** @type {unknown} */
  #retryTimer = null;
  /** @type {unknown} */
  #ackTimer = null;
  /** @type {unknown} */
  #headTimer = null;
  #lostAt = 0;
  #ackEvery = 1;
  #ackMs = 10_000;
  #dueAfter = 1;
  #sinceAck = 0;
  /** @type {{ window: number | undefined, delta: string | undefined } | null} The channel is wanted: attached again with each connection. */
  #wanted = null;

  /** @param {SessionOptions} options */
  constructor(options) {
    this.#options = options;
    this.#clock = options.clock;
    this.since = this.#clock.now();
  }

  get isUp() {
    return this.line === "up";
  }

  connect() {
    if (this.line === "connecting" || this.line === "up") return;
    this.attempt = 0;
    void this.#open();
  }

  /** Ends the line and the wish for one. */
  disconnect() {
    this.#drop("off", "");
  }

  /** Cuts the line as a tunnel does: no detach, no last ack. It stays cut until `join`. */
  cut() {
    if (this.line !== "up" && this.line !== "connecting") return;
    this.#drop("cut", "");
  }

  join() {
    this.connect();
  }

  /**
   * Follows `channel`. Without `from`: from where we are, if it is the same channel.
   *
   * @param {string} channel
   * @param {From | null} from
   * @param {number} [window]
   * @param {string} [delta] Ask for data as differences.
   */
  attach(channel, from, window, delta) {
    this.complaint = "";
    const before = this.ledger;
    const isOther = before === null || before.channel !== channel;
    if (isOther && before !== null && before.isAttached) this.detach();
    if (isOther) this.ledger = new Ledger(channel);
    this.#wanted = { window, delta };
    this.#attach(from ?? this.ledger?.resumeFrom ?? "head", from === null && !isOther);
  }

  detach() {
    if (this.ledger === null) return;
    this.#wanted = null;
    this.#link?.request({ type: "detach", channel: this.ledger.channel }, () => {});
    this.ledger.detached();
    this.#changed();
  }

  /** @param {boolean} isStalling */
  stall(isStalling) {
    this.isStalling = isStalling;
    // One that was only planned is stalled too.
    this.#clock.clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    if (!isStalling) this.#ack();
    this.#changed();
  }

  /** Acknowledges all that came, also while acks are stalled. */
  ackNow() {
    this.#ack();
    this.#changed();
  }

  /**
   * Publishes on the line; the caller has another way when there is none.
   *
   * @param {string} channel
   * @param {Record<string, unknown>[]} messages
   * @param {(answer: any) => void} onAnswer
   */
  publish(channel, messages, onAnswer) {
    this.#link?.request({ type: "publish", channel, messages }, (answer) => {
      this.#answered(answer);
      if (answer.type === "published") this.stored(channel, answer.serials);
      onAnswer(answer);
      this.#changed();
    });
  }

  /** Serials that are in the log, as whoever stored them says. @param {string} channel @param {number[]} serials */
  stored(channel, serials) {
    if (this.ledger?.channel !== channel || serials.length === 0) return;
    this.ledger.inLog(Math.max(...serials));
    this.#changed();
  }

  // The line

  async #open() {
    const current = ++this.#try;
    this.#clock.clearTimeout(this.#retryTimer);
    this.attempt += 1;
    this.#enter("connecting", "");
    let token;
    try {
      token = await this.#options.token();
    } catch (error) {
      if (current === this.#try) this.#lost({ code: 1006, reason: error instanceof Error ? error.message : String(error) });
      return;
    }
    if (current !== this.#try) return;
    this.#link = this.#options.open(token, {
      onWire: (direction, text) => this.#options.onWire(direction, text),
      onReady: (frame) => this.#isReady(frame),
      onFrame: (frame) => this.#frame(frame),
      onLost: (lost) => this.#lost(lost),
    });
  }

  /** @param {ReadyFrame} frame */
  #isReady(frame) {
    this.ready = frame;
    if (this.#lostAt > 0) {
      const away = ((this.#clock.now() - this.#lostAt) / 1000).toFixed(1);
      this.#options.onBack(`Back after ${away} s on worker ${frame.worker}.`);
      this.#lostAt = 0;
    }
    this.attempt = 0;
    this.#enter("up", "");
    if (this.#wanted !== null && this.ledger !== null) this.#attach(this.ledger.resumeFrom ?? "head", this.ledger.resumeFrom !== null);
  }

  /** @param {{ code: number, reason: string }} lost */
  #lost({ code, reason }) {
    this.#link = null;
    this.#lineGone("The line was lost");
    const waitMs = this.#options.retryAfterMs(this.attempt, code);
    if (waitMs === null) return this.#enter("ended", reason === "" ? `The server closed with ${code}.` : `${code}: ${reason}.`);
    // A try that failed does not begin the time offline anew.
    if (this.line !== "lost") this.#enter("lost", reason);
    this.#retryTimer = this.#clock.setTimeout(() => void this.#open(), waitMs);
  }

  /** @param {"off" | "cut"} line @param {string} reason */
  #drop(line, reason) {
    this.#try += 1;
    this.#clock.clearTimeout(this.#retryTimer);
    this.#link?.close(1000, "");
    this.#link = null;
    this.#lineGone(line === "cut" ? "You cut the line" : "You disconnected");
    this.#enter(line, reason);
  }

  /** @param {string} words */
  #lineGone(words) {
    this.#clock.clearTimeout(this.#ackTimer);
    this.#clock.clearTimeout(this.#headTimer);
    this.#ackTimer = this.#headTimer = null;
    if (this.line === "up") {
      this.#lostAt = this.#clock.now();
      this.#options.onBreak(words);
    }
    this.ledger?.lineLost(this.#clock.now());
  }

  /** @param {LineName} line @param {string} reason */
  #enter(line, reason) {
    this.line = line;
    this.reason = reason;
    this.since = this.#clock.now();
    this.#changed();
  }

  // The channel

  /** @param {From} from @param {boolean} isResume */
  #attach(from, isResume) {
    const { ledger } = this;
    if (ledger === null || this.#link === null) return;
    const { window, delta } = this.#wanted ?? {};
    /** @type {Record<string, unknown>} */
    const frame = { type: "attach", channel: ledger.channel, from };
    if (window !== undefined) frame.window = window;
    if (delta !== undefined) frame.delta = delta;
    this.#link.request(frame, (answer) => {
      if (this.ledger !== ledger) return;
      if (answer.type === "attached") this.#attached(answer, isResume);
      else {
        this.#answered(answer);
        if (!ledger.isAttached) this.#wanted = null;
      }
      this.#changed();
    });
  }

  /** @param {import("../../seriatim/frames.js").AttachedFrame} frame @param {boolean} isResume */
  #attached(frame, isResume) {
    this.ledger?.attached(frame, this.#clock.now(), isResume);
    this.#ackEvery = Math.max(1, frame.ack_every);
    this.#ackMs = frame.ack_ms;
    this.#spread();
  }

  /** @param {any} answer */
  #answered(answer) {
    this.complaint = answer.type === "error" ? `${answer.message} ${answer.remedy ?? ""}`.trim() : "";
  }

  /** @param {any} frame */
  #frame(frame) {
    const { ledger } = this;
    if (frame.type === "error") this.#answered(frame);
    else if (ledger !== null && frame.channel === ledger.channel) {
      if (frame.type === "message") this.#message(frame);
      else if (frame.type === "skipped") ledger.skipped(frame);
      else if (frame.type === "attached") this.#attached(frame, true);
      else if (frame.type === "snapshot.end") ledger.snapshotEnd(frame.serial);
      else if (frame.type === "detached") {
        ledger.detached();
        this.#wanted = null;
        this.complaint = frame.reason ? `The server detached the channel: ${frame.reason}.` : "";
      }
    }
    this.#changed();
  }

  /** @param {import("../../seriatim/frames.js").MessageFrame} frame */
  #message(frame) {
    if (this.ledger?.message(frame) === "snapshot") return;
    this.#sinceAck += 1;
    if (this.isStalling || this.ledger?.window === 0) return;
    if (this.#sinceAck >= this.#dueAfter) this.#ack();
    else this.#ackTimer ??= this.#clock.setTimeout(() => this.#ack(), this.#ackMs);
  }

  #ack() {
    this.#clock.clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    const { ledger } = this;
    if (ledger === null || !ledger.isAttached || ledger.window === 0 || ledger.acked >= ledger.position || this.#link === null) return;
    this.#link.send({ type: "ack", serials: { [ledger.channel]: ledger.position } });
    ledger.ackedThrough(ledger.position);
    this.#spread();
  }

  /** The server asks for a random point between half and the whole of its cadence. */
  #spread() {
    const half = Math.ceil(this.#ackEvery / 2);
    this.#dueAfter = Math.max(1, half + Math.floor(this.#options.random() * (this.#ackEvery - half + 1)));
    this.#sinceAck = 0;
  }

  #changed() {
    // Who is held hears nothing of the log, so it is asked how far it goes.
    if (this.isUp && this.ledger?.isHeld) {
      this.#headTimer ??= this.#clock.setTimeout(() => this.#askHead(), 50);
    }
    this.#options.onChange();
  }

  #askHead() {
    const { ledger } = this;
    this.#headTimer = null;
    if (ledger === null || !ledger.isHeld || !this.isUp) return;
    this.#headTimer = this.#clock.setTimeout(() => this.#askHead(), HEAD_EVERY_MS);
    this.#link?.request({ type: "history", channel: ledger.channel, limit: 1 }, (answer) => {
      // Without the right to read history the head stays what is known.
      if (answer.type !== "history" || this.ledger !== ledger) return;
      ledger.inLog(answer.head);
      this.#changed();
    });
  }
}
