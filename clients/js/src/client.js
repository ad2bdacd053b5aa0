// The client: one line to the server, kept through every loss of it, and the channels on it.
//
// A connection lives in connection.js and is never repaired; this opens the next one when the last one ended, and the
// close code decides how (codes.js). The states and which may follow which are the table in line-state.js.

import { Backoff } from "./backoff.js";
import { Channel } from "./channel.js";
import { systemClock, Timer, LATE_MS } from "./clock.js";
import { reconnectAfter, meantCode, retryAfterMs } from "./codes.js";
import { Connection } from "./connection.js";
import { Emitter, report } from "./emitter.js";
import { SeriatimError } from "./errors.js";
import { idMaker, strongRandom } from "./ids.js";
import { Latency } from "./latency.js";
import { TRANSITIONS } from "./line-state.js";
import { checkChannel } from "./names.js";
import { Outbox } from "./outbox.js";
import { TransportChoice } from "./transport-choice.js";
import { socketUrl, WebSocketTransport } from "./transport-websocket.js";

/** @typedef {import("./channel.js").ChannelOptions} ChannelOptions */
/** @typedef {import("./clock.js").Clock} Clock */
/** @typedef {import("./connection.js").Lost} Lost */
/** @typedef {import("./frames.js").ErrorFrame} ErrorFrame */
/** @typedef {import("./frames.js").ReadyFrame} ReadyFrame */
/** @typedef {import("./frames.js").ServerFrame} ServerFrame */
/** @typedef {import("./line-state.js").LineState} LineState */
/** @typedef {import("./line-state.js").LineStateName} LineStateName */
/** @typedef {import("./outbox.js").OutboxEntry} OutboxEntry */

/** @typedef {"connect" | "expiring" | "unauthorized"} TokenReason */

/**
 * @typedef {object} ClientOptions
 * @property {string} [url] Default "/ws"; relative to the page; `http` becomes `ws`.
 * @property {(why: { reason: TokenReason }) => Promise<string | null> | string | null} [token] Gives a JWT, or null where the
 *   session cookie says who we are. An error with `code` "unauthorized" or `status` 401 or 403 means signed out; any other is
 *   a try that failed.
 * @property {string} [clientId] Who we are, if it is known before the server says it: then unsent messages found on the
 *   device are there before the first connection.
 * @property {import("./transport-websocket.js").WebSocketConstructor} [WebSocket] Where there is no global one.
 * @property {readonly import("./transport-websocket.js").Transport[]} [transports] Instead of a WebSocket, the best first.
 *   The next is tried where one does not get through, and the best again in the background.
 * @property {import("./transport-choice.js").TransportMemory} [memory] Remembers for an hour which of them worked here.
 * @property {Clock} [clock]
 * @property {() => number} [random] As `Math.random`.
 * @property {import("./storage.js").OutboxStorage} [storage] Keeps unsent messages over a reload.
 * @property {import("./backoff.js").BackoffOptions} [backoff]
 * @property {import("./outbox.js").OutboxLimits} [outbox]
 * @property {EventTarget | null} [events] Where `online`, `offline`, `pageshow`, `resume` and `visibilitychange` are heard.
 *   Default: the window, if there is one.
 */

/**
 * What was made good after the line had been away.
 *
 * @typedef {object} Recovered
 * @property {number} awayMs
 * @property {number} received Messages that were delivered since the line was lost.
 * @property {number} sent Messages of ours that were stored since.
 * @property {number} skipped Serials that could not be had.
 */

/**
 * @typedef {object} Announcement
 * @property {string} id
 * @property {string} text
 */

/**
 * @typedef {object} ClientEvents
 * @property {LineState} state
 * @property {ReadyFrame} ready
 * @property {Recovered} recovered
 * @property {OutboxEntry} outbox A message of ours changed its state, in whatever channel.
 * @property {number} latency
 * @property {Announcement} announcement What an operator of the server says to everybody who is connected.
 * @property {SeriatimError} error What belongs to no channel and no call.
 * @property {{ direction: "in" | "out", text: string }} frame Every frame as it travels, also tokens: for consoles.
 */

