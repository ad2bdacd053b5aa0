// A channel as an application sees it. What is on the wire is in attachment.js and outbox.js.

import { Attachment } from "./attachment.js";
import { Emitter, report } from "./emitter.js";
import { SeriatimError } from "./errors.js";
import { checkFrom } from "./position.js";
import { PresenceMembers } from "./presence-members.js";
import { Reader } from "./reader.js";

/** @typedef {import("./attachment.js").Discontinuity} Discontinuity */
/** @typedef {import("./attachment.js").StateLoader} StateLoader */
/** @typedef {import("./frames.js").AttachedFrame} AttachedFrame */
/** @typedef {import("./frames.js").HistoryFrame} HistoryFrame */
/** @typedef {import("./frames.js").MessageFrame} MessageFrame */
/** @typedef {import("./frames.js").PresenceFrame} PresenceFrame */
/** @typedef {import("./frames.js").SignalFrame} SignalFrame */
/** @typedef {import("./outbox.js").OutboxEntry} OutboxEntry */
/** @typedef {import("./outbox.js").Receipt} Receipt */
/** @typedef {import("./position.js").From} From */
/** @typedef {import("./position.js").Position} Position */

/**
 * @typedef {object} ChannelOptions
 * @property {From} [from] Where the first attach begins; later ones go on from the position. Default "head".
 * @property {number} [window] How many messages may be in flight unacknowledged. Default: the server's. 0: no acks.
 * @property {boolean} [presence] Follow who is here.
 * @property {"fossil" | null} [delta] Ask for messages as differences to the message before, where the namespace allows
 *   it: fewer bytes for states that change little. What the application gets is the same.
 */

/**
 * @typedef {object} ChannelEvents
 * @property {MessageFrame} message
 * @property {AttachedFrame} attached Also after each reconnect, and unasked when the log is new.
 * @property {{ reason: string, error: SeriatimError | null }} detached
 * @property {Discontinuity} discontinuity
 * @property {{ epoch: string | null, serial: number, count: number }} snapshot Forget the state: `count` messages marked
 *   `snapshot` follow.
 * @property {{ behind: number, head: number, position: Position | null }} progress While the channel catches up.
 * @property {SignalFrame} signal
 * @property {PresenceFrame} presence
 * @property {OutboxEntry} outbox A message of ours changed its state.
 * @property {SeriatimError} error
 */

/**
 * What to publish, when not just data: an object with `data` or `event` and no other names than these four.
 *
 * @typedef {{ data?: any, event?: string, key?: string | null, id?: string }} Draft
 */

/**
 * What a channel needs of the client, beyond the line.
 *
 * @typedef {import("./attachment.js").Line & {
 *   ask: (frame: Record<string, unknown>, signal?: AbortSignal) => Promise<any>,
 *   publish: (channel: string, message: { id: string, event: string, key: string | null, data: unknown }) => Promise<Receipt>,
 *   makeId: () => string,
 *   received: (count: number, skipped: number) => void,
 * }} ChannelLine
 */

const DRAFT_NAMES = new Set(["data", "event", "key", "id"]);

/** @param {unknown} delta */
function checkDelta(delta) {
  if (delta === null) return undefined;
  if (delta === "fossil") return delta;
  throw new SeriatimError("bad_frame", "`delta` is not one that this client reads", { remedy: 'Give "fossil" or null.' });
}

/** @param {unknown} value @returns {value is Draft} */
function isDraft(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const names = Object.keys(value);
  return ("data" in value || "event" in value) && names.every((name) => DRAFT_NAMES.has(name));
}

/** Presence of this connection in the channel, and of everybody. */
class Presence {
  #channel;
  #line;
  #state = new PresenceMembers();
  /** @type {{ data: unknown } | null} Entered: again after each reconnect. */
  #entered = null;
  #isAttached = false;
  /** @type {{ resolve: () => void, reject: (error: unknown) => void }[]} Who entered before the channel was attached. */
  #waiting = [];

  #resync;

  /** @param {string} channel @param {ChannelLine} line @param {() => void} resync */
  constructor(channel, line, resync) {
    this.#channel = channel;
    this.#line = line;
    this.#resync = resync;
  }

  /** By client id. Empty while only `count` is known. */
  get members() {
    return this.#state.members;
  }

  /** How many members: also when there are too many for a list. */
  get count() {
    return this.#state.count ?? this.#state.members.size;
  }

