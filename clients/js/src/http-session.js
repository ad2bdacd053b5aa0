// A socket made of requests: frames in and out as over a WebSocket, carried by one response that is read and posts
// beside it. Pure but for the clock: what it needs of the network is handed in (transport-http.js).
//
// Downstream is a request with the list of channels and positions. When the list changes, the request is ended and the
// next one asks from the positions that were reached, so nothing is missing and nothing comes twice; the client above
// sees one connection. A response that ends without a `close` line is asked for again in the same way. Upstream, one
// post at a time keeps the order. Who enters a channel is present by what is read: `enter` is part of the list.

import { Timer } from "./clock.js";
import { ERRORS } from "./codes.js";
import { strongRandom } from "./ids.js";

/** @typedef {import("./frames.js").Ref} Ref */
/** @typedef {import("./position.js").Position} Position */

/**
 * What one request reads. Each callback concerns the request that `read` began; none follows `abort()`.
 *
 * @typedef {object} Reading
 * @property {() => void} onOpen The response began well.
 * @property {(line: string) => void} onLine One frame.
 * @property {(failure: Failure | null) => void} onEnd Null when the response simply ended.
 * @property {() => void} onAgain It should be read anew, in another way.
 */

/**
 * Why there is no response: the server's error, or null fields when there was no answer at all.
 *
 * @typedef {object} Failure
 * @property {number | null} status
 * @property {{ code?: string, message?: string, channel?: string, retry_after_ms?: number } | null} error
 */

/**
 * @typedef {object} Wanted
 * @property {string} channel
 * @property {number} ref
 * @property {unknown} [from]
 * @property {boolean | string} [presence]
 * @property {string} [delta]
 * @property {{ reader: string, data: unknown, at?: number }} [enter]
 */

/**
 * @typedef {object} Carrier
 * @property {(wanted: Wanted[], token: string | null, reading: Reading) => { abort: () => void }} read
 * @property {(frames: string[], token: string | null, reader: string) => Promise<string[]>} post Gives the answers in
 *   order; rejects with a Failure.
 * @property {() => void} [close] The session is over.
 * @property {string | null} [transport] What it reads by now, where that is not what its transport is called.
 */

/**
 * @typedef {object} Entry One channel that is followed.
 * @property {Ref | null} ref Of the `attach` that is not answered yet.
 * @property {unknown} from What the client asked for; used until there is a position.
 * @property {Record<string, unknown>} more `presence`, `delta`.
 * @property {Position | null} position
 * @property {string | null} epoch
 * @property {string | undefined} delta How data come, as the last `attached` said.
 * @property {number} start What the last `attached` said.
 * @property {boolean} inSnapshot
 * @property {Entering | null} enter As what the client is present.
 * @property {Entering | null} isEntering What the request in use says of that.
 * @property {(Ref | undefined)[]} enterRefs Of the `presence` frames that are not answered yet.
 * @property {boolean} isAsked The request in use follows it; what an older one still brings is not for this attach.
 */

/** @typedef {{ data: unknown, at?: number }} Entering `at`: when it was said first, as the server told. */

/** So long attaches gather before a request carries them: a client attaches its channels one by one. */
const GATHER_MS = 5;
/** A response that ended earlier than this is a line that breaks: the client above waits before it tries again. */
const GOOD_AFTER_MS = 1000;
/** How soon a channel is asked for again that was refused for a while, without a hint. */
const AGAIN_MS = 1000;
/** Frames and characters of one post; the rest follows in the next. */
const POSTED_MOST = 50;
const POSTED_CHARACTERS_MOST = 500_000;

export class HttpSession {
  #carrier;
  #clock;
  #target;
  /** @type {string | null} */
  #token;
  /** @type {Map<string, Entry>} In the order of attaching. */
  #entries = new Map();
  #restartTimer;
  /** Counts requests: what an older one still brings is void. */
  #generation = 0;
  /** @type {{ abort: () => void } | null} */
  #request = null;
  #openedAt = 0;
  /** The channels of the request in use that are not answered yet. @type {Set<string>} */
  #unanswered = new Set();
  /** Whether the list changed since the request in use. */
  #isStale = false;
  #isOpen = false;
  #isReady = false;
  #ended = false;
  /** The `auth` frame that renews the token and is not answered yet. @type {{ ref: Ref | undefined } | null} */
  #renewal = null;
  /** @type {{ text: string, frame: Record<string, any> }[]} */
  #posts = [];
  #isPosting = false;
  /** The name by which the server knows this socket's requests as one presence. */
  #reader = Array.from({ length: 4 }, () => strongRandom().toString(36).slice(2, 8).padEnd(6, "0")).join("");
  /** Channels whose last publish failed. A post knows only of itself, so what is chained to another is judged here. */
  #failed = new Set();