/**
 * @typedef {object} Question
 * @property {Record<string, unknown>} frame
 * @property {(answer: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {Backoff} backoff
 * @property {Timer} timer
 * @property {boolean} isAsked On this connection, and not answered.
 */

/** A connection that was ready for so long was a good one: the next backoff starts anew. */
const GOOD_AFTER_MS = 10_000;
/** How long a token without a known end is used again. */
const TOKEN_KEPT_MS = 60_000;
/** A token this near its end is not used for a new connection. */
const TOKEN_MARGIN_MS = 60_000;
/** How soon a token function that failed is called again while the old token still holds. */
const TOKEN_AGAIN_MS = 5_000;
/** How long a worker that said it leaves may take to close before we leave it. */
const MOVE_GRACE_MS = 5_000;
/** How long the account of a recovery waits for our own messages to be stored. */
const SENT_WITHIN_MS = 3_000;
/** How soon another transport is tried when one does not get through. */
const OTHER_WITHIN_MS = 500;
/** How often a line whose answers are late is measured. */
const MEASURE_MS = 2_000;
/** The channel of what concerns whoever is connected; nobody attaches to it. */
const EVERYBODY = "$all";

export class Client {
  #url;
  #token;
  #choice;
  /** @type {import("./transport-websocket.js").Transport} Of the current connection, or of the last one. */
  #transport;
  #clock;
  #random;
  #backoffOptions;
  #makeId;
  /** @type {Emitter<ClientEvents>} */
  #emitter = new Emitter();
  /** @type {Map<string, Channel>} In the order of their making, which is the order of attaching. */
  #channels = new Map();
  #outbox;
  /** @type {Set<Question>} */
  #questions = new Set();

  /** @type {LineState} */
  #state;
  /** @type {Connection | null} */
  #connection = null;
  /** Counts tries: what an older one still brings is void. */
  #try = 0;
  #attempt = 0;
  #backoff;
  #retryTimer;
  #measureTimer;
  #tokenTimer;
  #moveTimer;
  #upgradeTimer;
  /** @type {Connection | null} A try of the best transport beside a connection by another. */
  #upgrade = null;
  #latency = new Latency();
  /** @type {ReadyFrame | null} */
  #ready = null;
  #readyAt = 0;
  /** @type {string | null} */
  #clientId;
  /** The channels that were attached again with this connection, as long as one is not answered, are "connecting". */
  #isOpening = false;
  /** @type {number | null} When the worker that leaves said to come back. */
  #moveAt = null;
  /** @type {ErrorFrame | null} The last error about the connection itself: it explains the close behind it. */
  #lastError = null;

  /** @type {{ value: string | null, until: number } | null} */
  #kept = null;
  /** Refusals of credentials in a row, without a good connection between. */
  #refusals = 0;
  /** @type {number | null} */
  #tokenEndsAt = null;

  #away = { received: 0, sent: 0, skipped: 0 };
  #awayMs = 0;
  #owesRecovered = false;
  #recoveredTimer;
  /** @type {EventTarget | null} */
  #events;
  /** @type {(() => void)[]} */
  #unlisten = [];