  /**
   * Enters with `data`, and again whenever the line comes back, until `leave()` or a detach. Waits for the attach.
   *
   * @param {unknown} [data]
   */
  enter(data = null) {
    return this.#be("enter", data);
  }

  /** Changes the data; enters where one has not. @param {unknown} data */
  update(data) {
    return this.#be("update", data);
  }

  /** @param {"enter" | "update"} action @param {unknown} data @returns {Promise<void>} */
  async #be(action, data) {
    const entered = { data };
    this.#entered = entered;
    if (!this.#isAttached) return this.#attach();
    try {
      await this.#send(action, data);
    } catch (error) {
      // The line was lost in between: entering is said again behind the next attach.
      if (!this.#isAttached && error instanceof SeriatimError && error.code === "not_attached") return this.#attach();
      // Of a later call there may be another outcome.
      if (this.#entered === entered && error instanceof SeriatimError && !error.retry) this.#entered = null;
      throw error;
    }
  }

  /** @returns {Promise<void>} */
  #attach() {
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  async leave() {
    const entered = this.#entered !== null;
    this.#entered = null;
    // While the line is away there is nothing to leave: the server takes us out by itself.
    if (entered && this.#line.isUp()) await this.#send("leave", null);
  }

  /** Asks for the list anew: how many connections a member has is told with it, and not whenever it changes. */
  refresh() {
    this.#resync();
  }

  /** @param {PresenceFrame} frame */
  apply(frame) {
    return this.#state.apply(frame);
  }

  attached() {
    this.#isAttached = true;
    const waiting = this.#waiting.splice(0);
    const said = this.#entered ? this.#be("enter", this.#entered.data) : Promise.resolve();
    said.then(
      () => waiting.forEach(({ resolve }) => resolve()),
      (error) => waiting.forEach(({ reject }) => reject(error)),
    );
  }

  /** The line is lost. */
  forget() {
    this.#isAttached = false;
    this.#state.forget();
  }

  /** The channel is followed no more. @param {unknown} error */
  detached(error) {
    this.forget();
    this.#entered = null;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  /** @param {"enter" | "update" | "leave"} action @param {unknown} data @returns {Promise<void>} */
  async #send(action, data) {
    await this.#line.ask({ type: "presence", channel: this.#channel, action, data });
  }
}

/** Made by `client.channel(name)`; one object per name. */
export class Channel {
  #line;
  #attachment;
  /** @type {Emitter<ChannelEvents>} */
  #emitter = new Emitter();
  /** @type {Set<Reader>} */
  #readers = new Set();
  /** @type {{ resolve: (frame: AttachedFrame) => void, reject: (error: SeriatimError) => void }[]} */
  #attaches = [];
  /** @type {AttachedFrame | null} */
  #lastAttached = null;

  /**
   * Called when messages cannot be had: from which serial to which (null when the whole log is another), and why. The
   * next message waits for the promise it returns.
   *
   * @type {((from: number | null, to: number | null, reason: string) => unknown) | null}
   */
  onDiscontinuity = null;

  /**
   * @param {string} name
   * @param {ChannelLine} line
   */
  constructor(name, line) {
    this.name = name;
    this.#line = line;
    this.presence = new Presence(name, line, () => this.#attachment.resync());
    this.#attachment = new Attachment(name, line, {
      hasConsumers: () => this.#readers.size > 0 || this.#emitter.hasListeners("message"),
      deliver: (message) => this.#deliver(message),
      onAttached: (frame) => this.#attached(frame),
      onDetached: (reason, error) => this.#detached(reason, error),
      onError: (error) => this.#emitter.emit("error", error),
      onDiscontinuity: (discontinuity) => this.#discontinuity(discontinuity),
      onSnapshot: (snapshot) => this.#emitter.emit("snapshot", snapshot),
      onProgress: () =>
        this.#emitter.emit("progress", { behind: this.behind, head: this.head, position: this.position }),
    });
  }

  /** "detached", "attaching" or "attached". */
  get state() {
    return this.#attachment.state;
  }

  /** Everything through here is processed; null before the first attach. */
  get position() {
    return this.#attachment.position;
  }

  /** The newest serial known to be in the log. */
  get head() {
    return this.#attachment.head;
  }

  /** How many messages of the log are still to be processed, as far as is known here. */
  get behind() {
    return this.#attachment.behind;
  }

  /**
   * @template {keyof ChannelEvents} K
   * @param {K} event
   * @param {(value: ChannelEvents[K]) => unknown} listener For `message`: a promise it returns holds the next message back.
   * @returns {() => void} Stops listening.
   */
  on(event, listener) {
    const off = this.#emitter.on(event, listener);
    if (event === "message") void this.#attachment.pump();
    return off;
  }

  /**
   * Takes options for the attaches to come.
   *
   * @param {ChannelOptions} options
   */
  configure(options) {
    const { from, window, presence, delta } = options;
    this.#attachment.configure({
      ...(from === undefined ? {} : { from: checkFrom(from) }),
      ...(window === undefined ? {} : { window }),
      ...(presence === undefined ? {} : { presence }),
      ...(delta === undefined ? {} : { delta: checkDelta(delta) }),
    });
  }