  /**
   * @param {object} options
   * @param {Carrier} options.carrier
   * @param {import("./clock.js").Clock} options.clock
   * @param {import("./transport-websocket.js").TransportTarget} options.target
   */
  constructor({ carrier, clock, target }) {
    this.#carrier = carrier;
    this.#clock = clock;
    this.#target = target;
    const bearer = target.protocols.find((entry) => entry.startsWith("seriatim.bearer."));
    this.#token = bearer === undefined ? null : bearer.slice("seriatim.bearer.".length);
    this.#restartTimer = new Timer(clock, () => this.#read());
    this.#read();
  }

  get transport() {
    return this.#carrier.transport ?? null;
  }

  /** @param {string} text */
  send(text) {
    if (this.#ended) return;
    const frame = JSON.parse(text);
    switch (frame.type) {
      case "auth":
        return this.#auth(frame);
      case "attach":
        return this.#attach(frame);
      case "detach":
        return this.#detach(frame);
      case "ack":
        return; // A response is paced by its socket, a poll by the next one.
      case "presence":
        if (frame.action !== "leave") return this.#enter(frame);
        this.#leave(frame.channel);
    }
    this.#posts.push({ text, frame });
    void this.#post();
  }

  /** Ends it from our side; `onClose` is not called. */
  close() {
    this.#ended = true;
    this.#generation += 1;
    this.#restartTimer.clear();
    this.#request?.abort();
    this.#request = null;
    this.#carrier.close?.();
  }

  // What the client asks for

  /** @param {{ token: string, ref?: Ref }} frame */
  #auth({ token, ref }) {
    this.#token = token;
    if (this.#isReady) this.#renewal = { ref };
    this.#restart();
  }

  /** @param {Record<string, any>} frame */
  #attach({ channel, ref, from, presence, delta }) {
    /** @type {Record<string, unknown>} */
    const more = {};
    if (presence !== undefined) more.presence = presence;
    if (delta !== undefined) more.delta = delta;
    // Attaching again moves the attachment, and who entered has not left.
    const { enter = null, enterRefs = [] } = this.#entries.get(channel) ?? {};
    this.#entries.set(channel, {
      ref: ref ?? null,
      from,
      more,
      position: null,
      epoch: null,
      delta: undefined,
      start: 0,
      inSnapshot: from === "latest",
      enter,
      isEntering: null,
      enterRefs,
      isAsked: false,
    });
    this.#restart();
  }

  /** @param {{ channel: string, ref?: Ref }} frame */
  #detach({ channel, ref }) {
    const entry = this.#entries.get(channel);
    if (entry !== undefined) {
      if (entry.enter !== null) {
        const text = JSON.stringify({ type: "presence", channel, action: "leave" });
        this.#posts.push({ text, frame: { type: "presence", channel, action: "leave" } });
        void this.#post();
      }
      this.#drop(channel, "not_attached");
      this.#restart();
      this.#tell({ type: "detached", ref, channel });
    } else this.#tell({ type: "error", ref, channel, code: "not_attached", message: "Not attached.", remedy: "" });
  }

  /** Present from the next request on, which is answered when that is stored. @param {Record<string, any>} frame */
  #enter({ channel, data, ref }) {
    const entry = this.#entries.get(channel);
    if (entry === undefined)
      return this.#tell({ type: "error", ref, channel, code: "not_attached", message: "Not attached.", remedy: "" });
    entry.enter = { data };
    entry.enterRefs.push(ref);
    this.#restart();
  }

  /** The post that follows says it; the response in use says no more than it has said. @param {string} channel */
  #leave(channel) {
    const entry = this.#entries.get(channel);
    if (entry === undefined) return;
    entry.enter = null;
    this.#answerEntering(entry, { type: "ok" });
  }

  /** @param {Entry} entry @param {object} answer */
  #answerEntering(entry, answer) {
    for (const ref of entry.enterRefs.splice(0)) this.#tell({ ...answer, ref });
  }

  /** The channel is followed no more. @param {string} channel @param {string} code Of those who wait to enter it. */
  #drop(channel, code) {
    const entry = this.#entries.get(channel);
    this.#entries.delete(channel);
    if (entry !== undefined) this.#answerEntering(entry, { type: "error", channel, code, message: "", remedy: "" });
    return entry !== undefined;
  }

  // Downstream

  /** The list changed: another request, once those who ask for several channels have asked, and no snapshot is cut. */
  #restart() {
    this.#isStale = true;
    const isCut = [...this.#entries.values()].some((entry) => entry.inSnapshot && entry.ref === null);
    if (!isCut) this.#restartTimer.setSooner(GATHER_MS);
  }

  #read() {
    if (this.#ended) return;
    const generation = ++this.#generation;
    this.#request?.abort();
    this.#unanswered = new Set(this.#entries.keys());
    this.#isStale = false;
    const wanted = [...this.#entries].map(([channel, entry], ref) => {
      entry.isAsked = true;
      entry.isEntering = entry.enter;
      const from = entry.position ?? entry.from;
      const enter = entry.enter === null ? {} : { enter: { reader: this.#reader, ...entry.enter } };
      return { channel, ref, ...(from === undefined ? {} : { from }), ...entry.more, ...enter };
    });
    this.#openedAt = this.#clock.now();
    this.#request = this.#carrier.read(wanted, this.#token, {
      onOpen: () => {
        if (generation !== this.#generation || this.#isOpen) return;
        this.#isOpen = true;
        this.#target.onOpen();
      },
      onLine: (line) => {
        if (generation === this.#generation) this.#line(line);
      },
      onEnd: (failure) => {
        if (generation === this.#generation) this.#over(failure);
      },
      onAgain: () => {
        if (generation === this.#generation) this.#restart();
      },
    });
  }

  /** @param {Failure | null} failure */
  #over(failure) {
    this.#request = null;
    if (failure !== null) {
      const error = failure.error;
      if (this.#isReady && error?.code && error.channel !== undefined && this.#unanswered.has(error.channel)) {
        // All were refused, and this is the first of them: without it the others are told too.
        const { code, channel } = error;
        return this.#refused({ ...error, code, channel }, "");
      }
      return this.#fail(failure);
    }
    // A snapshot that was cut begins again, which only the client above can ask for.
    const isCut = [...this.#entries.values()].some((entry) => entry.inSnapshot && entry.ref === null);
    if (!isCut && this.#isReady && this.#clock.now() - this.#openedAt >= GOOD_AFTER_MS) this.#read();
    else this.#end(1006, "the response ended");
  }

  /** @param {string} line */
  #line(line) {
    let frame;
    try {
      frame = JSON.parse(line);
    } catch {
      return; // Cut short: the end of the response follows.
    }
    const entry = typeof frame.channel === "string" ? this.#entries.get(frame.channel) : undefined;
    if (entry?.isAsked === false) return;
    switch (frame.type) {
      case "ready":
        return this.#ready(frame, line);
      case "close":
        return this.#end(frame.code, frame.reason);
      case "attached":
        return this.#attached(frame, entry);
      case "ok":
        return this.#entered(frame, entry);
      case "error":
        return frame.action === "enter" ? this.#entered(frame, entry) : this.#refused(frame, line);
      case "detached":
        if (this.#drop(frame.channel, "not_attached")) this.#restart();
        break;
      case "message":
        // What was on its way when we detached.
        if (entry === undefined) return;
        // Only in steps of one: about any other step the client above asks anew, from its own position.
        if (!entry.inSnapshot && frame.serial === (entry.position?.serial ?? NaN) + 1)
          entry.position = { epoch: entry.epoch, serial: frame.serial };
        break;
      case "skipped":
      case "snapshot.end":
        if (entry === undefined) return;
        if (frame.type === "snapshot.end") this.#snapshotOver(entry);
        entry.epoch = frame.epoch;
        // Of another epoch: `attached` said where its log begins.
        entry.position = { epoch: frame.epoch, serial: frame.serial ?? frame.to ?? entry.start };
        break;
    }
    this.#target.onText(line);
  }

  /** The outcome of entering. @param {Record<string, any>} frame @param {Entry | undefined} entry */
  #entered({ action: _, at, ...frame }, entry) {
    // Of what has been changed since, the next request tells.
    if (entry === undefined || entry.enter === null || entry.isEntering !== entry.enter) return;
    if (frame.type === "ok") entry.enter.at = at;
    else if (entry.enterRefs.length === 0 && ERRORS[frame.code]?.retry)
      return this.#restartTimer.setSooner(frame.retry_after_ms ?? AGAIN_MS);
    else entry.enter = null;
    this.#answerEntering(entry, frame);
  }

  /** @param {Entry} entry */
  #snapshotOver(entry) {
    entry.inSnapshot = false;
    // A list that changed meanwhile has waited for it.
    if (this.#isStale) this.#restart();
  }

  /** @param {import("./frames.js").ReadyFrame} frame @param {string} line */
  #ready(frame, line) {
    if (!this.#isReady) {
      this.#isReady = true;
      this.#target.onText(line);
      void this.#post();
    } else if (this.#renewal !== null) {
      this.#tell({ type: "authenticated", ref: this.#renewal.ref, expires_ms: frame.expires_ms });
      this.#renewal = null;
    }
  }

  /** @param {import("./frames.js").AttachedFrame} frame @param {Entry | undefined} entry */
  #attached(frame, entry) {
    if (entry === undefined) return;
    const isAnswer = this.#unanswered.delete(frame.channel);
    const { ref } = entry;
    const isNews = !frame.resumed || frame.epoch !== entry.epoch || frame.delta !== entry.delta;
    entry.epoch = frame.epoch;
    entry.delta = frame.delta;
    entry.start = frame.serial;
    // Otherwise `skipped` follows; until it is here, it must be told again.
    if (frame.resumed && !entry.inSnapshot) entry.position = { epoch: frame.epoch, serial: frame.serial };
    if (isAnswer) entry.ref = null;
    // Asked by us, for another channel's sake: only what is news is told.
    if (isAnswer && ref === null && !isNews) return;
    this.#tell({ ...frame, ref: isAnswer ? (ref ?? undefined) : undefined });
  }

  /**
   * A channel of the list is refused, or something else is.
   *
   * @param {{ code: string, channel?: string, retry_after_ms?: number }} error
   * @param {string} line
   */
  #refused(error, line) {
    const { channel, code, retry_after_ms: retryMs } = error;
    const entry = channel === undefined ? undefined : this.#entries.get(channel);
    if (channel === undefined || entry === undefined || !this.#unanswered.delete(channel))
      return this.#target.onText(line);
    // Asked by us, for another channel's sake: asked again until it is granted or refused for good.
    if (entry.ref === null && ERRORS[code]?.retry) return this.#restartTimer.setSooner(retryMs ?? AGAIN_MS);
    this.#drop(channel, code);
    this.#restart();
    if (entry.ref !== null) this.#tell({ message: "", remedy: "", ...error, type: "error", ref: entry.ref });
    else this.#tell({ type: "detached", channel, reason: code });
  }

  // Upstream

  async #post() {
    if (this.#isPosting || !this.#isReady) return;
    // Before anything is told: whoever hears it may send at once.
    this.#isPosting = true;
    const posted = this.#takePosts();
    if (posted.length === 0) {
      this.#isPosting = false;
      return;
    }
    let answers;
    try {
      const texts = posted.map(({ text }) => text);
      answers = await this.#carrier.post(texts, this.#token, this.#reader);
    } catch (failure) {
      return this.#fail(/** @type {Failure} */ (failure));
    } finally {
      this.#isPosting = false;
    }
    const publishes = new Map(posted.filter(({ frame }) => frame.type === "publish").map(({ frame }) => [frame.ref, frame.channel]));
    for (const answer of answers) {
      if (this.#ended) return;
      const { type, ref } = JSON.parse(answer);
      const channel = publishes.get(ref);
      if (channel !== undefined && type === "error") this.#failed.add(channel);
      else if (channel !== undefined) this.#failed.delete(channel);
      this.#target.onText(answer);
    }
    // The request in use still says that we are there, and the worker that has it has heard that we are not.
    if (posted.some(({ frame }) => frame.type === "presence")) this.#restart();
    void this.#post();
  }

  /** What the next post carries; what is chained to a publish that failed is answered at once. */
  #takePosts() {
    const taken = [];
    let size = 0;
    while (this.#posts.length > 0 && taken.length < POSTED_MOST) {
      const next = this.#posts[0];
      const { type, ref, channel, chained } = next.frame;
      if (type === "publish" && !chained) this.#failed.delete(channel);
      if (type === "publish" && this.#failed.has(channel)) {
        this.#posts.shift();
        this.#tell({ type: "error", ref, channel, code: "order", message: "The one before it failed.", remedy: "" });
        continue;
      }
      size += next.text.length;
      if (taken.length > 0 && size > POSTED_CHARACTERS_MOST) break;
      taken.push(next);
      this.#posts.shift();
    }
    return taken;
  }

  // Ends

  /** What a refused request would have been on a socket. @param {Failure} failure */
  #fail({ status, error }) {
    if (status === null) return this.#end(1006, "no answer");
    if (error !== null && typeof error.code === "string") this.#tell({ type: "error", remedy: "", ...error });
    if (status === 401) return this.#end(4401, error?.message ?? "unauthorized");
    if (status === 403) return this.#end(4403, error?.message ?? "forbidden");
    if (status === 429 || status === 503)
      return this.#end(1013, error?.retry_after_ms === undefined ? "" : `retry_after_ms=${error.retry_after_ms}`);
    this.#end(status >= 500 ? 1011 : 1006, `HTTP ${status}`);
  }

  /** @param {object} frame */
  #tell(frame) {
    if (!this.#ended) this.#target.onText(JSON.stringify(frame));
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.#ended) return;
    this.close();
    this.#target.onClose(code, reason);
  }
}