  /** @param {ClientOptions} [options] */
  constructor(options = {}) {
    const { clock = systemClock, random, storage, outbox = {} } = options;
    this.#url = options.url ?? "/ws";
    this.#token = options.token ?? (() => null);
    const transports = options.transports ?? [new WebSocketTransport(options.WebSocket)];
    this.#choice = new TransportChoice(transports, options.memory ?? null, clock.now());
    this.#transport = this.#choice.current;
    this.#clock = clock;
    this.#random = random ?? Math.random;
    this.#backoffOptions = options.backoff ?? {};
    this.#backoff = new Backoff(this.#backoffOptions, this.#random);
    this.#clientId = options.clientId ?? null;
    this.#makeId = idMaker(() => clock.now(), random ?? strongRandom);
    this.#events = options.events === undefined ? defaultEvents() : options.events;
    this.#retryTimer = new Timer(clock, () => this.#open());
    this.#measureTimer = new Timer(clock, () => this.#measure());
    this.#tokenTimer = new Timer(clock, () => void this.#renew());
    this.#recoveredTimer = new Timer(clock, () => this.#tellRecovered());
    this.#moveTimer = new Timer(clock, () => this.#leaveWorker());
    this.#upgradeTimer = new Timer(clock, () => void this.#tryUpgrade());
    this.#outbox = new Outbox({
      clock,
      random: this.#random,
      makeOrder: idMaker(() => clock.now(), random ?? strongRandom),
      storage: storage ?? null,
      limits: outbox,
      onEntry: (entry) => this.#drawOutbox(entry),
      onError: (error) => this.#emitter.emit("error", error),
    });
    this.#state = Object.freeze({
      name: "closed",
      since: clock.now(),
      attempt: 0,
      nextTryAt: null,
      lostAt: null,
      reason: "not connected yet",
      code: null,
    });
    if (this.#clientId !== null) this.#outbox.setOwner(this.#clientId);
  }

  get state() {
    return this.#state;
  }

  /** How long an answer takes, smoothed; null before the first. */
  get latencyMs() {
    return this.#latency.ms;
  }

  /** Who the server says we are, or what the options said; null when it is nobody known. */
  get clientId() {
    return this.#clientId;
  }

  /** The `ready` frame of the last connection. */
  get ready() {
    return this.#ready;
  }

  /**
   * The name of the transport of the current connection, or of the last one: "websocket" or another; "short polling" in a
   * tab that has no place for a lasting request.
   */
  get transport() {
    return this.#connection?.transport ?? this.#transport.name;
  }

  /** How many messages all channels together have still to process. */
  get behind() {
    let behind = 0;
    for (const channel of this.#channels.values()) if (channel.isWanted) behind += channel.behind;
    return behind;
  }

  /** What is not stored yet: `entries`, `size`, `retry(id)`, `discard(id)`, `flush()`. */
  get outbox() {
    return this.#outbox;
  }

  /**
   * @template {keyof ClientEvents} K
   * @param {K} event
   * @param {(value: ClientEvents[K]) => unknown} listener
   * @returns {() => void} Stops listening.
   */
  on(event, listener) {
    return this.#emitter.on(event, listener);
  }

  /** An id for a message, for a page that draws it before it publishes it. */
  newId() {
    return this.#makeId();
  }

  /** Connects, and stays connected until `close()`. Also begins anew after `signed_out` and `stopped`. */
  connect() {
    const { name } = this.#state;
    if (name !== "closed" && name !== "signed_out" && name !== "stopped") return;
    this.#listen();
    this.#refusals = 0;
    this.#kept = null;
    this.#attempt = 0;
    this.#backoff.reset();
    this.#open();
  }

  /**
   * Ends the connection and the tries for another. Loops end; what waits to be sent is given up: its promises reject
   * with `closed`, and it stays in the storage if there is one. `await client.outbox.flush()` first to have it sent.
   */
  close() {
    if (this.#state.name === "closed") return;
    this.#unlisten.splice(0).forEach((stop) => stop());
    this.#sendAcks();
    this.#drop(1000, "closed by the client");
    this.#try += 1;
    const error = new SeriatimError("closed");
    this.#outbox.abandon(error);
    for (const question of [...this.#questions]) this.#answer(question, error);
    for (const channel of this.#channels.values()) channel.closed(error);
    this.#enter("closed", { reason: "closed by the client", lostAt: null });
  }

  /** Tries now what would be tried later. */
  retryNow() {
    const { name } = this.#state;
    if (name === "offline" || name === "waiting" || (name === "moving" && this.#connection === null)) this.#open();
    else if (name === "signed_out" || name === "stopped") this.connect();
  }

  /**
   * The channel `name`: the same object each time. Throws `bad_channel` when it is not a name.
   *
   * @param {string} name
   * @param {ChannelOptions} [options] Replace those of an earlier call, from the next attach on.
   * @returns {Channel}
   */
  channel(name, options) {
    let channel = this.#channels.get(name);
    if (!channel) {
      checkChannel(name);
      channel = new Channel(name, {
        clock: this.#clock,
        random: this.#random,
        backoff: this.#backoffOptions,
        isUp: () => this.#connection?.isReady === true,
        send: (frame) => this.#send(frame),
        request: (frame, onAnswer) => this.#request(frame, onAnswer),
        sendAcks: () => this.#sendAcks(),
        changed: () => this.#channelChanged(),
        ask: (frame, signal) => this.#ask(frame, signal),
        publish: (to, message) => {
          const receipt = this.#outbox.add(to, message);
          this.#wake();
          return receipt;
        },
        makeId: this.#makeId,
        received: (count, skipped) => {
          this.#away.received += count;
          this.#away.skipped += skipped;
        },
      });
      this.#channels.set(name, channel);
    }
    if (options) channel.configure(options);
    return channel;
  }

  // Opening

  #open() {
    const current = ++this.#try;
    this.#retryTimer.clear();
    this.#drop(1000, "replaced");
    // Listeners of what was dropped, or of the state, may have closed the client.
    if (current !== this.#try) return;
    this.#attempt += 1;
    this.#readyAt = 0;
    this.#enter("connecting", { attempt: this.#attempt });
    if (current !== this.#try) return;
    void this.#connect(current);
  }

  /** @param {number} current */
  async #connect(current) {
    let token;
    try {
      token = await this.#freshToken(this.#refusals > 0 ? "unauthorized" : "connect");
    } catch (cause) {
      if (current !== this.#try) return;
      if (saysSignedOut(cause)) this.#enter("signed_out", { reason: "the token function says signed out" });
      else this.#retry(this.#backoff.nextMs(), "offline", { reason: "no token could be had" });
      this.#emitter.emit("error", new SeriatimError("token", undefined, { cause }));
      return;
    }
    if (current !== this.#try) return;
    try {
      this.#transport = this.#choice.current;
      this.#connection = this.#connectionBy(this.#transport, token, {
        onReady: (frame) => this.#isReady(frame),
        onFrame: (frame, size) => this.#frame(frame, size),
        onWire: (direction, text) => {
          if (this.#emitter.hasListeners("frame")) this.#emitter.emit("frame", { direction, text });
        },
        onLatency: (ms) => this.#measured(ms),
        onLost: (lost) => this.#lost(lost),
      });
    } catch (cause) {
      // The address cannot be opened at all: trying again would say the same.
      this.#enter("stopped", { reason: cause instanceof Error ? cause.message : String(cause) });
      report(cause);
    }
  }

  /**
   * @param {import("./transport-websocket.js").Transport} transport
   * @param {string | null} token
   * @param {import("./connection.js").ConnectionEvents} events
   */
  #connectionBy(transport, token, events) {
    const url = transport instanceof WebSocketTransport ? socketUrl(this.#url) : this.#url;
    return new Connection({ transport, url, token, clock: this.#clock, takeAcks: () => this.#takeAcks(), events });
  }

  // Upgrading: the best transport is tried beside the one in use; when it stands, the next connection is its own, and
  // the channels resume on it from where they are.

  async #tryUpgrade() {
    const upgrade = this.#choice.upgrade;
    const current = this.#try;
    if (upgrade === null || !this.#connection?.isReady) return;
    let token;
    try {
      token = await this.#freshToken("connect");
    } catch {
      return this.#setUpgrade(); // The line in use tells about the token when it needs one.
    }
    if (current !== this.#try) return;
    const ended = () => {
      this.#upgrade = null;
      this.#choice.notUpgraded();
      this.#setUpgrade();
    };
    try {
      this.#upgrade = this.#connectionBy(upgrade.transport, token, {
        onReady: () => {
          this.#choice.upgraded();
          this.#open();
        },
        onFrame: () => {},
        onWire: () => {},
        onLatency: () => {},
        onLost: ended,
      });
    } catch {
      ended();
    }
  }

  #setUpgrade() {
    const upgrade = this.#choice.upgrade;
    if (upgrade !== null && this.#connection?.isReady) this.#upgradeTimer.set(upgrade.waitMs);
  }

  /** @param {TokenReason} reason @returns {Promise<string | null>} */
  async #freshToken(reason) {
    const now = this.#clock.now();
    if (reason === "connect" && this.#kept !== null && now < this.#kept.until) return this.#kept.value;
    this.#kept = null;
    const value = (await this.#token({ reason })) ?? null;
    this.#kept = { value, until: this.#clock.now() + TOKEN_KEPT_MS };
    return value;
  }

  /** @param {ReadyFrame} frame */
  #isReady(frame) {
    const connection = this.#connection;
    if (!connection) return;
    this.#ready = frame;
    this.#readyAt = this.#clock.now();
    this.#choice.ready(this.#readyAt);
    this.#setUpgrade();
    this.#moveAt = null;
    this.#lastError = null;
    this.#clientId = frame.client ?? null;
    this.#tokenExpires(frame.expires_ms);
    this.#outbox.setOwner(frame.client ?? "");
    this.#isOpening = true;
    this.#emitter.emit("ready", frame);
    for (const channel of this.#channels.values()) {
      if (this.#connection !== connection) return;
      channel.lineUp();
    }
    for (const question of this.#questions) if (!question.timer.isSet) this.#put(question);
    this.#outbox.open(
      (publish, onAnswer, messages) => this.#request(publish, onAnswer, messages),
      frame.max_frame_bytes,
    );
    this.#settle();
  }

  /** @param {number | null} expiresMs */
  #tokenExpires(expiresMs) {
    this.#tokenEndsAt = expiresMs === null ? null : this.#clock.now() + expiresMs;
    if (this.#kept) this.#kept.until = this.#tokenEndsAt === null ? Infinity : this.#tokenEndsAt - TOKEN_MARGIN_MS;
  }

  async #renew() {
    const connection = this.#connection;
    const endsAt = this.#tokenEndsAt;
    if (!connection?.isReady) return;
    try {
      const token = await this.#freshToken("expiring");
      if (connection !== this.#connection || !connection.isReady) return;
      if (token === null) return; // The session's cookie; it ends with the session.
      connection.request({ type: "auth", token }, (answer) => {
        if (answer.type === "authenticated") this.#tokenExpires(answer.expires_ms);
        else this.#frame(answer, 0);
      });
    } catch (cause) {
      this.#emitter.emit("error", new SeriatimError("token", undefined, { cause }));
      if (connection !== this.#connection || saysSignedOut(cause)) return;
      if (endsAt !== null && this.#clock.now() < endsAt) this.#tokenTimer.set(TOKEN_AGAIN_MS);
    }
  }

  // Frames

  /** @param {ServerFrame} frame @param {number} size */
  #frame(frame, size) {
    switch (frame.type) {
      case "heartbeat":
      case "authenticated":
        return;
      case "auth.expiring":
        void this.#renew();
        return;
      case "reconnect":
        this.#moveAt = this.#clock.now() + frame.after_ms;
        this.#enter("moving", { reason: frame.reason ?? "the worker leaves", nextTryAt: this.#moveAt });
        this.#moveTimer.set(frame.after_ms + MOVE_GRACE_MS);
        return;
    }
    const name = "channel" in frame ? frame.channel : undefined;
    if (name === EVERYBODY) return this.#announced(frame);
    const channel = name === undefined ? undefined : this.#channels.get(name);
    if (channel) channel.receive(frame, size);
    else if (frame.type === "error") {
      this.#lastError = frame;
      this.#emitter.emit("error", SeriatimError.fromFrame(frame));
    }
  }

  /** @param {ServerFrame} frame */
  #announced(frame) {
    if (frame.type !== "signal" || frame.event !== "announcement") return;
    const { id, text } = frame.data ?? {};
    if (typeof id === "string" && typeof text === "string") this.#emitter.emit("announcement", { id, text });
  }

  /** @param {Record<string, unknown>} frame */
  #send(frame) {
    this.#connection?.send(frame);
  }

  /**
   * @param {Record<string, unknown>} frame
   * @param {(answer: any) => void} onAnswer
   * @param {string} [messages]
   */
  #request(frame, onAnswer, messages) {
    this.#connection?.request(frame, onAnswer, messages);
  }

  #takeAcks() {
    /** @type {Record<string, number>} */
    const acks = {};
    let some = false;
    for (const channel of this.#channels.values()) {
      const serial = channel.takeAck();
      if (serial === null) continue;
      acks[channel.name] = serial;
      some = true;
    }
    return some ? acks : null;
  }

  #sendAcks() {
    if (!this.#connection?.isReady) return;
    const serials = this.#takeAcks();
    if (serials) this.#send({ type: "ack", serials });
  }

  // Questions: requests that may be asked again on the next connection

  /**
   * @param {Record<string, unknown>} frame
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  #ask(frame, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(new SeriatimError("aborted", undefined, { cause: signal.reason }));
        return;
      }
      const timer = new Timer(this.#clock, () => this.#put(question));
      const backoff = new Backoff(this.#backoffOptions, this.#random);
      /** @type {Question} */
      const question = { frame, resolve, reject, timer, backoff, isAsked: false };
      this.#questions.add(question);
      signal?.addEventListener("abort", () => {
        this.#answer(question, new SeriatimError("aborted", undefined, { cause: signal.reason }));
      });
      this.#wake();
      this.#put(question);
    });
  }

  /** @param {Question} question */
  #put(question) {
    if (question.isAsked || !this.#connection?.isReady) return;
    question.isAsked = true;
    this.#request(question.frame, (answer) => {
      question.isAsked = false;
      if (!this.#questions.has(question)) return;
      if (answer.type !== "error") return this.#answer(question, null, answer);
      const error = SeriatimError.fromFrame(answer);
      if (error.code === "unauthorized") return;
      if (error.retry && question.backoff.attempt < 5)
        question.timer.set(error.retryAfterMs ?? question.backoff.nextMs());
      else this.#answer(question, error);
    });
  }

  /** @param {Question} question @param {Error | null} error @param {any} [answer] */
  #answer(question, error, answer) {
    if (!this.#questions.delete(question)) return;
    question.timer.clear();
    if (error) question.reject(error);
    else question.resolve(answer);
  }

  // Losing

  /**
   * Lets go of the connection, if there is one, and tells everybody who relied on it.
   *
   * @param {number} code
   * @param {string} reason
   */
  #drop(code, reason) {
    const connection = this.#connection;
    this.#connection = null;
    this.#isOpening = false;
    this.#retryTimer.clear();
    this.#measureTimer.clear();
    this.#tokenTimer.clear();
    this.#moveTimer.clear();
    this.#recoveredTimer.clear();
    this.#upgradeTimer.clear();
    this.#upgrade?.close(1000, "not needed");
    this.#upgrade = null;
    this.#owesRecovered = false;
    if (!connection) return;
    connection.close(code, reason);
    this.#latency.reset();
    this.#outbox.shut();
    for (const question of this.#questions) question.isAsked = false;
    for (const channel of this.#channels.values()) channel.lineDown();
  }

  /** @param {Lost} lost */
  #lost({ code, reason, heardAt, isTimeout }) {
    const wasReady = this.#readyAt > 0;
    const livedMs = wasReady ? this.#clock.now() - this.#readyAt : null;
    const good = livedMs !== null && livedMs >= GOOD_AFTER_MS;
    const isBroken = code === 1005 || code === 1006;
    const hasMoved = this.#choice.ended({ isBroken, livedMs, isTimeout }, this.#clock.now());
    this.#readyAt = 0;
    const error = this.#lastError;
    this.#lastError = null;
    const current = this.#try;
    this.#drop(1000, "");
    if (current !== this.#try) return; // A listener closed the client, or opened the next connection.
    if (good) {
      this.#backoff.reset();
      this.#attempt = 0;
      this.#refusals = 0;
    }
    const meant = meantCode(code);
    const facts = { code: meant, reason: reason || error?.message || "the line broke", since: heardAt };
    const hint = retryAfterMs(reason) ?? error?.retry_after_ms ?? null;
    // The server waited for credentials and got none: nobody is signed in, as if they had been refused.
    switch (meant === 4408 && !wasReady ? "new_token" : reconnectAfter(code)) {
      case "no":
        return this.#enter(meant === 1000 ? "closed" : "stopped", { ...facts, since: undefined });
      case "new_token":
        this.#refusals += 1;
        this.#kept = null;
        if (this.#refusals > 1) return this.#enter("signed_out", { ...facts, since: undefined });
        return this.#open();
      case "on_demand":
        if (this.#isNeeded()) break;
        return this.#enter("offline", { ...facts, nextTryAt: null, reason: "idle" });
      case "after_hint":
        if (meant === 1012) {
          const wait = this.#moveAt === null ? this.#backoff.nextMs() : this.#moveAt - this.#clock.now();
          return this.#retry(Math.max(0, wait), "moving", facts);
        }
        return this.#retry(hint ?? this.#backoff.nextMs(), "waiting", { ...facts, since: undefined });
    }
    // Another transport may get through at once.
    this.#retry(Math.min(this.#backoff.nextMs(), hasMoved ? OTHER_WITHIN_MS : Infinity), "offline", facts);
  }

  /**
   * @param {number} waitMs
   * @param {LineStateName} name
   * @param {Partial<LineState>} facts
   */
  #retry(waitMs, name, facts) {
    this.#retryTimer.set(waitMs);
    this.#enter(name, { ...facts, attempt: this.#attempt, nextTryAt: this.#clock.now() + waitMs });
  }

  /** A worker that said it leaves has not closed: we go. */
  #leaveWorker() {
    if (this.#state.name === "moving" && this.#connection) {
      const { heardAt } = this.#connection;
      this.#lost({ code: 1012, reason: "the worker leaves", heardAt, isTimeout: false });
    }
  }

  /** Whether there is something to say or to follow. */
  #isNeeded() {
    if (this.#outbox.size > 0 || this.#questions.size > 0) return true;
    return [...this.#channels.values()].some((channel) => channel.isWanted);
  }

  /** Something is to be said: a line that was given up for idleness is needed again. */
  #wake() {
    if (this.#state.name === "offline" && this.#state.nextTryAt === null) this.#open();
  }

  // State

  #channelChanged() {
    this.#settle();
    if (this.#state.name === "offline" && this.#isNeeded()) this.#wake();
  }

  /** Puts the state right while the line is up. */
  #settle() {
    if (!this.#connection?.isReady || this.#state.name === "moving") return;
    if (this.#isOpening) {
      for (const channel of this.#channels.values()) if (channel.isAsking) return;
      this.#isOpening = false;
    }
    const channels = [...this.#channels.values()];
    /** @type {LineStateName} */
    let name = this.#latency.isSlow(this.#clock.now()) ? "slow" : "live";
    if (channels.some((channel) => channel.isCatchingUp)) name = "catching_up";
    if (name === this.#state.name) return;
    const { lostAt } = this.#state;
    const isBack = lostAt !== null && name !== "catching_up";
    this.#enter(name, { lostAt: isBack ? null : lostAt });
    if (!isBack) return;
    this.#awayMs = this.#clock.now() - lostAt;
    this.#owesRecovered = true;
    this.#recoveredTimer.set(SENT_WITHIN_MS);
    if (this.#outbox.size === 0) this.#tellRecovered();
  }

  /** Tells what was made good: when our own messages are sent too, or after a moment without them. */
  #tellRecovered() {
    if (!this.#owesRecovered) return;
    this.#owesRecovered = false;
    this.#recoveredTimer.clear();
    this.#emitter.emit("recovered", { awayMs: this.#awayMs, ...this.#away });
  }

  /** @param {LineStateName} name @param {Partial<LineState>} [facts] */
  #enter(name, facts = {}) {
    const before = this.#state;
    if (!TRANSITIONS[before.name].includes(name)) throw new Error(`no way from ${before.name} to ${name}: a bug`);
    const now = this.#clock.now();
    let lostAt = before.lostAt;
    if (isUp(before.name) && !isUp(name)) {
      lostAt = facts.since ?? now;
      this.#away = { received: 0, sent: 0, skipped: 0 };
    }
    let since = name === before.name ? before.since : (facts.since ?? now);
    // Trying and failing again is one absence: it counts from when the line was lost.
    if (name === "offline") since = lostAt ?? since;
    this.#state = Object.freeze({
      name,
      since,
      attempt: facts.attempt ?? 0,
      nextTryAt: facts.nextTryAt ?? null,
      lostAt: facts.lostAt === undefined ? lostAt : facts.lostAt,
      reason: facts.reason ?? "",
      code: facts.code ?? null,
    });
    this.#emitter.emit("state", this.#state);
  }

  /** @param {OutboxEntry} entry */
  #drawOutbox(entry) {
    if (entry.state === "sent") this.#away.sent += 1;
    this.#channels.get(entry.channel)?.drawOutbox(entry);
    this.#emitter.emit("outbox", entry);
    if (this.#outbox.size === 0) this.#tellRecovered();
  }

  /** @param {number} ms */
  #measured(ms) {
    this.#latency.sample(ms, this.#clock.now());
    this.#emitter.emit("latency", ms);
    if (this.#latency.isSuspect && !this.#measureTimer.isSet) this.#measureTimer.set(MEASURE_MS);
    this.#settle();
  }

  /** Asks again soon whether a line whose answers are late is still slow. */
  #measure() {
    if (!this.#connection?.isReady) return;
    this.#settle();
    if (!this.#latency.isSuspect) return;
    this.#connection.probe();
    this.#measureTimer.set(MEASURE_MS);
  }

  // The browser

  #listen() {
    const target = this.#events;
    if (!target || this.#unlisten.length > 0) return;
    /** @param {string} name @param {() => void} run */
    const on = (name, run) => {
      target.addEventListener(name, run);
      this.#unlisten.push(() => target.removeEventListener(name, run));
    };
    on("online", () => this.#look());
    // A browser may be wrong about being offline (a server on the same machine), so the line is asked, not cut.
    on("offline", () => this.#connection?.probe());
    on("resume", () => this.#look());
    on("pageshow", () => this.#look());
    on("visibilitychange", () => {
      if (globalThis.document?.visibilityState !== "hidden") this.#look();
    });
  }

  /** The network or the page came back: do not wait for a timer to notice. A pause that the server asked for is kept. */
  #look() {
    if (this.#state.name === "offline" && this.#state.nextTryAt !== null) this.#open();
    else if (this.#connection && this.#clock.now() - this.#connection.heardAt > LATE_MS) this.#connection.probe();
  }
}

/** @param {LineStateName} name */
function isUp(name) {
  return name === "live" || name === "catching_up" || name === "slow";
}

/** @returns {EventTarget | null} */
function defaultEvents() {
  return typeof globalThis.addEventListener === "function" ? globalThis : null;
}

/** @param {unknown} error */
function saysSignedOut(error) {
  const facts = /** @type {{ code?: unknown, status?: unknown } | null} */ (error);
  return facts?.code === "unauthorized" || facts?.status === 401 || facts?.status === 403;
}