  /**
   * Follows the channel, through every loss of the line, until `detach()`. A channel that was attached before goes on
   * from its position.
   *
   * @param {{ from?: From }} [options] `from`: begin here instead, also when a position is known.
   * @returns {Promise<AttachedFrame>} Rejects when the server refuses for good.
   */
  attach({ from } = {}) {
    let checked;
    try {
      checked = from === undefined ? undefined : checkFrom(from);
    } catch (error) {
      return Promise.reject(error);
    }
    if (checked === undefined && this.state === "attached" && this.#lastAttached) {
      return Promise.resolve(this.#lastAttached);
    }
    return new Promise((resolve, reject) => {
      this.#attaches.push({ resolve, reject });
      this.#attachment.want(checked);
    });
  }

  /** Stops following. The position is kept: `attach()` goes on from it. */
  async detach() {
    this.#attachment.unwant();
  }

  /**
   * Messages in order, each once. Attaches if needed. A message counts as processed when the loop asks for the next
   * one; one that was left by `break` or an exception is the first of the next loop. Ends at `detach()` and
   * `client.close()`.
   *
   * @returns {Reader & AsyncIterator<MessageFrame, undefined>}
   */
  [Symbol.asyncIterator]() {
    const reader = new Reader((ended) => this.#readers.delete(ended));
    this.#readers.add(reader);
    if (!this.#attachment.isWanted) this.#attachment.want();
    void this.#attachment.pump();
    return reader;
  }

  /**
   * Says that everything through `serial` is processed, before the loop asks for more: for a loop that is left on
   * purpose after the message it was waiting for.
   *
   * @param {number} serial
   */
  processedThrough(serial) {
    this.#attachment.processedThrough(serial);
  }

  /**
   * Publishes, now or as soon as there is a connection, in the order of the calls. The id is made here unless given, so
   * that trying again stores nothing twice.
   *
   * @param {any | Draft} message Data, or an object with `data` or `event`, and `key`, `id`.
   * @param {{ event?: string, key?: string | null, id?: string }} [options] With these, `message` is data whatever its shape.
   * @returns {Promise<Receipt> & { id: string }} Rejects only when trying again cannot help.
   */
  publish(message, options) {
    /** @type {Draft} */
    const draft = options ? { ...options, data: message } : isDraft(message) ? message : { data: message };
    const id = draft.id ?? this.#line.makeId();
    const { event = "message", key = null, data = null } = draft;
    return Object.assign(this.#line.publish(this.name, { id, event, key, data }), { id });
  }

  /**
   * A page of the log. Waits for the line, and asks again on the next connection when it breaks.
   *
   * @param {{ before?: number, after?: number, limit?: number, signal?: AbortSignal }} [options] Serials, exclusive. Newest
   *   first unless `after` is given.
   * @returns {Promise<HistoryFrame>}
   */
  history({ before, after, limit, signal } = {}) {
    /** @type {Record<string, unknown>} */
    const frame = { type: "history", channel: this.name };
    if (before !== undefined) frame.before = before;
    if (after !== undefined) frame.after = after;
    if (limit !== undefined) frame.limit = limit;
    return this.#line.ask(frame, signal);
  }

  /**
   * Sends what is worth nothing later: never stored, at most once, and not at all while there is no connection.
   *
   * @param {string} event
   * @param {any} [data]
   * @returns {boolean} Whether it was sent.
   */
  signal(event, data = null) {
    if (!this.#line.isUp()) return false;
    this.#line.send({ type: "signal", channel: this.name, event, data });
    return true;
  }

  /**
   * Puts a state of the application and the stream together without a loss or a double. The position is taken first and
   * messages are held back; `loader` gets the position and loads the state; the messages after the position follow.
   * Called again after each discontinuity, and again with backoff when it fails.
   *
   * A state is loaded a moment after the position was taken, so it may hold messages that follow. When it says how far
   * it stands, `loader` returns that, a serial or {epoch, serial}, and those are left out.
   *
   * @param {StateLoader} loader
   * @returns {Promise<void>} Resolves when the state is loaded the first time.
   */
  loadState(loader) {
    return this.#attachment.loadState(loader);
  }

  /** The line is up. @internal */
  lineUp() {
    this.#attachment.lineUp();
  }

  /** The line is lost. @internal */
  lineDown() {
    this.presence.forget();
    this.#attachment.lineDown();
  }

  /** The client was closed. @internal @param {SeriatimError} error */
  closed(error) {
    for (const { reject } of this.#attaches.splice(0)) reject(error);
    this.presence.detached(error);
    this.#attachment.closed(error);
    for (const reader of [...this.#readers]) reader.end();
  }

  /** @internal */
  takeAck() {
    return this.#attachment.takeAck();
  }

  /** @internal */
  get isCatchingUp() {
    return this.#attachment.isCatchingUp;
  }

  /** @internal */
  get isAsking() {
    return this.#attachment.isAsking;
  }

  /** @internal */
  get isWanted() {
    return this.#attachment.isWanted;
  }

  /** @internal @param {OutboxEntry} entry */
  drawOutbox(entry) {
    this.#emitter.emit("outbox", entry);
  }

  /**
   * A frame of this channel that answers nothing.
   *
   * @internal
   * @param {import("./frames.js").ServerFrame} frame
   * @param {number} size
   */
  receive(frame, size) {
    if (frame.type === "signal") this.#emitter.emit("signal", frame);
    else if (frame.type === "presence") this.#presence(frame);
    else if (frame.type === "error") this.#emitter.emit("error", SeriatimError.fromFrame(frame, this.name));
    else this.#attachment.receive(frame, size);
  }

  /** @param {PresenceFrame} frame */
  #presence(frame) {
    const outcome = this.presence.apply(frame);
    if (outcome === "gap") this.#attachment.resync();
    if (outcome === "changed") this.#emitter.emit("presence", frame);
  }

  /** @param {AttachedFrame} frame */
  #attached(frame) {
    this.#lastAttached = frame;
    for (const { resolve } of this.#attaches.splice(0)) resolve(frame);
    if (frame.ref !== undefined) this.presence.attached();
    this.#emitter.emit("attached", frame);
  }

  /** @param {string} reason @param {SeriatimError | null} error */
  #detached(reason, error) {
    this.#lastAttached = null;
    const why = error ?? new SeriatimError("detached", `the channel was detached: ${reason}`, { channel: this.name });
    this.presence.detached(why);
    for (const { reject } of this.#attaches.splice(0)) reject(why);
    for (const reader of [...this.#readers]) reader.end(reason === "asked" ? null : why);
    this.#emitter.emit("detached", { reason, error });
  }

  /** @param {Discontinuity} discontinuity */
  async #discontinuity(discontinuity) {
    const { from, to, reason } = discontinuity;
    this.#line.received(0, from !== null && to !== null ? to - from + 1 : 0);
    this.#emitter.emit("discontinuity", discontinuity);
    try {
      await this.onDiscontinuity?.(from, to, reason);
    } catch (error) {
      report(error);
    }
  }

  /**
   * Gives a message to every listener and every loop.
   *
   * @param {MessageFrame} message
   * @returns {Promise<boolean> | boolean} Whether anybody processed it. A listener that throws has had its chance: the
   *   message counts as processed, and the error is emitted.
   */
  #deliver(message) {
    if (!message.snapshot) this.#line.received(1, 0);
    let processed = false;
    /** @type {Promise<boolean>[]} */
    const waits = [];
    for (const listener of this.#emitter.listeners("message")) {
      processed = true;
      try {
        const result = /** @type {any} */ (listener(message));
        if (typeof result?.then === "function") {
          waits.push(
            Promise.resolve(result).then(
              () => true,
              (cause) => this.#failed(cause),
            ),
          );
        }
      } catch (cause) {
        this.#failed(cause);
      }
    }
    for (const reader of this.#readers) waits.push(reader.offer(message));
    if (waits.length === 0) return processed;
    return Promise.all(waits).then((outcomes) => processed || outcomes.includes(true));
  }

  /** @param {unknown} cause */
  #failed(cause) {
    if (this.#emitter.hasListeners("error")) {
      this.#emitter.emit("error", new SeriatimError("listener", undefined, { channel: this.name, cause }));
    } else report(cause);
    return true;
  }
}
